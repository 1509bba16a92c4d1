//! Checks results as clients read them: a finished task never changes unless it is tried again as a dead letter, and
//! its result is that of its last attempt.

use robeing_proto::v1::{self, TaskState};

use crate::{
    checks::Check,
    executor::signature,
    record::{Accepted, Record},
};

/// Returns whether the state of a task is final.
pub fn is_final(task: &v1::Task) -> bool {
    !matches!(task.state(), TaskState::Unspecified | TaskState::Queued | TaskState::Assigned)
}

/// Returns everything about a finished task that must never change.
fn ending(task: &v1::Task) -> String {
    let output = String::from_utf8_lossy(&task.output[..task.output.len().min(100)]).into_owned();
    format!(
        "{:?} {} bytes {output:?} {:?} {:?} attempt {} at {:?}",
        task.state(),
        task.output.len(),
        task.failure,
        task.cancel_reason,
        task.attempt,
        task.finished_at
    )
}

/// Returns what is wrong with a finished task's result. `may_end`: it may be cancelled with its team, because of other
/// tasks of its graph, or by the next run of its schedule.
fn wrong(task: &v1::Task, accepted: &Accepted, may_end: bool) -> Option<(Check, String)> {
    match task.state() {
        // Its agents sign nothing, or they would not agree.
        TaskState::Succeeded if task.verify.is_some() => None,
        TaskState::Succeeded => {
            let last = task.attempts.last()?;
            let expected = signature(&task.id, last.number, &last.agent);
            let current = last.number == task.attempt && task.output.starts_with(expected.as_bytes());
            let output = String::from_utf8_lossy(&task.output[..task.output.len().min(100)]);
            let what = format!("its output {output:?} is not that of its last attempt: {last:?}");
            (!current).then_some((Check::Result, what))
        }
        TaskState::Cancelled if !accepted.cancelled && !may_end => {
            Some((Check::Cancel, "it is cancelled, but no client asked for it".to_owned()))
        }
        _ => None,
    }
}

/// Compares a task with the record, and records its end. Returns whether it is finished.
pub fn note(record: &Record, task: &v1::Task) -> bool {
    if !is_final(task) {
        return false;
    }
    let (known, fleeting, may_end) = {
        let notes = record.notes();
        let known = notes.accepted.get(&task.id).cloned().unwrap_or_default();
        let of_others = notes.teams.may_end_task(&task.id) || notes.schedules.may_end_task(&task.id);
        // Why a task of a graph is cancelled is checked with the whole graph.
        let may_end = of_others || notes.graphs.has(task);
        (known, notes.fleeting.contains(&task.id), may_end)
    };
    if let Some((check, problem)) = wrong(task, &known, may_end) {
        record.violation(check, format!("task {}: {problem}", task.id));
    }
    // Its id may belong to another task by now.
    if fleeting {
        return true;
    }
    record.notes().check_life(task);
    let ended = ending(task);
    match known.ended {
        // It was read where it is not known yet that it was tried again.
        Some(_) if task.epoch < known.epoch => {}
        Some(before) if task.epoch == known.epoch && before != ended => {
            record.violation(Check::Final, format!("task {} was finished but changed: {before}, now {ended}", task.id));
        }
        Some(_) if task.epoch == known.epoch => {}
        _ => {
            if let Some(accepted) = record.notes().accepted.get_mut(&task.id) {
                (accepted.ended, accepted.epoch) = (Some(ended), task.epoch);
            }
        }
    }
    true
}
