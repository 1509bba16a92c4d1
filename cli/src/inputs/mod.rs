//! Reads the inputs of tasks: a file, standard input, or a file of JSON lines. Reading stops at a limit, because a file
//! such as `/dev/zero` has no end.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::Path,
};

use robeing_blobs::MAX_BLOB_BYTES;

use crate::encoding::{Encoding, TELLING, decode};

mod line;
mod workflow;

pub use line::{Form, LineInput, LineOptions};
pub use workflow::{STEPS_LIMIT, Step, WORKFLOW_LIMIT, Workflow, parse_workflow, read_workflow};

/// Maximum size in bytes of a task's input. The fleet enforces the same limit.
pub const INPUT_LIMIT: usize = 1024 * 1024;
/// Maximum size in bytes of the input of a schedule's tasks. The fleet enforces the same limit.
pub const SCHEDULE_INPUT_LIMIT: usize = 64 * 1024;
/// Maximum size in bytes of a message. The fleet enforces the same limit.
pub const MESSAGE_LIMIT: usize = 1024 * 1024;
/// Maximum length in bytes of a line in a file of JSON lines: JSON can take six characters for one byte of text
/// (`\u0041`), and a line has other fields.
pub const LINE_LIMIT: usize = 6 * INPUT_LIMIT + 64 * 1024;
/// Maximum number of lines in a file of JSON lines.
pub const LINES_LIMIT: usize = 1_000_000;
/// Maximum size in bytes of a file of JSON lines, which is held in memory until everything is submitted.
pub const FILE_LIMIT: u64 = 1024 * 1024 * 1024;
/// Maximum number of bad lines that an error lists.
const REPORTED_LINES: usize = 5;
/// [`MARK`](crate::encoding::MARK) in UTF-8.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
/// The file name that means standard input.
pub const STDIN: &str = "-";

/// The error of an invalid input.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The file could not be read.
    #[error("can't read {from}: {error}")]
    Read {
        /// The file.
        from: String,
        /// The error.
        error: io::Error,
    },
    /// An input is larger than [`INPUT_LIMIT`].
    #[error(
        "{from} has more than {INPUT_LIMIT} bytes (1 MiB), which is the limit for a task's input: give --object-store, or \
         store it where the agents can read it and submit its name"
    )]
    TooLarge {
        /// The file.
        from: String,
    },
    /// The input in a line is larger than [`INPUT_LIMIT`]. Lines are not put into the object store.
    #[error(
        "{from} has more than {INPUT_LIMIT} bytes (1 MiB), which is the limit for an input in a file of many: submit it \
         alone, by --input with --object-store, or store it where the agents can read it and submit its name"
    )]
    LineTooLarge {
        /// The file and line.
        from: String,
    },
    /// The input of a schedule's tasks is larger than [`SCHEDULE_INPUT_LIMIT`].
    #[error(
        "{from} has more than {SCHEDULE_INPUT_LIMIT} bytes (64 KiB), which is the limit for the input of a schedule: \
         store it where the agents can read it and give its name"
    )]
    ScheduledTooLarge {
        /// The file.
        from: String,
    },
    /// An input is larger than what can be in the object store.
    #[error(
        "{from} has more than {MAX_BLOB_BYTES} bytes (64 MiB), which is the limit for an input in the object store: \
         split it, or store it where the agents can read it and submit its name"
    )]
    ObjectTooLarge {
        /// The file.
        from: String,
    },
    /// A message is larger than [`MESSAGE_LIMIT`].
    #[error(
        "{from} has more than {MESSAGE_LIMIT} bytes (1 MiB), which is the limit for a message: store it where the \
         receiver can read it and send its name"
    )]
    MessageTooLarge {
        /// The file.
        from: String,
    },
    /// A line is longer than [`LINE_LIMIT`].
    #[error(
        "{place} has more than {limit} bytes, which is more than any input of 1 MiB takes as JSON: write one JSON \
         value per line"
    )]
    LongLine {
        /// The file and line.
        place: String,
        /// The maximum length of a line, in bytes.
        limit: usize,
    },
    /// The file has too many lines or bytes.
    #[error("{from} has more than {limit}, which is the limit for one submission: split it")]
    TooMany {
        /// The file.
        from: String,
        /// The limit, with its unit.
        limit: String,
    },
    /// Some lines are invalid. Nothing was submitted.
    #[error("{}", .problems.join("\n"))]
    BadLines {
        /// One sentence per bad line, with file and line.
        problems: Vec<String>,
    },
    /// The file of a workflow is invalid. Nothing was submitted.
    #[error("{from}: {problem}")]
    Workflow {
        /// The file.
        from: String,
        /// What is wrong.
        problem: String,
    },
    /// A file of JSON lines contains no input.
    #[error("{from} has no inputs: write one JSON value per line")]
    Empty {
        /// The file.
        from: String,
    },
}

/// The limits for a file of JSON lines.
#[derive(Clone, Copy)]
struct Limits {
    line: usize,
    lines: usize,
    bytes: u64,
}

const LIMITS: Limits = Limits { line: LINE_LIMIT, lines: LINES_LIMIT, bytes: FILE_LIMIT };

/// Reads the input of a task: a whole file, or standard input for `-`. Stops reading one byte over the limit.
///
/// # Errors
/// [`InputError::Read`], or [`InputError::TooLarge`] over [`INPUT_LIMIT`] bytes.
pub fn read_input(file: &Path) -> Result<Vec<u8>, InputError> {
    read_within(INPUT_LIMIT, file, |from| InputError::TooLarge { from })
}

