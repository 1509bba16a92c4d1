//! Votes that prove who cast them. Pure, but for random numbers: it does no I/O and reads no clock.
//!
//! A voter signs its vote, a [`VoteStatement`], with an ed25519 key of its process, its [`VotingKey`]: that makes the
//! [`Envelope`]. The voter's certificate proves whose the key is: its private key signs the [`KeyBinding`]. The
//! envelope, the binding, the certificate and the authority that issued it are the [`Evidence`] of the vote, which
//! [`verify`] verifies, without the fleet. A [`BallotFile`] has everything of one ballot, to be verified elsewhere.
//!
//! Votes that are due at once are signed together: [`VotingKey::sign_all`] makes one signature for all of them, and each
//! envelope still proves its vote without the others.
//!
//! What is signed is the pre-authentication encoding of [DSSE](https://github.com/secure-systems-lab/dsse), with the
//! types [`PAYLOAD_TYPE`], [`TOGETHER_TYPE`] and [`BINDING_TYPE`], so that no signature counts as one of another kind. All
//! messages are canonical: equal values have equal bytes, and other bytes are refused. So the same vote is recognized.
//!
//! A statement names the fleet, the ballot and the digest of the ballot's content, so that a vote can't be counted in
//! another ballot, or for another question.

mod binding;
mod choice;
mod content;
mod dsse;
mod envelope;
mod error;
mod evidence;
mod file;
mod key;
mod proven;
mod statement;
mod together;

pub use self::{
    binding::{BINDING_TYPE, BindingStatement, KeyBinding},
    choice::Choice,
    content::{BallotContent, CONTENT_TYPE},
    envelope::{Envelope, PAYLOAD_TYPE, Signatures},
    error::VoteError,
    evidence::{Evidence, Expect, issuer_in, member_name, verify},
    file::{
        BallotFile, Base64, CheckedVote, FILE_VERSION, FileElector, FileEvidence, FileOutcome, FileThreshold, FileVote,
        Report, Standing, Tally,
    },
    key::{BoundKey, VotingKey},
    proven::ProvenKey,
    statement::{VoteStatement, cut_reason},
    together::TOGETHER_TYPE,
};

/// Maximum size of an envelope, bytes.
pub const MAX_ENVELOPE_BYTES: usize = 4 * 1024;
/// Maximum size of a binding, bytes.
pub const MAX_BINDING_BYTES: usize = 1024;
/// Maximum size of a voter's certificate, bytes of DER.
pub const MAX_CERTIFICATE_BYTES: usize = 2 * 1024;
/// Maximum size of an authority's certificate, bytes of DER.
pub const MAX_AUTHORITY_BYTES: usize = 4 * 1024;
/// Maximum length of the reason of a vote, bytes; see [`cut_reason`].
pub const MAX_REASON_BYTES: usize = 1024;
/// Maximum number of votes that have one signature.
pub const MAX_SIGNED_TOGETHER: usize = 1 << MAX_PATH_HASHES;
/// Maximum number of ballots that are opened by one call. The largest fit into a message together.
pub const MAX_OPENED_TOGETHER: usize = 64;
/// Maximum number of hashes that lead from a vote to the root of those that are signed together.
pub const MAX_PATH_HASHES: usize = 8;
/// Maximum number of members of an electorate.
pub const MAX_ELECTORS: usize = 256;
/// Maximum weight of a member.
pub const MAX_WEIGHT: u32 = 1_000;
/// Maximum number of options of a ballot.
pub const MAX_OPTIONS: usize = 16;
/// Maximum size of a ballot's file, bytes: the largest ballot fits.
pub const MAX_FILE_BYTES: usize = 16 << 20;

/// Returns bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |byte: &u8| [*byte >> 4, *byte & 15].map(|digit| char::from(DIGITS[usize::from(digit)]));
    bytes.iter().flat_map(digits).collect()
}

#[cfg(test)]
mod tests;
