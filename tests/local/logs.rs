//! What a user sees of a running task, and that a cancellation is confirmed when no process of it is left. All processes
//! are real.

use robeing_proto::v1::{AttemptProgress, RetryPolicy, TaskSpec, TaskState, WatchTasksRequest};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    processes::group_members,
    script::{executions, task},
    terminal::{Ended, Terminal},
    wait::{check, eventually, in_time},
};
use serde_json::json;

async fn fleet(coordinators: u32, agents: u32) -> Fleet {
    Fleet::start(FleetSpec::new(coordinators).pool(PoolSpec::new("work", agents).slots(4)).session_timeout("10s")).await
}

/// Runs a command of a user at a coordinator.
async fn robeing(terminal: &Terminal, fleet: &Fleet, at: &str, line: &[&str]) -> Ended {
    terminal.run(&[line, &["--endpoint", &fleet.address(at)]].concat()).await
}

fn lines(ended: &Ended) -> Vec<&str> {
    ended.success().lines().collect()
}

#[tokio::test]
async fn a_task_is_followed_at_every_coordinator() {
    let (fleet, terminal) = (fleet(3, 1).await, Terminal::default());
    let gate = fleet.gate("half");
    let script = format!("echo one; echo ::progress 0.5 half way >&2; {}\necho problem >&2; echo two", gate.wait());
    let id = fleet.submit_one(task(&script)).await;
    fleet.executing(&id, 1).await;
    for at in fleet.coordinators() {
        eventually("the first line is told", async || {
            let ended = robeing(&terminal, &fleet, &at, &["logs", &id]).await;
            check(ended.stdout == "one\n", (), ended)
        })
        .await;
    }
    let coordinators = fleet.coordinators();
    let [first, second, third] = &coordinators[..] else { panic!("three coordinators") };
    let (follow, watch) = (["logs", "-f", &id], ["task", &id, "--watch"]);
    let follow_documents = ["logs", "-f", &id, "-o", "json"];
    let (followed, watched, documents, ()) = tokio::join!(
        robeing(&terminal, &fleet, first, &follow),
        robeing(&terminal, &fleet, second, &watch),
        robeing(&terminal, &fleet, third, &follow_documents),
        async {
            // They are told what came before and after they began, in any order.
            tokio::task::yield_now().await;
            gate.open();
        },
    );
    let mut seen = lines(&followed);
    assert_eq!(seen[0], "one", "{followed:?}");
    seen.sort_unstable();
    assert_eq!(seen, ["one", "problem", "two"], "{followed:?}");
    assert!(followed.stderr.contains("progress: 50 %  half way"), "{followed:?}");
    assert_eq!(watched.code, Some(0), "{watched:?}");
    assert!(documents.success().lines().any(|line| line.contains("two")), "{documents:?}");

    // It has ended, and is kept for a while.
    let kept = robeing(&terminal, &fleet, second, &["logs", &id]).await;
    assert_eq!(lines(&kept).len(), 3, "{kept:?}");
    let last = robeing(&terminal, &fleet, third, &["logs", &id, "--tail", "1", "--timestamps"]).await;
    assert_eq!(lines(&last).len(), 1, "{last:?}");
    let nobody = robeing_client::new_task_id();
    robeing(&terminal, &fleet, first, &["logs", &nobody]).await.assert_failed(4, &nobody);
}

#[tokio::test]
async fn the_progress_of_a_task_is_seen_while_it_is_watched() {
    let fleet = fleet(3, 1).await;
    let (first, second) = (fleet.gate("first"), fleet.gate("second"));
    let script =
        format!("{}\necho ::progress 0.25 a quarter >&2; {}\necho ::progress 1 >&2", first.wait(), second.wait());
    let id = fleet.submit_one(task(&script)).await;
    let request = WatchTasksRequest { ids: vec![id.clone()], include_progress: true, ..WatchTasksRequest::default() };
    let mut watch = fleet.client().watch_tasks(request);
    fleet.executing(&id, 1).await;
    first.open();
    let progress = in_time("the progress is told", async {
        loop {
            let changes = watch.next().await.expect("the watch goes on");
            if let Some(progress) = changes.progress.into_iter().next() {
                return progress;
            }
        }
    })
    .await;
    assert_eq!((progress.task_id.as_str(), progress.attempt, progress.agent.as_str()), (&*id, 1, "work-0"));
    let quarter = AttemptProgress { fraction: 0.25, text: "a quarter".into() };
    assert_eq!(progress.progress, Some(quarter));
    second.open();
    fleet.finished(&id, TaskState::Succeeded).await;
}

