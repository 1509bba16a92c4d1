//! Raises the fleet's version, as leader, once the binaries of all voters support a newer one, which brings its
//! features into force. No voter is added meanwhile, so none is added that does not support it.

use std::time::Duration;

use futures::future::join_all;
use robeing_fleet::{Command, ControlCommand, Reply, known_version};
use tracing::{debug, info, warn};

use crate::{
    leader::{describe::Descriptions, role::until_leading, standing::Standing},
    members::Members,
    propose::Proposer,
    read::StateReader,
};

/// How often the voters are asked for their versions while there is one newer than the fleet's.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Raises the fleet's version.
pub struct VersionRaiser {
    pub standing: Standing,
    pub members: Members,
    pub descriptions: Descriptions,
    pub state: StateReader,
    pub proposer: Proposer,
}

impl VersionRaiser {
    /// Raises the version while this coordinator leads. Runs until the coordinator stops.
    pub async fn run(self) {
        let mut raft_role = self.standing.roles();
        loop {
            let Some(term) = until_leading(&mut raft_role).await else { return };
            while self.standing.term() == Some(term) {
                if known_version() > self.state.look(|fleet| fleet.version()) {
                    self.raise(term).await;
                }
                tokio::time::sleep(ASK_EVERY).await;
            }
        }
    }

    /// Returns the newest version that all voters support; `None` if one of them did not answer.
    async fn known_to_all(&self) -> Option<u32> {
        let voters: Vec<_> = self.members.voters().collect();
        let known = voters
            .iter()
            .map(|(id, peer)| async { Some(self.descriptions.ask(*id, &peer.address).await?.max_fleet_version) });
        let known: Option<Vec<u32>> = join_all(known).await.into_iter().collect();
        known?.into_iter().min()
    }

    async fn raise(&self, term: u64) {
        let current = self.state.look(|fleet| fleet.version());
        let is_newer = |known: &u32| *known > current;
        if self.known_to_all().await.filter(is_newer).is_none() {
            return;
        }
        // While the membership changes, it is unknown which voters have to support the version, so the membership is
        // held. It is held only when the version is likely to be raised: a voter that does not answer may be about to
        // be removed.
        let Some(_unchanged) = self.members.hold() else { return };
        let Some(known) = self.known_to_all().await.filter(is_newer) else { return };
        match self.proposer.propose_in(term, Command::Control(ControlCommand::RaiseVersion(known))).await {
            Ok(Reply::Done) => {
                info!(
                    from = current,
                    to = known,
                    "every coordinator supports a newer fleet version, which is now in force"
                )
            }
            Ok(other) => warn!(reply = ?other, "the fleet's version was not raised"),
            Err(error) => debug!(%error, "the fleet's version was not raised; retrying"),
        }
    }
}
