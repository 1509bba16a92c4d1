//! Why something about a group is refused.

use robeing_bft::error::{DecodeError, EpochError, Invalid};

use crate::{MAX_GROUP_MEMBERS, MAX_GROUP_NAME, MIN_GROUP_MEMBERS};

/// Why something about a group is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// Something is too large.
    #[error("the {what} has {bytes} bytes; the most is {most}")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// Something is malformed.
    #[error("the {what} can't be read: {problem}")]
    Malformed {
        /// What it is.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// The name of the group is not allowed.
    #[error("{0:?} is no name of a group: use 1 to {MAX_GROUP_NAME} lower-case letters, digits and -")]
    Name(String),
    /// The number of members is not allowed.
    #[error("a group has {MIN_GROUP_MEMBERS} to {MAX_GROUP_MEMBERS} different members, not {0}")]
    Members(usize),
    /// Something can't be signed.
    #[error("the {what} can't be signed: {problem}")]
    NotSigned {
        /// What it is.
        what: &'static str,
        /// Why.
        problem: String,
    },
    /// A signature is not one of the certificate's key, or the certificate proves nothing.
    #[error("the {what} is not proved: {problem}")]
    NotProved {
        /// What it is.
        what: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// A certificate is of somebody else.
    #[error("the {what} is signed by {found}, not by {expected:?} of the fleet {fleet:?}")]
    OtherSigner {
        /// What is signed.
        what: &'static str,
        /// Who signed it, as a SPIFFE id.
        found: String,
        /// Who has to.
        expected: String,
        /// The fleet.
        fleet: String,
    },
    /// Something is about something else.
    #[error("the {what} is of another {part}")]
    Other {
        /// What it is.
        what: &'static str,
        /// What differs.
        part: &'static str,
    },
    /// Something is from another time.
    #[error("the {what} was signed at another time than now ({at}, Unix ms); make it again, or set the clock")]
    Stale {
        /// What it is.
        what: &'static str,
        /// When it was signed, Unix milliseconds.
        at: u64,
    },
    /// An authority is not trusted.
    #[error("the certificate of {0:?} was issued by an authority that is not trusted here")]
    Untrusted(String),
    /// The members can't form an epoch.
    #[error(transparent)]
    Epoch(#[from] EpochError),
    /// A decision is not proved.
    #[error("the decision {seq} is not proved: {problem}")]
    Decision {
        /// Its number.
        seq: u64,
        /// What is wrong.
        problem: Invalid,
    },
}

impl GroupError {
    pub(crate) fn malformed(what: &'static str, problem: impl std::fmt::Display) -> Self {
        Self::Malformed { what, problem: problem.to_string() }
    }

    pub(crate) fn undecodable(what: &'static str) -> impl FnOnce(DecodeError) -> Self {
        move |problem| Self::malformed(what, problem)
    }

    /// Returns an error if something is too large.
    pub(crate) fn if_larger(what: &'static str, bytes: usize, most: usize) -> Result<(), Self> {
        if bytes > most { Err(Self::TooLarge { what, bytes, most }) } else { Ok(()) }
    }
}
