//! The thread from which every command of an executor is started.
//!
//! A command asks the kernel to be killed when its parent dies, and to the kernel the parent is the thread that forked
//! it. The threads of an async runtime come and go, so commands are started from one that lives as long as the
//! executor. This is the only place with `unsafe` code: what a command does between fork and exec.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::sync::Arc;
use std::thread;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigHandler, Signal, signal};
use nix::unistd::{Pid, getpid, getppid, pipe2};
use tokio::process::{ChildStderr, ChildStdin, ChildStdout, Command};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::Health;
use super::command::check_program;
use super::guard::{self, Guard};
use super::process_group::ProcessGroup;
use super::reaper;

/// Commands waiting to be started before the next caller has to wait too.
const QUEUE: usize = 64;

/// What a child that could not register with the guard fails its start with. Neither fork nor exec gives this.
const UNGUARDED: Errno = Errno::ENOTCONN;

/// Starts commands.
pub(super) struct Launcher {
    /// Taken when the launcher is dropped, which ends the thread.
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// A command to be started.
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

enum Request {
    Launch(Start),
    /// Look whether a command with these words could be started.
    Check(Arc<[String]>, oneshot::Sender<Health>),
}

struct Start {
    launch: Launch,
    cancel: CancellationToken,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Launched>>,
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
    pub(super) async fn launch(&self, launch: Launch, cancel: CancellationToken) -> io::Result<Launched> {
        let (reply, launched) = oneshot::channel();
        let request = Request::Launch(Start { launch, cancel, runtime: Handle::current(), reply });
        let gone = || io::Error::other(THREAD_ENDED);
        self.requests.as_ref().ok_or_else(gone)?.send(request).await.map_err(|_| gone())?;
        launched.await.map_err(|_| gone())?
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
    while let Some(request) = queue.blocking_recv() {
        let Start { launch, cancel, runtime, reply } = match request {
            Request::Launch(start) => start,
            Request::Check(argv, reply) => {
                // Nobody may wait for it any more.
                let _ = reply.send(check(&argv, guard));
                continue;
            }
        };
        if reply.is_closed() {
            continue;
        }
        if cancel.is_cancelled() {
            let _ = reply.send(Err(io::Error::other("cancelled before it was started")));
            continue;
        }
        if guard.is_some_and(|guard| guard.is_revoked()) {
            let _ = reply.send(Err(io::Error::other("the session is over: the agent was stopped for too long")));
            continue;
        }
        let mut launched = spawn(&launch, guard, &runtime);
        if let (Err(error), Some(guard)) = (&launched, guard)
            && error.raw_os_error() == Some(UNGUARDED as i32)
        {
            launched = guard.replace().and_then(|()| spawn(&launch, Some(guard), &runtime));
        }
        // If no one waits for it any more, the group is dropped here, which kills it.
        let _ = reply.send(launched);
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
    match check_program(argv) {
        Ok(()) => Health::Healthy,
        Err(error) => Health::Unhealthy(error.to_string()),
    }
}

fn spawn(launch: &Launch, guard: Option<&Arc<Guard>>, runtime: &Handle) -> io::Result<Launched> {
    let (program, args) = launch.argv.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command
        .args(args)
        .stdin(if launch.has_input { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    for (name, value) in &launch.env {
        match value {
            Some(value) => command.env(name, OsStr::new(value)),
            None => command.env_remove(name),
        };
    }
    let registry = guard.map(|guard| guard.registry());
    tie_to_agent(&mut command, registry.clone());

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

/// Makes the command die with the agent: itself by the kernel, its group by the guard.
#[allow(unsafe_code)]
fn tie_to_agent(command: &mut Command, registry: Option<Arc<OwnedFd>>) {
    let agent = getpid();
    let before_exec = move || {
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
    // are sound. It makes these and no others: prctl, getppid, getpid and write, each a bare system call through a
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
