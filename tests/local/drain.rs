//! An agent that gets SIGTERM finishes its tasks, or hands them back, and gets no new ones.

use robeing_proto::v1::{AgentState, AttemptState, TaskState};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    processes::group_members,
    script::{answer, task},
};

#[tokio::test]
async fn a_draining_agent_finishes_what_it_runs_and_takes_nothing_new() {
    let mut fleet = Fleet::start(FleetSpec::new(1).pool(PoolSpec::new("work", 2).slots(2))).await;
    let gate = fleet.gate("all");
    let held = fleet.submit_one(task(&format!("{}\n{}", gate.wait(), answer("held")))).await;
    fleet.executing(&held, 1).await;
    let leaving = fleet.task(&held).await.attempts[0].agent.clone();
    fleet.terminate(&leaving);
    fleet.agent_is(&leaving, AgentState::Draining).await;

    // Four tasks, one after another, while the leaving agent always has a free slot.
    for _ in 0..4 {
        let id = fleet.submit_one(task(&answer("new"))).await;
        let ended = fleet.finished(&id, TaskState::Succeeded).await;
        assert_ne!(ended.attempts[0].agent, leaving, "a draining agent gets no new tasks: {ended:#?}");
    }
    assert_eq!(fleet.task(&held).await.state(), TaskState::Assigned);
    gate.open();
    let ended = fleet.finished(&held, TaskState::Succeeded).await;
    assert_eq!(ended.attempts.len(), 1, "it was finished where it ran: {ended:#?}");
    let status = fleet.ended(&leaving).await;
    assert!(status.success(), "the agent ends with success: {status}");
    let left = fleet.agents().await;
    assert!(left.iter().all(|agent| agent.name != leaving), "an agent that leaves gracefully is not lost: {left:#?}");
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_handed_back_and_is_no_attempt() {
    let pool = PoolSpec::new("work", 2).flag("drain-timeout", "300ms");
    let mut fleet = Fleet::start(FleetSpec::new(1).pool(pool)).await;
    let gate = fleet.gate("all");
    let id = fleet.submit_one(task(&format!("{}\n{}", gate.wait(), answer("held")))).await;
    let group = fleet.executing(&id, 1).await;
    let leaving = fleet.task(&id).await.attempts[0].agent.clone();
    fleet.terminate(&leaving);
    let status = fleet.ended(&leaving).await;
    assert!(status.success(), "the agent ends with success: {status}");
    assert_eq!(group_members(group), Vec::<u32>::new(), "the command was stopped before the agent left");

    fleet.executing(&id, 2).await;
    gate.open();
    let ended = fleet.finished(&id, TaskState::Succeeded).await;
    let states: Vec<_> = ended.attempts.iter().map(|attempt| attempt.state()).collect();
    assert_eq!(states, [AttemptState::HandedBack, AttemptState::Succeeded], "{ended:#?}");
    assert_ne!(ended.attempts[1].agent, leaving, "{ended:#?}");
    assert_eq!(ended.attempts_used, 1, "a hand-back does not count as an attempt: {ended:#?}");
    assert_eq!(String::from_utf8_lossy(&ended.output), format!("{id} 2 held\n"));
}
