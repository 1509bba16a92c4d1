//! The leader's contact with a majority: the latest instant at which it is certain that no other coordinator had been
//! elected.
//!
//! The leader asks each voter whom its vote is for. A voter that answers with this leader's own vote had promised no
//! newer term when it answered, so any later leader was elected after the question was sent. With such answers from a
//! majority (in a joint configuration: from both majorities), no other coordinator led when the oldest of their
//! questions was sent, by quorum intersection (Raft, section 5.4.3).
//!
//! Replication proves the same, but a voter's acknowledgement waits until everything that it accepted is on its disk:
//! behind a slow disk, the proof would be older than the agents' leases allow. Answers to these questions wait for no
//! disk. They do not extend the leases of the consensus library, whose reads and writes follow its own rules.
//!
//! Questions are sent only while a caller waits for contact: usually the proof from replication is fresh enough.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use robeing_platform::sync::{Mutex, MutexGuard, PoisonError};
use robeing_proto::internal::v1::{self as internal, raft_client::RaftClient};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tonic::transport::Channel;

use crate::{
    leader::{role::until, standing::Standing},
    members::Members,
    peers::Peers,
    raft::{CoreState, NodeId, RaftHandle, VotedFor},
};

/// Minimum time between two rounds of questions while the first has not been confirmed by a majority.
const ROUND_APART: Duration = Duration::from_millis(20);
/// How long an answer is awaited. A later one proves too little, and one that never arrives means that the connection
/// is dead.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Maximum number of unanswered questions to one voter; at this limit it is asked no more until one is answered or
/// times out.
const MAX_UNANSWERED: usize = 32;

/// The time at which each voter's newest confirmation was requested.
#[derive(Default)]
struct Confirmations {
    term: u64,
    voters: Vec<BTreeSet<NodeId>>,
    asked_at: BTreeMap<NodeId, Instant>,
}

impl Confirmations {
    fn begin(&mut self, term: u64) {
        *self = Self { term, ..Self::default() };
    }

    fn note(&mut self, voter: NodeId, asked_at: Instant) {
        let newest = self.asked_at.entry(voter).or_insert(asked_at);
        *newest = (*newest).max(asked_at);
    }

    /// Returns the newest instant at which a majority of every configuration is known to have followed this leader.
    fn quorum(&self) -> Option<Instant> {
        self.voters.iter().map(|voters| self.majority(voters)).min().flatten()
    }

    fn majority(&self, voters: &BTreeSet<NodeId>) -> Option<Instant> {
        let mut asked_at: Vec<Instant> = voters.iter().filter_map(|voter| self.asked_at.get(voter).copied()).collect();
        asked_at.sort_unstable_by(|a, b| b.cmp(a));
        asked_at.get(voters.len() / 2).copied()
    }
}

/// The newest confirmation of a leader by a majority.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Proof {
    term: u64,
    at: Instant,
}

/// What a leader knows about its contact with a majority. Empty while this coordinator does not lead.
#[derive(Default)]
pub struct Contact {
    confirmations: Mutex<Confirmations>,
    proof: watch::Sender<Option<Proof>>,
    wanted: Notify,
}

impl Contact {
    fn confirmations(&self) -> MutexGuard<'_, Confirmations> {
        self.confirmations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the newest instant at which a majority is known to have followed the leader of `term`.
    pub fn at(&self, term: u64) -> Option<Instant> {
        self.proof.borrow().filter(|proof| proof.term == term).map(|proof| proof.at)
    }

    /// Requests a round of questions to the voters.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Requests rounds of questions until a majority is known to have followed the leader of `term` at `since` or
    /// later. Does not return if that is never confirmed. Cancellation-safe.
    pub async fn since(&self, term: u64, since: Instant) {
        let mut proof = self.proof.subscribe();
        loop {
            if proof.borrow_and_update().is_some_and(|proof| proof.term == term && proof.at >= since) {
                return;
            }
            self.want();
            // `self` owns the sender, so an error is impossible. A round may have been lost, so it is requested again.
            let _ = tokio::time::timeout(ROUND_APART, proof.changed()).await;
        }
    }

    fn note(&self, term: u64, voter: NodeId, asked_at: Instant) {
        let quorum = {
            let mut confirmations = self.confirmations();
            if confirmations.term != term {
                return;
            }
            confirmations.note(voter, asked_at);
            confirmations.quorum()
        };
        let Some(at) = quorum else { return };
        self.proof.send_if_modified(|proof| {
            let newer = proof.is_none_or(|known| known.term < term || (known.term == term && known.at < at));
            if newer {
                *proof = Some(Proof { term, at });
            }
            newer
        });
    }
}

/// The result of a question, whether or not it was answered in time.
struct Answer {
    voter: NodeId,
    asked_at: Instant,
    confirmed: bool,
}

/// Keeps a leader in contact with the voters.
pub struct ContactKeeper {
    pub own: NodeId,
    pub raft: RaftHandle,
    pub standing: Standing,
    pub members: Members,
    pub peers: Arc<Peers>,
}

impl ContactKeeper {
    /// Asks the voters when contact is requested, while this coordinator leads. Runs until the coordinator stops.
    pub async fn run(self) {
        let mut role = self.standing.roles();
        loop {
            // Starts before this leader is ready: agents that wait for readiness need to know that it leads.
            let leads = until(&mut role, |role| role.term().is_some()).await;
            let Some(term) = leads.and_then(|role| role.term()) else { return };
            self.standing.contact().confirmations().begin(term);
            self.ask_while_leading(term).await;
        }
    }

