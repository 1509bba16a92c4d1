//! Who this coordinator is.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    data_dir::Identity,
    raft::{NodeId, Peer},
};

/// This coordinator: who it is, where others reach it, and since when it runs. Cheap to clone.
#[derive(Clone)]
pub struct Member {
    /// Who it is, as its data directory says.
    pub identity: Arc<Identity>,
    /// Where others reach it, host:port.
    pub address: Arc<str>,
    /// Its process.
    pub pid: u32,
    /// When it started.
    pub started: Instant,
}

impl Member {
    /// Of this identity, at this address; started now.
    pub fn new(identity: &Identity, address: String, pid: u32) -> Self {
        Self { identity: Arc::new(identity.clone()), address: address.into(), pid, started: Instant::now() }
    }

    /// Its node id.
    pub fn id(&self) -> NodeId {
        self.identity.node_id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.identity.name
    }

    /// The cluster that it belongs to.
    pub fn cluster_id(&self) -> &str {
        &self.identity.cluster_id
    }

    /// Its name and whereabouts, as the others have them.
    pub fn peer(&self) -> Peer {
        Peer { name: self.name().to_owned(), address: self.address.to_string() }
    }
}
