//! Decodes the encodings that programs write text files in: UTF-8, and UTF-16 with a byte order mark, as written by `>`
//! in PowerShell.

use std::io::{self, ErrorKind};

/// The byte order mark, which some programs put before a text.
pub(crate) const MARK: char = '\u{feff}';
/// Maximum number of leading bytes needed to detect the encoding of a text.
pub(crate) const TELLING: usize = 4;

/// The encoding of a text.
#[derive(Clone, Copy)]
pub(crate) enum Encoding {
    /// UTF-8, as far as the leading bytes show.
    Utf8,
    /// UTF-16, with the function that converts two bytes to a code unit.
    Utf16(fn([u8; 2]) -> u16),
}

impl Encoding {
    /// Detects the encoding from the first [`TELLING`] bytes of a text, or all bytes if there are fewer. Without a byte
    /// order mark, the position of NUL bytes shows the encoding of a text that starts with an ASCII character, as JSON
    /// and YAML do.
    ///
    /// # Errors
    /// If the encoding is not supported.
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

/// Decodes a text, keeping its byte order mark.
///
/// # Errors
/// If the bytes are not valid text, or the encoding is not supported.
pub(crate) fn decode(bytes: Vec<u8>) -> io::Result<String> {
    let unit = match Encoding::of(&bytes)? {
        Encoding::Utf8 => return String::from_utf8(bytes).map_err(|error| invalid(error.utf8_error().to_string())),
        Encoding::Utf16(unit) => unit,
    };
    let (units, half) = bytes.as_chunks();
    match char::decode_utf16(units.iter().copied().map(unit)).collect() {
        Ok(text) if half.is_empty() => Ok(text),
        Ok(_) => Err(invalid("it is UTF-16 and has an odd number of bytes: its last character is cut")),
        Err(error) => Err(invalid(format!("it starts like UTF-16 but is not valid UTF-16 ({error})"))),
    }
}

fn invalid(problem: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, problem.into())
}
