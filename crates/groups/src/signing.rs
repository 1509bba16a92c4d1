//! Statements that are signed with the key of a certificate, as votes are bound to one.

use bytes::Bytes;
use robeing_bft::{
    error::DecodeError,
    wire::{Reader, Wire},
};
use robeing_identity::{Certificate, PrivateKey, SpiffeId, TrustBundle};
use robeing_votes::{Base64, MAX_AUTHORITY_BYTES, MAX_CERTIFICATE_BYTES, issuer_in};
use serde::{Deserialize, Serialize};

use crate::{GroupError, MAX_SIGNATURE_BYTES, MAX_STATEMENT_BYTES};

/// The certificate of a process, and its key.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a> {
    /// The certificate, DER.
    pub certificate: &'a [u8],
    /// The certificate of the authority that issued it, DER.
    pub authority: &'a [u8],
    /// The key.
    pub key: &'a PrivateKey,
}

impl<'a> Own<'a> {
    /// Returns the certificate with the authority that issued it; `None` if that is not in the bundle. Of several with
    /// the same key, it is one that is valid at `time`, Unix milliseconds, if there is one.
    pub fn of(certificate: &'a [u8], bundle: &'a TrustBundle, key: &'a PrivateKey, time: u64) -> Option<Self> {
        Some(Self { certificate, authority: issuer_in(bundle, certificate, time)?, key })
    }
}

/// A statement with what proves who made it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Signed {
    /// The statement's bytes.
    pub statement: Base64,
    /// The signature of the statement and its type.
    pub signature: Base64,
    /// The signer's certificate, DER.
    pub certificate: Base64,
    /// The certificate of the authority that issued it, DER.
    pub authority: Base64,
}

impl Wire for Signed {
    fn put(&self, out: &mut Vec<u8>) {
        self.statement.0.put(out);
        self.signature.0.put(out);
        self.certificate.0.put(out);
        self.authority.0.put(out);
    }

    fn take(input: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let mut next = || Bytes::take(input).map(Base64);
        Ok(Self { statement: next()?, signature: next()?, certificate: next()?, authority: next()? })
    }
}

/// Returns what is signed of a statement: the pre-authentication encoding of DSSE, version 1.
fn encoding(kind: &str, statement: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {kind} {} ", kind.len(), statement.len()).into_bytes();
    bytes.extend_from_slice(statement);
    bytes
}

impl Signed {
    /// Signs a statement of a type.
    ///
    /// # Errors
    /// [`GroupError`] if it can't be signed, or is too large.
    pub(crate) fn make(what: &'static str, kind: &str, statement: Vec<u8>, own: &Own<'_>) -> Result<Self, GroupError> {
        GroupError::if_larger(what, statement.len(), MAX_STATEMENT_BYTES)?;
        let signature = own.key.sign(&encoding(kind, &statement));
        let signature = signature.map_err(|error| GroupError::NotSigned { what, problem: error.to_string() })?;
        Ok(Self {
            statement: Base64(statement.into()),
            signature: Base64(signature.into()),
            certificate: Base64(Bytes::copy_from_slice(own.certificate)),
            authority: Base64(Bytes::copy_from_slice(own.authority)),
        })
    }

    /// Verifies the signature, and that the certificate was issued by the authority and valid at a time, Unix
    /// milliseconds. Whether the authority can be trusted, the caller decides. Returns who signed.
    ///
    /// # Errors
    /// [`GroupError`] with what is wrong.
    pub(crate) fn verify(&self, what: &'static str, kind: &str, at: u64) -> Result<SpiffeId, GroupError> {
        let Self { statement, signature, certificate, authority } = self;
        for (of, most) in [
            (statement, MAX_STATEMENT_BYTES),
            (signature, MAX_SIGNATURE_BYTES),
            (certificate, MAX_CERTIFICATE_BYTES),
            (authority, MAX_AUTHORITY_BYTES),
        ] {
            GroupError::if_larger(what, of.0.len(), most)?;
        }
        let not_proved = |problem: robeing_identity::IdentityError| {
            let problem = problem.to_string();
            GroupError::NotProved { what, problem }
        };
        Certificate::verify_signature(&certificate.0, &encoding(kind, &statement.0), &signature.0)
            .map_err(not_proved)?;
        let stated = Certificate::verify_issued(&certificate.0, &authority.0, at).map_err(not_proved)?;
        Ok(stated.id)
    }

    /// Returns whether the authority is one of a bundle.
    pub fn is_trusted_by(&self, bundle: &TrustBundle) -> bool {
        bundle.authorities().iter().any(|authority| authority[..] == self.authority.0[..])
    }
}
