//! The answers to submissions.

use robeing_fleet::{Reply, TaskId};
use robeing_proto::v1::{self, streamed_answer::Answer};

use crate::{
    api::{
        convert::{self, Parts},
        errors,
    },
    apply::result_stream::Letter,
};

/// A reply, or why the task was not accepted.
pub type Outcome = Result<Reply, v1::Refusal>;

/// Returns the answer to a submission, and the task's id if it was accepted.
pub fn result(asked: TaskId, outcome: Outcome) -> (Option<TaskId>, v1::SubmitResult) {
    match outcome {
        Ok(Reply::Submitted { task, existing }) => {
            let result = v1::SubmitResult { task_id: convert::id_text(task), existing, ..v1::SubmitResult::default() };
            (Some(task), result)
        }
        Ok(Reply::Refused(refusal)) => {
            let retry_after_ms = refusal.retry_after_ms().unwrap_or(0);
            (None, v1::SubmitResult { retry_after_ms, ..refused(asked, convert::refusal(&refusal)) })
        }
        Err(refusal) => (None, refused(asked, refusal)),
        Ok(other) => (None, refused(asked, errors::unexpected(&other))),
    }
}

fn refused(asked: TaskId, refusal: v1::Refusal) -> v1::SubmitResult {
    v1::SubmitResult { task_id: convert::id_text(asked), refusal: Some(refusal), ..v1::SubmitResult::default() }
}

/// The parts of a finished task that are sent.
const FINISHED: Parts = Parts { input: false, output: true, attempts: true };

/// Converts an answer to its API form.
pub fn answer(letter: &Letter) -> Answer {
    match letter {
        Letter::Submitted(result) => Answer::Submitted((**result).clone()),
        Letter::Finished(task, now) => Answer::Finished(convert::task(task, FINISHED, *now)),
        Letter::Ended(id) | Letter::Expired(id) => Answer::Expired(convert::id_text(*id)),
    }
}
