//! The output of `robeing dev`: lines, and on a terminal a frame below them that is redrawn. Writing blocks on a
//! terminal that was stopped with Ctrl-S, and on a pipe that nobody reads. Therefore a thread does the writing, and the
//! fleet does not wait for it.

use std::{
    io::{self, ErrorKind, IsTerminal, Write},
    thread,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use nix::{
    errno::Errno,
    sys::signal::{SigSet, Signal},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};

use crate::render::{note, plural, printable_lines};

/// Capacity of the queue of messages; lines beyond that are dropped, and counted.
const QUEUE: usize = 1_024;
/// If more messages than this are queued, a frame is dropped, since it is outdated half a second later.
const BEFORE_FRAME: usize = 16;
/// How long the end of the program waits for queued output.
const LAST_LINES: Duration = Duration::from_secs(1);

enum Message {
    /// A line for standard output.
    Line(String),
    /// A sentence for standard error.
    Note(String),
    Frame(String),
    NoFrame,
    /// This many lines were dropped here.
    LeftOut(usize),
}

/// The sending side of the output. Only [`Screen::failed`] and [`Screen::end`] wait.
pub(super) struct Screen {
    messages: mpsc::Sender<Message>,
    left_out: usize,
    is_live: bool,
    failure: Option<oneshot::Receiver<io::Error>>,
    ended: oneshot::Receiver<()>,
}

impl Screen {
    /// Prints to standard output, with a frame if it is a terminal and `plain` is not set, and to standard error.
    ///
    /// # Errors
    /// If the thread can't be started.
    pub(super) fn new(plain: bool) -> io::Result<Self> {
        let is_live = !plain && io::stdout().is_terminal();
        Self::over(Printer::new(io::stdout()), is_live, QUEUE)
    }

    fn over(printer: Printer, is_live: bool, queue: usize) -> io::Result<Self> {
        let (messages, received) = mpsc::channel(queue);
        let (failed, failure) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        thread::Builder::new().name("screen".into()).spawn(move || {
            write_in_the_background();
            printer.run(received, failed);
            let _ = end.send(());
        })?;
        Ok(Self { messages, left_out: 0, is_live, failure: Some(failure), ended })
    }

    /// Prints a line. It can include text from others, so control characters that a terminal would interpret are
    /// replaced.
    pub(super) fn line(&mut self, line: impl AsRef<str>) {
        self.add(Message::Line(printable_lines(line.as_ref())));
    }

    pub(super) fn note(&mut self, sentence: impl Into<String>) {
        self.add(Message::Note(sentence.into()));
    }

    /// Reports how many lines were dropped, as soon as there is room in the queue.
    pub(super) fn catch_up(&mut self) {
        if self.left_out > 0 && self.messages.try_send(Message::LeftOut(self.left_out)).is_ok() {
            self.left_out = 0;
        }
    }

    fn add(&mut self, message: Message) {
        self.catch_up();
        if self.left_out > 0 || self.messages.try_send(message).is_err() {
            self.left_out += 1;
        }
    }

    pub(super) fn frame(&mut self, text: &str) {
        let waiting = self.messages.max_capacity() - self.messages.capacity();
        if self.is_live && waiting <= BEFORE_FRAME {
            let _ = self.messages.try_send(Message::Frame(text.trim_end().to_owned()));
        }
    }

    /// Removes the frame; lines are still printed.
    pub(super) fn clear(&mut self) {
        self.is_live = false;
        // If the queue is full, the frame is removed at the end.
        let _ = self.messages.try_send(Message::NoFrame);
    }

    /// Waits until standard output can't be used any more, and returns the reason once.
    pub(super) async fn failed(&mut self) -> io::Error {
        if let Some(failure) = &mut self.failure {
            let failure = failure.await;
            self.failure = None;
            if let Ok(error) = failure {
                return error;
            }
        }
        std::future::pending().await
    }

    /// Waits until everything is printed, at most [`LAST_LINES`].
    pub(super) async fn end(self) {
        let Self { messages, left_out, ended, .. } = self;
        let print = async move {
            if left_out > 0 {
                let _ = messages.send(Message::LeftOut(left_out)).await;
            }
            drop(messages);
            let _ = ended.await;
        };
        let _ = timeout(LAST_LINES, print).await;
    }
}

/// Lets this thread write to the terminal while the process is in the background, even if `stty tostop` is set. SIGTTOU
/// would otherwise stop the whole process group, including a child that is just being started and has no process group
/// yet; starting it would then block forever. The signal mask of other threads, and of processes that they start, does
/// not change.
fn write_in_the_background() {
    let stop = SigSet::from(Signal::SIGTTOU);
    // If blocking the signal fails, everything else still works.
    let _ = stop.thread_block();
}

/// The state of the printing thread.
struct Printer {
    out: Box<dyn Write + Send>,
    live: Option<ProgressBar>,
    /// Number of lines that were dropped since the last printed one.
    missing: usize,
}

impl Printer {
    fn new(out: impl Write + Send + 'static) -> Self {
        Self { out: Box::new(out), live: None, missing: 0 }
    }

    fn run(mut self, mut messages: mpsc::Receiver<Message>, failed: oneshot::Sender<io::Error>) {
        let mut failed = Some(failed);
        while let Some(message) = messages.blocking_recv() {
            let printed = match message {
                Message::Note(sentence) => {
                    self.note(&sentence);
                    Ok(())
                }
                // Nobody reads standard output any more.
                _ if failed.is_none() => Ok(()),
                Message::Line(line) => self.line(&line),
                Message::LeftOut(lines) => {
                    self.missing += lines;
                    self.tell_missing()
                }
                Message::Frame(text) => {
                    self.frame(&text);
                    Ok(())
                }
                Message::NoFrame => {
                    self.clear();
                    Ok(())
                }
            };
            if let Err(error) = printed
                && let Some(failed) = failed.take()
            {
                let _ = failed.send(error);
            }
        }
        self.clear();
    }

    fn note(&self, sentence: &str) {
        match &self.live {
            Some(bar) => bar.suspend(|| note(sentence)),
            None => note(sentence),
        }
    }

    fn line(&mut self, line: &str) -> io::Result<()> {
        self.tell_missing()?;
        self.print(line).map(drop)
    }

    fn tell_missing(&mut self) -> io::Result<()> {
        let missing = std::mem::take(&mut self.missing);
        if missing > 0 && !self.print(&format!("({} missing here: the output was stalled or full)", are(missing)))? {
            // Don't count the report itself as a missing line.
            self.missing = missing;
        }
        Ok(())
    }

    /// Returns whether the line was printed; a line that was not is counted as missing.
    fn print(&mut self, line: &str) -> io::Result<bool> {
        if let Some(bar) = &self.live {
            bar.println(line);
            return Ok(true);
        }
        match self.out.write_all(format!("{line}\n").as_bytes()).and_then(|()| self.out.flush()) {
            Ok(()) => Ok(true),
            Err(error) if is_no_reason_to_end(&error) => {
                self.missing += 1;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn frame(&mut self, text: &str) {
        let bar = self.live.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner());
            ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout()).with_style(style)
        });
        bar.set_message(format!("\n{text}"));
        bar.tick();
    }

    fn clear(&mut self) {
        if let Some(bar) = self.live.take() {
            bar.finish_and_clear();
        }
    }
}

