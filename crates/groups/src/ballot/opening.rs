//! What a ballot is about, as whoever opens it has signed it.

use std::collections::BTreeSet;

use bytes::Bytes;
use robeing_bft::{
    crypto::Digest,
    epoch::Epoch,
    error::DecodeError,
    wire::{Reader, Wire},
};
use robeing_votes::MAX_OPTIONS;

use crate::{
    Group, GroupError, MAX_AGE_MS, MAX_BALLOT_TTL_MS, MAX_OPTION_BYTES, MAX_QUESTION_BYTES, Own, Signed,
    proposal::author_of,
};

/// The type of the opening of a ballot, which is signed with it.
pub const BALLOT_TYPE: &str = "application/vnd.robeing.group-ballot.v1";
/// Maximum size of an opening with its signature and certificates, bytes. The largest one that is allowed fits.
pub(crate) const MAX_OPENING_BYTES: usize = 16 * 1024;
/// What errors call it.
const WHAT: &str = "ballot";

/// What a ballot is about. It is for one epoch of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The group: the digest of its members, disks and keys.
    pub group: Digest,
    /// Random bytes, so that the same question can be asked twice.
    pub nonce: [u8; 16],
    /// When it was signed, Unix milliseconds.
    pub at_ms: u64,
    /// How long after that members have to vote, ms, 1 to [`MAX_BALLOT_TTL_MS`].
    pub ttl_ms: u64,
    /// The question, 1 to [`MAX_QUESTION_BYTES`] bytes.
    pub question: String,
    /// What members who approve choose among: 2 to 16 different texts of 1 to [`MAX_OPTION_BYTES`] bytes; none: they
    /// approve of the question.
    pub options: Vec<String>,
    /// The numerator and the denominator of the share of all members that has to approve, above 0 and at most 1.
    pub threshold: (u32, u32),
}

/// Reads a text of any length.
pub(crate) fn text_of(bytes: &[u8]) -> Result<String, DecodeError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::NotUtf8)
}

impl Wire for Opening {
    fn put(&self, out: &mut Vec<u8>) {
        self.group.put(out);
        self.nonce.put(out);
        self.at_ms.put(out);
        self.ttl_ms.put(out);
        Bytes::copy_from_slice(self.question.as_bytes()).put(out);
        self.options.put(out);
        self.threshold.0.put(out);
        self.threshold.1.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            group: Wire::take(input)?,
            nonce: Wire::take(input)?,
            at_ms: Wire::take(input)?,
            ttl_ms: Wire::take(input)?,
            question: text_of(&Bytes::take(input)?)?,
            options: Wire::take(input)?,
            threshold: (Wire::take(input)?, Wire::take(input)?),
        })
    }
}

/// Returns the id of a ballot: the digest of its opening with its signature. So nobody can open another one under it.
pub fn ballot_id(signed: &Signed) -> Digest {
    Digest::of_bytes(&signed.encoded())
}

/// Reads the id of a ballot, 64 hexadecimal digits.
///
/// # Errors
/// [`GroupError::Malformed`] if it is none.
pub fn ballot_id_of(text: &str) -> Result<Digest, GroupError> {
    let mut id = [0; 32];
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let is_right = rest.is_empty() && pairs.len() == id.len() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_right {
        for (byte, pair) in id.iter_mut().zip(pairs) {
            let pair = str::from_utf8(pair).unwrap_or_default();
            *byte = u8::from_str_radix(pair, 16).unwrap_or_default();
        }
        return Ok(Digest(id));
    }
    Err(GroupError::malformed("id of the ballot", "it has 64 hexadecimal digits"))
}

impl Opening {
    /// Signs the opening.
    ///
    /// # Errors
    /// [`GroupError`] if it is not allowed, or can't be signed.
    pub fn sign(&self, own: &Own<'_>) -> Result<Signed, GroupError> {
        self.check()?;
        Signed::make(WHAT, BALLOT_TYPE, self.encoded(), own)
    }

    /// Returns an error if no ballot can be like that.
    fn check(&self) -> Result<(), GroupError> {
        let Self { question, options, threshold: (numerator, denominator), ttl_ms, .. } = self;
        let different: BTreeSet<&String> = options.iter().collect();
        let problem = if !(1..=MAX_QUESTION_BYTES).contains(&question.len()) {
            format!("its question has {} bytes, must have 1 to {MAX_QUESTION_BYTES}", question.len())
        } else if options.len() == 1 || options.len() > MAX_OPTIONS || different.len() != options.len() {
            format!("it has {} options, must have none or 2 to {MAX_OPTIONS} different ones", options.len())
        } else if options.iter().any(|option| !(1..=MAX_OPTION_BYTES).contains(&option.len())) {
            format!("an option must have 1 to {MAX_OPTION_BYTES} bytes")
        } else if *numerator == 0 || numerator > denominator {
            format!("its threshold is {numerator}/{denominator}, must be above 0 and at most 1")
        } else if !(1..=MAX_BALLOT_TTL_MS).contains(ttl_ms) {
            format!("members have {ttl_ms} ms to vote, must have 1 ms to 30 days")
        } else {
            return Ok(());
        };
        Err(GroupError::malformed(WHAT, problem))
    }

    /// Reads an opening. This verifies no signature.
    ///
    /// # Errors
    /// [`GroupError`] if it is malformed, or not allowed.
    pub fn read(signed: &Signed) -> Result<Self, GroupError> {
        let opening = Self::decoded(&signed.statement.0).map_err(GroupError::undecodable(WHAT))?;
        opening.check()?;
        Ok(opening)
    }

    /// Reads the opening of a ballot of a group, and verifies who has signed it: an agent, or `client:NAME`, of the
    /// group's fleet. Whether the authority can be trusted, the caller decides.
    ///
    /// # Errors
    /// [`GroupError`] with what is wrong.
    pub fn verify(signed: &Signed, group: &Group) -> Result<(Self, String), GroupError> {
        Self::verify_in(signed, group.epoch())
    }

    /// Verifies an opening like [`verify`](Self::verify), for an epoch of a group.
    pub(crate) fn verify_in(signed: &Signed, epoch: &Epoch) -> Result<(Self, String), GroupError> {
        let opening = Self::read(signed)?;
        GroupError::if_larger(WHAT, signed.encoded().len(), MAX_OPENING_BYTES)?;
        if opening.group != *epoch.domain() {
            return Err(GroupError::Other { what: WHAT, part: "group" });
        }
        let author = author_of(signed, (WHAT, BALLOT_TYPE), opening.at_ms, &epoch.fleet)?;
        Ok((opening, author))
    }

    /// Checks that the opening was signed about now, Unix milliseconds.
    ///
    /// # Errors
    /// [`GroupError::Stale`] if it was not.
    pub fn check_age(&self, now: u64) -> Result<(), GroupError> {
        let is_new = now.abs_diff(self.at_ms) <= MAX_AGE_MS;
        if is_new { Ok(()) } else { Err(GroupError::Stale { what: WHAT, at: self.at_ms }) }
    }

    /// Returns until when members may vote, Unix milliseconds.
    pub fn deadline_ms(&self) -> u64 {
        self.at_ms.saturating_add(self.ttl_ms)
    }
}
