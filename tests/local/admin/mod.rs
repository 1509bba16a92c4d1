//! Changes that an administrator makes to a running fleet: more or fewer coordinators, another leader, other pool
//! sizes. No accepted task is lost in the meantime, and changes that would endanger the fleet are refused.

mod calls;
mod stream;

use std::fs;

use calls::{add, add_at, added, admin, node_id, pools, readiness_is, remove, set_pools, timed, transfer, voters_are};
use robeing_proto::v1::{AgentState, Consistency, SetPoolsRequest, TaskState};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    script::{answer, task},
    wait::{check, eventually, in_time},
};
use stream::Stream;
use tonic::Code;

const NAMES: [&str; 5] = ["coordinator-0", "coordinator-1", "coordinator-2", "coordinator-3", "coordinator-4"];

/// Starts a fleet whose initial members are the first `first` of `all` coordinators; the others are not started.
async fn growing(first: usize, all: u32, pool: PoolSpec) -> Fleet {
    // In these tests no agent may be lost, and no leader may change unless a test asks for it, however busy the machine
    // is.
    let spec = FleetSpec::new(all).pool(pool).session_timeout("10s").flag("election-timeout", "1s..2s");
    let mut fleet = Fleet::prepare(spec);
    let listed = |fleet: &Fleet, count: usize| {
        let names = NAMES[..count].iter();
        names.map(|name| format!("{name}={}", fleet.address(name))).collect::<Vec<_>>().join(",")
    };
    for (index, name) in NAMES.iter().enumerate().take(all as usize) {
        let members = listed(&fleet, first.max(index + 1));
        fleet.set_flag(name, "initial-coordinators", &members);
    }
    for name in &NAMES[..first] {
        fleet.start_one(name);
    }
    for name in fleet.agent_names() {
        fleet.start_one(&name);
    }
    fleet.ready().await;
    fleet
}

async fn three() -> Fleet {
    growing(3, 3, PoolSpec::new("work", 2)).await
}

#[tokio::test]
async fn a_fleet_grows_from_one_coordinator_to_five_and_shrinks_again_and_nothing_is_lost() {
    let mut fleet = growing(1, 5, PoolSpec::new("work", 2)).await;
    let stream = Stream::begin(&fleet).await;
    for count in 2..=5 {
        let name = NAMES[count - 1];
        fleet.start_one(name);
        // Asks a member that need not be the leader.
        let id = added(&fleet, NAMES[(count - 1) / 2], name).await;
        voters_are(&fleet, NAMES[0], &NAMES[..count]).await;
        assert_eq!(added(&fleet, NAMES[0], name).await, id, "adding it again changes nothing");
        stream.goes_on().await;
    }
    for count in [5, 4] {
        let gone = NAMES[count - 1];
        assert_eq!(remove(&fleet, NAMES[count / 2], gone).await.map_err(|e| e.to_string()), Ok(true));
        voters_are(&fleet, NAMES[0], &NAMES[..count - 1]).await;
        assert_eq!(remove(&fleet, NAMES[0], gone).await.map_err(|e| e.to_string()), Ok(false), "it is already removed");
        stream.goes_on().await;
    }
    // The removed coordinators still run, but send nothing that disturbs the others.
    let before = fleet.client_of(&NAMES[..3]).status(Consistency::Linearizable).await;
    let before = before.expect("the three answer");
    eventually("the removal in the log of the removed coordinator", async || {
        let log = fleet.process(NAMES[4]).log();
        check(log.contains("this coordinator was removed from the fleet"), (), log)
    })
    .await;
    stream.end(&fleet).await;
    let after = fleet.client_of(&NAMES[..3]).status(Consistency::Linearizable).await;
    let after = after.expect("the three answer");
    assert_eq!((before.term, before.leader), (after.term, after.leader), "the removed coordinators caused no election");
}

