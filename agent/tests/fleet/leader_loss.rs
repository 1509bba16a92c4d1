//! A leader whose process ends is replaced without an election timeout.

use std::time::Duration;

use tokio::time::Instant;

use crate::fleet::{COORDINATORS, TestFleet, sync_takes};

/// The shortest election timeout of the test fleet: no coordinator would stand for election sooner on its own.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(150);
const TRIALS: usize = 20;

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_gone_is_replaced_before_anybodys_election_timeout() {
    let mut fleet = TestFleet::start(sync_takes(Duration::from_millis(1)));
    for trial in 0..TRIALS {
        let leader = fleet.led().await;
        fleet.until("three who follow", async |fleet| fleet.following().await == COORDINATORS).await;
        fleet.take_away(leader);
        let gone = Instant::now();
        let others: Vec<usize> = (0..COORDINATORS).filter(|n| *n != leader).collect();
        loop {
            let leading = fleet.leading(&others).await;
            assert!(
                gone.elapsed() < ELECTION_TIMEOUT,
                "trial {trial}: nobody leads {:?} after the end",
                gone.elapsed()
            );
            if leading.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        fleet.run(leader);
    }
}
