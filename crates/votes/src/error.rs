//! Why a vote does not count.

use robeing_identity::IdentityError;

/// How many characters of a text an error shows.
const SHOWN: usize = 200;

/// Why a vote can't be made, or is not proved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VoteError {
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
    /// Something is malformed, or not canonical.
    #[error("the {what} can't be read: {problem}")]
    Malformed {
        /// What it is.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// No key can be made.
    #[error("no voting key can be made: {0}")]
    NoKey(String),
    /// The certificate's key can't sign the binding.
    #[error("the voting key can't be bound to the member: {0}")]
    NotBound(String),
    /// The signature of an envelope is not one of its key.
    #[error("the signature of the vote is wrong: the vote was changed, or signed with another key")]
    WrongSignature,
    /// The signature of a binding is not one of the certificate's key.
    #[error("the voting key is not bound to the certificate: {0}")]
    WrongBinding(String),
    /// Something that is signed is about something else.
    #[error("the {what} has the {part} {found:?}, not {expected:?}")]
    Other {
        /// What is signed.
        what: &'static str,
        /// Which part of it differs.
        part: &'static str,
        /// What it is.
        found: String,
        /// What it must be.
        expected: String,
    },
    /// The certificate is of somebody else.
    #[error("the certificate is of {found}, who is not the member {member:?} of the fleet {fleet:?}")]
    OtherMember {
        /// Whose it is, as a SPIFFE id.
        found: String,
        /// The member who votes.
        member: String,
        /// The fleet.
        fleet: String,
    },
    /// The certificate is not valid, or was not issued by the authority.
    #[error("the certificate proves nothing: {0}")]
    Certificate(String),
}

impl VoteError {
    pub(crate) fn malformed(what: &'static str, problem: impl std::fmt::Display) -> Self {
        Self::Malformed { what, problem: problem.to_string() }
    }

    pub(crate) fn certificate(error: IdentityError) -> Self {
        Self::Certificate(error.to_string())
    }

    /// Returns an error if something is too large.
    pub(crate) fn if_larger(what: &'static str, bytes: usize, most: usize) -> Result<(), Self> {
        if bytes > most { Err(Self::TooLarge { what, bytes, most }) } else { Ok(()) }
    }

    /// Returns an error if a part of what is signed is not as expected.
    pub(crate) fn unless_equal<T: PartialEq + ToString + ?Sized>(
        what: &'static str,
        part: &'static str,
        found: &T,
        expected: &T,
    ) -> Result<(), Self> {
        if found == expected {
            return Ok(());
        }
        let (found, expected) = (shown(&found.to_string()), shown(&expected.to_string()));
        Err(Self::Other { what, part, found, expected })
    }
}

/// Returns what an error shows of a text.
fn shown(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}
