//! The thread that starts all commands of an executor.
//!
//! The kernel kills a command when its parent dies (PR_SET_PDEATHSIG), and the parent is the thread that forked it. The
//! threads of an async runtime come and go, so commands are started from a thread that lives as long as the executor.
//! This module holds the only `unsafe` code of the executors: what a command does between fork and exec.

use std::{
    env,
    ffi::{CString, OsStr, OsString, c_char},
    fs::File,
    io,
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, process::CommandExt},
    },
    process::Stdio,
    sync::Arc,
    thread,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::{
        prctl::set_pdeathsig,
        signal::{SigHandler, Signal, signal},
    },
    unistd::{Pid, getpid, getppid, pipe2, setsid},
};
use robeing_settings::{OBJECT_STORE_VARIABLES, WEBHOOK_SECRET_VARIABLES};
use tokio::{
    process::{ChildStderr, ChildStdin, ChildStdout, Command},
    runtime::Handle,
    sync::{mpsc, oneshot},
};
use tokio_util::sync::CancellationToken;

use super::{
    Health,
    guard::{self, Guard},
    process_group::ProcessGroup,
    program, reaper,
    text::too_many_files,
};

/// The number of queued commands beyond which callers wait.
const QUEUE: usize = 64;

/// The error of a child that could not register with the guard. Neither fork nor exec returns it.
const UNGUARDED: Errno = Errno::ENOTCONN;

/// The error of a child that could not enter its control group. Neither fork nor exec returns it.
const UNBOUND: Errno = Errno::EXFULL;

/// The error that ends a rehearsed start.
const REHEARSED: Errno = Errno::ECANCELED;

/// Starts commands on its thread.
pub(super) struct Launcher {
    /// Taken when the launcher is dropped, which ends the thread.
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// A command to start.
#[derive(Clone)]
pub(super) struct Launch {
    /// The program and its arguments; never empty.
    pub(super) argv: Arc<[String]>,
    /// Environment variables to set, or with `None` to remove, relative to what [`environment`] leaves of the agent's.
    pub(super) env: Vec<(&'static str, Option<String>)>,
    /// Whether there is any input. Otherwise stdin is `/dev/null`.
    pub(super) has_input: bool,
    /// The files to each of which the command writes `0`, by which it enters its control group.
    pub(super) entries: Arc<[OwnedFd]>,
}

/// A started command.
pub(super) struct Launched {
    pub(super) group: ProcessGroup,
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
}

/// Why a command was not started. No part of it ran.
#[derive(Debug)]
pub(super) enum NotLaunched {
    /// It was cancelled while queued.
    Cancelled,
    /// The guard has revoked the session because the agent was stopped for too long.
    Revoked,
    /// The agent can't start commands now, for the given reason.
    Short(String),
    /// The command could not enter its control group.
    Unbound,
    /// The program can't be run.
    Program(io::Error),
}

enum Request {
    /// Check whether a command with this `argv` could be started.
    Check(Arc<[String]>, oneshot::Sender<Health>),
    Launch {
        launch: Launch,
        cancel: CancellationToken,
        runtime: Handle,
        reply: oneshot::Sender<Result<Launched, NotLaunched>>,
    },
    Rehearse {
        reply: oneshot::Sender<Result<(), NotLaunched>>,
    },
}

/// The error when the thread has ended, which only a panic causes.
const THREAD_ENDED: &str = "the thread that starts commands has ended; restart the agent";

impl Launcher {
    /// Starts the thread.
    pub(super) fn start(guard: Option<Arc<Guard>>) -> io::Result<Self> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let thread =
            thread::Builder::new().name("robeing-launcher".into()).spawn(move || serve(queue, guard.as_ref()))?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    /// Starts a command, or fails if `cancel` fires while it is queued. If the future is dropped, the command is not
    /// started, or killed at once.
    pub(super) async fn launch(&self, launch: Launch, cancel: CancellationToken) -> Result<Launched, NotLaunched> {
        let runtime = Handle::current();
        self.ask(|reply| Request::Launch { launch, cancel, runtime, reply }).await
    }

