//! Who is a member: the configuration says so at the very first start; afterwards the log does.
//!
//! At the first start the coordinator whose name sorts first waits until all that are configured answer, learns their node
//! ids, and writes the first membership. One that starts with an empty disk while the others have a membership already is a
//! new node: it asks the leader to take it in place of the node that had its name. One of another name, and one that was
//! removed, waits until it is added.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
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
        membership_change::{self, CATCH_UP_TIMEOUT, ChangeError, Newcomer},
        role::RaftRole,
    },
    node::{Node, SILENCE},
    raft::{NodeId, Peer, Runtime},
};

/// Pause between two looks at the others.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a wait for others is told in the log.
const TELL_EVERY: u32 = 50;
/// How long the leader may take to take this node in: it has to catch up.
const JOIN_TIMEOUT: Duration = Duration::from_secs(2 * CATCH_UP_TIMEOUT.as_secs());
/// How often a coordinator that hears nothing looks whether it is still a member.
const LOOK_EVERY: Duration = Duration::from_secs(1);

async fn describe(node: &Node, address: &str) -> Option<internal::DescribeResponse> {
    node.peers.ask(address, |mut peer| async move { peer.describe(internal::DescribeRequest::default()).await }).await
}

/// Makes this node a member, if it is none. Returns when it is, or when the node stops. `configured` are the names and
/// addresses of the first membership, this node's among them.
pub async fn settle(node: Arc<Node>, configured: Vec<(String, String)>) {
    let first = configured.iter().map(|(name, _)| name).min() == Some(&node.identity.name);
    let mut round = 0;
    let mut last = None;
    while !member(&node) {
        let mut waiting_for = Vec::new();
        let mut others = Vec::new();
        for (name, address) in configured.iter().filter(|(name, _)| *name != node.identity.name) {
            match describe(&node, address).await {
                Some(said) if said.cluster_id == node.identity.cluster_id && said.name == *name => {
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
                None if node.peers.is_earlier(address) => waiting_for.push(format!("{name}: {EARLIER_VERSION}")),
                None => waiting_for.push(name.clone()),
            }
        }
        if others.iter().any(|(said, _)| said.initialized) {
            let addresses = others.into_iter().map(|(_, address)| address).collect();
            let asked = ask_to_join(&node, addresses).await;
            if last.as_ref() != Some(&asked) {
                match &asked {
                    Asked::Member => info!("joined as a new member"),
                    Asked::Refused(reason) => info!(reason, "waiting to be added"),
                    Asked::NotYet(reason) => info!(reason, "not joined yet"),
                }
            }
            last = Some(asked);
        } else if first && waiting_for.is_empty() {
            initialize(&node, others).await;
        }
        round += 1;
        if round % TELL_EVERY == 0 {
            info!(?waiting_for, "not a member yet");
        }
        let pause = if matches!(last, Some(Asked::Refused(_))) { LOOK_EVERY } else { PAUSE };
        tokio::time::sleep(jittered(&*node.platform.random, pause)).await;
    }
}

fn member(node: &Node) -> bool {
    node.members().iter().any(|(id, _, voter)| *id == node.identity.node_id && *voter)
}

fn own(node: &Node) -> Peer {
    Peer { name: node.identity.name.clone(), address: node.address.clone() }
}

async fn initialize(node: &Node, others: Vec<(internal::DescribeResponse, String)>) {
    // Written already, and not yet to be seen in the members.
    if node.raft.has_begun().await {
        return;
    }
    let mut members: BTreeMap<NodeId, Peer> =
        others.into_iter().map(|(said, address)| (said.node_id, Peer { name: said.name, address })).collect();
    members.insert(node.identity.node_id, own(node));
    info!(members = members.len(), "writing the first membership");
    let initialize = node.raft.begin(members);
    if let Err(error) = Runtime::scope(node.platform.random.next_u64(), initialize).await {
        warn!(%error, "the first membership could not be written");
    }
}

/// What came of asking to be a member.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Asked {
    /// It is a voter.
    Member,
    /// The leader takes no such coordinator in by itself.
    Refused(String),
    /// Not now, for this reason.
    NotYet(String),
}

