//! The records that a cluster keeps in its run folder, so that a later process can find, use and remove it. A process
//! is identified by its id and start time, so that a later process with the same id is never mistaken for it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::{Error, Result};

/// A process, identified by its id and start time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Process id.
    pub(crate) pid: i32,
    /// Start time, in clock ticks since boot.
    pub(crate) started: u64,
}

impl Process {
    /// Returns this process.
    pub(crate) fn myself() -> Option<Self> {
        Self::of(i32::try_from(std::process::id()).ok()?)
    }

    /// Returns the process that currently has an id; `None` if it has ended, even if it has not been reaped.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        parse(&stat).filter(|(state, _)| !matches!(state, 'Z' | 'X')).map(|(_, started)| Self { pid, started })
    }

    /// Returns whether the process is still running.
    pub(crate) fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Kills the process if it is still running.
    pub(crate) fn kill(self) {
        if self.is_alive() {
            // An error means that it has just ended, which is the same as killed.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGKILL);
        }
    }

    /// Resumes the process if a signal stopped it.
    pub(crate) fn resume(self) {
        if self.is_alive() {
            // An error means that it has just ended, as in `kill`.
            let _ = kill(Pid::from_raw(self.pid), Signal::SIGCONT);
        }
    }

    /// Returns the parent: the process that started it, or that adopted it.
    pub(crate) fn parent(self) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).ok()?;
        Self::of(stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?)
    }

    /// Returns the id of its first child in the kernel's list.
    pub(crate) fn child(self) -> Option<i32> {
        let path = format!("/proc/{0}/task/{0}/children", self.pid);
        fs::read_to_string(path).ok()?.split_whitespace().next()?.parse().ok()
    }
}

/// Returns state and start time from `/proc/PID/stat`. The name before them may contain any characters, so the fields
/// begin after the last parenthesis.
fn parse(stat: &str) -> Option<(char, u64)> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    // proc(5): the start time is field 22, and the state is field 3.
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// The description of a cluster, stored in `cluster.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Description {
    /// Id of the cluster.
    pub(crate) id: String,
    /// Number of nodes.
    pub(crate) nodes: usize,
    /// The process that holds the cluster and runs its proxy.
    pub(crate) owner: Process,
    /// Whether the owner exists only for this cluster, and may be killed with it.
    pub(crate) supervised: bool,
    /// Folder of the cluster's programs.
    pub(crate) tools: PathBuf,
}

/// The record of a running machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Running {
    /// The process whose death kills all processes of the machine.
    pub(crate) holder: Process,
    /// The first process inside, whose namespaces other processes enter. The kernel ends it last.
    pub(crate) inside: Process,
}

/// A cluster's run folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run(PathBuf);

impl Run {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.join("kubeconfig")
    }

    pub(crate) fn log(&self, service: &str) -> PathBuf {
        self.join("logs").join(format!("{service}.log"))
    }

    /// A machine's own disk.
    pub(crate) fn disk(&self, machine: &str) -> PathBuf {
        self.join("machines").join(machine)
    }

    fn running(&self, machine: &str) -> PathBuf {
        self.join("machines").join(format!("{machine}.json"))
    }

    pub(crate) fn describe(&self, description: &Description) -> Result<()> {
        store(&self.join("cluster.json"), description)
    }

    pub(crate) fn description(&self) -> Result<Description> {
        load(&self.join("cluster.json"))
    }

    pub(crate) fn machine_runs(&self, machine: &str, running: &Running) -> Result<()> {
        store(&self.running(machine), running)
    }

    pub(crate) fn machine(&self, machine: &str) -> Result<Running> {
        load(&self.running(machine))
    }

    pub(crate) fn machine_ended(&self, machine: &str) -> Result<()> {
        remove_file(&self.running(machine))
    }

    /// Returns the records of all running machines.
    pub(crate) fn machines(&self) -> Vec<Running> {
        let Ok(entries) = fs::read_dir(self.join("machines")) else { return Vec::new() };
        let files = entries.flatten().map(|entry| entry.path());
        files.filter(|path| path.extension().is_some_and(|end| end == "json")).flat_map(|path| load(&path)).collect()
    }
}

/// Writes a file that only its owner can read.
pub(crate) fn write(path: &Path, contents: impl AsRef<[u8]>) -> Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let file = |source| Error::File { action: "written", path: path.into(), source };
    if let Some(folder) = path.parent() {
        create_folder(folder)?;
    }
    let mut open = fs::OpenOptions::new();
    let mut opened = open.write(true).create(true).truncate(true).mode(0o600).open(path).map_err(file)?;
    opened.write_all(contents.as_ref()).map_err(file)
}

pub(crate) fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| Error::File { action: "created", path: path.into(), source })
}

pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|source| Error::File { action: "read", path: path.into(), source })
}

pub(crate) fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).map_err(|source| Error::File { action: "put in place", path: to.into(), source })
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::File { action: "removed", path: path.into(), source })
        }
        _ => Ok(()),
    }
}

/// Writes to another file and renames it, so that readers see either the whole content or none.
fn store(path: &Path, value: &impl Serialize) -> Result<()> {
    let damaged = |error: serde_json::Error| Error::Damaged { path: path.into(), problem: error.to_string() };
    let aside = path.with_extension("new");
    write(&aside, serde_json::to_vec(value).map_err(damaged)?)?;
    rename(&aside, path)
}

fn load<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let damaged = |error: serde_json::Error| Error::Damaged { path: path.into(), problem: error.to_string() };
    serde_json::from_slice(&read(path)?).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_confuses_nothing() {
        let stat = "42 (a ) R 7 (x)) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1000 2000";
        assert_eq!(parse(stat), Some(('S', 987_654)));
        assert_eq!(parse("nonsense"), None);
        assert_eq!(parse("1 (cut) S 1 2"), None);
    }

    #[test]
    fn a_process_that_got_an_id_later_is_spared() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        let earlier = Process { started: process.started - 1, ..process };
        assert!(!earlier.is_alive());
        earlier.kill();
        assert!(process.is_alive());
        process.kill();
        assert!(!child.wait().unwrap().success());
        assert!(!process.is_alive());
    }

    #[test]
    fn a_stopped_process_goes_on() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert_eq!(process.parent(), Process::myself());
        let is_stopped = || fs::read_to_string(format!("/proc/{}/stat", process.pid)).unwrap().contains(") T ");
        kill(Pid::from_raw(process.pid), Signal::SIGSTOP).unwrap();
        while !is_stopped() {
            std::thread::yield_now();
        }
        process.resume();
        while is_stopped() {
            std::thread::yield_now();
        }
        process.kill();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_that_ended_but_was_not_reaped_is_dead() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::of(i32::try_from(child.id()).unwrap()).unwrap();
        process.kill();
        while process.is_alive() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }

    #[test]
    fn what_was_written_is_read_back_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let run = Run::new(folder.path().into());
        let owner = Process::myself().unwrap();
        let description =
            Description { id: "ab".into(), nodes: 3, owner, supervised: true, tools: PathBuf::from("/tools") };
        run.describe(&description).unwrap();
        assert_eq!(run.description().unwrap(), description);
        let running = Running { holder: owner, inside: owner };
        run.machine_runs("n1", &running).unwrap();
        assert_eq!(run.machines(), vec![running]);
        run.machine_ended("n1").unwrap();
        run.machine_ended("n1").unwrap();
        assert_eq!(run.machines(), vec![]);
        fs::write(run.join("cluster.json"), "{").unwrap();
        assert!(matches!(run.description(), Err(Error::Damaged { .. })));
    }
}
