//! What ends the process from outside: signals, and the end of its parent.

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
use tracing::info;

/// The stack size of the thread that watches stdin, in bytes.
const WATCHER_STACK: usize = 64 * 1024;

/// Resets signal state that the parent may have left: an ignored SIGCHLD, with which the kernel discards the exit
/// status of children, and blocked signals, which commands would inherit. Ignores SIGXFSZ, so that a log that reaches
/// the limit of file sizes (`ulimit -f`) causes failed writes, as a full disk does.
#[allow(unsafe_code)]
pub fn reset_signals() {
    // SAFETY: the default disposition is not a function, so it can't break the rules for signal handlers; no other
    // thread runs yet. Neither call can fail: the signal exists, and so does the set.
    let _ = unsafe { sys::signal::signal(Signal::SIGCHLD, SigHandler::SigDfl) };
    // SAFETY: as above.
    let _ = unsafe { sys::signal::signal(Signal::SIGXFSZ, SigHandler::SigIgn) };
    let _ = SigSet::all().thread_unblock();
}

/// Ends this process at once when its parent is gone or closes this process's stdin.
///
/// The kernel kills this process when its parent ends (PR_SET_PDEATHSIG), even if this process is stopped. The parent
/// is strictly the thread that started this process, so that must be a long-lived thread: `robeing dev` uses its main
/// thread, the only one of its runtime. Watching the parent from this process (a pidfd) would not work while this
/// process is stopped.
pub fn end_with_parent() -> io::Result<()> {
    let parent = getppid();
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // If the parent ended before that call, this process already has another parent, and gets no signal for the old
    // one.
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

/// Cancels `shutdown` at the first SIGTERM or SIGINT, and exits at the second.
pub fn stop_on_signals(shutdown: CancellationToken) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // This task lives as long as the process.
    tokio::spawn(async move {
        let mut asked = 0;
        loop {
            let signal = tokio::select! {
                _ = terminate.recv() => Signal::SIGTERM,
                _ = interrupt.recv() => Signal::SIGINT,
            };
            asked += 1;
            if asked > 1 {
                // Written directly: the exit discards log lines that wait to be written.
                robeing_telemetry::say(&format!("received {signal} again: exiting at once"));
                process::exit(128 + signal as i32);
            }
            info!(%signal, "asked to stop; a second signal exits at once");
            shutdown.cancel();
        }
    });
    Ok(())
}
