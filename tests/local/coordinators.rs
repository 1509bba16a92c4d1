//! Coordinators that die, one or all of them, and come back, with or without their data: no accepted task is lost.

use std::{
    collections::BTreeMap,
    fs,
    process::Command,
    time::{Duration, Instant},
};

use robeing_proto::v1::{self, AgentState, CoordinatorState, WatchStatusRequest, WatchStatusResponse};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    load::Load,
    program::{AGENT, program},
    wait::{check, eventually, in_time},
};
use tokio::time::timeout;

const TASKS: usize = 300;
const IN_FLIGHT: usize = 24;

async fn fleet() -> Fleet {
    // In these tests no agent may be lost, however busy the machine is.
    Fleet::start(FleetSpec::new(3).pool(PoolSpec::new("work", 2)).session_timeout("10s")).await
}

/// Returns the session and incarnation of each agent.
async fn sessions(fleet: &Fleet) -> BTreeMap<String, (u64, String)> {
    let agents = fleet.agents().await;
    agents.into_iter().map(|agent| (agent.name, (agent.session, agent.incarnation))).collect()
}

async fn assert_agents_kept(fleet: &Fleet, before: &BTreeMap<String, (u64, String)>) {
    assert_eq!(&sessions(fleet).await, before, "sessions continue under a new leader");
    let agents = fleet.agents().await;
    assert!(agents.iter().all(|agent| agent.state() == AgentState::Live), "no agent is lost: {agents:#?}");
    assert_eq!(fleet.status().await.redistributed_total, 0, "no task was taken from a healthy agent");
}

#[tokio::test]
async fn a_killed_leader_is_replaced_and_nothing_is_lost() {
    let mut fleet = fleet().await;
    let before = sessions(&fleet).await;
    let mut load = Load::start(&fleet.client(), TASKS, IN_FLIGHT, "");
    load.ended(TASKS / 6).await;
    let old = fleet.leader().await;
    fleet.kill(&old);
    fleet.leader_other_than(&old).await;
    let history = load.complete().await;
    assert_eq!(history.accepted_count(), TASKS);
    history.assert_sound(&fleet.executions_file());
    assert_agents_kept(&fleet, &before).await;

    fleet.start_one(&old);
    fleet.coordinators_agree().await;
}

#[tokio::test]
async fn all_coordinators_killed_at_once_lose_nothing() {
    let mut fleet = fleet().await;
    let before = sessions(&fleet).await;
    let mut load = Load::start(&fleet.client(), TASKS, IN_FLIGHT, "");
    load.ended(TASKS / 6).await;
    let ended_before = load.history().ended_count();
    for name in fleet.coordinators() {
        fleet.kill(&name);
    }
    for name in fleet.coordinators() {
        fleet.start_one(&name);
    }
    assert!(ended_before < TASKS, "they died while tasks were running");
    let history = load.complete().await;
    assert_eq!(history.accepted_count(), TASKS);
    history.assert_sound(&fleet.executions_file());
    assert_agents_kept(&fleet, &before).await;
    // Once more, while nothing runs: results are read from the disk.
    for name in fleet.coordinators() {
        fleet.kill(&name);
    }
    for name in fleet.coordinators() {
        fleet.start_one(&name);
    }
    fleet.ready().await;
    for id in history.accepted_ids() {
        history.seen(robeing_tests::history::Seen::Get, &fleet.task(&id).await);
    }
    history.assert_sound(&fleet.executions_file());
}

#[tokio::test]
async fn a_follower_that_was_away_catches_up() {
    let mut fleet = fleet().await;
    let leader = fleet.leader().await;
    let follower = fleet.coordinators().into_iter().find(|name| *name != leader).expect("two follow");
    fleet.kill(&follower);
    let mut load = Load::start(&fleet.client(), 100, IN_FLIGHT, "");
    let history = load.complete().await;
    assert_eq!(history.accepted_count(), 100, "two of three accept tasks");
    fleet.start_one(&follower);
    fleet.coordinators_agree().await;
    // Reads the follower's own state, without asking the leader.
    let client = fleet.client_of(&[&follower]);
    for id in history.accepted_ids() {
        let request = robeing_proto::v1::GetTaskRequest {
            id: id.clone(),
            consistency: robeing_proto::v1::Consistency::Local.into(),
            ..Default::default()
        };
        let task = client.get_task(request).await.unwrap_or_else(|error| panic!("{follower} has no {id}: {error}"));
        history.seen(robeing_tests::history::Seen::Get, &task);
    }
    history.assert_sound(&fleet.executions_file());
}

