//! Ballots that the members of a group count themselves. A ballot's opening, votes and end are calls in the group's
//! log; its outcome follows from their order alone, so all honest members come to the same one.
//!
//! - **The electorate** is the group: each member has one vote, of the same weight. A vote is a call of the member,
//!   which its key in the group signs, so nobody votes in its place.
//! - **The outcome** is approved as soon as the threshold's share of all members approves, and rejected as soon as that
//!   can no longer be reached.
//! - **The deadline.** The log has no clock. Each member says in the log that, by its own clock, the deadline is over,
//!   and the ballot has expired when f + 1 of them have said so: one of them does not lie.
//! - **Opened once, closed once.** What comes later changes nothing, also when the ballot is forgotten.
//! - **A ballot ends with its epoch.** The next one knows none of those before.
//!
//! Members sign what a closed ballot has come to ([`BallotRecord`]). With the signatures of a quorum, it is proved to
//! those who have not read the log ([`GroupBallotFile`]).

mod file;
mod opening;
mod record;
mod state;
#[cfg(test)]
mod tests;
mod vote;

pub use self::{
    file::{Attestation, BallotReport, GROUP_BALLOT_FILE_VERSION, GroupBallotFile},
    opening::{BALLOT_TYPE, Opening, ballot_id, ballot_id_of},
    record::{BallotRecord, CountedVote},
    state::{Ballots, GroupBallot, Refusal},
    vote::MemberVote,
};
pub(crate) use self::{opening::MAX_OPENING_BYTES, state::Electorate};
