//! A ballot as a file, from which anybody can verify it without the fleet.

mod encoded;
mod report;
mod times;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::{
    encoded::Base64,
    report::{CheckedVote, Report, Standing, Tally},
};
use crate::{BallotContent, Choice, MAX_ELECTORS, MAX_FILE_BYTES, MAX_OPTIONS, MAX_WEIGHT, VoteError};

/// The version of the file's form, as its `apiVersion`.
pub const FILE_VERSION: &str = "robeing.io/ballot-file/v1";

/// A ballot with all its votes, and what proves them. Times are Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BallotFile {
    /// [`FILE_VERSION`].
    pub api_version: String,
    /// The fleet: how the SPIFFE ids of its members begin.
    pub fleet: String,
    /// The ballot's id, a UUID.
    pub id: String,
    /// The question.
    pub question: String,
    /// The options; none: the question was to be approved or rejected.
    #[serde(default)]
    pub options: Vec<String>,
    /// The members who vote, by name.
    pub electorate: Vec<FileElector>,
    /// What decides the ballot.
    pub threshold: FileThreshold,
    /// How long the ballot is open, ms.
    pub ttl_ms: u64,
    /// The digest of all the above, but the version, as hexadecimal digits; see [`BallotContent::digest`].
    pub digest: String,
    /// Who opened the ballot.
    pub opened_by: String,
    /// When.
    pub opened_at_ms: u64,
    /// When the ballot was closed, if it is.
    #[serde(default)]
    pub closed_at_ms: Option<u64>,
    /// What became of the ballot.
    pub outcome: FileOutcome,
    /// The number of the option that was approved, from 1; 0: none.
    #[serde(default)]
    pub option: u32,
    /// The votes, in the order in which they were counted.
    #[serde(default)]
    pub votes: Vec<FileVote>,
    /// The certificates of the authorities, DER, that the votes refer to.
    #[serde(default)]
    pub authorities: Vec<Base64>,
}

/// A member of a ballot's electorate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileElector {
    /// An agent's name, or `client:NAME`.
    pub name: String,
    /// The weight of the member's vote, 1 to [`MAX_WEIGHT`].
    pub weight: u32,
}

/// The fraction of the weight of the whole electorate that approves a ballot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileThreshold {
    /// The numerator, 1 to the denominator.
    pub numerator: u32,
    /// The denominator.
    pub denominator: u32,
}

/// What became of a ballot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileOutcome {
    /// It is not closed.
    Open,
    /// The threshold was reached.
    Approved,
    /// The threshold could no longer be reached.
    Rejected,
    /// Neither, until the deadline.
    Expired,
}

/// A vote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileVote {
    /// Who voted.
    pub member: String,
    /// What.
    pub choice: Choice,
    /// The number of the approved option, from 1; 0: none.
    #[serde(default)]
    pub option: u32,
    /// Why.
    #[serde(default)]
    pub reason: String,
    /// When.
    pub at_ms: u64,
    /// The coordinator that checked who voted.
    pub attested_by: String,
    /// What proves the vote; without it the coordinator is to be believed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<FileEvidence>,
}

/// What proves a vote; see [`Evidence`](crate::Evidence).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FileEvidence {
    /// The vote with its signature.
    pub envelope: Base64,
    /// The binding of the voting key.
    pub binding: Base64,
    /// The member's certificate, DER.
    pub certificate: Base64,
    /// The index of the authority that issued it, in [`BallotFile::authorities`], from 0.
    pub authority: usize,
}

impl BallotFile {
    /// Reads a file of at most [`MAX_FILE_BYTES`]. This verifies no vote.
    ///
    /// # Errors
    /// [`VoteError`] if it is too large, malformed, or of another version, or no ballot can be like that.
    pub fn from_json(bytes: &[u8]) -> Result<Self, VoteError> {
        VoteError::if_larger("file of the ballot", bytes.len(), MAX_FILE_BYTES)?;
        let file: Self = serde_json::from_slice(bytes).map_err(malformed)?;
        file.check().map_err(malformed)?;
        Ok(file)
    }

    /// Writes the file, with a line break at its end.
    pub fn to_json(&self) -> String {
        // Nothing in it can fail to be written: all keys are texts.
        let text = serde_json::to_string_pretty(self).unwrap_or_default();
        text + "\n"
    }

    /// Adds the certificate of an authority, DER, unless it is there already, and returns its index.
    pub fn authority(&mut self, der: Bytes) -> usize {
        let der = Base64(der);
        self.authorities.iter().position(|known| *known == der).unwrap_or_else(|| {
            self.authorities.push(der);
            self.authorities.len() - 1
        })
    }

    /// Returns an error if no ballot can be like that.
    fn check(&self) -> Result<(), String> {
        let Self { api_version, options, electorate, threshold, votes, .. } = self;
        let FileThreshold { numerator, denominator } = *threshold;
        let problem = if api_version != FILE_VERSION {
            format!("its apiVersion is {api_version:?}, not {FILE_VERSION:?}: read it with the version that wrote it")
        } else if Uuid::parse_str(&self.id).is_err() {
            format!("its id {:?} is no UUID", self.id)
        } else if !(1..=MAX_ELECTORS).contains(&electorate.len()) {
            format!("it has {} electors, must have 1 to {MAX_ELECTORS}", electorate.len())
        } else if !electorate.is_sorted_by(|one, next| one.name < next.name) {
            "its electors are not in the order of their names, each once".to_owned()
        } else if let Some(elector) = electorate.iter().find(|elector| !(1..=MAX_WEIGHT).contains(&elector.weight)) {
            format!("the weight of {:?} is {}, must be 1 to {MAX_WEIGHT}", elector.name, elector.weight)
        } else if numerator == 0 || numerator > denominator {
            format!("its threshold is {numerator}/{denominator}, must be more than 0 and at most 1")
        } else if options.len() == 1 || options.len() > MAX_OPTIONS {
            format!("it has {} options, must have none or 2 to {MAX_OPTIONS}", options.len())
        } else if votes.len() > MAX_ELECTORS || self.authorities.len() > MAX_ELECTORS {
            let authorities = self.authorities.len();
            format!("it has {} votes and {authorities} authorities, the most is {MAX_ELECTORS}", votes.len())
        } else {
            return Ok(());
        };
        Err(problem)
    }

    /// Returns the ballot's id; none if it is no UUID.
    fn number(&self) -> Option<u128> {
        Uuid::parse_str(&self.id).ok().map(|id| id.as_u128())
    }

    /// Returns what the ballot is about.
    fn content(&self, id: u128) -> BallotContent<'_> {
        BallotContent {
            fleet: &self.fleet,
            id,
            question: &self.question,
            options: &self.options,
            electorate: self.electorate.iter().map(|elector| (elector.name.as_str(), elector.weight)).collect(),
            threshold: (self.threshold.numerator, self.threshold.denominator),
            ttl: self.ttl_ms,
        }
    }
}

fn malformed(problem: impl std::fmt::Display) -> VoteError {
    VoteError::malformed("file of the ballot", problem)
}
