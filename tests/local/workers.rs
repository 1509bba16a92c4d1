//! Worker processes that attach to agents and run their tasks: what happens when such a process dies, its agent dies,
//! or a task is cancelled. All processes are real.

use std::path::Path;

use robeing_proto::v1::{AgentState, AttemptState, CancelTasksRequest, FailureKind, RetryPolicy, TaskSpec, TaskState};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    processes::{Process, group_members},
    program::program,
    script::{answer, script_runner, task},
    wait::{check, eventually},
};
use serde_json::json;

const WORKER: &str = "robeing-test-worker";

/// Starts a fleet to whose agents nothing is attached yet.
async fn fleet(agents: u32, slots: u32) -> Fleet {
    let mut fleet = Fleet::prepare(
        FleetSpec::new(1).pool(PoolSpec::new("own", agents).slots(slots).executor(json!({"worker": {}}))),
    );
    fleet.start_all();
    fleet.leader().await;
    fleet
}

/// Attaches a process to an agent.
fn attach(fleet: &Fleet, agent: &str) -> Process {
    let mut line =
        vec![format!("ROBEING_WORKER_ADDRESS={}", fleet.attach_address(agent)), program(WORKER).display().to_string()];
    line.extend(script_runner(&fleet.executions_file()));
    let log = fleet.dir().join(format!("{agent}-worker.log"));
    Process::start(&format!("{agent}'s worker"), Path::new("/usr/bin/env"), &line, &log)
}

/// Waits until an agent is a member that gets no tasks.
async fn is_idle(fleet: &Fleet, agent: &str) {
    eventually(&format!("{agent} gets no tasks"), async || {
        let there = fleet.agents().await.into_iter().find(|known| known.name == agent);
        let idle = there
            .as_ref()
            .is_some_and(|agent| agent.state() == AgentState::Live && agent.slots == 0 && agent.pool.is_empty());
        check(idle, (), there)
    })
    .await;
}

/// Waits until an agent gets tasks.
async fn works(fleet: &Fleet, agent: &str) {
    eventually(&format!("{agent} gets tasks"), async || {
        let there = fleet.agents().await.into_iter().find(|known| known.name == agent);
        let works = there.as_ref().is_some_and(|agent| agent.state() == AgentState::Live && agent.slots > 0);
        check(works, (), there)
    })
    .await;
}

async fn all_work(fleet: &Fleet) {
    for agent in fleet.attached_agents() {
        works(fleet, agent).await;
    }
}

async fn no_process_left(group: u32) {
    eventually("the end of the task's processes", async || {
        let left = group_members(group);
        check(left.is_empty(), (), left)
    })
    .await;
}

#[tokio::test]
async fn an_agent_takes_tasks_while_something_is_attached() {
    let mut fleet = fleet(2, 2).await;
    // They are members from the start, but get no tasks.
    is_idle(&fleet, "own-0").await;
    is_idle(&fleet, "own-1").await;
    let early = fleet.submit_one(task(&answer("early"))).await;
    let first = attach(&fleet, "own-0");
    let done = fleet.finished(&early, TaskState::Succeeded).await;
    assert_eq!((done.attempts.len(), done.attempts[0].agent.as_str()), (1, "own-0"), "{done:#?}");
    is_idle(&fleet, "own-1").await;
    let ids = fleet.submit((0..8).map(|n| task(&answer(&format!("hello {n}")))).collect()).await;
    for (n, id) in ids.iter().enumerate() {
        let done = fleet.finished(id, TaskState::Succeeded).await;
        assert_eq!(String::from_utf8_lossy(&done.output), format!("{id} 1 hello {n}\n"));
    }
    let _second = attach(&fleet, "own-1");
    works(&fleet, "own-1").await;

    // A task that fails in the process has a failure with the reason.
    let retry = Some(RetryPolicy { max_attempts: 1, ..RetryPolicy::default() });
    let broken = TaskSpec { retry, ..task("echo 'no licence' >&2; exit 3") };
    let failed = fleet.finished(&fleet.submit_one(broken).await, TaskState::Failed).await;
    let failure = failed.attempts[0].failure.as_ref().expect("it has a failure");
    assert_eq!((failure.kind(), failure.code), (FailureKind::Reported, Some(3)), "{failed:#?}");
    assert!(failure.message.contains("exit status: 3") && failure.stderr_tail.contains("no licence"), "{failure:?}");
    drop(first);
    is_idle(&fleet, "own-0").await;
    fleet.terminate("own-0");
    assert!(fleet.ended("own-0").await.success(), "an agent without tasks ends with success");
}

