//! Results as clients read them in JSON or CBOR. Bytes are shown as text if they are UTF-8, and otherwise in base64, in a
//! field of the same name with the suffix `Base64`.

use prost_types::Timestamp;
use robeing_proto::v1::{self, FailureKind, Join, MessageCode, OnFailure, Role, SubmitResult, Task, TaskState};
use serde::Serialize;

use super::{forms::to_base64, task_form::ROLES};
use crate::executor::rfc3339;

/// What became of one submitted task.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SubmittedView<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    id: &'a str,
    /// An earlier submission had the same id or key.
    #[serde(skip_serializing_if = "Option::is_none")]
    existing: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<RefusalView<'a>>,
    /// When there may be room for the task.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
}

#[derive(Debug, Serialize)]
struct RefusalView<'a> {
    code: &'a str,
    message: &'a str,
}

impl<'a> From<&'a SubmitResult> for SubmittedView<'a> {
    fn from(result: &'a SubmitResult) -> Self {
        match &result.refusal {
            Some(refusal) => {
                let refusal = Some(RefusalView { code: &refusal.code, message: &refusal.message });
                let retry_after_ms = Some(result.retry_after_ms).filter(|after| *after > 0);
                Self { refusal, retry_after_ms, ..Self::default() }
            }
            None => Self { id: &result.task_id, existing: Some(result.existing), ..Self::default() },
        }
    }
}

/// What became of several submitted tasks, in their order.
#[derive(Debug, Serialize)]
pub struct BatchView<'a> {
    tasks: Vec<SubmittedView<'a>>,
}

impl<'a> From<&'a [SubmitResult]> for BatchView<'a> {
    fn from(results: &'a [SubmitResult]) -> Self {
        Self { tasks: results.iter().map(SubmittedView::from).collect() }
    }
}

/// A task.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskView<'a> {
    id: &'a str,
    kind: &'a str,
    state: &'static str,
    priority: u32,
    #[serde(skip_serializing_if = "str::is_empty")]
    submitter: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "str::is_empty")]
    specialization: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    skills: &'a [String],
    /// Set if it is not one.
    #[serde(skip_serializing_if = "Option::is_none")]
    slots: Option<u32>,
    #[serde(skip_serializing_if = "str::is_empty")]
    queue: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    limit_key: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    depends_on: Vec<DependencyView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    part_of: Option<PlaceView<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    subtasks: Option<SubtasksView>,
    /// Set if the task succeeded: one of the two.
    #[serde(skip_serializing_if = "Option::is_none")]
    output: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_base64: Option<String>,
    /// Set instead if the output is in the object store.
    #[serde(skip_serializing_if = "Option::is_none")]
    output_ref: Option<StoredView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<FailureView<'a>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dead: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    cancel_reason: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    skipped: bool,
    /// What a queued task waits for.
    #[serde(skip_serializing_if = "str::is_empty")]
    waiting_for: &'a str,
    /// The agent that has, or last had, the task.
    #[serde(skip_serializing_if = "str::is_empty")]
    agent: &'a str,
    attempts: u32,
    max_attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    submitted_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_before: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_until: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    finished_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    revision: u64,
}

/// An output in the object store.
#[derive(Debug, Serialize)]
struct StoredView {
    sha256: String,
    bytes: u64,
}

/// Why a task failed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct FailureView<'a> {
    kind: String,
    message: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<i32>,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    stderr_tail: &'a str,
    retryable: bool,
}

/// A task that another one depends on.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct DependencyView<'a> {
    task: &'a str,
    on_failure: String,
    /// Set once it has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
}

/// Which part of another task a task is.
#[derive(Debug, Serialize)]
struct PlaceView<'a> {
    task: &'a str,
    part: u32,
}

/// The parts or subtasks of a task.
#[derive(Debug, Serialize)]
struct SubtasksView {
    join: String,
    parts: u32,
    accepted: u32,
    ended: u32,
    succeeded: u32,
    skipped: u32,
}

impl<'a> From<&'a v1::TaskDependency> for DependencyView<'a> {
    fn from(of: &'a v1::TaskDependency) -> Self {
        let state = Some(of.state()).filter(|state| *state != TaskState::Unspecified);
        let on_failure = match of.on_failure() {
            OnFailure::Unspecified => OnFailure::Fail,
            known => known,
        };
        Self { task: &of.task, on_failure: word(on_failure.as_str_name(), "ON_FAILURE_"), state: state.map(state_name) }
    }
}

impl From<&v1::Subtasks> for SubtasksView {
    fn from(of: &v1::Subtasks) -> Self {
        let v1::Subtasks { quorum, parts, accepted, ended, succeeded, skipped, .. } = *of;
        let join = match of.join() {
            Join::Quorum => format!("quorum:{quorum}"),
            join => word(join.as_str_name(), "JOIN_"),
        };
        Self { join, parts, accepted, ended, succeeded, skipped }
    }
}

