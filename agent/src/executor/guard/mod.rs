//! The guard: one small process per agent that outlives it by a moment, to kill the commands a dead agent left behind.
//!
//! An agent that is SIGKILLed can't stop its commands. The guard holds the reading end of a pipe whose only writing
//! end is the agent's: process groups are added and removed over it, and its end means that the agent is gone, however
//! it went. The guard then SIGKILLs each group that is left, and tells the coordinators once they are gone.
//!
//! A command adds its own group between fork and exec, so there is no moment at which it runs unguarded. Each record
//! is a process-group id as four little-endian bytes, positive to add and negative to remove; a pipe takes so few
//! bytes whole or not at all.
//!
//! An agent that is stopped (SIGSTOP, a debugger, a paused container) can't stop its commands either, though its lease on
//! them ends. So the agent tells the guard for how long the lease holds, and a guard that hears nothing new by then kills
//! every group it knows. A guard that sees that the agent is stopped does so sooner, and takes the session from it
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

pub use self::records::Stay;
pub(super) use self::records::record;
use self::{
    records::{lease_record, stay_record},
    watch::{REVOKED, Watch},
};
use super::reaper;

/// The hidden subcommand with which the agent's binary becomes a guard: its `main` must call [`main`] when this is
/// the first argument, before it does anything else.
pub const GUARD_SUBCOMMAND: &str = "group-guard";

/// The program that a process runs, to itself, be its file gone or not.
const ITSELF: &str = "/proc/self/exe";

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
    /// The session that the agent is in.
    stay: Option<Stay>,
    /// What the guard says.
    says: OwnedFd,
    /// What it said, as far as it is no whole line.
    heard: Vec<u8>,
    /// The session that it has revoked.
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

    /// Starts the guard as the program that this process runs, also when that has been replaced or removed since.
    ///
    /// # Errors
    /// When the process can't be started.
    pub fn spawn_self() -> io::Result<Self> {
        let itself = Path::new(ITSELF);
        if itself.exists() { Self::spawn(itself) } else { Self::spawn(&std::env::current_exe()?) }
    }

    /// Whether it has died.
    pub(super) fn is_gone(&self) -> bool {
        self.lock().guard_is_gone()
    }

    /// Starts the guard as `program` with `args`, which must end in a call of [`main`] with stdin untouched.
    ///
    /// # Errors
    /// When the process can't be started.
    pub fn spawn_with<A: Into<OsString>>(program: &Path, args: impl IntoIterator<Item = A>) -> io::Result<Self> {
        let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
        let Started { process, registry, says } = start(program, &args)?;
        let (groups, heard) = (HashSet::new(), Vec::new());
        let state = State { process, registry, groups, stay: None, says, heard, revoked: None };
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
        let dead = state.guard_is_gone();
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
        let dead = state.guard_is_gone();
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
        if state.guard_is_gone() { self.replace_in(&mut state) } else { Ok(()) }
    }

    /// Tells the guard which session the agent is in; `None`: in none.
    pub fn stay(&self, stay: Option<Stay>) {
        let mut state = self.lock();
        if state.stay != stay {
            state.stay = stay;
            let dead = state.guard_is_gone();
            if dead || state.tell_stay().is_err() {
                self.replace_and_log(&mut state);
            }
        }
    }

    /// Whether the guard has taken the session from the agent: nothing of it may be begun, and what runs is killed.
    pub fn is_revoked(&self) -> bool {
        let mut state = self.lock();
        state.hear();
        state.revoked.is_some() && state.revoked == state.stay.as_ref().map(|stay| stay.session)
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
        // What the old one has said holds.
        state.hear();
        let Started { process, registry, says } = start(&self.program, &self.args)?;
        state.process = process;
        state.registry = registry;
        state.says = says;
        state.heard.clear();
        state.tell_stay()?;
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

impl State {
    fn guard_is_gone(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    fn tell_stay(&self) -> Result<(), Errno> {
        let none = Stay::default();
        let record = stay_record(self.stay.as_ref().unwrap_or(&none));
        nix::unistd::write(self.registry.as_fd(), &record).map(drop)
    }

    /// Takes note of what the guard has said by now.
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
        // A group of its own: what is sent to the agent's whole group, such as Ctrl-C, must not end the guard first.
        .process_group(0)
        .spawn()?;
    let registry: OwnedFd = process.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?.into();
    let says: OwnedFd = process.stdout.take().ok_or(io::ErrorKind::BrokenPipe)?.into();
    // A guard that no longer reads must show as an error, and one that says nothing as that, not as an agent that hangs.
    for pipe in [&registry, &says] {
        let flags = OFlag::from_bits_truncate(fcntl(pipe, FcntlArg::F_GETFL)?);
        fcntl(pipe, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    }
    hold.own(Pid::from_raw(process.id().cast_signed()));
    Ok(Started { process, registry: Arc::new(registry), says })
}

fn end(process: &mut Child) {
    let pid = Pid::from_raw(process.id().cast_signed());
    // It may be gone already; both calls then say so, and there is nothing to do about it.
    let _ = process.kill();
    let _ = process.wait();
    reaper::disown(pid);
}

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
    Watch::new(stdin.as_fd(), nix::unistd::getppid()).run();
    std::process::exit(0)
}
