//! Control groups that bind the processes of an attempt to the resources that its task was granted.
//!
//! Each attempt has a group of its own below that of the agent: one of version 2 if this process may make such groups
//! with the controllers `cpu` and `memory`, else one of version 1 of each of these controllers. The command enters it
//! between fork and exec, so that none of its processes was ever outside. When the attempt ends, whatever is left in the
//! group is killed, also what has left the command's process group and session, and the group is removed. What an agent
//! leaves behind that is killed itself, the next one removes that makes groups in the same place.
//!
//! Where the machine does not allow it, which is so in most containers, commands run without, and the agent says so
//! once.

use std::{
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Component, Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::{
    errno::Errno,
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
/// The names of the groups of attempts begin with this; what [`owner`] returns and a number follow.
const PREFIX: &str = "robeing-attempt-";
/// The group of version 2 that an agent moves itself into, because a group that has others below it with limits may have
/// no process of its own.
const AGENT_GROUP: &str = "robeing-agent";
/// The period of a quota of processor time, µs: what the kernel has as the default.
const PERIOD_US: u64 = 100_000;
/// The period of a quota that would be too small for the other one, µs: the longest that the kernel takes.
const LONG_PERIOD_US: u64 = 1_000_000;
/// The smallest quota that the kernel takes, µs.
const MIN_QUOTA_US: u64 = 1_000;
/// A quota that the kernel takes, and no machine can use up, µs.
const MAX_QUOTA_US: u64 = 1 << 43;
/// How much more of memory and swap together there is than of memory with version 1, bytes: the largest page. Without it,
/// the limit of both would be met first, and new kernels do not count that.
const SWAP_BYTES: u64 = 64 << 10;
/// How often the agent's processes are moved below its group at most, before controllers can be enabled there. Some may
/// be started meanwhile.
const MAX_MOVES: usize = 8;
/// How many processes, each the parent of the one before, are looked at for the agent.
const MAX_ANCESTORS: usize = 64;
/// How many levels of groups that commands have made below their own are removed.
const MAX_LEVELS: usize = 16;
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
    /// The folder that has the limit of memory, and the limit, bytes; `None` if memory is not limited.
    memory: Option<(PathBuf, u64)>,
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
            let probe = folder.join(fresh_name());
            let made = fs::create_dir(&probe).and_then(|()| fs::remove_dir(&probe));
            made.map_err(|error| format!("no group can be made in {}: {error}", folder.display()))?;
        }
        Ok(())
    }

    /// Removes the groups of agents that are gone. Those of agents in other containers are left alone: whether their
    /// processes run is not known here.
    fn remove_left_over(&self) {
        for folder in [&self.cpu, &self.memory] {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let rest = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
                let mut parts = rest.into_iter().flat_map(|rest| rest.split('-'));
                let (Some(namespace), Some(pid), Some(started)) = (parts.next(), parts.next(), parts.next()) else {
                    continue;
                };
                if namespace == own_namespace() && stat(pid, START_FIELD).as_deref() != Some(started) {
                    end(self.version, &entry.path());
                }
            }
        }
    }

    /// Makes a group with these limits.
    fn open(&self, allowance: Allowance) -> io::Result<Cgroup> {
        let name = fresh_name();
        let (version, runtime) = (self.version, Handle::try_current().ok());
        let mut group = Cgroup { version, folders: Vec::new(), memory: None, runtime };
        let (cpu, memory) = (self.cpu.join(&name), self.memory.join(&name));
        for folder in [&cpu, &memory] {
            if !group.folders.contains(folder) {
                fs::create_dir(folder)?;
                group.folders.push(folder.clone());
            }
        }
        if allowance.cpu_millis > 0 {
            limit_cpu(version, &cpu, allowance.cpu_millis)?;
        }
        if allowance.memory_bytes > 0 {
            limit_memory(version, &memory, allowance.memory_bytes)?;
            group.memory = Some((memory, allowance.memory_bytes));
        }
        Ok(group)
    }
}