    /// Does everything that starting a command requires, except running a program.
    pub(super) async fn rehearse(&self) -> Result<(), NotLaunched> {
        self.ask(|reply| Request::Rehearse { reply }).await
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, NotLaunched>>) -> Request,
    ) -> Result<T, NotLaunched> {
        let gone = || NotLaunched::Short(THREAD_ENDED.into());
        let (reply, answer) = oneshot::channel();
        self.requests.as_ref().ok_or_else(gone)?.send(request(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }

    /// Checks on the thread whether a command could be started now. The check is queued behind commands.
    pub(super) async fn check(&self, argv: Arc<[String]>) -> Health {
        let failed = || Health::Failed(THREAD_ENDED.to_owned());
        let (reply, checked) = oneshot::channel();
        let Some(requests) = &self.requests else { return failed() };
        if requests.send(Request::Check(argv, reply)).await.is_err() {
            return failed();
        }
        checked.await.unwrap_or_else(|_| failed())
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // This takes at most as long as one start. A panic of the thread was logged when it happened.
            let _ = thread.join();
        }
    }
}

fn serve(mut queue: mpsc::Receiver<Request>, guard: Option<&Arc<Guard>>) {
    // If the receiver of a reply is gone, the group is dropped here, which kills it.
    while let Some(request) = queue.blocking_recv() {
        match request {
            Request::Check(argv, reply) => {
                // The receiver may be gone.
                let _ = reply.send(check(&argv, guard));
            }
            Request::Launch { reply, .. } if reply.is_closed() => {}
            Request::Launch { cancel, reply, .. } if cancel.is_cancelled() => {
                let _ = reply.send(Err(NotLaunched::Cancelled));
            }
            Request::Launch { reply, .. } if guard.is_some_and(|guard| guard.is_revoked()) => {
                let _ = reply.send(Err(NotLaunched::Revoked));
            }
            Request::Launch { launch, runtime, reply, .. } => {
                let _ = reply.send(with_guard(guard, || spawn(&launch, guard, &runtime)));
            }
            Request::Rehearse { reply } => {
                let _ = reply.send(with_guard(guard, || rehearse(guard)));
            }
        }
    }
}

/// Checks the prerequisites of starting a command. A dead guard is replaced.
fn check(argv: &[String], guard: Option<&Arc<Guard>>) -> Health {
    if let Some(error) = guard.and_then(|guard| guard.ensure().err()) {
        return Health::Unhealthy(format!(
            "the guard of the agent's commands is gone and can't be started again: {error}"
        ));
    }
    if let Err(error) = check_directory() {
        return Health::Unhealthy(format!("the agent's working directory is gone: {error}; restart the agent"));
    }
    // A command needs one pipe each for stdin, stdout and stderr. These are closed again here.
    if let Err(error) = (0..3).map(|_| pipe2(OFlag::O_CLOEXEC)).collect::<Result<Vec<_>, Errno>>() {
        return Health::Unhealthy(format!(
            "no file descriptors are left for a command ({error}); raise the limit (ulimit -n)"
        ));
    }
    match program::check(argv) {
        Ok(()) => Health::Healthy,
        Err(error) => Health::Unhealthy(error.to_string()),
    }
}

/// Runs `start`, which needs a working guard; replaces the guard and retries once if it is dead.
fn with_guard<T>(guard: Option<&Arc<Guard>>, start: impl Fn() -> io::Result<T>) -> Result<T, NotLaunched> {
    let is_unguarded = |error: &io::Error| error.raw_os_error() == Some(UNGUARDED as i32);
    let mut started = start();
    if let (Err(error), Some(guard)) = (&started, guard)
        && is_unguarded(error)
    {
        guard.replace().map_err(|error| {
            NotLaunched::Short(format!("the guard, which kills commands if the agent dies, can't be started: {error}"))
        })?;
        started = start();
    }
    started.map_err(|error| match shortage(&error) {
        Some(words) => NotLaunched::Short(format!("{words} ({error})")),
        None if is_unguarded(&error) => {
            NotLaunched::Short("the guard, which kills commands if the agent dies, exits whenever it is started".into())
        }
        None if error.raw_os_error() == Some(UNBOUND as i32) => NotLaunched::Unbound,
        None => NotLaunched::Program(error),
    })
}

/// Describes what the agent lacks, given the error of a start; `None`: the program itself can't be run.
fn shortage(error: &io::Error) -> Option<&'static str> {
    if let Some(NoStdin(_)) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
        return Some("commands can't be given an empty input");
    }
    if let Some(NoDirectory(_)) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
        return Some("the agent's working directory is gone; restart the agent");
    }
    let errno = Errno::from_raw(error.raw_os_error()?);
    Some(match errno {
        Errno::EAGAIN => {
            "no further process can be started here; raise the limit (ulimit -u, or that of the container)"
        }
        Errno::ENOMEM => "there is not enough memory for a further process",
        Errno::ETXTBSY => "the program is open for writing",
        Errno::ENOEXEC => {
            "this machine can't run the program; a script needs a first line such as #!/bin/sh, a binary the machine's \
             architecture"
        }
        Errno::EIO | Errno::ESTALE | Errno::ENXIO | Errno::ENODEV | Errno::ETIMEDOUT => {
            "the program can't be read from its disk"
        }
        _ => return too_many_files(errno),
    })
}

