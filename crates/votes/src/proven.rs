//! Voting keys that are proven to be those of members, so that nothing but the signatures of further votes has to be
//! verified.

use bytes::Bytes;
use robeing_identity::{Certificate, NOT_BEFORE_MARGIN};

use crate::{
    Envelope, Evidence, Expect, KeyBinding, MAX_AUTHORITY_BYTES, MAX_CERTIFICATE_BYTES, Signatures, VoteError, hex,
    member_name,
};

/// A voting key that its binding and a certificate prove to be a member's, while the certificates are valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenKey {
    fleet: String,
    member: String,
    key: [u8; 32],
    /// The certificate of the authority, DER.
    authority: Bytes,
    /// Time from which both certificates are valid, Unix milliseconds.
    from: u64,
    /// Time until which both are, Unix milliseconds.
    until: u64,
}

impl ProvenKey {
    /// Verifies that the evidence proves the expected vote, as [`verify`](crate::verify) does, and returns its key. A
    /// signature that is known to be right is not verified again.
    ///
    /// # Errors
    /// [`VoteError`] with what is wrong.
    pub fn prove(evidence: &Evidence, expect: &Expect<'_>, known: &mut Signatures) -> Result<Self, VoteError> {
        let Evidence { envelope, binding, certificate, authority } = evidence;
        VoteError::if_larger("certificate of the voter", certificate.len(), MAX_CERTIFICATE_BYTES)?;
        VoteError::if_larger("certificate of the authority", authority.len(), MAX_AUTHORITY_BYTES)?;
        let envelope = Envelope::from_bytes(envelope)?;
        expect.check(&envelope.statement()?)?;
        envelope.verify_signature_among(known)?;
        let binding = KeyBinding::from_bytes(binding)?;
        let bound = binding.statement()?;
        let what = "binding of the voting key";
        VoteError::unless_equal(what, "fleet", bound.fleet.as_str(), expect.fleet)?;
        VoteError::unless_equal(what, "member", bound.member.as_str(), expect.member)?;
        VoteError::unless_equal(what, "key", &hex(&bound.key), &hex(&envelope.key))?;
        binding.verify_signature(certificate)?;
        let verified = Certificate::verify_issued(certificate, authority, expect.at_unix_ms);
        let Certificate { id, not_before, not_after, key: _ } = verified.map_err(VoteError::certificate)?;
        if member_name(&id).as_deref() != Some(expect.member) || id.realm().to_string() != expect.fleet {
            let (member, fleet) = (expect.member.to_owned(), expect.fleet.to_owned());
            return Err(VoteError::OtherMember { found: id.to_string(), member, fleet });
        }
        let (from, until) = Certificate::validity(authority).map_err(VoteError::certificate)?;
        Ok(Self {
            fleet: bound.fleet,
            member: bound.member,
            key: bound.key,
            authority: authority.clone(),
            from: from.max(not_before),
            until: until.min(not_after),
        })
    }

    /// Returns the certificate of the authority that has issued the member's, DER.
    pub fn authority(&self) -> &Bytes {
        &self.authority
    }

    /// Returns whether both certificates are valid at the time `now`, but for the margin of
    /// [`verify`](crate::verify), and last until the time `until`, without any; both in Unix milliseconds.
    pub fn is_valid(&self, now: u64, until: u64) -> bool {
        let margin = u64::try_from(NOT_BEFORE_MARGIN.as_millis()).unwrap_or(u64::MAX);
        now.saturating_add(margin) >= self.from && now <= until && until <= self.until
    }

    /// Verifies that an envelope says what is expected, and is signed with this key. The time of the vote does not matter;
    /// see [`ProvenKey::is_valid`].
    ///
    /// # Errors
    /// [`VoteError`] with what is wrong.
    pub fn verify(&self, envelope: &[u8], expect: &Expect<'_>, known: &mut Signatures) -> Result<(), VoteError> {
        let what = "binding of the voting key";
        VoteError::unless_equal(what, "fleet", self.fleet.as_str(), expect.fleet)?;
        VoteError::unless_equal(what, "member", self.member.as_str(), expect.member)?;
        let envelope = Envelope::from_bytes(envelope)?;
        expect.check(&envelope.statement()?)?;
        if self.key != envelope.key {
            VoteError::unless_equal(what, "key", &hex(&self.key), &hex(&envelope.key))?;
        }
        envelope.verify_signature_among(known)
    }
}
