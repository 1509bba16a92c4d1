//! Tasks and messages as clients write them in JSON or CBOR, and as the API takes them.

use std::time::Duration;

use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use robeing_proto::v1::{self, RetryPolicy, Role, SendMessageRequest, TaskSpec};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Padding may be left out.
const CONFIG: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const PLAIN: GeneralPurpose = GeneralPurpose::new(&STANDARD, CONFIG);
const FOR_URLS: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, CONFIG);

/// The names of the roles that can be required of an agent.
pub const ROLES: [(&str, Role); 4] = [
    ("worker", Role::Worker),
    ("specialist", Role::Specialist),
    ("messenger", Role::Messenger),
    ("guardian", Role::Guardian),
];

/// A task to submit.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TaskForm<'a> {
    id: Option<String>,
    kind: String,
    /// A string is the input itself; any other value is passed on as its JSON text.
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    input_base64: Option<String>,
    key: Option<String>,
    priority: Option<u32>,
    deadline: Option<String>,
    delay: Option<String>,
    timeout: Option<String>,
    max_attempts: Option<u32>,
    ttl: Option<String>,
    role: Option<String>,
    specialization: Option<String>,
    submitter: Option<String>,
}

/// Several tasks to submit.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TasksForm<'a> {
    /// The tasks, as they were written.
    #[serde(borrow)]
    pub tasks: Vec<&'a RawValue>,
}

/// A message to send.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct MessageForm<'a> {
    id: Option<String>,
    to: String,
    r#type: String,
    /// A string is the payload itself; any other value is passed on as its JSON text.
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    payload_base64: Option<String>,
    priority: Option<u32>,
    deadline: Option<String>,
    #[serde(default)]
    durable: bool,
    #[serde(default)]
    broadcast: bool,
}

/// Parses a form.
///
/// # Errors
/// What is wrong, as a sentence.
pub fn parse<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, String> {
    serde_json::from_slice(json).map_err(|error| error.to_string())
}

impl TaskForm<'_> {
    /// Returns the task as the API takes it.
    ///
    /// # Errors
    /// What is wrong, as a sentence.
    pub fn spec(self) -> Result<TaskSpec, String> {
        let role = self.role.map(|role| role_named(&role)).transpose()?;
        Ok(TaskSpec {
            id: self.id.unwrap_or_default(),
            kind: self.kind,
            input: content("input", self.input, self.input_base64.as_deref())?,
            priority: self.priority.unwrap_or_default(),
            deadline_in: duration("deadline", self.deadline.as_deref())?,
            delay: duration("delay", self.delay.as_deref())?,
            attempt_timeout: duration("timeout", self.timeout.as_deref())?,
            retry: self.max_attempts.map(|max_attempts| RetryPolicy { max_attempts, ..RetryPolicy::default() }),
            required_role: role.unwrap_or_default().into(),
            required_specialization: self.specialization.unwrap_or_default(),
            idempotency_key: self.key.unwrap_or_default(),
            result_ttl: duration("ttl", self.ttl.as_deref())?,
            submitter: self.submitter.unwrap_or_default(),
            ..TaskSpec::default()
        })
    }
}

impl MessageForm<'_> {
    /// Returns the message as the API takes it.
    ///
    /// # Errors
    /// What is wrong, as a sentence.
    pub fn request(self) -> Result<SendMessageRequest, String> {
        Ok(SendMessageRequest {
            id: self.id.unwrap_or_default(),
            to: self.to,
            r#type: self.r#type,
            payload: content("payload", self.payload, self.payload_base64.as_deref())?,
            priority: self.priority.unwrap_or_default(),
            deadline: duration("deadline", self.deadline.as_deref())?,
            durable: self.durable,
            broadcast: self.broadcast,
            ..SendMessageRequest::default()
        })
    }
}

fn role_named(name: &str) -> Result<Role, String> {
    let known = ROLES.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
    let names = || ROLES.map(|(name, _)| name).join(", ");
    known.map(|(_, role)| role).ok_or_else(|| format!("\"role\" must be one of {}", names()))
}

/// Returns the bytes that a field, or the one beside it with the suffix `Base64`, stands for.
pub fn content(name: &str, plain: Option<&RawValue>, base64: Option<&str>) -> Result<Bytes, String> {
    match (plain, base64) {
        (Some(_), Some(_)) => Err(format!("there are both {name:?} and \"{name}Base64\"; give one")),
        (None, None) => Ok(Bytes::new()),
        (None, Some(text)) => from_base64(&format!("{name}Base64"), text),
        (Some(value), None) if value.get().starts_with('"') => {
            let text: String = serde_json::from_str(value.get()).map_err(|error| format!("{name:?}: {error}"))?;
            Ok(text.into())
        }
        (Some(value), None) => Ok(Bytes::copy_from_slice(value.get().as_bytes())),
    }
}