#[tokio::test]
async fn what_a_dead_process_ran_is_run_elsewhere_and_its_agent_waits_for_another() {
    let fleet = fleet(2, 1).await;
    let mut workers = [attach(&fleet, "own-0"), attach(&fleet, "own-1")];
    all_work(&fleet).await;
    let gate = fleet.gate("all");
    let id = fleet.submit_one(task(&format!("{}\n{}", gate.wait(), answer("through")))).await;
    fleet.executing(&id, 1).await;
    let victim = fleet.task(&id).await.attempts[0].agent.clone();
    workers[usize::from(victim == "own-1")].kill();

    fleet.executing(&id, 2).await;
    is_idle(&fleet, &victim).await;
    gate.open();
    let done = fleet.finished(&id, TaskState::Succeeded).await;
    let [first, second] = &done.attempts[..] else { panic!("two attempts expected: {done:#?}") };
    let failure = first.failure.as_ref().expect("it has a failure");
    assert_eq!((first.state(), failure.kind()), (AttemptState::Failed, FailureKind::Unreachable), "{done:#?}");
    assert!(failure.message.contains("was gone before it answered"), "{failure:?}");
    assert_ne!(second.agent, victim);

    workers[usize::from(victim == "own-1")] = attach(&fleet, &victim);
    all_work(&fleet).await;
}

#[tokio::test]
async fn a_process_outlives_its_agent_and_stops_what_it_ran_for_it() {
    let mut fleet = fleet(2, 1).await;
    let _workers = [attach(&fleet, "own-0"), attach(&fleet, "own-1")];
    all_work(&fleet).await;
    let gate = fleet.gate("all");
    let id = fleet.submit_one(task(&format!("{}\n{}", gate.wait(), answer("through")))).await;
    let group = fleet.executing(&id, 1).await;
    let victim = fleet.task(&id).await.attempts[0].agent.clone();
    fleet.kill(&victim);
    fleet.executing(&id, 2).await;
    no_process_left(group).await;
    gate.open();
    assert_eq!(
        String::from_utf8_lossy(&fleet.finished(&id, TaskState::Succeeded).await.output),
        format!("{id} 2 through\n")
    );
    // The process attaches to the agent's successor on its own.
    fleet.start_one(&victim);
    works(&fleet, &victim).await;
}

#[tokio::test]
async fn a_process_with_keepalives_stops_what_it_runs_for_a_frozen_agent() {
    let mut fleet = fleet(2, 1).await;
    let _workers = [attach(&fleet, "own-0"), attach(&fleet, "own-1")];
    all_work(&fleet).await;
    let gate = fleet.gate("all");
    let id = fleet.submit_one(task(&format!("{}\n{}", gate.wait(), answer("through")))).await;
    let group = fleet.executing(&id, 1).await;
    let victim = fleet.task(&id).await.attempts[0].agent.clone();
    fleet.freeze(&victim);
    fleet.executing(&id, 2).await;
    no_process_left(group).await;
    gate.open();
    fleet.finished(&id, TaskState::Succeeded).await;
    fleet.thaw(&victim);
    all_work(&fleet).await;
}

#[tokio::test]
async fn a_cancelled_task_is_stopped_in_its_process() {
    let fleet = fleet(1, 2).await;
    let _worker = attach(&fleet, "own-0");
    all_work(&fleet).await;
    let gate = fleet.gate("all");
    let ids = fleet.submit((0..2).map(|_| task(&format!("{}\n{}", gate.wait(), answer("through")))).collect()).await;
    let group = fleet.executing(&ids[0], 1).await;
    fleet.executing(&ids[1], 1).await;
    let request = CancelTasksRequest { ids: vec![ids[0].clone()], reason: "not wanted".into(), wait: None };
    fleet.client().cancel_tasks(request).await.expect("it runs");
    no_process_left(group).await;
    fleet.finished(&ids[0], TaskState::Cancelled).await;
    gate.open();
    fleet.finished(&ids[1], TaskState::Succeeded).await;
}

#[tokio::test]
async fn an_agent_that_is_asked_to_stop_lets_its_process_finish() {
    let mut fleet = fleet(1, 1).await;
    let _worker = attach(&fleet, "own-0");
    all_work(&fleet).await;
    let gate = fleet.gate("all");
    let id = fleet.submit_one(task(&format!("{}\n{}", gate.wait(), answer("through")))).await;
    fleet.executing(&id, 1).await;
    fleet.terminate("own-0");
    fleet.agent_is("own-0", AgentState::Draining).await;
    gate.open();
    let done = fleet.finished(&id, TaskState::Succeeded).await;
    assert_eq!(done.attempts.len(), 1, "{done:#?}");
    assert!(fleet.ended("own-0").await.success());
}
