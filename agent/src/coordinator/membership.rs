//! Who is a member: the configuration says so at the very first start; afterwards the log does.
//!
//! At the first start the coordinator whose name sorts first waits until all that are configured answer, learns their node
//! ids, and writes the first membership. One that starts with an empty disk while the others have a membership already is a
//! new node: it asks the leader to take it in place of the node that had its name.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use openraft::{ChangeMembers, Instant as _, async_runtime::watch::WatchReceiver};
use robeing_proto::v1::{self, raft_client::RaftClient};
use tokio::time::timeout;
use tonic::Status;
use tracing::{info, warn};

use super::{
    consensus::{NodeId, Peer, Runtime},
    leadership::Standing,
    node::{Node, PEER_TIMEOUT},
};
use crate::{limited, platform::jittered};

/// Pause between two looks at the others.
const PAUSE: Duration = Duration::from_millis(100);
/// How often a wait for others is told in the log.
const TELL_EVERY: u32 = 50;
/// How long a newcomer may take to catch up.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(60);
/// A member that answered within this is not replaced.
const ALIVE: Duration = Duration::from_secs(2);

async fn describe(node: &Node, address: &str) -> Option<v1::DescribeResponse> {
    let mut client = limited!(RaftClient::new(node.transport.channel(address).ok()?));
    Some(timeout(PEER_TIMEOUT, client.describe(v1::DescribeRequest {})).await.ok()?.ok()?.into_inner())
}

/// Makes this node a member, if it is none. Returns when it is, or when the node stops. `configured` are the names and
/// addresses of the first membership, this node's among them.
pub async fn settle(node: Arc<Node>, configured: Vec<(String, String)>) {
    let first = configured.iter().map(|(name, _)| name).min() == Some(&node.identity.name);
    let mut round = 0;
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
                    waiting_for.push(name.as_str());
                }
                None => waiting_for.push(name.as_str()),
            }
        }
        if others.iter().any(|(said, _)| said.initialized) {
            ask_to_join(&node, others).await;
        } else if first && waiting_for.is_empty() {
            initialize(&node, others).await;
        }
        round += 1;
        if round % TELL_EVERY == 0 {
            info!(?waiting_for, "not a member yet");
        }
        tokio::time::sleep(jittered(&*node.platform.random, PAUSE)).await;
    }
}

fn member(node: &Node) -> bool {
    node.members().iter().any(|(id, _, voter)| *id == node.identity.node_id && *voter)
}

fn own(node: &Node) -> Peer {
    Peer { name: node.identity.name.clone(), address: node.address.clone() }
}

async fn initialize(node: &Node, others: Vec<(v1::DescribeResponse, String)>) {
    // Written already, and not yet to be seen in the members.
    if node.raft.is_initialized().await.unwrap_or(true) {
        return;
    }
    let mut members: BTreeMap<NodeId, Peer> =
        others.into_iter().map(|(said, address)| (said.node_id, Peer { name: said.name, address })).collect();
    members.insert(node.identity.node_id, own(node));
    info!(members = members.len(), "writing the first membership");
    let initialize = node.raft.initialize(members);
    if let Err(error) = Runtime::scope(node.platform.random.next_u64(), initialize).await {
        warn!(%error, "the first membership could not be written");
    }
}

/// Asks whoever leads to take this node in.
async fn ask_to_join(node: &Node, others: Vec<(v1::DescribeResponse, String)>) {
    let mut addresses: Vec<String> = others.into_iter().map(|(_, address)| address).collect();
    let request = v1::JoinRequest {
        cluster_id: node.identity.cluster_id.clone(),
        name: node.identity.name.clone(),
        node_id: node.identity.node_id,
        address: node.address.clone(),
    };
    let mut asked = BTreeSet::new();
    while let Some(address) = addresses.pop() {
        if !asked.insert(address.clone()) {
            continue;
        }
        let Ok(channel) = node.transport.channel(&address) else { continue };
        let mut client = limited!(RaftClient::new(channel));
        let call = timeout(CATCH_UP_TIMEOUT * 2, client.join(request.clone())).await;
        match call {
            Ok(Ok(response)) => {
                let response = response.into_inner();
                if response.joined {
                    info!("joined as a new member");
                    return;
                }
                if !response.leader_address.is_empty() {
                    addresses.push(response.leader_address);
                } else if !response.reason.is_empty() {
                    info!(reason = response.reason, "not joined yet");
                }
            }
            Ok(Err(status)) => info!(%status, address, "not joined yet"),
            Err(_) => {}
        }
    }
}

