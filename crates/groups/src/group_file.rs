//! The description of a group.

use robeing_bft::{
    certificate::{Decision, Stable, View},
    crypto::{Ed25519, PublicKey},
    epoch::{Epoch, Membership, Parameters},
    error::EpochError,
    state::State,
    wire::Wire,
};
use robeing_identity::TrustBundle;
use robeing_votes::{Base64, hex};
use serde::{Deserialize, Serialize};

use crate::{Enrolment, GroupError, Ledger, MAX_EPOCHS, MAX_GROUP_FILE_BYTES, MAX_GROUP_MEMBERS, Signed};

/// The version of the description's form, as its `apiVersion`.
pub const GROUP_FILE_VERSION: &str = "robeing.io/group-file/v1";
/// What errors call it.
const WHAT: &str = "description of the group";
/// Size of a member's signature in a proof, bytes: its index, and 64 bytes.
const ENDORSEMENT_BYTES: usize = 66;
/// Size of a proof without signatures, and of what is around a change of members, bytes, at most.
const PROOF_BYTES: usize = 256;

/// An epoch that has ended, and what proves that the next one follows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EarlierEpoch {
    /// The enrolments of its members, in the order of their names.
    pub members: Vec<Signed>,
    /// The encoded decision that ended it: that for the members of the next one.
    pub decision: Base64,
    /// The encoded proof of the state after it, with which the next one starts.
    pub stable: Base64,
}

/// The description of a group: the enrolments of its members, in the order of their names, and its earlier epochs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GroupFile {
    /// [`GROUP_FILE_VERSION`].
    pub api_version: String,
    /// The members' enrolments.
    pub members: Vec<Signed>,
    /// The epochs that have ended, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<EarlierEpoch>,
}

/// A group whose description was verified.
#[derive(Clone, Debug)]
pub struct Group {
    file: GroupFile,
    enrolments: Vec<Enrolment>,
    earlier: Vec<Epoch>,
    epoch: Epoch,
    initial: State,
}

/// Verifies enrolments as those of the members of an epoch: of a new group, or of a later epoch.
pub(crate) fn membership_of(members: &[Signed], number: u64) -> Result<(Vec<Enrolment>, Membership), GroupError> {
    if members.len() > MAX_GROUP_MEMBERS {
        return Err(GroupError::Members(members.len()));
    }
    let verify = |one: &Signed| if number == 0 { Enrolment::verify(one) } else { Enrolment::verify_next(one) };
    let enrolments = members.iter().map(verify).collect::<Result<Vec<_>, _>>()?;
    let Some(first) = enrolments.first() else { return Err(GroupError::Members(0)) };
    for (part, same) in [
        ("fleet", enrolments.iter().all(|one| one.fleet == first.fleet)),
        ("group", enrolments.iter().all(|one| one.group == first.group)),
        ("list of members", enrolments.iter().all(|one| one.members == first.members)),
        ("member", enrolments.iter().map(|one| &one.name).eq(&first.members)),
    ] {
        if !same {
            return Err(GroupError::Other { what: "enrolment of a member", part });
        }
    }
    let membership = Membership {
        fleet: first.fleet.clone(),
        group: first.group.clone(),
        number,
        members: enrolments.iter().map(Enrolment::member).collect(),
        clients: Vec::new(),
        parameters: Parameters::default(),
    };
    Ok((enrolments, membership))
}

impl EarlierEpoch {
    /// Returns the epoch that follows this one, whose own epoch is `ending`.
    fn next(&self, ending: &Epoch) -> Result<Epoch, GroupError> {
        let decision = Decision::decoded(&self.decision.0).map_err(GroupError::undecodable("end of an epoch"))?;
        let stable = Stable::decoded(&self.stable.0).map_err(GroupError::undecodable("end of an epoch"))?;
        let seq = decision.seq().0;
        let next = Epoch::following(ending.scope(), &decision, &stable, &Ed25519);
        next.map_err(|problem| GroupError::Decision { seq, problem })
    }
}

