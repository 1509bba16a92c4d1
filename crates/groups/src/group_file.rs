//! The description of a group.

use robeing_bft::{
    crypto::PublicKey,
    epoch::{Epoch, Membership, Parameters},
    error::EpochError,
    state::State,
};
use robeing_identity::TrustBundle;
use robeing_votes::hex;
use serde::{Deserialize, Serialize};

use crate::{Enrolment, GroupError, Ledger, MAX_GROUP_FILE_BYTES, MAX_GROUP_MEMBERS, Signed};

/// The version of the description's form, as its `apiVersion`.
pub const GROUP_FILE_VERSION: &str = "robeing.io/group-file/v1";
/// What errors call it.
const WHAT: &str = "description of the group";

/// The description of a group: the enrolments of its members, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GroupFile {
    /// [`GROUP_FILE_VERSION`].
    pub api_version: String,
    /// The members' enrolments.
    pub members: Vec<Signed>,
}

/// A group whose description was verified.
#[derive(Clone, Debug)]
pub struct Group {
    file: GroupFile,
    enrolments: Vec<Enrolment>,
    epoch: Epoch,
    initial: State,
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
        Ok(Self { api_version: GROUP_FILE_VERSION.into(), members })
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
        if self.members.len() > MAX_GROUP_MEMBERS {
            return Err(GroupError::Members(self.members.len()));
        }
        let enrolments = self.members.iter().map(Enrolment::verify).collect::<Result<Vec<_>, _>>()?;
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
            number: 0,
            members: enrolments.iter().map(Enrolment::member).collect(),
            clients: Vec::new(),
            parameters: Parameters::default(),
        };
        let too_large = || GroupError::Epoch(EpochError::Parameter("snapshot"));
        let initial = State::genesis(&Ledger::default()).ok_or_else(too_large)?;
        let epoch = Epoch::first(membership, &initial)?;
        Ok(Group { file: self, enrolments, epoch, initial })
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

    /// Returns the state with which the group begins.
    pub fn initial(&self) -> &State {
        &self.initial
    }

    /// Returns the members' names, in their order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.epoch.members.iter().map(|member| member.name.as_str())
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

    /// Checks that every member's certificate was issued by one of these authorities.
    ///
    /// # Errors
    /// [`GroupError::Untrusted`] if one was not.
    pub fn check_trust(&self, bundle: &TrustBundle) -> Result<(), GroupError> {
        let members = self.file.members.iter().zip(&self.enrolments);
        let mut untrusted = members.filter(|(one, _)| !one.is_trusted_by(bundle));
        match untrusted.next() {
            Some((_, enrolment)) => Err(GroupError::Untrusted(enrolment.name.clone())),
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
