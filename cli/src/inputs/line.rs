//! What one line of a file of JSON lines says. The text of a value is not touched: its numbers keep all their digits, its fields
//! their order and their doubles, and it may be nested however deep.

use std::time::Duration;

use clap::ValueEnum;
use serde::{
    Deserialize, Deserializer,
    de::{Error, IgnoredAny},
};

use crate::args::AgentRole;

/// One task of a file of JSON lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineInput {
    /// The task's input.
    pub input: Vec<u8>,
    /// What the line says of the task besides.
    pub options: LineOptions,
}

/// Options of a task; `None`: as for all tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct LineOptions {
    pub kind: Option<String>,
    pub key: Option<String>,
    pub priority: Option<u32>,
    pub deadline: Option<Duration>,
    pub delay: Option<Duration>,
    pub timeout: Option<Duration>,
    pub max_attempts: Option<u32>,
    pub ttl: Option<Duration>,
    pub role: Option<AgentRole>,
    pub specialization: Option<String>,
}

/// What lines are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Each is an input.
    Values,
    /// Each is an object with an input and options.
    Tasks {
        /// A line need not say its kind.
        has_kind: bool,
    },
}

/// The options of a line of [`Form::Tasks`], and its input, which is looked at apart so that its text is kept.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct TaskLine {
    #[serde(rename = "input")]
    _input: Option<IgnoredAny>,
    kind: Option<String>,
    key: Option<String>,
    #[serde(default, deserialize_with = "whole")]
    priority: Option<u32>,
    #[serde(default, deserialize_with = "duration")]
    deadline: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    delay: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    timeout: Option<Duration>,
    #[serde(default, deserialize_with = "whole")]
    max_attempts: Option<u32>,
    #[serde(default, deserialize_with = "duration")]
    ttl: Option<Duration>,
    #[serde(default, deserialize_with = "role")]
    role: Option<AgentRole>,
    specialization: Option<String>,
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    let wrong = |text: &str| D::Error::custom(format!("{text:?} is not a duration such as 30s or 1m30s"));
    text.map(|text| humantime::parse_duration(&text).map_err(|_| wrong(&text))).transpose()
}

/// A number without a fraction, however it is written: 9.0 and 9e0 are whole in manifests, too.
fn whole<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let Some(number) = Option::<f64>::deserialize(deserializer)? else { return Ok(None) };
    let is_whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
    if is_whole {
        Ok(Some(number as u32))
    } else {
        Err(D::Error::custom(format!("{number} is not a whole number from 0 to {}", u32::MAX)))
    }
}

/// A role as --role has it or as manifests have it, which begin it with a capital letter.
fn role<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<AgentRole>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
    AgentRole::from_str(&text, true).map(Some).map_err(|_| {
        let names = AgentRole::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        let names: Vec<String> = names.map(|value| value.get_name().to_owned()).collect();
        D::Error::custom(format!("{text:?} is not a role: {}", names.join(", ")))
    })
}

/// Reads a line; what is wrong with it, otherwise.
pub(super) fn parse(form: Form, line: &[u8]) -> Result<LineInput, String> {
    // Of what is not UTF-8 the parser, too, says where.
    let text = std::str::from_utf8(line).map_err(|error| format!("not UTF-8, at byte {}", error.valid_up_to() + 1))?;
    let text = text.trim_matches([' ', '\t', '\r', '\n']);
    match form {
        Form::Values => {
            // However deep it is nested.
            serde_json::from_str::<IgnoredAny>(text).map_err(|error| problem(&error))?;
            Ok(LineInput { input: as_input(text)?, ..LineInput::default() })
        }
        Form::Tasks { has_kind } => task(text, has_kind),
    }
}

fn task(text: &str, has_kind: bool) -> Result<LineInput, String> {
    if !text.starts_with('{') {
        return Err("not an object with an \"input\"; a line that is itself an input is for --inputs".into());
    }
    let line: TaskLine = serde_json::from_str(text).map_err(|error| problem(&error))?;
    if line.kind.is_none() && !has_kind {
        return Err("there is no \"kind\", and no --kind for all lines".into());
    }
    if line.priority.is_some_and(|priority| !(1..=10).contains(&priority)) {
        return Err("\"priority\" is not a number from 1 to 10".into());
    }
    if line.max_attempts == Some(0) {
        return Err("\"maxAttempts\" is not at least 1".into());
    }
    let options = LineOptions {
        kind: line.kind,
        key: line.key,
        priority: line.priority,
        deadline: line.deadline,
        delay: line.delay,
        timeout: line.timeout,
        max_attempts: line.max_attempts,
        ttl: line.ttl,
        role: line.role,
        specialization: line.specialization,
    };
    let input = field(text, "input");
    Ok(LineInput { input: input.map(as_input).transpose()?.unwrap_or_default(), options })
}

/// The text of a field's value, in the text of an object that is known to be well-formed.
fn field<'a>(object: &'a str, wanted: &str) -> Option<&'a str> {
    let mut rest = object.strip_prefix('{')?;
    loop {
        let (name, after) = value::<String>(rest)?;
        let (_, after) = after.split_once(':')?;
        let (IgnoredAny, next) = value(after)?;
        if name == wanted {
            return Some(after[..after.len() - next.len()].trim());
        }
        (_, rest) = next.split_once(',')?;
    }
}

/// The value that a text begins with, and what follows it.
fn value<T: for<'a> Deserialize<'a>>(text: &str) -> Option<(T, &str)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<T>();
    let value = values.next()?.ok()?;
    Some((value, &text[values.byte_offset()..]))
}

/// A text is the input itself; any other value is one as it is written.
fn as_input(written: &str) -> Result<Vec<u8>, String> {
    if written.starts_with('"') {
        return serde_json::from_str::<String>(written).map(String::into_bytes).map_err(|error| problem(&error));
    }
    Ok(written.as_bytes().to_vec())
}

fn problem(error: &serde_json::Error) -> String {
    // The line number of the parser is always 1 here.
    let text = error.to_string();
    let problem = text.split(" at line ").next().unwrap_or(&text);
    if error.is_data() {
        return problem.to_owned();
    }
    format!("not JSON, at column {}: {problem}; a text stands in quotes, and a line is a whole value", error.column())
}
