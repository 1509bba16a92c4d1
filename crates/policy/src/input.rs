//! What policies are evaluated on.

use std::{borrow::Cow, cell::OnceCell};

use serde_json::Value as Json;

use crate::{
    cel::{Budget, Scope, Text, Value, Variable},
    error::{AmbiguousJson, EvalError},
    json,
    spec::Event,
};

/// What policies are evaluated on, and who asked for it.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Name of the authenticated user or agent (`request.user`); empty if it is anonymous.
    pub user: &'a str,
    /// The rights of that user or agent (`request.rights`), such as `submit` or `admin`.
    pub rights: &'a [&'a str],
    /// What is submitted, returned or sent (`object`).
    pub object: Object<'a>,
}

/// What is submitted, returned or sent.
#[derive(Clone, Copy, Debug)]
pub enum Object<'a> {
    /// A task that is submitted.
    Submission(Submission<'a>),
    /// The result of an attempt.
    Result(TaskResult<'a>),
    /// A message.
    Message(Message<'a>),
}

/// A task that is submitted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Submission<'a> {
    /// The id of the task (`taskId`).
    pub task_id: &'a str,
    /// The name that the submitter gives itself (`submitter`); the authenticated one is `request.user`.
    pub submitter: &'a str,
    /// The kind of work (`kind`).
    pub kind: &'a str,
    /// The specialization that an agent must have (`specialization`); empty if any will do.
    pub specialization: &'a str,
    /// 1 (lowest) to 10 (highest) (`priority`).
    pub priority: u32,
    /// Labels (`labels`), each name once.
    pub labels: &'a [(&'a str, &'a str)],
    /// Whether the input is in the object store, where policies don't see it: the payload is empty then (`stored`).
    pub stored: bool,
    /// The input of the task: the payload.
    pub input: &'a [u8],
}

/// The result of an attempt.
#[derive(Clone, Copy, Debug, Default)]
pub struct TaskResult<'a> {
    /// The id of the task (`taskId`).
    pub task_id: &'a str,
    /// The kind of work (`kind`).
    pub kind: &'a str,
    /// The name of the agent (`agent`).
    pub agent: &'a str,
    /// The role of the agent (`role`).
    pub role: &'a str,
    /// The pool of the agent (`pool`).
    pub pool: &'a str,
    /// The number of the attempt, from 1 (`attempt`).
    pub attempt: u64,
    /// The failure (`failure`, `succeeded`); `None` if the attempt succeeded.
    pub failure: Option<Failure<'a>>,
    /// Whether the output is in the object store, where policies don't see it: the payload is empty then (`stored`).
    pub stored: bool,
    /// The output of the task: the payload.
    pub output: &'a [u8],
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Failure<'a> {
    /// The kind of failure (`failure.kind`).
    pub kind: &'a str,
    /// What happened, as text (`failure.message`).
    pub message: &'a str,
}

/// A message.
#[derive(Clone, Copy, Debug, Default)]
pub struct Message<'a> {
    /// The id of the message (`messageId`).
    pub message_id: &'a str,
    /// The name of the sender, as in its certificate (`sender`).
    pub sender: &'a str,
    /// The role of the sender, as in its certificate (`senderRole`).
    pub sender_role: &'a str,
    /// The receiver: an agent, role, pool, skill or team (`receiver`).
    pub receiver: &'a str,
    /// The type of the message (`type`).
    pub message_type: &'a str,
    /// 1 (lowest) to 10 (highest) (`priority`).
    pub priority: u32,
    /// The payload.
    pub payload: &'a [u8],
}

impl<'a> Input<'a> {
    /// Returns what the input is.
    pub fn event(&self) -> Event {
        match self.object {
            Object::Submission(_) => Event::Submission,
            Object::Result(_) => Event::Result,
            Object::Message(_) => Event::Message,
        }
    }

    /// Returns the payload.
    pub fn payload(&self) -> &'a [u8] {
        match self.object {
            Object::Submission(submission) => submission.input,
            Object::Result(result) => result.output,
            Object::Message(message) => message.payload,
        }
    }
}

/// The fields of `request`.
pub(crate) const REQUEST_FIELDS: [&str; 3] = ["user", "rights", "event"];

const SUBMISSION_FIELDS: [&str; 7] = ["taskId", "submitter", "kind", "specialization", "priority", "labels", "stored"];
const RESULT_FIELDS: [&str; 9] =
    ["taskId", "kind", "agent", "role", "pool", "attempt", "succeeded", "failure", "stored"];
const MESSAGE_FIELDS: [&str; 6] = ["messageId", "sender", "senderRole", "receiver", "type", "priority"];

/// The number of fields of `object.failure`.
const FAILURE_FIELDS: usize = 2;

fn fields_of(event: Event) -> &'static [&'static str] {
    match event {
        Event::Submission => &SUBMISSION_FIELDS,
        Event::Result => &RESULT_FIELDS,
        Event::Message => &MESSAGE_FIELDS,
    }
}

/// Returns the fields that `object` has in at least one of some events.
pub(crate) fn object_fields(on: &[Event]) -> Vec<&'static str> {
    let mut fields: Vec<&str> = Vec::new();
    for field in on.iter().flat_map(|event| fields_of(*event)) {
        if !fields.contains(field) {
            fields.push(field);
        }
    }
    fields
}