impl<'a> From<&'a Task> for TaskView<'a> {
    fn from(task: &'a Task) -> Self {
        let (output, output_base64) = match task.state() {
            TaskState::Succeeded if task.output_ref.is_none() => shown(&task.output),
            _ => (None, None),
        };
        Self {
            id: &task.id,
            kind: &task.kind,
            state: state_name(task.state()),
            priority: task.priority,
            submitter: &task.submitter,
            key: &task.idempotency_key,
            role: role_name(task.required_role()),
            specialization: &task.required_specialization,
            skills: &task.skills,
            slots: Some(task.slots).filter(|slots| *slots > 1),
            queue: &task.queue,
            limit_key: &task.limit_key,
            depends_on: task.depends_on.iter().map(DependencyView::from).collect(),
            part_of: task.part_of.as_ref().map(|of| PlaceView { task: &of.task, part: of.index }),
            subtasks: task.subtasks.as_ref().map(SubtasksView::from),
            output,
            output_base64,
            output_ref: task.output_ref.as_ref().map(|stored| StoredView {
                sha256: stored.sha256.iter().map(|byte| format!("{byte:02x}")).collect(),
                bytes: stored.bytes,
            }),
            failure: task.failure.as_ref().map(|failure| FailureView {
                kind: failure_name(failure.kind()),
                message: &failure.message,
                code: failure.code,
                name: &failure.name,
                stderr_tail: &failure.stderr_tail,
                retryable: failure.retryable,
            }),
            dead: task.dead,
            cancel_reason: &task.cancel_reason,
            skipped: task.skipped,
            waiting_for: &task.waiting_for,
            agent: task.attempts.last().map_or("", |attempt| &attempt.agent),
            attempts: task.attempts_used,
            max_attempts: task.max_attempts,
            submitted_at: time(task.submitted_at),
            not_before: time(task.not_before),
            queue_until: time(task.queue_until),
            deadline: time(task.deadline),
            finished_at: time(task.finished_at),
            expires_at: time(task.expires_at),
            revision: task.revision,
        }
    }
}

/// What became of a task that was to be cancelled.
#[derive(Debug, Serialize)]
pub struct CancelledView<'a> {
    id: &'a str,
    state: &'static str,
}

impl<'a> From<&'a v1::CancelResult> for CancelledView<'a> {
    fn from(result: &'a v1::CancelResult) -> Self {
        Self { id: &result.task_id, state: state_name(result.state()) }
    }
}

/// What became of a message to one agent.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MessageView<'a> {
    id: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    agent: &'a str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reply_base64: Option<String>,
    /// The reply can be read by whoever sent the message, alone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    sealed_reply: bool,
}

impl<'a> From<&'a v1::MessageStatus> for MessageView<'a> {
    fn from(status: &'a v1::MessageStatus) -> Self {
        let (reply, reply_base64) = status.reply.as_ref().map_or((None, None), |reply| shown(reply));
        Self {
            id: &status.id,
            agent: &status.agent,
            outcome: outcome_name(status.code()),
            reason: &status.reason,
            reply,
            reply_base64,
            sealed_reply: status.sealed_reply,
        }
    }
}

/// What became of a message to each agent.
#[derive(Debug, Serialize)]
pub struct OutcomesView<'a> {
    outcomes: Vec<MessageView<'a>>,
}

impl<'a> From<&'a [v1::MessageStatus]> for OutcomesView<'a> {
    fn from(outcomes: &'a [v1::MessageStatus]) -> Self {
        Self { outcomes: outcomes.iter().map(MessageView::from).collect() }
    }
}

/// Returns bytes as text, or in base64.
fn shown(bytes: &[u8]) -> (Option<&str>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(_) => (None, Some(to_base64(bytes))),
    }
}

fn time(time: Option<Timestamp>) -> Option<String> {
    let time = time?;
    let millis = u64::try_from(time.seconds).ok()?.saturating_mul(1_000);
    Some(rfc3339(millis.saturating_add(u64::try_from(time.nanos).unwrap_or_default() / 1_000_000)))
}

/// Returns the name of a task's state.
pub fn state_name(state: TaskState) -> &'static str {
    match state {
        TaskState::Unspecified => "unknown",
        TaskState::Queued => "queued",
        TaskState::Assigned => "assigned",
        TaskState::Succeeded => "succeeded",
        TaskState::Failed => "failed",
        TaskState::Cancelled => "cancelled",
        TaskState::DeadLettered => "dead_lettered",
    }
}

/// Returns the name of what became of a message.
pub fn outcome_name(code: MessageCode) -> &'static str {
    match code {
        MessageCode::Unspecified => "unknown",
        MessageCode::Accepted => "accepted",
        MessageCode::Refused => "refused",
        MessageCode::NoSuchAgent => "no_such_agent",
        MessageCode::Away => "away",
        MessageCode::DeadlinePassed => "deadline_passed",
        MessageCode::Overloaded => "overloaded",
        MessageCode::Kept => "kept",
        MessageCode::Unsealable => "unsealable",
    }
}

fn role_name(role: Role) -> Option<&'static str> {
    ROLES.into_iter().find(|(_, known)| *known == role).map(|(name, _)| name)
}