fn limit_cpu(version: Version, folder: &Path, millis: u64) -> io::Result<()> {
    let is_small = millis.saturating_mul(PERIOD_US / 1_000) < MIN_QUOTA_US;
    let period = if is_small { LONG_PERIOD_US } else { PERIOD_US };
    let quota = millis.saturating_mul(period / 1_000).clamp(MIN_QUOTA_US, MAX_QUOTA_US);
    if version == Version::Two {
        return fs::write(folder.join("cpu.max"), format!("{quota} {period}"));
    }
    fs::write(folder.join("cpu.cfs_period_us"), period.to_string())?;
    match fs::write(folder.join("cpu.cfs_quota_us"), quota.to_string()) {
        // Version 1 takes no more than a group above has, whose quota binds the command as well.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        written => written,
    }
}

fn limit_memory(version: Version, folder: &Path, bytes: u64) -> io::Result<()> {
    let (bytes, with_swap) = (bytes.to_string(), bytes.saturating_add(SWAP_BYTES).to_string());
    // Not every kernel counts swap, or ends all processes of a group when the memory is used up.
    let (limit, others) = match version {
        Version::One => ("memory.limit_in_bytes", vec![("memory.memsw.limit_in_bytes", with_swap.as_str())]),
        Version::Two => ("memory.max", vec![("memory.swap.max", "0"), ("memory.oom.group", "1")]),
    };
    fs::write(folder.join(limit), &bytes)?;
    for (file, value) in others {
        let _ = fs::write(folder.join(file), value);
    }
    Ok(())
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

    /// Returns the limit of memory, bytes, if the group had no more than that and needed it.
    pub(super) fn met_limit(&self) -> Option<u64> {
        let (folder, limit) = self.memory.as_ref()?;
        let is_met = match self.version {
            Version::One => is_counted(&folder.join("memory.failcnt")),
            Version::Two => count(&folder.join("memory.events"), "max") > 0,
        };
        is_met.then_some(*limit)
    }

    /// Returns the limit of memory, bytes, if processes of the group were killed because they needed more.
    pub(super) fn killed_at(&self) -> Option<u64> {
        let (folder, _) = self.memory.as_ref()?;
        let file = match self.version {
            Version::One => "memory.oom_control",
            Version::Two => "memory.events",
        };
        // The kernel also counts those that were killed because a group above, or the machine, has no memory left.
        self.met_limit().filter(|_| count(&folder.join(file), "oom_kill") > 0)
    }

    /// Kills what is left in the group, and removes it, within a time.
    pub(super) async fn end(mut self, within: Duration) {
        let removed = remove(self.version, std::mem::take(&mut self.folders), within);
        match self.runtime.take() {
            // It continues if nobody waits for it any more, and fails only if the runtime ends.
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
            runtime.spawn(remove(self.version, left, GONE_WITHIN));
        }
    }
}

/// Kills what is left in the groups, and removes them, for a bounded time.
async fn remove(version: Version, mut folders: Vec<PathBuf>, within: Duration) {
    let give_up = Instant::now() + within;
    while !folders.is_empty() {
        let rest = move || folders.into_iter().filter(|folder| !end(version, folder)).collect::<Vec<_>>();
        // It fails only if the runtime ends.
        folders = spawn_blocking(rest).await.unwrap_or_default();
        if folders.is_empty() {
            return;
        }
        if Instant::now() >= give_up {
            tracing::warn!(?folders, "control groups can't be removed {within:?} after their attempt has ended");
            return;
        }
        sleep(TRY_AGAIN).await;
    }
}

/// Kills what runs in a group and removes the group. Returns whether it is gone.
fn end(version: Version, folder: &Path) -> bool {
    end_levels(version, folder, MAX_LEVELS)
}

