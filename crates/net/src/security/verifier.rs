//! Verifies the certificates of peers: that an authority of the fleet has issued them, and that they are valid now.
//! Whose they are is checked after the handshake, by the caller, which knows which peer it expects.

use std::{sync::Arc, time::Duration};

use robeing_identity::{Certificate, TrustBundle};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};

use super::clock::TrustClock;

/// How far a machine's own wall clock may be off at its first contact with a fleet: until the fleet's time is known,
/// certificates count as valid this much before and after their time.
pub const FIRST_CONTACT_TOLERANCE: Duration = Duration::from_secs(24 * 60 * 60);

/// Verifies peers' certificates, in both directions.
#[derive(Debug)]
pub(super) struct PeerVerifier {
    /// The trusted authorities. `None` trusts anybody: the first contact of a process that was given no authority.
    roots: Option<RootCertStore>,
    /// The authorities' names, for clients that choose among several certificates by them.
    subjects: Vec<DistinguishedName>,
    clock: Arc<TrustClock>,
    provider: Arc<CryptoProvider>,
}

impl PeerVerifier {
    /// Creates a verifier that trusts the authorities of `bundle`, or anybody if there is none.
    pub(super) fn new(
        bundle: Option<&TrustBundle>,
        clock: Arc<TrustClock>,
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, Error> {
        let roots = bundle.map(|bundle| {
            let mut roots = RootCertStore::empty();
            bundle.authorities().iter().try_for_each(|authority| roots.add(authority.clone()))?;
            Ok::<_, Error>(roots)
        });
        let roots = roots.transpose()?;
        let subjects = roots.as_ref().map(RootCertStore::subjects).unwrap_or_default();
        Ok(Self { roots, subjects, clock, provider })
    }

    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let Some(roots) = &self.roots else { return Ok(()) };
        let parsed = ParsedCertificate::try_from(end_entity)?;
        let now = self.judged_at(end_entity, now);
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&parsed, roots, intermediates, now, algorithms)
    }

    /// Returns the time at which a certificate is judged: now, or before the fleet's time is known, the nearest time
    /// at which it is valid, if that is within the tolerance.
    fn judged_at(&self, certificate: &CertificateDer<'_>, now: UnixTime) -> UnixTime {
        if self.clock.is_known() {
            return now;
        }
        let Ok(Certificate { not_before, not_after, .. }) = Certificate::from_der(certificate) else { return now };
        // Anybody can make a certificate that ends before it begins; none is valid then.
        let seconds = now.as_secs().max(not_before.div_ceil(1_000)).min(not_after / 1_000);
        match seconds.abs_diff(now.as_secs()) <= FIRST_CONTACT_TOLERANCE.as_secs() {
            true => UnixTime::since_unix_epoch(Duration::from_secs(seconds)),
            false => now,
        }
    }
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(end_entity, intermediates, now).map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        // TLS 1.2 is never offered, so its signatures never need to be verified.
        Err(CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        // An agent that enrols has no certificate, nor has a client with a token. Each call decides what that permits.
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.subjects
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if self.roots.is_none() {
            // At the first contact, this process trusts any server that it calls, but never a client that calls it.
            return Err(CertificateError::UnknownIssuer.into());
        }
        self.verify(end_entity, intermediates, now).map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}