#[tokio::test]
async fn a_leader_that_is_removed_hands_over_first() {
    let fleet = three().await;
    let stream = Stream::begin(&fleet).await;
    let old = fleet.leader().await;
    let others: Vec<&str> = NAMES[..3].iter().copied().filter(|name| *name != old).collect();
    // Through a follower, and through the leader itself.
    for at in [others[0], &old] {
        let leader = fleet.client_of(&others).status(Consistency::Linearizable).await;
        let leads = leader.expect("the others answer").leader == old;
        assert_eq!(remove(&fleet, at, &old).await.map_err(|e| e.to_string()), Ok(leads));
        voters_are(&fleet, others[0], &others).await;
        if at == others[0] {
            stream.goes_on().await;
            added(&fleet, others[1], &old).await;
            let (leader, _) = transfer(&fleet, others[0], &old).await.expect("it is caught up");
            assert_eq!(leader, old);
        } else {
            assert!(leads, "it led again");
        }
    }
    stream.end(&fleet).await;
}

#[tokio::test]
async fn what_can_not_be_added_is_refused_in_time() {
    let fleet = three().await;
    let refused = async |name: &str, address: &str| {
        let status = in_time("an answer", add_at(&fleet, NAMES[1], name, address)).await;
        status.expect_err("it is refused")
    };
    // Port 9 of the loopback address, on which nothing listens.
    let status = refused("coordinator-3", "127.0.0.1:9").await;
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("127.0.0.1:9"), "{status}");
    // A port on which something listens but never responds.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let address = silent.local_addr().expect("it is bound").to_string();
    assert_eq!(refused("coordinator-3", &address).await.code(), Code::Unavailable);
    // The address of another coordinator than the named one.
    let status = refused("coordinator-3", &fleet.address(NAMES[2])).await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("coordinator-2"), "{status}");
    assert_eq!(refused("coordinator-3", "nowhere").await.code(), Code::InvalidArgument);
    assert_eq!(refused("", "127.0.0.1:9").await.code(), Code::InvalidArgument);
    voters_are(&fleet, NAMES[0], &NAMES[..3]).await;
}

#[tokio::test]
async fn a_coordinator_of_another_cluster_is_not_added() {
    let mut fleet = growing(1, 3, PoolSpec::new("work", 1)).await;
    fleet.set_flag(NAMES[1], "cluster-id", "other");
    fleet.start_one(NAMES[1]);
    let status = eventually("a response of the other", async || match add(&fleet, NAMES[0], NAMES[1]).await {
        Err(status) if status.code() != Code::Unavailable => Ok(status),
        other => Err(other),
    })
    .await;
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("other"), "{status}");
}

#[tokio::test]
async fn a_removal_that_would_leave_no_majority_is_refused() {
    let mut fleet = three().await;
    let leader = fleet.leader().await;
    let others: Vec<&str> = NAMES[..3].iter().copied().filter(|name| *name != leader).collect();
    fleet.kill(others[0]);
    let status = remove(&fleet, &leader, others[1]).await.expect_err("one voter of two would be left");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    // The dead coordinator may be removed, and then even the other one.
    assert_eq!(remove(&fleet, &leader, others[0]).await.map_err(|e| e.to_string()), Ok(true));
    assert_eq!(remove(&fleet, &leader, others[1]).await.map_err(|e| e.to_string()), Ok(true));
    voters_are(&fleet, &leader, &[&leader]).await;
    let status = remove(&fleet, &leader, &leader).await.expect_err("it is the last voter");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert!(status.message().contains("last voter"), "{status}");
    let status = transfer(&fleet, &leader, "").await.expect_err("there is no other");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    fleet.submit_one(task(&answer("alone"))).await;
}

