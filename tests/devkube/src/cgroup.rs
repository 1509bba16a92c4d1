//! The cgroups of the nodes' pods: one tree for each node, in every hierarchy of cgroup v1 or in the single one of v2.
//! Identifies cgroups only by name.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{error::Result, record::create_folder};

const ROOT: &str = "/sys/fs/cgroup";

/// Returns the cgroup hierarchies of this machine.
fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from(ROOT);
    if root.join("cgroup.controllers").exists() {
        return vec![root];
    }
    let Ok(entries) = fs::read_dir(&root) else { return Vec::new() };
    let folders = entries.flatten().map(|entry| entry.path());
    folders.filter(|path| path.join("cgroup.procs").exists()).collect()
}

/// Creates a node's cgroup, which the kubelet expects to exist.
pub(crate) fn create(name: &str) -> Result<()> {
    for hierarchy in hierarchies() {
        let folder = hierarchy.join(name);
        if hierarchy == Path::new(ROOT) {
            // Version 2: the kubelet can't limit what the parent does not delegate. A failure shows in the kubelet's
            // log.
            let _ = fs::write(hierarchy.join("cgroup.subtree_control"), "+cpu +cpuset +io +memory +pids");
        }
        create_folder(&folder)?;
        for setting in ["cpuset.cpus", "cpuset.mems"] {
            // Version 1: a new cpuset is empty, and no process can be added to an empty one.
            if let Ok(inherited) = fs::read(hierarchy.join(setting))
                && hierarchy != Path::new(ROOT)
            {
                let _ = fs::write(folder.join(setting), inherited);
            }
        }
    }
    Ok(())
}

/// Removes the cgroups whose names match, and all below them; returns those that still exist because processes run in
/// them.
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

/// Removes a cgroup and all below it, depth first: the kernel only removes cgroups without children.
fn remove_tree(folder: &Path) {
    if let Ok(entries) = fs::read_dir(folder) {
        entries.flatten().filter(|entry| entry.path().is_dir()).for_each(|entry| remove_tree(&entry.path()));
    }
    // Its files belong to the kernel and disappear with it.
    let _ = fs::remove_dir(folder);
}
