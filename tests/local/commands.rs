//! Commands that behave badly, end to end: their tasks fail with a reason, and no process is left behind.

use robeing_proto::v1::{FailureKind, RetryPolicy, Role, Task, TaskSpec, TaskState};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    processes::{group_members, is_running},
    script::{answer, task},
    wait::{check, eventually},
};

/// Creates a task for a worker with a single attempt.
fn once(script: &str) -> TaskSpec {
    let retry = RetryPolicy { max_attempts: 1, ..RetryPolicy::default() };
    TaskSpec { retry: Some(retry), required_role: Role::Worker.into(), ..task(script) }
}

fn assert_failed(task: &Task, kind: FailureKind, words: &str) {
    let failure = task.failure.as_ref().unwrap_or_else(|| panic!("it has a failure: {task:#?}"));
    assert_eq!(failure.kind(), kind, "{task:#?}");
    assert!(failure.message.contains(words), "{words:?} is not in {failure:#?}");
}

async fn pid_ends(pid: u32) {
    eventually(&format!("the end of process {pid}"), async || check(!is_running(pid), (), pid)).await;
}

#[tokio::test]
async fn badly_behaved_commands_fail_and_leave_nothing_behind() {
    let spec = FleetSpec::new(1).pool(PoolSpec::new("work", 1).slots(8)).session_timeout("10s");
    let fleet = Fleet::start(spec).await;

    // 100 MB: the command is stopped when the limit is reached, not when the disk is full.
    let loud = fleet.submit_one(once("head -c 100000000 /dev/zero")).await;
    let loud_group = fleet.executing(&loud, 1).await;
    let ended = fleet.finished(&loud, TaskState::Failed).await;
    assert_failed(&ended, FailureKind::OutputTooLarge, "67108864");
    assert!(ended.output.is_empty());

    // The same amount on stderr is not a failure; only its end is kept.
    let complaining = fleet.submit_one(once("head -c 100000000 /dev/zero >&2; echo the end >&2; exit 3")).await;
    let ended = fleet.finished(&complaining, TaskState::Failed).await;
    let failure = ended.failure.clone().expect("it has a failure");
    assert_eq!((failure.kind(), failure.code), (FailureKind::Exit, Some(3)), "{ended:#?}");
    assert!(failure.stderr_tail.ends_with("the end\n") && failure.stderr_tail.len() <= 8 * 1024, "{failure:?}");

    // Killed by a signal.
    let killed = fleet.submit_one(once("kill -KILL $$")).await;
    let ended = fleet.finished(&killed, TaskState::Failed).await;
    assert_eq!(
        ended.failure.as_ref().map(|failure| (failure.kind(), failure.code)),
        Some((FailureKind::Signal, Some(9)))
    );

    // A command that ignores SIGTERM, and whose child does so as well.
    let deaf = "trap '' TERM; (trap '' TERM; while :; do sleep 0.2; done) & while :; do sleep 0.2; done";
    let deaf = fleet
        .submit_one(TaskSpec { deadline_in: Some(prost_types::Duration { seconds: 1, nanos: 0 }), ..once(deaf) })
        .await;
    let deaf_group = fleet.executing(&deaf, 1).await;
    let ended = fleet.finished(&deaf, TaskState::Failed).await;
    assert_failed(&ended, FailureKind::Deadline, "deadline");
    for group in [loud_group, deaf_group] {
        eventually("the end of the command's process group", async || {
            let left = group_members(group);
            check(left.is_empty(), (), left)
        })
        .await;
    }

    // A child that outlives its parent, in the same process group.
    let parent = fleet.submit_one(once(&format!("sleep 600 & echo $! ; {}", answer("done")))).await;
    let ended = fleet.finished(&parent, TaskState::Succeeded).await;
    let output = String::from_utf8_lossy(&ended.output).into_owned();
    let (child, rest) = output.split_once('\n').expect("two lines");
    assert_eq!(rest, format!("{parent} 1 done\n"), "its output is complete");
    pid_ends(child.parse().expect("a process id")).await;

    let after = fleet.submit_one(once(&answer("fine"))).await;
    fleet.finished(&after, TaskState::Succeeded).await;
    let agents = fleet.agents().await;
    assert!(agents.iter().all(|agent| agent.used_slots == 0), "all slots are free again: {agents:#?}");
}
