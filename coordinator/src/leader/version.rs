//! Raises the fleet's version, as leader, once the binaries of all voters know a newer one: what it brings comes into force then.
//! No voter is added meanwhile, so none is added that does not know it.

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

/// How often the voters are asked for their versions, while there is a newer one than the fleet's.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// Raises the version.
pub struct VersionRaiser {
    pub standing: Standing,
    pub members: Members,
    pub descriptions: Descriptions,
    pub state: StateReader,
    pub proposer: Proposer,
}

impl VersionRaiser {
    /// Raises the version for as long as this coordinator leads. Runs until the coordinator stops.
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

    /// The newest version that all voters know. `None` if one of them did not answer.
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
        // While the membership changes it is not known who has to know the version. It is held only when it is likely to be
        // raised: a voter that does not answer may be about to be removed.
        let Some(_unchanged) = self.members.hold() else { return };
        let Some(known) = self.known_to_all().await.filter(is_newer) else { return };
        match self.proposer.propose_in(term, Command::Control(ControlCommand::RaiseVersion(known))).await {
            Ok(Reply::Done) => {
                info!(
                    from = current,
                    to = known,
                    "every coordinator knows a newer fleet version, which is in force now"
                )
            }
            Ok(other) => warn!(reply = ?other, "the fleet's version was not raised"),
            Err(error) => debug!(%error, "the fleet's version was not raised; this is tried again"),
        }
    }
}
