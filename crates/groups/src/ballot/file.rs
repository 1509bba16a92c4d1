//! A closed ballot of a group as a file, from which anybody can verify it without the fleet and without the log.

use std::collections::BTreeSet;

use robeing_bft::{
    certificate::Seq,
    crypto::{Context, Ed25519, PublicKey, Signature},
    wire::Wire,
};
use robeing_identity::{TrustBundle, digest};
use robeing_votes::{Base64, FileOutcome, hex};
use serde::{Deserialize, Serialize};

use super::{
    opening::{Opening, ballot_id},
    record::BallotRecord,
    state::{is_option, no_votes},
};
use crate::{Group, GroupError, GroupFile, MAX_GROUP_MEMBERS, Signed};

/// The version of the file's form, as its `apiVersion`.
pub const GROUP_BALLOT_FILE_VERSION: &str = "robeing.io/group-ballot-file/v1";
/// What errors call it.
const WHAT: &str = "file of the ballot";
/// Maximum size of the file, bytes of JSON.
const MAX_BYTES: usize = 1 << 20;

/// The signature of a member under a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Attestation {
    /// The member.
    pub member: String,
    /// Its signature.
    pub signature: Base64,
}

/// A closed ballot, with what proves its outcome.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GroupBallotFile {
    /// [`GROUP_BALLOT_FILE_VERSION`].
    pub api_version: String,
    /// The group's description.
    pub group: GroupFile,
    /// The [`Opening`], signed by whoever opened the ballot.
    pub opening: Signed,
    /// The encoded [`BallotRecord`].
    pub record: Base64,
    /// The signatures of a quorum of the members.
    pub attestations: Vec<Attestation>,
}

/// What was found in the file of a ballot: its outcome is proved, and follows from its votes.
#[derive(Clone, Debug)]
pub struct BallotReport {
    /// The group.
    pub group: Group,
    /// What the ballot is about.
    pub opening: Opening,
    /// Who opened it: an agent, or `client:NAME`. An error if nobody provably did: a member has made it up.
    pub author: Result<String, GroupError>,
    /// Whether an authority that is trusted certified the author; `None` if it was not said which ones are.
    pub is_trusted: Option<bool>,
    /// What it has come to.
    pub record: BallotRecord,
    /// The members whose signatures prove that.
    pub signers: Vec<String>,
    /// SHA-256 digests of the authorities that certified the members, as hexadecimal digits.
    pub authorities: Vec<String>,
}

impl GroupBallotFile {
    /// Makes a file.
    pub fn of(group: &Group, opening: Signed, record: &BallotRecord, attestations: Vec<Attestation>) -> Self {
        Self {
            api_version: GROUP_BALLOT_FILE_VERSION.into(),
            group: group.file().clone(),
            opening,
            record: Base64(record.encoded().into()),
            attestations,
        }
    }

    /// Reads a file. This verifies nothing.
    ///
    /// # Errors
    /// [`GroupError`] if it is too large, malformed or of another version.
    pub fn from_json(json: &[u8]) -> Result<Self, GroupError> {
        GroupError::if_larger(WHAT, json.len(), MAX_BYTES)?;
        let file: Self = serde_json::from_slice(json).map_err(|error| GroupError::malformed(WHAT, error))?;
        if file.api_version != GROUP_BALLOT_FILE_VERSION {
            return Err(GroupError::malformed(WHAT, "it is of another version"));
        }
        Ok(file)
    }

