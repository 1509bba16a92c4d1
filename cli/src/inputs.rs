//! The inputs of tasks as users give them: a file, standard input, or a file of JSON lines.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use serde_json::Value;

/// The largest input of a task, bytes. The fleet refuses more, too.
pub const INPUT_LIMIT: usize = 1024 * 1024;
/// Bad lines that one error names.
const REPORTED_LINES: usize = 5;
/// What stands for standard input.
pub const STDIN: &str = "-";

/// Inputs that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The file can't be read.
    #[error("can't read {from}: {error}")]
    Read {
        /// The file.
        from: String,
        /// Why not.
        error: io::Error,
    },
    /// An input is over [`INPUT_LIMIT`].
    #[error(
        "{from} is {bytes} bytes; the input of a task may have {INPUT_LIMIT} (1 MiB): put it where the agents can \
         read it and submit its name"
    )]
    TooLarge {
        /// The file, with the line where there are several inputs.
        from: String,
        /// Its size.
        bytes: usize,
    },
    /// Lines that can't be read. Nothing was submitted.
    #[error("{}", .problems.join("\n"))]
    BadLines {
        /// One sentence for each, with file and line.
        problems: Vec<String>,
    },
    /// There is no input at all in a file of many.
    #[error("{from} has no inputs: write one JSON value per line")]
    Empty {
        /// The file.
        from: String,
    },
}

/// One task of a file of JSON lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LineInput {
    /// The task's input.
    pub input: Vec<u8>,
    /// Its idempotency key.
    pub key: Option<String>,
    /// Its priority, 1 to 10.
    pub priority: Option<u32>,
}

/// Reads a whole file, or standard input for `-`.
///
/// # Errors
/// [`InputError::Read`], and [`InputError::TooLarge`] over [`INPUT_LIMIT`] bytes.
pub fn read_input(file: &Path) -> Result<Vec<u8>, InputError> {
    let bytes = read_all(file)?;
    check_size(&name_of(file), bytes)
}

/// Reads a file of JSON lines, or standard input for `-`; see [`parse_lines`].
///
/// # Errors
/// As of [`parse_lines`], and [`InputError::Read`].
pub fn read_lines(file: &Path) -> Result<Vec<LineInput>, InputError> {
    parse_lines(&name_of(file), &read_all(file)?)
}

fn name_of(file: &Path) -> String {
    if file.as_os_str() == STDIN { "standard input".into() } else { file.display().to_string() }
}

fn read_all(file: &Path) -> Result<Vec<u8>, InputError> {
    let read = if file.as_os_str() == STDIN {
        let mut bytes = Vec::new();
        io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        fs::read(file)
    };
    read.map_err(|error| InputError::Read { from: name_of(file), error })
}

fn check_size(from: &str, input: Vec<u8>) -> Result<Vec<u8>, InputError> {
    if input.len() > INPUT_LIMIT {
        return Err(InputError::TooLarge { from: from.into(), bytes: input.len() });
    }
    Ok(input)
}

/// Reads one JSON value per line; empty lines are skipped. A string is the input itself. An object has the fields
/// `input` (a string, or any JSON value, which is then passed as JSON), and, where wanted, `key` and `priority`. Any
/// other value is passed as JSON.
///
/// # Errors
/// [`InputError::BadLines`] with the first few lines that can't be read, [`InputError::TooLarge`] for an input over
/// [`INPUT_LIMIT`], and [`InputError::Empty`].
pub fn parse_lines(from: &str, bytes: &[u8]) -> Result<Vec<LineInput>, InputError> {
    let mut inputs = Vec::new();
    let mut problems = Vec::new();
    let mut further = 0;
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let place = format!("{from} line {}", index + 1);
        match parse_line(line) {
            Ok(mut parsed) => {
                parsed.input = check_size(&format!("the input in {place}"), parsed.input)?;
                inputs.push(parsed);
            }
            Err(problem) if problems.len() < REPORTED_LINES => problems.push(format!("{place}: {problem}")),
            Err(_) => further += 1,
        }
    }
    if further > 0 {
        problems.push(format!("{further} more lines of {from} can't be read"));
    }
    if !problems.is_empty() {
        return Err(InputError::BadLines { problems });
    }
    if inputs.is_empty() {
        return Err(InputError::Empty { from: from.into() });
    }
    Ok(inputs)
}

