//! Parses one line of a file of JSON lines. A string is decoded; the text of any other input is not changed: numbers
//! keep all their digits, fields keep their order and duplicates, and values can be nested to any depth.

use std::time::Duration;

use clap::ValueEnum;
use serde::de::IgnoredAny;

use crate::{args::AgentRole, render::preview};

/// Whitespace that is allowed around values.
const BLANKS: [char; 4] = [' ', '\t', '\r', '\n'];
const NULL: &str = "null";

/// One task of a file of JSON lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineInput {
    /// The task's input.
    pub input: Vec<u8>,
    /// The options of the task that the line sets.
    pub options: LineOptions,
}

/// The options of a task. `None` means the option that applies to all tasks.
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
    pub queue: Option<String>,
    pub limit_key: Option<String>,
}

/// The form of the lines of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Each line is an input.
    Values,
    /// Each line is an object with an input and options.
    Tasks {
        /// Whether the kind is set for all lines; then a line can omit it.
        has_kind: bool,
    },
}

/// The fields of a line of [`Form::Tasks`].
const FIELDS: [&str; 13] = [
    "input",
    "kind",
    "key",
    "priority",
    "deadline",
    "delay",
    "timeout",
    "maxAttempts",
    "ttl",
    "role",
    "specialization",
    "queue",
    "limitKey",
];

/// Parses a line, or returns what is wrong with it.
pub(super) fn parse(form: Form, line: &[u8]) -> Result<LineInput, String> {
    let line = std::str::from_utf8(line).map_err(|error| format!("not UTF-8, at byte {}", error.valid_up_to() + 1))?;
    let text = line.trim_matches(BLANKS);
    let is_object = text.starts_with('{');
    if matches!(form, Form::Tasks { .. }) && !is_object {
        return Err("not an object with an \"input\"; a line that is itself an input is for --inputs".into());
    }
    // Checks the syntax, at any depth of nesting.
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| no_json(&error, line))?;
    match form {
        Form::Values => Ok(LineInput { input: as_input(text, "this")?, ..LineInput::default() }),
        Form::Tasks { has_kind } => task(text, has_kind),
    }
}

fn task(object: &str, has_kind: bool) -> Result<LineInput, String> {
    let mut line = LineInput::default();
    let mut seen = Vec::new();
    for (name, written) in fields(object) {
        let name = as_text(name).map_err(|problem| format!("the name of a field {problem}"))?;
        let options = &mut line.options;
        let field = Field { name: &name, written };
        match name.as_str() {
            "input" => line.input = as_input(written, &format!("{name:?}"))?,
            "kind" => options.kind = field.text()?,
            "key" => options.key = field.text()?,
            "priority" => options.priority = field.whole(10)?,
            "deadline" => options.deadline = field.duration()?,
            "delay" => options.delay = field.duration()?,
            "timeout" => options.timeout = field.duration()?,
            "maxAttempts" => options.max_attempts = field.whole(u32::MAX)?,
            "ttl" => options.ttl = field.duration()?,
            "role" => options.role = field.role()?,
            "specialization" => options.specialization = field.text()?,
            "queue" => options.queue = field.text()?,
            "limitKey" => options.limit_key = field.text()?,
            _ => return Err(format!("there is no field {name:?}; the fields are {}", FIELDS.join(", "))),
        }
        if seen.contains(&name) {
            return Err(format!("the field {name:?} appears twice; keep one"));
        }
        seen.push(name);
    }
    if line.options.kind.is_none() && !has_kind {
        return Err("there is no \"kind\", and no --kind for all lines".into());
    }
    Ok(line)
}

/// A field of a task, with its value as written. `null` means unset.
struct Field<'a> {
    name: &'a str,
    written: &'a str,
}

