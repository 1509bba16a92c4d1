//! The schemas of tasks.

use serde_json::{Value, json};

use super::{any_of, base64, merged, priority, span, text, time};
use crate::roles::messenger::gateway::{
    requests::MAX_TASKS,
    task_form::{FAILURES, ROLES, WAYS},
};

/// Returns the schemas of requests and responses about tasks.
pub(super) fn schemas() -> Value {
    merged([new_task(), answers(), task()])
}

fn flag(description: &str) -> Value {
    json!({"type": "boolean", "default": false, "description": description})
}

fn count(least: u32, most: u32, description: &str) -> Value {
    json!({"type": "integer", "minimum": least, "maximum": most, "description": description})
}

fn number(description: &str) -> Value {
    json!({"type": "integer", "minimum": 0, "description": description})
}

fn texts(description: &str) -> Value {
    json!({"type": "array", "items": {"type": "string"}, "description": description})
}

fn new_task() -> Value {
    json!({
        "NewTask": {
            "type": "object",
            "required": ["kind"],
            "additionalProperties": false,
            "properties": merged([own_options(), times(), links()]),
        },
        "NewTasks": {
            "type": "object",
            "required": ["tasks"],
            "additionalProperties": false,
            "properties": {"tasks": {"type": "array", "minItems": 1, "maxItems": MAX_TASKS, "items": any_of(&["NewTask"])}},
        },
    })
}

/// What a task is, and which agents take it.
fn own_options() -> Value {
    let roles = ROLES.map(|(name, _)| name);
    json!({
        "id": json!({"type": "string", "format": "uuid", "description": "Unset: the gateway generates one."}),
        "kind": text("Kind of work; matched with the specializations of agents."),
        "input": json!({"description": "A string is the input itself; any other value is passed on as its JSON text. At most 1 MiB."}),
        "inputBase64": base64("The input as bytes, instead of input."),
        "key": text("Another submission with the same key returns the first one's task."),
        "priority": priority(),
        "role": json!({"type": "string", "enum": roles, "description": "Only agents of this role take the task."}),
        "specialization": text("Only agents with this specialization take the task."),
        "skills": texts("Specializations that the agent must have besides that one; at most 7."),
        "slots": count(1, 4_096, "How many slots of its agent an attempt takes. Unset: as its kind says, or one."),
        "queue": text("The queue that the task waits in. Unset: as its kind says, or default."),
        "limitKey": text("The key that limits of the queue are about, such as the name of a customer."),
        "submitter": text("Name of the submitter, for filtering."),
    })
}

/// How long a task may take, and how often it is tried.
fn times() -> Value {
    json!({
        "deadline": span("Time after which the task fails if it has not finished."),
        "delay": span("Time before which the task is not started."),
        "notBefore": time("The task is not started before, by the fleet's clock. Not with delay."),
        "queueExpiry": span("Time after which the task fails if no agent has taken it."),
        "timeout": span("Time limit of one attempt."),
        "progressTimeout": span("An attempt that reports no progress for so long is ended, and the task is run elsewhere."),
        "maxAttempts": json!({"type": "integer", "minimum": 1}),
        "backoff": span("Pause before the second attempt; each further one is longer."),
        "maxBackoff": span("Longest pause between two attempts."),
        "jitterPercent": count(1, 100, "Part of each pause by which it is shortened by chance, at most."),
        "nonRetryable": texts("Failures after which the task is not tried again, at most 16: a kind such as timed_out, one with a code such as http:404, or name:NAME."),
        "ttl": span("How long the finished task is kept."),
    })
}

/// How a task is linked with others.
fn links() -> Value {
    let on_failure = FAILURES.map(|(name, _)| name).join(", ");
    let ways = WAYS.map(|(name, _)| name);
    json!({
        "dependsOn": texts(&format!("Ids of tasks that must have ended before, at most 1,000, each as ID or ID:WHAT, where WHAT, what becomes of the task if that one does not succeed, is one of {on_failure}.")),
        "resultsAsInput": flag("Append the outputs of these tasks, and of the parts, to the input."),
        "inputs": json!({"type": "array", "description": "Inputs of the parts of a task that is split, each as input; at most 10,000 in a request."}),
        "inputsBase64": texts("These inputs as bytes, in base64, instead of inputs."),
        "agents": count(1, 64, "Among how many agents the task is split: its input is divided into as many parts. Unset: as its kind says; 1: it is not split."),
        "splitBy": json!({"type": "string", "enum": ways, "description": "With agents, what the input is divided into. Unset: as its kind says."}),
        "join": text("What a task makes of its parts: all, settled, any, reduce or quorum:N."),
        "partKind": text("The kind of the parts. Unset: that of the task."),
        "spread": flag("No agent runs two parts at once. At most 64 parts."),
        "parts": count(1, 1_000_000, "How many parts there will be that are submitted by themselves, instead of inputs."),
        "partOf": json!({"type": "string", "format": "uuid", "description": "The task is a part of the one with this id."}),
        "part": number("The number of the part, from 0; with partOf."),
    })
}

