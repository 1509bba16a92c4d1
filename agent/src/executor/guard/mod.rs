//! The guard: one small process per agent that outlives it briefly, to kill the commands that a dead agent left behind.
//!
//! An agent that is SIGKILLed can't stop its commands. The guard holds the read end of a pipe whose only write end is
//! the agent's: process groups are added and removed over it, and end-of-file means that the agent is gone, however it
//! ended. The guard then SIGKILLs each remaining group, and reports to the coordinators once they are gone.
//!
//! A command adds its own group between fork and exec, so it never runs unguarded. Each record is a process-group id as
//! four little-endian bytes, positive to add and negative to remove; writes of so few bytes to a pipe are atomic.
//!
//! An agent that is stopped (SIGSTOP, a debugger, a paused container) can't stop its commands either, though its lease
//! on them ends. So the agent sends the guard the remaining lease time, and a guard that gets no renewal by then kills
//! every group it knows. A guard that detects that the agent is stopped does so sooner, and revokes its session
//! ([`watch`]).

mod records;
mod report;
mod watch;

use std::{
    collections::HashSet,
    ffi::OsString,
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    sys::signal::{SigSet, Signal, killpg},
    unistd::Pid,
};

pub(super) use self::records::record;
pub use self::records::{GuardTrust, MAX_AUTHORITIES, SessionInfo};
use self::{
    records::{lease_record, session_record},
    watch::{REVOKED, Watch},
};
use super::reaper;

/// The hidden subcommand that turns the agent's binary into a guard: when this is the first argument, the binary's own
/// `main` must call this module's [`main`] before anything else.
pub const GUARD_SUBCOMMAND: &str = "group-guard";

/// The path through which a process sees its own program, even if the file has been removed.
const ITSELF: &str = "/proc/self/exe";

/// The guard's process name in the kernel.
const PROCESS_NAME: &std::ffi::CStr = c"robeing-guard";

/// The agent's handle to its guard. Dropping it ends the guard, and kills the groups that are still registered.
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
    /// The agent's session.
    info: Option<SessionInfo>,
    /// The read end of the guard's stdout.
    says: OwnedFd,
    /// Output of the guard that is not a complete line yet.
    heard: Vec<u8>,
    /// The session that the guard has revoked.
    revoked: Option<u64>,
}

impl Guard {
    /// Starts the guard: `agent_binary` with [`GUARD_SUBCOMMAND`].
    ///
    /// # Errors
    /// When the process can't be started.
    pub fn spawn(agent_binary: &Path) -> io::Result<Self> {
        Self::spawn_with(agent_binary, [GUARD_SUBCOMMAND])
    }

    /// Starts the guard from the program that this process runs, even if its file has since been replaced or removed.
    ///
    /// # Errors
    /// When the process can't be started.
    pub fn spawn_self() -> io::Result<Self> {
        let itself = Path::new(ITSELF);
        if itself.exists() { Self::spawn(itself) } else { Self::spawn(&std::env::current_exe()?) }
    }

    /// Whether the guard process has died.
    pub(super) fn is_gone(&self) -> bool {
        self.lock().guard_is_gone()
    }

    /// Starts the guard as `program` with `args`, which must call [`main`] with stdin untouched.
    ///
    /// # Errors
    /// When the process can't be started.
    pub fn spawn_with<A: Into<OsString>>(program: &Path, args: impl IntoIterator<Item = A>) -> io::Result<Self> {
        let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
        let Started { process, registry, says } = start(program, &args)?;
        let (groups, heard) = (HashSet::new(), Vec::new());
        let state = State { process, registry, groups, info: None, says, heard, revoked: None };
        Ok(Self { program: program.to_owned(), args, state: Mutex::new(state) })
    }

    /// The guard's process id.
    pub fn pid(&self) -> u32 {
        self.lock().process.id()
    }

