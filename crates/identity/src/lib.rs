//! Who is who in a fleet: the names of its members ([`SpiffeId`]), the [`Authority`] that certifies them, and the
//! proofs with which an agent enrols: a service-account token of Kubernetes ([`jwt`]), a join token, or the join secret
//! of its pool.
//!
//! This crate opens no file and no connection, and reads no clock: times are passed in, Unix milliseconds. Keys and
//! random numbers come from the operating system.

mod authority;
mod bundle;
mod certificate;
pub mod files;
mod join_secret;
mod join_token;
pub mod jwt;
mod key;
mod spiffe;

pub use authority::{AUTHORITY_LIFETIME, Authority, Issued, LEAF_LIFETIME, NOT_BEFORE_MARGIN};
pub use bundle::{MAX_AUTHORITIES, MAX_BUNDLE_BYTES, TrustBundle};
pub use certificate::{Certificate, certificate_pem};
pub use join_secret::{JOIN_SECRET_BYTES, JoinSecret};
pub use join_token::{JoinClaims, JoinKey, JoinTokenError, MAX_JOIN_TOKEN_BYTES};
pub use key::{PrivateKey, SigningRequest};
pub use spiffe::{LOWEST_PRIORITY, PeerRole, Realm, SpiffeId, SpiffeIdError, is_segment};

/// Why an identity can't be made or read.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A certificate or key can't be read.
    #[error("the {what} can't be read: {problem}")]
    Unreadable {
        /// What it is.
        what: &'static str,
        /// What is wrong with it.
        problem: String,
    },
    /// A key does not belong to its certificate.
    #[error("the private key is not the key of the certificate beside it")]
    KeyMismatch,
    /// A certificate or key can't be made.
    #[error("the {what} can't be made: {problem}")]
    Failed {
        /// What it is.
        what: &'static str,
        /// Why.
        problem: String,
    },
    /// A certificate names no member of a fleet.
    #[error("the certificate names no member of a fleet: {0}")]
    NoIdentity(String),
    /// A signature is not one of the certificate's key.
    #[error("the signature is wrong: what it signs was changed, or signed with another key than the certificate's")]
    WrongSignature,
    /// An authority has not issued a certificate.
    #[error("the certificate was not issued by this authority: {0}")]
    NotIssued(String),
    /// A certificate is not valid at a time.
    #[error("the {what} is valid from {from} until {until}, not at {at} (Unix milliseconds)")]
    NotValid {
        /// Whose.
        what: &'static str,
        /// The time from which it is valid, Unix milliseconds.
        from: u64,
        /// The time until which it is valid, Unix milliseconds.
        until: u64,
        /// The time at which it had to be valid, Unix milliseconds.
        at: u64,
    },
    /// A bundle is out of bounds.
    #[error("{0}")]
    Bundle(String),
}

impl IdentityError {
    fn unreadable(what: &'static str, problem: impl std::fmt::Display) -> Self {
        Self::Unreadable { what, problem: problem.to_string() }
    }

    fn failed(what: &'static str, problem: impl std::fmt::Display) -> Self {
        Self::Failed { what, problem: problem.to_string() }
    }
}

/// Returns the SHA-256 digest of some bytes.
pub fn digest(bytes: &[u8]) -> [u8; 32] {
    use sha2::{Digest, Sha256};
    Sha256::digest(bytes).into()
}

/// Fills an array with random bytes of the operating system.
///
/// # Errors
/// If the operating system has none.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], IdentityError> {
    use ring::rand::{SecureRandom, SystemRandom};
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| IdentityError::failed("secret", "no random bytes"))?;
    Ok(bytes)
}
