//! Checks that nothing of a fleet is left running: neither its processes, nor their process groups, nor, where the
//! system lets a process adopt its orphaned descendants (Linux), anything that they ever started.

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

/// The time within which stopped processes must be gone.
const PATIENCE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// Makes this process the parent of all its descendants whose own parent dies, so that [`nothing_left`] finds them.
///
/// # Errors
/// If the system does not allow it.
pub fn adopt_orphans() -> Result<()> {
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_child_subreaper(true).context("can't adopt orphaned processes")?;
    Ok(())
}

/// Waits until nothing is left of the processes that led process groups with these ids. Call it only when this process
/// has no other children that it needs.
///
/// # Errors
/// If something is left; the error names it.
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
        let group = Pid::from_raw(i32::try_from(*pid).with_context(|| format!("{pid} is not a process id"))?);
        match killpg(group, None) {
            Err(Errno::ESRCH) => {}
            _ => left.push(format!("process group {pid}")),
        }
    }
    Ok(left)
}

/// Reaps the children that have ended.
fn reap() -> Result<()> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(status) if status.pid().is_some() => {}
            Ok(_) | Err(Errno::ECHILD) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("can't reap children"),
        }
    }
}

/// Returns descriptions of the descendants of a process; empty where there is no `/proc`.
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

/// Parses `pid (name) state parent …`, where the name may contain anything.
fn parent_and_name(pid: u32) -> Option<(u32, String)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let parent = rest.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some((parent, name.to_owned()))
}
