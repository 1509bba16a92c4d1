//! This coordinator's standing: who leads, and how recently the leader and the other coordinators had contact.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    leader::{describe::CAUGHT_UP, quorum_contact::Contact, role::RaftRole},
    raft::{NodeId, RaftHandle, VotedFor},
};

/// How long a coordinator may be without contact to a leader, or as leader to a majority, before it counts as out of
/// touch.
pub const SILENCE: Duration = Duration::from_secs(3);
/// How long a coordinator may be out of touch before the streams end that tell agents the fleet's state, so that the
/// agents look for another coordinator.
pub const STALE_AFTER: Duration = Duration::from_secs(30);
/// How long a leader waits for a majority's confirmation.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);

/// The time of the last contact from a leader. The consensus state does not show it: a coordinator that is partitioned
/// or was removed requests votes without success and still reports the leader that it last knew.
struct LeaderContact {
    start: Instant,
    millis: AtomicU64,
}

impl Default for LeaderContact {
    fn default() -> Self {
        Self { start: Instant::now(), millis: AtomicU64::new(0) }
    }
}

/// This coordinator's standing among the coordinators. Cheap to clone.
#[derive(Clone)]
pub struct Standing {
    own: NodeId,
    raft: RaftHandle,
    role: watch::Receiver<RaftRole>,
    heard: Arc<LeaderContact>,
    contact: Arc<Contact>,
    /// Maximum age of a majority's confirmation when a leader renews the lease of an agent.
    lease_margin: Duration,
}

impl Standing {
    /// Creates the standing of the coordinator with this id, whose role [`watch`](crate::leader::role::watch) keeps up
    /// to date.
    pub fn new(own: NodeId, raft: RaftHandle, role: watch::Receiver<RaftRole>, lease_margin: Duration) -> Self {
        Self { own, raft, role, heard: Arc::default(), contact: Arc::default(), lease_margin }
    }

    /// Returns the current role.
    pub fn role(&self) -> RaftRole {
        self.role.borrow().clone()
    }

    /// Returns a receiver of the role's changes.
    pub fn roles(&self) -> watch::Receiver<RaftRole> {
        self.role.clone()
    }

    /// Returns the term if this coordinator leads and is ready.
    pub fn leading(&self) -> Option<u64> {
        self.role.borrow().leading()
    }

    /// Returns the term if this coordinator leads, ready or not.
    pub fn term(&self) -> Option<u64> {
        self.role.borrow().term()
    }

    /// Returns what this coordinator knows, as leader, about its contact with a majority.
    pub fn contact(&self) -> &Contact {
        &self.contact
    }

    /// Records contact from a leader at this moment.
    pub fn note_heard(&self) {
        self.heard.millis.store(self.heard.start.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    /// Returns the time since the last contact from a leader, or since this coordinator started if there was none.
    pub fn heard_ago(&self) -> Duration {
        self.heard.start.elapsed().saturating_sub(Duration::from_millis(self.heard.millis.load(Ordering::Relaxed)))
    }

    /// Returns how long ago a majority was last known to follow this leader; `None` if none was yet, or if this
    /// coordinator does not lead. Both count: the voters' acknowledgements of entries, which wait for their disks, and
    /// the confirmations of their votes, which do not.
    pub fn quorum_age(&self) -> Option<Duration> {
        let term = self.term()?;
        if self.raft.voters() <= 1 {
            return Some(Duration::ZERO);
        }
        let replicated = self.raft.majority_heard_ago();
        let confirmed = self.contact.at(term).map(|at| at.elapsed());
        replicated.into_iter().chain(confirmed).min()
    }

    /// Waits until this coordinator has had no contact to a leader, or as leader to a majority, for [`STALE_AFTER`] since
    /// the call: what it tells may be out of date. Even then a new stream is served for as long, because another
    /// coordinator may know no more. Cancellation-safe.
    pub async fn until_stale(&self) {
        let begun = Instant::now();
        loop {
            let silent = self.quorum_age().unwrap_or_else(|| self.heard_ago()).min(begun.elapsed());
            match STALE_AFTER.checked_sub(silent) {
                None | Some(Duration::ZERO) => return,
                Some(left) => sleep(left).await,
            }
        }
    }

    /// Returns whether a majority is known to have followed this leader recently enough to answer heartbeats.
    pub fn may_renew_leases(&self) -> bool {
        self.quorum_age().is_some_and(|age| age <= self.lease_margin)
    }

    /// Returns whether a majority is known to have followed the leader of `term` recently enough to answer heartbeats.
    /// Asks the voters when the known confirmation is about to become too old.
    pub fn has_contact(&self, term: u64) -> bool {
        let age = self.quorum_age().filter(|_| self.term() == Some(term));
        if age.is_none_or(|age| age > self.lease_margin / 2) {
            self.contact.want();
        }
        age.is_some_and(|age| age <= self.lease_margin)
    }

    /// Waits until the leader of `term` may grant a lease, which requires that a majority is known to have followed it
    /// recently enough. Returns false if this is not confirmed within [`CONFIRM_TIMEOUT`].
    pub async fn may_grant_lease(&self, term: u64) -> bool {
        let fresh = self.term() == Some(term) && self.quorum_age().is_some_and(|known| known <= self.lease_margin);
        fresh || timeout(CONFIRM_TIMEOUT, self.contact.since(term, Instant::now())).await.is_ok()
    }

    /// Returns whether this coordinator can do its work: it has a vote, leads with a majority or has contact from a
    /// leader, and has applied nearly everything that it knows to be committed.
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

    /// Returns the log index up to which a linearizable read must have applied, from this coordinator as leader (Raft,
    /// section 6.4): what was committed when the read began, once a majority has confirmed that no other coordinator
    /// led then. It waits for no disk. Returns `None` if this coordinator does not lead, or if no majority confirms it
    /// within [`CONFIRM_TIMEOUT`].
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