/// An input, with what was computed from its payload on the first use.
pub(crate) struct Prepared<'i> {
    input: &'i Input<'i>,
    json: OnceCell<Result<Option<Json>, AmbiguousJson>>,
    text: OnceCell<Cow<'i, str>>,
}

impl<'i> Prepared<'i> {
    pub(crate) fn new(input: &'i Input<'i>) -> Self {
        Self { input, json: OnceCell::new(), text: OnceCell::new() }
    }

    fn object_field(&self, field: &str) -> Option<Value<'_>> {
        let priority = |priority: u32| Value::Int(i64::from(priority));
        match (self.input.object, field) {
            (Object::Submission(submission), "taskId") => Some(Value::text(submission.task_id)),
            (Object::Submission(submission), "submitter") => Some(Value::text(submission.submitter)),
            (Object::Submission(submission), "kind") => Some(Value::text(submission.kind)),
            (Object::Submission(submission), "specialization") => Some(Value::text(submission.specialization)),
            (Object::Submission(submission), "priority") => Some(priority(submission.priority)),
            (Object::Submission(submission), "labels") => {
                let labels = submission.labels.iter().map(|(name, value)| (Value::text(name), Value::text(value)));
                Some(Value::map(labels.collect()))
            }
            (Object::Submission(submission), "stored") => Some(Value::Bool(submission.stored)),
            (Object::Result(result), "stored") => Some(Value::Bool(result.stored)),
            (Object::Result(result), "taskId") => Some(Value::text(result.task_id)),
            (Object::Result(result), "kind") => Some(Value::text(result.kind)),
            (Object::Result(result), "agent") => Some(Value::text(result.agent)),
            (Object::Result(result), "role") => Some(Value::text(result.role)),
            (Object::Result(result), "pool") => Some(Value::text(result.pool)),
            (Object::Result(result), "attempt") => Some(Value::Int(i64::try_from(result.attempt).unwrap_or(i64::MAX))),
            (Object::Result(result), "succeeded") => Some(Value::Bool(result.failure.is_none())),
            (Object::Result(result), "failure") => result.failure.map(|failure| {
                Value::map(vec![
                    (Value::text("kind"), Value::text(failure.kind)),
                    (Value::text("message"), Value::text(failure.message)),
                ])
            }),
            (Object::Message(message), "messageId") => Some(Value::text(message.message_id)),
            (Object::Message(message), "sender") => Some(Value::text(message.sender)),
            (Object::Message(message), "senderRole") => Some(Value::text(message.sender_role)),
            (Object::Message(message), "receiver") => Some(Value::text(message.receiver)),
            (Object::Message(message), "type") => Some(Value::text(message.message_type)),
            (Object::Message(message), "priority") => Some(priority(message.priority)),
            _ => None,
        }
    }

    fn request_field(&self, field: &str) -> Option<Value<'_>> {
        match field {
            "user" => Some(Value::text(self.input.user)),
            "rights" => Some(Value::list(self.input.rights.iter().map(|right| Value::text(right)).collect())),
            "event" => Some(Value::text(self.input.event().name())),
            _ => None,
        }
    }

    /// Charges the first reading of the payload, and all later ones the same, so that the order of policies does not
    /// change what each of them costs.
    fn charge_payload(&self, budget: &mut Budget) -> Result<(), EvalError> {
        budget.read(self.input.payload().len())
    }
}

impl Scope for Prepared<'_> {
    fn variable(&self, variable: Variable, budget: &mut Budget) -> Result<Value<'_>, EvalError> {
        match variable {
            Variable::Size => Ok(Value::Int(i64::try_from(self.input.payload().len()).unwrap_or(i64::MAX))),
            Variable::Text => {
                self.charge_payload(budget)?;
                let text = self.text.get_or_init(|| String::from_utf8_lossy(self.input.payload()));
                Ok(Value::String(Text::Borrowed(text)))
            }
            Variable::Json => {
                self.charge_payload(budget)?;
                match self.json.get_or_init(|| json::read(self.input.payload())) {
                    Ok(Some(json)) => Ok(Value::json(json)),
                    Ok(None) => Ok(Value::Null),
                    Err(ambiguous) => Err(EvalError::Json(*ambiguous)),
                }
            }
            Variable::Object | Variable::Request => {
                let fields = match variable {
                    Variable::Object => fields_of(self.input.event()),
                    _ => &REQUEST_FIELDS,
                };
                budget.build(fields.len() * 2 * Value::SIZE)?;
                let mut known = Vec::with_capacity(fields.len());
                for name in fields {
                    if let Some(value) = self.field(variable, name, budget)? {
                        known.push((Value::text(name), value));
                    }
                }
                Ok(Value::map(known))
            }
        }
    }

    fn field(&self, variable: Variable, field: &str, budget: &mut Budget) -> Result<Option<Value<'_>>, EvalError> {
        // What is a list or a map is built for each use.
        let parts = match (self.input.object, variable, field) {
            (Object::Submission(submission), Variable::Object, "labels") => submission.labels.len(),
            (_, Variable::Object, "failure") => FAILURE_FIELDS,
            (_, Variable::Request, "rights") => self.input.rights.len(),
            _ => 0,
        };
        budget.build(parts * 2 * Value::SIZE)?;
        Ok(match variable {
            Variable::Object => self.object_field(field),
            Variable::Request => self.request_field(field),
            Variable::Size | Variable::Json | Variable::Text => None,
        })
    }
}
