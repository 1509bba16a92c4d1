//! The cgroups that a node's pods live in: one tree for each node, in every hierarchy of cgroup v1 or in the one of v2.
//! Knows cgroups by name only.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{error::Result, record::create_folder};

const ROOT: &str = "/sys/fs/cgroup";

/// The hierarchies of this machine.
fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from(ROOT);
    if root.join("cgroup.controllers").exists() {
        return vec![root];
    }
    let Ok(entries) = fs::read_dir(&root) else { return Vec::new() };
    let folders = entries.flatten().map(|entry| entry.path());
    folders.filter(|path| path.join("cgroup.procs").exists()).collect()
}

/// Makes a node's cgroup, so that the kubelet finds it.
pub(crate) fn create(name: &str) -> Result<()> {
    for hierarchy in hierarchies() {
        let folder = hierarchy.join(name);
        if hierarchy == Path::new(ROOT) {
            // Version 2: what the parent doesn't hand down, the kubelet can't limit. A refusal shows in the kubelet's log.
            let _ = fs::write(hierarchy.join("cgroup.subtree_control"), "+cpu +cpuset +io +memory +pids");
        }
        create_folder(&folder)?;
        for setting in ["cpuset.cpus", "cpuset.mems"] {
            // Version 1: a new cpuset is empty, and an empty one takes no process.
            if let Ok(inherited) = fs::read(hierarchy.join(setting))
                && hierarchy != Path::new(ROOT)
            {
                let _ = fs::write(folder.join(setting), inherited);
            }
        }
    }
    Ok(())
}

/// Removes the cgroups whose names are chosen, and all below them; gives those that are still there, because something runs
/// in them.
pub(crate) fn remove(chosen: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut left = Vec::new();
    for hierarchy in hierarchies() {
        let Ok(entries) = fs::read_dir(&hierarchy) else { continue };
        for entry in entries.flatten() {
            if chosen(&entry.file_name().to_string_lossy()) {
                remove_tree(&entry.path());
                left.extend(entry.path().exists().then(|| entry.path()));
            }
        }
    }
    left
}

/// Depth first: the kernel removes only a cgroup without children.
fn remove_tree(folder: &Path) {
    if let Ok(entries) = fs::read_dir(folder) {
        entries.flatten().filter(|entry| entry.path().is_dir()).for_each(|entry| remove_tree(&entry.path()));
    }
    // Its files are the kernel's and go with it.
    let _ = fs::remove_dir(folder);
}
