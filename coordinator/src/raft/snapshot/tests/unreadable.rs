//! A leader's snapshot that this coordinator can't read.

use std::time::Duration;

use robeing_fleet::{Fleet, FleetConfig};
use tokio::time::timeout;

use crate::raft::fixture::*;

const LAST: u64 = 5;

#[tokio::test]
async fn one_of_a_later_fleet_version_stops_the_coordinator_and_a_malformed_one_is_refused() {
    let follower = Follower::with_applied(LAST).await;
    let state = Fleet::new(FleetConfig::default()).encode();
    assert!(!follower.install_state(9, state[..state.len() - 1].to_vec()).await, "it is cut short");
    let next = id(2, 3, LAST + 1);
    let goes_on = follower.append(2, 3, Some(id(1, 2, LAST)), [next].into_iter(), Some(next)).await;
    assert!(goes_on, "consensus stopped");
    let mut later = state;
    // The lower byte of the fleet version.
    later[2] = u8::MAX;
    assert!(!follower.install_state(9, later).await);
    timeout(Duration::from_secs(30), follower.raft.until_fatal()).await.expect("consensus stops");
}
