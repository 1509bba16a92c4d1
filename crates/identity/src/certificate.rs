//! What a certificate states.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::STANDARD};
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, UnixTime};
use webpki::{
    ALL_VERIFICATION_ALGS, EndEntityCert, KeyUsage, anchor_from_trusted_cert,
    ring::{ECDSA_P256_SHA256, ECDSA_P384_SHA384, ED25519, RSA_PKCS1_2048_8192_SHA256},
};
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

use crate::{IdentityError, NOT_BEFORE_MARGIN, SpiffeId, digest};

/// How [`PrivateKey::sign`](crate::PrivateKey::sign) signs, with each kind of key.
static SIGNATURES: [&dyn SignatureVerificationAlgorithm; 4] =
    [ECDSA_P256_SHA256, ECDSA_P384_SHA384, ED25519, RSA_PKCS1_2048_8192_SHA256];

/// What a member's certificate states. [`Certificate::from_der`] does not verify it.
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

    /// Reads a member's certificate, and verifies that `authority` (DER) issued it, and that both were valid `at` a time,
    /// Unix milliseconds. That time may be earlier or later by [`NOT_BEFORE_MARGIN`], because clocks differ. It is
    /// not verified whether the authority can be trusted.
    ///
    /// # Errors
    /// If one of them is malformed, the authority is none, did not issue the certificate, or was not valid.
    pub fn verify_issued(der: &[u8], authority: &[u8], at: u64) -> Result<Self, IdentityError> {
        let certificate = Self::from_der(der)?;
        let authority = CertificateDer::from(authority);
        check_validity("authority's certificate", validity_of(&authority)?, at)?;
        check_validity("certificate", (certificate.not_before, certificate.not_after), at)?;
        // The margin is allowed already. `clamp` would panic if the certificate contradicted itself.
        let at = at.max(certificate.not_before).min(certificate.not_after);
        check_issuer(&CertificateDer::from(der), &authority, at)?;
        Ok(certificate)
    }

    /// Returns whether `authority` (DER) issued a member's certificate, DER, whenever that was.
    pub fn is_issued_by(der: &[u8], authority: &[u8]) -> bool {
        let Ok(certificate) = Self::from_der(der) else { return false };
        check_issuer(&CertificateDer::from(der), &CertificateDer::from(authority), certificate.not_before).is_ok()
    }

    /// Checks that a certificate, DER, of a member or an authority, does not expire before a time, Unix milliseconds.
    /// There is no margin. `what` is what an error calls it.
    ///
    /// # Errors
    /// If it does, or is malformed.
    pub fn check_lasts(what: &'static str, der: &[u8], until: u64) -> Result<(), IdentityError> {
        let (from, not_after) = validity_of(&CertificateDer::from(der))?;
        if until > not_after {
            return Err(IdentityError::NotValid { what, from, until: not_after, at: until });
        }
        Ok(())
    }

    /// Returns the time from which and until which a certificate, DER, of a member or an authority is valid, Unix
    /// milliseconds.
    ///
    /// # Errors
    /// If it is malformed.
    pub fn validity(der: &[u8]) -> Result<(u64, u64), IdentityError> {
        validity_of(&CertificateDer::from(der))
    }

    /// Verifies a signature of a message by the key of a certificate, DER. The certificate itself is not verified.
    ///
    /// # Errors
    /// If the certificate is malformed, or the signature is wrong.
    pub fn verify_signature(der: &[u8], message: &[u8], signature: &[u8]) -> Result<(), IdentityError> {
        let der = CertificateDer::from(der);
        let certificate =
            EndEntityCert::try_from(&der).map_err(|error| IdentityError::unreadable("certificate", error))?;
        // An algorithm for another kind of key refuses.
        let mut verified =
            SIGNATURES.iter().map(|algorithm| certificate.verify_signature(*algorithm, message, signature));
        if verified.any(|verified| verified.is_ok()) { Ok(()) } else { Err(IdentityError::WrongSignature) }
    }
}

/// Verifies that a certificate is valid at a time, but for the margin; both in Unix milliseconds.
fn check_validity(what: &'static str, (from, until): (u64, u64), at: u64) -> Result<(), IdentityError> {
    let margin = u64::try_from(NOT_BEFORE_MARGIN.as_millis()).unwrap_or(u64::MAX);
    if at.saturating_add(margin) < from || at > until.saturating_add(margin) {
        return Err(IdentityError::NotValid { what, from, until, at });
    }
    Ok(())
}

