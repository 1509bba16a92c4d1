//! What ends the process from outside: signals, and the end of the process that started it.

use std::{
    io::{self, Read},
    process, thread,
};

use nix::{
    sys::{
        self, prctl,
        signal::{SigHandler, SigSet, Signal},
    },
    unistd::getppid,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// What the watcher of stdin needs, bytes.
const WATCHER_STACK: usize = 64 * 1024;

/// Undoes what whoever started this process may have left it: an ignored SIGCHLD, with which the kernel tells nobody how a
/// process ended, and blocked signals, which commands would inherit.
#[allow(unsafe_code)]
pub fn reset_signals() {
    // SAFETY: the default is no function, so that it can't break the rules for signal handlers; nothing else runs yet.
    // Neither can fail: the signal exists, and so does the set.
    let _ = unsafe { sys::signal::signal(Signal::SIGCHLD, SigHandler::SigDfl) };
    let _ = SigSet::all().thread_unblock();
}

/// Ends this process at once when its parent is gone or closes this process's stdin.
///
/// The kernel kills it with its parent, which also reaches a stopped process. Strictly it is the thread that started
/// this process whose end counts, so the parent must start it from one that stays: `robeing dev` does from its main thread,
/// the only one of its runtime. A watch over the process alone (a pidfd) would not reach a stopped process.
pub fn end_with_parent() -> io::Result<()> {
    let parent = getppid();
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // It may have gone just before; then the death that would be told of is another's.
    if getppid() != parent {
        process::exit(0);
    }
    thread::Builder::new().name("parent".into()).stack_size(WATCHER_STACK).spawn(|| {
        let mut ignored = [0; 256];
        let mut stdin = io::stdin().lock();
        loop {
            match stdin.read(&mut ignored) {
                Ok(0) => process::exit(0),
                Err(error) if error.kind() != io::ErrorKind::Interrupted => process::exit(0),
                Ok(_) | Err(_) => {}
            }
        }
    })?;
    Ok(())
}

/// Cancels `shutdown` at the first SIGTERM or SIGINT, and ends the process at the second.
pub fn stop_on_signals(shutdown: CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Lives as long as the process.
    tokio::spawn(async move {
        let mut asked = 0;
        loop {
            let signal = tokio::select! {
                _ = terminate.recv() => Signal::SIGTERM,
                _ = interrupt.recv() => Signal::SIGINT,
            };
            asked += 1;
            if asked > 1 {
                warn!(%signal, "asked to stop again: ending at once");
                process::exit(128 + signal as i32);
            }
            info!(%signal, "asked to stop; once more ends it at once");
            shutdown.cancel();
        }
    });
    Ok(())
}