impl GroupFile {
    /// Makes the description of the group of these members.
    ///
    /// # Errors
    /// [`GroupError`] if an enrolment proves nothing.
    pub fn of(enrolments: Vec<Signed>) -> Result<Self, GroupError> {
        let mut named = Vec::with_capacity(enrolments.len());
        for signed in enrolments {
            named.push((Enrolment::verify(&signed)?.name, signed));
        }
        named.sort_by(|(one, _), (other, _)| one.cmp(other));
        let members = named.into_iter().map(|(_, signed)| signed).collect();
        Ok(Self { api_version: GROUP_FILE_VERSION.into(), members, earlier: Vec::new() })
    }

    /// Makes the description of the group in its next epoch, whose members have enrolled, from what has ended this one.
    #[must_use]
    pub fn followed_by(self, members: Vec<Signed>, decision: Base64, stable: Base64) -> Self {
        let Self { api_version, members: before, mut earlier } = self;
        earlier.push(EarlierEpoch { members: before, decision, stable });
        Self { api_version, members, earlier }
    }

    /// Checks that there can be a description of the group in its next epoch, whose members have enrolled: without one,
    /// nobody could start in it, and the group would end with this epoch.
    ///
    /// # Errors
    /// [`GroupError`] if there are too many epochs, or it would be too large.
    pub(crate) fn check_room(&self, next: &Membership, enrolled: &[Signed]) -> Result<(), GroupError> {
        if self.earlier.len().saturating_add(1) >= MAX_EPOCHS {
            let problem = format!("it has {MAX_EPOCHS} epochs, the most there may be: form a new group");
            return Err(GroupError::malformed(WHAT, problem));
        }
        // The largest that may end the epoch: the change with its approvals, and the proofs of it and of the state.
        let proof = PROOF_BYTES.saturating_add(self.members.len().saturating_mul(ENDORSEMENT_BYTES));
        let decision = next.encoded().len().saturating_add(proof.saturating_mul(2));
        let [decision, stable] = [decision, proof].map(|bytes| Base64(vec![0; bytes].into()));
        let whole = self.clone().followed_by(enrolled.to_vec(), decision, stable);
        GroupError::if_larger("description of the group in its next epoch", whole.to_json().len(), MAX_GROUP_FILE_BYTES)
    }

    /// Reads a description. This verifies nothing.
    ///
    /// # Errors
    /// [`GroupError`] if it is too large, malformed or of another version.
    pub fn from_json(json: &[u8]) -> Result<Self, GroupError> {
        GroupError::if_larger(WHAT, json.len(), MAX_GROUP_FILE_BYTES)?;
        serde_json::from_slice(json).map_err(|error| GroupError::malformed(WHAT, error))
    }

    /// Writes the description.
    pub fn to_json(&self) -> String {
        // Texts alone: it can't fail.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Verifies the description: that every member itself signed that it is in the group of just these members. Whether
    /// their authorities can be trusted, [`Group::check_trust`] tells.
    ///
    /// # Errors
    /// [`GroupError`] with what is wrong.
    pub fn verify(self) -> Result<Group, GroupError> {
        if self.api_version != GROUP_FILE_VERSION {
            return Err(GroupError::malformed(WHAT, "it is of another version"));
        }
        if self.earlier.len() >= MAX_EPOCHS {
            return Err(GroupError::malformed(WHAT, format!("it has more than {MAX_EPOCHS} epochs")));
        }
        let too_large = || GroupError::Epoch(EpochError::Parameter("snapshot"));
        let initial = State::genesis(&Ledger::default()).ok_or_else(too_large)?;
        let founders = self.earlier.first().map_or(&self.members, |first| &first.members);
        let (mut enrolments, membership) = membership_of(founders, 0)?;
        let mut epoch = Epoch::first(membership, &initial)?;
        let mut earlier = Vec::with_capacity(self.earlier.len());
        let all_later = self.earlier.iter().skip(1).map(|one| &one.members).chain([&self.members]);
        for ((ended, members), number) in self.earlier.iter().zip(all_later).zip(1..) {
            let next = ended.next(&epoch)?;
            let (followers, membership) = membership_of(members, number)?;
            if next.scope().domain() != &membership.domain() {
                return Err(GroupError::Other { what: WHAT, part: "epoch" });
            }
            enrolments = followers;
            earlier.push(std::mem::replace(&mut epoch, next));
        }
        Ok(Group { file: self, enrolments, earlier, epoch, initial })
    }
}

impl Group {
    /// Returns the description.
    pub fn file(&self) -> &GroupFile {
        &self.file
    }

