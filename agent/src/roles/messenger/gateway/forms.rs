//! Messages and lists of tasks as clients write them in JSON or CBOR, and as the API takes them; and what their fields have
//! in common with those of [tasks](super::task_form).

use std::time::Duration;

use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use robeing_proto::v1::{self, SendMessageRequest};
use serde::Deserialize;
use serde_json::value::RawValue;

/// Padding may be left out.
const CONFIG: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const PLAIN: GeneralPurpose = GeneralPurpose::new(&STANDARD, CONFIG);
const FOR_URLS: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, CONFIG);

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