/// The agent's working directory, which commands inherit, was removed.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NoDirectory(io::Error);

fn check_directory() -> io::Result<()> {
    env::current_dir().map(drop).map_err(|error| io::Error::other(NoDirectory(error)))
}

/// Opening `/dev/null` failed.
#[derive(Debug, thiserror::Error)]
#[error("/dev/null can't be opened: {0}")]
struct NoStdin(io::Error);

fn spawn(launch: &Launch, guard: Option<&Arc<Guard>>, runtime: &Handle) -> io::Result<Launched> {
    check_directory()?;
    let image = Image::new(launch)?;
    // The standard library requires a program here, but never execs it: the image's exec comes first.
    let mut command = Command::new(launch.argv.first().ok_or(io::ErrorKind::InvalidInput)?);
    command
        .stdin(if launch.has_input { Stdio::piped() } else { empty_input()? })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let registry = guard.map(|guard| guard.registry());
    tie_to_agent(&mut command, registry.clone(), Arc::clone(&launch.entries));
    become_image(&mut command, image);

    let _entered = runtime.enter();
    let mut hold = reaper::hold();
    let mut child = command.spawn()?;
    let id = child.id().map(|id| Pid::from_raw(id.cast_signed()));
    let id = id.ok_or_else(|| io::Error::other("the command has no process id"))?;
    hold.own(id);
    drop(hold);

    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    if let (Some(guard), Some(registry)) = (guard, &registry) {
        guard.registered(id, registry);
    }
    let group = ProcessGroup::new(id, child, guard.cloned(), runtime.clone());
    Ok(Launched { group, stdin, stdout, stderr })
}

/// Opens `/dev/null` here, so that its error is not mistaken for the program's.
fn empty_input() -> io::Result<Stdio> {
    File::open("/dev/null").map(Stdio::from).map_err(|error| io::Error::other(NoStdin(error)))
}

/// Starts a process with the pipes of a command, and ends it before it execs a program.
#[allow(unsafe_code)]
fn rehearse(guard: Option<&Arc<Guard>>) -> io::Result<()> {
    if guard.is_some_and(|guard| guard.is_gone()) {
        return Err(UNGUARDED.into());
    }
    check_directory()?;
    drop(empty_input()?);
    let mut command = std::process::Command::new("/proc/self/exe");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: the closure runs between fork and exec and only returns an error, which is a number.
    unsafe {
        command.pre_exec(|| Err(REHEARSED.into()));
    }
    // Nothing else may reap the child meanwhile.
    let _hold = reaper::hold();
    match command.spawn() {
        Err(error) if error.raw_os_error() == Some(REHEARSED as i32) => Ok(()),
        Err(error) => Err(error),
        Ok(mut child) => child.wait().map(drop),
    }
}

