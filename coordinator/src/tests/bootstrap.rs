//! How coordinators become members.

use std::time::Duration;

use crate::{
    raft::NodeId,
    tests::fleet::{COORDINATORS, TestFleet, name},
};

fn names() -> Vec<String> {
    (0..COORDINATORS).map(name).collect()
}

#[tokio::test(start_paused = true)]
async fn coordinators_with_empty_disks_form_a_fleet_in_which_each_has_a_vote() {
    let fleet = TestFleet::start();
    fleet.led().await;
    for n in fleet.running() {
        fleet.until("what the leader knows", |fleet| fleet.voters(n) == names()).await;
        assert!(fleet.tested(n).standing.is_ready(), "{n}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_first_membership_waits_until_all_that_are_configured_answer() {
    let mut fleet = TestFleet::start();
    fleet.take_away(2);
    let look = async |fleet: &TestFleet| {
        tokio::time::sleep(Duration::from_secs(10)).await;
        fleet.running().into_iter().map(|n| fleet.tested(n).members.all().len()).collect::<Vec<_>>()
    };
    assert_eq!(look(&fleet).await, [0, 0], "two of three write no membership");
    fleet.run(2);
    fleet.led().await;
    assert_eq!(look(&fleet).await, [3, 3, 3]);
}

#[tokio::test(start_paused = true)]
async fn one_that_lost_its_disk_comes_back_as_a_new_member_in_place_of_the_old() {
    let mut fleet = TestFleet::start();
    let leader = fleet.led().await;
    let lost = fleet.followers(leader)[0];
    let before = fleet.tested(lost).member.id();
    fleet.take_away(lost);
    fleet.empty_disk(lost);
    fleet.run(lost);
    let ids = |fleet: &TestFleet| -> Vec<(NodeId, String)> {
        fleet.tested(leader).members.voters().map(|(id, peer)| (id, peer.name)).collect()
    };
    let is_replaced = |fleet: &TestFleet| ids(fleet).iter().any(|(id, of)| *of == name(lost) && *id != before);
    fleet.until("the new member's vote", is_replaced).await;
    let members = fleet.tested(leader).members.all();
    assert_eq!(members.len(), COORDINATORS, "the old one is no longer a member: {members:?}");
    assert!(members.iter().all(|(id, _, voter)| *voter && *id != before));
    fleet.until("what the new one knows", |fleet| fleet.tested(lost).standing.is_ready()).await;
    assert_ne!(fleet.tested(lost).member.id(), before);
}
