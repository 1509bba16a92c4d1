//! The identity of this coordinator.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    data_dir::Identity,
    raft::{NodeId, Peer},
};

/// This coordinator: its identity, the address at which others reach it, and when it started. Cheap to clone.
#[derive(Clone)]
pub struct Member {
    /// Its identity, as stored in its data directory.
    pub identity: Arc<Identity>,
    /// The address at which others reach it, host:port.
    pub address: Arc<str>,
    /// Its process id.
    pub pid: u32,
    /// When it started.
    pub started: Instant,
}

impl Member {
    /// Creates a member with this identity and address, started now.
    pub fn new(identity: &Identity, address: String, pid: u32) -> Self {
        Self { identity: Arc::new(identity.clone()), address: address.into(), pid, started: Instant::now() }
    }

    /// Returns its node id.
    pub fn id(&self) -> NodeId {
        self.identity.node_id
    }

    /// Returns its name.
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    /// Returns the cluster that it belongs to.
    pub fn cluster_id(&self) -> &str {
        &self.identity.cluster_id
    }

    /// Returns its name and address, as the other coordinators know them.
    pub fn peer(&self) -> Peer {
        Peer { name: self.name().to_owned(), address: self.address.to_string() }
    }
}
