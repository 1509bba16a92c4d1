//! Queries about ballots.

use std::sync::Arc;

use super::{Ballot, KnownAuthority};
use crate::{BallotId, Fleet, limits::MAX_PAGE};

/// Numbers of ballots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BallotCounts {
    /// Ballots on which members can vote.
    pub open: u32,
    /// Ballots that are closed and still kept.
    pub closed: u32,
    /// The bytes that count against [`MAX_BALLOT_BYTES`](crate::limits::MAX_BALLOT_BYTES).
    pub bytes: u64,
}

impl Fleet {
    /// Returns a ballot, or `None` if it never existed or was forgotten. A clone of the `Arc` keeps it as it is now.
    pub fn ballot(&self, id: BallotId) -> Option<&Arc<Ballot>> {
        self.state.ballots.kept.get(*self.indexes.ballots.ids.get(&id)?)
    }

    /// Returns at most `limit` (clamped to 1 to [`MAX_PAGE`]) ballots, or open ballots, with numbers below `before`, the
    /// newest first.
    pub fn ballots(&self, before: Option<u64>, limit: usize, only_open: bool) -> Vec<&Arc<Ballot>> {
        let (end, limit) = (before.unwrap_or(u64::MAX), limit.clamp(1, MAX_PAGE));
        let kept = &self.state.ballots.kept;
        if only_open {
            let open = self.indexes.ballots.open.range(..end).rev();
            return open.filter_map(|seq| kept.get(*seq)).take(limit).collect();
        }
        kept.kept().range(..end).rev().map(|(_, ballot)| ballot).take(limit).collect()
    }

    /// Returns an authority that the evidence of a kept vote refers to, by its number.
    pub fn authority(&self, number: u64) -> Option<&Arc<KnownAuthority>> {
        self.state.ballots.authorities.get(number)
    }

    /// Returns the numbers of ballots.
    pub fn ballot_counts(&self) -> BallotCounts {
        let indexes = &self.indexes.ballots;
        let (open, closed) = (indexes.open.len() as u32, indexes.closed.len() as u32);
        BallotCounts { open, closed, bytes: indexes.counted_bytes() }
    }
}
