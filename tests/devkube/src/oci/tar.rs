//! Writes tar archives (POSIX ustar) without timestamps and owners, so that the bytes depend only on the contents.

use crate::error::{Error, Result};

/// The size of a tar block, bytes.
const BLOCK: usize = 512;
/// The length of the name field, bytes.
const NAME: usize = 100;
/// The length of the prefix field, which holds leading folders of a longer path, bytes.
const PREFIX: usize = 155;

/// An archive that is being written.
#[derive(Debug, Default)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    folders: std::collections::BTreeSet<String>,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self::default()
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, contents: &[u8]) -> Result<()> {
        self.header(path, mode, contents.len(), b'0', "")?;
        self.bytes.extend_from_slice(contents);
        self.pad();
        Ok(())
    }

    pub(super) fn link(&mut self, path: &str, target: &str) -> Result<()> {
        self.header(path, 0o777, 0, b'2', target)
    }

    /// Adds a folder, unless the archive already has a folder with this path.
    pub(super) fn folder(&mut self, path: &str, mode: u32) -> Result<()> {
        if !self.folders.insert(path.into()) {
            return Ok(());
        }
        self.header(&format!("{path}/"), mode, 0, b'5', "")
    }

    /// Ends the archive with two empty blocks, and returns it.
    pub(super) fn end(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
    }

    fn header(&mut self, path: &str, mode: u32, size: usize, kind: u8, link: &str) -> Result<()> {
        let (prefix, name) = split(path)?;
        if link.len() > NAME {
            return Err(Error::Image { path: path.into(), problem: "its link target is longer than 100 bytes" });
        }
        let mut block = [0; BLOCK];
        block[..name.len()].copy_from_slice(name.as_bytes());
        octal(&mut block[100..108], mode as usize);
        octal(&mut block[108..116], 0);
        octal(&mut block[116..124], 0);
        octal(&mut block[124..136], size);
        octal(&mut block[136..148], 0);
        block[156] = kind;
        block[157..157 + link.len()].copy_from_slice(link.as_bytes());
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[345..345 + prefix.len()].copy_from_slice(prefix.as_bytes());
        // The checksum is computed with its own field filled with spaces.
        block[148..156].fill(b' ');
        let sum = block.iter().map(|byte| usize::from(*byte)).sum();
        octal(&mut block[148..155], sum);
        self.bytes.extend_from_slice(&block);
        Ok(())
    }
}

/// Writes a number in octal digits that fill the field, except for a closing NUL.
fn octal(field: &mut [u8], value: usize) {
    let width = field.len() - 1;
    let digits = format!("{value:0width$o}");
    field[..width].copy_from_slice(&digits.as_bytes()[digits.len() - width..]);
    field[width] = 0;
}

/// Splits a path into prefix and name, at a slash, if it is too long for the name field.
fn split(path: &str) -> Result<(&str, &str)> {
    if path.len() <= NAME {
        return Ok(("", path));
    }
    path.match_indices('/')
        .map(|(at, _)| (&path[..at], &path[at + 1..]))
        .find(|(prefix, name)| prefix.len() <= PREFIX && name.len() <= NAME && !name.is_empty())
        .ok_or_else(|| Error::Image { path: path.into(), problem: "its path is too long for the tar format" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_at_the_edge() {
        let name = "n".repeat(NAME);
        assert_eq!(split(&name).unwrap(), ("", &name[..]));
        let long = format!("{}/{name}", "p".repeat(PREFIX));
        assert_eq!(split(&long).unwrap().1, name);
        assert!(split(&format!("p{long}")).is_err());
        assert!(split(&"n".repeat(NAME + 1)).is_err());
    }

    #[test]
    fn octal_fields_end_with_a_nul() {
        let mut field = [b'x'; 8];
        octal(&mut field, 0o755);
        assert_eq!(&field, b"0000755\0");
    }
}