impl Field<'_> {
    fn text(&self) -> Result<Option<String>, String> {
        match self.written {
            NULL => Ok(None),
            text if text.starts_with('"') => {
                as_text(text).map(Some).map_err(|problem| format!("{:?} {problem}", self.name))
            }
            _ => Err(self.wrong("text in quotes", Quotes::Shown)),
        }
    }

    fn duration(&self) -> Result<Option<Duration>, String> {
        let wrong = || self.wrong("a duration such as \"30s\" or \"1m30s\"", Quotes::Wanted);
        if self.written != NULL && !self.written.starts_with('"') {
            return Err(wrong());
        }
        self.text()?.map(|text| humantime::parse_duration(&text).map_err(|_| wrong())).transpose()
    }

    /// Parses a whole number in any notation: 9.0 and 9e0 are whole numbers in manifests, too.
    fn whole(&self, most: u32) -> Result<Option<u32>, String> {
        if self.written == NULL {
            return Ok(None);
        }
        let number: Option<f64> = serde_json::from_str(self.written).ok();
        let whole = number.filter(|number| number.fract() == 0.0 && (1.0..=f64::from(most)).contains(number));
        let wrong = || self.wrong(&format!("a whole number from 1 to {most}"), Quotes::Unwanted);
        Ok(Some(whole.ok_or_else(wrong)? as u32))
    }

    /// Parses a role as in `--role`, or capitalized as in manifests.
    fn role(&self) -> Result<Option<AgentRole>, String> {
        let names = AgentRole::value_variants().iter().filter_map(ValueEnum::to_possible_value);
        let names: Vec<String> = names.map(|value| format!("{:?}", value.get_name())).collect();
        let wrong = || self.wrong(&format!("one of {}", names.join(", ")), Quotes::Shown);
        if self.written != NULL && !self.written.starts_with('"') {
            return Err(wrong());
        }
        self.text()?.map(|text| AgentRole::from_str(&text, true).map_err(|_| wrong())).transpose()
    }

    fn wrong(&self, wanted: &str, quotes: Quotes) -> String {
        let advice = match (quotes, self.written.starts_with('"')) {
            (Quotes::Wanted, false) => ", in quotes",
            (Quotes::Unwanted, true) => ", without quotes",
            _ => "",
        };
        format!("{:?} must be {wanted}{advice}, but is {}", self.name, preview(self.written.as_bytes()))
    }
}

/// Whether a value is written in quotes.
enum Quotes {
    Wanted,
    Unwanted,
    /// The description of the expected value already shows them.
    Shown,
}

/// Returns the names and values of an object as written. The text must be a well-formed object.
fn fields(object: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut rest = object.strip_prefix('{');
    std::iter::from_fn(move || {
        let (name, after) = value(rest?)?;
        let (written, after) = value(after.trim_start_matches(BLANKS).strip_prefix(':')?)?;
        rest = after.trim_start_matches(BLANKS).strip_prefix(',');
        Some((name, written))
    })
}

/// Returns the value at the start of a text, and the text after it.
fn value(text: &str) -> Option<(&str, &str)> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<IgnoredAny>();
    values.next()?.ok()?;
    let (value, after) = text.split_at(values.byte_offset());
    Some((value.trim_matches(BLANKS), after))
}

/// Returns the input: the content of a string, or any other value as written.
fn as_input(written: &str, what: &str) -> Result<Vec<u8>, String> {
    if written.starts_with('"') {
        return as_text(written).map(String::into_bytes).map_err(|problem| format!("{what} {problem}"));
    }
    Ok(written.as_bytes().to_vec())
}

/// Decodes a JSON string. Fails if it is not valid text.
fn as_text(written: &str) -> Result<String, &'static str> {
    let none = "is JSON but not valid text: half of a surrogate pair, such as \\ud800, is not a character";
    serde_json::from_str(written).map_err(|_| none)
}

fn no_json(error: &serde_json::Error, line: &str) -> String {
    let text = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    let problem = text.strip_suffix(&place).unwrap_or(&text);
    // The parser counts bytes, and starts after the whitespace before the value.
    let before = line.len() - line.trim_start_matches(BLANKS).len();
    let bytes = line.bytes().take(before + error.column());
    // Count characters: every byte except UTF-8 continuation bytes.
    let column = bytes.filter(|byte| byte & 0xC0 != 0x80).count();
    format!("not JSON, at column {column}: {problem}; text must be in quotes, and a line must be one complete value")
}
