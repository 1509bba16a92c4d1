//! Adding and removing members.

use std::time::Duration;

use tokio::time::timeout;

use crate::{
    leader::membership_change::ChangeError,
    raft::NodeId,
    tests::fleet::{COORDINATORS, TestFleet, name, peer},
};

async fn add(fleet: &TestFleet, at: usize, n: usize) -> Result<NodeId, ChangeError> {
    let change = fleet.tested(at).change;
    change.exclusively(change.clone().add(peer(n))).await
}

async fn remove(fleet: &TestFleet, at: usize, n: usize) -> Result<bool, ChangeError> {
    let change = fleet.tested(at).change;
    change.exclusively(change.clone().remove(name(n))).await
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_is_added_with_a_vote_and_removed_again() {
    let mut fleet = TestFleet::start();
    let leader = fleet.led().await;
    let new = fleet.run_another();
    fleet.until("the new one", |fleet| fleet.up(new).is_some()).await;
    assert!(!fleet.voters(leader).contains(&name(new)), "it waits until it is added");

    let id = add(&fleet, leader, new).await.expect("it is there");
    assert_eq!(id, fleet.tested(new).member.id());
    assert!(fleet.voters(leader).contains(&name(new)));
    assert_eq!(add(&fleet, leader, new).await, Ok(id), "repeating the call changes nothing");
    assert_eq!(fleet.voters(leader).len(), COORDINATORS + 1);

    assert_eq!(remove(&fleet, leader, new).await, Ok(true));
    assert_eq!(fleet.tested(leader).members.all().len(), COORDINATORS);
    assert_eq!(remove(&fleet, leader, new).await, Ok(false), "repeating the call changes nothing");
    let notices = async { fleet.tested(new).members.until_removed().await };
    timeout(Duration::from_secs(60), notices).await.expect("the one that was removed notices it");
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_would_leave_no_majority_at_work_is_refused() {
    let mut fleet = TestFleet::start();
    let leader = fleet.led().await;
    let [gone, other] = fleet.followers(leader)[..] else { panic!("two follow") };
    fleet.take_away(gone);
    let refused = remove(&fleet, leader, other).await;
    assert_eq!(refused, Err(ChangeError::TooFew { remaining: 2, fit: 1, needed: 2 }));
    assert_eq!(fleet.voters(leader).len(), COORDINATORS, "nothing was changed");
    assert_eq!(remove(&fleet, leader, gone).await, Ok(true), "the one that is gone may be removed");
}

#[tokio::test(start_paused = true)]
async fn members_are_changed_by_the_leader_and_one_at_a_time() {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    let follower = fleet.followers(leader)[0];
    assert_eq!(remove(&fleet, follower, leader).await, Err(ChangeError::NotLeader));
    let held = fleet.tested(leader).members.hold();
    assert!(held.is_some());
    assert_eq!(remove(&fleet, leader, follower).await, Err(ChangeError::Busy));
    drop(held);
    assert_eq!(remove(&fleet, leader, follower).await, Ok(true));
}
