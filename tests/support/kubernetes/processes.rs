//! Processes in pods, where the pods' machines are this one.

use std::fs;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// Longest name of a process that the kernel keeps.
const NAME_CHARACTERS: usize = 15;

/// SIGKILLs the processes of a program that run in the pod with this uid, wherever they are on this machine; how many.
///
/// # Panics
/// When one can't be killed.
pub fn kill_program_of(uid: &str, program: &str) -> usize {
    let pids = pids_of(uid, program);
    for pid in &pids {
        kill(Pid::from_raw(*pid), Signal::SIGKILL).expect("root may kill a process");
    }
    pids.len()
}

/// The processes of a program that run in the pod with this uid, wherever they are on this machine.
///
/// # Panics
/// When there is no `/proc`.
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