fn answers() -> Value {
    json!({
        "Submitted": {
            "type": "object",
            "properties": {
                "id": text("Id of the task."),
                "existing": json!({"type": "boolean", "description": "An earlier submission had the same id or key."}),
                "refusal": json!({
                    "type": "object", "description": "The task was not accepted; only in lists.",
                    "properties": {"code": text("Name of a gRPC code."), "message": text("A sentence.")},
                }),
                "retryAfterMs": number("When there may be room for a task that was refused, in milliseconds; only in lists."),
            },
        },
        "SubmittedList": {
            "type": "object",
            "required": ["tasks"],
            "properties": {"tasks": {"type": "array", "items": any_of(&["Submitted"])}},
        },
        "Cancelled": {
            "type": "object",
            "required": ["id", "state"],
            "properties": {"id": text("Id of the task."), "state": text("Its state now.")},
        },
    })
}

fn task() -> Value {
    json!({
        "Task": {
            "type": "object",
            "required": ["id", "kind", "state", "priority", "attempts", "maxAttempts", "revision"],
            "properties": merged([told_options(), told_result(), told_times(), told_links()]),
        },
    })
}

fn told_options() -> Value {
    json!({
        "id": text("Id of the task."),
        "kind": text("Kind of work."),
        "state": json!({"type": "string", "enum":
            ["queued", "assigned", "succeeded", "failed", "cancelled", "dead_lettered", "unknown"]}),
        "priority": priority(),
        "submitter": text("Name of the submitter."),
        "key": text("Its key."),
        "role": text("The role that is required."),
        "specialization": text("The specialization that is required."),
        "skills": texts("The specializations that are required besides that one."),
        "slots": number("How many slots of its agent an attempt takes, if it is not one."),
        "queue": text("The queue that it waits in, if it is not default."),
        "limitKey": text("The key that limits of the queue are about."),
    })
}

fn told_result() -> Value {
    json!({
        "output": text("Output of a task that succeeded, if it is UTF-8."),
        "outputBase64": base64("Output of a task that succeeded, if it is not UTF-8."),
        "outputRef": json!({
            "type": "object",
            "description": "SHA-256 and length of an output that is in the object store.",
            "properties": {"sha256": text("In hexadecimal digits."), "bytes": json!({"type": "integer"})},
        }),
        "failure": json!({
            "type": "object",
            "required": ["kind", "message", "retryable"],
            "properties": {
                "kind": text("What kind of failure."),
                "message": text("A sentence."),
                "code": json!({"type": "integer", "description": "Exit code, signal or HTTP status."}),
                "name": text("What the handler calls it."),
                "stderrTail": text("The end of stderr."),
                "retryable": json!({"type": "boolean"}),
            },
        }),
        "dead": flag("It is a dead letter, which can be tried again."),
        "cancelReason": text("Why it was cancelled."),
        "skipped": flag("It was cancelled because a task that it depends on did not succeed."),
        "waitingFor": text("What a queued task waits for."),
        "agent": text("The agent that has, or last had, the task."),
        "attempts": json!({"type": "integer", "description": "Attempts that count."}),
        "maxAttempts": json!({"type": "integer"}),
    })
}

fn told_times() -> Value {
    json!({
        "submittedAt": time("When it was accepted."),
        "notBefore": time("It is not started before."),
        "queueUntil": time("It fails if no agent has taken it by then."),
        "deadline": time("It fails if it has not finished by then."),
        "finishedAt": time("When it ended."),
        "expiresAt": time("When it is deleted."),
        "revision": json!({"type": "integer", "description": "The fleet's revision at its last change."}),
    })
}

fn told_links() -> Value {
    let (parts, ended) = (number("How many there will be."), number("How many of these have ended."));
    json!({
        "dependsOn": json!({
            "type": "array",
            "description": "The tasks that it depends on.",
            "items": {
                "type": "object",
                "required": ["task", "onFailure"],
                "properties": {
                    "task": text("Id of the task."),
                    "onFailure": text("What becomes of this one if that one does not succeed."),
                    "state": text("How it ended, once it has."),
                },
            },
        }),
        "partOf": json!({
            "type": "object",
            "required": ["task", "part"],
            "properties": {"task": text("Id of the task whose part it is."), "part": number("Its number, from 0.")},
        }),
        "subtasks": json!({
            "type": "object",
            "description": "Its parts or subtasks.",
            "required": ["join", "parts", "accepted", "ended", "succeeded", "skipped"],
            "properties": {
                "join": text("What it makes of them."),
                "parts": parts,
                "accepted": number("How many were accepted."),
                "ended": ended,
                "succeeded": number("How many have succeeded."),
                "skipped": number("How many were skipped."),
            },
        }),
    })
}
