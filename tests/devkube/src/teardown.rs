//! Removes a whole cluster, whatever its state: from this process or a later one, after a failed start or a crash of
//! the holding process. Blocking, so that it can run where `await` is not possible.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use crate::{
    cgroup,
    error::{Error, Result},
    plan::Plan,
    record::{Process, Run},
};

/// The deadline for the kernel to end killed processes and release their resources.
const DEADLINE: Duration = Duration::from_secs(20);
/// The interval between attempts.
const INTERVAL: Duration = Duration::from_millis(20);
/// The prefix of the names of run folders.
pub(crate) const RUN_PREFIX: &str = "devkube-";

/// Kills the processes of the cluster in a run folder, and removes everything else of it, including the folder.
///
/// # Errors
/// [`Error::Left`] with everything that is left; [`Error::File`] or [`Error::Damaged`] if this is not a run folder.
pub(crate) fn remove(run: &Run) -> Result<()> {
    let description = run.description()?;
    let prefix = Plan::new(&description.id, description.nodes)?.prefix();
    let end = Instant::now() + DEADLINE;
    if description.supervised && Process::myself() != Some(description.owner) {
        description.owner.kill();
    }
    loop {
        let left = sweep(run, &prefix);
        if left.is_empty() {
            break;
        }
        if Instant::now() > end {
            return Err(Error::Left(left));
        }
        std::thread::sleep(INTERVAL);
    }
    fs::remove_dir_all(run.path()).map_err(|source| Error::File { action: "removed", path: run.path().into(), source })
}

/// Removes what can be removed now, and returns what is left.
fn sweep(run: &Run, prefix: &str) -> Vec<String> {
    let mut left = Vec::new();
    for running in run.machines() {
        running.holder.kill();
        let alive = [running.holder, running.inside].into_iter().filter(|process| process.is_alive());
        left.extend(alive.map(|process| format!("process {}", process.pid)));
    }
    let namespaces = namespaces(prefix);
    for process in processes_in(&namespaces) {
        process.kill();
        left.push(format!("process {}", process.pid));
    }
    if !left.is_empty() {
        // Running processes keep the rest in use.
        return left;
    }
    for mount in mounts_below(run.path()) {
        quietly("umount", &["-l", &mount]);
    }
    for namespace in &namespaces {
        let name = namespace.file_name().unwrap_or_default().to_string_lossy();
        quietly("ip", &["netns", "delete", &name]);
    }
    let remaining = self::namespaces(prefix).into_iter().chain(cgroup::remove(|name| name.starts_with(prefix)));
    left.extend(remaining.map(|path| path.display().to_string()));
    left.extend(mounts_below(run.path()).into_iter().map(|path| format!("mount {path}")));
    left
}

/// Returns the run folders in a folder, sorted by path.
pub(crate) fn runs_in(folder: &Path) -> Vec<Run> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let named = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(RUN_PREFIX));
    let runs = named.map(|entry| entry.path()).filter(|path| is_own(path)).map(Run::new);
    let runs = runs.filter(|run| run.join("cluster.json").exists());
    let mut runs: Vec<_> = runs.collect();
    runs.sort_by(|one, other| one.path().cmp(other.path()));
    runs
}

/// Returns whether a folder belongs to this user. Any user can create folders in the temporary folder, and the records
/// in a run folder decide which processes are killed.
fn is_own(folder: &Path) -> bool {
    let own = nix::unistd::geteuid().as_raw();
    fs::symlink_metadata(folder).is_ok_and(|metadata| metadata.is_dir() && metadata.uid() == own)
}

/// Returns the network namespaces whose names have a cluster's prefix.
fn namespaces(prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir("/run/netns") else { return Vec::new() };
    let named = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    named.map(|entry| entry.path()).collect()
}

/// Returns the processes in some network namespaces. They belong to the cluster, because nothing else uses its
/// namespaces. This includes processes that were started just before they would have been recorded.
fn processes_in(namespaces: &[PathBuf]) -> Vec<Process> {
    let wanted: BTreeSet<_> = namespaces.iter().flat_map(|path| identity(path)).collect();
    if wanted.is_empty() {
        return Vec::new();
    }
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let inside = pids.filter(|pid| {
        identity(&PathBuf::from(format!("/proc/{pid}/ns/net"))).is_some_and(|found| wanted.contains(&found))
    });
    inside.filter_map(Process::of).collect()
}

fn identity(namespace: &Path) -> Option<(u64, u64)> {
    namespace.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// Returns the mount points below a folder, as the host sees them, the latest mount first.
fn mounts_below(folder: &Path) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    let mut below: Vec<_> = targets.filter(|target| Path::new(target).starts_with(folder)).map(String::from).collect();
    below.reverse();
    below
}

/// Runs a command and ignores its result: the caller checks the effect.
fn quietly(name: &str, arguments: &[&str]) {
    let _ =
        Command::new(name).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_run_folders_are_clusters() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("devkube-empty")).unwrap();
        fs::create_dir(folder.path().join("other")).unwrap();
        fs::write(folder.path().join("other/cluster.json"), "{}").unwrap();
        fs::create_dir(folder.path().join("devkube-ab")).unwrap();
        fs::write(folder.path().join("devkube-ab/cluster.json"), "{}").unwrap();
        let found: Vec<_> = runs_in(folder.path()).iter().map(|run| run.path().to_owned()).collect();
        assert_eq!(found, [folder.path().join("devkube-ab")]);
        std::os::unix::fs::symlink(folder.path().join("devkube-ab"), folder.path().join("devkube-link")).unwrap();
        assert_eq!(runs_in(folder.path()).len(), 1, "a link may lead anywhere");
    }

    #[test]
    fn a_folder_that_is_no_clusters_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("precious"), "x").unwrap();
        remove(&Run::new(folder.path().into())).unwrap_err();
        fs::write(folder.path().join("cluster.json"), "{}").unwrap();
        assert!(matches!(remove(&Run::new(folder.path().into())), Err(Error::Damaged { .. })));
        assert!(folder.path().join("precious").exists());
    }

    #[test]
    fn this_process_is_in_its_own_network_namespace() {
        let own = Process::myself().unwrap();
        assert!(processes_in(&[PathBuf::from("/proc/self/ns/net")]).contains(&own));
        assert!(processes_in(&[]).is_empty());
    }
}
