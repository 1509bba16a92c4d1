//! Votes that are durable before they are asked for.
//!
//! A vote must be on the disk before it is given (Raft, section 5.2), and a candidate waits for it no longer than its election
//! timeout. Where a sync takes longer, the answer comes too late; the candidate asks again in the next term, which takes
//! another sync, and so on: nobody would ever be elected. So a vote is written down together with the same candidate's votes of
//! the [`TERMS_AHEAD`] terms that follow, of which the disk holds the last. The second round costs no sync.
//!
//! This is safe. Between a promise and the next record of a vote, the votes that are given are for one candidate and not beyond
//! the one that the disk holds; and votes only grow. So a coordinator that comes back after a crash holds a vote at least as
//! high as every vote it has given. That it may hold one that nobody asked for harms nobody: as any vote for a candidate that
//! did not win, it is overtaken by a higher term.

use openraft::vote::RaftLeaderId;

use crate::coordinator::consensus::{NodeId, Vote};

/// Terms after the one a vote is given in, for which it is durable as well.
pub const TERMS_AHEAD: u64 = 16;

/// That a candidate has this coordinator's vote in every term up to one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Promise {
    candidate: NodeId,
    last_term: u64,
}

impl Promise {
    /// To the candidate that a vote is for, from its term on.
    pub fn to(vote: &Vote) -> Self {
        let last_term = vote.leader_id.term().saturating_add(TERMS_AHEAD);
        Self { candidate: vote.leader_id.node_id, last_term }
    }

    /// The vote that the disk has to hold for it.
    pub fn furthest_vote(&self) -> Vote {
        Vote::new(self.last_term, self.candidate)
    }

    /// Whether the vote is one of those promised. That a candidate was elected is none.
    pub fn covers(&self, vote: &Vote) -> bool {
        !vote.is_committed() && vote.leader_id.node_id == self.candidate && vote.leader_id.term() <= self.last_term
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use openraft::{RaftLogReader, storage::RaftLogStorage};

    use super::*;
    use crate::coordinator::log::tests::{Rig, new_disk};

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
}
