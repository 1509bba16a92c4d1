//! What a group is asked to decide.

use bytes::Bytes;
use robeing_bft::{
    crypto::Digest,
    epoch::Epoch,
    error::DecodeError,
    wire::{Reader, Wire},
};
use robeing_votes::member_name;

use crate::{Group, GroupError, MAX_AGE_MS, MAX_TEXT_BYTES, Own, Signed};

/// The type of a proposal, which is signed with it.
pub const PROPOSAL_TYPE: &str = "application/vnd.robeing.group-proposal.v1";
/// What errors call it.
const WHAT: &str = "proposal";

/// What a group is asked to decide. It is for one group, and is decided once however often it is proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The group: the digest of its members, disks and keys.
    pub group: Digest,
    /// The proposal's id.
    pub id: [u8; 16],
    /// When it was signed, Unix milliseconds.
    pub at_ms: u64,
    /// What is proposed.
    pub text: Bytes,
}

impl Wire for Proposal {
    fn put(&self, out: &mut Vec<u8>) {
        self.group.put(out);
        self.id.put(out);
        self.at_ms.put(out);
        self.text.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            group: Wire::take(input)?,
            id: Wire::take(input)?,
            at_ms: Wire::take(input)?,
            text: Wire::take(input)?,
        })
    }
}

impl Proposal {
    /// Signs a proposal.
    ///
    /// # Errors
    /// [`GroupError`] if its text is too long, or it can't be signed.
    pub fn sign(&self, own: &Own<'_>) -> Result<Signed, GroupError> {
        GroupError::if_larger("text of the proposal", self.text.len(), MAX_TEXT_BYTES)?;
        Signed::make(WHAT, PROPOSAL_TYPE, self.encoded(), own)
    }

    /// Reads a proposal. This verifies nothing.
    ///
    /// # Errors
    /// [`GroupError`] if it is malformed, or its text is too long.
    pub fn read(signed: &Signed) -> Result<Self, GroupError> {
        let proposal = Self::decoded(&signed.statement.0).map_err(GroupError::undecodable(WHAT))?;
        GroupError::if_larger("text of the proposal", proposal.text.len(), MAX_TEXT_BYTES)?;
        Ok(proposal)
    }

    /// Reads a proposal for a group, and verifies who has signed it: an agent, or `client:NAME`, of the group's fleet.
    /// Whether the authority can be trusted, the caller decides.
    ///
    /// # Errors
    /// [`GroupError`] with what is wrong.
    pub fn verify(signed: &Signed, group: &Group) -> Result<(Self, String), GroupError> {
        Self::verify_in(signed, group.epoch())
    }

    /// Verifies a proposal like [`verify`](Self::verify), for an epoch of a group.
    pub(crate) fn verify_in(signed: &Signed, epoch: &Epoch) -> Result<(Self, String), GroupError> {
        let proposal = Self::read(signed)?;
        if proposal.group != *epoch.domain() {
            return Err(GroupError::Other { what: WHAT, part: "group" });
        }
        let author = author_of(signed, (WHAT, PROPOSAL_TYPE), proposal.at_ms, &epoch.fleet)?;
        Ok((proposal, author))
    }

    /// Checks that the proposal was signed about now, Unix milliseconds.
    ///
    /// # Errors
    /// [`GroupError::Stale`] if it was not.
    pub fn check_age(&self, now: u64) -> Result<(), GroupError> {
        let is_new = now.abs_diff(self.at_ms) <= MAX_AGE_MS;
        if is_new { Ok(()) } else { Err(GroupError::Stale { what: WHAT, at: self.at_ms }) }
    }
}

/// Verifies who has signed a statement of a type at a time, Unix milliseconds: an agent, or `client:NAME`, of the
/// fleet. Whether the authority can be trusted, the caller decides.
pub(crate) fn author_of(
    signed: &Signed,
    (what, kind): (&'static str, &str),
    at_ms: u64,
    fleet: &str,
) -> Result<String, GroupError> {
    let id = signed.verify(what, kind, at_ms)?;
    match member_name(&id) {
        Some(author) if id.realm().to_string() == fleet => Ok(author),
        _ => Err(GroupError::OtherSigner {
            what,
            found: id.to_string(),
            expected: "an agent or a client".into(),
            fleet: fleet.to_owned(),
        }),
    }
}
