//! Makes sure that nothing of a fleet is left running: neither its processes, nor their process groups, nor, where
//! the system lets a process adopt its orphaned descendants (Linux), anything that they ever started.

use std::{fs, process, time::Duration};

use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    sys::{
        signal::killpg,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};
use tokio::time::{Instant, sleep};

/// How long what was told to end may take to be gone.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// From now on, a descendant of this process whose parent dies becomes a child of this process, so that
/// [`nothing_left`] sees it.
///
/// # Errors
/// When the system refuses.
pub fn adopt_orphans() -> Result<()> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_child_subreaper(true).context("orphaned processes can't be adopted")?;
    Ok(())
}

/// Waits until nothing is left of processes that led process groups with these ids. Only to be called when this process
/// has no children that it wants to keep.
///
/// # Errors
/// When something is left, naming it.
pub async fn nothing_left(pids: &[u32]) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = what_is_left(pids)?;
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            bail!("still running after {PATIENCE:?}: {}", left.join(", "));
        }
        sleep(POLL).await;
    }
}

fn what_is_left(pids: &[u32]) -> Result<Vec<String>> {
    reap()?;
    let mut left = descendants(process::id());
    for pid in pids {
        let group = Pid::from_raw(i32::try_from(*pid).with_context(|| format!("{pid} is no process id"))?);
        match killpg(group, None) {
            Err(Errno::ESRCH) => {}
            _ => left.push(format!("process group {pid}")),
        }
    }
    Ok(left)
}

/// Takes note of the children that have ended, as a parent must before they are gone.
fn reap() -> Result<()> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(status) if status.pid().is_some() => {}
            Ok(_) | Err(Errno::ECHILD) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("children that ended can't be waited for"),
        }
    }
}

/// The processes below one, in words; empty where there is no `/proc`.
fn descendants(of: u32) -> Vec<String> {
    let processes: Vec<_> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, parent_and_name(pid)?)))
        .collect();
    let mut above = vec![of];
    let mut found = Vec::new();
    while let Some(parent) = above.pop() {
        for (pid, (_, name)) in processes.iter().filter(|(_, (of, _))| *of == parent) {
            found.push(format!("process {pid} ({name})"));
            above.push(*pid);
        }
    }
    found
}

/// From `pid (name) state parent …`, where the name may hold anything.
fn parent_and_name(pid: u32) -> Option<(u32, String)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let parent = rest.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some((parent, name.to_owned()))
}
