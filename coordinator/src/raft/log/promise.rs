//! Votes that are durable before they are requested.
//!
//! A vote must be on disk before it is granted (Raft, section 5.2), and a candidate waits for it at most one election
//! timeout. If a sync takes longer, the response comes too late; the candidate asks again in the next term, which takes
//! another sync, and so on: no candidate would ever be elected. A vote is therefore written together with votes for the
//! same candidate in the following [`TERMS_AHEAD`] terms, of which the disk holds the last. The second round of the
//! election then costs no sync.
//!
//! This is safe. Between a promise and the next record of a vote, all granted votes are for one candidate and not
//! beyond the one on disk; and votes only grow. So a coordinator that restarts after a crash holds a vote at least as
//! high as every vote it granted.
//!
//! It must not respond with that vote, though. The candidate may have been elected in an earlier term, and would then
//! receive a vote for itself that it never requested: the library on that node takes it for its own candidacy, and
//! neither continues to lead nor steps down. So a coordinator that finds a promise to another candidate starts with a
//! vote for itself in the following term, as if it had started an election without requesting votes
//! ([`after_restart`]). A leader that receives this vote steps down, and an election follows.

use openraft::vote::RaftLeaderId;

use crate::raft::{NodeId, Vote};

/// Number of terms, following the one in which a vote is granted, for which the vote is durable as well.
pub const TERMS_AHEAD: u64 = 16;

/// A durable promise: the candidate has this coordinator's vote in every term up to `last_term`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Promise {
    candidate: NodeId,
    last_term: u64,
}

impl Promise {
    /// Creates the promise to the candidate of a vote, from that vote's term on.
    pub fn to(vote: &Vote) -> Self {
        let last_term = vote.leader_id.term().saturating_add(TERMS_AHEAD);
        Self { candidate: vote.leader_id.node_id, last_term }
    }

    /// Returns the vote that must be on disk for this promise.
    pub fn furthest_vote(&self) -> Vote {
        Vote::new(self.last_term, self.candidate)
    }

    /// Whether the vote is one of those promised. A committed vote, which states that the candidate was elected, is
    /// not.
    pub fn covers(&self, vote: &Vote) -> bool {
        !vote.is_committed() && vote.leader_id.node_id == self.candidate && vote.leader_id.term() <= self.last_term
    }
}

/// Returns the vote that `own` starts with when it finds `found` on its disk.
pub fn after_restart(found: Vote, own: NodeId) -> Vote {
    if found.is_committed() || found.leader_id.node_id == own {
        return found;
    }
    Vote::new(found.leader_id.term().saturating_add(1), own)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use openraft::{RaftLogReader, storage::RaftLogStorage};

    use super::*;
    use crate::raft::log::tests::{Rig, new_disk};

    const SEGMENT: usize = 4096;

    async fn operations(rig: &mut Rig, vote: Vote) -> u64 {
        let before = rig.disk.operations();
        rig.log.save_vote(&vote).await.unwrap();
        assert_eq!(rig.log.read_vote().await.unwrap(), Some(vote));
        rig.disk.operations() - before
    }

    #[tokio::test]
    async fn the_same_candidates_next_terms_cost_no_sync() {
        let mut rig = Rig::open(&new_disk().await, SEGMENT).await;
        assert!(operations(&mut rig, Vote::new(5, 1)).await > 0);
        for term in 6..=5 + TERMS_AHEAD {
            assert_eq!(operations(&mut rig, Vote::new(term, 1)).await, 0, "term {term}");
        }
        assert!(operations(&mut rig, Vote::new(6 + TERMS_AHEAD, 1)).await > 0, "beyond the promise");
        assert!(operations(&mut rig, Vote::new(7 + TERMS_AHEAD, 2)).await > 0, "another candidate");
        assert!(operations(&mut rig, Vote::new(8 + TERMS_AHEAD, 1)).await > 0, "the promise to the first is void");
    }

    #[tokio::test]
    async fn after_a_crash_the_vote_is_not_below_any_that_was_given() {
        for given in 1..=2 * TERMS_AHEAD {
            let mut rig = Rig::open(&new_disk().await, SEGMENT).await;
            for term in 1..=given {
                rig.log.save_vote(&Vote::new(term, 1)).await.unwrap();
            }
            let vote = rig.crash(given).await.log.read_vote().await.unwrap().expect("votes were given");
            assert!(vote >= Vote::new(given, 1), "{given} were given, {vote} is held");
            assert!(!vote.is_committed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_election_that_was_won_is_not_waited_for_but_written() {
        let mut rig = Rig::open(&new_disk().await, SEGMENT).await;
        rig.log.save_vote(&Vote::new(5, 1)).await.unwrap();
        let elected = Vote::new_committed(5, 1);
        let before = rig.disk.operations();
        rig.log.save_vote(&elected).await.unwrap();
        assert_eq!(rig.disk.operations(), before, "it waits for no disk");
        assert!(operations(&mut rig, Vote::new(6, 1)).await > 0, "the record of the election ends the promise");
        rig.log.save_vote(&Vote::new_committed(6, 1)).await.unwrap();
        tokio::time::timeout(Duration::from_secs(1), rig.log.wait_for_writes()).await.unwrap().unwrap();
        let held = rig.crash(1).await.log.read_vote().await.unwrap();
        assert_eq!(held, Some(Vote::new_committed(6, 1)));
    }

    #[tokio::test]
    async fn a_leader_that_was_not_voted_for_is_durable_before_it_is_followed() {
        let mut rig = Rig::open(&new_disk().await, SEGMENT).await;
        rig.log.save_vote(&Vote::new(5, 1)).await.unwrap();
        assert!(operations(&mut rig, Vote::new_committed(6, 2)).await > 0);
        let held = rig.crash(1).await.log.read_vote().await.unwrap();
        assert_eq!(held, Some(Vote::new_committed(6, 2)));
    }

    #[tokio::test]
    async fn after_a_crash_no_candidate_is_answered_with_a_vote_it_never_asked_for() {
        const OWN: NodeId = 2;
        let mut rig = Rig::open(&new_disk().await, SEGMENT).await;
        rig.log.save_vote(&Vote::new(5, 1)).await.unwrap();
        let mut rig = rig.crash(1).await;
        rig.log.step_past_promise(OWN);
        let held = rig.log.read_vote().await.unwrap();
        assert_eq!(held, Some(Vote::new(6 + TERMS_AHEAD, OWN)), "above all that may have been given, and for itself");

        let own = Vote::new(7 + TERMS_AHEAD, OWN);
        rig.log.save_vote(&own).await.unwrap();
        let mut rig = rig.crash(2).await;
        let found = rig.log.read_vote().await.unwrap();
        rig.log.step_past_promise(OWN);
        assert_eq!(rig.log.read_vote().await.unwrap(), found, "a candidacy of its own is kept");

        let elected = Vote::new_committed(own.leader_id.term() + TERMS_AHEAD + 1, 1);
        rig.log.save_vote(&elected).await.unwrap();
        let mut rig = rig.crash(3).await;
        rig.log.step_past_promise(OWN);
        assert_eq!(rig.log.read_vote().await.unwrap(), Some(elected), "a leader that was followed is followed on");
    }
}