/// What a child execs: the files that may be the program, its arguments and its environment, in the form of `execve`.
///
/// The `execvp` of glibc, which the standard library calls, passes a file that the kernel can't execute to a shell: an
/// empty file then succeeds, and a script for another interpreter is run as shell commands. The one of musl does not.
struct Image {
    files: Vec<CString>,
    words: Pointers,
    env: Pointers,
}

/// C strings, and the null-terminated array of pointers to them.
struct Pointers {
    array: Box<[*const c_char]>,
    /// The strings are on the heap, so they stay valid when this struct is moved.
    _strings: Vec<CString>,
}

// SAFETY: the pointers are to strings owned by the same struct, which are never changed.
#[allow(unsafe_code)]
unsafe impl Send for Pointers {}
// SAFETY: as above; the strings are only read.
#[allow(unsafe_code)]
unsafe impl Sync for Pointers {}

impl Pointers {
    fn new(strings: Vec<CString>) -> Self {
        let array = strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect();
        Self { array, _strings: strings }
    }
}

/// Returns the environment of a command: that of the agent, without the secrets of webhooks and of the object store, which
/// are for the agent alone, and with what is set for the command.
fn environment(launch: &Launch, agents: impl Iterator<Item = (OsString, OsString)>) -> Vec<(OsString, OsString)> {
    let is_set_here = |name: &OsStr| launch.env.iter().any(|(here, _)| OsStr::new(here) == name);
    let secrets = [WEBHOOK_SECRET_VARIABLES, OBJECT_STORE_VARIABLES];
    let is_secret = |name: &OsStr| secrets.iter().any(|of| name.as_bytes().starts_with(of.as_bytes()));
    let inherited = agents.filter(|(name, _)| !is_set_here(name) && !is_secret(name));
    let here = launch.env.iter().filter_map(|(name, value)| Some((OsString::from(name), value.as_ref()?.into())));
    inherited.chain(here).collect()
}

impl Image {
    fn new(launch: &Launch) -> io::Result<Self> {
        let string = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::from);
        let words = launch.argv.iter().map(|word| string(word.as_bytes())).collect::<io::Result<_>>()?;
        let variable =
            |(name, value): (OsString, OsString)| string(&[name.as_bytes(), b"=", value.as_bytes()].concat());
        let files = program::candidates(&launch.argv);
        let environment = environment(launch, env::vars_os());
        Ok(Self {
            files: files.iter().map(|file| string(file.as_os_str().as_bytes())).collect::<io::Result<_>>()?,
            words: Pointers::new(words),
            env: Pointers::new(environment.into_iter().map(variable).collect::<io::Result<_>>()?),
        })
    }

    /// Execs the first file that can be run, and returns only if none can. Async-signal-safe.
    #[allow(unsafe_code)]
    fn exec(&self) -> io::Error {
        let mut last = Errno::ENOENT;
        for file in &self.files {
            // SAFETY: a system call whose arguments are NUL-terminated strings and null-terminated arrays of such.
            unsafe { nix::libc::execve(file.as_ptr(), self.words.array.as_ptr(), self.env.array.as_ptr()) };
            match Errno::last() {
                // As in a shell, the next directory of PATH may have the program.
                Errno::ENOENT | Errno::ENOTDIR if last == Errno::EACCES => {}
                missing @ (Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => last = missing,
                error => return error.into(),
            }
        }
        last.into()
    }
}