    async fn ask_while_leading(&self, term: u64) {
        let (mut role, contact) = (self.standing.roles(), self.standing.contact());
        let mut questions: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
        let mut unanswered: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut wanted = false;
        let mut last_round = None;
        loop {
            // A request during a round waits for the next round, which begins when this one is settled or appears to be
            // lost.
            let settled = last_round.is_none_or(|round| contact.at(term).is_some_and(|at| at >= round));
            let next_round = last_round.filter(|_| !settled).map(|round| round + ROUND_APART);
            tokio::select! {
                _ = until(&mut role, |role| role.term() != Some(term)) => return,
                Some(answer) = questions.next() => {
                    if let Some(count) = unanswered.get_mut(&answer.voter) {
                        *count = count.saturating_sub(1);
                    }
                    if answer.confirmed {
                        contact.note(term, answer.voter, answer.asked_at);
                    }
                }
                () = contact.wanted.notified(), if !wanted => wanted = true,
                () = at(next_round), if wanted => {
                    wanted = false;
                    let asked_at = Instant::now();
                    last_round = Some(asked_at);
                    let Some(core) = self.raft.core_state().await else { return };
                    if core.voted_for != (VotedFor { term, node_id: self.own }) {
                        continue;
                    }
                    contact.confirmations().voters = core.voters.clone();
                    contact.note(term, self.own, asked_at);
                    for (voter, address) in self.others(&core) {
                        let count = unanswered.entry(voter).or_default();
                        if *count < MAX_UNANSWERED {
                            *count += 1;
                            questions.push(ask(Arc::clone(&self.peers), self.own, voter, address, term).boxed());
                        }
                    }
                }
            }
        }
    }

    fn others(&self, core: &CoreState) -> Vec<(NodeId, String)> {
        let voters: BTreeSet<NodeId> = core.voters.iter().flatten().copied().filter(|id| *id != self.own).collect();
        let members = self.members.all().into_iter().filter(|(id, ..)| voters.contains(id));
        members.map(|(id, peer, _)| (id, peer.address)).collect()
    }
}

async fn at(instant: Option<Instant>) {
    if let Some(instant) = instant {
        tokio::time::sleep_until(instant).await;
    }
}

/// Asks a voter whether its vote is for this coordinator, `own`.
async fn ask(peers: Arc<Peers>, own: NodeId, voter: NodeId, address: String, term: u64) -> Answer {
    let asked_at = Instant::now();
    let question =
        |mut peer: RaftClient<Channel>| async move { peer.contact(internal::ContactRequest { target: voter }).await };
    let answer = peers.ask_within(&address, ANSWER_WITHIN, question).await;
    let confirmed = answer.is_some_and(|answer| answer.term == term && answer.node_id == own);
    Answer { voter, asked_at, confirmed }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn confirmations(voters: &[&[NodeId]], start: Instant, asked: &[(NodeId, u32)]) -> Option<Instant> {
        let mut confirmations = Confirmations::default();
        confirmations.begin(1);
        confirmations.voters = voters.iter().map(|voters| voters.iter().copied().collect()).collect();
        for (voter, seconds) in asked {
            confirmations.note(*voter, start + SECOND * *seconds);
        }
        confirmations.quorum()
    }

    #[test]
    fn contact_is_as_old_as_the_oldest_question_of_the_newest_majority() {
        let start = Instant::now();
        let three: &[&[NodeId]] = &[&[1, 2, 3]];
        assert_eq!(confirmations(three, start, &[(1, 9)]), None, "one of three is no majority");
        assert_eq!(confirmations(three, start, &[(1, 9), (2, 3)]), Some(start + 3 * SECOND));
        assert_eq!(confirmations(three, start, &[(1, 9), (2, 3), (3, 5)]), Some(start + 5 * SECOND));
        assert_eq!(confirmations(three, start, &[(1, 9), (4, 9), (5, 9)]), None, "others have no vote");
        let four: &[&[NodeId]] = &[&[1, 2, 3, 4]];
        assert_eq!(confirmations(four, start, &[(1, 9), (2, 9)]), None, "half of them is no majority");
        assert_eq!(confirmations(&[&[1]], start, &[(1, 4)]), Some(start + 4 * SECOND));
    }

    #[test]
    fn a_joint_configuration_needs_a_majority_of_both() {
        let start = Instant::now();
        let joint: &[&[NodeId]] = &[&[1, 2, 3], &[3, 4, 5]];
        assert_eq!(confirmations(joint, start, &[(1, 9), (2, 9), (3, 9)]), None);
        assert_eq!(confirmations(joint, start, &[(1, 9), (2, 9), (3, 9), (4, 2)]), Some(start + 2 * SECOND));
        assert_eq!(confirmations(&[], start, &[(1, 9)]), None, "without voters there is no majority");
    }

    #[test]
    fn an_older_answer_that_comes_late_takes_nothing_back() {
        let start = Instant::now();
        assert_eq!(confirmations(&[&[1]], start, &[(1, 4), (1, 2)]), Some(start + 4 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn contact_of_another_term_counts_for_nothing() {
        let contact = Contact::default();
        let start = Instant::now();
        contact.confirmations().begin(2);
        contact.confirmations().voters = vec![[1].into()];
        contact.note(1, 1, start);
        assert_eq!(contact.at(1), None, "an answer to a question of the term before");
        contact.note(2, 1, start);
        assert_eq!((contact.at(1), contact.at(2)), (None, Some(start)));
        let newer = contact.since(2, start + SECOND);
        assert!(tokio::time::timeout(10 * SECOND, newer).await.is_err(), "it is older than what is wanted");
        contact.note(2, 1, start + SECOND);
        contact.since(2, start + SECOND).await;
    }
}
