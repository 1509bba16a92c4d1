//! What clients ask the members of a group, and what members send each other.
//!
//! Clients send a message of the type [`CLIENT_KIND`] to a member: an [`Ask`] as JSON. The reply is JSON, too. Members
//! send each other messages of the type [`PEER_KIND`]: the group's name, and a message of the protocol.

use bytes::Bytes;
use robeing_bft::wire::Wire;
use robeing_votes::Base64;
use serde::{Deserialize, Serialize};

use crate::{
    Group, GroupError, GroupFile, Signed,
    ballot::{Attestation, BallotRecord, ballot_id},
    is_group_name,
};

/// The type of messages between the members of a group.
pub const PEER_KIND: &str = "robeing.bft.v1";
/// The type of messages of clients to a member of a group.
pub const CLIENT_KIND: &str = "robeing.bft.client.v1";
/// Maximum number of decisions in one answer.
pub const MAX_PAGE: u32 = 256;
/// Maximum size of the decisions in one answer, bytes, unless there is only one.
pub const MAX_PAGE_BYTES: usize = 512 * 1024;

/// What is asked of a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Ask {
    /// To make a key for a group, and to sign that it is the member's: [`Enrolled`].
    Enrol {
        /// The group.
        group: String,
        /// The names of all members.
        members: Vec<String>,
    },
    /// To start as a member of a group: [`Shown`].
    Form {
        /// The group's description.
        file: GroupFile,
    },
    /// Which group this is, and how the member is doing: [`Shown`].
    Show {
        /// The group.
        group: String,
    },
    /// To propose something, and to tell when it is decided: [`Decided`].
    Propose {
        /// The group.
        group: String,
        /// The [`Proposal`](crate::Proposal), signed by its author.
        proposal: Signed,
    },
    /// To open a ballot of all members, and to tell when it is open: [`Opened`].
    OpenBallot {
        /// The group.
        group: String,
        /// The [`Opening`](crate::ballot::Opening), signed by whoever opens it.
        opening: Signed,
    },
    /// What a ballot has come to: [`BallotShown`].
    ShowBallot {
        /// The group.
        group: String,
        /// The ballot's id, hexadecimal digits.
        ballot: String,
    },
    /// To sign that a key is the agent's in the next epoch of a group, of which it may be a member now: [`Enrolled`].
    EnrolNext {
        /// The group.
        group: String,
        /// The names of all members of the next epoch.
        members: Vec<String>,
    },
    /// To approve the next epoch, if the group has approved it by a ballot: [`Approved`].
    Approve {
        /// The group.
        group: String,
        /// The enrolments of the next members.
        next: Vec<Signed>,
    },
    /// To end the epoch, and to tell when that is decided: [`Decided`].
    Change {
        /// The group.
        group: String,
        /// The enrolments of the next members.
        next: Vec<Signed>,
        /// The approvals of a quorum.
        approvals: Vec<Base64>,
    },
    /// What has ended the epoch: [`HandedOver`].
    Handover {
        /// The group.
        group: String,
    },
    /// A part of the state with which an epoch starts: [`StatePart`].
    State {
        /// The group.
        group: String,
        /// The number of the epoch.
        epoch: u64,
        /// The number of the part's first byte.
        from: u64,
    },
    /// The decisions: [`Page`].
    Log {
        /// The group.
        group: String,
        /// The number of the first decision, from 1.
        from: u64,
        /// How many, at most [`MAX_PAGE`].
        limit: u32,
    },
}

/// The answer to [`Ask::Enrol`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Enrolled {
    /// The [`Enrolment`](crate::Enrolment).
    pub enrolment: Signed,
}

/// The answer to [`Ask::Form`] and [`Ask::Show`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Shown {
    /// The group's description.
    pub file: GroupFile,
    /// How the member is doing.
    pub status: Status,
}

/// How a member is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    /// The view of the protocol.
    pub view: u64,
    /// Whether the member takes part in it, or waits for it to begin.
    pub active: bool,
    /// The number of the last decision.
    pub decided: u64,
    /// Up to which decision its state is proved.
    pub stable: u64,
    /// Why the member does not take part; empty: it does.
    #[serde(default)]
    pub problem: String,
}

/// The answer to [`Ask::Propose`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decided {
    /// The number of the decision that contains the proposal.
    pub decision: u64,
}

/// The answer to [`Ask::Approve`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Approved {
    /// The encoded approval.
    pub approval: Base64,
}

/// The answer to [`Ask::Handover`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandedOver {
    /// The encoded decision that ended the epoch.
    pub decision: Base64,
    /// The encoded proof of the state after it.
    pub stable: Base64,
}

