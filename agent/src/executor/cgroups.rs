//! Control groups that bind the processes of an attempt to the resources that its task was granted.
//!
//! Each attempt has a group of its own below that of the agent: one of version 2 if this process may make such groups
//! with the controllers `cpu` and `memory`, else one of version 1 of each of these controllers. The command enters it
//! between fork and exec, so that none of its processes was ever outside. When the attempt ends, whatever is left in the
//! group is killed, also what has left the command's process group and session, and the group is removed.
//!
//! Where the machine does not allow it, which is so in most containers, commands run without, and the agent says so
//! once.

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    runtime::Handle,
    sync::OnceCell,
    task::spawn_blocking,
    time::{Instant, sleep},
};

/// Where groups are mounted.
const MOUNT: &str = "/sys/fs/cgroup";
/// The groups of this process.
const OWN: &str = "/proc/self/cgroup";
/// The names of the groups of attempts begin with this; the agent's process id and a number follow.
const PREFIX: &str = "robeing-attempt-";
/// The group of version 2 that an agent moves itself into, because a group that has others below it with limits may have
/// no process of its own.
const AGENT_GROUP: &str = "robeing-agent";
/// The period of a quota of processor time, µs: what the kernel has as the default.
const PERIOD_US: u64 = 100_000;
/// The smallest quota that the kernel takes, µs.
const MIN_QUOTA_US: u64 = 1_000;
/// How long the removal of a group is tried. A process that hangs in the kernel keeps it.
const GONE_WITHIN: Duration = Duration::from_secs(2);
/// The pause between two tries.
const TRY_AGAIN: Duration = Duration::from_millis(5);

/// What the processes of an attempt may use together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Allowance {
    /// Processor time, thousandths of a processor; 0: not limited.
    pub cpu_millis: u64,
    /// Memory, bytes; 0: not limited.
    pub memory_bytes: u64,
}

/// The version of control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// Where groups can be made.
#[derive(Debug, PartialEq, Eq)]
struct Cgroups {
    version: Version,
    /// The folders of the agent's group with these controllers. Version 2 has one for both.
    cpu: PathBuf,
    memory: PathBuf,
}

/// The control group of an attempt. When it is dropped, what runs in it is killed, and it is removed.
#[derive(Debug)]
pub(super) struct Cgroup {
    version: Version,
    folders: Vec<PathBuf>,
    runtime: Option<Handle>,
}

/// The control groups of an executor. Where they can be made is found out when the first one is needed.
#[derive(Default)]
pub(super) struct Binding {
    found: OnceCell<Option<Arc<Cgroups>>>,
    has_told: AtomicBool,
}

impl Binding {
    /// Makes a group for an attempt; `None` if this is not possible here.
    pub(super) async fn open(&self, allowance: Allowance) -> Option<Cgroup> {
        let found = self.found.get_or_init(|| self.find()).await;
        let groups = Arc::clone(found.as_ref()?);
        let opened = spawn_blocking(move || groups.open(allowance)).await.map_err(io::Error::other);
        let opened = opened.and_then(|opened| opened);
        opened.inspect_err(|error| self.tell(&error.to_string())).ok()
    }

    async fn find(&self) -> Option<Arc<Cgroups>> {
        let found = spawn_blocking(Cgroups::of_this_process).await.map_err(|error| error.to_string());
        let found = found.and_then(|found| found);
        found.inspect_err(|why| self.tell(why)).ok().map(Arc::new)
    }

    /// Logs, once, that commands are not bound.
    pub(super) fn tell(&self, why: &str) {
        if !self.has_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                why,
                "commands of tasks with resources are not bound to them here, and run with ROBEING_BOUND=false: the \
                 agent can't make control groups with the controllers cpu and memory"
            );
        }
    }
}

impl Cgroups {
    fn of_this_process() -> Result<Self, String> {
        let own = fs::read_to_string(OWN).map_err(|error| format!("{OWN}: {error}"))?;
        let found = Self::find(Path::new(MOUNT), &own)?;
        found.check()?;
        found.remove_left_over();
        Ok(found)
    }

    /// Finds where groups can be made below `mount` for a process that is in the groups of `own`, in the form of
    /// `/proc/self/cgroup`.
    fn find(mount: &Path, own: &str) -> Result<Self, String> {
        let groups: Vec<(&str, &str)> = own
            .lines()
            .filter_map(|line| {
                let mut parts = line.splitn(3, ':').skip(1);
                Some((parts.next()?, parts.next()?))
            })
            .collect();
        Self::unified(mount, &groups).or_else(|two| {
            let none = |name: &str| format!("{two}, and no controller {name} of version 1");
            let one = |name: &str| split(mount, &groups, name).ok_or_else(|| none(name));
            Ok(Self { version: Version::One, cpu: one("cpu")?, memory: one("memory")? })
        })
    }

