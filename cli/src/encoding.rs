//! Texts in the encodings that programs write files in: UTF-8, and UTF-16 with a byte order mark, as the `>` of PowerShell writes.

use std::io::{self, ErrorKind};

/// What some programs put before a text.
pub(crate) const MARK: char = '\u{feff}';
/// Bytes at the beginning of a text that tell its encoding, at most.
pub(crate) const TELLING: usize = 4;

/// How a text is written.
#[derive(Clone, Copy)]
pub(crate) enum Encoding {
    /// In UTF-8, as far as its beginning tells.
    Utf8,
    /// In UTF-16, whose units are made so of their bytes.
    Utf16(fn([u8; 2]) -> u16),
}

impl Encoding {
    /// Of a text that begins so, with [`TELLING`] bytes or all that there are. Where there is no mark, the NULs of what has
    /// an ASCII character first, as JSON and YAML do, tell.
    ///
    /// # Errors
    /// When it is in an encoding that is not read.
    pub(crate) fn of(start: &[u8]) -> io::Result<Self> {
        match *start {
            [0xFF, 0xFE, 0, 0, ..] | [0, 0, 0xFE, 0xFF, ..] => Err(invalid("it is UTF-32: save it as UTF-8")),
            [0xFF, 0xFE, ..] => Ok(Self::Utf16(u16::from_le_bytes)),
            [0xFE, 0xFF, ..] => Ok(Self::Utf16(u16::from_be_bytes)),
            [1..=0xFF, 0, 0, 0, ..] | [0, 0, 0, 1..=0xFF, ..] => Err(invalid("it is UTF-32: save it as UTF-8")),
            [1..=0xFF, 0, ..] | [0, 1..=0xFF, ..] => {
                Err(invalid("it is UTF-16 without a byte order mark: save it as UTF-8"))
            }
            _ => Ok(Self::Utf8),
        }
    }
}

/// The text of these bytes, with its mark.
///
/// # Errors
/// When they are no text, or one in an encoding that is not read.
pub(crate) fn decode(bytes: Vec<u8>) -> io::Result<String> {
    let unit = match Encoding::of(&bytes)? {
        Encoding::Utf8 => return String::from_utf8(bytes).map_err(|error| invalid(error.utf8_error().to_string())),
        Encoding::Utf16(unit) => unit,
    };
    let (units, half) = bytes.as_chunks();
    match char::decode_utf16(units.iter().copied().map(unit)).collect() {
        Ok(text) if half.is_empty() => Ok(text),
        Ok(_) => Err(invalid("it is UTF-16 and has an odd number of bytes: its last character is cut")),
        Err(error) => Err(invalid(format!("it begins as UTF-16 does, and is none ({error})"))),
    }
}

fn invalid(problem: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, problem.into())
}
