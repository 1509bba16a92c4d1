//! Coordinators of two versions in one fleet. The newer version has an additional feature that exists only for this
//! test: tasks whose kind begins with `trial:` need it.

use std::fs;

use robeing_proto::v1::{
    AddCoordinatorRequest, SubmitRequest, SubmitResult, TaskSpec, TaskState, admin_client::AdminClient,
    fleet_client::FleetClient as Rpc,
};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    load::Load,
    script::{answer, task},
    wait::{check, eventually, in_time},
};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, transport::Server};

const TASKS: usize = 400;
const IN_FLIGHT: usize = 16;
/// The fleet version that introduces the feature.
const NEW: u32 = 5;
/// The newest fleet version without it.
const OLD: u32 = 4;
/// The command prefix with which the newer version is started.
const KNOWS_IT: &[&str] = &["/usr/bin/env", "ROBEING_TEST_TRIAL=1"];

/// Replaces a coordinator's process with one of the newer or of the older version.
async fn replace(fleet: &mut Fleet, name: &str, is_new: bool) {
    fleet.terminate(name);
    in_time("the end of the old process", fleet.ended(name)).await;
    fleet.start_within(name, if is_new { KNOWS_IT } else { &[] });
    fleet.start_one(name);
    fleet.coordinators_agree().await;
}

/// Submits a task that needs the feature to a coordinator, which must have the newer version.
async fn try_feature(fleet: &Fleet, name: &str) -> SubmitResult {
    let mut rpc = Rpc::connect(format!("http://{}", fleet.address(name))).await.expect("it listens");
    let spec = TaskSpec { kind: "trial:new".to_owned(), ..task(&answer("new")) };
    let told = rpc.submit(SubmitRequest { tasks: vec![spec] }).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    told.into_inner().results.remove(0)
}

async fn assert_not_in_force(fleet: &Fleet, name: &str) {
    eventually("the older version in force", async || {
        let status = fleet.status().await;
        check(status.fleet_version == OLD, (), status.fleet_version)
    })
    .await;
    let refusal = try_feature(fleet, name).await.refusal.expect("the feature is not in force");
    assert_eq!(refusal.code, "FAILED_PRECONDITION", "{refusal:?}");
    let versions = [format!("fleet version {NEW}"), format!("this fleet is at {OLD}")];
    for words in versions.iter().map(String::as_str).chain(["the feature trial"]) {
        assert!(refusal.message.contains(words), "{words:?} is not in {refusal:?}");
    }
}

#[tokio::test]
async fn a_feature_comes_into_force_with_the_last_coordinator_and_nothing_is_lost_on_the_way() {
    // No agent may be lost, however busy the machine is.
    let pools = PoolSpec::new("work", 2);
    let mut fleet = Fleet::start(FleetSpec::new(3).pool(pools).session_timeout("10s")).await;
    let mut load = Load::start(&fleet.client(), TASKS, IN_FLIGHT, "");
    let names = fleet.coordinators();

    replace(&mut fleet, &names[0], true).await;
    assert_not_in_force(&fleet, &names[0]).await;
    replace(&mut fleet, &names[1], true).await;
    assert_not_in_force(&fleet, &names[1]).await;
    // And back: the old version reads what the two new ones wrote.
    replace(&mut fleet, &names[1], false).await;
    assert_not_in_force(&fleet, &names[0]).await;
    replace(&mut fleet, &names[1], true).await;
    assert_not_in_force(&fleet, &names[0]).await;

    replace(&mut fleet, &names[2], true).await;
    eventually("the new version in force", async || {
        let status = fleet.status().await;
        check(status.fleet_version == NEW, (), status.fleet_version)
    })
    .await;
    let history = load.complete().await;
    assert_eq!(history.accepted_count(), TASKS);
    history.assert_sound(&fleet.executions_file());
    assert_eq!(fleet.status().await.redistributed_total, 0, "no task was taken from a healthy agent");

    for name in &names {
        let told = try_feature(&fleet, name).await;
        assert_eq!(told.refusal, None, "{name} accepts it");
        fleet.finished(&told.task_id, TaskState::Succeeded).await;
    }

    let back = &names[1];
    there_is_no_way_back(&mut fleet, back).await;
    none_joins_that_does_not_know_what_is_in_force(&mut fleet, back).await;
}

