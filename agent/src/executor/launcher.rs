//! The thread from which every command of an executor is started.
//!
//! A command asks the kernel to be killed when its parent dies, and to the kernel the parent is the thread that forked
//! it. The threads of an async runtime come and go, so commands are started from one that lives as long as the
//! executor. This is the only place with `unsafe` code: what a command does between fork and exec.

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

/// Commands waiting to be started before the next caller has to wait too.
const QUEUE: usize = 64;

/// What a child that could not register with the guard fails its start with. Neither fork nor exec gives this.
const UNGUARDED: Errno = Errno::ENOTCONN;

/// What a rehearsed start ends with.
const REHEARSED: Errno = Errno::ECANCELED;

/// Starts commands.
pub(super) struct Launcher {
    /// Taken when the launcher is dropped, which ends the thread.
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// A command to be started.
#[derive(Clone)]
pub(super) struct Launch {
    /// The program and its arguments; never empty.
    pub(super) argv: Arc<[String]>,
    /// Variables added to the agent's own environment, or with `None` taken from it.
    pub(super) env: [(&'static str, Option<String>); 4],
    /// Whether there is any input. Without, stdin is `/dev/null`.
    pub(super) has_input: bool,
}

/// A command that was started.
pub(super) struct Launched {
    pub(super) group: ProcessGroup,
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) stderr: Option<ChildStderr>,
}

/// Why a command was not started. Nothing of it was begun.
#[derive(Debug)]
pub(super) enum NotLaunched {
    /// It was cancelled before its turn came.
    Cancelled,
    /// The session is over: the agent was stopped for too long.
    Revoked,
    /// The agent can start no command now, as this sentence says.
    Short(String),
    /// The program can't be run.
    Program(io::Error),
}

enum Request {
    /// Look whether a command with these words could be started.
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

/// What is said when the thread has ended, which it does only by a panic.
const THREAD_ENDED: &str = "the thread that starts commands has ended; restart the agent";

impl Launcher {
    /// Starts the thread.
    pub(super) fn start(guard: Option<Arc<Guard>>) -> io::Result<Self> {
        let (requests, queue) = mpsc::channel(QUEUE);
        let thread =
            thread::Builder::new().name("robeing-launcher".into()).spawn(move || serve(queue, guard.as_ref()))?;
        Ok(Self { requests: Some(requests), thread: Some(thread) })
    }

    /// Starts a command, unless `cancel` fires before its turn comes, which is an error then. If the future is dropped
    /// meanwhile, the command is not started or killed at once.
    pub(super) async fn launch(&self, launch: Launch, cancel: CancellationToken) -> Result<Launched, NotLaunched> {
        let runtime = Handle::current();
        self.ask(|reply| Request::Launch { launch, cancel, runtime, reply }).await
    }

    /// Does all that starting a command needs but running a program.
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