/// Verifies that a certificate, which is valid `at` a time, was issued by an authority.
fn check_issuer(der: &CertificateDer<'_>, authority: &CertificateDer<'_>, at: u64) -> Result<(), IdentityError> {
    if !parse(authority)?.is_ca() {
        return Err(IdentityError::NotIssued("its certificate is not that of an authority".into()));
    }
    let anchor = anchor_from_trusted_cert(authority)
        .map_err(|error| IdentityError::unreadable("authority's certificate", error))?;
    let certificate = EndEntityCert::try_from(der).map_err(|error| IdentityError::unreadable("certificate", error))?;
    let anchors = [anchor];
    let (time, usage) = (UnixTime::since_unix_epoch(Duration::from_millis(at)), KeyUsage::client_auth());
    let path = certificate.verify_for_usage(ALL_VERIFICATION_ALGS, &anchors, &[], time, usage, None, None);
    path.map(drop).map_err(|error| IdentityError::NotIssued(error.to_string()))
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

#[cfg(test)]
mod tests {
    use ring::{rand::SystemRandom, signature::Ed25519KeyPair};

    use super::*;
    use crate::{Authority, LEAF_LIFETIME, PeerRole, PrivateKey, Realm, SigningRequest};

    const NOW: u64 = 1_800_000_000_000;
    const MARGIN: u64 = 300_000;

    fn authority() -> Authority {
        Authority::create(&Realm::new("robeing.local", "default", "one").unwrap(), NOW).unwrap()
    }

    fn issued(authority: &Authority, key: &PrivateKey) -> CertificateDer<'static> {
        let request = SigningRequest::from_der(&key.request().unwrap()).unwrap();
        let id = Realm::new("robeing.local", "default", "one").unwrap().member(PeerRole::Worker, "w-0").unwrap();
        authority.issue(&request, &id, &[], NOW, LEAF_LIFETIME).unwrap().certificate
    }

    /// Returns a key of each kind that can be made here.
    fn keys() -> [PrivateKey; 2] {
        let ed25519 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        let body = STANDARD.encode(ed25519.as_ref());
        let pem = format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n");
        [PrivateKey::generate().unwrap(), PrivateKey::from_pem(&pem).unwrap()]
    }

    #[test]
    fn a_certificate_lasts_until_its_end_and_no_millisecond_longer() {
        let authority = authority();
        let certificate = issued(&authority, &PrivateKey::generate().unwrap());
        let end = Certificate::from_der(&certificate).unwrap().not_after;
        assert!(Certificate::check_lasts("certificate", &certificate, end).is_ok());
        let late = Certificate::check_lasts("certificate", &certificate, end + 1);
        assert!(matches!(late, Err(IdentityError::NotValid { until, .. }) if until == end), "{late:?}");
        assert!(Certificate::check_lasts("authority's certificate", authority.certificate(), end + 1).is_ok());
        assert!(Certificate::check_lasts("certificate", b"x", 0).is_err());
    }

    #[test]
    fn what_a_key_signs_is_verified_with_its_certificate_alone() {
        let authority = authority();
        for key in keys() {
            let certificate = issued(&authority, &key);
            let other = issued(&authority, &PrivateKey::generate().unwrap());
            let signature = key.sign(b"message").unwrap();
            assert!(Certificate::verify_signature(&certificate, b"message", &signature).is_ok());
            let wrong = [
                Certificate::verify_signature(&certificate, b"massage", &signature),
                Certificate::verify_signature(&other, b"message", &signature),
                Certificate::verify_signature(&certificate, b"message", &signature[1..]),
                Certificate::verify_signature(&certificate, b"message", b""),
            ];
            assert!(wrong.iter().all(|wrong| matches!(wrong, Err(IdentityError::WrongSignature))), "{wrong:?}");
        }
        assert!(Certificate::verify_signature(b"x", b"message", b"").is_err());
    }

    #[test]
    fn a_certificate_is_of_the_authority_that_issued_it_and_no_other() {
        let (mine, other) = (authority(), authority());
        for key in keys() {
            let certificate = issued(&mine, &key);
            let read = Certificate::verify_issued(&certificate, mine.certificate(), NOW).unwrap();
            assert_eq!(read, Certificate::from_der(&certificate).unwrap());
            assert!(Certificate::is_issued_by(&certificate, mine.certificate()));
            assert!(!Certificate::is_issued_by(&certificate, other.certificate()));
            assert!(!Certificate::is_issued_by(mine.certificate(), mine.certificate()), "it is of no member");
            // A member is no authority, not even of itself.
            assert!(!Certificate::is_issued_by(&certificate, &certificate));
            let refused = Certificate::verify_issued(&certificate, other.certificate(), NOW);
            assert!(matches!(refused, Err(IdentityError::NotIssued(_))), "{refused:?}");
        }
    }

    #[test]
    fn no_change_of_a_certificate_goes_unseen() {
        let authority = authority();
        let certificate = issued(&authority, &PrivateKey::generate().unwrap()).to_vec();
        for at in 0..certificate.len() {
            let mut changed = certificate.clone();
            changed[at] ^= 1;
            let verified = Certificate::verify_issued(&changed, authority.certificate(), NOW);
            assert!(verified.is_err(), "byte {at} of {}", certificate.len());
        }
    }

    #[test]
    fn a_certificate_and_its_authority_are_valid_at_the_time_but_for_the_margin() {
        let authority = authority();
        let certificate = issued(&authority, &PrivateKey::generate().unwrap());
        let Certificate { not_before, not_after, .. } = Certificate::from_der(&certificate).unwrap();
        let at = |at: u64| Certificate::verify_issued(&certificate, authority.certificate(), at);
        for good in [not_before - MARGIN, not_before, NOW, not_after, not_after + MARGIN] {
            assert!(at(good).is_ok(), "{good}: {:?}", at(good));
        }
        for bad in [0, not_before - MARGIN - 1, not_after + MARGIN + 1, u64::MAX] {
            assert!(matches!(at(bad), Err(IdentityError::NotValid { at, .. }) if at == bad), "{bad}: {:?}", at(bad));
        }
        let realm = Realm::new("robeing.local", "default", "one").unwrap();
        let day = Duration::from_secs(24 * 60 * 60);
        let earlier = Authority::create_for(&realm, NOW - 864_000_000, day).unwrap();
        let refused = Certificate::verify_issued(&certificate, earlier.certificate(), NOW).unwrap_err();
        assert!(refused.to_string().starts_with("the authority's certificate is valid from"), "{refused}");
    }
}
