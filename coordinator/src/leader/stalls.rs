//! Disks that hang. The leader's contact with a majority does not wait for disks, so a hung one would keep it leading without
//! being able to accept anything: it hands over to a coordinator whose log works, or reports that it cannot.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use robeing_proto::internal::v1 as internal;
use tokio::time::Instant;
use tracing::warn;

use crate::{leader::score, node::Node, raft::NodeId};

/// How long a write of the log may take before the disk counts as hung.
pub const STALLED_AFTER: Duration = Duration::from_secs(5);
/// How often the log is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Pause before leadership is handed over once more.
const HAND_OVER_APART: Duration = Duration::from_secs(5);

/// The reason of the warning about this coordinator's own disk.
const STALLED: &str = "DiskStalled";
/// The reason of the leader's warning about the disks of a majority.
const MAJORITY_STALLED: &str = "MajorityOfDisksStalled";

/// Whether a coordinator's log makes progress, as it says.
pub fn log_works(said: &internal::DescribeResponse) -> bool {
    said.log_stalled_ms < STALLED_AFTER.as_millis() as u64
}

/// Watches the log. Runs until the node stops.
pub async fn run(node: Arc<Node>) {
    let mut handed_over: Option<Instant> = None;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let stalled = node.log.stalled_for().is_some_and(|stalled| stalled >= STALLED_AFTER);
        let message = format!(
            "the disk of coordinator {} has not finished a write of the log for over {} s; see to the disk, or replace the \
             coordinator",
            node.identity.name,
            STALLED_AFTER.as_secs()
        );
        node.warnings.set(STALLED, stalled.then_some(message));
        let leads = node.raft_role.borrow().term().is_some();
        if !leads || !(stalled || is_behind(&node)) {
            node.warnings.set(MAJORITY_STALLED, None);
            continue;
        }
        let voters = voters(&node).await;
        let working = voters.iter().filter(|voter| voter.works).count();
        let lacks_majority = working <= voters.len() / 2;
        let message = format!(
            "the disks of {} of {} coordinators hang: nothing can be accepted or finished until a majority of them works",
            voters.len() - working,
            voters.len()
        );
        node.warnings.set(MAJORITY_STALLED, lacks_majority.then_some(message));
        let lately = handed_over.is_some_and(|at| at.elapsed() < HAND_OVER_APART);
        if !stalled || lacks_majority || lately {
            continue;
        }
        let own = node.identity.node_id;
        let Some(successor) = voters.iter().find(|voter| voter.works && voter.is_caught_up && voter.id != own) else {
            warn!("this leader's disk hangs, and no other coordinator answers and is caught up; it leads on");
            continue;
        };
        warn!(target = format!("{:016x}", successor.id), "this leader's disk hangs; handing leadership over");
        handed_over = Some(Instant::now());
        if let Err(error) = node.raft.transfer_leader(successor.id).await {
            warn!(%error, "leadership could not be handed over");
        }
    }
}

/// Whether entries that this leader has proposed are not committed.
fn is_behind(node: &Node) -> bool {
    let progress = node.raft.progress();
    progress.last > progress.committed
}

struct Voter {
    id: NodeId,
    works: bool,
    is_caught_up: bool,
}

/// The voters; one that does not answer does not work.
async fn voters(node: &Node) -> Vec<Voter> {
    let voters = node.members().into_iter().filter(|(_, _, voter)| *voter);
    let asked = voters.map(|(id, peer, _)| async move { (id, score::ask(node, id, &peer.address).await) });
    let least = score::caught_up_from(node);
    let answers = join_all(asked).await.into_iter();
    let voter = |(id, said): (NodeId, Option<internal::DescribeResponse>)| Voter {
        id,
        works: said.as_ref().is_some_and(log_works),
        is_caught_up: said.as_ref().is_some_and(|said| score::is_caught_up(said, least)),
    };
    answers.map(voter).collect()
}