#[tokio::test]
async fn a_removed_coordinator_is_added_again_with_its_old_disk_and_with_an_empty_one() {
    let mut fleet = three().await;
    let stream = Stream::begin(&fleet).await;
    let leader = fleet.leader().await;
    let again = NAMES[..3].iter().copied().find(|name| *name != leader).expect("two follow");
    let old = node_id(&fleet, &leader, again).await.expect("it is a member");
    fleet.kill(again);
    assert_eq!(remove(&fleet, &leader, again).await.map_err(|e| e.to_string()), Ok(true));
    stream.goes_on().await;

    // Its own log contains a fleet of three: it must not rejoin on its own.
    fleet.start_one(again);
    eventually("the removal in its log", async || {
        let log = fleet.process(again).log();
        check(log.contains("this coordinator was removed from the fleet"), (), log)
    })
    .await;
    assert_eq!(node_id(&fleet, &leader, again).await, None);
    assert_eq!(added(&fleet, &leader, again).await, old, "its disk has its node id");
    voters_are(&fleet, &leader, &NAMES[..3]).await;
    fleet.coordinators_agree().await;

    // With an empty disk it is a new node, and joins only after the request to add it.
    assert_eq!(remove(&fleet, &leader, again).await.map_err(|e| e.to_string()), Ok(true));
    fleet.kill(again);
    fs::remove_dir_all(fleet.data(again)).expect("it is the test's directory");
    fleet.start_one(again);
    eventually("a newcomer that waits", async || {
        let log = fleet.process(again).log();
        check(log.contains("waiting to be added"), (), log)
    })
    .await;
    assert_eq!(node_id(&fleet, &leader, again).await, None);
    let new = added(&fleet, &leader, again).await;
    assert_ne!(new, old);
    fleet.coordinators_agree().await;
    stream.end(&fleet).await;

    // Its vote counts.
    let third = NAMES[..3].iter().copied().find(|name| *name != leader && *name != again).expect("a third");
    fleet.kill(third);
    let id = fleet.submit_one(task(&answer("with two"))).await;
    fleet.finished(&id, TaskState::Succeeded).await;
}

#[tokio::test]
async fn an_emptied_coordinator_is_added_in_place_of_the_dead_one_of_its_name_and_never_of_a_living_one() {
    let mut fleet = three().await;
    let leader = fleet.leader().await;
    let again = NAMES[..3].iter().copied().find(|name| *name != leader).expect("two follow");
    let old = node_id(&fleet, &leader, again).await.expect("it is a member");
    fleet.kill(again);
    fs::remove_dir_all(fleet.data(again)).expect("it is the test's directory");
    fleet.start_one(again);
    let new = added(&fleet, &leader, again).await;
    assert_ne!(new, old);
    voters_are(&fleet, &leader, &NAMES[..3]).await;
    assert_eq!(node_id(&fleet, &leader, again).await, Some(new));
}

#[tokio::test]
async fn leadership_goes_to_the_one_that_is_named_or_to_any_other() {
    let mut fleet = three().await;
    let stream = Stream::begin(&fleet).await;
    let old = fleet.leader().await;
    let others: Vec<&str> = NAMES[..3].iter().copied().filter(|name| *name != old).collect();
    let (leader, term) = transfer(&fleet, others[0], others[1]).await.expect("it is up and caught up");
    assert_eq!(leader, others[1]);
    assert_eq!(fleet.leader().await, others[1]);
    assert_eq!(transfer(&fleet, &old, others[1]).await.expect("it already leads"), (leader, term));
    let (leader, later) = transfer(&fleet, &old, "").await.expect("there are others");
    assert!(leader != others[1] && later > term, "{leader} in {later}");
    stream.end(&fleet).await;

    let status = transfer(&fleet, &leader, "coordinator-9").await.expect_err("it does not exist");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    let follower = NAMES[..3].iter().copied().find(|name| *name != leader).expect("two follow");
    fleet.kill(follower);
    let status = transfer(&fleet, &leader, follower).await.expect_err("it is dead");
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
    assert_eq!(fleet.leader().await, leader, "leadership stays where it was");
}

