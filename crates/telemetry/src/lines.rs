//! Writes log lines to stderr on a thread of its own: a stderr that accepts nothing, such as a stopped terminal or a pipe that
//! nobody reads, must not stop the process.

use std::{
    fmt::Display,
    io::{self, Write},
    panic,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    thread,
    time::{Duration, Instant},
};

/// The maximum number of log lines that wait to be written; further ones are dropped and counted.
pub const MAX_PENDING_LINES: usize = 8_192;
/// How long the end of the process waits for stderr, for the remaining lines and for [`say`] each.
const WAIT_AT_END: Duration = Duration::from_secs(1);
/// The pause between two attempts to ask a full queue for its end.
const RETRY_FLUSH: Duration = Duration::from_millis(5);

/// The lines of this process, for the panic hook.
static OF_PROCESS: OnceLock<Lines> = OnceLock::new();

enum Item {
    Line(Vec<u8>),
    /// Everything before this has been written once the sender is used.
    Flush(SyncSender<()>),
}

/// A writer of log lines that never blocks: one call of `write` is one line. Cheap to clone.
#[derive(Clone)]
pub struct Lines {
    /// `None` if the thread could not be created; lines are then written directly.
    queue: Option<SyncSender<Item>>,
    dropped: Arc<AtomicU64>,
}

impl Lines {
    fn to(output: impl Write + Send + 'static) -> Self {
        let (queue, items) = mpsc::sync_channel(MAX_PENDING_LINES);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        let thread = thread::Builder::new().name("log".into()).spawn(move || write_all(&items, output, &counter));
        Self { queue: thread.is_ok().then_some(queue), dropped }
    }

    /// Waits until the lines so far are written, at most [`WAIT_AT_END`].
    fn flush_pending(&self) {
        let Some(queue) = &self.queue else { return };
        let until = Instant::now() + WAIT_AT_END;
        let (done, wait) = mpsc::sync_channel(1);
        let mut item = Item::Flush(done);
        loop {
            match queue.try_send(item) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return,
                Err(TrySendError::Full(_)) if Instant::now() >= until => return,
                Err(TrySendError::Full(back)) => {
                    item = back;
                    thread::sleep(RETRY_FLUSH);
                }
            }
        }
        let _ = wait.recv_timeout(until.saturating_duration_since(Instant::now()));
    }
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &self.queue {
            Some(queue) => {
                if queue.try_send(Item::Line(line.to_vec())).is_err() {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            // A line that can't be written is lost.
            None => drop(io::stderr().write_all(line)),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The thread's work. Ends when no writer is left.
fn write_all(items: &Receiver<Item>, mut output: impl Write, dropped: &AtomicU64) {
    while let Ok(item) = items.recv() {
        match item {
            // Lines that can't be written, for example because the disk is full, are lost.
            Item::Line(line) => {
                let _ = output.write_all(&line);
                let lost = dropped.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    let _ =
                        output.write_all(format!("{lost} log lines were dropped: stderr was not read\n").as_bytes());
                }
            }
            Item::Flush(done) => {
                let _ = output.flush();
                let _ = done.send(());
            }
        }
    }
}

/// Writes the remaining lines when dropped, within a second.
#[must_use = "the remaining lines are written when it is dropped"]
pub struct LinesGuard(Lines);

impl Drop for LinesGuard {
    fn drop(&mut self) {
        self.0.flush_pending();
    }
}

/// Returns a writer of lines to stderr, and the guard that writes the remaining ones at the end. From then on a panic is
/// reported after the lines before it, and ends as it would otherwise although stderr accepts nothing.
pub fn lines() -> (Lines, LinesGuard) {
    let lines = Lines::to(io::stderr());
    if OF_PROCESS.set(lines.clone()).is_ok() {
        panic::set_hook(Box::new(|panic| {
            if let Some(lines) = OF_PROCESS.get() {
                lines.flush_pending();
            }
            let thread = thread::current();
            let backtrace = std::backtrace::Backtrace::capture();
            last_words(format!("thread {:?} {panic}\n{backtrace}\n", thread.name().unwrap_or("unnamed")));
        }));
    }
    (lines.clone(), LinesGuard(lines))
}

/// Prints on stderr why the process ends, independently of logging. A failed write is ignored, and one that blocks is
/// abandoned after a second: they must not change how the process ends.
pub fn say(error: &dyn Display) {
    // Write the line at once, so that it is not interleaved with other writers of the same log.
    last_words(format!("robeing-agent: {error}\n"));
}

fn last_words(text: String) {
    let (written, wait) = mpsc::channel();
    let text = Arc::new(text);
    let shared = Arc::clone(&text);
    let write = move || {
        let _ = io::stderr().write_all(shared.as_bytes());
        let _ = written.send(());
    };
    match thread::Builder::new().name("last-words".into()).spawn(write) {
        Ok(_) => drop(wait.recv_timeout(WAIT_AT_END)),
        // Without a thread it is better to risk blocking than to end without a reason.
        Err(_) => drop(io::stderr().write_all(text.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// An output that blocks until the sender is dropped, and keeps what it was given.
    struct Stuck {
        until: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Stuck {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.until.recv();
            self.written.lock().expect("no panic").extend_from_slice(line);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_output_that_is_stuck_holds_nobody_up_and_what_is_dropped_is_counted() {
        let (release, until) = mpsc::channel();
        let written = Arc::new(Mutex::new(Vec::new()));
        let mut lines = Lines::to(Stuck { until, written: Arc::clone(&written) });
        for n in 0..2 * MAX_PENDING_LINES {
            lines.write_all(format!("line {n}\n").as_bytes()).expect("it never fails");
        }
        // The queue is full, or one line short of it, of which the thread has taken one.
        let dropped = lines.dropped.load(Ordering::Relaxed) as usize;
        assert!((MAX_PENDING_LINES - 1..=MAX_PENDING_LINES).contains(&dropped), "{dropped}");
        let began = Instant::now();
        drop(LinesGuard(lines.clone()));
        assert!(began.elapsed() >= WAIT_AT_END, "it waits for a while, and no longer");
        drop(release);
        lines.flush_pending();
        let text = String::from_utf8(written.lock().expect("no panic").clone()).expect("text");
        assert!(text.contains(&format!("{dropped} log lines were dropped")), "{text}");
        assert_eq!(text.lines().filter(|line| line.starts_with("line ")).count() + dropped, 2 * MAX_PENDING_LINES);
    }

    #[test]
    fn all_lines_are_written_at_the_end() {
        let (release, until) = mpsc::channel();
        drop(release);
        let written = Arc::new(Mutex::new(Vec::new()));
        let mut lines = Lines::to(Stuck { until, written: Arc::clone(&written) });
        for _ in 0..1_000 {
            lines.write_all(b"a line\n").expect("it never fails");
        }
        drop(LinesGuard(lines));
        assert_eq!(written.lock().expect("no panic").len(), 7_000);
    }
}
