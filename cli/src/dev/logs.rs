//! The log files of processes: opened for appending, limited in size, and searched for their last line.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::Path,
};

use crate::render::printable;

/// Size in bytes above which a log file is rotated; only one rotated file is kept.
pub(super) const LOG_LIMIT: u64 = 64 * 1024 * 1024;
/// Number of bytes at the end of a log that are searched for the last line.
const TAIL: u64 = 8 * 1024;
/// Maximum number of characters of the last line that are shown.
const SHOWN: usize = 300;

/// Opens a log for appending, and returns its current length.
pub(super) fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let end = file.metadata()?.len();
    Ok((file, end))
}

/// Appends a line to a log that another process also writes to.
pub(super) fn note(path: &Path, line: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(path)?;
    file.write_all(format!("{line}\n").as_bytes())
}

/// Copies a log that is over the limit to the rotated file, and truncates it. The process keeps appending to the same
/// file; a line that it writes at that moment can be lost.
pub(super) fn rotate(path: &Path, limit: u64) -> io::Result<bool> {
    if fs::metadata(path)?.len() <= limit {
        return Ok(false);
    }
    fs::copy(path, path.with_extension("log.old"))?;
    OpenOptions::new().write(true).open(path)?.set_len(0)?;
    Ok(true)
}

/// Returns the last non-empty line that was written after `start`.
pub(super) fn last_line(path: &Path, start: u64) -> Option<String> {
    find_last(path, start, |line| !line.is_empty())
}

/// Returns the length of a log; 0 if there is none.
pub(super) fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// Returns the last line that was written after `start` and contains all of these strings.
pub(super) fn last_line_with(path: &Path, start: u64, words: &[&str]) -> Option<String> {
    find_last(path, start, |line| words.iter().all(|words| line.contains(words)))
}

fn find_last(path: &Path, start: u64, is_wanted: impl Fn(&str) -> bool) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    // A log that was truncated meanwhile starts from 0.
    let start = if length < start { 0 } else { start };
    file.seek(SeekFrom::Start(start.max(length.saturating_sub(TAIL)))).ok()?;
    let mut tail = Vec::new();
    file.take(TAIL).read_to_end(&mut tail).ok()?;
    let text = String::from_utf8_lossy(&tail);
    let line = text.lines().rev().map(str::trim).find(|line| is_wanted(line))?;
    Some(printable(line).chars().take(SHOWN).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_added_or_it_is_said_why_not() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.log");
        fs::write(&path, "first\n").expect("written");
        note(&path, "second").expect("added");
        assert_eq!(fs::read_to_string(&path).expect("read"), "first\nsecond\n");
        let full = note(Path::new("/dev/full"), "lost").expect_err("it is full").to_string();
        assert!(full.starts_with("No space left on device"), "{full}");
    }

    #[test]
    fn the_last_line_is_of_this_run() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.log");
        fs::write(&path, "old run\n").expect("written");
        let (mut file, start) = open(&path).expect("opened");
        assert_eq!(last_line(&path, start), None);
        file.write_all(b"first\nlast \x1b[31mred\n\n").expect("written");
        assert_eq!(last_line(&path, start).as_deref(), Some("last  [31mred"));
    }

    #[test]
    fn a_log_over_the_limit_is_put_aside_while_it_is_written() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("a.log");
        let (mut file, _) = open(&path).expect("opened");
        file.write_all(b"12345678").expect("written");
        assert!(!rotate(&path, 8).expect("at the limit"));
        assert!(rotate(&path, 7).expect("over the limit"));
        file.write_all(b"more").expect("written");
        assert_eq!(fs::read(&path).expect("read"), b"more");
        assert_eq!(fs::read(dir.path().join("a.log.old")).expect("read"), b"12345678");
        assert_eq!(last_line(&path, 8).as_deref(), Some("more"));
    }
}
