//! Groups of agents that decide by Byzantine agreement ([`robeing_bft`]): who is in a group, what it decides, what its
//! members and their clients say to each other, and files from which anybody can verify the decisions. Pure, but for
//! the random numbers of signatures: it does no I/O and reads no clock.
//!
//! **Forming a group** takes two steps. Each member makes a key and an identity of its disk for this group, and signs
//! with the key of its certificate that they are its own: its [`Enrolment`]. The enrolments of all members are the
//! group's description ([`GroupFile`]), from which everything else follows. A member starts only with a description
//! that has its own enrolment, and in which every other one is signed by a certificate of an authority that it trusts.
//! So whoever passes enrolments on can leave some out, but can't put in a key of its own. Whoever has the key of the
//! fleet's authority can: it can certify anybody as a member. After that, not even the authority has any influence: the
//! keys are fixed.
//!
//! **Decisions** are texts in an order ([`Ledger`]). Each is proposed by a member, which vouches for its author: that
//! has signed the [`Proposal`] with the key of its certificate.
//!
//! **Ballots** are opened, and voted in, by calls in the same order ([`ballot`]), and so counted by the members alone.
//!
//! | module | job |
//! |---|---|
//! | `signing` | statements that are signed with the key of a certificate |
//! | `enrolment`, `group_file` | who is in a group |
//! | `proposal`, `ledger` | what is decided; that each proposal is decided once |
//! | `call`, `ballot` | what members have in their log; ballots, their outcomes, and what proves those |
//! | `epoch` | what a group decides before other members follow |
//! | `exchange` | what clients ask members, and what members send each other |
//! | `log_file` | a group's decisions as a file, and its verification |

pub mod ballot;
mod call;
mod enrolment;
mod epoch;
mod error;
pub mod exchange;
mod group_file;
mod ledger;
mod log_file;
mod proposal;
mod signing;
#[cfg(test)]
mod tests;

pub use self::{
    call::Call,
    enrolment::{ENROLMENT_TYPE, Enrolment, NEXT_ENROLMENT_TYPE},
    epoch::{NextEpoch, is_approved},
    error::GroupError,
    group_file::{EarlierEpoch, GROUP_FILE_VERSION, Group, GroupFile},
    ledger::{Ledger, REMEMBERED},
    log_file::{CheckedDecision, CheckedEntry, LOG_FILE_VERSION, LogFile, LogReport, Seen, entries_of},
    proposal::{PROPOSAL_TYPE, Proposal},
    signing::{Own, Signed},
};

/// Minimum number of members of a group: fewer tolerate no liar.
pub const MIN_GROUP_MEMBERS: usize = robeing_bft::limits::MIN_MEMBERS;
/// Maximum number of members of a group. The largest message of so many members fits into a message between agents.
pub const MAX_GROUP_MEMBERS: usize = 16;
/// Maximum number of epochs of a group: its description has all of them.
pub const MAX_EPOCHS: usize = 64;
/// Maximum length of a group's name, bytes.
pub const MAX_GROUP_NAME: usize = 63;
/// Maximum size of the text of a proposal, bytes.
pub const MAX_TEXT_BYTES: usize = 16 * 1024;
/// Maximum size of the question of a ballot, bytes.
pub const MAX_QUESTION_BYTES: usize = 4 * 1024;
/// Maximum size of an option of a ballot, bytes.
pub const MAX_OPTION_BYTES: usize = 128;
/// How long members may have to vote, ms: 30 days.
pub const MAX_BALLOT_TTL_MS: u64 = 30 * 24 * 3_600 * 1_000;
/// Maximum number of open ballots that were opened through one member.
pub const MAX_OPEN_BALLOTS: usize = 4;
/// Number of closed ballots that are kept of those that were opened through one member: the latest.
pub const MAX_CLOSED_BALLOTS: usize = 8;
/// Maximum number of forgotten ballots that were opened through one member, and whose deadlines are not over.
pub const MAX_FORGOTTEN_BALLOTS: usize = 256;
/// Maximum size of a signed statement, bytes.
pub const MAX_STATEMENT_BYTES: usize = 32 * 1024;
/// Maximum size of a signature, bytes: that of the largest kind of key.
pub const MAX_SIGNATURE_BYTES: usize = 1024;
/// Maximum size of a group's description, bytes of JSON.
pub const MAX_GROUP_FILE_BYTES: usize = 768 * 1024;
/// Maximum size of a file of decisions, bytes of JSON.
pub const MAX_LOG_FILE_BYTES: usize = 256 << 20;
/// How old an enrolment or a proposal may be, ms: 10 minutes. Clocks may differ by as much.
pub const MAX_AGE_MS: u64 = 600_000;

/// Returns whether this may be the name of a group: 1 to [`MAX_GROUP_NAME`] lower-case letters, digits and `-`, which
/// also names a folder.
pub fn is_group_name(name: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    (1..=MAX_GROUP_NAME).contains(&name.len()) && name.chars().all(is_inner) && !name.starts_with('-')
}
