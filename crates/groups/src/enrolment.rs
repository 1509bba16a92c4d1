//! A member's own statement that it is in a group.

use robeing_bft::{
    crypto::PublicKey,
    epoch::{Incarnation, Member},
    error::DecodeError,
    wire::{Reader, Wire},
};

use crate::{GroupError, MAX_AGE_MS, MAX_GROUP_MEMBERS, MIN_GROUP_MEMBERS, Own, Signed, is_group_name};

/// The type of an enrolment for a new group, which is signed with it.
pub const ENROLMENT_TYPE: &str = "application/vnd.robeing.group-member.v1";
/// The type of an enrolment for a later epoch of a group, which is signed with it. It is another one, so that whoever
/// passes such enrolments on can't form a new group of the same name with them: a member that had started in that could
/// not start in the later epoch of the right one.
pub const NEXT_ENROLMENT_TYPE: &str = "application/vnd.robeing.group-next-member.v1";
/// What errors call it.
const WHAT: &str = "enrolment of a member";

/// "In this group of these members, this is my disk and my key."
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// The fleet: how the SPIFFE ids of its members begin.
    pub fleet: String,
    /// The group.
    pub group: String,
    /// The names of all members, in increasing order.
    pub members: Vec<String>,
    /// The member's name.
    pub name: String,
    /// The identity of its disk.
    pub incarnation: Incarnation,
    /// The key with which it signs what it says in the group.
    pub key: PublicKey,
    /// When the member signed this, Unix milliseconds.
    pub at_ms: u64,
}

impl Wire for Enrolment {
    fn put(&self, out: &mut Vec<u8>) {
        self.fleet.put(out);
        self.group.put(out);
        self.members.put(out);
        self.name.put(out);
        self.incarnation.put(out);
        self.key.put(out);
        self.at_ms.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            fleet: Wire::take(input)?,
            group: Wire::take(input)?,
            members: Wire::take(input)?,
            name: Wire::take(input)?,
            incarnation: Wire::take(input)?,
            key: Wire::take(input)?,
            at_ms: Wire::take(input)?,
        })
    }
}

impl Enrolment {
    /// Returns the names of members in their order, if they can form a group.
    ///
    /// # Errors
    /// [`GroupError::Members`] if they are too few or too many, or one is there twice.
    pub fn in_order(members: &[String]) -> Result<Vec<String>, GroupError> {
        let mut names = members.to_vec();
        names.sort();
        names.dedup();
        let count = names.len();
        if count != members.len() || !(MIN_GROUP_MEMBERS..=MAX_GROUP_MEMBERS).contains(&count) {
            return Err(GroupError::Members(count));
        }
        Ok(names)
    }

    /// Signs the enrolment for a new group.
    ///
    /// # Errors
    /// [`GroupError`] if it is not allowed, or can't be signed.
    pub fn sign(&self, own: &Own<'_>) -> Result<Signed, GroupError> {
        self.sign_as(ENROLMENT_TYPE, own)
    }

    /// Signs the enrolment for a later epoch of a group.
    ///
    /// # Errors
    /// [`GroupError`] if it is not allowed, or can't be signed.
    pub fn sign_next(&self, own: &Own<'_>) -> Result<Signed, GroupError> {
        self.sign_as(NEXT_ENROLMENT_TYPE, own)
    }

    fn sign_as(&self, kind: &str, own: &Own<'_>) -> Result<Signed, GroupError> {
        self.check()?;
        Signed::make(WHAT, kind, self.encoded(), own)
    }

    fn check(&self) -> Result<(), GroupError> {
        if !is_group_name(&self.group) {
            return Err(GroupError::Name(self.group.chars().take(100).collect()));
        }
        if Self::in_order(&self.members)? != self.members {
            return Err(GroupError::malformed(WHAT, "its members are not in order"));
        }
        let is_member = self.members.contains(&self.name);
        if is_member { Ok(()) } else { Err(GroupError::Other { what: WHAT, part: "group: it is of no member" }) }
    }

    /// Reads a signed enrolment. This verifies no signature.
    ///
    /// # Errors
    /// [`GroupError`] if it is malformed, or not allowed.
    pub fn read(signed: &Signed) -> Result<Self, GroupError> {
        let enrolment = Self::decoded(&signed.statement.0).map_err(GroupError::undecodable(WHAT))?;
        enrolment.check()?;
        Ok(enrolment)
    }

    /// Reads a signed enrolment for a new group, and verifies that the member itself signed it, with a certificate that
    /// was valid then. Whether the authority can be trusted, the caller decides.
    ///
    /// # Errors
    /// [`GroupError`] with what is wrong.
    pub fn verify(signed: &Signed) -> Result<Self, GroupError> {
        Self::verify_as(ENROLMENT_TYPE, signed)
    }

    /// Verifies an enrolment for a later epoch of a group like [`verify`](Self::verify).
    ///
    /// # Errors
    /// [`GroupError`] with what is wrong.
    pub fn verify_next(signed: &Signed) -> Result<Self, GroupError> {
        Self::verify_as(NEXT_ENROLMENT_TYPE, signed)
    }

    fn verify_as(kind: &str, signed: &Signed) -> Result<Self, GroupError> {
        let enrolment = Self::read(signed)?;
        let id = signed.verify(WHAT, kind, enrolment.at_ms)?;
        let Self { fleet, name, .. } = &enrolment;
        if !id.role().is_agent() || id.name() != name || id.realm().to_string() != *fleet {
            let (found, expected, fleet) = (id.to_string(), name.clone(), fleet.clone());
            return Err(GroupError::OtherSigner { what: WHAT, found, expected, fleet });
        }
        Ok(enrolment)
    }

    /// Checks that the enrolment was signed about now, Unix milliseconds.
    ///
    /// # Errors
    /// [`GroupError::Stale`] if it was not.
    pub fn check_age(&self, now: u64) -> Result<(), GroupError> {
        let is_new = now.abs_diff(self.at_ms) <= MAX_AGE_MS;
        if is_new { Ok(()) } else { Err(GroupError::Stale { what: WHAT, at: self.at_ms }) }
    }

    /// Returns the member of the epoch.
    pub fn member(&self) -> Member {
        Member { name: self.name.clone(), incarnation: self.incarnation, key: self.key }
    }
}
