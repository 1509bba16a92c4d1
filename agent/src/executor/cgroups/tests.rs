//! Control groups in folders with the files that a kernel shows.

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
    assert_eq!(read(&group.folders[0], "cpu.max"), "1000 1000000", "the least that the kernel takes");
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
    assert!(has_ended("nonsense") && !has_ended(&own) && !has_ended("0"), "0 is a process that can't be seen");
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
    let (namespace, own) = (own_namespace(), std::process::id());
    // No process has so high a number, and none was started so late.
    let gone = [format!("{namespace}-999999999-7"), format!("{namespace}-{own}-999999999999999999")];
    // What runs in another container is not known here.
    let others = [owner(), "7-999999999-7".to_owned()];
    let group = |owner: &String| mount.path().join(format!("{PREFIX}{owner}-7"));
    for owner in gone.iter().chain(&others) {
        fs::create_dir(group(owner)).expect("a folder");
    }
    groups.remove_left_over();
    // In a folder that is no control group, the file is left behind.
    let is_ended = |owner: &String| group(owner).join("cgroup.kill").exists();
    assert!(gone.iter().all(is_ended) && !others.iter().any(is_ended));
}

#[test]
fn the_groups_that_a_command_has_made_below_its_own_are_removed_with_it() {
    let mount = folder();
    let group = mount.path().join("group");
    for below in ["one/two", "three"] {
        fs::create_dir_all(group.join(below)).expect("a folder");
    }
    assert!(end(Version::One, &group), "each is removed after those below it");
    assert!(!group.exists() && end(Version::One, &group), "it is gone");
}

#[test]
fn it_is_known_whether_processes_were_killed_at_the_limit_of_memory() {
    let mount = folder();
    let files = [("cgroup.controllers", BOTH), ("cgroup.subtree_control", "cpu memory")];
    let groups = found(mount.path(), "0::/\n", &files).expect("groups can be made");
    let group = groups.open(SOME).expect("it is made");
    let events = |text: &str| fs::write(group.folders[0].join("memory.events"), text).expect("a file");
    let seen = || (group.met_limit(), group.killed_at());
    assert_eq!(seen(), (None, None));
    events("low 0\nhigh 0\nmax 12\noom 0\noom_kill 0\n");
    assert_eq!(seen(), (Some(64 << 20), None), "it got by with its memory");
    events("low 0\nhigh 0\nmax 12\noom 1\noom_kill 2\n");
    assert_eq!(seen(), (Some(64 << 20), Some(64 << 20)));
    events("low 0\nhigh 0\nmax 0\noom 0\noom_kill 2\n");
    assert_eq!(seen(), (None, None), "the machine has no memory left");

    let one = folder();
    let files = [("cpu/tasks", ""), ("memory/tasks", "")];
    let groups = found(one.path(), "4:memory:/\n3:cpu:/\n", &files).expect("groups can be made");
    let group = groups.open(SOME).expect("it is made");
    assert_eq!(read(&group.folders[1], "memory.memsw.limit_in_bytes"), ((64 << 20) + SWAP_BYTES).to_string());
    for times in ["0\n", "3\n"] {
        assert_eq!(group.met_limit(), None);
        fs::write(group.folders[1].join("memory.failcnt"), times).expect("a file");
    }
    let control = "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n";
    fs::write(group.folders[1].join("memory.oom_control"), control).expect("a file");
    assert_eq!((group.met_limit(), group.killed_at()), (Some(64 << 20), Some(64 << 20)));
    let unlimited = groups.open(Allowance { memory_bytes: 0, ..SOME }).expect("it is made");
    assert_eq!((unlimited.met_limit(), unlimited.killed_at()), (None, None));
}

#[test]
fn a_quota_is_one_that_the_kernel_takes() {
    let mount = folder();
    let quota = |millis: u64| {
        limit_cpu(Version::Two, mount.path(), millis).expect("it is written");
        read(mount.path(), "cpu.max")
    };
    assert_eq!(quota(9), "9000 1000000", "a small one has a long period");
    assert_eq!(quota(10), "1000 100000");
    assert_eq!(quota(u64::MAX), format!("{MAX_QUOTA_US} {PERIOD_US}"));
}

#[test]
fn a_path_that_leads_out_of_what_is_mounted_is_not_followed() {
    let mount = folder();
    let inner = mount.path().join("inner");
    fs::create_dir_all(inner.join("own")).expect("a folder");
    assert_eq!(below(&inner, "/own"), inner.join("own"));
    for path in ["/..", "/../inner/own", "/own/../..", "/elsewhere"] {
        assert_eq!(below(&inner, path), inner);
    }
}
