//! Processes: one that a test controls, and what the kernel reports about others.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::wait::eventually;

/// A process that a test started. Dropping it kills the process.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program whose output is appended to `log`. Its standard input is a pipe that closes when this process
    /// ends.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn start(name: &str, program: &Path, arguments: &[String], log: &Path) -> Self {
        let file = File::options().create(true).append(true).open(log).expect("a log in the test's directory");
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(file.try_clone().expect("a file can be shared"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{} can't be started: {error}", program.display()));
        Self { name: name.into(), child, log: log.into() }
    }

    /// Returns its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Returns its peak memory, in bytes.
    ///
    /// # Panics
    /// If it does not run.
    pub fn peak_memory(&self) -> u64 {
        memory_of(self.pid(), "VmHWM:").expect("the process runs")
    }

    /// Returns everything that it wrote, and that its predecessors with the same log wrote.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns its exit status, if it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it has already ended.
    pub fn signal(&mut self, signal: Signal) {
        assert!(self.ended().is_none(), "can't send {signal} to {}, it has already ended: {}", self.name, self.log());
        send(self.pid(), signal);
    }

    /// Kills it with SIGKILL and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits until it has ended, without ending it.
    ///
    /// # Panics
    /// If it does not end in time.
    pub async fn wait(&mut self) -> ExitStatus {
        let expected = format!("the end of {}", self.name);
        eventually(&expected, async || self.ended().ok_or_else(|| self.log())).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal to a process, which may no longer exist.
pub fn send(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid.try_into().expect("a process id is positive and small")), signal);
}

/// Clock ticks per second, the same on every Linux that the tests run on.
pub const TICKS_PER_SECOND: u64 = 100;

/// Returns the resident memory of a process in bytes, or 0 if it does not run.
pub fn memory(pid: u32) -> u64 {
    memory_of(pid, "VmRSS:").unwrap_or(0)
}

fn memory_of(pid: u32, field: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kib * 1024)
}

/// Returns the processor time that a process used, in ticks of [`TICKS_PER_SECOND`], or 0 if it does not run.
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    // proc(5): user and system time are fields 14 and 15; the state is field 3, the first one after the name.
    fields.iter().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// Returns the state, parent and process group of a process, from `/proc/PID/stat`.
fn stat(pid: u32) -> Option<(char, u32, u32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses and may contain anything.
    let mut fields = stat[stat.rfind(')')? + 2..].split(' ');
    Some((fields.next()?.chars().next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn all_pids() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Returns whether a process runs; a zombie does not.
pub fn is_running(pid: u32) -> bool {
    stat(pid).is_some_and(|(state, ..)| state != 'Z' && state != 'X')
}

/// Returns the running processes of a process group.
pub fn group_members(group: u32) -> Vec<u32> {
    let belongs = |pid: &u32| stat(*pid).is_some_and(|(state, _, of)| of == group && state != 'Z' && state != 'X');
    all_pids().into_iter().filter(belongs).collect()
}

/// Returns all running descendants of a process.
pub fn descendants(pid: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> =
        all_pids().into_iter().filter_map(|of| stat(of).map(|(_, parent, _)| (of, parent))).collect();
    let mut found = vec![pid];
    let mut looked = 0;
    while looked < found.len() {
        let children = parents.iter().filter(|(_, parent)| *parent == found[looked]).map(|(child, _)| *child);
        let children: Vec<u32> = children.collect();
        found.extend(children);
        looked += 1;
    }
    found.retain(|found| *found != pid && is_running(*found));
    found
}