    /// Returns the group's name.
    pub fn name(&self) -> &str {
        &self.epoch.group
    }

    /// Returns the epoch of these members.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// Returns the epoch before this one.
    pub fn before(&self) -> Option<&Epoch> {
        self.earlier.last()
    }

    /// Returns the epoch of a decision, by its number.
    pub fn epoch_of(&self, decision: u64) -> &Epoch {
        let began = self.earlier.iter().chain([&self.epoch]).rev().find(|epoch| epoch.start().seq.0 < decision);
        began.or(self.earlier.first()).unwrap_or(&self.epoch)
    }

    /// Returns whether this is a later epoch of the same group as another description: one of its earlier epochs is
    /// that one's.
    pub fn follows(&self, other: &Self) -> bool {
        self.earlier.iter().any(|epoch| epoch.domain() == other.epoch.domain() && epoch.start() == other.epoch.start())
    }

    /// Returns the state with which the group begins in its first epoch. `None` in a later one: that starts with the
    /// last state of the one before.
    pub fn initial(&self) -> Option<&State> {
        self.earlier.is_empty().then_some(&self.initial)
    }

    /// Returns the members' names, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.epoch.members.iter().map(|member| member.name.as_str())
    }

    /// Returns the name of the member that is the primary of a view.
    pub fn primary(&self, view: u64) -> &str {
        let replica = self.epoch.primary(View(view));
        self.epoch.members.get(usize::from(replica.0)).map_or("", |member| member.name.as_str())
    }

    /// Returns the name of the member with this key.
    pub fn name_of(&self, key: &PublicKey) -> Option<&str> {
        self.epoch.members.iter().find(|member| member.key == *key).map(|member| member.name.as_str())
    }

    /// Returns the key of the member with this name.
    pub fn key_of(&self, name: &str) -> Option<&PublicKey> {
        self.epoch.members.iter().find(|member| member.name == name).map(|member| &member.key)
    }

    /// Returns the digest of members, disks and keys, as hexadecimal digits: who has the same one has the same group.
    pub fn fingerprint(&self) -> String {
        hex(&self.epoch.domain().0)
    }

    /// Checks that every member's certificate was issued by one of these authorities, in all epochs.
    ///
    /// # Errors
    /// [`GroupError::Untrusted`] if one was not.
    pub fn check_trust(&self, bundle: &TrustBundle) -> Result<(), GroupError> {
        let earlier = self.file.earlier.iter().flat_map(|epoch| &epoch.members);
        let mut untrusted = earlier.chain(&self.file.members).filter(|one| !one.is_trusted_by(bundle));
        match untrusted.next() {
            Some(one) => Err(GroupError::Untrusted(Enrolment::read(one)?.name)),
            None => Ok(()),
        }
    }

    /// Checks that the members enrolled about now, Unix milliseconds: before they start.
    ///
    /// # Errors
    /// [`GroupError::Stale`] if one did not.
    pub fn check_age(&self, now: u64) -> Result<(), GroupError> {
        self.enrolments.iter().try_for_each(|enrolment| enrolment.check_age(now))
    }
}