#[tokio::test]
async fn a_task_is_followed_from_attempt_to_attempt() {
    let (fleet, terminal) = (fleet(1, 2).await, Terminal::default());
    let at = fleet.coordinators().remove(0);
    let pause = prost_types::Duration { seconds: 2, nanos: 0 };
    let retry = RetryPolicy { max_attempts: 2, initial_backoff: Some(pause), ..RetryPolicy::default() };
    let script = "echo attempt $ROBEING_ATTEMPT; [ $ROBEING_ATTEMPT = 2 ]";
    let id = fleet.submit_one(TaskSpec { retry: Some(retry), ..task(script) }).await;
    fleet.executing(&id, 1).await;
    let followed = robeing(&terminal, &fleet, &at, &["logs", "-f", &id]).await;
    assert_eq!(lines(&followed), ["attempt 1", "attempt 2"], "{followed:?}");
    assert!(followed.stderr.contains("attempt 2 on agent work-"), "{followed:?}");
    let first = robeing(&terminal, &fleet, &at, &["logs", &id, "--attempt", "1"]).await;
    assert_eq!(lines(&first), ["attempt 1"], "{first:?}");
}

#[tokio::test]
async fn a_cancellation_is_confirmed_when_the_last_process_is_gone() {
    let (fleet, terminal) = (fleet(3, 1).await, Terminal::default());
    let gate = fleet.gate("never");
    // Another process of the group goes on when the command itself has ended.
    let obeys =
        fleet.submit_one(task(&format!("(trap 'sleep 0.2; exit' TERM; {}) & {}", gate.wait(), gate.wait()))).await;
    let ignores = fleet.submit_one(task(&format!("trap '' TERM; {}", gate.wait()))).await;
    let groups = [fleet.executing(&obeys, 1).await, fleet.executing(&ignores, 1).await];
    let coordinators = fleet.coordinators();
    let [first, second, third] = &coordinators[..] else { panic!("three coordinators") };

    let ended = robeing(&terminal, &fleet, first, &["cancel", &obeys, "--wait"]).await;
    assert!(group_members(groups[0]).is_empty(), "{ended:?}");
    assert!(ended.success().contains("nothing of it runs any more"), "{ended:?}");

    // This one is killed after its grace of two seconds.
    let line = ["cancel", &ignores, "--wait", "--wait-timeout", "100ms"];
    let ended = robeing(&terminal, &fleet, second, &line).await;
    assert_eq!(ended.code, Some(6), "{ended:?}");
    assert!(ended.stdout.contains("it is still being stopped by work-0"), "{ended:?}");
    let ended = robeing(&terminal, &fleet, third, &["cancel", &ignores, "--wait", "-o", "json"]).await;
    assert!(group_members(groups[1]).is_empty(), "{ended:?}");
    assert_eq!(ended.json(), json!([{"id": ignores, "state": "TASK_STATE_CANCELLED", "stopped": true}]));
}

#[tokio::test]
async fn a_cancellation_reaches_all_runs_of_a_task_whose_result_is_verified() {
    let (fleet, terminal) = (fleet(1, 3).await, Terminal::default());
    let (gate, at) = (fleet.gate("never"), fleet.coordinators().remove(0));
    terminal.write("input", &gate.wait());
    let submit = ["submit", "--kind", "shell", "--input", "input", "--verify", "2/3"];
    // It is refused until the fleet has its newest version.
    let id = eventually("the task is accepted", async || {
        let ended = robeing(&terminal, &fleet, &at, &submit).await;
        check(ended.code == Some(0), ended.stdout.trim().to_owned(), ended)
    })
    .await;
    let runs = eventually("all run", async || {
        let runs = executions(&fleet.executions_file());
        check(runs.len() == 3, runs.clone(), runs)
    })
    .await;
    let ended = robeing(&terminal, &fleet, &at, &["cancel", &id, "--wait"]).await;
    for run in runs {
        assert!(group_members(run.group).is_empty(), "{ended:?}");
    }
    assert!(ended.success().contains("nothing of it runs any more"), "{ended:?}");
    fleet.finished(&id, TaskState::Cancelled).await;
}
