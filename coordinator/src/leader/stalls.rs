//! Handling of disks that hang. The leader's contact with a majority does not wait for disks, so a leader with a hung
//! disk would keep leading without being able to accept anything. It transfers leadership to a coordinator whose log
//! works, or reports that it cannot.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use robeing_proto::internal::v1 as internal;
use tokio::time::Instant;
use tracing::warn;

use crate::{
    leader::{
        describe::{Descriptions, is_caught_up},
        standing::Standing,
    },
    member::Member,
    members::Members,
    raft::{NodeId, RaftHandle, log::Log},
    warnings::Warnings,
};

/// How long a log write may take before the disk counts as hung.
pub const STALLED_AFTER: Duration = Duration::from_secs(5);
/// How often the log is checked.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Minimum time between two attempts to transfer leadership.
const HAND_OVER_APART: Duration = Duration::from_secs(5);

/// The reason of the warning about this coordinator's own disk.
const STALLED: &str = "DiskStalled";
/// The reason of the leader's warning about the disks of a majority.
const MAJORITY_STALLED: &str = "MajorityOfDisksStalled";

/// Returns whether a coordinator's log makes progress, according to its description.
pub fn log_works(said: &internal::DescribeResponse) -> bool {
    said.log_stalled_ms < STALLED_AFTER.as_millis() as u64
}

struct Voter {
    id: NodeId,
    works: bool,
    is_caught_up: bool,
}

/// Watches this coordinator's log for writes that stall.
pub struct StallWatch {
    pub member: Member,
    pub members: Members,
    pub standing: Standing,
    pub descriptions: Descriptions,
    pub raft: RaftHandle,
    pub log: Log,
    pub warnings: Arc<Warnings>,
}

impl StallWatch {
    /// Watches the log. Runs until the coordinator stops.
    pub async fn run(self) {
        let mut handed_over: Option<Instant> = None;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let stalled = self.log.stalled_for().is_some_and(|stalled| stalled >= STALLED_AFTER);
            let message = format!(
                "the disk of coordinator {} has not finished a write of the log for over {} s; check the disk, or replace \
                 the coordinator",
                self.member.name(),
                STALLED_AFTER.as_secs()
            );
            self.warnings.set(STALLED, stalled.then_some(message));
            let leads = self.standing.term().is_some();
            if !leads || !(stalled || self.is_behind()) {
                self.warnings.set(MAJORITY_STALLED, None);
                continue;
            }
            let voters = self.voters().await;
            let working = voters.iter().filter(|voter| voter.works).count();
            let lacks_majority = working <= voters.len() / 2;
            let message = format!(
                "the disks of {} of {} coordinators hang: nothing can be accepted or finished until a majority of them works",
                voters.len() - working,
                voters.len()
            );
            self.warnings.set(MAJORITY_STALLED, lacks_majority.then_some(message));
            let lately = handed_over.is_some_and(|at| at.elapsed() < HAND_OVER_APART);
            if !stalled || lacks_majority || lately {
                continue;
            }
            let own = self.member.id();
            let Some(successor) = voters.iter().find(|voter| voter.works && voter.is_caught_up && voter.id != own)
            else {
                warn!("this leader's disk hangs, and no other coordinator answers and is caught up; it keeps leading");
                continue;
            };
            warn!(target = format!("{:016x}", successor.id), "this leader's disk hangs; handing leadership over");
            handed_over = Some(Instant::now());
            if let Err(error) = self.raft.transfer_leader(successor.id).await {
                warn!(%error, "leadership could not be handed over");
            }
        }
    }

    /// Returns whether this leader has proposed entries that are not committed.
    fn is_behind(&self) -> bool {
        let progress = self.raft.progress();
        progress.last > progress.committed
    }

    /// Returns the voters; one that does not answer counts as not working.
    async fn voters(&self) -> Vec<Voter> {
        let voters = self.members.voters();
        let asked = voters.map(|(id, peer)| async move { (id, self.descriptions.ask(id, &peer.address).await) });
        let least = self.descriptions.caught_up_from();
        let answers = join_all(asked).await.into_iter();
        let voter = |(id, said): (NodeId, Option<internal::DescribeResponse>)| Voter {
            id,
            works: said.as_ref().is_some_and(log_works),
            is_caught_up: said.as_ref().is_some_and(|said| is_caught_up(said, least)),
        };
        answers.map(voter).collect()
    }
}
