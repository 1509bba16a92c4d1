//! Commands that are bound to what their tasks were granted, by real control groups. Where none can be made, the tests say
//! so and check no more than that commands run without.

use std::path::Path;

use robeing_agent::executor::{Allowance, Attempt, Executor, FailureKind, Outcome};
use tokio_util::sync::CancellationToken;

use crate::fixture::{SOON, attempt, eventually, failure, output, running, shell};

/// Where the groups of a command may be mounted.
const MOUNTS: [&str; 5] = ["", "unified", "cpu", "memory", "cpu,cpuacct"];

fn granted(cpu_millis: u64, memory_bytes: u64) -> Attempt {
    Attempt { allowance: Some(Allowance { cpu_millis, memory_bytes }), ..attempt("") }
}

/// Returns whether commands are bound here, and says so if they are not.
async fn is_bound() -> bool {
    let told = output(&shell("echo $ROBEING_BOUND"), granted(500, 64 << 20)).await;
    let is_bound = told == "true\n";
    if !is_bound {
        assert_eq!(told, "false\n", "it runs all the same");
        eprintln!("NOT TESTED: no control groups with cpu and memory can be made here, so commands are not bound");
    }
    is_bound
}

#[tokio::test]
async fn a_command_knows_what_it_was_granted() {
    let print = shell("echo ${ROBEING_CPU_MILLIS-none} ${ROBEING_MEMORY_BYTES-none} ${ROBEING_BOUND+told}");
    assert_eq!(output(&print, attempt("")).await, "none none\n");
    assert_eq!(output(&print, granted(500, 0)).await, "500 none told\n");
    assert_eq!(output(&print, granted(500, 64 << 20)).await, "500 67108864 told\n");
}

#[tokio::test]
async fn a_command_runs_in_a_group_that_is_gone_after_it() {
    if !is_bound().await {
        return;
    }
    let printed = output(&shell("cat /proc/self/cgroup"), granted(500, 64 << 20)).await;
    let paths: Vec<&str> = printed.lines().filter_map(|line| line.splitn(3, ':').nth(2)).collect();
    let groups: Vec<&str> = paths.into_iter().filter(|path| path.contains("robeing-attempt-")).collect();
    assert!(!groups.is_empty(), "{printed}");
    let is_there =
        |mount: &str, group: &str| Path::new("/sys/fs/cgroup").join(mount).join(group.trim_start_matches('/')).exists();
    eventually("the groups are removed", || {
        groups.iter().all(|group| MOUNTS.iter().all(|mount| !is_there(mount, group)))
    })
    .await;
}

#[tokio::test]
async fn a_command_that_takes_more_memory_than_it_was_granted_is_killed() {
    if !is_bound().await {
        return;
    }
    // tail keeps a line without an end in memory, and is the last of the pipeline, whose end is that of the command.
    let greedy = shell("head -c 200000000 /dev/zero | tail >/dev/null");
    let failed = failure(&greedy, granted(1_000, 32 << 20)).await;
    assert!(matches!(failed.kind, FailureKind::Exit | FailureKind::Signal), "{failed:?}");
    assert!(failed.message.contains("the memory limit of 33554432 bytes"), "{failed:?}");
    let sparing = shell("head -c 200000000 /dev/zero | wc -c");
    assert_eq!(output(&sparing, granted(1_000, 32 << 20)).await.trim(), "200000000");
}

#[tokio::test]
async fn a_command_that_its_memory_does_not_let_start_fails_and_the_agent_can_start_others() {
    if !is_bound().await {
        return;
    }
    let executor = shell("echo started");
    let failed = failure(&executor, granted(500, 4_096)).await;
    assert!(matches!(failed.kind, FailureKind::Spawn | FailureKind::Signal), "{failed:?}");
    assert!(failed.message.contains("memory"), "{failed:?}");
    assert_eq!(executor.presence().map(|presence| *presence.borrow()), Some(true), "the agent lacks nothing");
    assert_eq!(output(&executor, granted(500, 64 << 20)).await, "started\n");
}

#[tokio::test]
async fn what_left_the_session_of_a_cancelled_command_is_killed_with_its_group() {
    if !is_bound().await {
        return;
    }
    let (stop, task) = (CancellationToken::new(), granted(500, 64 << 20));
    let id = task.task_id.clone();
    let sleeps = shell("setsid sleep 600 & sleep 600");
    let runs = sleeps.run(task, stop.clone());
    let stops = async {
        eventually("both sleep", || running(&id).len() >= 2).await;
        stop.cancel();
    };
    let (outcome, ()) = tokio::time::timeout(SOON, async { tokio::join!(runs, stops) }).await.expect("it ends");
    assert_eq!(outcome, Outcome::Cancelled);
    eventually("nothing of it runs", || running(&id).is_empty()).await;
}
