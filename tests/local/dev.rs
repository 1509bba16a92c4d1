//! `robeing dev` with real coordinators and agents: it leaves nothing behind, fleets run side by side, and processes
//! that die are restarted.

use nix::sys::signal::Signal;
use robeing_tests::{
    processes::{descendants, is_running, send},
    terminal::{Dev, Terminal},
    wait::{check, eventually},
};
use serde_json::Value;

const MANIFEST: &str = "
apiVersion: robeing.io/v1alpha1
kind: RobeingCluster
metadata: {name: first}
spec:
  coordinators: {replicas: 1}
  pools:
  - {name: work, replicas: 1, executor: {command: {argv: [/bin/sh, -s]}}}
";

/// Starts a fleet, waits until it is ready, and runs a task in it that never ends. Returns the processes of all that.
async fn busy_fleet(terminal: &Terminal) -> (Dev, Vec<u32>) {
    terminal.write("manifest.yaml", MANIFEST);
    terminal.write("endless", "while :; do sleep 0.1; done");
    let dev = terminal.dev(&["-f", "manifest.yaml"]);
    dev.line_with(&["ready"]).await;
    terminal.run(&["submit", "--kind", "shell", "--input", "endless"]).await.success();
    let processes = eventually("coordinator, agent, the agent's guard and the command", async || {
        // At least these four; the command's own children come and go.
        let found: Vec<u32> = descendants(dev.pid());
        let running = terminal.run(&["tasks", "--state", "assigned", "-o", "json"]).await.json();
        let is_busy = running.as_array().is_some_and(|tasks| tasks.len() == 1);
        check(is_busy && found.len() >= 4, found.clone(), found)
    })
    .await;
    (dev, processes)
}

async fn all_end(processes: &[u32]) {
    eventually("the end of all processes of the fleet", async || {
        let left: Vec<u32> = processes.iter().copied().filter(|pid| is_running(*pid)).collect();
        check(left.is_empty(), (), left)
    })
    .await;
}

#[tokio::test]
async fn ctrl_c_ends_the_fleet_and_its_commands() {
    let terminal = Terminal::default();
    let (mut dev, processes) = busy_fleet(&terminal).await;
    dev.signal(Signal::SIGINT);
    dev.line_with(&["stopping", "hand back the rest", "Ctrl-C again kills everything at once"]).await;
    let status = dev.ended().await;
    assert!(status.success(), "a graceful stop is a success: {status}: {:#?}", dev.lines());
    let left: Vec<u32> = processes.into_iter().filter(|pid| is_running(*pid)).collect();
    assert_eq!(left, Vec::<u32>::new(), "no process outlives a fleet that was stopped");
}

#[tokio::test]
async fn a_killed_dev_leaves_nothing_behind() {
    let terminal = Terminal::default();
    let (mut dev, processes) = busy_fleet(&terminal).await;
    dev.signal(Signal::SIGKILL);
    dev.ended().await;
    all_end(&processes).await;
}

#[tokio::test]
async fn a_task_that_runs_when_the_fleet_stops_is_handed_back_and_runs_when_it_starts_again() {
    let terminal = Terminal::default();
    terminal.write("manifest.yaml", MANIFEST);
    terminal.write("once", "[ -e ran ] && echo again || { touch ran; while :; do sleep 0.1; done; }");
    let start = async || {
        let dev = terminal.dev(&["-f", "manifest.yaml", "--data", "data"]);
        dev.line_with(&["ready"]).await;
        dev
    };
    let mut dev = start().await;
    let line = ["submit", "--kind", "shell", "--input", "once", "--max-attempts", "1"];
    let id = terminal.run(&line).await.success().trim().to_owned();
    eventually("the task's first run", async || check(terminal.dir().join("ran").exists(), (), id.clone())).await;
    dev.signal(Signal::SIGINT);
    assert!(dev.ended().await.success(), "{:#?}", dev.lines());
    let _dev = start().await;
    // A lost attempt would have been its only one.
    terminal.run(&["task", &id, "--watch"]).await.success();
    assert_eq!(terminal.run(&["task", &id, "--result"]).await.success(), "again\n");
}