/// Asks whoever leads to take this node in, beginning with those at these addresses.
async fn ask_to_join(node: &Node, mut addresses: Vec<String>) -> Asked {
    let request = internal::JoinRequest {
        cluster_id: node.identity.cluster_id.clone(),
        name: node.identity.name.clone(),
        node_id: node.identity.node_id,
        address: node.address.clone(),
    };
    let mut asked = BTreeSet::new();
    let mut answer = Asked::NotYet("no coordinator answers".to_owned());
    while let Some(address) = addresses.pop() {
        if !asked.insert(address.clone()) {
            continue;
        }
        let Ok(channel) = node.transport.channel(&address) else { continue };
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
                if let Some(problem) = node.peers.refused(&address, &status) {
                    answer = Asked::NotYet(format!("{address} can't be asked: {problem}"));
                }
            }
            Err(_) => {}
        }
    }
    answer
}

/// Notices when this coordinator was removed, while it was away or at work, and says so in the log. It takes part in nothing
/// then, sends its clients away, and does not disturb the others, until it is added again. Runs until the node stops.
pub async fn notice_removal(node: Arc<Node>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if node.heard.ago() < SILENCE || matches!(*node.raft_role.borrow(), RaftRole::Leading { .. }) {
            if node.removed.send_replace(false) {
                info!("this coordinator hears from a leader again");
            }
            continue;
        }
        let own = node.identity.node_id;
        let others = node.members().into_iter().filter(|(id, ..)| *id != own).map(|(_, peer, _)| peer.address);
        if let Asked::Refused(reason) = ask_to_join(&node, others.collect()).await
            && !node.removed.send_replace(true)
        {
            warn!(
                reason,
                "this coordinator was removed from the fleet; it waits until it is added again, and may be stopped"
            );
        }
    }
}

fn not_joined(reason: impl Into<String>) -> internal::JoinResponse {
    internal::JoinResponse { joined: false, reason: reason.into(), leader_address: String::new() }
}

/// Takes a new node in, as leader, in place of the one that had its name.
pub async fn admit(node: &Arc<Node>, request: internal::JoinRequest) -> Result<internal::JoinResponse, Status> {
    if request.cluster_id != node.identity.cluster_id {
        return Err(Status::permission_denied(format!("this is cluster {:?}", node.identity.cluster_id)));
    }
    let raft_role = node.raft_role.borrow().clone();
    match raft_role {
        RaftRole::Leading { ready: true, .. } => {}
        RaftRole::Following { peer, .. } => {
            return Ok(internal::JoinResponse { leader_address: peer.address, ..Default::default() });
        }
        _ => return Ok(not_joined("nobody leads now")),
    }
    let members = node.members();
    if members.iter().any(|(id, _, voter)| *id == request.node_id && *voter) {
        return Ok(internal::JoinResponse { joined: true, ..Default::default() });
    }
    if !members.iter().any(|(id, peer, _)| peer.name == request.name && *id != request.node_id) {
        return Err(Status::failed_precondition(format!(
            "no member is called {:?}; a new node joins by itself only in place of one that had its name, and else has to be \
             added",
            request.name
        )));
    }
    let newcomer = Newcomer { id: request.node_id, peer: Peer { name: request.name, address: request.address } };
    let replacing = {
        let node = Arc::clone(node);
        async move {
            let replaced = membership_change::replaced_by(&node, &newcomer)?;
            if replaced.is_empty() {
                return Err(ChangeError::Invalid(
                    "the one it was to take the place of is no member any more".to_owned(),
                ));
            }
            membership_change::admit_voter(&node, newcomer, replaced).await
        }
    };
    match membership_change::exclusively(node, replacing).await {
        Ok(()) => Ok(internal::JoinResponse { joined: true, ..Default::default() }),
        Err(error) => Ok(not_joined(error.to_string())),
    }
}