    /// Writes the file.
    pub fn to_json(&self) -> String {
        // Texts alone: it can't fail.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Verifies everything: the description of the group, that a quorum of its members has signed the record, and that
    /// its outcome follows from its votes. With `trusted`, the members must be certified by one of these authorities.
    ///
    /// # Errors
    /// [`GroupError`] with what is wrong first.
    pub fn verify(&self, trusted: Option<&TrustBundle>) -> Result<BallotReport, GroupError> {
        let group = self.group.clone().verify()?;
        if let Some(bundle) = trusted {
            group.check_trust(bundle)?;
        }
        let opening = Opening::read(&self.opening)?;
        let record = BallotRecord::decoded(&self.record.0).map_err(GroupError::undecodable("record of the ballot"))?;
        if record.ballot != ballot_id(&self.opening) || opening.group != *group.epoch().domain() {
            return Err(GroupError::Other { what: "record", part: "ballot" });
        }
        let signers = signers(&group, &record, &self.attestations)?;
        recount(&group, &opening, &record).map_err(|problem| GroupError::malformed("record of the ballot", problem))?;
        let authorities: BTreeSet<String> =
            self.group.members.iter().map(|member| hex(&digest(&member.authority.0))).collect();
        Ok(BallotReport {
            author: Opening::verify(&self.opening, &group).map(|(_, author)| author),
            is_trusted: trusted.map(|bundle| self.opening.is_trusted_by(bundle)),
            group,
            opening,
            record,
            signers,
            authorities: authorities.into_iter().collect(),
        })
    }
}

/// Returns the members that have signed a record, if they are a quorum.
fn signers(group: &Group, record: &BallotRecord, attestations: &[Attestation]) -> Result<Vec<String>, GroupError> {
    let not_proved = |problem: String| GroupError::NotProved { what: "outcome of the ballot", problem };
    if attestations.len() > MAX_GROUP_MEMBERS {
        return Err(GroupError::Members(attestations.len()));
    }
    let mut signers = BTreeSet::new();
    for one in attestations {
        if !group.has_attested(record, one) {
            return Err(not_proved(format!("the signature of {:?} is not that of a member", one.member)));
        }
        signers.insert(one.member.clone());
    }
    let need = group.epoch().quorums().quorum();
    if signers.len() < need {
        let signed = match signers.len() {
            1 => "1 member has".to_owned(),
            count => format!("{count} members have"),
        };
        return Err(not_proved(format!("{signed} signed it, and {need} must")));
    }
    Ok(signers.into_iter().collect())
}

impl Group {
    /// Returns whether a member has signed the record of a ballot.
    pub fn has_attested(&self, record: &BallotRecord, attestation: &Attestation) -> bool {
        let Ok(signature) = <[u8; 64]>::try_from(&attestation.signature.0[..]) else { return false };
        let Some(key) = self.key_of(&attestation.member) else { return false };
        Context::Attestation.verify(self.epoch().domain(), record, key, &Signature(signature), &Ed25519)
    }
}

/// Counts the votes of a record again. The error says what does not follow.
fn recount(group: &Group, opening: &Opening, record: &BallotRecord) -> Result<(), String> {
    let is_member = |key: &PublicKey| group.name_of(key).is_some();
    let mut tally = no_votes(opening, group.epoch().members.len());
    let (numerator, denominator) = opening.threshold;
    let (mut seen, mut last): (BTreeSet<&PublicKey>, Seq) = (BTreeSet::new(), record.opened);
    for vote in &record.votes {
        if !is_member(&vote.by) || !seen.insert(&vote.by) || vote.seq < last {
            return Err("a vote is of no member, or its second one, or out of order".into());
        }
        let is_decided = tally.decide(numerator, denominator).0 != FileOutcome::Open;
        if is_decided || !is_option(opening, vote.choice, vote.option) {
            return Err("a vote is for no option, or was cast when the ballot was decided".into());
        }
        tally.count(vote.choice, vote.option, 1);
        last = vote.seq;
    }
    let over: BTreeSet<&PublicKey> = record.expired.iter().filter(|key| is_member(key)).collect();
    let is_over = over.len() >= group.epoch().quorums().weak();
    let follows = match tally.decide(numerator, denominator) {
        (FileOutcome::Open, _) if is_over => (FileOutcome::Expired, 0),
        decided => decided,
    };
    let is_right = (record.outcome, record.option) == follows && record.closed.is_some_and(|closed| closed >= last);
    if is_right { Ok(()) } else { Err("its outcome does not follow from its votes".into()) }
}
