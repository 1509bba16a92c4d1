//! Times, retries and dead letters from a user's point of view. All processes are real.

use robeing_proto::v1::{AttemptState, FailureKind, Task, TaskState};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    processes::group_members,
    terminal::{Ended, Terminal},
    wait::{check, eventually},
};

async fn fleet(agents: u32) -> Fleet {
    Fleet::start(FleetSpec::new(1).pool(PoolSpec::new("work", agents)).session_timeout("10s")).await
}

/// Runs a command of a user.
async fn robeing(terminal: &Terminal, fleet: &Fleet, line: &[&str]) -> Ended {
    terminal.run(&[line, &["--endpoint", &fleet.address(&fleet.coordinators()[0])]].concat()).await
}

/// Submits a script with these options, and returns the id. It is refused until the fleet has its newest version.
async fn submit(terminal: &Terminal, fleet: &Fleet, script: &str, options: &[&str]) -> String {
    terminal.write("input", script);
    let line = [&["submit", "--kind", "shell", "--input", "input"][..], options].concat();
    eventually("the task is accepted", async || {
        let ended = robeing(terminal, fleet, &line).await;
        check(ended.code == Some(0), ended.stdout.trim().to_owned(), ended)
    })
    .await
}

fn failure_kind(task: &Task) -> Option<FailureKind> {
    task.failure.as_ref().map(|failure| failure.kind())
}

#[tokio::test]
async fn an_attempt_that_makes_no_progress_is_stopped_and_another_agent_runs_the_task() {
    let (fleet, terminal) = (fleet(2).await, Terminal::default());
    let gate = fleet.gate("never");
    let script = format!("[ $ROBEING_ATTEMPT = 2 ] || {{ {} ; }}", gate.wait());
    let id = submit(&terminal, &fleet, &script, &["--progress-timeout", "1s"]).await;
    let group = fleet.executing(&id, 1).await;
    let ended = fleet.finished(&id, TaskState::Succeeded).await;
    let [first, second] = &ended.attempts[..] else { panic!("two attempts: {ended:#?}") };
    assert_eq!(first.state(), AttemptState::TimedOut);
    assert_eq!(first.failure.as_ref().map(|failure| failure.kind()), Some(FailureKind::Stalled));
    assert_ne!(first.agent, second.agent);
    eventually("the end of the first attempt's processes", async || {
        let left = group_members(group);
        check(left.is_empty(), (), left)
    })
    .await;
}

#[tokio::test]
async fn an_attempt_that_writes_something_now_and_then_is_not_stopped() {
    let (fleet, terminal) = (fleet(1).await, Terminal::default());
    let script = "for n in 1 2 3 4 5 6 7 8 9 10; do printf .; sleep 0.5; done";
    let id = submit(&terminal, &fleet, script, &["--progress-timeout", "2s"]).await;
    let ended = fleet.finished(&id, TaskState::Succeeded).await;
    assert_eq!((ended.attempts.len(), &ended.output[..]), (1, &b".........."[..]), "{ended:#?}");
}

#[tokio::test]
async fn a_task_that_no_agent_takes_in_time_fails_and_is_no_dead_letter() {
    let (fleet, terminal) = (fleet(1).await, Terminal::default());
    let options = ["--specialization", "none-has-it", "--queue-expiry", "1s"];
    let id = submit(&terminal, &fleet, "true", &options).await;
    let ended = fleet.finished(&id, TaskState::Failed).await;
    assert_eq!((failure_kind(&ended), ended.dead), (Some(FailureKind::Expired), false), "{ended:#?}");
    assert_eq!(fleet.executions_of(&id), []);
    let listed = robeing(&terminal, &fleet, &["dead", "list"]).await;
    assert_eq!(listed.success(), "no dead letters\n");
}

#[tokio::test]
async fn a_dead_letter_is_listed_tried_again_and_dropped() {
    let (fleet, terminal) = (fleet(1).await, Terminal::default());
    let options = ["--retries", "3", "--non-retryable", "exit:3"];
    let id = submit(&terminal, &fleet, "echo broken >&2; exit 3", &options).await;
    let died = fleet.finished(&id, TaskState::Failed).await;
    assert_eq!((died.attempts.len(), died.dead, died.epoch), (1, true, 0), "{died:#?}");
    let listed = robeing(&terminal, &fleet, &["dead", "list", "-o", "json"]).await.json();
    let ids: Option<Vec<&str>> = listed.as_array().map(|all| all.iter().filter_map(|one| one["id"].as_str()).collect());
    assert_eq!(ids, Some(vec![&*id]), "{listed}");

    let retried = robeing(&terminal, &fleet, &["dead", "retry", &id]).await;
    assert!(retried.success().contains("is tried again"), "{retried:?}");
    let again =
        fleet.task_such(&id, "its death in the next epoch", |task| task.epoch == 1 && task.finished_at.is_some()).await;
    assert_eq!((again.state(), again.attempt, again.attempts_used), (TaskState::Failed, 2, 1), "{again:#?}");
    assert!(again.dead);

    let dropped = robeing(&terminal, &fleet, &["dead", "drop", "--all"]).await;
    assert!(dropped.success().contains("is dropped"), "{dropped:?}");
    assert_eq!(robeing(&terminal, &fleet, &["dead", "list"]).await.success(), "no dead letters\n");
    let refused = robeing(&terminal, &fleet, &["dead", "retry", &id]).await;
    assert_eq!(refused.code, Some(3), "{refused:?}");
    let audited = robeing(&terminal, &fleet, &["audit"]).await;
    assert!(["dead.retry", "dead.drop"].iter().all(|action| audited.success().contains(action)), "{audited:?}");
}