fn end_levels(version: Version, folder: &Path, levels: usize) -> bool {
    // Linux before 5.14 can't kill a whole group.
    if version == Version::One || fs::write(folder.join("cgroup.kill"), "1").is_err() {
        kill_each(folder);
    }
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => true,
        // The command may have made groups below its own.
        Err(_) if levels > 0 => {
            let below = fs::read_dir(folder).into_iter().flatten().flatten();
            let groups = below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            let left = groups.filter(|group| !end_levels(version, &group.path(), levels - 1)).count();
            left == 0 && fs::remove_dir(folder).is_ok()
        }
        removed => removed.is_ok(),
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
/// container's own group is mounted; or lead out of what is mounted, if the process was moved there from outside.
fn below(mount: &Path, path: &str) -> PathBuf {
    let path = Path::new(path.trim_start_matches('/'));
    let is_inside = path.components().all(|component| matches!(component, Component::Normal(_)));
    let folder = mount.join(path);
    if is_inside && folder.is_dir() { folder } else { mount.to_owned() }
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

/// Returns whether a file has a number above 0, and nothing else.
fn is_counted(file: &Path) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.trim().parse().is_ok_and(|number: u64| number > 0))
}

/// Returns the number after a name in a file with a name and a number in each line; 0 if there is none.
fn count(file: &Path, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.find(|(found, _)| *found == name).and_then(|(_, number)| number.trim().parse().ok()).unwrap_or(0)
}

/// Enables the controllers for the groups below one of version 2. If that has processes of its own, and all of them are
/// this one and what it has started, they are moved into a group below it, as the kernel requires.
fn enable(folder: &Path) -> io::Result<()> {
    let (control, both) = (folder.join("cgroup.subtree_control"), "+cpu +memory");
    for _ in 0..MAX_MOVES {
        if fs::write(&control, both).is_ok() {
            return Ok(());
        }
        move_below(folder)?;
    }
    fs::write(&control, both)
}

fn move_below(folder: &Path) -> io::Result<()> {
    let inside = fs::read_to_string(folder.join("cgroup.procs"))?;
    let pids: Vec<&str> = inside.lines().collect();
    if !pids.iter().all(|pid| is_own(pid) || has_ended(pid)) {
        return Err(io::Error::other("the group has processes that are not the agent's"));
    }
    let agents = folder.join(AGENT_GROUP);
    match fs::create_dir(&agents) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    for pid in pids {
        match fs::write(agents.join("cgroup.procs"), pid) {
            // It may have ended meanwhile.
            Err(error) if error.raw_os_error() != Some(Errno::ESRCH as i32) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Returns whether a process is this one, or was started by it or by what it has started.
fn is_own(pid: &str) -> bool {
    let own = std::process::id().to_string();
    let mut pid = pid.to_owned();
    for _ in 0..MAX_ANCESTORS {
        if pid == own {
            return true;
        }
        let Some(parent) = stat(&pid, PARENT_FIELD) else { return false };
        pid = parent;
    }
    false
}

/// Returns whether a process that this one could see has ended. 0 stands for one that it can't see.
fn has_ended(pid: &str) -> bool {
    pid != "0" && !Path::new("/proc").join(pid).exists()
}

/// The fields of `/proc/PID/stat`, as numbered in proc_pid_stat(5).
const PARENT_FIELD: usize = 4;
const START_FIELD: usize = 22;

/// Returns a field of `/proc/PID/stat`, from the third one on; `None` if there is no such process.
fn stat(pid: &str, field: usize) -> Option<String> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).ok()?;
    // "PID (NAME) STATE PARENT ...", where NAME may contain anything.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split_ascii_whitespace().nth(field.checked_sub(3)?).map(str::to_owned)
}

/// Returns the number of the namespace in which this process has its id. Each container has its own.
fn own_namespace() -> String {
    let link = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let number: String = link.to_string_lossy().chars().filter(char::is_ascii_digit).collect();
    if number.is_empty() { "0".to_owned() } else { number }
}

/// Returns a name for a group that no other executor of this process uses, either.
fn fresh_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{PREFIX}{}-{}", owner(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Returns what tells this process from all others on the machine, also from a later one with the same id: the
/// namespace of its id, the id, and when it was started.
fn owner() -> String {
    let pid = std::process::id().to_string();
    format!("{}-{pid}-{}", own_namespace(), stat(&pid, START_FIELD).unwrap_or_default())
}

#[cfg(test)]
mod tests;
