//! Processes in pods, for clusters whose nodes run on this machine.

use std::fs;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The longest process name that the kernel keeps, in characters.
const NAME_CHARACTERS: usize = 15;

/// Kills all processes of a program in the pod with this UID, anywhere on this machine, with SIGKILL. Returns how many
/// there were.
///
/// # Panics
/// If one can't be killed.
pub fn kill_program_of(uid: &str, program: &str) -> usize {
    let pids = pids_of(uid, program);
    for pid in &pids {
        kill(Pid::from_raw(*pid), Signal::SIGKILL).expect("root may kill a process");
    }
    pids.len()
}

/// Returns the processes of a program in the pod with this UID, anywhere on this machine.
///
/// # Panics
/// If there is no `/proc`.
pub fn pids_of(uid: &str, program: &str) -> Vec<i32> {
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc").expect("Linux has /proc").flatten() {
        let folder = entry.path();
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap_or_default();
        let cgroups = read("cgroup");
        let inside = cgroups.contains(uid) || cgroups.contains(&uid.replace('-', "_"));
        if inside && read("comm").trim() == &program[..program.len().min(NAME_CHARACTERS)] {
            pids.push(pid);
        }
    }
    pids
}