/// The old version logs why it can't start and ends, and the others continue.
async fn there_is_no_way_back(fleet: &mut Fleet, back: &str) {
    fleet.terminate(back);
    in_time("the end of the old process", fleet.ended(back)).await;
    fleet.start_within(back, &[]);
    fleet.start_one(back);
    let status = in_time("the end of a process that is too old", fleet.ended(back)).await;
    assert!(!status.success(), "{status}");
    let log = fs::read_to_string(fleet.dir().join(format!("{back}.log"))).expect("its log");
    for words in [format!("fleet version {NEW}"), format!("up to {OLD}")] {
        assert!(log.contains(&words), "{words:?} is not in {log}");
    }
    let after = fleet.submit_one(task(&answer("after"))).await;
    fleet.finished(&after, TaskState::Succeeded).await;
    fleet.start_within(back, KNOWS_IT);
    fleet.start_one(back);
    fleet.coordinators_agree().await;
}

/// A coordinator without data whose version is too old for the feature in force does not become a member, whether it
/// asks to join or is added by an administrator.
async fn none_joins_that_does_not_know_what_is_in_force(fleet: &mut Fleet, back: &str) {
    fleet.terminate(back);
    in_time("the end of the process", fleet.ended(back)).await;
    fs::remove_dir_all(fleet.data(back)).expect("it is the test's directory");
    fleet.start_within(back, &[]);
    fleet.start_one(back);
    let leader = fleet.leader_other_than(back).await;
    let refused = eventually("a refusal because of its version", async || {
        let address = fleet.address(back);
        let mut admin = AdminClient::connect(format!("http://{}", fleet.address(&leader))).await.expect("it listens");
        let request = AddCoordinatorRequest { name: back.to_owned(), address };
        match admin.add_coordinator(request).await {
            Err(status) if status.message().contains("supports fleet versions") => Ok(status),
            other => Err(other),
        }
    })
    .await;
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    let words = format!(
        "coordinator {back:?} supports fleet versions up to {OLD}, and this fleet is at {NEW}; run a newer version"
    );
    assert_eq!(refused.message(), words);
    let status = fleet.status().await;
    let voters = status.coordinators.iter().filter(|coordinator| coordinator.voter).count();
    assert_eq!(voters, 3, "its previous node is not replaced: {status:?}");
    assert!(fleet.process(back).ended().is_none(), "it waits");
    fleet.terminate(back);
    in_time("the end of the process", fleet.ended(back)).await;
    fleet.start_within(back, KNOWS_IT);
    fleet.start_one(back);
    fleet.coordinators_agree().await;
}

/// Simulates a coordinator of the previous version: it serves gRPC, but none of the internal services of this version.
fn earlier_coordinator(address: &str) -> AbortOnDropHandle<()> {
    let address = address.parse().expect("an address");
    let (_, health) = tonic_health::server::health_reporter();
    AbortOnDropHandle::new(tokio::spawn(async move {
        Server::builder().add_service(health).serve(address).await.expect("the port is free");
    }))
}

#[tokio::test]
async fn what_finds_a_coordinator_of_the_version_before_says_so_and_works_once_that_is_replaced() {
    let mut fleet = Fleet::prepare(FleetSpec::new(3).pool(PoolSpec::new("work", 1)));
    let (coordinators, agent) = (fleet.coordinators(), fleet.agent_names().remove(0));
    let earlier = earlier_coordinator(&fleet.address(&coordinators[1]));
    for name in [&coordinators[0], &coordinators[2], &agent] {
        fleet.start_one(name);
    }
    for name in [&coordinators[0], &agent] {
        eventually(&format!("{name} logs why it does not continue"), async || {
            let log = fleet.process(name).log();
            check(log.contains("it does not serve robeing.internal.v1") && log.contains("stop every process"), (), log)
        })
        .await;
    }
    earlier.abort();
    let _ = earlier.await;
    fleet.start_one(&coordinators[1]);
    fleet.ready().await;
}
