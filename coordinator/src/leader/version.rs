//! Raises the fleet's version, as leader, once the binaries of all voters know a newer one: what it brings comes into force then.
//! No voter is added meanwhile, so none is added that does not know it.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use robeing_fleet::{Command, Reply, known_version};
use tracing::{debug, info, warn};

use crate::{
    leader::{role::until_leading, score},
    node::Node,
};

/// How often the voters are asked for their versions, while there is a newer one than the fleet's.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Raises the version for as long as this coordinator leads. Runs until the node stops.
pub async fn run(node: Arc<Node>) {
    let mut raft_role = node.raft_role.clone();
    loop {
        let Some(term) = until_leading(&mut raft_role).await else { return };
        while node.raft_role.borrow().term() == Some(term) {
            if known_version() > node.look(|fleet| fleet.version()) {
                raise(&node, term).await;
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }
}

/// The newest version that all voters know. `None` if one of them did not answer.
async fn known_to_all(node: &Node) -> Option<u32> {
    let voters: Vec<_> = node.members().into_iter().filter(|(_, _, voter)| *voter).collect();
    let known = voters
        .iter()
        .map(|(id, peer, _)| async { Some(score::ask(node, *id, &peer.address).await?.max_fleet_version) });
    let known: Option<Vec<u32>> = join_all(known).await.into_iter().collect();
    known?.into_iter().min()
}

async fn raise(node: &Node, term: u64) {
    let current = node.look(|fleet| fleet.version());
    let is_newer = |known: &u32| *known > current;
    if known_to_all(node).await.filter(is_newer).is_none() {
        return;
    }
    // While the membership changes it is not known who has to know the version. It is held only when it is likely to be raised:
    // a voter that does not answer may be about to be removed.
    let Ok(_unchanged) = node.changing.try_lock() else { return };
    let Some(known) = known_to_all(node).await.filter(is_newer) else { return };
    match node.proposer.propose_in(term, Command::RaiseVersion(known)).await {
        Ok(Reply::Done) => {
            info!(from = current, to = known, "every coordinator knows a newer fleet version, which is in force now")
        }
        Ok(other) => warn!(reply = ?other, "the fleet's version was not raised"),
        Err(error) => debug!(%error, "the fleet's version was not raised; this is tried again"),
    }
}