    /// Looks, in the thread itself, whether a command could be started now. It waits for its turn behind commands.
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
            // Not longer than one start of a command. A panic in the thread was reported when it happened.
            let _ = thread.join();
        }
    }
}

fn serve(mut queue: mpsc::Receiver<Request>, guard: Option<&Arc<Guard>>) {
    // If no one waits for an answer any more, a group is dropped here, which kills it.
    while let Some(request) = queue.blocking_recv() {
        match request {
            Request::Check(argv, reply) => {
                // Nobody may wait for it any more.
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

/// Whether what starting a command needs is there. A guard that is gone is replaced.
fn check(argv: &[String], guard: Option<&Arc<Guard>>) -> Health {
    if let Some(error) = guard.and_then(|guard| guard.ensure().err()) {
        return Health::Unhealthy(format!(
            "the guard of the agent's commands is gone and can't be started again: {error}"
        ));
    }
    if let Err(error) = env::current_dir() {
        return Health::Unhealthy(format!("the agent's working directory is gone: {error}; restart the agent"));
    }
    // Input, output and errors of a command are a pipe each. They are closed again here.
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

/// Does what needs a guard that works, with another guard if it has to be.
fn with_guard<T>(guard: Option<&Arc<Guard>>, start: impl Fn() -> io::Result<T>) -> Result<T, NotLaunched> {
    let is_unguarded = |error: &io::Error| error.raw_os_error() == Some(UNGUARDED as i32);
    let mut started = start();
    if let (Err(error), Some(guard)) = (&started, guard)
        && is_unguarded(error)
    {
        guard.replace().map_err(|error| {
            NotLaunched::Short(format!("the guard, which ends commands if the agent dies, can't be started: {error}"))
        })?;
        started = start();
    }
    started.map_err(|error| match shortage(&error) {
        Some(words) => NotLaunched::Short(format!("{words} ({error})")),
        None if is_unguarded(&error) => {
            NotLaunched::Short("the guard, which ends commands if the agent dies, ends whenever it is started".into())
        }
        None => NotLaunched::Program(error),
    })
}

/// What the agent lacks where a start fails so; `None`: the program itself can't be run.
fn shortage(error: &io::Error) -> Option<&'static str> {
    if let Some(NoStdin(_)) = error.get_ref().and_then(|inner| inner.downcast_ref()) {
        return Some("commands can't be given an empty input");
    }
    let errno = Errno::from_raw(error.raw_os_error()?);
    Some(match errno {
        Errno::EAGAIN => {
            "no further process can be started here; raise the limit (ulimit -u, or that of the container)"
        }
        Errno::ENOMEM => "there is not enough memory for a further process",
        Errno::ETXTBSY => "the program is just being written",
        Errno::ENOEXEC => {
            "the program is none that this machine can run; a script needs a first line such as #!/bin/sh, a binary the machine's \
             architecture"
        }
        Errno::EIO | Errno::ESTALE | Errno::ENXIO | Errno::ENODEV | Errno::ETIMEDOUT => {
            "the program can't be read from its disk"
        }
        _ => return too_many_files(errno),
    })
}

/// `/dev/null` can't be opened.
#[derive(Debug, thiserror::Error)]
#[error("/dev/null can't be opened: {0}")]
struct NoStdin(io::Error);

fn spawn(launch: &Launch, guard: Option<&Arc<Guard>>, runtime: &Handle) -> io::Result<Launched> {
    let image = Image::new(launch)?;
    // Only for what it is called in errors: the image takes the place of its exec.
    let mut command = Command::new(launch.argv.first().ok_or(io::ErrorKind::InvalidInput)?);
    command
        .stdin(if launch.has_input { Stdio::piped() } else { empty_input()? })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let registry = guard.map(|guard| guard.registry());
    tie_to_agent(&mut command, registry.clone());
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

/// `/dev/null`, opened here so that an error of it is not taken for one of the program.
fn empty_input() -> io::Result<Stdio> {
    File::open("/dev/null").map(Stdio::from).map_err(|error| io::Error::other(NoStdin(error)))
}

/// Starts what would be a command with the pipes of one, and ends it before it becomes a program.
#[allow(unsafe_code)]
fn rehearse(guard: Option<&Arc<Guard>>) -> io::Result<()> {
    if guard.is_some_and(|guard| guard.is_gone()) {
        return Err(UNGUARDED.into());
    }
    drop(empty_input()?);
    let mut command = std::process::Command::new("/proc/self/exe");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: the closure runs between fork and exec and does nothing but give an error, which is a number.
    unsafe {
        command.pre_exec(|| Err(REHEARSED.into()));
    }
    // Nobody else may reap it meanwhile.
    let _hold = reaper::hold();
    match command.spawn() {
        Err(error) if error.raw_os_error() == Some(REHEARSED as i32) => Ok(()),
        Err(error) => Err(error),
        Ok(mut child) => child.wait().map(drop),
    }
}

/// What a child becomes: the files that may be the program, its words and its environment, as `execve` takes them.
///
/// The `execvp` of glibc, which the standard library calls, has a shell run a file that the kernel takes for no program: an
/// empty file then succeeds, and a script for another interpreter does what its words mean to a shell. That of musl does not.
struct Image {
    files: Vec<CString>,
    words: Pointers,
    env: Pointers,
}

/// Strings, and the array of pointers to them that ends with null.
struct Pointers {
    array: Box<[*const c_char]>,
    /// What they point to: on the heap, where it stays when this is moved.
    _strings: Vec<CString>,
}

// SAFETY: the pointers are to strings that go with them, which nobody changes.
#[allow(unsafe_code)]
unsafe impl Send for Pointers {}
// SAFETY: as above; they are read alone.
#[allow(unsafe_code)]
unsafe impl Sync for Pointers {}

impl Pointers {
    fn new(strings: Vec<CString>) -> Self {
        let array = strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect();
        Self { array, _strings: strings }
    }
}

impl Image {
    fn new(launch: &Launch) -> io::Result<Self> {
        let string = |bytes: &[u8]| CString::new(bytes).map_err(io::Error::from);
        let words = launch.argv.iter().map(|word| string(word.as_bytes())).collect::<io::Result<_>>()?;
        let is_set_here = |name: &OsStr| launch.env.iter().any(|(here, _)| OsStr::new(here) == name);
        let inherited = env::vars_os().filter(|(name, _)| !is_set_here(name));
        let here = launch.env.iter().filter_map(|(name, value)| Some((OsString::from(name), value.as_ref()?.into())));
        let variable =
            |(name, value): (OsString, OsString)| string(&[name.as_bytes(), b"=", value.as_bytes()].concat());
        let files = program::candidates(&launch.argv);
        Ok(Self {
            files: files.iter().map(|file| string(file.as_os_str().as_bytes())).collect::<io::Result<_>>()?,
            words: Pointers::new(words),
            env: Pointers::new(inherited.chain(here).map(variable).collect::<io::Result<_>>()?),
        })
    }

    /// Becomes the first of the files that can be run, and comes back only when none can. Async-signal-safe.
    #[allow(unsafe_code)]
    fn exec(&self) -> io::Error {
        let mut last = Errno::ENOENT;
        for file in &self.files {
            // SAFETY: a system call whose arguments are strings that end with NUL, and arrays of such that end with null.
            unsafe { nix::libc::execve(file.as_ptr(), self.words.array.as_ptr(), self.env.array.as_ptr()) };
            match Errno::last() {
                // As in a shell, the next folder of PATH may have it.
                Errno::ENOENT | Errno::ENOTDIR if last == Errno::EACCES => {}
                missing @ (Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES) => last = missing,
                error => return error.into(),
            }
        }
        last.into()
    }
}

/// Has the child become the image, in place of what the standard library would do.
#[allow(unsafe_code)]
fn become_image(command: &mut Command, image: Image) {
    // SAFETY: the closure runs in a forked child, and does nothing but system calls with what was prepared before the fork. It
    // neither allocates nor drops anything: an error from an errno is a number.
    unsafe {
        command.pre_exec(move || Err(image.exec()));
    }
}

/// Makes the command die with the agent: itself by the kernel, its group by the guard. And makes it the leader of a session
/// and a process group, so that it has no terminal: one that read from the agent's would be stopped for ever.
#[allow(unsafe_code)]
fn tie_to_agent(command: &mut Command, registry: Option<Arc<OwnedFd>>) {
    let agent = getpid();
    let before_exec = move || {
        setsid()?;
        set_pdeathsig(Signal::SIGKILL)?;
        // An agent that died before that call would not be noticed by it.
        if getppid() != agent {
            return Err(Errno::ESRCH.into());
        }
        if let Some(registry) = &registry {
            register(registry)?;
        }
        Ok(())
    };
    // SAFETY: the closure runs in a forked child of a process with many threads, where only async-signal-safe calls
    // are sound. It makes these and no others: setsid, prctl, getppid, getpid and write, each a bare system call through a
    // wrapper that neither allocates nor locks, and signal, which POSIX lists as async-signal-safe. `io::Error` from
    // an errno is a number, without allocation. What is captured, a pid and an Arc, is only read: nothing is dropped
    // in the child, which goes on to exec or _exit.
    unsafe {
        command.pre_exec(before_exec);
    }
}

/// Runs in the child between fork and exec: adds its process group to the guard's. Async-signal-safe.
#[allow(unsafe_code)]
fn register(registry: &OwnedFd) -> io::Result<()> {
    let set_sigpipe = |handler| {
        // SAFETY: neither handler is a function, so none can break the rules for signal handlers.
        unsafe { signal(Signal::SIGPIPE, handler) }
    };
    // A guard that died must give an error here, not end the child.
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
}
