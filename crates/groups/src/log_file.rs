//! A group's decisions as a file, from which anybody can verify them without the fleet.

use std::collections::BTreeSet;

use robeing_bft::{certificate::Decision, crypto::Ed25519, epoch::Epoch, message::Operation, wire::Wire};
use robeing_identity::{TrustBundle, digest};
use robeing_votes::{Base64, hex};
use serde::{Deserialize, Serialize};

use crate::{Call, Group, GroupError, GroupFile, MAX_LOG_FILE_BYTES, Proposal, Signed, ballot::Opening};

/// The version of the file's form, as its `apiVersion`.
pub const LOG_FILE_VERSION: &str = "robeing.io/group-log/v1";
/// What errors call it.
const WHAT: &str = "file of decisions";

/// The authors and the ids of proposals that were decided.
pub type Seen = BTreeSet<(String, [u8; 16])>;

/// Decisions of a group, in order, with what proves them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LogFile {
    /// [`LOG_FILE_VERSION`].
    pub api_version: String,
    /// The group's description.
    pub group: GroupFile,
    /// The encoded decisions, each with its certificate.
    pub decisions: Vec<Base64>,
}

/// One call in a decision: a proposal, or a part of a ballot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedEntry {
    /// The member that proposed it.
    pub proposed_by: String,
    /// Who signed it: an agent, or `client:NAME`; for a vote the member itself. An error if nobody provably did: the
    /// member has made it up.
    pub author: Result<String, GroupError>,
    /// Whether an authority that is trusted certified the author; `None` if it was not said which ones are.
    pub is_trusted: Option<bool>,
    /// The proposal; `None` if it is none.
    pub proposal: Option<Proposal>,
    /// What it does to a ballot; `None` if it has nothing to do with one.
    pub ballot: Option<Call>,
    /// Whether its author had a proposal with this id decided before within the file, so that it counts for nothing
    /// here. Proposals of nobody, and of authors that are not trusted, never repeat one, and are never repeated.
    pub is_repeated: bool,
}

/// A decision that is proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedDecision {
    /// Its number.
    pub seq: u64,
    /// The members whose signatures prove it.
    pub signers: Vec<String>,
    /// What was decided.
    pub entries: Vec<CheckedEntry>,
}

impl CheckedDecision {
    /// Returns whether the decision contains this proposal, signed by this author.
    pub fn decides(&self, proposal: &Proposal, author: &str) -> bool {
        let is_it = |entry: &CheckedEntry| {
            entry.proposal.as_ref() == Some(proposal) && entry.author.as_ref().is_ok_and(|found| found == author)
        };
        self.entries.iter().any(is_it)
    }
}

/// What was found in a file: everything in it is proved.
#[derive(Clone, Debug)]
pub struct LogReport {
    /// The group.
    pub group: Group,
    /// The decisions.
    pub decisions: Vec<CheckedDecision>,
    /// Numbers of decisions before the last one that are not in the file.
    pub missing: u64,
    /// SHA-256 digests of the authorities that certified the members, as hexadecimal digits.
    pub authorities: Vec<String>,
}

impl LogFile {
    /// Makes a file.
    pub fn of(group: &Group, decisions: Vec<Base64>) -> Self {
        Self { api_version: LOG_FILE_VERSION.into(), group: group.file().clone(), decisions }
    }

    /// Reads a file. This verifies nothing.
    ///
    /// # Errors
    /// [`GroupError`] if it is too large or malformed.
    pub fn from_json(json: &[u8]) -> Result<Self, GroupError> {
        GroupError::if_larger(WHAT, json.len(), MAX_LOG_FILE_BYTES)?;
        let file: Self = serde_json::from_slice(json).map_err(|error| GroupError::malformed(WHAT, error))?;
        if file.api_version != LOG_FILE_VERSION {
            return Err(GroupError::malformed(WHAT, "it is of another version"));
        }
        Ok(file)
    }

