//! The guard: one small process per agent that outlives it by a moment, to kill the commands a dead agent left behind.
//!
//! An agent that is SIGKILLed can't stop its commands. The guard holds the reading end of a pipe whose only writing
//! end is the agent's: process groups are added and removed over it, and its end means that the agent is gone, however
//! it went. The guard then SIGKILLs each group that is left. It knows process-group ids and nothing else.
//!
//! A command adds its own group between fork and exec, so there is no moment at which it runs unguarded. Each record
//! is a process-group id as four little-endian bytes, positive to add and negative to remove; a pipe takes so few
//! bytes whole or not at all.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
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
    for group in follow(io::stdin().lock()) {
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
    }
    std::process::exit(0)
}

/// The groups that are registered when `records` ends, or can't be read any more.
fn follow(mut records: impl Read) -> HashSet<i32> {
    let mut groups = HashSet::new();
    let mut record = [0; RECORD];
    while records.read_exact(&mut record).is_ok() {
        match i32::from_le_bytes(record) {
            // 0 and 1 are no command's group; killing either would reach far more than one.
            group @ 2.. => groups.insert(group),
            group => groups.remove(&group.saturating_neg()),
        };
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left_after(records: &[i32]) -> Vec<i32> {
        let bytes: Vec<u8> = records.iter().flat_map(|group| record(*group)).collect();
        let mut groups: Vec<i32> = follow(bytes.as_slice()).into_iter().collect();
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
        assert_eq!(left_after(&[0, 1, -1, i32::MIN, i32::MAX]), [i32::MAX]);
    }

    #[test]
    fn a_record_that_is_cut_off_is_not_acted_on() {
        assert!(follow([7, 0, 0].as_slice()).is_empty());
    }
}