    /// Returns the pipe to which the next command writes its [`record`] before it execs its program.
    pub(super) fn registry(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.lock().registry)
    }

    /// Records a group that registered itself over `used`, so that a replacement guard also learns of it.
    pub(super) fn registered(&self, group: Pid, used: &Arc<OwnedFd>) {
        let mut state = self.lock();
        state.groups.insert(group.as_raw());
        // A guard that is being killed may have received the record without reading it.
        let dead = state.guard_is_gone();
        let replaced = !Arc::ptr_eq(used, &state.registry);
        if dead || (replaced && send(&state.registry, group.as_raw()).is_err()) {
            self.replace_and_log(&mut state);
        }
    }

    /// Informs the guard that a group is gone, since its id may be reused by another process.
    pub(super) fn forget(&self, group: Pid) {
        let mut state = self.lock();
        if state.groups.remove(&group.as_raw()) && send(&state.registry, -group.as_raw()).is_err() {
            self.replace_and_log(&mut state);
        }
    }

    /// Sends the guard the remaining lease time; `None`: no limit. A dead guard is replaced, because nothing else would
    /// end the running commands if this process were stopped now.
    pub fn lease(&self, left: Option<Duration>) {
        let millis = left.map_or(0, |left| u32::try_from(left.as_millis()).unwrap_or(u32::MAX).max(1));
        let mut state = self.lock();
        let tell = |state: &State| nix::unistd::write(state.registry.as_fd(), &lease_record(millis)).is_ok();
        let dead = state.guard_is_gone();
        if dead || !tell(&state) {
            self.replace_and_log(&mut state);
            // If the guard could not be replaced, the next renewal tries again.
            tell(&state);
        }
    }

    /// Replaces the guard if it died.
    ///
    /// # Errors
    /// When a new one can't be started.
    pub(super) fn ensure(&self) -> io::Result<()> {
        let mut state = self.lock();
        if state.guard_is_gone() { self.replace_in(&mut state) } else { Ok(()) }
    }

    /// Sends the guard the agent's session; `None`: no session.
    pub fn set_session(&self, info: Option<SessionInfo>) {
        let mut state = self.lock();
        if state.info != info {
            state.info = info;
            let dead = state.guard_is_gone();
            if dead || state.send_session().is_err() {
                self.replace_and_log(&mut state);
            }
        }
    }

    /// Whether the guard has revoked the session: no attempt of it may start, and the running ones are killed.
    pub fn is_revoked(&self) -> bool {
        let mut state = self.lock();
        state.hear();
        state.revoked.is_some() && state.revoked == state.info.as_ref().map(|info| info.session)
    }

    /// Replaces a guard that died or stopped reading, and passes the running groups to its successor.
    pub(super) fn replace(&self) -> io::Result<()> {
        self.replace_in(&mut self.lock())
    }

    fn replace_and_log(&self, state: &mut State) {
        if let Err(error) = self.replace_in(state) {
            tracing::error!(%error, "the guard is gone and can't be restarted; retrying at the next command");
        }
    }

    fn replace_in(&self, state: &mut State) -> io::Result<()> {
        tracing::warn!(pid = state.process.id(), "the guard died or hangs; starting another");
        end(&mut state.process);
        // A revocation by the old guard remains valid.
        state.hear();
        let Started { process, registry, says } = start(&self.program, &self.args)?;
        state.process = process;
        state.registry = registry;
        state.says = says;
        state.heard.clear();
        state.send_session()?;
        for group in &state.groups {
            send(&state.registry, *group)?;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of the state is a single assignment or insertion, so a panic elsewhere leaves it consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn guard_is_gone(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    fn send_session(&self) -> Result<(), Errno> {
        let none = SessionInfo::default();
        let record = session_record(self.info.as_ref().unwrap_or(&none));
        nix::unistd::write(self.registry.as_fd(), &record).map(drop)
    }

    /// Processes the guard's output so far.
    fn hear(&mut self) {
        let mut bytes = [0; 256];
        while let Ok(count @ 1..) = nix::unistd::read(self.says.as_fd(), &mut bytes) {
            self.heard.extend_from_slice(&bytes[..count]);
        }
        while let Some(end) = self.heard.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.heard.drain(..=end).collect();
            let said = std::str::from_utf8(&line).ok().and_then(|line| line.trim_end().strip_prefix(REVOKED));
            self.revoked = said.and_then(|session| session.parse().ok()).or(self.revoked);
        }
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

struct Started {
    process: Child,
    registry: Arc<OwnedFd>,
    says: OwnedFd,
}

fn start(program: &Path, args: &[OsString]) -> io::Result<Started> {
    let mut hold = reaper::hold();
    let mut process = Command::new(program)
        .arg0("robeing-agent")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .current_dir("/")
        // Its own group: a signal to the agent's whole group, such as Ctrl-C, must not end the guard first.
        .process_group(0)
        .spawn()?;
    let registry: OwnedFd = process.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?.into();
    let says: OwnedFd = process.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?.into();
    // Non-blocking, so that a guard that does not read causes an error, and one that writes nothing does not block the
    // agent.
    for pipe in [&registry, &says] {
        let flags = OFlag::from_bits_truncate(fcntl(pipe, FcntlArg::F_GETFL)?);
        fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    hold.own(Pid::from_raw(process.id().cast_signed()));
    Ok(Started { process, registry: Arc::new(registry), says })
}

fn end(process: &mut Child) {
    let pid = Pid::from_raw(process.id().cast_signed());
    // The process may be gone already; both calls then fail, which is harmless.
    let _ = process.kill();
    let _ = process.wait();
    reaper::disown(pid);
}

fn send(registry: &OwnedFd, group: i32) -> Result<(), Errno> {
    nix::unistd::write(registry.as_fd(), &record(group)).map(drop)
}

/// The guard process: reads the pipe on stdin until end-of-file, kills the remaining groups, and exits.
pub fn main() -> ! {
    // Only the end of the agent ends the guard. SIGKILL still kills it; the agent then starts another.
    let mut ignored = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGQUIT] {
        ignored.add(signal);
    }
    // Neither call can fail with these arguments, and the guard works without either.
    let _ = ignored.thread_block();
    let _ = nix::sys::prctl::set_name(PROCESS_NAME);
    let stdin = io::stdin();
    Watch::new(stdin.as_fd(), nix::unistd::getppid()).run();
    std::process::exit(0)
}
