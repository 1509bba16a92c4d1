//! What an attempt says while it runs: its progress, and the newest lines that it has written. An executor writes, and
//! the session reads when somebody follows the attempt. Nothing of it is needed to run a task: what nobody reads in time
//! is forgotten.
//!
//! This module knows bytes, lines and limits, not who follows.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use robeing_platform::Clock;
use tokio::sync::Notify;

/// The maximum number of lines kept of an attempt.
pub const MAX_LINES: usize = 1_000;
/// The maximum length of a line, in bytes; the rest of a longer one is left out.
pub const MAX_LINE_BYTES: usize = 4 * 1024;
/// The maximum size of the lines kept of an attempt, in bytes, each with [`LINE_OVERHEAD`].
pub const MAX_LOG_BYTES: usize = 64 * 1024;
/// Bytes added to the length of a line when it is counted.
pub const LINE_OVERHEAD: usize = 64;
/// The maximum length of the text of a progress, in bytes; the rest of a longer one is left out.
pub const MAX_PROGRESS_TEXT: usize = 256;
/// What a line on the stderr of a command begins with that is no line for readers but the command's progress: a number
/// from 0 to 1 follows, and then a text, if there is one.
pub const PROGRESS_MARK: &str = "::progress ";

/// What a line was written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    /// The stdout of a command.
    Stdout,
    /// The stderr of a command.
    Stderr,
    /// The agent's API for attached processes.
    Worker,
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedLine {
    /// What it was written to.
    pub stream: LogStream,
    /// The line without its end, with invalid UTF-8 replaced; at most [`MAX_LINE_BYTES`].
    pub text: String,
    /// The line was longer.
    pub is_cut: bool,
    /// When it was complete, by the wall clock of this machine, in Unix milliseconds.
    pub unix_ms: u64,
}

impl LoggedLine {
    /// Returns the bytes that the line counts.
    pub fn size(&self) -> usize {
        self.text.len() + LINE_OVERHEAD
    }
}

/// How far an attempt is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Progress {
    /// 0 to 1.
    pub fraction: f64,
    /// At most [`MAX_PROGRESS_TEXT`] bytes.
    pub text: String,
}

impl Progress {
    /// Returns a progress within the limits; `None` if `fraction` is no number.
    pub fn new(fraction: f64, text: &str) -> Option<Self> {
        let text = text[..text.floor_char_boundary(MAX_PROGRESS_TEXT)].to_owned();
        fraction.is_finite().then(|| Self { fraction: fraction.clamp(0.0, 1.0), text })
    }

    /// Reads a line of a command; `None` if it is no progress.
    fn of_line(line: &str) -> Option<Self> {
        let rest = line.strip_prefix(PROGRESS_MARK)?.trim_start();
        let (fraction, text) = rest.split_once(' ').unwrap_or((rest, ""));
        Self::new(fraction.parse().ok()?, text.trim())
    }
}

/// Some of the lines of an attempt.
#[derive(Debug, Default, PartialEq)]
pub struct Excerpt {
    /// The number of the first line among all lines of the attempt, from 0; the number of the next line if there are
    /// none. Lines that were asked for and have a lower number are not kept any more.
    pub first: u64,
    /// The lines.
    pub lines: Vec<LoggedLine>,
    /// These are the last ones.
    pub is_all: bool,
}

/// The log of an attempt. Cheap to clone; clones are the same log. The default forgets everything at once.
#[derive(Clone, Default)]
pub struct AttemptLog(Option<Arc<Shared>>);

struct Shared {
    clock: Arc<dyn Clock>,
    /// Notified when there is something new while the attempt is followed.
    news: Arc<Notify>,
    is_followed: AtomicBool,
    /// How many times something was said.
    said: AtomicU64,
    /// The most bytes that are kept.
    most: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    lines: VecDeque<LoggedLine>,
    /// The number of the first line that is kept.
    first: u64,
    bytes: usize,
    stdout: Unfinished,
    stderr: Unfinished,
    progress: Progress,
    /// How many times the progress was set.
    progressed: u64,
}

/// The beginning of a line whose end has not come yet.
#[derive(Default)]
struct Unfinished {
    bytes: Vec<u8>,
    is_cut: bool,
    /// The last line ended with a carriage return, which a line feed may follow that belongs to it.
    after_return: bool,
}

impl fmt::Debug for AttemptLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AttemptLog").field(&self.next()).finish()
    }
}

impl AttemptLog {
    /// Creates an empty log of at most `most` bytes, or [`MAX_LOG_BYTES`] if that is less; at least one line is kept.
    /// `news` is notified when something is written while the attempt is followed.
    pub fn new(clock: Arc<dyn Clock>, news: Arc<Notify>, most: usize) -> Self {
        let (is_followed, said, most) = (AtomicBool::new(false), AtomicU64::new(0), most.min(MAX_LOG_BYTES));
        Self(Some(Arc::new(Shared { clock, news, is_followed, said, most, kept: Mutex::default() })))
    }

