//! The limits of this process's control groups, of version 1 and 2. A group is limited by its ancestors as well, so the
//! smallest limit counts. In a container, the group's path may be one of the host, while only the container's own group
//! is mounted: then that one's limits are found at the root of the mount.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// Memory limits from here on mean that there is none: version 1 writes the largest multiple of a page.
const NO_MEMORY_LIMIT: u64 = 1 << 60;

/// What limits this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostLimits {
    /// Processor time, thousandths of a processor; `None` if it is not limited or not known.
    pub cpu_millis: Option<u64>,
    /// Memory, bytes; `None` if it is not limited or not known.
    pub memory_bytes: Option<u64>,
}

impl HostLimits {
    /// Returns the limits of this process on the machine whose files are below `root`.
    pub(crate) fn read(root: &Path) -> Self {
        let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let mut limits = Self::default();
        for line in groups.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
            let path = Path::new(path.trim_start_matches('/'));
            for (mount, version) in mounts(controllers) {
                for group in path.ancestors() {
                    limits.lower(version.limits(&root.join(&mount).join(group)));
                }
            }
        }
        limits
    }

    fn lower(&mut self, other: Self) {
        let least = |one: Option<u64>, other: Option<u64>| [one, other].into_iter().flatten().min();
        self.cpu_millis = least(self.cpu_millis, other.cpu_millis);
        self.memory_bytes = least(self.memory_bytes, other.memory_bytes);
    }
}

/// The version of a control group.
#[derive(Clone, Copy)]
enum Version {
    One,
    Two,
}

/// Returns where groups of these controllers may be mounted.
fn mounts(controllers: &str) -> Vec<(PathBuf, Version)> {
    let folder = Path::new("sys/fs/cgroup");
    if controllers.is_empty() {
        // The second is for machines with groups of both versions.
        return vec![(folder.to_path_buf(), Version::Two), (folder.join("unified"), Version::Two)];
    }
    let each = controllers.split(',').filter(|name| matches!(*name, "cpu" | "memory"));
    let alone = each.clone().map(|name| (folder.join(name), Version::One));
    let together = each.map(|_| (folder.join(controllers), Version::One));
    alone.chain(together).collect()
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// Returns the processor time that a group may use, thousandths of a processor.
fn cpu_millis(quota: u64, period: u64) -> Option<u64> {
    quota.checked_mul(1_000)?.checked_div(period)
}

impl Version {
    /// Returns the limits of the group in this folder.
    fn limits(self, group: &Path) -> HostLimits {
        let (cpu_millis, memory) = match self {
            Self::One => {
                // A quota of -1, which is none, is no such number.
                let quota = number(&group.join("cpu.cfs_quota_us")).zip(number(&group.join("cpu.cfs_period_us")));
                let cpu = quota.and_then(|(quota, period)| cpu_millis(quota, period));
                (cpu, number(&group.join("memory.limit_in_bytes")))
            }
            Self::Two => {
                let text = fs::read_to_string(group.join("cpu.max")).unwrap_or_default();
                // The quota is "max" if there is none.
                let mut numbers = text.split_ascii_whitespace().map(|number| number.parse::<u64>().ok());
                let quota = numbers.next().flatten().zip(numbers.next().flatten());
                (quota.and_then(|(quota, period)| cpu_millis(quota, period)), number(&group.join("memory.max")))
            }
        };
        HostLimits { cpu_millis, memory_bytes: memory.filter(|bytes| *bytes < NO_MEMORY_LIMIT) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the limits on a machine with these files.
    fn limits(name: &str, files: &[(&str, &str)]) -> HostLimits {
        let root = std::env::temp_dir().join(format!("robeing-cgroup-{}-{name}", std::process::id()));
        for (path, content) in files {
            let file = root.join(path);
            fs::create_dir_all(file.parent().expect("it is in a folder")).expect("a folder");
            fs::write(file, content).expect("a file");
        }
        let limits = HostLimits::read(&root);
        fs::remove_dir_all(root).expect("it can be removed");
        limits
    }

    fn of(cpu_millis: impl Into<Option<u64>>, memory_bytes: impl Into<Option<u64>>) -> HostLimits {
        HostLimits { cpu_millis: cpu_millis.into(), memory_bytes: memory_bytes.into() }
    }

    #[test]
    fn the_smallest_limit_of_a_group_and_its_ancestors_counts() {
        let found = limits(
            "v2",
            &[
                ("proc/self/cgroup", "0::/pods/pod/container\n"),
                ("sys/fs/cgroup/pods/pod/container/cpu.max", "max 100000\n"),
                ("sys/fs/cgroup/pods/pod/container/memory.max", "1073741824\n"),
                ("sys/fs/cgroup/pods/pod/cpu.max", "150000 100000\n"),
                ("sys/fs/cgroup/pods/pod/memory.max", "max\n"),
                ("sys/fs/cgroup/pods/cpu.max", "400000 100000\n"),
            ],
        );
        assert_eq!(found, of(1_500, 1 << 30));
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_root() {
        let files = [
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/cpu.max", "50000 100000\n"),
            ("sys/fs/cgroup/memory.max", "536870912\n"),
        ];
        assert_eq!(limits("container", &files), of(500, 512 << 20));
    }

    #[test]
    fn groups_of_version_1_are_read_wherever_they_are_mounted() {
        let groups = "12:memory:/docker/x\n5:cpu,cpuacct:/docker/x\n1:name=systemd:/docker/x\n";
        let files = [
            ("proc/self/cgroup", groups),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "200000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/memory/docker/x/memory.limit_in_bytes", "2147483648\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
        ];
        assert_eq!(limits("v1", &files), of(2_000, 2 << 30));
    }

    #[test]
    fn what_is_not_limited_or_not_readable_has_no_limit() {
        let files = [
            ("proc/self/cgroup", "3:cpu,cpuacct:/\n2:memory:/\n0::/\nnonsense\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/cpu.max", "100000 0\n"),
        ];
        assert_eq!(limits("none", &files), HostLimits::default());
        assert_eq!(limits("empty", &[("proc/other", "")]), HostLimits::default());
    }
}