#[tokio::test]
async fn without_a_leader_calls_are_given_up_in_time() {
    let mut fleet = three().await;
    let leader = fleet.leader().await;
    let left = NAMES[..3].iter().copied().find(|name| *name != leader).expect("two follow");
    for name in NAMES[..3].iter().filter(|name| **name != left) {
        fleet.kill(name);
    }
    let status = in_time("an answer", remove(&fleet, left, &leader)).await.expect_err("there is no leader");
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let mut client = admin(&fleet, left).await;
    let set = in_time("an answer", client.set_pools(timed(SetPoolsRequest::default()))).await;
    assert_eq!(set.expect_err("there is no leader").code(), Code::Unavailable);
}

#[tokio::test]
async fn pools_are_set_by_any_coordinator_and_standbys_step_in_and_stay() {
    let mut fleet = growing(3, 3, PoolSpec::new("work", 2).standby(2).slots(1)).await;
    let pool = |live, standby, desired| ("work".to_owned(), live, standby, desired);
    assert_eq!(pools(&fleet).await, [pool(2, 2, 2)]);
    for (at, name) in NAMES[..3].iter().enumerate() {
        let replicas = at.min(1) as u32 + 3;
        set_pools(&fleet, name, &[("work", Some(replicas), 1), ("mail", Some(5), 0)]).await.expect("accepted");
        let mail = ("mail".to_owned(), 0, 0, 5);
        assert_eq!(pools(&fleet).await, [mail, pool(replicas, 4 - replicas, replicas)], "set at {name}");
    }
    // Fewer: no agent returns to standby, but one that leaves is not replaced. The pool sizes that a restarted agent
    // sends do not count.
    let revision = set_pools(&fleet, NAMES[1], &[("work", Some(1), 1)]).await.expect("it is accepted");
    assert!(revision > 0);
    assert_eq!(pools(&fleet).await, [pool(4, 0, 1)]);
    let agents = fleet.agent_names();
    fleet.kill(&agents[0]);
    fleet.agent_is(&agents[0], AgentState::Lost).await;
    fleet.start_one(&agents[0]);
    fleet.agent_is(&agents[0], AgentState::Standby).await;
    assert_eq!(pools(&fleet).await, [pool(3, 1, 1)]);

    for wrong in [vec![("work", Some(1), 0), ("work", Some(2), 0)], vec![("", Some(1), 0)]] {
        let status = set_pools(&fleet, NAMES[0], &wrong).await.expect_err("it is wrong");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    // The setting survives the death of all coordinators.
    for name in &NAMES[..3] {
        fleet.kill(name);
    }
    for name in &NAMES[..3] {
        fleet.start_one(name);
    }
    fleet.ready().await;
    assert_eq!(pools(&fleet).await, [pool(3, 1, 1)]);
}

#[tokio::test]
async fn a_coordinator_is_ready_while_it_votes_and_is_in_touch_with_a_leader() {
    let mut fleet = growing(3, 5, PoolSpec::new("work", 1)).await;
    for name in &NAMES[..3] {
        readiness_is(&fleet, name, true).await;
    }
    fleet.start_one(NAMES[3]);
    eventually("a newcomer that waits", async || {
        let log = fleet.process(NAMES[3]).log();
        check(log.contains("waiting to be added"), (), log)
    })
    .await;
    readiness_is(&fleet, NAMES[3], false).await;
    added(&fleet, NAMES[0], NAMES[3]).await;
    readiness_is(&fleet, NAMES[3], true).await;
    remove(&fleet, NAMES[0], NAMES[3]).await.expect("three are left");
    readiness_is(&fleet, NAMES[3], false).await;
    // Coordinators without a majority are not ready, whether or not the leader is among them.
    let leader = fleet.leader().await;
    for name in NAMES[..3].iter().filter(|name| **name != leader) {
        fleet.freeze(name);
    }
    readiness_is(&fleet, &leader, false).await;
    for name in NAMES[..3].iter().filter(|name| **name != leader) {
        fleet.thaw(name);
    }
    for name in &NAMES[..3] {
        readiness_is(&fleet, name, true).await;
    }
}
