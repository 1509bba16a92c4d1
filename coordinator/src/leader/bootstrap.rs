//! Membership bootstrap: the configuration defines the members at the very first start, the log afterwards.
//!
//! At the first start, the coordinator whose name sorts first waits until all configured coordinators answer, learns
//! their node ids, and writes the first membership. A coordinator that starts with an empty disk while the others
//! already have a membership is a new node: it asks the leader to admit it in place of the node that had its name. A
//! node with a new name, or one that was removed, waits until it is added.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use robeing_net::{earlier::EARLIER_VERSION, limited};
use robeing_platform::jittered;
use robeing_proto::internal::v1::{self as internal, raft_client::RaftClient};
use tokio::time::timeout;
use tonic::{Code, Status};
use tracing::{info, warn};

use crate::{
    leader::{
        membership_change::{CATCH_UP_TIMEOUT, ChangeError, MembershipChange, Newcomer},
        role::RaftRole,
        standing::{SILENCE, Standing},
    },
    member::Member,
    members::Members,
    outside::Outside,
    raft::{NodeId, Peer, RaftHandle, Runtime},
};

/// Pause between two polls of the other coordinators.
const PAUSE: Duration = Duration::from_millis(100);
/// Number of polls after which a wait for other coordinators is logged.
const TELL_EVERY: u32 = 50;
/// How long the leader may take to admit this node, which has to catch up first.
const JOIN_TIMEOUT: Duration = Duration::from_secs(2 * CATCH_UP_TIMEOUT.as_secs());
/// How often a coordinator without contact to a leader checks whether it is still a member.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The outcome of asking to join.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    /// This node is a voter.
    Member,
    /// The leader does not admit this coordinator automatically, for this reason.
    Refused(String),
    /// This node can't join at the moment, for this reason.
    NotYet(String),
}

/// Makes this coordinator a member. Cheap to clone.
#[derive(Clone)]
pub struct Bootstrap {
    pub member: Member,
    pub members: Members,
    pub standing: Standing,
    pub raft: RaftHandle,
    pub outside: Outside,
}

impl Bootstrap {
    /// Makes this node a voter, unless it is one already. Returns once it is a voter, or when the node stops.
    /// `configured` contains the names and addresses of the first membership, including this node's.
    pub async fn settle(self, configured: Vec<(String, String)>) {
        let first = configured.iter().map(|(name, _)| &**name).min() == Some(self.member.name());
        let mut round = 0;
        let mut last = None;
        while !self.members.has_vote(self.member.id()) {
            let (others, waiting_for) = self.look_at_others(&configured).await;
            if others.iter().any(|(said, _)| said.initialized) {
                let addresses = others.into_iter().map(|(_, address)| address).collect();
                let asked = self.ask_to_join(addresses).await;
                if last.as_ref() != Some(&asked) {
                    match &asked {
                        Asked::Member => info!("joined as a new member"),
                        Asked::Refused(reason) => info!(reason, "waiting to be added"),
                        Asked::NotYet(reason) => info!(reason, "not joined yet"),
                    }
                }
                last = Some(asked);
            } else if first && waiting_for.is_empty() {
                self.initialize(others).await;
            }
            round += 1;
            if round % TELL_EVERY == 0 {
                info!(?waiting_for, "not a member yet");
            }
            let pause = if matches!(last, Some(Asked::Refused(_))) { LOOK_EVERY } else { PAUSE };
            tokio::time::sleep(jittered(&*self.outside.platform.random, pause)).await;
        }
    }

    /// Asks the other configured coordinators to describe themselves. Returns the descriptions and addresses of those
    /// that answer as configured, and the names of the rest.
    async fn look_at_others(
        &self,
        configured: &[(String, String)],
    ) -> (Vec<(internal::DescribeResponse, String)>, Vec<String>) {
        let (mut others, mut waiting_for) = (Vec::new(), Vec::new());
        for (name, address) in configured.iter().filter(|(name, _)| name != self.member.name()) {
            match self.describe(address).await {
                Some(said) if said.cluster_id == self.member.cluster_id() && said.name == *name => {
                    others.push((said, address.clone()));
                }
                Some(said) => {
                    warn!(
                        name,
                        address,
                        found = said.name,
                        cluster = said.cluster_id,
                        "not the coordinator that is configured"
                    );
                    waiting_for.push(name.clone());
                }
                None if self.outside.peers.is_earlier(address) => {
                    waiting_for.push(format!("{name}: {EARLIER_VERSION}"));
                }
                None => waiting_for.push(name.clone()),
            }
        }
        (others, waiting_for)
    }

    async fn describe(&self, address: &str) -> Option<internal::DescribeResponse> {
        let ask = |mut peer: RaftClient<_>| async move { peer.describe(internal::DescribeRequest::default()).await };
        self.outside.peers.ask(address, ask).await
    }

