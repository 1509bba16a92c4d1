//! Runs of schedules start: when they are due, or by hand.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    Concurrency, RunEnd, Schedule, ScheduleProblem, ScheduleRun, ScheduledFor,
    command::{FireSchedule, check_next, check_schedule_name},
    setting::moved,
};
use crate::{
    Effect, Fleet, Refusal, Reply, SubmitTask, TaskId, TaskState, UnixMillis,
    config::invalid,
    limits::{MAX_ACTIVE_RUNS, MAX_COUNTED_MISSED, MAX_PROBLEM_BYTES},
    sabotage::{Mistake, planted},
    steps::Jobs,
    tasks::{attempts::cut, members::derived},
};

/// What the ids of runs are derived from, besides the schedule's number and the moment: so that they are not those that
/// are derived from ids of tasks.
const RUNS: u128 = 0x7363_6865_6475_6c65 << 64;

/// Why a run has not started.
enum NotStarted {
    /// An earlier run, or as many as there may be, are not finished.
    Busy(TaskId),
    /// There is no room for the task now.
    NoRoom(Refusal),
    /// The task is refused whatever room there is.
    Refused(Refusal),
}

/// What has become of a moment.
enum Decided {
    Started(TaskId),
    Busy(TaskId),
    Refused(String),
    Missed,
}

impl NotStarted {
    fn of(refusal: Refusal) -> Self {
        if refusal.is_for_want_of_room() { Self::NoRoom(refusal) } else { Self::Refused(refusal) }
    }
}

/// Refuses a firing that contradicts itself, counts too much, or is early.
fn check_firing(fire: &FireSchedule, now: UnixMillis) -> Result<(), Refusal> {
    check_next(fire.next)?;
    let newest = fire.run_at.unwrap_or(fire.due);
    if newest < fire.due || newest > now {
        return Err(invalid("run_at", format!("is {newest}, must be {} to {now}, the fleet's wall time", fire.due)));
    }
    if fire.missed > MAX_COUNTED_MISSED {
        return Err(invalid("missed", format!("is {}, must be at most {MAX_COUNTED_MISSED}", fire.missed)));
    }
    match fire.next {
        Some(next) if next <= newest => Err(invalid("next", format!("is {next}, must be later than {newest}"))),
        _ => Ok(()),
    }
}

impl Fleet {
    /// Decides about a moment at which a schedule is due, if it is the one that is stored. If there is no room for the
    /// task of its run, nothing changes, and the leader may try again.
    pub(super) fn fire_schedule(&mut self, fire: FireSchedule, jobs: &mut Jobs, effects: &mut Vec<Effect>) -> Reply {
        let Some(schedule) = self.state.schedules.kept.get(fire.schedule).cloned() else { return moved(fire.schedule) };
        let is_stored = schedule.next == Some(fire.due) || planted(Mistake::FiringRepeated);
        if schedule.generation != fire.generation || !is_stored {
            return moved(fire.schedule);
        }
        if let Err(refusal) = check_firing(&fire, self.state.now.wall) {
            return Reply::Refused(refusal);
        }
        let FireSchedule { due, run_at, next, missed, input, problem, .. } = fire;
        let decided = match (run_at, problem.clone()) {
            (None, _) => Decided::Missed,
            (Some(_), Some(problem)) => Decided::Refused(problem),
            (Some(at), None) => {
                let id = self.free_run_id(&schedule, at);
                match self.start_run(&schedule, (id, at), input, jobs, effects) {
                    Ok(task) => Decided::Started(task),
                    Err(NotStarted::NoRoom(refusal)) => return Reply::Refused(refusal),
                    Err(NotStarted::Refused(refusal)) => Decided::Refused(refusal.to_string()),
                    Err(NotStarted::Busy(task)) => Decided::Busy(task),
                }
            }
        };
        let (newest, now) = (run_at.unwrap_or(due), self.state.now);
        let task = if let Decided::Started(task) = decided { Some(task) } else { None };
        let missed = missed.saturating_add(u64::from(run_at.is_none() && missed == 0));
        self.change_schedule(schedule.seq, |schedule| {
            schedule.next = next;
            schedule.decided = schedule.decided.max(newest);
            let totals = &mut schedule.totals;
            totals.missed = totals.missed.saturating_add(missed);
            let reason = match decided {
                Decided::Started(task) => {
                    schedule.begin_run(ScheduleRun { due: newest, task, started: now, end: None, by_hand: false });
                    problem
                }
                Decided::Busy(task) => {
                    totals.busy = totals.busy.saturating_add(1);
                    Some(format!("task {task} of an earlier run was not finished"))
                }
                Decided::Refused(why) => {
                    totals.refused = totals.refused.saturating_add(1);
                    Some(why)
                }
                Decided::Missed => problem,
            };
            if let Some(mut reason) = reason {
                cut(&mut reason, MAX_PROBLEM_BYTES, false);
                schedule.problem = Some(ScheduleProblem { due: newest, reason });
            }
        });
        effects.push(Effect::SchedulesChanged);
        Reply::ScheduleFired { task, existing: false }
    }

