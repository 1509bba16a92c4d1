//! Invariants of schedules.

use std::collections::BTreeSet;

use super::{
    Schedule, ScheduleTotals,
    command::{check_next, check_schedule_name},
};
use crate::{
    Feature, TaskId,
    audit::{COUNTER_ROOM, Check, ensure},
    fleet::State,
    limits::{MAX_ACTIVE_RUNS, MAX_KEPT_RUNS, MAX_PROBLEM_BYTES, MAX_SCHEDULES},
};

/// Checks each schedule, that no two have one name, and that the runs that are not finished have tasks that are not.
pub(crate) fn check_schedules(state: &State) -> Check {
    let schedules = &state.schedules.kept;
    let before = state.version < Feature::Schedules.since();
    ensure(!before || state.schedules == Default::default(), || "schedules before their version".to_owned())?;
    let scheduled = state.tasks.kept.values().find(|task| before && task.scheduled.is_some());
    ensure(scheduled.is_none(), || "a task of a schedule before its version".to_owned())?;
    schedules.check(MAX_SCHEDULES)?;
    let unfinished: BTreeSet<TaskId> = match schedules.len() {
        0 => BTreeSet::new(),
        _ => state.tasks.kept.values().filter(|task| !task.state.is_final()).map(|task| task.id).collect(),
    };
    let (mut names, mut running) = (BTreeSet::new(), BTreeSet::new());
    for schedule in schedules.iter() {
        let mut active = schedule.runs.iter().filter(|run| run.end.is_none());
        let is_running = active.all(|run| unfinished.contains(&run.task) && running.insert(run.task));
        let is_alone = names.insert(&schedule.name);
        ensure(is_sound(schedule, state) && is_running && is_alone, || format!("schedule {}", schedule.name))?;
    }
    Ok(())
}

impl ScheduleTotals {
    fn is_sound(&self) -> bool {
        let Self { started, succeeded, unsuccessful, missed, busy, refused } = *self;
        let counts = [started, succeeded, unsuccessful, missed, busy, refused];
        counts.into_iter().all(|count| count < COUNTER_ROOM) && succeeded + unsuccessful <= started
    }
}

fn is_sound(schedule: &Schedule, state: &State) -> bool {
    let now = state.now.fleet;
    let runs = &schedule.runs;
    let active = runs.iter().filter(|run| run.end.is_none()).count();
    let moments = runs.iter().map(|run| run.started).chain(runs.iter().filter_map(|run| Some(run.end?.at)));
    let are_past = moments.chain([schedule.created_at, schedule.changed_at]).all(|at| at.fleet <= now);
    check_schedule_name(&schedule.name).is_ok()
        && schedule.spec.check().is_ok()
        && schedule.set_by.check().is_ok()
        && check_next(schedule.next).is_ok()
        && (1..COUNTER_ROOM).contains(&schedule.generation)
        && (!schedule.spec.suspended || schedule.next.is_none())
        && schedule.next.is_none_or(|next| next > schedule.decided)
        && active <= MAX_ACTIVE_RUNS
        && runs.len() - active <= MAX_KEPT_RUNS
        && runs.iter().filter_map(|run| run.end).all(|end| end.state.is_final())
        && are_past
        && schedule.problem.as_ref().is_none_or(|problem| problem.reason.len() <= MAX_PROBLEM_BYTES)
        && schedule.totals.is_sound()
        // Those that are not finished will be counted.
        && schedule.totals.succeeded + schedule.totals.unsuccessful + active as u64 == schedule.totals.started
}