    /// Writes what a command has written to its stdout or stderr, wherever lines end in it. A carriage return ends a
    /// line, too, so that a progress bar is seen.
    pub fn write(&self, stream: LogStream, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.change(|kept, most, now| kept.write(stream, bytes, most, now));
        }
    }

    /// Writes a complete line, or several.
    pub fn line(&self, text: &str) {
        self.change(|kept, most, now| {
            for line in text.split('\n') {
                let (text, is_cut) = cut(line.strip_suffix('\r').unwrap_or(line), MAX_LINE_BYTES);
                kept.push(LoggedLine { stream: LogStream::Worker, text: text.to_owned(), is_cut, unix_ms: now }, most);
            }
        });
    }

    /// Sets the progress. A fraction that is no number is ignored.
    pub fn progress(&self, fraction: f64, text: &str) {
        if let Some(progress) = Progress::new(fraction, text) {
            self.change(|kept, _, _| kept.set_progress(progress));
        }
    }

    /// Records that the attempt does something of which there is nothing to read.
    pub fn touch(&self) {
        self.change(|_, _, _| {});
    }

    /// Returns how many times the attempt has said or done something: as long as that grows, it makes progress.
    pub fn said(&self) -> u64 {
        self.0.as_ref().map_or(0, |shared| shared.said.load(Ordering::Relaxed))
    }

    /// Completes the lines whose ends did not come, because the attempt has ended.
    pub fn end(&self) {
        self.change(|kept, most, now| {
            for stream in [LogStream::Stdout, LogStream::Stderr] {
                kept.finish(stream, most, now);
            }
        });
    }

    /// Sets whether somebody follows the attempt, who is notified of what is new.
    pub fn set_followed(&self, is_followed: bool) {
        if let Some(shared) = &self.0 {
            shared.is_followed.store(is_followed, Ordering::Relaxed);
        }
    }

    /// Returns lines from a number on, of at most `most` bytes together, but at least one if there is any.
    pub fn read(&self, from: u64, most: usize) -> Excerpt {
        let Some(shared) = &self.0 else { return Excerpt { first: from, is_all: true, ..Excerpt::default() } };
        let kept = shared.kept();
        let first = from.max(kept.first).min(kept.next());
        let mut bytes = 0;
        let skipped = usize::try_from(first - kept.first).unwrap_or(usize::MAX);
        let fits = |line: &&LoggedLine| {
            let is_first = bytes == 0;
            bytes += line.size();
            is_first || bytes <= most
        };
        let lines: Vec<LoggedLine> = kept.lines.iter().skip(skipped).take_while(fits).cloned().collect();
        let is_all = first + lines.len() as u64 == kept.next();
        Excerpt { first, lines, is_all }
    }

    /// Returns the progress, if it was set more than `seen` times, and how many times it was set.
    pub fn progress_after(&self, seen: u64) -> Option<(Progress, u64)> {
        let kept = self.0.as_ref()?.kept();
        (kept.progressed > seen).then(|| (kept.progress.clone(), kept.progressed))
    }

    /// Returns the number of the next line that will be complete.
    pub fn next(&self) -> u64 {
        self.0.as_ref().map_or(0, |shared| shared.kept().next())
    }

    /// Returns whether nothing was ever written, and no progress set.
    pub fn is_empty(&self) -> bool {
        self.0.as_ref().is_none_or(|shared| {
            let kept = shared.kept();
            kept.next() == 0 && kept.progressed == 0
        })
    }

    fn change(&self, change: impl FnOnce(&mut Kept, usize, u64)) {
        let Some(shared) = &self.0 else { return };
        let now = shared.clock.unix_millis();
        change(&mut shared.kept(), shared.most, now);
        shared.said.fetch_add(1, Ordering::Relaxed);
        // Who sets this looks at what is kept afterwards, so that nothing is missed.
        if shared.is_followed.load(Ordering::Relaxed) {
            shared.news.notify_one();
        }
    }
}

