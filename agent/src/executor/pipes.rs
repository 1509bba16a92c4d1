//! A command's stdin, stdout and stderr, moved without ever holding more data than the limits allow.
//!
//! This module knows only pipes and byte counts, not the process at the other end.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::AsFd,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    process::{ChildStderr, ChildStdin, ChildStdout},
};

use super::{AttemptLog, Limits, LogStream};

/// Bytes read from a pipe at a time.
const CHUNK: usize = 16 << 10;

/// The three pipes of one command.
pub(super) struct Pipes {
    stdin: Option<(ChildStdin, Bytes)>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    output: Output,
    tail: Tail,
    log: AttemptLog,
}

impl Pipes {
    pub(super) fn new(
        stdin: Option<(ChildStdin, Bytes)>,
        stdout: Option<ChildStdout>,
        stderr: Option<ChildStderr>,
        limits: &Limits,
        log: AttemptLog,
    ) -> Self {
        Self { stdin, stdout, stderr, output: Output::new(limits.max_output), tail: Tail::new(limits.stderr_tail), log }
    }

    /// Moves data for as long as it is polled. Completes only when the output exceeds its limit. Cancel-safe.
    pub(super) async fn pump_until_overflow(&mut self) {
        std::future::poll_fn(|cx| {
            self.poll_move(cx);
            if self.output.overflowed() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Moves data until every holder of stdout, and of stderr if `stderr_too`, has closed it, or until the output
    /// exceeds its limit. Cancel-safe.
    pub(super) async fn pump_to_end(&mut self, stderr_too: bool) {
        std::future::poll_fn(|cx| {
            self.poll_move(cx);
            let ended = self.stdout.is_none() && !(stderr_too && self.stderr.is_some());
            if ended || self.output.overflowed() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// Moves data for as long as it is polled, keeping the tail of stderr and discarding the output. Never completes:
    /// for a command that is being stopped and may still have to write before it can exit.
    pub(super) async fn pump_discarding(&mut self) {
        self.output.discard();
        std::future::poll_fn(|cx| {
            self.poll_move(cx);
            Poll::<()>::Pending
        })
        .await;
    }

    /// Reads what the pipes hold now, without waiting. Once a process group is gone, that is all it wrote, even if a
    /// process outside the group still holds the pipes open.
    pub(super) fn drain(&mut self) {
        self.stdin = None;
        let stdout = self.stdout.take().filter(|_| !self.output.discarding);
        if let Some(stdout) = stdout {
            drain_now(&stdout, |bytes| {
                self.log.write(LogStream::Stdout, bytes);
                self.output.push(bytes);
                !self.output.overflowed()
            });
        }
        if let Some(stderr) = self.stderr.take() {
            // A process outside the group that writes faster than this loop reads must not keep it running forever.
            let mut left = self.tail.limit.saturating_add(MAX_PIPE);
            drain_now(&stderr, |bytes| {
                self.log.write(LogStream::Stderr, bytes);
                self.tail.push(bytes);
                left = left.saturating_sub(bytes.len());
                left > 0
            });
        }
    }

    pub(super) fn overflowed(&self) -> bool {
        self.output.overflowed()
    }

    /// Returns the output, if it is within its limit, and the tail of stderr.
    pub(super) fn into_parts(self) -> (Vec<u8>, Vec<u8>) {
        (self.output.bytes, self.tail.into_bytes())
    }

    fn poll_move(&mut self, cx: &mut Context<'_>) {
        if let Some((pipe, input)) = &mut self.stdin
            && poll_write_all(pipe, input, cx).is_ready()
        {
            // Closing stdin signals the end of the input to the command.
            self.stdin = None;
        }
        if let Some(pipe) = &mut self.stdout
            && poll_read_all(pipe, cx, |bytes| {
                self.log.write(LogStream::Stdout, bytes);
                self.output.push(bytes);
            })
            .is_ready()
        {
            self.stdout = None;
        }
        if let Some(pipe) = &mut self.stderr
            && poll_read_all(pipe, cx, |bytes| {
                self.log.write(LogStream::Stderr, bytes);
                self.tail.push(bytes);
            })
            .is_ready()
        {
            self.stderr = None;
        }
    }
}

/// The maximum capacity of a pipe for an unprivileged process (`/proc/sys/fs/pipe-max-size`), in bytes.
const MAX_PIPE: usize = 1 << 20;

/// Ready once all of `input` is written, or the command has closed its end: it need not read its input.
fn poll_write_all(pipe: &mut ChildStdin, input: &mut Bytes, cx: &mut Context<'_>) -> Poll<()> {
    while input.has_remaining() {
        match Pin::new(&mut *pipe).poll_write(cx, input) {
            Poll::Ready(Ok(written)) if written > 0 => input.advance(written),
            Poll::Ready(_) => return Poll::Ready(()),
            Poll::Pending => return Poll::Pending,
        }
    }
    Poll::Ready(())
}

/// Ready at end-of-file. A read error also counts as the end.
fn poll_read_all(pipe: &mut (impl AsyncRead + Unpin), cx: &mut Context<'_>, mut take: impl FnMut(&[u8])) -> Poll<()> {
    let mut chunk = [MaybeUninit::uninit(); CHUNK];
    loop {
        let mut buffer = ReadBuf::uninit(&mut chunk);
        match Pin::new(&mut *pipe).poll_read(cx, &mut buffer) {
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => take(buffer.filled()),
            Poll::Ready(_) => return Poll::Ready(()),
            Poll::Pending => return Poll::Pending,
        }
    }
}

/// Reads a non-blocking pipe until it is empty, at end-of-file, or `take` returns false.
fn drain_now(pipe: &impl AsFd, mut take: impl FnMut(&[u8]) -> bool) {
    let mut chunk = [0_u8; CHUNK];
    loop {
        match nix::unistd::read(pipe, &mut chunk).map_err(io::Error::from) {
            Ok(0) => return,
            Ok(read) => {
                if !take(&chunk[..read]) {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

/// Output up to a limit. Beyond it, the held output is freed and the rest is not kept.
struct Output {
    bytes: Vec<u8>,
    limit: usize,
    overflowed: bool,
    discarding: bool,
}

impl Output {
    fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit, overflowed: false, discarding: false }
    }

    fn push(&mut self, bytes: &[u8]) {
        if self.overflowed || self.discarding {
            return;
        }
        if bytes.len() > self.limit - self.bytes.len() {
            self.overflowed = true;
            self.bytes = Vec::new();
            return;
        }
        self.bytes.extend_from_slice(bytes);
    }

    fn discard(&mut self) {
        self.discarding = true;
        self.bytes = Vec::new();
    }

    fn overflowed(&self) -> bool {
        self.overflowed
    }
}

/// The last bytes of a stream.
struct Tail {
    bytes: Vec<u8>,
    limit: usize,
    lost_some: bool,
}

impl Tail {
    fn new(limit: usize) -> Self {
        Self { bytes: Vec::new(), limit, lost_some: false }
    }

    fn push(&mut self, bytes: &[u8]) {
        let newest = &bytes[bytes.len().saturating_sub(self.limit)..];
        self.lost_some |= newest.len() < bytes.len();
        self.bytes.extend_from_slice(newest);
        // Cut only at twice the limit, so that small writes don't each move the whole tail.
        if self.bytes.len() > self.limit.saturating_mul(2) {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let surplus = self.bytes.len().saturating_sub(self.limit);
        self.lost_some |= surplus > 0;
        self.bytes.drain(..surplus);
    }

    /// Returns the tail, starting at a character boundary if the cut fell inside a character.
    fn into_bytes(mut self) -> Vec<u8> {
        self.cut();
        if self.lost_some {
            let inside_character = self.bytes.iter().take(3).take_while(|byte| *byte & 0xC0 == 0x80).count();
            self.bytes.drain(..inside_character);
        }
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_kept_up_to_its_limit_and_dropped_one_byte_over_it() {
        let mut output = Output::new(4);
        output.push(b"ab");
        output.push(b"cd");
        assert_eq!((output.bytes.as_slice(), output.overflowed()), (b"abcd".as_slice(), false));
        output.push(b"e");
        assert!(output.overflowed());
        assert_eq!(output.bytes.capacity(), 0, "what was held must be let go");
    }

    #[test]
    fn the_tail_is_the_last_bytes_however_they_were_written() {
        for step in 1..=11 {
            let mut tail = Tail::new(4);
            for part in b"0123456789ab".chunks(step) {
                tail.push(part);
                assert!(tail.bytes.len() <= 8, "the tail grew to {} bytes in steps of {step}", tail.bytes.len());
            }
            assert_eq!(tail.into_bytes(), b"89ab", "in steps of {step}");
        }
    }

    #[test]
    fn the_tail_never_starts_inside_a_character() {
        let mut tail = Tail::new(4);
        tail.push("aéb€".as_bytes());
        assert_eq!(tail.into_bytes(), "b€".as_bytes());
        let mut tail = Tail::new(3);
        tail.push("é€".as_bytes());
        assert_eq!(tail.into_bytes(), "€".as_bytes());
        let mut tail = Tail::new(2);
        tail.push("a€".as_bytes());
        assert_eq!(tail.into_bytes(), b"");
        let mut none = Tail::new(0);
        none.push(b"abc");
        assert_eq!(none.into_bytes(), b"");
    }
}
