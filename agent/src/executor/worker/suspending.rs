//! What a process asks for when its attempt ends to wait for subtasks.
//!
//! The coordinators decide about what is asked for. The agent refuses what no coordinator would read: a completion that
//! does not fit in a message would break the session, and be sent again in the next one.

use std::time::Duration;

use prost::Message;
use robeing_fleet::limits::{MAX_INPUT_BYTES, MAX_SUBTASK_DEPENDENCIES, MAX_SUBTASKS_AT_ONCE};
use robeing_proto::worker::v1 as proto;

use crate::executor::{Failure, FailureKind, Outcome, Subtask};

/// Most bytes of what a process asks for, as its message: the inputs of all subtasks and what is carried over, and as
/// much of everything else.
pub const MAX_SUSPEND_BYTES: usize = 2 * MAX_INPUT_BYTES;

/// Returns what is too much of it, as the end of a sentence; `None` if nothing is.
fn excess(asked: &proto::Suspend) -> Option<String> {
    let count = asked.subtasks.len();
    if count > MAX_SUBTASKS_AT_ONCE {
        return Some(format!(
            "asked for {count} subtasks, the limit is {MAX_SUBTASKS_AT_ONCE}; ask for them in several rounds"
        ));
    }
    let dependencies: usize = asked.subtasks.iter().map(|subtask| subtask.depends_on.len()).sum();
    if dependencies > MAX_SUBTASK_DEPENDENCIES {
        return Some(format!(
            "asked for subtasks that depend on {dependencies} tasks in all, the limit is {MAX_SUBTASK_DEPENDENCIES}; ask for \
             them in several rounds"
        ));
    }
    let bytes = asked.encoded_len();
    let problem = || {
        format!(
            "asked for subtasks with {bytes} bytes, the limit is {MAX_SUSPEND_BYTES}; store inputs elsewhere and pass \
                 references"
        )
    };
    (bytes > MAX_SUSPEND_BYTES).then(problem)
}

/// Returns how an attempt ends whose process asks for subtasks.
pub(super) fn suspended(process: &str, asked: proto::Suspend) -> Outcome {
    match excess(&asked) {
        Some(problem) => Outcome::Failed(Failure::new(FailureKind::Reported, false, format!("{process} {problem}"))),
        None => {
            Outcome::Suspended { subtasks: asked.subtasks.into_iter().map(subtask).collect(), carried: asked.carried }
        }
    }
}

/// Returns a subtask that a process asks for.
fn subtask(asked: proto::Subtask) -> Subtask {
    let span = |millis: u64| (millis > 0).then(|| Duration::from_millis(millis));
    Subtask {
        kind: asked.kind,
        input: asked.input,
        priority: asked.priority,
        deadline: span(asked.deadline_in_ms),
        delay: span(asked.delay_ms),
        time_limit: span(asked.time_limit_ms),
        max_attempts: asked.max_attempts,
        required_specialization: asked.required_specialization,
        depends_on: asked.depends_on,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_may_ask_for_as_much_as_a_coordinator_reads_and_for_no_more() {
        let subtasks = |count, depends_on| {
            let depends_on = vec![String::new(); depends_on];
            proto::Suspend {
                subtasks: vec![proto::Subtask { depends_on, ..proto::Subtask::default() }; count],
                ..proto::Suspend::default()
            }
        };
        let each = MAX_SUBTASK_DEPENDENCIES / MAX_SUBTASKS_AT_ONCE;
        let carried = |bytes: usize| proto::Suspend { carried: vec![0; bytes].into(), ..proto::Suspend::default() };
        // As many bytes before the content as there are for any content of nearly that size.
        let overhead = carried(MAX_SUSPEND_BYTES - 8).encoded_len() - (MAX_SUSPEND_BYTES - 8);
        let most = [subtasks(MAX_SUBTASKS_AT_ONCE, each), carried(MAX_SUSPEND_BYTES - overhead)];
        for asked in most {
            assert_eq!(excess(&asked), None);
        }
        let beyond = [
            subtasks(MAX_SUBTASKS_AT_ONCE + 1, 0),
            subtasks(1, MAX_SUBTASK_DEPENDENCIES + 1),
            carried(MAX_SUSPEND_BYTES - overhead + 1),
        ];
        for asked in beyond {
            let Outcome::Failed(failure) = suspended("mine", asked) else { panic!("it is too much") };
            assert!(!failure.retryable && failure.message.starts_with("mine asked for "), "{}", failure.message);
        }
    }
}
