//! The guard: one small process per agent that outlives it by a moment, to kill the commands a dead agent left behind.
//!
//! An agent that is SIGKILLed can't stop its commands. The guard holds the reading end of a pipe whose only writing
//! end is the agent's: process groups are added and removed over it, and its end means that the agent is gone, however
//! it went. The guard then SIGKILLs each group that is left. It knows process-group ids and nothing else.
//!
//! A command adds its own group between fork and exec, so there is no moment at which it runs unguarded. Each record
//! is a process-group id as four little-endian bytes, positive to add and negative to remove; a pipe takes so few
//! bytes whole or not at all.
//!
//! An agent that is stopped (SIGSTOP, a debugger, a paused container) can't stop its commands either, though its lease on
//! them ends. So the agent tells the guard for how long the lease holds ([`LEASE`], then milliseconds), and a guard that
//! hears nothing new by then kills every group it knows.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::Pid;

use super::reaper;

/// The hidden subcommand with which the agent's binary becomes a guard: its `main` must call [`main`] when this is
/// the first argument, before it does anything else.
pub const GUARD_SUBCOMMAND: &str = "group-guard";

/// What the kernel shows as the guard's name.
const PROCESS_NAME: &std::ffi::CStr = c"robeing-guard";

/// The agent's end of its guard. Dropping it ends the guard, which kills the groups that are still registered.
#[derive(Debug)]
pub struct Guard {
    program: PathBuf,
    args: Vec<OsString>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    process: Child,
    registry: Arc<OwnedFd>,
    groups: HashSet<i32>,
}

impl Guard {
    /// Starts the guard: `agent_binary` with [`GUARD_SUBCOMMAND`].
    ///
    /// # Errors
    /// When the process can't be started.
    pub fn spawn(agent_binary: &Path) -> io::Result<Self> {
        Self::spawn_with(agent_binary, [GUARD_SUBCOMMAND])
    }

    /// Starts the guard as `program` with `args`, which must end in a call of [`main`] with stdin untouched.
    ///
    /// # Errors
    /// When the process can't be started.
    pub fn spawn_with<A: Into<OsString>>(program: &Path, args: impl IntoIterator<Item = A>) -> io::Result<Self> {
        let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
        let (process, registry) = start(program, &args)?;
        let state = State { process, registry, groups: HashSet::new() };
        Ok(Self { program: program.to_owned(), args, state: Mutex::new(state) })
    }

    /// The guard's process id.
    pub fn pid(&self) -> u32 {
        self.lock().process.id()
    }

