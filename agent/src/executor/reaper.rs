//! Tracking of the children of this process, and reaping of adopted orphans.
//!
//! A process whose parent dies becomes a child of process 1, or of the nearest ancestor that is a subreaper. An agent
//! is often process 1 of its container; then it must reap the orphans of its commands, or zombies pile up until nothing
//! can be started. Reaping must not take a child that other code waits for. So it reaps only what nothing waits for: a
//! member of a finished command's process group, or a zombie of a foreign group that this process did not start.
//!
//! The registry is global because children belong to the process.

use std::{
    collections::HashSet,
    io,
    sync::{
        Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use nix::{
    sys::wait::{Id, WaitPidFlag, WaitStatus, waitid},
    unistd::{Pid, getpgid, getpgrp},
};

/// The children that lead their own process group and that some code of this process will wait for.
static OWNED: Mutex<Option<HashSet<i32>>> = Mutex::new(None);
/// The pause between two sweeps, and so the maximum age of an orphaned zombie.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// Whether this process has made itself a subreaper.
static ADOPTING: AtomicBool = AtomicBool::new(false);

/// Makes this process a subreaper, so that it adopts the orphans below it, as process 1 always does. The agent calls
/// this once at startup, so that it sees the end of every process its commands leave behind.
///
/// From then on the executors reap every zombie child, except one that shares this process's group, as a child does by
/// default, or that leads a group started by an executor.
///
/// # Errors
/// When the kernel refuses.
pub fn adopt_orphans() -> io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)?;
    ADOPTING.store(true, Ordering::Relaxed);
    Ok(())
}

/// Periodically reaps adopted orphans, so that they are also reaped while no command ends. Runs until dropped.
pub async fn keep_sweeping() {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        sweep();
    }
}

/// Blocks [`sweep`] while a child is being started and is not yet [`own`](Hold::own)ed.
pub(super) fn hold() -> Hold {
    Hold(lock())
}

/// The guard returned by [`hold`].
pub(super) struct Hold(MutexGuard<'static, Option<HashSet<i32>>>);

impl Hold {
    /// Registers a child that was started during the hold.
    pub(super) fn own(&mut self, child: Pid) {
        self.0.get_or_insert_default().insert(child.as_raw());
    }
}

/// Unregisters a child that no code waits for any more.
pub(super) fn disown(child: Pid) {
    if let Some(owned) = lock().as_mut() {
        owned.remove(&child.as_raw());
    }
}

/// Reaps the zombies among this process's children that belong to a process group whose leader is already reaped.
pub(super) fn reap_group(group: Pid) {
    let dead = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG;
    while is_a_child(waitid(Id::PGid(group), dead)) {}
}

/// Reaps adopted orphans that left their command's process group; nothing else notices their end.
pub(super) fn sweep() {
    if !ADOPTING.load(Ordering::Relaxed) && Pid::this().as_raw() != 1 {
        return;
    }
    let owned = match OWNED.try_lock() {
        Ok(owned) => owned,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        // A child is being started. The sweep at the end of the next command catches up.
        Err(TryLockError::WouldBlock) => return,
    };
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    while let Ok(status) = waitid(Id::All, peek) {
        let Some(zombie) = status.pid() else { return };
        let is_owned = owned.as_ref().is_some_and(|owned| owned.contains(&zombie.as_raw()));
        if is_owned || getpgid(Some(zombie)).is_ok_and(|group| group == getpgrp()) {
            return;
        }
        if !is_a_child(waitid(Id::Pid(zombie), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG)) {
            return;
        }
    }
}

fn is_a_child(waited: nix::Result<WaitStatus>) -> bool {
    waited.is_ok_and(|status| status.pid().is_some())
}

fn lock() -> MutexGuard<'static, Option<HashSet<i32>>> {
    // The set is consistent even if a thread panicked while holding the lock.
    OWNED.lock().unwrap_or_else(PoisonError::into_inner)
}