    /// Starts a run of a schedule now.
    pub(super) fn run_schedule(
        &mut self,
        name: &str,
        id: TaskId,
        input: Option<Bytes>,
        jobs: &mut Jobs,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        if let Err(refusal) = check_schedule_name(name) {
            return Reply::Refused(refusal);
        }
        let Some(schedule) = self.schedule(name).cloned() else {
            return Reply::Refused(Refusal::UnknownSchedule { name: name.to_owned() });
        };
        if schedule.runs.iter().any(|run| run.task == id) {
            return Reply::ScheduleFired { task: Some(id), existing: true };
        }
        if self.state_of(id).is_some() {
            return Reply::Refused(Refusal::Conflict { what: "the id".to_owned(), task: id });
        }
        let now = self.state.now;
        match self.start_run(&schedule, (id, now.wall), input, jobs, effects) {
            Ok(task) => {
                let run = ScheduleRun { due: now.wall, task, started: now, end: None, by_hand: true };
                self.change_schedule(schedule.seq, |schedule| schedule.begin_run(run));
                Reply::ScheduleFired { task: Some(task), existing: false }
            }
            Err(NotStarted::Busy(task)) => Reply::Refused(Refusal::ScheduleBusy { name: name.to_owned(), task }),
            Err(NotStarted::NoRoom(refusal) | NotStarted::Refused(refusal)) => Reply::Refused(refusal),
        }
    }

    /// Returns the id of the run of a moment: it follows from the schedule and the moment. That a task has it already is a
    /// chance in 2^122, or somebody has submitted one on purpose; then the run has another one.
    fn free_run_id(&self, schedule: &Schedule, due: UnixMillis) -> TaskId {
        let mut id = TaskId(derived(RUNS | u128::from(schedule.seq), due));
        while self.state_of(id).is_some() {
            id = TaskId(derived(id.0, due));
        }
        id
    }

    /// Submits the task of a run that is due at this moment, if the runs that are not finished let it.
    fn start_run(
        &mut self,
        schedule: &Arc<Schedule>,
        (id, due): (TaskId, UnixMillis),
        input: Option<Bytes>,
        jobs: &mut Jobs,
        effects: &mut Vec<Effect>,
    ) -> Result<TaskId, NotStarted> {
        let active = self.active_runs(schedule);
        let concurrency = schedule.spec.concurrency;
        match active.first() {
            Some(first) if concurrency == Concurrency::Forbid => return Err(NotStarted::Busy(*first)),
            Some(first) if concurrency == Concurrency::Allow && active.len() >= MAX_ACTIVE_RUNS => {
                return Err(NotStarted::Busy(*first));
            }
            _ => {}
        }
        let mut task = SubmitTask { id, ..schedule.spec.task.clone() };
        // That of the schedule is the same whoever sets it, and whenever.
        task.draw_jitter(|| id.0 as u64);
        if let Some(input) = input {
            task.input = input;
        }
        if let Some(refusal) = self.refusal_of(&task) {
            return Err(NotStarted::of(refusal));
        }
        if concurrency == Concurrency::Replace {
            for earlier in active {
                self.cancel(earlier, format!("replaced by the next run of schedule {}", schedule.name), effects);
            }
        }
        match self.submit(task, jobs, effects) {
            Reply::Submitted { task, .. } => {
                self.mark_run(task, schedule, due);
                Ok(task)
            }
            Reply::Refused(refusal) => Err(NotStarted::of(refusal)),
            // Submissions have no other replies.
            other => Err(NotStarted::Refused(invalid("task", format!("was answered with {other:?}")))),
        }
    }

    /// Notes with a task which schedule it is a run of.
    fn mark_run(&mut self, task: TaskId, schedule: &Schedule, due: UnixMillis) {
        let Some(seq) = self.indexes.tasks.ids.get(&task).copied() else { return };
        let scheduled = ScheduledFor { schedule: schedule.name.clone(), due };
        self.change_task(seq, |task| task.scheduled = Some(Box::new(scheduled)));
    }

    /// Notes that a task has ended, if it is that of a run.
    pub(crate) fn run_ended(&mut self, task: TaskId, state: TaskState) {
        let Some(seq) = self.indexes.schedules.running.get(&task).copied() else { return };
        let at = self.state.now;
        self.change_schedule(seq, |schedule| schedule.end_run(task, RunEnd { state, at }));
    }
}

impl Schedule {
    fn begin_run(&mut self, run: ScheduleRun) {
        self.totals.started = self.totals.started.saturating_add(1);
        self.runs.push(run);
        self.forget_old_runs();
    }

    fn end_run(&mut self, task: TaskId, end: RunEnd) {
        let Some(run) = self.runs.iter_mut().find(|run| run.task == task && run.end.is_none()) else { return };
        run.end = Some(end);
        let (due, totals) = (run.due, &mut self.totals);
        if end.state == TaskState::Succeeded {
            totals.succeeded = totals.succeeded.saturating_add(1);
            self.last_success = self.last_success.max(Some(due));
        } else {
            totals.unsuccessful = totals.unsuccessful.saturating_add(1);
        }
        self.forget_old_runs();
    }
}