    fn unified(mount: &Path, groups: &[(&str, &str)]) -> Result<Self, String> {
        let none = || "no controllers cpu and memory of version 2".to_owned();
        let (_, path) = groups.iter().find(|(controllers, _)| controllers.is_empty()).ok_or_else(none)?;
        // The second is for machines with groups of both versions.
        let mounts = [mount.to_owned(), mount.join("unified")];
        let mount = mounts.into_iter().find(|mount| mount.join("cgroup.controllers").exists()).ok_or_else(none)?;
        let mut folder = below(&mount, path);
        if folder.ends_with(AGENT_GROUP) {
            folder.pop();
        }
        if !names(&folder.join("cgroup.controllers")) {
            return Err(none());
        }
        if !names(&folder.join("cgroup.subtree_control")) {
            let words = |error| format!("cpu and memory can't be enabled in {}: {error}", folder.display());
            enable(&folder).map_err(words)?;
        }
        Ok(Self { version: Version::Two, cpu: folder.clone(), memory: folder })
    }

    /// Checks that groups can be made.
    fn check(&self) -> Result<(), String> {
        for folder in [&self.cpu, &self.memory] {
            let probe = folder.join(format!("{PREFIX}{}-probe", std::process::id()));
            let made = fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe));
            made.map_err(|error| format!("no group can be made in {}: {error}", folder.display()))?;
        }
        Ok(())
    }

    /// Removes the groups of agents that are gone.
    fn remove_left_over(&self) {
        for folder in [&self.cpu, &self.memory] {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let rest = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
                let Some((agent, _)) = rest.and_then(|rest| rest.split_once('-')) else { continue };
                if !Path::new("/proc").join(agent).exists() {
                    end(self.version, &entry.path());
                }
            }
        }
    }

    /// Makes a group with these limits.
    fn open(&self, allowance: Allowance) -> io::Result<Cgroup> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("{PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut group = Cgroup { version: self.version, folders: Vec::new(), runtime: Handle::try_current().ok() };
        let (cpu, memory) = (self.cpu.join(&name), self.memory.join(&name));
        for folder in [&cpu, &memory] {
            if !group.folders.contains(folder) {
                fs::create_dir(folder)?;
                group.folders.push(folder.clone());
            }
        }
        if allowance.cpu_millis > 0 {
            let quota = allowance.cpu_millis.saturating_mul(PERIOD_US / 1_000).max(MIN_QUOTA_US);
            match self.version {
                Version::One => {
                    fs::write(cpu.join("cpu.cfs_period_us"), PERIOD_US.to_string())?;
                    fs::write(cpu.join("cpu.cfs_quota_us"), quota.to_string())?;
                }
                Version::Two => fs::write(cpu.join("cpu.max"), format!("{quota} {PERIOD_US}"))?,
            }
        }
        if allowance.memory_bytes > 0 {
            let bytes = allowance.memory_bytes.to_string();
            // Not every kernel counts swap, or ends all processes of a group when the memory is used up.
            let (limit, others) = match self.version {
                Version::One => ("memory.limit_in_bytes", vec![("memory.memsw.limit_in_bytes", bytes.as_str())]),
                Version::Two => ("memory.max", vec![("memory.swap.max", "0"), ("memory.oom.group", "1")]),
            };
            fs::write(memory.join(limit), &bytes)?;
            for (file, value) in others {
                let _ = fs::write(memory.join(file), value);
            }
        }
        Ok(group)
    }
}

impl Cgroup {
    /// Opens the files through which a process enters the group: it writes `0` to each.
    pub(super) fn entries(&self) -> io::Result<Arc<[OwnedFd]>> {
        let open = |folder: &PathBuf| {
            let entry = File::options().write(true).create(true).truncate(false).open(folder.join("cgroup.procs"));
            entry.map(OwnedFd::from)
        };
        self.folders.iter().map(open).collect()
    }

    /// Kills what is left in the group, and removes it.
    pub(super) async fn end(mut self) {
        let removed = remove(self.version, std::mem::take(&mut self.folders));
        match self.runtime.take() {
            // It goes on if nobody waits for it any more, and fails only if the runtime ends.
            Some(runtime) => drop(runtime.spawn(removed).await),
            None => removed.await,
        }
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let folders = std::mem::take(&mut self.folders);
        let left: Vec<PathBuf> = folders.into_iter().filter(|folder| !end(self.version, folder)).collect();
        if let Some(runtime) = self.runtime.take().filter(|_| !left.is_empty()) {
            // Ends after about GONE_WITHIN at the latest, or with the runtime, which ends only with the agent.
            runtime.spawn(remove(self.version, left));
        }
    }
}

