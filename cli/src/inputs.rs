//! The inputs of tasks as users give them: a file, standard input, or a file of JSON lines. Nothing is read beyond its
//! limit, because a file may have no end.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use serde_json::Value;

/// The largest input of a task, bytes. The fleet refuses more, too.
pub const INPUT_LIMIT: usize = 1024 * 1024;
/// The longest line of a file of JSON lines, bytes: JSON may write a byte of a text as six characters (`\u0041`), and
/// there are the other fields.
pub const LINE_LIMIT: usize = 6 * INPUT_LIMIT + 64 * 1024;
/// Lines of a file of JSON lines, at most.
pub const LINES_LIMIT: usize = 1_000_000;
/// Bytes of a file of JSON lines, at most: it is held in memory until everything is submitted.
pub const FILE_LIMIT: u64 = 1024 * 1024 * 1024;
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
        "{from} has more than {INPUT_LIMIT} bytes (1 MiB), which is the most that the input of a task may have: put it \
         where the agents can read it and submit its name"
    )]
    TooLarge {
        /// The file, with the line where there are several inputs.
        from: String,
    },
    /// A line is over [`LINE_LIMIT`].
    #[error(
        "{place} has more than {limit} bytes, and no input of 1 MiB takes as many as JSON: write one JSON value per line"
    )]
    LongLine {
        /// The file with the line.
        place: String,
        /// The longest line that is read, bytes.
        limit: usize,
    },
    /// There is more than is read at once.
    #[error("{from} has more than {limit}, which is the most that is submitted at once: split it")]
    TooMany {
        /// The file.
        from: String,
        /// What there may be of what.
        limit: String,
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

/// How much of a file of JSON lines is read.
#[derive(Clone, Copy)]
struct Limits {
    line: usize,
    lines: usize,
    bytes: u64,
}

const LIMITS: Limits = Limits { line: LINE_LIMIT, lines: LINES_LIMIT, bytes: FILE_LIMIT };

/// Reads a whole file, or standard input for `-`; not more of it than shows that it is too large.
///
/// # Errors
/// [`InputError::Read`], and [`InputError::TooLarge`] over [`INPUT_LIMIT`] bytes.
pub fn read_input(file: &Path) -> Result<Vec<u8>, InputError> {
    let from = name_of(file);
    let mut input = Vec::new();
    let read = open(file).and_then(|opened| opened.take(INPUT_LIMIT as u64 + 1).read_to_end(&mut input));
    read.map_err(|error| InputError::Read { from: from.clone(), error })?;
    check_size(&from, input)
}

/// Reads a file of JSON lines, or standard input for `-`; see [`parse_lines`].
///
/// # Errors
/// As of [`parse_lines`].
pub fn read_lines(file: &Path) -> Result<Vec<LineInput>, InputError> {
    let from = name_of(file);
    let opened = open(file).map_err(|error| InputError::Read { from: from.clone(), error })?;
    parse_lines(&from, opened)
}

fn name_of(file: &Path) -> String {
    if file.as_os_str() == STDIN { "standard input".into() } else { file.display().to_string() }
}

fn open(file: &Path) -> io::Result<Box<dyn BufRead>> {
    if file.as_os_str() == STDIN {
        return Ok(Box::new(io::stdin().lock()));
    }
    Ok(Box::new(BufReader::new(File::open(file)?)))
}

fn check_size(from: &str, input: Vec<u8>) -> Result<Vec<u8>, InputError> {
    if input.len() > INPUT_LIMIT {
        return Err(InputError::TooLarge { from: from.into() });
    }
    Ok(input)
}

/// Reads one JSON value per line; empty lines are skipped. A string is the input itself. An object has the fields
/// `input` (a string, or any JSON value, which is then passed as JSON), and, where wanted, `key` and `priority`. Any
/// other value is passed as JSON.
///
/// # Errors
/// [`InputError::BadLines`] with the first few lines that can't be read, [`InputError::TooLarge`] for an input over
/// [`INPUT_LIMIT`], [`InputError::LongLine`] and [`InputError::TooMany`] over the other limits, [`InputError::Read`], and
/// [`InputError::Empty`].
pub fn parse_lines(from: &str, text: impl BufRead) -> Result<Vec<LineInput>, InputError> {
    parse_within(&LIMITS, from, text)
}

fn parse_within(limits: &Limits, from: &str, mut text: impl BufRead) -> Result<Vec<LineInput>, InputError> {
    let mut inputs = Vec::new();
    let mut bad = BadLines::default();
    let mut line = Vec::new();
    let mut bytes = 0;
    for number in 1.. {
        line.clear();
        // A byte more for the end of the line, or to see that there are too many.
        let read = text.by_ref().take(limits.line as u64 + 1).read_until(b'\n', &mut line);
        bytes += read.map_err(|error| InputError::Read { from: from.into(), error })? as u64;
        if line.is_empty() {
            break;
        }
        let too_many = |limit: String| Err(InputError::TooMany { from: from.into(), limit });
        if number > limits.lines {
            return too_many(format!("{} lines", limits.lines));
        }
        if bytes > limits.bytes {
            return too_many(format!("{} bytes", limits.bytes));
        }
        let place = format!("{from} line {number}");
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        if line.len() > limits.line {
            return Err(InputError::LongLine { place, limit: limits.line });
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        match parse_line(line) {
            Ok(mut parsed) => {
                parsed.input = check_size(&format!("the input in {place}"), parsed.input)?;
                inputs.push(parsed);
            }
            Err(problem) => bad.add(&place, &problem),
        }
    }
    bad.check(from)?;
    if inputs.is_empty() {
        return Err(InputError::Empty { from: from.into() });
    }
    Ok(inputs)
}

/// Lines that can't be read: the first few in words, and how many more there are.
#[derive(Default)]
struct BadLines {
    problems: Vec<String>,
    further: usize,
}

impl BadLines {
    fn add(&mut self, place: &str, problem: &str) {
        if self.problems.len() < REPORTED_LINES {
            self.problems.push(format!("{place}: {problem}"));
        } else {
            self.further += 1;
        }
    }

    fn check(mut self, from: &str) -> Result<(), InputError> {
        if self.further > 0 {
            self.problems.push(format!("{} more lines of {from} can't be read", self.further));
        }
        if self.problems.is_empty() { Ok(()) } else { Err(InputError::BadLines { problems: self.problems }) }
    }
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
        let inputs = parse_lines("in.jsonl", &lines[..]).expect("all lines are good");
        let texts: Vec<_> = inputs.iter().map(|line| String::from_utf8_lossy(&line.input).into_owned()).collect();
        assert_eq!(texts, ["plain", "text", "{\"a\":[1]}", "42"]);
        assert_eq!((inputs[1].key.as_deref(), inputs[1].priority), (Some("k1"), Some(9)));
        assert_eq!(inputs[0].key, None);
    }

    #[test]
    fn bad_lines_are_named_by_their_numbers() {
        let lines = b"\"good\"\nplain text\n{\"inptu\": 1}\n{\"key\": \"a\"}\n{\"input\": 1, \"priority\": 11}\n{\"input\": 1, \"key\": 2}";
        let error = parse_lines("in.jsonl", &lines[..]).expect_err("five lines are bad");
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
        let error = parse_lines("in.jsonl", &b"a\nb\nc\nd\ne\nf\ng"[..]).expect_err("all are bad").to_string();
        assert!(error.contains("line 5:") && !error.contains("line 6:"), "{error}");
        assert!(error.ends_with("2 more lines of in.jsonl can't be read"), "{error}");
    }

    #[test]
    fn the_limit_of_an_input_is_exact() {
        let line = |bytes: usize| format!("\"{}\"", "x".repeat(bytes)).into_bytes();
        assert_eq!(parse_lines("f", &line(INPUT_LIMIT)[..]).expect("at the limit")[0].input.len(), INPUT_LIMIT);
        let error = parse_lines("f", &line(INPUT_LIMIT + 1)[..]).expect_err("over the limit");
        assert!(error.to_string().starts_with("the input in f line 1 has more than 1048576 bytes (1 MiB)"), "{error}");
    }

    #[test]
    fn a_file_without_inputs_is_no_mistake_to_pass_over() {
        assert!(matches!(parse_lines("f", &b"\n \n"[..]), Err(InputError::Empty { .. })));
    }

    #[test]
    fn an_input_that_takes_the_most_as_json_fits_a_line() {
        let line = format!("{{\"input\": \"{}\", \"key\": \"k\", \"priority\": 10}}", "\\u0041".repeat(INPUT_LIMIT));
        assert_eq!(parse_lines("f", line.as_bytes()).expect("at the limit")[0].input.len(), INPUT_LIMIT);
    }

    #[test]
    fn the_limits_of_a_file_are_exact() {
        let parse = |limits: Limits, text: &[u8]| parse_within(&limits, "f", text);
        let roomy = Limits { line: 100, lines: 100, bytes: 100 };
        for (limits, within, over, problem) in [
            (Limits { line: 3, ..roomy }, &b"\"a\"\n"[..], &b"\"ab\"\n"[..], "f line 1 has more than 3 bytes"),
            (Limits { line: 3, ..roomy }, b"1\n\"a\"", b"1\n\"ab\"", "f line 2 has more than 3 bytes"),
            (Limits { lines: 2, ..roomy }, b"1\n2\n", b"1\n2\n3", "f has more than 2 lines"),
            (Limits { bytes: 4, ..roomy }, b"1\n2\n", b"1\n22\n", "f has more than 4 bytes"),
        ] {
            assert!(parse(limits, within).is_ok(), "{problem}");
            let error = parse(limits, over).expect_err(problem).to_string();
            assert!(error.starts_with(problem), "{error}");
        }
    }

    #[test]
    fn a_file_without_an_end_is_not_read_for_ever() {
        let endless = Path::new("/dev/zero");
        assert!(matches!(read_input(endless), Err(InputError::TooLarge { .. })));
        assert!(matches!(read_lines(endless), Err(InputError::LongLine { .. })));
        let lines = BufReader::new(io::repeat(b'\n'));
        assert!(matches!(parse_lines("f", lines), Err(InputError::TooMany { .. })));
    }
}
