//! Leadership transfer.

use robeing_fleet::{Command, ControlCommand};

use crate::{
    leader::{membership_change::ChangeError, stalls::STALLED_AFTER, transfer::Leader},
    tests::fleet::{TestFleet, name},
};

async fn transfer(fleet: &TestFleet, at: usize, to: String) -> Result<Leader, ChangeError> {
    let change = fleet.tested(at).change;
    let transfer = change.transfer.clone();
    change.exclusively(async move { transfer.transfer(&to).await }).await
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_is_caught_up_leads_when_it_is_asked_to() {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    let term = fleet.tested(leader).standing.leading().expect("it leads");
    let to = fleet.followers(leader)[1];
    let new = transfer(&fleet, leader, name(to)).await.expect("it may lead");
    assert_eq!(new.name, name(to));
    assert!(new.term > term);
    assert_eq!(fleet.led().await, to);
}

#[tokio::test(start_paused = true)]
async fn without_a_name_another_leads_and_the_leader_itself_is_done_already() {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    let same = transfer(&fleet, leader, name(leader)).await.expect("it leads");
    assert_eq!((same.name, fleet.led().await), (name(leader), leader));
    let new = transfer(&fleet, leader, String::new()).await.expect("another may lead");
    assert_eq!(new.name, name(fleet.led().await));
    assert_ne!(new.name, name(leader));
    assert_eq!(transfer(&fleet, leader, String::new()).await, Err(ChangeError::NotLeader), "it leads no more");
}

#[tokio::test(start_paused = true)]
async fn one_whose_log_hangs_or_that_is_no_voter_or_away_is_refused_and_leadership_stays() {
    let mut fleet = TestFleet::start();
    let leader = fleet.led().await;
    let [hung, away] = fleet.followers(leader)[..] else { panic!("two follow") };
    fleet.disks[hung].set_hung(true);
    fleet
        .tested(leader)
        .proposer
        .propose_one(Command::Control(ControlCommand::Tick))
        .await
        .expect("two of three write it");
    let stalled = |fleet: &TestFleet| fleet.tested(hung).change.descriptions.own().log_stalled_ms;
    fleet.until("a disk that counts as hung", |fleet| stalled(fleet) >= STALLED_AFTER.as_millis() as u64).await;
    let problem = async |fleet: &TestFleet, to: String| match transfer(fleet, leader, to).await {
        Err(ChangeError::NoSuccessor(problem)) => problem,
        other => panic!("{other:?}"),
    };
    assert!(problem(&fleet, name(hung)).await.contains("is not caught up"));
    assert!(problem(&fleet, "nobody".into()).await.contains("is no voter"));
    fleet.take_away(away);
    assert!(problem(&fleet, name(away)).await.contains("does not answer"));
    assert!(fleet.tested(leader).standing.term().is_some(), "leadership stays");

    fleet.disks[hung].set_hung(false);
    fleet.until("the end of the write", |fleet| stalled(fleet) == 0).await;
    assert_eq!(transfer(&fleet, leader, name(hung)).await.map(|new| new.name), Ok(name(hung)));
}