impl Shared {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // What is kept is consistent after each change.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn next(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    fn push(&mut self, line: LoggedLine, most: usize) {
        self.bytes += line.size();
        self.lines.push_back(line);
        while self.lines.len() > MAX_LINES || (self.bytes > most && self.lines.len() > 1) {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= oldest.size();
            self.first += 1;
        }
    }

    fn set_progress(&mut self, progress: Progress) {
        self.progress = progress;
        self.progressed += 1;
    }

    fn unfinished(&mut self, stream: LogStream) -> &mut Unfinished {
        match stream {
            LogStream::Stdout | LogStream::Worker => &mut self.stdout,
            LogStream::Stderr => &mut self.stderr,
        }
    }

    fn write(&mut self, stream: LogStream, bytes: &[u8], most: usize, now: u64) {
        for part in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
            let end = part.last().copied().filter(|last| matches!(last, b'\n' | b'\r'));
            let unfinished = self.unfinished(stream);
            unfinished.push(&part[..part.len() - usize::from(end.is_some())]);
            let is_empty = unfinished.bytes.is_empty();
            match end {
                None => unfinished.after_return = false,
                // It ends no line, or belongs to the carriage return before it.
                Some(b'\r') if is_empty => {}
                Some(b'\n') if is_empty && unfinished.after_return => unfinished.after_return = false,
                Some(end) => {
                    unfinished.after_return = end == b'\r';
                    self.complete(stream, most, now);
                }
            }
        }
    }

    /// Completes a line, if there is a beginning of one.
    fn finish(&mut self, stream: LogStream, most: usize, now: u64) {
        if !self.unfinished(stream).bytes.is_empty() {
            self.complete(stream, most, now);
        }
    }

    fn complete(&mut self, stream: LogStream, most: usize, now: u64) {
        let unfinished = self.unfinished(stream);
        let (bytes, was_cut) = (std::mem::take(&mut unfinished.bytes), std::mem::take(&mut unfinished.is_cut));
        let whole = String::from_utf8_lossy(&bytes);
        if stream == LogStream::Stderr
            && let Some(progress) = Progress::of_line(&whole)
        {
            return self.set_progress(progress);
        }
        let (text, is_cut) = cut(&whole, MAX_LINE_BYTES);
        self.push(LoggedLine { stream, text: text.to_owned(), is_cut: was_cut || is_cut, unix_ms: now }, most);
    }
}

impl Unfinished {
    fn push(&mut self, text: &[u8]) {
        let fits = text.len().min(MAX_LINE_BYTES - self.bytes.len());
        self.bytes.extend_from_slice(&text[..fits]);
        self.is_cut |= fits < text.len();
    }
}

/// Returns the beginning of a text, of at most `most` bytes, and whether something is left out.
fn cut(text: &str, most: usize) -> (&str, bool) {
    let beginning = &text[..text.floor_char_boundary(most)];
    (beginning, beginning.len() < text.len())
}

#[cfg(test)]
mod tests {
    use robeing_platform::Platform;

    use super::*;

    fn log_of(most: usize) -> (AttemptLog, Arc<Notify>) {
        let news = Arc::new(Notify::new());
        (AttemptLog::new(Platform::real().clock, Arc::clone(&news), most), news)
    }

    fn log() -> AttemptLog {
        log_of(MAX_LOG_BYTES).0
    }