fn are(lines: usize) -> String {
    format!("{} {}", plural(lines, "line"), if lines == 1 { "is" } else { "are" })
}

/// Returns whether a line was lost for a reason that need not end the fleet: a full disk, a non-blocking pipe that is
/// full, or a terminal that is gone, which sends SIGHUP to the processes that should end with it. A pipe whose reader
/// is gone does end the fleet.
fn is_no_reason_to_end(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::WouldBlock)
        || error.raw_os_error() == Some(Errno::EIO as i32)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, PipeReader, PipeWriter, pipe},
        sync::mpsc::{Receiver, channel},
    };

    use super::*;

    /// A writer that blocks until it is allowed to write.
    struct Stalled {
        go: Receiver<()>,
        out: PipeWriter,
    }

    impl Write for Stalled {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.go.recv();
            self.out.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines(reader: PipeReader) -> Vec<String> {
        BufReader::new(reader).lines().map(|line| line.expect("text")).collect()
    }

    async fn all_taken(screen: &Screen) {
        let taken = async {
            while screen.messages.capacity() < screen.messages.max_capacity() {
                tokio::task::yield_now().await;
            }
        };
        timeout(Duration::from_secs(30), taken).await.expect("the thread takes what it is given");
    }

    #[tokio::test]
    async fn a_reader_that_stalls_holds_nothing_up_and_is_told_how_much_is_missing() {
        let (reader, out) = pipe().expect("a pipe");
        let (allow, go) = channel();
        let mut screen = Screen::over(Printer::new(Stalled { go, out }), false, 4).expect("a thread");
        screen.line("0");
        // The thread has taken the line and is blocked on it.
        all_taken(&screen).await;
        for line in 1..=10 {
            screen.line(line.to_string());
        }
        drop(allow);
        all_taken(&screen).await;
        screen.end().await;
        let missing = "(6 lines are missing here: the output was stalled or full)";
        assert_eq!(lines(reader), ["0", "1", "2", "3", "4", missing]);
    }

    #[tokio::test]
    async fn what_is_missing_is_told_where_it_is_missing() {
        let (reader, out) = pipe().expect("a pipe");
        let (allow, go) = channel();
        let mut screen = Screen::over(Printer::new(Stalled { go, out }), false, 2).expect("a thread");
        screen.line("0");
        all_taken(&screen).await;
        for line in ["1", "2", "lost"] {
            screen.line(line);
        }
        drop(allow);
        all_taken(&screen).await;
        screen.line("3");
        screen.end().await;
        let missing = "(1 line is missing here: the output was stalled or full)";
        assert_eq!(lines(reader), ["0", "1", "2", missing, "3"]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_does_not_wait_for_a_reader_that_stalls() {
        let (_reader, out) = pipe().expect("a pipe");
        let (_allow, go) = channel();
        let mut screen = Screen::over(Printer::new(Stalled { go, out }), false, 1).expect("a thread");
        for line in ["1", "2", "3"] {
            screen.line(line);
        }
        let began = tokio::time::Instant::now();
        screen.end().await;
        assert_eq!(began.elapsed().as_secs(), LAST_LINES.as_secs());
    }

    #[tokio::test]
    async fn a_reader_that_leaves_is_told_and_a_full_disk_is_not() {
        let (reader, out) = pipe().expect("a pipe");
        drop(reader);
        let mut screen = Screen::over(Printer::new(out), false, 4).expect("a thread");
        screen.line("nobody reads it");
        assert_eq!(screen.failed().await.kind(), ErrorKind::BrokenPipe);
        screen.end().await;

        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("every Linux has it");
        let mut screen = Screen::over(Printer::new(full), false, 4).expect("a thread");
        screen.line("there is no room for it");
        let Screen { messages, failure, ended, .. } = screen;
        drop(messages);
        ended.await.expect("the thread ends");
        assert!(failure.expect("not asked yet").await.is_err(), "nothing failed");
    }
}
