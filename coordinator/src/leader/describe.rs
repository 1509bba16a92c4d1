//! Descriptions of coordinators: this one's own, and those of the others, which this one requests.

use std::{sync::Arc, time::Duration};

use futures::future::join_all;
use robeing_fleet::known_version;
use robeing_proto::internal::v1::{self as internal, raft_client::RaftClient};
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::{
    disk_space::Rooms,
    leader::{score::Scores, stalls, standing::Standing},
    member::Member,
    members::Members,
    outside::Outside,
    raft::{NodeId, RaftHandle, log::Log},
    read::StateReader,
    warnings::Warnings,
};

/// Maximum number of log entries by which another coordinator may lag and still be caught up.
pub const CAUGHT_UP: u64 = 100;
/// Uptime at which the experience score reaches one half.
const HALF_EXPERIENCE: Duration = Duration::from_secs(600);

/// Returns whether another coordinator has applied the entry with index `least`, and its log makes progress.
pub fn is_caught_up(said: &internal::DescribeResponse, least: u64) -> bool {
    said.applied_index >= least && stalls::log_works(said)
}

/// Descriptions of coordinators. Cheap to clone.
#[derive(Clone)]
pub struct Descriptions {
    pub member: Member,
    pub members: Members,
    pub standing: Standing,
    pub state: StateReader,
    pub raft: RaftHandle,
    pub log: Log,
    pub outside: Outside,
    pub scores: Arc<Scores>,
    pub warnings: Arc<Warnings>,
    pub rooms: Arc<Rooms>,
}

impl Descriptions {
    /// Returns this coordinator's description.
    pub fn own(&self) -> internal::DescribeResponse {
        let up = self.member.started.elapsed().as_secs_f64();
        internal::DescribeResponse {
            cluster_id: self.member.cluster_id().to_owned(),
            name: self.member.name().to_owned(),
            node_id: self.member.id(),
            address: self.member.address.to_string(),
            pid: self.member.pid,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            resources: self.outside.platform.host.free_share(),
            experience: up / (up + HALF_EXPERIENCE.as_secs_f64()),
            max_fleet_version: known_version(),
            initialized: !self.members.all().is_empty(),
            applied_index: self.state.applied_index(),
            scores: self.scores.told(),
            warnings: self.warnings.told(),
            short_of_room: self.rooms.own().short,
            log_stalled_ms: self.log.stalled_for().map_or(0, |stalled| stalled.as_millis() as u64),
        }
    }

    /// Returns a member's description, if it answers in time and has the expected node id.
    pub async fn ask(&self, id: NodeId, address: &str) -> Option<internal::DescribeResponse> {
        self.ask_as(id, address, None).await
    }

    /// Same as [`Descriptions::ask`], but the request also carries a statement from this coordinator as leader.
    pub async fn ask_as(
        &self,
        id: NodeId,
        address: &str,
        from_leader: Option<internal::LeadersWord>,
    ) -> Option<internal::DescribeResponse> {
        if id == self.member.id() {
            return Some(self.own());
        }
        let request = internal::DescribeRequest { from_leader };
        let describe = |mut peer: RaftClient<Channel>| async move { peer.describe(request).await };
        self.outside.peers.ask(address, describe).await.filter(|said| said.node_id == id)
    }

    /// Takes the leader's statement from its request for a description.
    pub fn hear(&self, said: internal::LeadersWord) {
        // The statement of a leader that was replaced, and may not know it, is ignored.
        let leads = self.standing.term().is_some();
        if !leads && said.term >= self.log.vote().map_or(0, |vote| vote.leader_id.term) {
            self.rooms.note_told((!said.refusal.is_empty()).then_some(said.refusal), Instant::now());
        }
    }

    /// Returns the index that another coordinator must have applied to be caught up with this leader.
    pub fn caught_up_from(&self) -> u64 {
        self.raft.progress().caught_up_from(self.state.applied_index(), CAUGHT_UP)
    }

    /// Returns who should lead after this leader: of the other voters that answer now and are caught up, the one with
    /// the most experience.
    pub async fn successor(&self) -> Option<NodeId> {
        let own = self.member.id();
        let others = self.members.voters().filter(|(id, _)| *id != own);
        let answers = join_all(others.map(|(id, peer)| async move { self.ask(id, &peer.address).await })).await;
        let least = self.caught_up_from();
        let fit = answers.into_iter().flatten().filter(|said| is_caught_up(said, least));
        fit.max_by(|a, b| a.experience.total_cmp(&b.experience)).map(|said| said.node_id)
    }
}