    fn texts(log: &AttemptLog) -> Vec<String> {
        log.read(0, usize::MAX).lines.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn lines_are_told_apart_however_they_were_written() {
        let written = b"one\n\ntwo\r\nthree\rfour\r\n\r\nfive\r\r\n\xFFsix\nrest";
        let expected = ["one", "", "two", "three", "four", "", "five", "\u{FFFD}six", "rest"];
        for step in 1..=written.len() {
            let log = log();
            for part in written.chunks(step) {
                log.write(LogStream::Stdout, part);
            }
            assert_eq!(log.next(), expected.len() as u64 - 1, "the last line has not ended, in steps of {step}");
            log.end();
            assert_eq!(texts(&log), expected, "in steps of {step}");
            log.end();
            assert_eq!(log.next(), expected.len() as u64, "it has ended once");
        }
    }

    #[test]
    fn the_streams_of_a_command_do_not_mix_within_a_line() {
        let log = log();
        log.write(LogStream::Stdout, b"out");
        log.write(LogStream::Stderr, b"err\n");
        log.write(LogStream::Stdout, b"put\n");
        log.line("of a worker\r\nin two lines");
        let lines: Vec<_> =
            log.read(0, usize::MAX).lines.into_iter().map(|line| (line.stream, line.text, line.is_cut)).collect();
        let line = |stream, text: &str| (stream, text.to_owned(), false);
        assert_eq!(
            lines,
            [
                line(LogStream::Stderr, "err"),
                line(LogStream::Stdout, "output"),
                line(LogStream::Worker, "of a worker"),
                line(LogStream::Worker, "in two lines"),
            ]
        );
    }

    #[test]
    fn a_line_is_kept_up_to_its_longest_and_cut_at_a_character_beyond_it() {
        let log = log();
        let longest = "x".repeat(MAX_LINE_BYTES);
        log.write(LogStream::Stdout, format!("{longest}\n{longest}y\n").as_bytes());
        log.line(&format!("{}é", &longest[1..]));
        log.write(LogStream::Stdout, &vec![0xFF; MAX_LINE_BYTES]);
        log.end();
        let lines = log.read(0, usize::MAX).lines;
        let seen: Vec<_> = lines.iter().map(|line| (line.text.len(), line.is_cut)).collect();
        let replaced = MAX_LINE_BYTES / 3 * 3;
        assert_eq!(
            seen,
            [(MAX_LINE_BYTES, false), (MAX_LINE_BYTES, true), (MAX_LINE_BYTES - 1, true), (replaced, true)]
        );
    }

    #[test]
    fn the_newest_lines_are_kept_up_to_their_number() {
        let log = log();
        (0..MAX_LINES).for_each(|_| log.line("x"));
        assert_eq!(log.read(0, usize::MAX).first, 0);
        log.line("one more");
        let kept = log.read(0, usize::MAX);
        assert_eq!((kept.first, kept.lines.len(), kept.is_all), (1, MAX_LINES, true));
        assert_eq!(log.next(), MAX_LINES as u64 + 1);
    }

    #[test]
    fn the_newest_lines_are_kept_up_to_their_bytes_and_at_least_one() {
        let (log, _) = log_of(10 * (LINE_OVERHEAD + 1));
        (0..10).for_each(|n| log.line(&n.to_string()));
        assert_eq!(texts(&log).len(), 10);
        log.line("x");
        assert_eq!(texts(&log).len(), 10);
        log.line("xx");
        assert_eq!(texts(&log).len(), 9);
        log.line(&"x".repeat(MAX_LINE_BYTES));
        assert_eq!(texts(&log).len(), 1);
        let (log, _) = log_of(usize::MAX);
        (0..64).for_each(|_| log.line(&"x".repeat(MAX_LINE_BYTES)));
        assert!(texts(&log).len() < 17, "no more than {MAX_LOG_BYTES} bytes, whatever is asked for");
    }

    #[test]
    fn lines_are_read_from_a_number_on_and_no_more_than_asked_for() {
        let log = log();
        (0..5).for_each(|n| log.line(&n.to_string()));
        let size = LINE_OVERHEAD + 1;
        let read = |from, most| {
            let Excerpt { first, lines, is_all } = log.read(from, most);
            (first, lines.len(), is_all)
        };
        assert_eq!(read(0, 0), (0, 1, false), "at least one");
        assert_eq!(read(0, 2 * size), (0, 2, false));
        assert_eq!(read(3, 2 * size), (3, 2, true));
        assert_eq!(read(5, size), (5, 0, true));
        assert_eq!(read(99, size), (5, 0, true), "there is no such line yet");
    }

    #[test]
    fn progress_is_a_share_and_a_short_text() {
        let log = log();
        assert!(log.is_empty());
        assert_eq!(log.progress_after(0), None);
        log.progress(f64::NAN, "no number");
        log.progress(f64::INFINITY, "none either");
        assert!(log.is_empty());
        log.progress(1.5, &"é".repeat(MAX_PROGRESS_TEXT));
        let (progress, seen) = log.progress_after(0).expect("it was set");
        assert_eq!((progress.fraction, progress.text.len(), seen), (1.0, MAX_PROGRESS_TEXT, 1));
        assert_eq!(log.progress_after(1), None);
        log.progress(-1.0, "");
        assert_eq!(log.progress_after(1), Some((Progress::default(), 2)));
        assert!(!log.is_empty());
    }

    #[test]
    fn a_command_tells_its_progress_on_stderr() {
        let log = log();
        log.write(LogStream::Stderr, b"::progress 0.25 a quarter\n::progress\n::progress much\n");
        log.write(LogStream::Stdout, b"::progress 0.5\n");
        assert_eq!(texts(&log), ["::progress", "::progress much", "::progress 0.5"]);
        let (progress, _) = log.progress_after(0).expect("it was set");
        assert_eq!(progress, Progress { fraction: 0.25, text: "a quarter".to_owned() });
        log.write(LogStream::Stderr, b"::progress 1\n");
        assert_eq!(log.progress_after(1), Some((Progress { fraction: 1.0, text: String::new() }, 2)));
    }

    #[tokio::test]
    async fn who_follows_is_notified_and_nobody_else() {
        let (log, news) = log_of(MAX_LOG_BYTES);
        let mut notified = Box::pin(news.notified());
        notified.as_mut().enable();
        log.line("nobody follows");
        assert!(futures::poll!(notified.as_mut()).is_pending());
        log.set_followed(true);
        log.write(LogStream::Stderr, b"half a line");
        notified.await;
        log.set_followed(false);
        log.progress(0.5, "");
        let mut notified = Box::pin(news.notified());
        assert!(futures::poll!(notified.as_mut()).is_pending());
    }
}
