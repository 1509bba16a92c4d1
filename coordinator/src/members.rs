//! The members of the cluster of coordinators.

use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard, watch};

use crate::raft::{NodeId, Peer, RaftHandle};

/// The members as this coordinator knows them, and whether it was removed from them. Cheap to clone.
#[derive(Clone)]
pub struct Members {
    raft: RaftHandle,
    removed: watch::Sender<bool>,
    changing: Arc<Mutex<()>>,
}

impl Members {
    /// Creates a view of the members that `raft` knows.
    pub fn new(raft: RaftHandle) -> Self {
        Self { raft, removed: watch::Sender::new(false), changing: Arc::default() }
    }

    /// Returns all members, by name: id, name and address, and whether it is a voter.
    pub fn all(&self) -> Vec<(NodeId, Peer, bool)> {
        self.raft.members()
    }

    /// Returns the members with a vote, by name.
    pub fn voters(&self) -> impl Iterator<Item = (NodeId, Peer)> + use<> {
        self.all().into_iter().filter(|(_, _, voter)| *voter).map(|(id, peer, _)| (id, peer))
    }

    /// Returns whether the member with this id has a vote.
    pub fn has_vote(&self, id: NodeId) -> bool {
        self.voters().any(|(voter, _)| voter == id)
    }

    /// Returns the addresses of all members.
    pub fn addresses(&self) -> Vec<String> {
        self.all().into_iter().map(|(_, peer, _)| peer.address).collect()
    }

    /// Records whether this coordinator was removed, as far as it knows. Returns the previous value.
    pub fn note_removed(&self, removed: bool) -> bool {
        self.removed.send_replace(removed)
    }

    /// Waits until this coordinator was removed. Cancellation-safe.
    pub async fn until_removed(&self) {
        // `self` owns the sender, so an error is impossible.
        let _ = self.removed.subscribe().wait_for(|removed| *removed).await;
    }

    /// Takes the lock that must be held while the members or the leader are changed on request; `None` while another
    /// change holds it.
    pub fn hold(&self) -> Option<OwnedMutexGuard<()>> {
        Arc::clone(&self.changing).try_lock_owned().ok()
    }
}
