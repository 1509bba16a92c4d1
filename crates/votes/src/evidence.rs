//! What proves a vote.

use bytes::Bytes;
use robeing_identity::{Certificate, PeerRole, SpiffeId, TrustBundle, digest};
use uuid::Uuid;

use crate::{ProvenKey, Signatures, VoteError, VoteStatement, hex};

/// Maximum length of a member's name in a fleet, bytes. Longer names are cut.
const MAX_NAME_BYTES: usize = 253;
/// Number of hexadecimal digits that tell apart members whose names are cut.
const CUT_DIGITS: usize = 16;

/// What proves that a member has cast a vote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The bytes of the [`Envelope`](crate::Envelope).
    pub envelope: Bytes,
    /// The bytes of the [`KeyBinding`](crate::KeyBinding).
    pub binding: Bytes,
    /// The member's certificate, DER.
    pub certificate: Bytes,
    /// The certificate of the authority that issued it, DER.
    pub authority: Bytes,
}

/// The vote that is to be proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expect<'a> {
    /// The fleet: how the SPIFFE ids of its members begin.
    pub fleet: &'a str,
    /// Who voted: an agent's name, or `client:NAME`.
    pub member: &'a str,
    /// The ballot's id.
    pub ballot: u128,
    /// The digest of the ballot's content.
    pub digest: [u8; 32],
    /// What the member voted, as the number of a [`Choice`](crate::Choice).
    pub choice: u8,
    /// The number of the approved option, from 1; 0: none.
    pub option: u32,
    /// Why.
    pub reason: &'a str,
    /// When the vote was cast, Unix milliseconds. The certificates must have been valid then.
    pub at_unix_ms: u64,
}

impl Expect<'_> {
    /// Returns an error if a statement is of another vote.
    pub(crate) fn check(&self, statement: &VoteStatement) -> Result<(), VoteError> {
        let VoteStatement { fleet, ballot, digest, member, choice, option, reason } = statement;
        let what = "vote";
        VoteError::unless_equal(what, "fleet", fleet.as_str(), self.fleet)?;
        VoteError::unless_equal(what, "ballot", &Uuid::from_bytes(*ballot), &Uuid::from_u128(self.ballot))?;
        if *digest != self.digest {
            VoteError::unless_equal(what, "digest of the ballot", &hex(digest), &hex(&self.digest))?;
        }
        VoteError::unless_equal(what, "member", member.as_str(), self.member)?;
        VoteError::unless_equal(what, "choice", choice, &self.choice)?;
        VoteError::unless_equal(what, "option", option, &self.option)?;
        VoteError::unless_equal(what, "reason", reason.as_str(), self.reason)
    }
}

/// Verifies that the evidence proves the expected vote: that the envelope says just that and is signed with its key,
/// that the key is bound to the certificate, and that the certificate is of the member and was issued by the authority;
/// both valid when the vote was cast, but for [`NOT_BEFORE_MARGIN`](robeing_identity::NOT_BEFORE_MARGIN). Whether the
/// authority can be trusted, the caller decides.
///
/// # Errors
/// [`VoteError`] with what is wrong.
pub fn verify(evidence: &Evidence, expect: &Expect<'_>) -> Result<(), VoteError> {
    ProvenKey::prove(evidence, expect, &mut Signatures::default()).map(drop)
}

/// Returns the name under which whoever has this SPIFFE id votes: an agent's own, or `client:NAME`, as they send
/// messages. A name that is too long is cut, and ends with digits of its digest. Nobody else votes.
pub fn member_name(id: &SpiffeId) -> Option<String> {
    let name = match id.role() {
        PeerRole::Client => format!("client:{}", id.name()),
        role if role.is_agent() => id.name().to_owned(),
        _ => return None,
    };
    if name.len() <= MAX_NAME_BYTES {
        return Some(name);
    }
    let kept = &name[..name.floor_char_boundary(MAX_NAME_BYTES - CUT_DIGITS - 1)];
    Some(format!("{kept}~{}", &hex(&digest(name.as_bytes()))[..CUT_DIGITS]))
}

impl Evidence {
    /// Checks that neither certificate expires before a time, Unix milliseconds, without any margin.
    ///
    /// # Errors
    /// [`VoteError::Certificate`] if one does, or is malformed.
    pub fn lasts_until(&self, time: u64) -> Result<(), VoteError> {
        let lasts = |what, der: &[u8]| Certificate::check_lasts(what, der, time).map_err(VoteError::certificate);
        lasts("certificate", &self.certificate)?;
        lasts("authority's certificate", &self.authority)
    }
}

/// Returns the authority of a bundle that issued a member's certificate, DER; of several with the same key, one that is
/// valid until `time`, Unix milliseconds, if there is one.
pub fn issuer_in<'a>(bundle: &'a TrustBundle, certificate: &[u8], time: u64) -> Option<&'a [u8]> {
    let authorities = bundle.authorities().iter().map(|authority| &authority[..]);
    let mut issuers = authorities.filter(|authority| Certificate::is_issued_by(certificate, authority));
    let first = issuers.next()?;
    let lasts = |authority: &&[u8]| Certificate::check_lasts("authority's certificate", authority, time).is_ok();
    if lasts(&first) { Some(first) } else { issuers.find(lasts).or(Some(first)) }
}