/// The answer to [`Ask::State`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatePart {
    /// The part, at most [`MAX_PAGE_BYTES`].
    pub bytes: Base64,
    /// The size of the whole state, bytes.
    pub size: u64,
}

/// The answer to [`Ask::OpenBallot`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Opened {
    /// The ballot's id, hexadecimal digits.
    pub ballot: String,
    /// The number of the decision that opened it.
    pub decision: u64,
}

/// The answer to [`Ask::ShowBallot`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BallotShown {
    /// The [`Opening`](crate::ballot::Opening), signed by whoever opened the ballot.
    pub opening: Signed,
    /// The encoded [`BallotRecord`](crate::ballot::BallotRecord), as the member has it.
    pub record: Base64,
    /// The member's signature of it, if the ballot is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<Base64>,
}

/// The answer to [`Ask::Log`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Page {
    /// The encoded decisions, in order. Those that the member has not kept are left out.
    pub decisions: Vec<Base64>,
    /// The number of the last decision that there is.
    pub last: u64,
}

impl Ask {
    /// Writes the message.
    pub fn to_bytes(&self) -> Bytes {
        json(self)
    }

    /// Reads a message, whose size the messenger limits.
    ///
    /// # Errors
    /// [`GroupError::Malformed`] if it is none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, GroupError> {
        read("message to a member of a group", bytes)
    }

    /// Returns the group's name, if the message has it in plain.
    pub fn group(&self) -> Option<&str> {
        match self {
            Self::Enrol { group, .. }
            | Self::Show { group }
            | Self::Propose { group, .. }
            | Self::OpenBallot { group, .. }
            | Self::ShowBallot { group, .. }
            | Self::EnrolNext { group, .. }
            | Self::Approve { group, .. }
            | Self::Change { group, .. }
            | Self::Handover { group }
            | Self::State { group, .. }
            | Self::Log { group, .. } => Some(group),
            Self::Form { .. } => None,
        }
    }
}

impl BallotShown {
    /// Reads what a member says of the ballot with this id, with its signature if the ballot is closed.
    ///
    /// # Errors
    /// [`GroupError`] if it is of another ballot, or malformed, or the member has not signed it.
    pub fn read(
        &self,
        group: &Group,
        member: &str,
        ballot: &[u8; 32],
    ) -> Result<(BallotRecord, Option<Attestation>), GroupError> {
        let what = "record of the ballot";
        let record = BallotRecord::decoded(&self.record.0).map_err(GroupError::undecodable(what))?;
        if record.ballot.0 != *ballot || ballot_id(&self.opening) != record.ballot {
            return Err(GroupError::Other { what, part: "ballot" });
        }
        let signature = self.signature.clone();
        let attestation = signature.map(|signature| Attestation { member: member.to_owned(), signature });
        let is_signed = attestation.as_ref().is_none_or(|one| group.has_attested(&record, one));
        if !is_signed || record.closed.is_some() != attestation.is_some() {
            let problem = format!("{member} has not signed what it says");
            return Err(GroupError::NotProved { what: "outcome of the ballot", problem });
        }
        Ok((record, attestation))
    }
}

/// Writes an answer.
pub fn json<T: Serialize>(answer: &T) -> Bytes {
    // Texts and numbers alone: it can't fail.
    serde_json::to_vec(answer).unwrap_or_default().into()
}

/// Reads an answer.
///
/// # Errors
/// [`GroupError::Malformed`] if it has another form.
pub fn read<'a, T: Deserialize<'a>>(what: &'static str, bytes: &'a [u8]) -> Result<T, GroupError> {
    serde_json::from_slice(bytes).map_err(|error| GroupError::malformed(what, error))
}

/// Returns a message between members of a group: a byte with the length of the name, the name, and the message.
pub fn to_peer(group: &str, message: &[u8]) -> Bytes {
    let length = u8::try_from(group.len()).unwrap_or(u8::MAX);
    let mut bytes = Vec::with_capacity(1 + group.len() + message.len());
    bytes.push(length);
    bytes.extend_from_slice(group.as_bytes());
    bytes.extend_from_slice(message);
    bytes.into()
}

/// Reads the name of the group, and returns the rest; `None` if there is no such name.
pub fn from_peer(bytes: &Bytes) -> Option<(&str, Bytes)> {
    let (length, rest) = bytes.split_first()?;
    let name = str::from_utf8(rest.get(..usize::from(*length))?).ok()?;
    is_group_name(name).then(|| (name, bytes.slice(1 + name.len()..)))
}
