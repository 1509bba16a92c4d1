//! The indexes of ballots.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{Ballot, BallotState, KnownAuthority};
use crate::{BallotId, FleetMillis, fixed_map::FixedMap, limits::LEAST_BALLOT_BYTES};

/// The open ballots of one opener.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct OpenOfOne {
    pub count: usize,
    /// The bytes that they count for, with room for all votes.
    pub bytes: u64,
}

/// The indexes of ballots. They refer to ballots and authorities by their numbers.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct BallotIndexes {
    pub ids: FixedMap<BallotId, u64>,
    /// The ballots that are open.
    pub open: BTreeSet<u64>,
    /// The ballots that are closed, the one that was closed first in front.
    pub closed: BTreeSet<(FleetMillis, u64)>,
    /// The bytes that open ballots count for, with room for all votes.
    pub open_bytes: u64,
    /// The open ballots of each opener who has any.
    pub openers: BTreeMap<String, OpenOfOne>,
    /// The bytes that closed ballots count for.
    pub closed_bytes: u64,
    /// The bytes that are stored, with those of the authorities. The rest of what counts is room for votes, and what
    /// small ballots count for.
    pub stored: u64,
    /// The authorities by their certificates.
    pub numbers: FixedMap<Bytes, u64>,
    /// How many votes refer to each authority. No count is 0.
    pub uses: BTreeMap<u64, usize>,
}

impl BallotIndexes {
    /// Returns the bytes that count against [`MAX_BALLOT_BYTES`](crate::limits::MAX_BALLOT_BYTES).
    pub(crate) fn counted_bytes(&self) -> u64 {
        self.open_bytes + self.closed_bytes
    }

    fn leave_opener(&mut self, opener: &str, counted: u64) {
        let Some(of_one) = self.openers.get_mut(opener) else { return };
        of_one.count = of_one.count.saturating_sub(1);
        of_one.bytes = of_one.bytes.saturating_sub(counted);
        if of_one.count == 0 {
            self.openers.remove(opener);
        }
    }

    /// Returns what an opener has open.
    pub(crate) fn open_of(&self, opener: &str) -> OpenOfOne {
        self.openers.get(opener).copied().unwrap_or_default()
    }

    /// Indexes an authority.
    pub(crate) fn enter_authority(&mut self, authority: &KnownAuthority) {
        self.numbers.insert(authority.der.clone(), authority.number);
        self.stored += authority.der.len() as u64;
    }

    /// Removes an authority.
    pub(crate) fn leave_authority(&mut self, authority: &KnownAuthority) {
        self.numbers.remove(&authority.der);
        self.stored -= authority.der.len() as u64;
    }

    /// Indexes a ballot, or its new state after a change.
    pub(crate) fn enter(&mut self, ballot: &Ballot) {
        self.ids.insert(ballot.id, ballot.seq);
        let stored = ballot.stored_bytes();
        self.stored += stored;
        let counted = counted_bytes(ballot, stored);
        match &ballot.state {
            BallotState::Open => {
                self.open.insert(ballot.seq);
                self.open_bytes += counted;
                let of_one = self.openers.entry(ballot.opened_by.clone()).or_default();
                of_one.count += 1;
                of_one.bytes += counted;
            }
            BallotState::Closed { at, .. } => {
                self.closed.insert((at.fleet, ballot.seq));
                self.closed_bytes += counted;
            }
        }
        for authority in ballot.authorities() {
            *self.uses.entry(authority).or_default() += 1;
        }
    }

    /// Removes a ballot, or its old state before a change.
    pub(crate) fn leave(&mut self, ballot: &Ballot) {
        self.ids.remove(&ballot.id);
        let stored = ballot.stored_bytes();
        self.stored -= stored;
        let counted = counted_bytes(ballot, stored);
        match &ballot.state {
            BallotState::Open => {
                self.open.remove(&ballot.seq);
                self.open_bytes -= counted;
                self.leave_opener(&ballot.opened_by, counted);
            }
            BallotState::Closed { at, .. } => {
                self.closed.remove(&(at.fleet, ballot.seq));
                self.closed_bytes -= counted;
            }
        }
        for authority in ballot.authorities() {
            let left = self.uses.remove(&authority).unwrap_or_default().saturating_sub(1);
            if left > 0 {
                self.uses.insert(authority, left);
            }
        }
    }
}

/// Returns the bytes that a ballot counts for against [`MAX_BALLOT_BYTES`](crate::limits::MAX_BALLOT_BYTES): what is
/// stored, and room for the votes that are missing.
pub(super) fn counted_bytes(ballot: &Ballot, stored: u64) -> u64 {
    (stored + ballot.reserved_bytes()).max(LEAST_BALLOT_BYTES)
}