    async fn initialize(&self, others: Vec<(internal::DescribeResponse, String)>) {
        // The membership is already written, but not visible in `members` yet.
        if self.raft.has_begun().await {
            return;
        }
        let mut members: BTreeMap<NodeId, Peer> =
            others.into_iter().map(|(said, address)| (said.node_id, Peer { name: said.name, address })).collect();
        members.insert(self.member.id(), self.member.peer());
        info!(members = members.len(), "writing the first membership");
        let initialize = self.raft.begin(members);
        if let Err(error) = Runtime::scope(self.outside.platform.random.next_u64(), initialize).await {
            warn!(%error, "the first membership could not be written");
        }
    }

    /// Asks the leader to admit this node, starting with the coordinators at these addresses.
    async fn ask_to_join(&self, mut addresses: Vec<String>) -> Asked {
        let request = internal::JoinRequest {
            cluster_id: self.member.cluster_id().to_owned(),
            name: self.member.name().to_owned(),
            node_id: self.member.id(),
            address: self.member.address.to_string(),
        };
        let mut asked = BTreeSet::new();
        let mut answer = Asked::NotYet("no coordinator answers".to_owned());
        while let Some(address) = addresses.pop() {
            if !asked.insert(address.clone()) {
                continue;
            }
            let Ok(channel) = self.outside.transport.channel(&address) else { continue };
            let mut client = limited!(RaftClient::new(channel));
            match timeout(JOIN_TIMEOUT, client.join(request.clone())).await {
                Ok(Ok(response)) => {
                    let response = response.into_inner();
                    if response.joined {
                        return Asked::Member;
                    }
                    if !response.leader_address.is_empty() {
                        addresses.push(response.leader_address);
                    } else if !response.reason.is_empty() {
                        answer = Asked::NotYet(response.reason);
                    }
                }
                Ok(Err(status)) if status.code() == Code::FailedPrecondition => {
                    return Asked::Refused(status.message().to_owned());
                }
                Ok(Err(status)) if status.code() == Code::PermissionDenied => {
                    answer = Asked::NotYet(status.message().to_owned());
                }
                Ok(Err(status)) => {
                    if let Some(problem) = self.outside.peers.refused(&address, &status) {
                        answer = Asked::NotYet(format!("{address} can't be queried: {problem}"));
                    }
                }
                Err(_) => {}
            }
        }
        answer
    }

    /// Detects that this coordinator was removed, while it was down or running, and logs it. Until it is added again, a
    /// removed coordinator serves no streams and does not disturb the others. Runs until the node stops.
    pub async fn notice_removal(self) {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if self.standing.heard_ago() < SILENCE || self.standing.term().is_some() {
                if self.members.note_removed(false) {
                    info!("this coordinator has contact with a leader again");
                }
                continue;
            }
            let own = self.member.id();
            let others = self.members.all().into_iter().filter(|(id, ..)| *id != own).map(|(_, peer, _)| peer.address);
            if let Asked::Refused(reason) = self.ask_to_join(others.collect()).await
                && !self.members.note_removed(true)
            {
                warn!(
                    reason,
                    "this coordinator was removed from the fleet; it waits until it is added again, and may be stopped"
                );
            }
        }
    }
}

fn not_joined(reason: impl Into<String>) -> internal::JoinResponse {
    internal::JoinResponse { joined: false, reason: reason.into(), leader_address: String::new() }
}

/// Admits a new node, as leader, in place of the member that had its name.
pub async fn admit(
    change: &MembershipChange,
    request: internal::JoinRequest,
) -> Result<internal::JoinResponse, Status> {
    if request.cluster_id != change.member.cluster_id() {
        return Err(Status::permission_denied(format!("this is cluster {:?}", change.member.cluster_id())));
    }
    match change.standing.role() {
        RaftRole::Leading { ready: true, .. } => {}
        RaftRole::Following { peer, .. } => {
            return Ok(internal::JoinResponse { leader_address: peer.address, ..Default::default() });
        }
        _ => return Ok(not_joined("there is no leader at the moment")),
    }
    let members = change.members.all();
    if members.iter().any(|(id, _, voter)| *id == request.node_id && *voter) {
        return Ok(internal::JoinResponse { joined: true, ..Default::default() });
    }
    if !members.iter().any(|(id, peer, _)| peer.name == request.name && *id != request.node_id) {
        return Err(Status::failed_precondition(format!(
            "no member is named {:?}; a new node joins automatically only in place of a member with its name, otherwise it \
             has to be added",
            request.name
        )));
    }
    let newcomer = Newcomer { id: request.node_id, peer: Peer { name: request.name, address: request.address } };
    let replacing = {
        let change = change.clone();
        async move {
            let replaced = change.replaced_by(&newcomer)?;
            if replaced.is_empty() {
                return Err(ChangeError::Invalid("the member that it was to replace is no longer a member".to_owned()));
            }
            change.admit_voter(newcomer, replaced).await
        }
    };
    match change.exclusively(replacing).await {
        Ok(()) => Ok(internal::JoinResponse { joined: true, ..Default::default() }),
        Err(error) => Ok(not_joined(error.to_string())),
    }
}
