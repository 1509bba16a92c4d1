//! What is made of the ends of attempts before they are proposed.

use robeing_fleet::{Completion, Failure, FailureKind, Feature, Outcome, TaskId};
use robeing_proto::{
    internal::v1::{self as internal, completion},
    v1,
};

use crate::{archive::Unread, leader::sessions::AttemptKey, read::StateReader};

/// How long a task waits for its next attempt if the result of another one is lost, ms: a disk may be repaired.
const LOST_RETRY_AFTER_MS: u64 = 30_000;

/// Removes the names of failures, which the log can't carry before all coordinators know them.
pub fn without_names(state: &StateReader, results: &mut [Completion]) {
    let is_named = |ended: &Completion| matches!(&ended.outcome, Outcome::Failed(of) if !of.name.is_empty());
    if !results.iter().any(is_named) || state.look(|fleet| fleet.has(Feature::Timing)) {
        return;
    }
    for ended in results {
        if let Outcome::Failed(failure) = &mut ended.outcome {
            failure.name.clear();
        }
    }
}

/// Ends attempts that ask for subtasks before all coordinators know those.
pub fn without_subtasks(state: &StateReader, results: &mut [Completion]) {
    let is_new = |ended: &Completion| ended.outcome.needs_graphs();
    if !results.iter().any(is_new) || state.look(|fleet| fleet.has(Feature::Graphs)) {
        return;
    }
    for ended in results {
        ended.outcome = std::mem::replace(&mut ended.outcome, Outcome::Stopped).before_graphs();
    }
}

/// Fails attempts whose output is in the object store, which the log can't say before all coordinators know it.
pub fn without_refs(state: &StateReader, results: &mut [Completion]) {
    let is_stored = |ended: &Completion| matches!(ended.outcome, Outcome::Stored(_));
    if !results.iter().any(is_stored) || state.look(|fleet| fleet.has(Feature::Blobs)) {
        return;
    }
    for ended in results.iter_mut().filter(|ended| matches!(ended.outcome, Outcome::Stored(_))) {
        let message = "the output is in the object store; the fleet can refer to it once all coordinators are upgraded";
        let failure = Failure::of(FailureKind::OutputTooLarge, message);
        ended.outcome = Outcome::Failed(Failure { retryable: true, ..failure });
    }
}

/// Returns the end of an attempt that its agent can't begin because it has no object store.
pub fn without_store((task, attempt): AttemptKey) -> internal::Completion {
    let failure = v1::Failure {
        kind: v1::FailureKind::Internal.into(),
        message:
            "an input of the task is in the object store, and this agent has none; set --object-store for all agents"
                .to_owned(),
        retryable: true,
        ..v1::Failure::default()
    };
    let outcome = Some(completion::Outcome::Failure(failure));
    internal::Completion { task_id: task.to_string(), attempt, ran_us: 0, outcome }
}

/// Returns the end of an attempt that can't be given the result of this task, because no coordinator can read it any more.
pub fn without_result(((task, attempt), lost): (AttemptKey, TaskId)) -> internal::Completion {
    let failure = v1::Failure {
        kind: v1::FailureKind::Internal.into(),
        message: Unread::Lost(lost).to_string(),
        retryable: true,
        retry_after_ms: LOST_RETRY_AFTER_MS,
        ..v1::Failure::default()
    };
    let outcome = Some(completion::Outcome::Failure(failure));
    internal::Completion { task_id: task.to_string(), attempt, ran_us: 0, outcome }
}

/// Returns the end of an attempt that its agent would have to hand back, and was not sent before.
pub fn handed_back((task, attempt): AttemptKey) -> internal::Completion {
    let outcome = Some(completion::Outcome::HandedBack(internal::HandedBack {}));
    internal::Completion { task_id: task.to_string(), attempt, ran_us: 0, outcome }
}