/// Decodes base64, in either alphabet, with or without padding.
pub fn from_base64(name: &str, text: &str) -> Result<Bytes, String> {
    let engine = if text.contains(['-', '_']) { FOR_URLS } else { PLAIN };
    let decoded = engine.decode(text).map_err(|error| format!("{name:?} is not base64: {error}"))?;
    Ok(decoded.into())
}

/// Encodes base64, as in the API's JSON form.
pub fn to_base64(bytes: &[u8]) -> String {
    PLAIN.encode(bytes)
}

/// Parses a duration such as `30s` or `1m30s`.
pub fn duration(name: &str, text: Option<&str>) -> Result<Option<prost_types::Duration>, String> {
    text.map(|text| told(span(name, text)?).map_err(|problem| format!("{name:?} {problem}"))).transpose()
}

/// Parses a duration such as `30s` or `1m30s`.
pub fn span(name: &str, text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| format!("{name:?} must be a duration such as \"30s\" or \"1m30s\""))
}

/// Converts a duration to the API's type.
pub fn told(span: Duration) -> Result<prost_types::Duration, String> {
    prost_types::Duration::try_from(span).map_err(|_| "is too long".to_owned())
}

/// Returns the refusal of one task of several.
pub fn refused(message: String) -> v1::Refusal {
    v1::Refusal { code: "INVALID_ARGUMENT".to_owned(), message }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(json: &str) -> Result<TaskSpec, String> {
        parse::<TaskForm<'_>>(json.as_bytes())?.spec()
    }

    #[test]
    fn an_input_is_text_or_json_or_base64() {
        let input = |fields: &str| task(&format!(r#"{{"kind":"k"{fields}}}"#)).map(|spec| spec.input);
        assert_eq!(input(""), Ok(Bytes::new()));
        assert_eq!(input(r#","input":null"#), Ok(Bytes::new()));
        assert_eq!(input(r#","input":"a\u00e9\n""#), Ok("aé\n".into()));
        assert_eq!(input(r#","input": {"b": 1.50, "a":[ ]}"#), Ok(r#"{"b": 1.50, "a":[ ]}"#.into()));
        for base64 in ["/+8=", "/+8", "_-8=", "_-8"] {
            assert_eq!(input(&format!(r#","inputBase64":"{base64}""#)), Ok(Bytes::from_static(&[0xff, 0xef])));
        }
        for (wrong, words) in [
            (r#","inputBase64":"/-8""#, "not base64"),
            (r#","input":1,"inputBase64":"""#, "give one"),
            (r#","input":"\ud800""#, "\"input\""),
            (r#","imput":1"#, "unknown field `imput`"),
            (r#","kind":"twice""#, "duplicate field"),
            (r#","priority":"high""#, "invalid type"),
            (r#","deadline":30"#, "invalid type"),
            (r#","deadline":"soon""#, "a duration such as"),
            (r#","deadline":"99999999999999999y""#, "a duration such as"),
            (r#","role":"boss""#, "worker, specialist"),
        ] {
            let error = input(wrong).expect_err(wrong);
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn a_deeply_nested_input_is_no_problem() {
        let deep = format!(r#"{{"kind":"k","input":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(task(&deep).expect("it is JSON").input.len(), 200_000);
    }

    #[test]
    fn every_field_of_a_task_arrives() {
        let spec = task(
            r#"{"id":"i","kind":"k","key":"y","priority":7,"deadline":"1m30s","delay":"2s","timeout":"3s","maxAttempts":4,
            "ttl":"1h","role":"Guardian","specialization":"s","submitter":"u"}"#,
        );
        let seconds = |seconds| Some(prost_types::Duration { seconds, nanos: 0 });
        let expected = TaskSpec {
            id: "i".into(),
            kind: "k".into(),
            idempotency_key: "y".into(),
            priority: 7,
            deadline_in: seconds(90),
            delay: seconds(2),
            attempt_timeout: seconds(3),
            retry: Some(RetryPolicy { max_attempts: 4, ..RetryPolicy::default() }),
            result_ttl: seconds(3_600),
            required_role: Role::Guardian.into(),
            required_specialization: "s".into(),
            submitter: "u".into(),
            ..TaskSpec::default()
        };
        assert_eq!(spec, Ok(expected));
    }
}