#[tokio::test]
async fn a_coordinator_with_an_emptied_directory_joins_as_a_new_member() {
    let mut fleet = fleet().await;
    let leader = fleet.leader().await;
    let emptied = fleet.coordinators().into_iter().find(|name| *name != leader).expect("two follow");
    let node_id = |status: &robeing_proto::v1::FleetStatus| {
        let coordinator = status.coordinators.iter().find(|one| one.name == emptied);
        coordinator.map(|one| one.node_id.clone())
    };
    let old = node_id(&fleet.coordinators_agree().await).expect("it is a member");
    let mut load = Load::start(&fleet.client(), 60, IN_FLIGHT, "");
    load.ended(20).await;
    fleet.kill(&emptied);
    fs::remove_dir_all(fleet.data(&emptied)).expect("it is the test's directory");
    fleet.start_one(&emptied);
    let status = eventually("a new member in place of the old one", async || {
        let status = fleet.coordinators_agree().await;
        check(node_id(&status).is_some_and(|id| id != old), status.clone(), status)
    })
    .await;
    assert!(status.coordinators.iter().all(|one| one.node_id != old), "the old node is gone: {status:#?}");
    load.complete().await.assert_sound(&fleet.executions_file());

    // Its vote counts: with another coordinator gone, it is needed for the majority.
    let third = fleet.coordinators().into_iter().find(|name| *name != leader && *name != emptied).expect("a third");
    fleet.kill(&third);
    let mut load = Load::start(&fleet.client(), 20, IN_FLIGHT, "");
    assert_eq!(load.complete().await.accepted_count(), 20);
}

#[tokio::test]
async fn a_leader_that_is_asked_to_stop_hands_over() {
    let mut fleet = fleet().await;
    let before = sessions(&fleet).await;
    let old = fleet.leader().await;
    let mut load = Load::start(&fleet.client(), TASKS, IN_FLIGHT, "");
    load.ended(TASKS / 6).await;
    fleet.terminate(&old);
    let status = fleet.ended(&old).await;
    assert!(status.success(), "it ends with success: {status}");
    let log = fleet.process(&old).log();
    assert!(log.contains("stopping"), "{log}");
    fleet.leader_other_than(&old).await;
    let history = load.complete().await;
    assert_eq!(history.accepted_count(), TASKS);
    history.assert_sound(&fleet.executions_file());
    assert_agents_kept(&fleet, &before).await;
    let status = fleet.status().await;
    let gone = status.coordinators.iter().find(|one| one.name == old).expect("it is still a member");
    assert_eq!(gone.state(), CoordinatorState::Unreachable, "{status:#?}");
}

#[tokio::test]
async fn a_follower_that_was_away_is_heard_of_again() {
    let mut fleet = fleet().await;
    let leader = fleet.leader().await;
    let follower = fleet.coordinators().into_iter().find(|name| *name != leader).expect("two follow");
    let ready = format!("http://{}/readyz", fleet.metrics_address(&follower));
    let is_ready = async || {
        let asked = Command::new(program(AGENT)).args(["health", &ready]).output().expect("the program runs");
        check(asked.status.success(), (), String::from_utf8_lossy(&asked.stderr).into_owned())
    };
    eventually("a follower that is ready", is_ready).await;
    fleet.kill(&follower);
    // Long enough that every kind of message to it has failed several times.
    eventually("the leader reports it as unreachable", async || {
        let status = fleet.status().await;
        let state = status.coordinators.iter().find(|one| one.name == follower).map(|one| one.state());
        check(state == Some(CoordinatorState::Unreachable), (), state)
    })
    .await;
    let mut load = Load::start(&fleet.client(), TASKS, IN_FLIGHT, "");
    load.complete().await;
    fleet.start_one(&follower);
    eventually("a follower that is ready again", is_ready).await;
}

/// Returns the number of updates of a status watch until there has been none for `silence`.
async fn told_until_silent(watch: &mut tonic::Streaming<WatchStatusResponse>, silence: Duration) -> usize {
    let mut told = 0;
    in_time("a watch without updates", async {
        while let Ok(next) = timeout(silence, watch.message()).await {
            next.expect("the coordinator runs").expect("a watch has no end");
            told += 1;
        }
    })
    .await;
    told
}

#[tokio::test]
async fn a_watch_of_the_status_tells_each_change_and_nothing_at_rest() {
    const APART: Duration = Duration::from_millis(400);
    const SILENCE: Duration = Duration::from_secs(2);
    let mut fleet = fleet().await;
    let leader = fleet.leader().await;
    let follower = fleet.coordinators().into_iter().find(|name| *name != leader).expect("two follow");
    let address = format!("http://{}", fleet.address(&follower));
    let mut client = v1::fleet_client::FleetClient::connect(address).await.expect("a coordinator that follows");
    let request = |apart: Duration| WatchStatusRequest { at_most_every: apart.try_into().ok() };
    let refused = client.watch_status(request(Duration::from_millis(1))).await.expect_err("that is too often");
    assert_eq!(refused.message(), "at_most_every must be 100ms to 1h");
    let mut watch = client.watch_status(request(APART)).await.expect("a watch").into_inner();
    // It begins with an update, and is silent once all agents have joined.
    assert!(told_until_silent(&mut watch, SILENCE).await >= 1);

    let began = Instant::now();
    let mut load = Load::start(&fleet.client(), TASKS, IN_FLIGHT, "");
    load.complete().await.assert_sound(&fleet.executions_file());
    let most = began.elapsed().as_millis() / APART.as_millis() + 2;
    let told = told_until_silent(&mut watch, SILENCE).await;
    assert!(told >= 1 && told as u128 <= most, "{TASKS} tasks caused {told} updates, at most {most} are allowed");

    let agent = fleet.agent_names().remove(0);
    fleet.kill(&agent);
    in_time("the loss of an agent", watch.message()).await.expect("it runs").expect("no end");
    told_until_silent(&mut watch, SILENCE).await;
    fleet.kill(&leader);
    in_time("another leader", watch.message()).await.expect("it runs").expect("no end");
}
