//! Where this coordinator stands: who leads, and how lately the one that leads and the others heard of each other.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    leader::{describe::CAUGHT_UP, quorum_contact::Contact, role::RaftRole},
    raft::{NodeId, RaftHandle, VotedFor},
};

/// Without word from a leader, or from a majority, for so long, a coordinator is out of touch.
pub const SILENCE: Duration = Duration::from_secs(3);
/// How long a leader waits for a majority's confirmation.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);

/// When a leader was last heard of. What consensus itself says does not tell: a coordinator that is cut off or was removed
/// asks for votes in vain and keeps the leader it knew.
struct LeaderContact {
    start: Instant,
    millis: AtomicU64,
}

impl Default for LeaderContact {
    fn default() -> Self {
        Self { start: Instant::now(), millis: AtomicU64::new(0) }
    }
}

/// This coordinator's place among the coordinators. Cheap to clone.
#[derive(Clone)]
pub struct Standing {
    own: NodeId,
    raft: RaftHandle,
    role: watch::Receiver<RaftRole>,
    heard: Arc<LeaderContact>,
    contact: Arc<Contact>,
    /// How old a majority's word may be when a leader renews the lease of an agent.
    lease_margin: Duration,
}

impl Standing {
    /// Of the coordinator of this id, whose role is kept up to date by [`watch`](crate::leader::role::watch).
    pub fn new(own: NodeId, raft: RaftHandle, role: watch::Receiver<RaftRole>, lease_margin: Duration) -> Self {
        Self { own, raft, role, heard: Arc::default(), contact: Arc::default(), lease_margin }
    }

    /// Its role now.
    pub fn role(&self) -> RaftRole {
        self.role.borrow().clone()
    }

    /// Its role, as it changes.
    pub fn roles(&self) -> watch::Receiver<RaftRole> {
        self.role.clone()
    }

    /// Its term, if it leads and is ready.
    pub fn leading(&self) -> Option<u64> {
        self.role.borrow().leading()
    }

    /// Its term, if it leads, ready or not.
    pub fn term(&self) -> Option<u64> {
        self.role.borrow().term()
    }

    /// What it knows, as leader, of its contact with a majority.
    pub fn contact(&self) -> &Contact {
        &self.contact
    }

    /// A leader was heard of now.
    pub fn note_heard(&self) {
        self.heard.millis.store(self.heard.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// How long ago a leader was last heard of; since this coordinator started, if never.
    pub fn heard_ago(&self) -> Duration {
        self.heard.start.elapsed().saturating_sub(Duration::from_millis(self.heard.millis.load(Ordering::Relaxed)))
    }

    /// How long ago this leader was last known to be followed by a majority; `None` for one that was not yet. What its voters
    /// say of their votes counts as well as what they say of its entries, which waits for their disks.
    pub fn quorum_age(&self) -> Option<Duration> {
        let term = self.term()?;
        if self.raft.voters() <= 1 {
            return Some(Duration::ZERO);
        }
        let replicated = self.raft.majority_heard_ago();
        let confirmed = self.contact.at(term).map(|at| at.elapsed());
        replicated.into_iter().chain(confirmed).min()
    }

    /// Whether this leader is known to have been followed by a majority lately enough for answering heartbeats.
    pub fn may_renew_leases(&self) -> bool {
        self.quorum_age().is_some_and(|age| age <= self.lease_margin)
    }

    /// Whether the leader of `term` is known to have been followed by a majority lately enough for answering heartbeats. Asks
    /// the voters when what is known is about to be too old.
    pub fn has_contact(&self, term: u64) -> bool {
        let age = self.quorum_age().filter(|_| self.term() == Some(term));
        if age.is_none_or(|age| age > self.lease_margin / 2) {
            self.contact.want();
        }
        age.is_some_and(|age| age <= self.lease_margin)
    }

    /// Waits until the leader of `term` may grant a lease: it is known to have been followed by a majority lately enough. False
    /// when that cannot be had within [`CONFIRM_TIMEOUT`].
    pub async fn may_grant_lease(&self, term: u64) -> bool {
        let fresh = self.term() == Some(term) && self.quorum_age().is_some_and(|known| known <= self.lease_margin);
        fresh || timeout(CONFIRM_TIMEOUT, self.contact.since(term, Instant::now())).await.is_ok()
    }

    /// Whether it can do its work: it has a vote, leads with a majority or hears from a leader, and has applied about all
    /// that it knows to be committed.
    pub fn is_ready(&self) -> bool {
        let in_touch = match self.role() {
            RaftRole::Leading { ready, .. } => ready && self.quorum_age().is_some_and(|age| age < SILENCE),
            RaftRole::Following { .. } => self.heard_ago() < SILENCE,
            RaftRole::Leaderless => false,
        };
        let progress = self.raft.progress();
        let is_current = progress.applied + CAUGHT_UP >= progress.committed;
        in_touch && is_current && self.raft.members().iter().any(|(id, _, voter)| *id == self.own && *voter)
    }

    /// The log index up to which a linearizable read must have applied, from this coordinator as leader (Raft, section 6.4):
    /// what was committed when the read began, once a majority has confirmed that nobody else led then. It waits for no disk.
    /// `None` from one that does not lead, or that no majority confirms within [`CONFIRM_TIMEOUT`].
    pub async fn read_index(&self) -> Option<Option<u64>> {
        // A leader that has not applied the first entry of its term does not know yet what its predecessors committed.
        let term = self.leading()?;
        let asked_at = Instant::now();
        let core = self.raft.core_state().await?;
        if core.voted_for != (VotedFor { term, node_id: self.own }) {
            return None;
        }
        timeout(CONFIRM_TIMEOUT, self.contact.since(term, asked_at)).await.ok()?;
        Some(core.committed)
    }
}
