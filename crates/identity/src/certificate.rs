//! What a certificate states.

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_pki_types::CertificateDer;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::{IdentityError, SpiffeId, digest};

/// What a member's certificate states. Reading it does not verify it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The member.
    pub id: SpiffeId,
    /// Time from which the certificate is valid, Unix milliseconds.
    pub not_before: u64,
    /// Time until which it is valid, Unix milliseconds.
    pub not_after: u64,
    /// The digest of the public key.
    pub key: [u8; 32],
}

/// Writes a certificate in PEM form.
pub fn certificate_pem(der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines: Vec<&str> = body.as_bytes().chunks(64).filter_map(|line| str::from_utf8(line).ok()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

impl Certificate {
    /// Reads a member's certificate.
    ///
    /// # Errors
    /// If it is malformed, or has not exactly one URI that is a [`SpiffeId`].
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        let certificate = parse(der)?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|error| IdentityError::unreadable("certificate", error))?
            .map(|extension| &extension.value.general_names[..])
            .unwrap_or_default();
        let mut uris = names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Some(*uri),
            _ => None,
        });
        let id = match (uris.next(), uris.next()) {
            (Some(uri), None) => {
                uri.parse().map_err(|error: crate::SpiffeIdError| IdentityError::NoIdentity(error.to_string()))?
            }
            (None, _) => return Err(IdentityError::NoIdentity("it has no URI".into())),
            (Some(_), Some(_)) => return Err(IdentityError::NoIdentity("it has more than one URI".into())),
        };
        let validity = certificate.validity();
        Ok(Self {
            id,
            not_before: millis(validity.not_before.timestamp()),
            not_after: millis(validity.not_after.timestamp()),
            key: digest(certificate.public_key().raw),
        })
    }
}

/// Returns the digest of a certificate's public key. The certificate need not be a member's.
pub(crate) fn key_of(der: &CertificateDer<'_>) -> Result<[u8; 32], IdentityError> {
    Ok(digest(parse(der)?.public_key().raw))
}

/// Returns the time from which and until which a certificate is valid, Unix milliseconds.
pub(crate) fn validity_of(der: &CertificateDer<'_>) -> Result<(u64, u64), IdentityError> {
    let certificate = parse(der)?;
    let validity = certificate.validity();
    Ok((millis(validity.not_before.timestamp()), millis(validity.not_after.timestamp())))
}

fn parse(der: &[u8]) -> Result<X509Certificate<'_>, IdentityError> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|error| IdentityError::unreadable("certificate", error))?;
    if rest.is_empty() { Ok(certificate) } else { Err(IdentityError::unreadable("certificate", "bytes follow it")) }
}

fn millis(seconds: i64) -> u64 {
    u64::try_from(seconds).unwrap_or_default().saturating_mul(1_000)
}
