//! Answers to submissions: their sizes, and refusals.

use robeing_fleet::Refusal;
use robeing_proto::v1;

use super::fields::BadField;
use crate::api::errors;

/// Maximum size of the fixed parts of an answer, a failure or an attempt, bytes.
const ANSWER_BYTES: usize = 256;

/// Returns an upper bound of the size of an answer in a message, bytes. It is computed for every answer, and costs less
/// than the exact size.
pub fn answer_size(answer: &v1::streamed_answer::Answer) -> usize {
    use v1::streamed_answer::Answer;
    let refusal = |refusal: &v1::Refusal| refusal.code.len() + refusal.message.len();
    match answer {
        Answer::Submitted(result) => ANSWER_BYTES + result.task_id.len() + result.refusal.as_ref().map_or(0, refusal),
        Answer::Finished(task) => result_size(task),
        Answer::Expired(id) => ANSWER_BYTES + id.len(),
    }
}

/// Same as [`answer_size`], for a result.
pub fn result_size(task: &v1::Task) -> usize {
    let failure = |failure: &Option<v1::Failure>| {
        let texts = |of: &v1::Failure| of.message.len() + of.stderr_tail.len() + of.name.len();
        failure.as_ref().map_or(0, |failure| texts(failure) + ANSWER_BYTES / 4)
    };
    let named = |of: &v1::FailureMatch| of.name.len() + ANSWER_BYTES / 8;
    let attempt = |attempt: &v1::Attempt| attempt.agent.len() + failure(&attempt.failure) + ANSWER_BYTES;
    let texts = [&task.id, &task.kind, &task.submitter, &task.required_specialization];
    let more = [&task.idempotency_key, &task.cancel_reason, &task.waiting_for, &task.team, &task.queue];
    let lane = [&task.limit_key, &task.submitted_by];
    let pointer = task.verify.as_ref().and_then(|verify| verify.pointer.as_ref());
    let compare = task.verify.as_ref().map(|verify| &verify.compare);
    let compared = task.comparisons.iter().map(|compared| compared.agent.len() + ANSWER_BYTES / 4);
    let ballot = task.approval.as_ref().map(|approval| &approval.ballot);
    ANSWER_BYTES
        + texts
            .into_iter()
            .chain(more)
            .chain(lane)
            .chain(pointer)
            .chain(compare)
            .chain(ballot)
            .map(String::len)
            .sum::<usize>()
        + task.input.len()
        + task.output.len()
        + [&task.input_ref, &task.output_ref].into_iter().flatten().count() * (ANSWER_BYTES / 4)
        + task.resources.map_or(0, |_| ANSWER_BYTES / 4)
        + task.queue_until.or(task.retried_at).map_or(ANSWER_BYTES / 8, |_| ANSWER_BYTES / 4)
        + task.non_retryable.iter().map(named).sum::<usize>()
        + links_size(task)
        + task.scheduled_for.map_or(0, |_| task.schedule.len() + ANSWER_BYTES / 4)
        + failure(&task.failure)
        + task.attempts.iter().map(attempt).sum::<usize>()
        + compared.sum::<usize>()
}

/// Returns an upper bound of the size of a task's links, bytes.
fn links_size(task: &v1::Task) -> usize {
    let part = task.part_of.as_ref().map_or(0, |of| of.task.len() + ANSWER_BYTES / 8);
    let subtasks = task.subtasks.as_ref().map_or(0, |_| ANSWER_BYTES / 2);
    let dependencies = task.depends_on.iter().map(|of| of.task.len() + ANSWER_BYTES / 16);
    part + subtasks + dependencies.sum::<usize>()
}

/// Converts a refusal to its API form.
pub fn refusal(refusal: &Refusal) -> v1::Refusal {
    v1::Refusal { code: errors::code_name(refusal).to_owned(), message: refusal.to_string() }
}

/// Returns the API refusal for a lack of room.
pub fn exhausted(error: &impl ToString) -> v1::Refusal {
    v1::Refusal { code: "RESOURCE_EXHAUSTED".to_owned(), message: error.to_string() }
}

/// Returns the API refusal for an invalid field.
pub fn bad_field(error: &BadField) -> v1::Refusal {
    v1::Refusal { code: "INVALID_ARGUMENT".to_owned(), message: error.to_string() }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use prost::Message;
    use robeing_fleet::{Outcome, TaskId};
    use robeing_proto::v1::streamed_answer::Answer;

    use super::*;
    use crate::{
        api::convert::{Parts, task},
        fixture::{fleet_with_ended, wordy_failure},
    };

    #[test]
    fn an_answer_is_never_taken_for_smaller_than_it_is() {
        let parts = Parts { input: true, output: true, attempts: true };
        let ended =
            [Outcome::Succeeded(Bytes::new()), Outcome::Succeeded(vec![1; 1024 * 1024].into()), wordy_failure()];
        let finished = ended.map(|outcome| {
            let fleet = fleet_with_ended(1, &outcome);
            Answer::Finished(task(fleet.task(TaskId(1)).expect("it ended"), parts, fleet.now()))
        });
        let refusal = Some(v1::Refusal { code: "RESOURCE_EXHAUSTED".into(), message: "m".repeat(500) });
        let (task_id, retry_after_ms) = (TaskId(u128::MAX).to_string(), u64::MAX);
        let submitted = v1::SubmitResult { task_id, existing: true, refusal, retry_after_ms };
        for answer in finished.into_iter().chain([Answer::Submitted(submitted)]) {
            let assumed = answer_size(&answer);
            let answer = v1::StreamedAnswer { tag: u64::MAX, answer: Some(answer) };
            // Including the key and the length prefix of its field in the message.
            let exact = answer.encoded_len() + 6;
            assert!(assumed >= exact && assumed <= exact + 1024, "{assumed} bytes assumed for {exact}");
        }
    }
}