    /// Writes the file.
    pub fn to_json(&self) -> String {
        // Texts alone: it can't fail.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Verifies everything: the description of the group, and every decision with its certificate. With `trusted`, the
    /// members must be certified by one of these authorities.
    ///
    /// # Errors
    /// [`GroupError`] with what is wrong first.
    pub fn verify(&self, trusted: Option<&TrustBundle>) -> Result<LogReport, GroupError> {
        let group = self.group.clone().verify()?;
        if let Some(bundle) = trusted {
            group.check_trust(bundle)?;
        }
        let (mut decisions, mut seen, mut last) = (Vec::new(), BTreeSet::new(), 0);
        for Base64(bytes) in &self.decisions {
            let checked = entries_of(&group, bytes, trusted, &mut seen)?;
            if checked.seq <= last {
                return Err(GroupError::malformed(WHAT, format!("the decision {} is out of order", checked.seq)));
            }
            last = checked.seq;
            decisions.push(checked);
        }
        let missing = last.saturating_sub(decisions.len() as u64);
        let earlier = self.group.earlier.iter().flat_map(|epoch| &epoch.members);
        let members = earlier.chain(&self.group.members);
        let authorities: BTreeSet<String> = members.map(|member| hex(&digest(&member.authority.0))).collect();
        Ok(LogReport { group, decisions, missing, authorities: authorities.into_iter().collect() })
    }
}

/// Verifies one encoded decision of a group, and returns what it decides. `seen` has the authors and ids of earlier
/// proposals.
///
/// # Errors
/// [`GroupError`] if it is malformed, or proves nothing.
pub fn entries_of(
    group: &Group,
    bytes: &[u8],
    trusted: Option<&TrustBundle>,
    seen: &mut Seen,
) -> Result<CheckedDecision, GroupError> {
    let decision = Decision::decoded(bytes).map_err(GroupError::undecodable("decision"))?;
    let seq = decision.seq().0;
    let epoch = group.epoch_of(seq);
    let scope = epoch.scope();
    decision.verify_in(scope, &Ed25519).map_err(|problem| GroupError::Decision { seq, problem })?;
    let name = |index: usize| scope.members.get(index).map(|member| member.name.clone()).unwrap_or_default();
    let signers = decision.certificate.commits.iter().map(|one| name(usize::from(one.replica.0))).collect();
    let mut entries = Vec::new();
    for request in decision.batch.requests() {
        let Operation::Call(call) = &request.operation else { continue };
        let by = scope.members.iter().find(|member| member.key == request.client);
        let proposed_by = by.map(|member| member.name.clone()).unwrap_or_default();
        entries.push(entry_of(epoch, (proposed_by, &call[..]), trusted, seen));
    }
    Ok(CheckedDecision { seq, signers, entries })
}

/// Verifies what a member has proposed.
pub(crate) fn entry_of(
    epoch: &Epoch,
    (proposed_by, call): (String, &[u8]),
    trusted: Option<&TrustBundle>,
    seen: &mut Seen,
) -> CheckedEntry {
    let of_signed = |signed: &Signed| trusted.map(|bundle| signed.is_trusted_by(bundle));
    let (author, is_trusted, proposal, ballot) = match Call::read(call) {
        Some(Call::Propose(signed, proposal)) => {
            let author = Proposal::verify_in(&signed, epoch).map(|(_, author)| author);
            (author, of_signed(&signed), Some(proposal), None)
        }
        Some(Call::Open(signed, opening)) => {
            let author = Opening::verify_in(&signed, epoch).map(|(_, author)| author);
            (author, of_signed(&signed), None, Some(Call::Open(signed, opening)))
        }
        // The member's own key has signed the request.
        Some(own) => (Ok(proposed_by.clone()), trusted.map(|_| true), None, Some(own)),
        None => (Err(GroupError::malformed("proposal", "it is none")), trusted.map(|_| false), None, None),
    };
    // What nobody has signed must not hide what somebody has.
    let is_repeated = match (&author, &proposal) {
        (Ok(author), Some(proposal)) if is_trusted != Some(false) => !seen.insert((author.clone(), proposal.id)),
        _ => false,
    };
    CheckedEntry { proposed_by, author, is_trusted, proposal, ballot, is_repeated }
}
