//! Who the coordinators are.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use crate::raft::{NodeId, Peer, RaftHandle};

/// The members as this coordinator knows them, and whether it is one of them. Cheap to clone.
#[derive(Clone)]
pub struct Members {
    raft: RaftHandle,
    removed: watch::Sender<bool>,
    changing: Arc<Mutex<()>>,
}

impl Members {
    /// Those that this consensus has.
    pub fn new(raft: RaftHandle) -> Self {
        Self { raft, removed: watch::Sender::new(false), changing: Arc::default() }
    }

    /// All of them, by name: id, whereabouts, voter or not.
    pub fn all(&self) -> Vec<(NodeId, Peer, bool)> {
        self.raft.members()
    }

    /// Those with a vote, by name.
    pub fn voters(&self) -> impl Iterator<Item = (NodeId, Peer)> + use<> {
        self.all().into_iter().filter(|(_, _, voter)| *voter).map(|(id, peer, _)| (id, peer))
    }

    /// Whether this one has a vote.
    pub fn has_vote(&self, id: NodeId) -> bool {
        self.voters().any(|(voter, _)| voter == id)
    }

    /// The addresses of all members.
    pub fn addresses(&self) -> Vec<String> {
        self.all().into_iter().map(|(_, peer, _)| peer.address).collect()
    }

    /// Takes note whether this coordinator was removed, as far as it knows: what was known before.
    pub fn note_removed(&self, removed: bool) -> bool {
        self.removed.send_replace(removed)
    }

    /// Waits until this coordinator was removed. Cancellation-safe.
    pub async fn until_removed(&self) {
        // The sender is this value's, so an error is impossible.
        let _ = self.removed.subscribe().wait_for(|removed| *removed).await;
    }

    /// What whoever changes members or leader on purpose holds meanwhile; `None` while another does.
    pub fn hold(&self) -> Option<OwnedMutexGuard<()>> {
        Arc::clone(&self.changing).try_lock_owned().ok()
    }
}
