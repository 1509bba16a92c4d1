//! Which children of this process are whose, and the reaping of those that nobody started.
//!
//! A process whose parent dies becomes a child of process 1, or of the nearest ancestor that asked for it. An agent is
//! often process 1 of its container; then what commands leave behind becomes its to reap, or zombies pile up until
//! nothing can be started. Reaping must not take a child that someone waits for. So what is reaped is known not to be:
//! a member of a finished command's process group, or a zombie of a foreign group that no one here started.
//!
//! The registry is one per process because children are.

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

/// Children that someone in this process will wait for, of those that lead a process group of their own.
static OWNED: Mutex<Option<HashSet<i32>>> = Mutex::new(None);
/// How long a zombie that nobody waits for may be there.
const SWEEP_EVERY: Duration = Duration::from_secs(10);

/// Whether orphans come to this process because it asked for them.
static ADOPTING: AtomicBool = AtomicBool::new(false);

/// Makes this process the one that orphans below it come to, as process 1 is without asking. The agent calls this
/// once at its start, so that it sees the end of all that its commands leave behind.
///
/// From then on a zombie child is reaped by the executors unless it shares this process's group, as every child does
/// that is started in the usual way, or leads a group that an executor started.
///
/// # Errors
/// When the kernel refuses.
pub fn adopt_orphans() -> io::Result<()> {
    nix::sys::prctl::set_child_subreaper(true)?;
    ADOPTING.store(true, Ordering::Relaxed);
    Ok(())
}

/// Reaps adopted orphans every now and then: those that end while no command does. Runs until it is dropped.
pub async fn keep_sweeping() {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        sweep();
    }
}

/// Keeps [`sweep`] away while a child is being started and is not yet [`own`]ed.
pub(super) fn hold() -> Hold {
    Hold(lock())
}

/// See [`hold`].
pub(super) struct Hold(MutexGuard<'static, Option<HashSet<i32>>>);

impl Hold {
    /// Notes a child that was started during the hold.
    pub(super) fn own(&mut self, child: Pid) {
        self.0.get_or_insert_default().insert(child.as_raw());
    }
}

/// Notes that someone will no longer wait for the child, or already has.
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

/// Reaps adopted orphans that left their command's process group, of which nothing but their end is heard.
pub(super) fn sweep() {
    if !ADOPTING.load(Ordering::Relaxed) && Pid::this().as_raw() != 1 {
        return;
    }
    let owned = match OWNED.try_lock() {
        Ok(owned) => owned,
        Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
        // A child is being started. The next command that ends sweeps again.
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
    // A set of numbers is whole whatever panicked while it was locked.
    OWNED.lock().unwrap_or_else(PoisonError::into_inner)
}