fn failure_name(kind: FailureKind) -> String {
    word(kind.as_str_name(), "FAILURE_KIND_")
}

/// Returns the name of a value as it is written here.
fn word(name: &str, prefix: &str) -> String {
    name.trim_start_matches(prefix).to_ascii_lowercase()
}

#[cfg(test)]
pub mod samples {
    //! Values with every field set, to compare with what is documented.

    use super::*;

    /// A task with every field, apart from the ones that exclude each other.
    pub fn task() -> Task {
        let at = Some(Timestamp { seconds: 1_800_000_000, nanos: 1_000_000 });
        Task {
            id: "i".into(),
            kind: "k".into(),
            state: TaskState::Succeeded.into(),
            submitter: "u".into(),
            output: vec![0xff].into(),
            failure: Some(v1::Failure {
                kind: FailureKind::TimedOut.into(),
                code: Some(1),
                name: "n".into(),
                stderr_tail: "e".into(),
                ..v1::Failure::default()
            }),
            cancel_reason: "r".into(),
            attempts: vec![v1::Attempt { agent: "a".into(), ..v1::Attempt::default() }],
            submitted_at: at,
            finished_at: at,
            deadline: at,
            not_before: at,
            expires_at: at,
            required_role: Role::Guardian.into(),
            required_specialization: "s".into(),
            idempotency_key: "y".into(),
            waiting_for: "w".into(),
            skills: vec!["t".into()],
            slots: 2,
            queue: "q".into(),
            limit_key: "l".into(),
            queue_until: at,
            dead: true,
            skipped: true,
            depends_on: vec![v1::TaskDependency {
                task: "d".into(),
                on_failure: OnFailure::Run.into(),
                state: TaskState::Failed.into(),
            }],
            part_of: Some(v1::PartOf { task: "o".into(), index: 1 }),
            subtasks: Some(v1::Subtasks { join: Join::Quorum.into(), quorum: 2, parts: 3, ..v1::Subtasks::default() }),
            ..Task::default()
        }
    }

    /// What became of a message, with every field.
    pub fn message() -> v1::MessageStatus {
        v1::MessageStatus {
            id: "i".into(),
            agent: "a".into(),
            code: MessageCode::Refused.into(),
            sealed_reply: true,
            reason: "r".into(),
            reply: Some(vec![0xff].into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn bytes_are_text_if_they_are_utf8_and_there_is_an_output_only_of_success() {
        let view = |task: &Task| serde_json::to_value(TaskView::from(task)).expect("it is JSON");
        let task = samples::task();
        assert_eq!(view(&task)["outputBase64"], "/w==");
        assert_eq!(view(&task)["failure"]["kind"], "timed_out");
        assert_eq!(view(&task)["finishedAt"], "2027-01-15T08:00:00.001Z");
        let task = Task { output: "é".into(), ..task };
        assert_eq!((&view(&task)["output"], &view(&task)["outputBase64"]), (&json!("é"), &Value::Null));
        let task = Task { output: Vec::new().into(), ..task };
        assert_eq!(view(&task)["output"], "");
        let task = Task { state: TaskState::Failed.into(), ..task };
        assert_eq!(view(&task)["output"], Value::Null);
    }

    #[test]
    fn what_a_task_is_linked_with_is_told_in_the_words_of_a_submission() {
        let view = serde_json::to_value(TaskView::from(&samples::task())).expect("it is JSON");
        assert_eq!(view["dependsOn"], json!([{"task": "d", "onFailure": "run", "state": "failed"}]));
        assert_eq!(view["partOf"], json!({"task": "o", "part": 1}));
        assert_eq!((&view["subtasks"]["join"], &view["subtasks"]["parts"]), (&json!("quorum:2"), &json!(3)));
        let unsaid = v1::TaskDependency { task: "d".into(), ..v1::TaskDependency::default() };
        let task = Task { depends_on: vec![unsaid], slots: 1, ..Task::default() };
        let view = serde_json::to_value(TaskView::from(&task)).expect("it is JSON");
        assert_eq!(view["dependsOn"], json!([{"task": "d", "onFailure": "fail"}]));
        for absent in ["slots", "skills", "queue", "partOf", "subtasks", "dead", "skipped", "queueUntil"] {
            assert_eq!(view[absent], Value::Null, "{absent}");
        }
    }

    #[test]
    fn a_refused_task_has_no_id() {
        let refused = SubmitResult {
            refusal: Some(v1::Refusal { code: "C".into(), message: "m".into() }),
            retry_after_ms: 1_500,
            ..SubmitResult::default()
        };
        let accepted = SubmitResult { task_id: "t".into(), existing: true, ..SubmitResult::default() };
        let results = [accepted, refused];
        let view = serde_json::to_value(BatchView::from(&results[..])).expect("it is JSON");
        let refused = json!({"refusal": {"code": "C", "message": "m"}, "retryAfterMs": 1500});
        let expected = json!({"tasks": [{"id": "t", "existing": true}, refused]});
        assert_eq!(view, expected);
    }
}