/// Reads the input of a schedule's tasks, as [`read_input`] reads that of a task.
///
/// # Errors
/// [`InputError::Read`], or [`InputError::ScheduledTooLarge`] over [`SCHEDULE_INPUT_LIMIT`] bytes.
pub fn read_scheduled_input(file: &Path) -> Result<Vec<u8>, InputError> {
    read_within(SCHEDULE_INPUT_LIMIT, file, |from| InputError::ScheduledTooLarge { from })
}

/// Reads an input that may be put into the object store, as [`read_input`] reads another one.
///
/// # Errors
/// [`InputError::Read`], or [`InputError::ObjectTooLarge`] over [`MAX_BLOB_BYTES`] bytes.
pub fn read_large_input(file: &Path) -> Result<Vec<u8>, InputError> {
    let limit = usize::try_from(MAX_BLOB_BYTES).unwrap_or(usize::MAX - 1);
    read_within(limit, file, |from| InputError::ObjectTooLarge { from })
}

/// Reads a message, as [`read_input`] reads an input.
///
/// # Errors
/// [`InputError::Read`], or [`InputError::MessageTooLarge`] over [`MESSAGE_LIMIT`] bytes.
pub fn read_message(file: &Path) -> Result<Vec<u8>, InputError> {
    read_within(MESSAGE_LIMIT, file, |from| InputError::MessageTooLarge { from })
}

/// Reads a file to its end. Stops one byte over the limit, with what `too_large` makes of the file's name.
fn read_within(limit: usize, file: &Path, too_large: impl FnOnce(String) -> InputError) -> Result<Vec<u8>, InputError> {
    let mut bytes = Vec::new();
    let read = open(file).and_then(|opened| opened.take(limit as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|error| InputError::Read { from: name_of(file), error })?;
    match bytes.len() <= limit {
        true => Ok(bytes),
        false => Err(too_large(name_of(file))),
    }
}

/// Reads a file of JSON lines, or standard input for `-`; see [`parse_lines`].
///
/// # Errors
/// As for [`parse_lines`].
pub fn read_lines(file: &Path, form: Form) -> Result<Vec<LineInput>, InputError> {
    let from = name_of(file);
    let opened = open(file).map_err(|error| InputError::Read { from: from.clone(), error })?;
    parse_lines(form, &from, opened)
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

/// Parses one JSON value per line, in UTF-8 or, with a byte order mark, in UTF-16. Empty lines and byte order marks at
/// the start of lines are skipped. With [`Form::Values`], a string is the input itself, and any other value is the
/// input as written. With [`Form::Tasks`], the value is an object whose optional fields are `input`, which is such a
/// value, and those of [`LineOptions`].
///
/// # Errors
/// [`InputError::BadLines`] with the first few invalid lines, [`InputError::LineTooLarge`] for an input over
/// [`INPUT_LIMIT`], [`InputError::LongLine`] and [`InputError::TooMany`] over the other limits, [`InputError::Read`],
/// or [`InputError::Empty`].
pub fn parse_lines(form: Form, from: &str, text: impl BufRead) -> Result<Vec<LineInput>, InputError> {
    parse_within(&LIMITS, form, from, text)
}

fn parse_within(limits: &Limits, form: Form, from: &str, mut text: impl BufRead) -> Result<Vec<LineInput>, InputError> {
    let unreadable = |error| InputError::Read { from: from.into(), error };
    let mut bytes = Vec::new();
    text.by_ref().take(TELLING as u64).read_to_end(&mut bytes).map_err(unreadable)?;
    match Encoding::of(&bytes).map_err(unreadable)? {
        Encoding::Utf8 => parse_utf8(limits, form, from, bytes.as_slice().chain(text)),
        Encoding::Utf16(_) => {
            text.take(limits.bytes).read_to_end(&mut bytes).map_err(unreadable)?;
            if bytes.len() as u64 > limits.bytes {
                return Err(InputError::TooMany { from: from.into(), limit: format!("{} bytes", limits.bytes) });
            }
            parse_utf8(limits, form, from, decode(bytes).map_err(unreadable)?.as_bytes())
        }
    }
}

fn parse_utf8(limits: &Limits, form: Form, from: &str, mut text: impl BufRead) -> Result<Vec<LineInput>, InputError> {
    let mut inputs = Vec::new();
    let mut bad = BadLines::default();
    let mut line = Vec::new();
    let mut bytes = 0;
    for number in 1.. {
        line.clear();
        // Read one byte more: the line end, or the byte that shows that the line is too long.
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
        // In concatenated files, each can start with a byte order mark.
        let line = line.strip_prefix(BYTE_ORDER_MARK).unwrap_or(line);
        if line.trim_ascii().is_empty() {
            continue;
        }
        match line::parse(form, line) {
            Ok(parsed) if parsed.input.len() > INPUT_LIMIT => {
                return Err(InputError::LineTooLarge { from: format!("the input in {place}") });
            }
            Ok(parsed) => inputs.push(parsed),
            Err(problem) => bad.add(&place, &problem),
        }
    }
    bad.check(from)?;
    if inputs.is_empty() {
        return Err(InputError::Empty { from: from.into() });
    }
    Ok(inputs)
}

/// The first few invalid lines, and the number of further ones.
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

#[cfg(test)]
mod tests;
