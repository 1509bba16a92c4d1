//! Results as clients are told them: a task that is finished never changes, and its result is that of its last attempt.

use robeing_proto::v1::{self, TaskState};

use crate::record::{Accepted, Record};

fn final_state(task: &v1::Task) -> bool {
    !matches!(task.state(), TaskState::Unspecified | TaskState::Queued | TaskState::Assigned)
}

/// Everything of a finished task that must never change.
fn ending(task: &v1::Task) -> String {
    format!(
        "{:?} {:?} {:?} {:?} attempt {} at {:?}",
        task.state(),
        task.output,
        task.failure,
        task.cancel_reason,
        task.attempt,
        task.finished_at
    )
}

/// What is wrong with a finished task's result.
fn wrong(task: &v1::Task, accepted: &Accepted) -> Option<String> {
    match task.state() {
        TaskState::Succeeded => {
            let last = task.attempts.last()?;
            let expected = format!("{} {} {}", task.id, last.number, last.agent);
            let current = last.number == task.attempt && task.output == expected.as_bytes();
            (!current).then(|| format!("its output {:?} is not that of its last attempt: {last:?}", task.output))
        }
        TaskState::Cancelled if !accepted.cancelled => Some("it is cancelled, and nobody asked for it".to_owned()),
        _ => None,
    }
}

/// Compares a task with what is known of it, and notes how it ended: whether it is finished.
pub fn note(record: &Record, task: &v1::Task) -> bool {
    if !final_state(task) {
        return false;
    }
    let known = record.notes().accepted.get(&task.id).cloned().unwrap_or_default();
    if let Some(problem) = wrong(task, &known) {
        record.violation(format!("task {}: {problem}", task.id));
    }
    let ended = ending(task);
    match known.ended {
        Some(before) if before != ended => {
            record.violation(format!("task {} was finished and changed: {before}, now {ended}", task.id));
        }
        Some(_) => {}
        None => {
            if let Some(accepted) = record.notes().accepted.get_mut(&task.id) {
                accepted.ended = Some(ended);
            }
        }
    }
    true
}