    /// Where the next command writes its [`record`] before it becomes its program.
    pub(super) fn registry(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.lock().registry)
    }

    /// Notes a group that registered itself over `used`, so that a guard that replaces this one hears of it.
    pub(super) fn registered(&self, group: Pid, used: &Arc<OwnedFd>) {
        let mut state = self.lock();
        state.groups.insert(group.as_raw());
        // A guard that is being killed may have taken the record and never read it.
        let dead = !matches!(state.process.try_wait(), Ok(None));
        let replaced = !Arc::ptr_eq(used, &state.registry);
        if dead || (replaced && send(&state.registry, group.as_raw()).is_err()) {
            self.replace_and_log(&mut state);
        }
    }

    /// Tells the guard that a group is gone, so that its number may come to mean another process.
    pub(super) fn forget(&self, group: Pid) {
        let mut state = self.lock();
        if state.groups.remove(&group.as_raw()) && send(&state.registry, -group.as_raw()).is_err() {
            self.replace_and_log(&mut state);
        }
    }

    /// Tells the guard for how much longer the agent may run what it runs; `None`: until it says otherwise. A guard that is
    /// gone is replaced, since nobody else would end what runs if this process was stopped now.
    pub fn lease(&self, left: Option<Duration>) {
        let millis = left.map_or(0, |left| u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1));
        let mut state = self.lock();
        let tell = |state: &State| nix::unistd::write(state.registry.as_fd(), &lease_record(millis)).is_ok();
        let dead = !matches!(state.process.try_wait(), Ok(None));
        if dead || !tell(&state) {
            self.replace_and_log(&mut state);
            // If there is none now either, the next renewal tries again.
            tell(&state);
        }
    }

    /// Replaces a guard that died.
    ///
    /// # Errors
    /// When no other can be started.
    pub(super) fn ensure(&self) -> io::Result<()> {
        let mut state = self.lock();
        match state.process.try_wait() {
            Ok(None) => Ok(()),
            _ => self.replace_in(&mut state),
        }
    }

    /// Replaces a guard that died or stopped reading, and hands its successor the groups that are running.
    pub(super) fn replace(&self) -> io::Result<()> {
        self.replace_in(&mut self.lock())
    }

    fn replace_and_log(&self, state: &mut State) {
        if let Err(error) = self.replace_in(state) {
            tracing::error!(%error, "the guard is gone and can't be started again; it is tried again at the next command");
        }
    }

    fn replace_in(&self, state: &mut State) -> io::Result<()> {
        tracing::warn!(pid = state.process.id(), "the guard died or hangs; starting another");
        end(&mut state.process);
        let (process, registry) = start(&self.program, &self.args)?;
        state.process = process;
        state.registry = registry;
        for group in &state.groups {
            send(&state.registry, *group)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change of the state is a single assignment or insertion, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut state = self.lock();
        for group in std::mem::take(&mut state.groups) {
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        end(&mut state.process);
    }
}

fn start(program: &Path, args: &[OsString]) -> io::Result<(Child, Arc<OwnedFd>)> {
    let mut hold = reaper::hold();
    let mut process = Command::new(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        // A group of its own: what is sent to the agent's whole group, such as Ctrl-C, must not end the guard first.
        .process_group(0)
        .spawn()?;
    let registry: OwnedFd = process.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?.into();
    // A guard that no longer reads must show as an error, not as an agent that hangs.
    let flags = OFlag::from_bits_truncate(fcntl(&registry, FcntlArg::F_GETFL)?);
    fcntl(&registry, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    hold.own(Pid::from_raw(process.id().cast_signed()));
    Ok((process, Arc::new(registry)))
}

fn end(process: &mut Child) {
    let pid = Pid::from_raw(process.id().cast_signed());
    // It may be gone already; both calls then say so, and there is nothing to do about it.
    let _ = process.kill();
    let _ = process.wait();
    reaper::disown(pid);
}

/// What adds (a positive) or removes (a negative) process group.
pub(super) fn record(group: i32) -> [u8; RECORD] {
    group.to_le_bytes()
}

const RECORD: usize = 4;

fn send(registry: &OwnedFd, group: i32) -> Result<(), Errno> {
    nix::unistd::write(registry.as_fd(), &record(group)).map(drop)
}

/// The guard's whole life: follows the pipe on stdin to its end, kills the groups that are left, and exits.
pub fn main() -> ! {
    // Only the agent's end ends the guard. SIGKILL still does; the agent then starts another.
    let mut ignored = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        ignored.add(signal);
    }
    // Neither can fail with these arguments, and the guard is of use without either.
    let _ = ignored.thread_block();
    let _ = nix::sys::prctl::set_name(PROCESS_NAME);
    let stdin = io::stdin();
    let mut watch = Watch::default();
    while watch.wait(stdin.as_fd()) {}
    kill(&watch.groups);
    std::process::exit(0)
}

fn kill(groups: &HashSet<i32>) {
    for group in groups {
        // One that is gone by itself is as good.
        let _ = killpg(Pid::from_raw(*group), Signal::SIGKILL);
    }
}

/// What the guard knows.
#[derive(Default)]
struct Watch {
    groups: HashSet<i32>,
    lease_ends: Option<Instant>,
    /// Bytes of records that are not whole yet.
    partial: Vec<u8>,
}

impl Watch {
    /// Waits for the next records, or for the end of the lease: whether the agent is still there.
    fn wait(&mut self, records: BorrowedFd<'_>) -> bool {
        let left = self.lease_ends.map(|ends| ends.saturating_duration_since(Instant::now()));
        // Rounded up, so that it does not wake a moment too early and spin.
        let millis = left.map(|left| left.as_millis().saturating_add(1));
        let timeout = millis.map_or(PollTimeout::NONE, |ms| PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX));
        match poll(&mut [PollFd::new(records, PollFlags::POLLIN)], timeout) {
            Ok(0) => {
                self.check_lease();
                return true;
            }
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
        let mut bytes = [0; 4096];
        match nix::unistd::read(records, &mut bytes) {
            Ok(0) => false,
            Ok(n) => {
                self.take(&bytes[..n], Instant::now());
                true
            }
            Err(Errno::EINTR | Errno::EAGAIN) => true,
            Err(_) => false,
        }
    }

    fn check_lease(&mut self) {
        if self.lease_ends.is_some_and(|ends| ends <= Instant::now()) {
            kill(&self.groups);
            self.lease_ends = None;
        }
    }

    fn take(&mut self, bytes: &[u8], now: Instant) {
        self.partial.extend_from_slice(bytes);
        let whole = |at: usize, bytes: &[u8]| bytes.get(at..at + RECORD)?.try_into().map(i32::from_le_bytes).ok();
        let mut at = 0;
        while let Some(record) = whole(at, &self.partial) {
            at += RECORD;
            match record {
                LEASE => {
                    let Some(millis) = whole(at, &self.partial) else {
                        at -= RECORD;
                        break;
                    };
                    at += RECORD;
                    let left = Duration::from_millis(u64::from(millis.cast_unsigned()));
                    self.lease_ends = (!left.is_zero()).then(|| now + left);
                }
                // 0 is no command's group; killing it would reach far more than one.
                group @ 2.. => drop(self.groups.insert(group)),
                group => drop(self.groups.remove(&group.saturating_neg())),
            }
        }
        self.partial.drain(..at);
    }
}

/// Announces a lease: its milliseconds follow. No command's group has this number.
const LEASE: i32 = 1;

/// The lease ends after so many milliseconds, or never (0).
fn lease_record(millis: u32) -> [u8; 2 * RECORD] {
    let mut record = [0; 2 * RECORD];
    record[..RECORD].copy_from_slice(&LEASE.to_le_bytes());
    record[RECORD..].copy_from_slice(&millis.to_le_bytes());
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch_after(records: &[i32]) -> Watch {
        let bytes: Vec<u8> = records.iter().flat_map(|group| record(*group)).collect();
        let mut watch = Watch::default();
        watch.take(&bytes, Instant::now());
        watch
    }

    fn left_after(records: &[i32]) -> Vec<i32> {
        let mut groups: Vec<i32> = watch_after(records).groups.into_iter().collect();
        groups.sort_unstable();
        groups
    }

    #[test]
    fn what_was_added_and_not_removed_is_left() {
        assert_eq!(left_after(&[10, 20, 30, -20]), [10, 30]);
        assert_eq!(left_after(&[10, -10, 10, 10]), [10]);
        assert_eq!(left_after(&[-10, 10]), [10]);
    }

    #[test]
    fn no_record_reaches_every_process_or_the_guards_own_group() {
        assert_eq!(left_after(&[0, -1, i32::MIN, i32::MAX]), [i32::MAX]);
    }

    #[test]
    fn records_may_arrive_in_pieces() {
        let bytes: Vec<u8> = [record(7).as_slice(), &lease_record(500), &record(9)].concat();
        for cut in 0..=bytes.len() {
            let (mut watch, now) = (Watch::default(), Instant::now());
            watch.take(&bytes[..cut], now);
            watch.take(&bytes[cut..], now);
            assert_eq!(watch.groups, HashSet::from([7, 9]), "cut at {cut}");
            assert_eq!(watch.lease_ends, Some(now + Duration::from_millis(500)), "cut at {cut}");
        }
    }

    #[test]
    fn a_lease_can_be_called_off() {
        let mut watch = Watch::default();
        watch.take(&lease_record(5), Instant::now());
        watch.take(&lease_record(0), Instant::now());
        assert_eq!(watch.lease_ends, None);
    }
}
