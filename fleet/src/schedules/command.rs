//! The commands for schedules, and their bounds.

use bilrost::{Message, Oneof};
use bytes::Bytes;

use super::{ScheduleSpec, Setter};
use crate::{
    Effect, Feature, Fleet, Refusal, Reply, TaskCommand, TaskId, UnixMillis,
    config::{check_duration, check_length, invalid},
    limits::{
        MAX_CRON_BYTES, MAX_MISSED_RUNS, MAX_SCHEDULE_INPUT_BYTES, MAX_SCHEDULE_NAME_BYTES, MAX_SENDER_BYTES,
        MAX_SETTER_RIGHTS, MAX_TIME_MS, MAX_ZONE_BYTES,
    },
    steps::Jobs,
};

/// A command for a schedule. All need [`Feature::Schedules`]. All domains share one range of field numbers; see `codec`.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum ScheduleCommand {
    /// Makes a schedule, or changes the one of its name. Nothing changes if it is the same.
    #[bilrost(140)]
    Set(Box<SetSchedule>),
    /// Removes a schedule. Its runs go on.
    #[bilrost(tag(141), message)]
    Remove {
        /// The schedule's name.
        #[bilrost(1)]
        name: String,
        /// Whether this is done for the fleet's resource; then only a schedule that is a part of it is removed, and
        /// otherwise only one that is not.
        #[bilrost(2)]
        managed: bool,
        /// Who removes it.
        #[bilrost(3)]
        by: String,
    },
    /// Suspends a schedule, or lets it go on. What was due meanwhile is not missed.
    #[bilrost(tag(142), message)]
    Suspend {
        /// The schedule's name.
        #[bilrost(1)]
        name: String,
        /// Whether it is suspended.
        #[bilrost(2)]
        suspended: bool,
        /// When it is due next, if it goes on.
        #[bilrost(3)]
        next: Option<UnixMillis>,
        /// Who does this.
        #[bilrost(4)]
        by: String,
    },
    /// Starts a run of a schedule now, without changing when it is due next.
    #[bilrost(tag(143), message)]
    Run {
        /// The schedule's name.
        #[bilrost(1)]
        name: String,
        /// The id of the task, drawn by the caller: a second run with it is the same run.
        #[bilrost(2)]
        task: TaskId,
        /// The input of the run, if it is not that of the schedule: a policy has redacted it.
        #[bilrost(3)]
        input: Option<Bytes>,
    },
    /// Decides about a moment at which a schedule is due.
    #[bilrost(144)]
    Fire(Box<FireSchedule>),
}

/// A schedule as it is set.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct SetSchedule {
    /// Its name; 1 to [`MAX_SCHEDULE_NAME_BYTES`] lower-case letters, digits and '-'.
    #[bilrost(1)]
    pub name: String,
    /// What it does, and when.
    #[bilrost(2)]
    pub spec: ScheduleSpec,
    /// When it is due next, by its expression and its time zone; `None` if it is never due again. Not used if it is
    /// suspended, or if these have not changed.
    #[bilrost(3)]
    pub next: Option<UnixMillis>,
    /// Whether it is a part of the fleet's resource, and is changed there alone.
    #[bilrost(4)]
    pub managed: bool,
    /// Who sets it.
    #[bilrost(5)]
    pub by: Setter,
}

/// A firing of a schedule, as the leader has computed it.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct FireSchedule {
    /// The schedule's number.
    #[bilrost(1)]
    pub schedule: u64,
    /// The schedule's generation.
    #[bilrost(2)]
    pub generation: u64,
    /// When it is due next, as it is stored.
    #[bilrost(3)]
    pub due: UnixMillis,
    /// The moment, `due` or later, whose run starts; `None` if none does.
    #[bilrost(4)]
    pub run_at: Option<UnixMillis>,
    /// When it is due after what is decided here; `None` if it is never due again.
    #[bilrost(5)]
    pub next: Option<UnixMillis>,
    /// How many runs are missed by this; at most [`MAX_COUNTED_MISSED`](crate::limits::MAX_COUNTED_MISSED).
    #[bilrost(6)]
    pub missed: u64,
    /// The input of the run, if it is not that of the schedule: a policy has redacted it.
    #[bilrost(7)]
    pub input: Option<Bytes>,
    /// Why a policy refuses the run, or why runs were missed; cut to
    /// [`MAX_PROBLEM_BYTES`](crate::limits::MAX_PROBLEM_BYTES).
    #[bilrost(8)]
    pub problem: Option<String>,
}

