//! The members of a group's next epoch.
//!
//! A group decides on them by a ballot of its own, whose question names them by the digest of their disks and keys. A
//! member approves the next epoch only if its own state has such a ballot, approved by a quorum: not because a client
//! or a coordinator says so. With the approvals of a quorum, the change is decided, and is the epoch's last decision.

use robeing_bft::{
    certificate::Endorsement,
    crypto::{Context, Ed25519},
    epoch::{EpochChange, Membership},
    error::DecodeError,
    wire::Wire,
};
use robeing_identity::TrustBundle;
use robeing_votes::{Base64, Choice, FileOutcome, hex};

use crate::{Enrolment, Group, GroupError, Ledger, Signed, group_file::membership_of};

/// Length up to which the names of the next members are in the question, bytes.
const NAMES_SHOWN: usize = 3_000;
/// What errors call it.
const WHAT: &str = "enrolment for the next epoch";

/// The members of the next epoch, who have enrolled.
#[derive(Clone, Debug)]
pub struct NextEpoch {
    enrolments: Vec<Enrolment>,
    signed: Vec<Signed>,
    membership: Membership,
}

impl NextEpoch {
    /// Verifies the enrolments of the members of a group's next epoch, in the order of their names, and that the group
    /// can be described with them. Whether their authorities can be trusted, and whether they are new, the caller
    /// decides.
    ///
    /// # Errors
    /// [`GroupError`] with what is wrong.
    pub fn verify(group: &Group, signed: Vec<Signed>) -> Result<Self, GroupError> {
        let (enrolments, membership) = membership_of(&signed, group.epoch().number.saturating_add(1))?;
        membership.check_follows(group.epoch())?;
        group.file().check_room(&membership, &signed)?;
        Ok(Self { enrolments, signed, membership })
    }

    /// Returns the members, with their disks and keys.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Returns the enrolments.
    pub fn signed(&self) -> &[Signed] {
        &self.signed
    }

    /// Checks that the members enrolled about now, Unix milliseconds.
    ///
    /// # Errors
    /// [`GroupError::Stale`] if one did not.
    pub fn check_age(&self, now: u64) -> Result<(), GroupError> {
        self.enrolments.iter().try_for_each(|enrolment| enrolment.check_age(now))
    }

    /// Checks that every member's certificate was issued by one of these authorities.
    ///
    /// # Errors
    /// [`GroupError::Untrusted`] if one was not.
    pub fn check_trust(&self, bundle: &TrustBundle) -> Result<(), GroupError> {
        let mut members = self.signed.iter().zip(&self.enrolments);
        match members.find(|(signed, _)| !signed.is_trusted_by(bundle)) {
            Some((_, enrolment)) => Err(GroupError::Untrusted(enrolment.name.clone())),
            None => Ok(()),
        }
    }

    /// Returns the question of the ballot by which the present members decide.
    pub fn question(&self) -> String {
        question(&self.membership)
    }

    /// Returns whether an encoded approval is that of a member of the group.
    pub fn is_approval(&self, group: &Group, member: &str, approval: &Base64) -> bool {
        let Ok(Endorsement { replica, signature }) = Endorsement::decoded(&approval.0) else { return false };
        let Some(key) = group.key_of(member) else { return false };
        let scope = group.epoch().scope();
        let next = self.membership.domain();
        scope.key(replica) == Some(key) && Context::Approval.verify(scope.domain(), &next, key, &signature, &Ed25519)
    }

    /// Returns the change with its encoded approvals: of a quorum of the present members, one each.
    ///
    /// # Errors
    /// [`GroupError`] if an approval is malformed.
    pub fn change(&self, approvals: &[Base64]) -> Result<EpochChange, GroupError> {
        let decoded = approvals.iter().map(|Base64(bytes)| Endorsement::decoded(bytes));
        let mut approvals: Vec<Endorsement> = decoded.collect::<Result<_, DecodeError>>().map_err(|error| {
            let problem = error.to_string();
            GroupError::Malformed { what: WHAT, problem }
        })?;
        approvals.sort_by_key(|approval| approval.replica);
        approvals.dedup_by_key(|approval| approval.replica);
        Ok(EpochChange { next: self.membership.clone(), approvals })
    }
}

/// Returns the question of the ballot about the members of the next epoch.
fn question(next: &Membership) -> String {
    let names: Vec<&str> = next.members.iter().map(|member| member.name.as_str()).collect();
    let names = names.join(", ");
    let names = if names.len() > NAMES_SHOWN { format!("{} agents", next.members.len()) } else { names };
    let (group, number, keys) = (&next.group, next.number, hex(&next.domain().0));
    format!("Shall the members of the group {group} be {names} in its epoch {number}? (their disks and keys: {keys})")
}

/// Returns whether a quorum of so many members has approved the members of the next epoch by a ballot.
pub fn is_approved(ledger: &Ledger, next: &Membership, quorum: usize) -> bool {
    let question = question(next);
    ledger.ballots().all().any(|ballot| {
        let record = ballot.record();
        let approvals = record.votes.iter().filter(|vote| vote.choice == Choice::Approve).count();
        let is_it = ballot.opening().question == question && ballot.opening().options.is_empty();
        is_it && record.outcome == FileOutcome::Approved && approvals >= quorum
    })
}
