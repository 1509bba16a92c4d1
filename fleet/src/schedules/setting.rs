//! Schedules are set, changed, suspended and removed.

use super::{
    Schedule, ScheduleSpec, ScheduleTotals,
    command::{SetSchedule, check_next, check_schedule_name},
};
use crate::{
    AuditOutcome, Effect, Fleet, Refusal, Reply, UnixMillis,
    audit_log::action,
    config::check_length,
    limits::{MAX_SCHEDULES, MAX_SENDER_BYTES},
};

impl ScheduleSpec {
    /// Returns whether this schedule is due whenever another one is.
    fn is_due_as(&self, other: &ScheduleSpec) -> bool {
        (&self.cron, &self.time_zone, self.suspended) == (&other.cron, &other.time_zone, other.suspended)
    }
}

impl Fleet {
    /// Makes a schedule, or changes the one of its name. It stays due when it is, if its expression and time zone do.
    pub(super) fn set_schedule(&mut self, set: SetSchedule, effects: &mut Vec<Effect>) -> Reply {
        if let Err(refusal) = set.check() {
            return Reply::Refused(refusal);
        }
        match self.schedule(&set.name).map(|known| known.seq) {
            None => self.add_schedule(set, effects),
            Some(seq) => self.alter_schedule(seq, set, effects),
        }
    }

    fn add_schedule(&mut self, set: SetSchedule, effects: &mut Vec<Effect>) -> Reply {
        if self.state.schedules.kept.len() >= MAX_SCHEDULES {
            return Reply::Refused(Refusal::Full {
                what: "schedules".to_owned(),
                limit: MAX_SCHEDULES as u64,
                remedy: "remove one with `robeing schedule remove`".to_owned(),
            });
        }
        let SetSchedule { name, spec, next, managed, by } = set;
        let now = self.state.now;
        let next = next.filter(|_| !spec.suspended);
        let detail = format!("{} {}", spec.cron, spec.time_zone);
        self.record(&by.name, action::SET_SCHEDULE, &name, AuditOutcome::Done, detail);
        self.next_revision();
        let kept = &mut self.state.schedules.kept;
        let added = kept.add(|seq| Schedule {
            seq,
            name,
            spec,
            generation: 1,
            managed,
            set_by: by,
            created_at: now,
            changed_at: now,
            next,
            decided: 0,
            runs: Vec::new(),
            totals: ScheduleTotals::default(),
            problem: None,
            last_success: None,
        });
        self.indexes.schedules.enter(added);
        effects.push(Effect::SchedulesChanged);
        Reply::ScheduleSet { generation: 1, next }
    }

    fn alter_schedule(&mut self, seq: u64, set: SetSchedule, effects: &mut Vec<Effect>) -> Reply {
        let Some(known) = self.state.schedules.kept.get(seq).cloned() else { return moved(seq) };
        if known.managed && !set.managed {
            return Reply::Refused(Refusal::ScheduleManaged { name: set.name });
        }
        if known.spec == set.spec && known.managed == set.managed {
            return Reply::ScheduleSet { generation: known.generation, next: known.next };
        }
        let next = match known.spec.is_due_as(&set.spec) {
            true => known.next,
            false => set.next.filter(|_| !set.spec.suspended),
        };
        if next != known.next && next.is_some_and(|next| next <= known.decided) {
            return moved(seq);
        }
        let now = self.state.now;
        let SetSchedule { name, spec, managed, by, .. } = set;
        let detail = format!("{} {}", spec.cron, spec.time_zone);
        self.record(&by.name, action::SET_SCHEDULE, &name, AuditOutcome::Done, detail);
        self.change_schedule(seq, |schedule| {
            schedule.spec = spec;
            schedule.generation += 1;
            schedule.managed = managed;
            schedule.set_by = by;
            schedule.changed_at = now;
            schedule.next = next;
        });
        effects.push(Effect::SchedulesChanged);
        Reply::ScheduleSet { generation: known.generation + 1, next }
    }

    /// Suspends a schedule, or resumes it.
    pub(super) fn suspend_schedule(
        &mut self,
        name: &str,
        suspended: bool,
        next: Option<UnixMillis>,
        by: &str,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        if let Err(refusal) = self.check_call(name, by).and_then(|()| check_next(next)) {
            return Reply::Refused(refusal);
        }
        let Some(known) = self.schedule(name).cloned() else {
            return Reply::Refused(Refusal::UnknownSchedule { name: name.to_owned() });
        };
        if known.managed {
            return Reply::Refused(Refusal::ScheduleManaged { name: name.to_owned() });
        }
        if known.spec.suspended == suspended {
            return Reply::ScheduleSet { generation: known.generation, next: known.next };
        }
        let next = next.filter(|_| !suspended);
        if next.is_some_and(|next| next <= known.decided) {
            return moved(known.seq);
        }
        let action = if suspended { action::SUSPEND_SCHEDULE } else { action::RESUME_SCHEDULE };
        self.record(by, action, name, AuditOutcome::Done, String::new());
        self.change_schedule(known.seq, |schedule| {
            schedule.spec.suspended = suspended;
            schedule.generation += 1;
            schedule.next = next;
        });
        effects.push(Effect::SchedulesChanged);
        Reply::ScheduleSet { generation: known.generation + 1, next }
    }

    /// Removes a schedule. The tasks of its runs continue.
    pub(super) fn remove_schedule(&mut self, name: &str, managed: bool, by: &str, effects: &mut Vec<Effect>) -> Reply {
        if let Err(refusal) = self.check_call(name, by) {
            return Reply::Refused(refusal);
        }
        let unknown = || Reply::Refused(Refusal::UnknownSchedule { name: name.to_owned() });
        let Some(known) = self.schedule(name).cloned() else { return unknown() };
        match (known.managed, managed) {
            (true, false) => return Reply::Refused(Refusal::ScheduleManaged { name: name.to_owned() }),
            // Somebody has set another one of this name.
            (false, true) => return unknown(),
            _ => {}
        }
        self.record(by, action::REMOVE_SCHEDULE, name, AuditOutcome::Done, String::new());
        self.indexes.schedules.leave(&known);
        self.state.schedules.kept.remove(known.seq, &self.snapshots);
        self.next_revision();
        effects.push(Effect::SchedulesChanged);
        Reply::Done
    }

    fn check_call(&self, name: &str, by: &str) -> Result<(), Refusal> {
        check_schedule_name(name)?;
        check_length("by", by, MAX_SENDER_BYTES)
    }

    /// Changes anything of a schedule but its name, and updates the indexes.
    pub(super) fn change_schedule(&mut self, seq: u64, change: impl FnOnce(&mut Schedule)) {
        let Self { state, indexes, snapshots, .. } = self;
        let Some(known) = state.schedules.kept.get(seq) else { return };
        indexes.schedules.leave(known);
        state.schedules.kept.change(seq, snapshots, change);
        if let Some(changed) = state.schedules.kept.get(seq) {
            indexes.schedules.enter(changed);
        }
        self.next_revision();
    }
}

/// Returns the refusal of what was computed for another state of a schedule.
pub(super) fn moved(schedule: u64) -> Reply {
    Reply::Refused(Refusal::ScheduleMoved { schedule })
}