/// Makes the child exec the image, instead of the standard library's exec.
#[allow(unsafe_code)]
fn become_image(command: &mut Command, image: Image) {
    // SAFETY: the closure runs in a forked child, and only makes system calls with data prepared before the fork. It
    // neither allocates nor drops anything: an error from an errno is a number.
    unsafe {
        command.pre_exec(move || Err(image.exec()));
    }
}

/// Makes the command die with the agent: the kernel kills its process, the guard its group. Also makes it the leader of
/// a session and a process group, so that it has no terminal: a command that read from the agent's terminal would be
/// stopped forever. It enters its control group before it can start anything.
#[allow(unsafe_code)]
fn tie_to_agent(command: &mut Command, registry: Option<Arc<OwnedFd>>, entries: Arc<[OwnedFd]>) {
    let agent = getpid();
    let before_exec = move || {
        setsid()?;
        // The agent ignores SIGXFSZ, which an exec would pass on.
        // SAFETY: the default disposition is not a function, so it can't break the rules for signal handlers.
        unsafe { signal(Signal::SIGXFSZ, SigHandler::SigDfl) }?;
        set_pdeathsig(Signal::SIGKILL)?;
        // If the agent died before that call, the kernel sends no signal.
        if getppid() != agent {
            return Err(Errno::ESRCH.into());
        }
        for entry in entries.iter() {
            nix::unistd::write(entry, b"0").map_err(|_| io::Error::from(UNBOUND))?;
        }
        if let Some(registry) = &registry {
            register(registry)?;
        }
        Ok(())
    };
    // SAFETY: the closure runs in a forked child of a multi-threaded process, where only async-signal-safe calls are
    // sound. It makes only these: setsid, prctl, getppid, getpid and write, each a bare system call through a wrapper
    // that neither allocates nor locks, and signal, which POSIX lists as async-signal-safe. `io::Error` from an errno
    // is a number, without allocation. What is captured, a pid and two Arcs, is only read: nothing is dropped in the
    // child, which then calls exec or _exit.
    unsafe {
        command.pre_exec(before_exec);
    }
}

/// Runs in the child between fork and exec: registers its process group with the guard. Async-signal-safe.
#[allow(unsafe_code)]
fn register(registry: &OwnedFd) -> io::Result<()> {
    let set_sigpipe = |handler| {
        // SAFETY: neither handler is a function, so none can break the rules for signal handlers.
        unsafe { signal(Signal::SIGPIPE, handler) }
    };
    // A dead guard must cause an error here, not kill the child.
    set_sigpipe(SigHandler::SigIgn)?;
    let written = nix::unistd::write(registry, &guard::record(getpid().as_raw()));
    set_sigpipe(SigHandler::SigDfl)?;
    written.map(drop).map_err(|_| UNGUARDED.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_none_for_this_machine_is_the_agents_lack() {
        let words = shortage(&Errno::ENOEXEC.into()).expect("it is one");
        assert!(words.contains("a script needs a first line"), "{words}");
        assert_eq!(shortage(&Errno::E2BIG.into()), None);
    }

    #[test]
    fn a_command_inherits_all_but_secrets_of_the_agent_and_what_is_set_for_it() {
        let variable = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        let secrets = ["ROBEING_WEBHOOK_SECRET_1", "ROBEING_STORE_AWS_SECRET_ACCESS_KEY"];
        let names = ["PATH", "ROBEING_WEBHOOKS", "ROBEING_KIND", "ROBEING_DEADLINE"].into_iter().chain(secrets);
        let env = vec![("ROBEING_KIND", Some("new".to_owned())), ("ROBEING_DEADLINE", None)];
        let launch = Launch { argv: Arc::new([]), env, has_input: false, entries: Arc::default() };
        let of_command = environment(&launch, names.map(|name| variable(name, "old")));
        let expected = [("PATH", "old"), ("ROBEING_WEBHOOKS", "old"), ("ROBEING_KIND", "new")];
        assert_eq!(of_command, expected.map(|(name, value)| variable(name, value)));
    }
}