fn not_joined(reason: impl Into<String>) -> v1::JoinResponse {
    v1::JoinResponse { joined: false, reason: reason.into(), leader_address: String::new() }
}

/// Takes a new node in, as leader: it learns the log first, and becomes a voter, in place of the one that had its name, when
/// it is caught up.
pub async fn admit(node: &Node, request: v1::JoinRequest) -> Result<v1::JoinResponse, Status> {
    if request.cluster_id != node.identity.cluster_id {
        return Err(Status::permission_denied(format!("this is cluster {:?}", node.identity.cluster_id)));
    }
    let standing = node.standing.borrow().clone();
    match standing {
        Standing::Leading { ready: true, .. } => {}
        Standing::Following { peer, .. } => {
            return Ok(v1::JoinResponse { leader_address: peer.address, ..Default::default() });
        }
        _ => return Ok(not_joined("nobody leads now")),
    }
    let members = node.members();
    if members.iter().any(|(id, _, voter)| *id == request.node_id && *voter) {
        return Ok(v1::JoinResponse { joined: true, ..Default::default() });
    }
    let replaced: Vec<NodeId> = members
        .iter()
        .filter(|(id, peer, _)| peer.name == request.name && *id != request.node_id)
        .map(|m| m.0)
        .collect();
    if replaced.is_empty() {
        return Err(Status::failed_precondition(format!(
            "no member is called {:?}; a new node joins only in place of one that had its name",
            request.name
        )));
    }
    if let Some(alive) = replaced.iter().find(|id| answered_lately(node, **id)) {
        return Ok(not_joined(format!(
            "coordinator {alive:016x} has the name {:?} and was heard of in the last {ALIVE:?}",
            request.name
        )));
    }
    info!(
        name = request.name,
        new = format!("{:016x}", request.node_id),
        "taking in a new coordinator in place of the old one"
    );
    let seed = node.platform.random.next_u64();
    Runtime::scope(seed, replace(node, request, replaced)).await
}

fn answered_lately(node: &Node, id: NodeId) -> bool {
    if id == node.identity.node_id {
        return true;
    }
    let metrics = node.raft.metrics();
    let metrics = metrics.borrow_watched();
    let acked = metrics.heartbeat.as_ref().and_then(|heartbeat| heartbeat.get(&id).cloned().flatten());
    acked.is_some_and(|at| at.elapsed() < ALIVE)
}

async fn replace(node: &Node, request: v1::JoinRequest, replaced: Vec<NodeId>) -> Result<v1::JoinResponse, Status> {
    let failed = |step: &str, error: &dyn std::fmt::Display| not_joined(format!("{step}: {error}"));
    let peer = Peer { name: request.name, address: request.address };
    let learning = node.raft.add_learner(request.node_id, peer, true);
    match timeout(CATCH_UP_TIMEOUT, learning).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Ok(failed("it could not be made a learner", &error)),
        Err(_) => return Ok(not_joined("it did not catch up in time")),
    }
    let mut voters: BTreeSet<NodeId> = node.members().into_iter().filter(|m| m.2).map(|m| m.0).collect();
    voters.retain(|id| !replaced.contains(id));
    voters.insert(request.node_id);
    if let Err(error) = node.raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), false).await {
        return Ok(failed("the membership could not be changed", &error));
    }
    Ok(v1::JoinResponse { joined: true, ..Default::default() })
}
