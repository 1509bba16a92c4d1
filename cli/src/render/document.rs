//! The proto3 JSON form of messages, and the same as YAML. Fields are in the order of their numbers. A bytes field that
//! holds UTF-8 text is also shown as text, under its name with the suffix `Text`. The id of a task is `id` in every
//! message, including responses about a task.

use std::{io::Write, sync::LazyLock};

use prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, FieldDescriptor, MessageDescriptor, ReflectMessage, Value as Field,
};
use robeing_proto::{FILE_DESCRIPTOR_SET, v1};
use serde::{
    Serialize, Serializer,
    ser::{Error as _, SerializeMap},
};
use serde_json::Value;

use super::words::is_obeyed;
use crate::{args::Format, error::CliError};

static POOL: LazyLock<Result<DescriptorPool, String>> =
    LazyLock::new(|| DescriptorPool::decode(FILE_DESCRIPTOR_SET).map_err(|error| error.to_string()));

/// A message of the API whose name in the protos is known.
pub trait Named: Message {
    /// Name within the package `robeing.v1`.
    const NAME: &'static str;
}

macro_rules! named {
    ($($message:ident),* $(,)?) => {$(
        impl Named for v1::$message {
            const NAME: &'static str = stringify!($message);
        }
    )*};
}
named!(
    Agent,
    Allocation,
    AuditRecord,
    Ballot,
    BarAgentResponse,
    CancelResult,
    CreateJoinTokenResponse,
    DropDeadLetterResult,
    FleetStatus,
    InboxMessage,
    ListResourcesResponse,
    MessageStatus,
    ReleaseAgentResponse,
    RemoveScheduleResponse,
    RetryDeadLetterResult,
    RunScheduleResponse,
    Schedule,
    SetPoliciesResponse,
    SubmitResult,
    Task,
    TaskLogsResponse,
    TaskProgress,
    TaskQueue,
    Team,
);

/// A message in its proto3 JSON form, ready to be serialized.
#[derive(Debug)]
pub struct Document {
    message: DynamicMessage,
    /// The JSON form that the library creates; the fields are taken from it.
    form: Value,
}

impl Document {
    /// Converts a message.
    ///
    /// # Errors
    /// If the message does not match the descriptors in this program, which a test rules out.
    pub fn of<M: Named>(message: &M) -> Result<Self, CliError> {
        let failed = |problem: String| CliError::Render { form: "json", problem };
        let pool = POOL.as_ref().map_err(|error| failed(error.clone()))?;
        let descriptor: MessageDescriptor = pool
            .get_message_by_name(&format!("robeing.v1.{}", M::NAME))
            .ok_or_else(|| failed(format!("{} has no descriptor", M::NAME)))?;
        let message = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())
            .map_err(|error| failed(error.to_string()))?;
        let form = serde_json::to_value(&message).map_err(|error| failed(error.to_string()))?;
        Ok(Self { message, form })
    }
}

/// Converts a list of messages.
///
/// # Errors
/// As for [`Document::of`].
pub fn documents<M: Named>(messages: &[M]) -> Result<Vec<Document>, CliError> {
    messages.iter().map(Document::of).collect()
}

impl Serialize for Document {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Ordered { message: &self.message, form: &self.form }.serialize(serializer)
    }
}

/// Returns the name of a field in documents.
fn shown_name(field: &FieldDescriptor) -> &str {
    match field.json_name() {
        "taskId" => "id",
        name => name,
    }
}

/// A message with its JSON form.
struct Ordered<'a> {
    message: &'a DynamicMessage,
    form: &'a Value,
}

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Timestamps and durations are strings in JSON.
        let Value::Object(fields) = self.form else { return self.form.serialize(serializer) };
        let mut map = serializer.serialize_map(None)?;
        for field in self.message.descriptor().fields() {
            let Some(form) = fields.get(field.json_name()) else { continue };
            self.serialize_field(&mut map, &field, form)?;
        }
        map.end()
    }
}

impl Ordered<'_> {
    fn serialize_field<M: SerializeMap>(
        &self,
        map: &mut M,
        field: &FieldDescriptor,
        form: &Value,
    ) -> Result<(), M::Error> {
        let name = shown_name(field);
        match (&*self.message.get_field(field), form) {
            (Field::Message(message), form) => map.serialize_entry(name, &Ordered { message, form }),
            (Field::List(items), Value::Array(forms)) => {
                if items.len() != forms.len() {
                    return Err(M::Error::custom("a list and its form differ in length"));
                }
                let entries: Vec<_> = items.iter().zip(forms).map(|(item, form)| Entry { item, form }).collect();
                map.serialize_entry(name, &entries)
            }
            (Field::Bytes(bytes), form) => {
                map.serialize_entry(name, form)?;
                match std::str::from_utf8(bytes) {
                    Ok(text) => map.serialize_entry(&format!("{name}Text"), text),
                    Err(_) => Ok(()),
                }
            }
            (_, form) => map.serialize_entry(name, form),
        }
    }
}

/// One item of a list.
struct Entry<'a> {
    item: &'a Field,
    form: &'a Value,
}

impl Serialize for Entry<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.item {
            Field::Message(message) => Ordered { message, form: self.form }.serialize(serializer),
            _ => self.form.serialize(serializer),
        }
    }
}

/// Writes one document, or a list of them, followed by a line end.
///
/// # Errors
/// If it can't be written.
pub fn write_document<T: Serialize>(out: &mut dyn Write, format: Format, document: &T) -> Result<(), CliError> {
    let yaml = match format {
        Format::Yaml => Some(
            serde_yaml::to_string(document)
                .map_err(|error| CliError::Render { form: "yaml", problem: error.to_string() })?,
        ),
        Format::Json | Format::Table => None,
    };
    let text = match yaml {
        // Only some forms of YAML strings allow escapes; all JSON strings do, and JSON is also YAML.
        Some(yaml) if !yaml.contains(is_let_stand) => yaml,
        _ => serde_json::to_string_pretty(document)
            .map(escape_controls)
            .map_err(|error| CliError::Render { form: "json", problem: error.to_string() })?,
    };
    out.write_all(text.trim_end_matches('\n').as_bytes())?;
    out.write_all(b"\n")?;
    Ok(())
}

/// Writes one document of a stream: a line of JSON, or a YAML document with its separator.
///
/// # Errors
/// If it can't be written.
pub fn write_line<T: Serialize>(out: &mut dyn Write, format: Format, document: &T) -> Result<(), CliError> {
    if format == Format::Yaml {
        out.write_all(b"---\n")?;
        return write_document(out, format, document);
    }
    let line = serde_json::to_string(document)
        .map_err(|error| CliError::Render { form: "json", problem: error.to_string() })?;
    writeln!(out, "{}", escape_controls(line))?;
    Ok(())
}

/// Returns whether terminals interpret a character that JSON allows in strings.
fn is_let_stand(c: char) -> bool {
    c >= '\u{7f}' && is_obeyed(c)
}

/// Escapes characters that JSON allows but terminals interpret.
fn escape_controls(json: String) -> String {
    if !json.contains(is_let_stand) {
        return json;
    }
    // They can only occur in strings, as keys or values.
    let escape = |c: char| if is_let_stand(c) { format!("\\u{:04x}", c as u32) } else { c.to_string() };
    json.chars().map(escape).collect()
}