#[tokio::test]
async fn the_schedules_of_a_manifest_are_set_and_those_that_it_has_no_more_are_removed() {
    let terminal = Terminal::default();
    let run_with = async |names: &[&str], told: &str| -> Vec<String> {
        let schedule = |name: &&str| format!("  - {{name: {name}, cron: \"@yearly\", task: {{kind: k}}}}\n");
        let schedules: String = names.iter().map(schedule).collect();
        terminal.write("manifest.yaml", &format!("{MANIFEST}  schedules:\n{schedules}"));
        let mut dev = terminal.dev(&["-f", "manifest.yaml", "--data", "data"]);
        dev.line_with(&["ready"]).await;
        dev.line_with(&[told]).await;
        let listed = terminal.run(&["schedule", "list", "-o", "json"]).await.json();
        dev.signal(Signal::SIGINT);
        assert!(dev.ended().await.success());
        let listed = listed.as_array().cloned().unwrap_or_default();
        listed.iter().filter_map(|schedule| Some(schedule["name"].as_str()?.to_owned())).collect()
    };
    assert_eq!(run_with(&["a", "b"], "2 schedules are set").await, ["a", "b"]);
    assert_eq!(run_with(&["b"], "1 schedule is set").await, ["b"]);
}

#[tokio::test]
async fn two_fleets_run_side_by_side_and_a_killed_agent_comes_back() {
    let terminal = Terminal::default();
    terminal.write("manifest.yaml", MANIFEST);
    let first = terminal.dev(&["-f", "manifest.yaml"]);
    let second = terminal.dev(&["-f", "manifest.yaml", "--name", "second"]);
    first.line_with(&["ready", "first"]).await;
    second.line_with(&["ready", "second"]).await;
    terminal.write("task", "echo hello");
    for fleet in ["first", "second"] {
        let status = terminal.run(&["status", "--fleet", fleet, "-o", "json"]).await.json();
        assert_eq!(status["clusterId"], fleet, "{status}");
        let line = ["submit", "--fleet", fleet, "--kind", "shell", "--input", "task", "--wait"];
        assert_eq!(terminal.run(&line).await.success(), "hello\n");
        let tasks = terminal.run(&["tasks", "--fleet", fleet, "-o", "json"]).await.json();
        assert_eq!(tasks.as_array().map(Vec::len), Some(1), "each has its own tasks: {tasks}");
    }

    let agent = async || -> Value {
        let agents = terminal.run(&["agents", "--fleet", "first", "-o", "json"]).await.json();
        agents.as_array().and_then(|agents| agents.first().cloned()).unwrap_or_default()
    };
    let pid = agent().await["pid"].as_u64().expect("it is reported");
    let pid = u32::try_from(pid).expect("process ids are small");
    assert!(descendants(first.pid()).contains(&pid), "it belongs to that fleet");
    send(pid, Signal::SIGKILL);
    first.line_with(&["died", "work-0", "SIGKILL"]).await;
    eventually("the agent as a new process", async || {
        let agent = agent().await;
        let is_new = agent["pid"].as_u64().is_some_and(|new| new != u64::from(pid));
        check(is_new && agent["state"] == "AGENT_STATE_LIVE", (), agent)
    })
    .await;
    let line = ["submit", "--fleet", "first", "--kind", "shell", "--input", "task", "--wait"];
    assert_eq!(terminal.run(&line).await.success(), "hello\n", "and it works");
}

#[tokio::test]
async fn what_kinds_of_tasks_need_is_in_force_once_the_queue_that_one_names_is_set() {
    let terminal = Terminal::default();
    let kinds = "  taskKinds:\n  - {name: wide, slots: 2}\n  - {name: heavy, resources: {cpu: 100m}, queue: batch}\n";
    terminal.write("manifest.yaml", &format!("{MANIFEST}{kinds}"));
    let mut dev = terminal.dev(&["-f", "manifest.yaml"]);
    dev.line_with(&["what kinds of tasks need is not in force", "\"batch\", which was not set"]).await;
    terminal.run(&["queues", "set", "batch"]).await.success();
    dev.line_with(&["kind    2 have their needs"]).await;
    let id = terminal.run(&["submit", "--kind", "wide"]).await.success().trim().to_owned();
    let task = terminal.run(&["task", &id, "-o", "json"]).await.json();
    assert_eq!(task["slots"], 2, "{task}");
    dev.signal(Signal::SIGINT);
    dev.ended().await;
}