/// Kills what is left in the groups, and removes them, for a bounded time.
async fn remove(version: Version, mut folders: Vec<PathBuf>) {
    let give_up = Instant::now() + GONE_WITHIN;
    while !folders.is_empty() {
        let rest = move || folders.into_iter().filter(|folder| !end(version, folder)).collect::<Vec<_>>();
        // It fails only if the runtime ends.
        folders = spawn_blocking(rest).await.unwrap_or_default();
        if folders.is_empty() {
            return;
        }
        if Instant::now() >= give_up {
            tracing::warn!(?folders, "control groups can't be removed {GONE_WITHIN:?} after their attempt has ended");
            return;
        }
        sleep(TRY_AGAIN).await;
    }
}

/// Kills what runs in a group and removes the group. Returns whether it is gone.
fn end(version: Version, folder: &Path) -> bool {
    // Linux before 5.14 can't kill a whole group.
    if version == Version::One || fs::write(folder.join("cgroup.kill"), "1").is_err() {
        kill_each(folder);
    }
    match fs::remove_dir(folder) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

fn kill_each(folder: &Path) {
    let own = Pid::this().as_raw();
    let pids = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    // 0 is a process that this one can't see, and would be its own process group in the call.
    for pid in pids.lines().filter_map(|pid| pid.parse().ok()).filter(|pid: &i32| *pid > 1 && *pid != own) {
        // It may be gone.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Returns the folder of a group below its mount. In a container, the path may be one of the host, while only the
/// container's own group is mounted.
fn below(mount: &Path, path: &str) -> PathBuf {
    let folder = mount.join(path.trim_start_matches('/'));
    if folder.is_dir() { folder } else { mount.to_owned() }
}

/// Returns the folder of the group of version 1 with a controller.
fn split(mount: &Path, groups: &[(&str, &str)], controller: &str) -> Option<PathBuf> {
    let (controllers, path) = groups.iter().find(|(names, _)| names.split(',').any(|name| name == controller))?;
    let mounts = [mount.join(controller), mount.join(controllers)];
    mounts.into_iter().find(|mount| mount.is_dir()).map(|mount| below(&mount, path))
}

/// Returns whether a list of controllers has those that are needed.
fn names(list: &Path) -> bool {
    let list = fs::read_to_string(list).unwrap_or_default();
    ["cpu", "memory"].into_iter().all(|wanted| list.split_ascii_whitespace().any(|name| name == wanted))
}

/// Enables the controllers for the groups below one of version 2. If that has processes of its own, and all of them are
/// this one and its children, they are moved into a group below it, as the kernel requires.
fn enable(folder: &Path) -> io::Result<()> {
    let (control, both) = (folder.join("cgroup.subtree_control"), "+cpu +memory");
    if fs::write(&control, both).is_ok() {
        return Ok(());
    }
    let inside = fs::read_to_string(folder.join("cgroup.procs"))?;
    let pids: Vec<&str> = inside.lines().collect();
    if !pids.iter().all(|pid| is_own(pid)) {
        return Err(io::Error::other("the group has processes that are not the agent's"));
    }
    let agents = folder.join(AGENT_GROUP);
    match fs::create_dir(&agents) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for pid in pids {
        fs::write(agents.join("cgroup.procs"), pid)?;
    }
    fs::write(&control, both)
}

/// Returns whether a process is this one or one of its children.
fn is_own(pid: &str) -> bool {
    let own = std::process::id().to_string();
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).unwrap_or_default();
    // "PID (NAME) STATE PARENT ...", where NAME may contain anything.
    pid == own || stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)) == Some(own.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOME: Allowance = Allowance { cpu_millis: 1_500, memory_bytes: 64 << 20 };

    /// Makes files as a kernel shows them, and returns where groups can be made, or why not.
    fn found(mount: &Path, own: &str, files: &[(&str, &str)]) -> Result<Cgroups, String> {
        for (path, content) in files {
            let file = mount.join(path);
            fs::create_dir_all(file.parent().expect("it is in a folder")).expect("a folder");
            fs::write(file, content).expect("a file");
        }
        Cgroups::find(mount, own)
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a folder")
    }

    fn read(folder: &Path, file: &str) -> String {
        fs::read_to_string(folder.join(file)).expect(file)
    }

    const BOTH: &str = "cpuset cpu io memory pids\n";

    #[test]
    fn a_group_of_version_2_has_a_quota_and_a_limit() {
        let mount = folder();
        let files = [
            ("cgroup.controllers", BOTH),
            ("pods/one/cgroup.controllers", BOTH),
            ("pods/one/cgroup.subtree_control", "cpu memory\n"),
        ];
        let groups = found(mount.path(), "0::/pods/one\n", &files).expect("groups can be made");
        let group = groups.open(SOME).expect("it is made");
        let [made] = &group.folders[..] else { panic!("one for both: {group:?}") };
        assert_eq!(made.parent(), Some(mount.path().join("pods/one").as_path()));
        assert_eq!(read(made, "cpu.max"), "150000 100000");
        assert_eq!(read(made, "memory.max"), (64 << 20).to_string());
        assert_eq!(read(made, "memory.swap.max"), "0");
        assert_eq!(group.entries().expect("they are opened").len(), 1);
        let made = made.clone();
        drop(group);
        assert_eq!(read(&made, "cgroup.kill"), "1");
    }

    #[test]
    fn groups_of_version_1_are_made_where_there_are_none_of_version_2() {
        let mount = folder();
        let own = "4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n1:name=systemd:/\n0::/\n";
        let files = [("unified/cgroup.controllers", "\n"), ("cpu,cpuacct/tasks", ""), ("memory/docker/x/tasks", "")];
        let groups = found(mount.path(), own, &files).expect("groups can be made");
        assert_eq!(groups.version, Version::One);
        assert_eq!(groups.cpu, mount.path().join("cpu,cpuacct"), "only the container's own group is mounted");
        let group = groups.open(SOME).expect("it is made");
        let [cpu, memory] = &group.folders[..] else { panic!("one for each: {group:?}") };
        let quota = ["cpu.cfs_quota_us", "cpu.cfs_period_us"].map(|file| read(cpu, file));
        assert_eq!(quota, ["150000", "100000"]);
        assert_eq!(read(memory, "memory.limit_in_bytes"), (64 << 20).to_string());
        assert_eq!(group.entries().expect("they are opened").len(), 2);
    }

    #[test]
    fn what_is_not_granted_is_not_limited() {
        let mount = folder();
        let files = [("cgroup.controllers", BOTH), ("cgroup.subtree_control", "cpu memory")];
        let groups = found(mount.path(), "0::/\n", &files).expect("groups can be made");
        let group = groups.open(Allowance { cpu_millis: 1, memory_bytes: 0 }).expect("it is made");
        assert_eq!(read(&group.folders[0], "cpu.max"), "1000 100000", "the least that the kernel takes");
        assert!(!group.folders[0].join("memory.max").exists());
    }

    #[test]
    fn controllers_are_enabled_and_an_agent_that_has_moved_below_its_group_finds_it_again() {
        let mount = folder();
        let own = std::process::id().to_string();
        let files = [("cgroup.controllers", BOTH)];
        let groups = found(mount.path(), "0::/\n", &files).expect("controllers can be enabled");
        assert_eq!(read(mount.path(), "cgroup.subtree_control"), "+cpu +memory");
        fs::create_dir(mount.path().join(AGENT_GROUP)).expect("a folder");
        let again = [("cgroup.subtree_control", "cpu memory")];
        assert_eq!(found(mount.path(), &format!("0::/{AGENT_GROUP}\n"), &again), Ok(groups));
        assert!(is_own(&own) && !is_own("1") && !is_own("nonsense"));
    }

    #[test]
    fn it_is_said_why_no_groups_can_be_made() {
        let mount = folder();
        let why = |own: &str, files: &[(&str, &str)]| found(mount.path(), own, files).expect_err("there are none");
        assert!(why("", &[]).contains("no controller cpu of version 1"));
        assert!(why("0::/\n", &[("cgroup.controllers", "pids\n")]).contains("cpu and memory of version 2"));
        assert!(why("3:cpu:/\n", &[("cpu/tasks", "")]).contains("no controller memory of version 1"));
    }

    #[test]
    fn groups_of_agents_that_are_gone_are_removed() {
        let mount = folder();
        let files = [("cgroup.controllers", BOTH), ("cgroup.subtree_control", "cpu memory")];
        let groups = found(mount.path(), "0::/\n", &files).expect("groups can be made");
        let group = |agent: &str| mount.path().join(format!("{PREFIX}{agent}-7"));
        let own = std::process::id().to_string();
        // No process has so high a number.
        for agent in [own.as_str(), "999999999"] {
            fs::create_dir(group(agent)).expect("a folder");
        }
        groups.remove_left_over();
        // In a folder that is no control group, the file is left behind.
        assert!(group("999999999").join("cgroup.kill").exists() && !group(&own).join("cgroup.kill").exists());
    }
}
