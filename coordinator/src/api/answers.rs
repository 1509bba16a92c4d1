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
            let result = v1::SubmitResult { task_id: task.to_string(), existing, ..v1::SubmitResult::default() };
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
    v1::SubmitResult { task_id: asked.to_string(), refusal: Some(refusal), ..v1::SubmitResult::default() }
}

/// The parts of a finished task that are sent.
const FINISHED: Parts = Parts { input: false, output: true, attempts: true };

/// Converts an answer to its API form. The outcome of a submission is taken out of its letter.
pub fn answer(letter: &mut Letter) -> Answer {
    match letter {
        Letter::Submitted(result) => Answer::Submitted(std::mem::take(&mut **result)),
        Letter::Finished(task, now) => Answer::Finished(convert::task(task, FINISHED, *now)),
        Letter::Ended(id) | Letter::Expired(id) => Answer::Expired(id.to_string()),
    }
}

/// Returns a letter as it was before its answer was made, which is not sent.
pub fn unanswered(letter: Letter, answer: Option<v1::StreamedAnswer>) -> Letter {
    match answer.and_then(|of| of.answer) {
        Some(Answer::Submitted(result)) => result.into(),
        _ => letter,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_whose_answer_is_not_sent_is_as_before() {
        let refusal = Some(v1::Refusal { code: "NOT_FOUND".to_owned(), message: "m".to_owned() });
        let result = v1::SubmitResult { task_id: "t".to_owned(), refusal, ..v1::SubmitResult::default() };
        let mut letter = Letter::from(result.clone());
        let sent = answer(&mut letter);
        assert_eq!(sent, Answer::Submitted(result.clone()));
        match unanswered(letter, Some(v1::StreamedAnswer { tag: 1, answer: Some(sent) })) {
            Letter::Submitted(again) => assert_eq!(*again, result),
            other => panic!("{other:?}"),
        }
        let mut ended = Letter::Expired(TaskId(7));
        let streamed = v1::StreamedAnswer { tag: 1, answer: Some(answer(&mut ended)) };
        assert!(matches!(unanswered(ended, Some(streamed)), Letter::Expired(TaskId(7))));
    }
}