fn parse_line(line: &[u8]) -> Result<LineInput, String> {
    let value: Value = serde_json::from_slice(line).map_err(|error| {
        // The line number of the parser is always 1 here.
        let text = error.to_string();
        let problem = text.split(" at line ").next().unwrap_or(&text);
        format!("not JSON, at column {}: {problem}; a text stands in quotes", error.column())
    })?;
    let Value::Object(fields) = value else {
        return Ok(LineInput { input: as_input(value), ..LineInput::default() });
    };
    let mut parsed = LineInput::default();
    let mut has_input = false;
    for (name, value) in fields {
        match (name.as_str(), value) {
            ("input", value) => {
                has_input = true;
                parsed.input = as_input(value);
            }
            ("key", Value::String(key)) => parsed.key = Some(key),
            ("key", _) => return Err("\"key\" is not a string".into()),
            ("priority", value) => match value.as_u64() {
                Some(priority @ 1..=10) => parsed.priority = Some(priority as u32),
                _ => return Err("\"priority\" is not a number from 1 to 10".into()),
            },
            _ => {
                return Err(format!(
                    "{name:?} is no field; an object has input, key and priority (to pass an object as the input, \
                     put it under \"input\")"
                ));
            }
        }
    }
    if !has_input {
        return Err("the object has no \"input\"".into());
    }
    Ok(parsed)
}

fn as_input(value: Value) -> Vec<u8> {
    match value {
        Value::String(text) => text.into_bytes(),
        other => other.to_string().into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_text_an_object_or_any_json() {
        let lines =
            b"\"plain\"\n\n{\"input\": \"text\", \"key\": \"k1\", \"priority\": 9}\r\n{\"input\": {\"a\": [1]}}\n42\n";
        let inputs = parse_lines("in.jsonl", lines).expect("all lines are good");
        let texts: Vec<_> = inputs.iter().map(|line| String::from_utf8_lossy(&line.input).into_owned()).collect();
        assert_eq!(texts, ["plain", "text", "{\"a\":[1]}", "42"]);
        assert_eq!((inputs[1].key.as_deref(), inputs[1].priority), (Some("k1"), Some(9)));
        assert_eq!(inputs[0].key, None);
    }

    #[test]
    fn bad_lines_are_named_by_their_numbers() {
        let lines = b"\"good\"\nplain text\n{\"inptu\": 1}\n{\"key\": \"a\"}\n{\"input\": 1, \"priority\": 11}\n{\"input\": 1, \"key\": 2}";
        let error = parse_lines("in.jsonl", lines).expect_err("five lines are bad");
        insta::assert_snapshot!(error, @r#"
        in.jsonl line 2: not JSON, at column 1: expected value; a text stands in quotes
        in.jsonl line 3: "inptu" is no field; an object has input, key and priority (to pass an object as the input, put it under "input")
        in.jsonl line 4: the object has no "input"
        in.jsonl line 5: "priority" is not a number from 1 to 10
        in.jsonl line 6: "key" is not a string
        "#);
    }

    #[test]
    fn only_the_first_bad_lines_are_told() {
        let error = parse_lines("in.jsonl", b"a\nb\nc\nd\ne\nf\ng").expect_err("all are bad").to_string();
        assert!(error.contains("line 5:") && !error.contains("line 6:"), "{error}");
        assert!(error.ends_with("2 more lines of in.jsonl can't be read"), "{error}");
    }

    #[test]
    fn the_limit_of_an_input_is_exact() {
        let line = |bytes: usize| format!("\"{}\"", "x".repeat(bytes)).into_bytes();
        assert_eq!(parse_lines("f", &line(INPUT_LIMIT)).expect("at the limit")[0].input.len(), INPUT_LIMIT);
        let error = parse_lines("f", &line(INPUT_LIMIT + 1)).expect_err("over the limit");
        assert!(error.to_string().starts_with("the input in f line 1 is 1048577 bytes"), "{error}");
    }

    #[test]
    fn a_file_without_inputs_is_no_mistake_to_pass_over() {
        assert!(matches!(parse_lines("f", b"\n \n"), Err(InputError::Empty { .. })));
    }
}