impl ScheduleSpec {
    /// Refuses what is out of bounds, whatever the fleet's state.
    ///
    /// # Errors
    /// Returns the [`Refusal`] that names the field.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.cron.is_empty() {
            return Err(invalid("cron", "must not be empty"));
        }
        check_length("cron", &self.cron, MAX_CRON_BYTES)?;
        check_length("time_zone", &self.time_zone, MAX_ZONE_BYTES)?;
        check_duration("start_within", self.start_within, 1)?;
        if !(1..=MAX_MISSED_RUNS).contains(&self.missed_limit) {
            let problem = format!("is {}, must be 1 to {MAX_MISSED_RUNS}", self.missed_limit);
            return Err(invalid("missed_limit", problem));
        }
        let task = &self.task;
        task.check()?;
        if task.input.len() > MAX_SCHEDULE_INPUT_BYTES {
            let problem = format!(
                "has {} bytes, the most for a schedule is {MAX_SCHEDULE_INPUT_BYTES}; store it elsewhere and give a reference",
                task.input.len()
            );
            return Err(invalid("task.input", problem));
        }
        let unfit = [
            ("task.id", task.id != TaskId::default(), "each run has its own"),
            ("task.idempotency_key", task.idempotency_key.is_some(), "each run has one of its own"),
            ("task.requires_approval", task.approval.is_some(), "nobody could be asked when a run is due"),
            ("task.depends_on", task.links.is_some(), "it is submitted alone, and again and again"),
            ("task.team_term", task.team_term.is_some(), "the team's leader may be another one when a run is due"),
        ];
        match unfit.into_iter().find(|(_, is_set, _)| *is_set) {
            Some((field, _, why)) => Err(invalid(field, format!("can't be set for a schedule: {why}"))),
            None => Ok(()),
        }
    }
}

/// Refuses what can be the name of no schedule.
pub(super) fn check_schedule_name(name: &str) -> Result<(), Refusal> {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = name.as_bytes();
    let is_right = match (bytes.first(), bytes.last()) {
        (Some(first), Some(last)) => {
            is_inner(*first) && is_inner(*last) && bytes.iter().all(|byte| is_inner(*byte) || *byte == b'-')
        }
        _ => false,
    };
    if is_right && name.len() <= MAX_SCHEDULE_NAME_BYTES {
        return Ok(());
    }
    let problem = format!(
        "must be 1 to {MAX_SCHEDULE_NAME_BYTES} lower-case letters, digits and '-', and begin and end with a letter or digit"
    );
    Err(invalid("name", problem))
}

impl Setter {
    /// Refuses what is out of bounds.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        if self.name.is_empty() {
            return Err(invalid("by", "must not be empty"));
        }
        check_length("by", &self.name, MAX_SENDER_BYTES)?;
        check_length("by.user", &self.user, MAX_SENDER_BYTES)?;
        if self.rights.len() > MAX_SETTER_RIGHTS {
            let problem = format!("has {} entries, the most is {MAX_SETTER_RIGHTS}", self.rights.len());
            return Err(invalid("by.rights", problem));
        }
        self.rights.iter().try_for_each(|right| check_length("by.rights", right, MAX_SCHEDULE_NAME_BYTES))
    }
}

impl SetSchedule {
    /// Refuses what is out of bounds, whatever the fleet's state.
    ///
    /// # Errors
    /// Returns the [`Refusal`] that names the field.
    pub fn check(&self) -> Result<(), Refusal> {
        check_schedule_name(&self.name)?;
        self.by.check()?;
        check_next(self.next)?;
        self.spec.check()
    }
}

/// Refuses a moment that can't be represented.
pub(super) fn check_next(next: Option<UnixMillis>) -> Result<(), Refusal> {
    match next {
        Some(next) if !(1..=MAX_TIME_MS).contains(&next) => {
            Err(invalid("next", format!("is {next}, must be 1 to {MAX_TIME_MS}")))
        }
        _ => Ok(()),
    }
}

impl ScheduleCommand {
    /// Returns the newest feature that the command needs: that of schedules, or a newer one that the task needs.
    pub(crate) fn feature(&self) -> Feature {
        let ScheduleCommand::Set(set) = self else { return Feature::Schedules };
        let needed = TaskCommand::Submit(set.spec.task.clone()).feature();
        needed.filter(|needed| needed.since() > Feature::Schedules.since()).unwrap_or(Feature::Schedules)
    }
}

impl Fleet {
    pub(crate) fn run_schedules(
        &mut self,
        command: ScheduleCommand,
        jobs: &mut Jobs,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        match command {
            ScheduleCommand::Set(set) => self.set_schedule(*set, effects),
            ScheduleCommand::Remove { name, managed, by } => self.remove_schedule(&name, managed, &by, effects),
            ScheduleCommand::Suspend { name, suspended, next, by } => {
                self.suspend_schedule(&name, suspended, next, &by, effects)
            }
            ScheduleCommand::Run { name, task, input } => self.run_schedule(&name, task, input, jobs, effects),
            ScheduleCommand::Fire(fire) => self.fire_schedule(*fire, jobs, effects),
        }
    }
}
