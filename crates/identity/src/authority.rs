//! The certificate authority of one fleet.

use std::{net::IpAddr, time::Duration};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use time::OffsetDateTime;

use crate::{
    IdentityError, PrivateKey, Realm, SigningRequest, SpiffeId,
    certificate::{key_of, validity_of},
    random_bytes,
};

/// How long a member's certificate is valid.
pub const LEAF_LIFETIME: Duration = Duration::from_secs(60 * 60);
/// How long an authority is valid.
pub const AUTHORITY_LIFETIME: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// How much earlier than it was made an authority is valid, because the clock of the machine that makes it may be
/// wrong.
const AUTHORITY_MARGIN: Duration = Duration::from_secs(24 * 60 * 60);
/// How much earlier than its issue a certificate is valid, because the clocks of those that verify it differ.
pub const NOT_BEFORE_MARGIN: Duration = Duration::from_secs(5 * 60);

/// A certificate authority with its private key.
pub struct Authority {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key_pem: String,
    issuer: Issuer<'static, KeyPair>,
    not_after: u64,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

/// A certificate that an authority has issued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// Time from which it is valid, Unix milliseconds.
    pub not_before: u64,
    /// Time until which it is valid, Unix milliseconds.
    pub not_after: u64,
}

impl Authority {
    /// Makes a new authority for a fleet. `now` is in Unix milliseconds.
    ///
    /// # Errors
    /// If its key or certificate can't be made.
    pub fn create(realm: &Realm, now: u64) -> Result<Self, IdentityError> {
        Self::create_for(realm, now, AUTHORITY_LIFETIME)
    }

    /// Makes a new authority for a fleet that is valid for `lifetime`. `now` is in Unix milliseconds.
    ///
    /// # Errors
    /// If its key or certificate can't be made.
    pub fn create_for(realm: &Realm, now: u64, lifetime: Duration) -> Result<Self, IdentityError> {
        let key = PrivateKey::generate()?;
        let mut params = CertificateParams::default();
        let (_, not_after) = validity(now, lifetime, u64::MAX);
        let (not_before, _) = validity(now.saturating_sub(AUTHORITY_MARGIN.as_millis() as u64), lifetime, u64::MAX);
        set_validity(&mut params, not_before, not_after)?;
        params.serial_number = Some(serial()?);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "robeing");
        // Two authorities of one fleet, during a rotation, have different names, so that a certificate's issuer is
        // found without trying both.
        let id: [u8; 4] = random_bytes()?;
        let id = u32::from_be_bytes(id);
        name.push(DnType::CommonName, format!("{}.{} {id:08x}", realm.cluster(), realm.namespace()));
        params.distinguished_name = name;
        let certificate = params.self_signed(key.pair()).map_err(|error| IdentityError::failed("authority", error))?;
        Self::from_pem(&certificate.pem(), &key.to_pem())
    }

    /// Reads an authority: its certificate and its private key, both PEM.
    ///
    /// # Errors
    /// If they can't be read or do not belong together.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, IdentityError> {
        let unreadable =
            |problem: &dyn std::fmt::Display| IdentityError::unreadable("authority's certificate", problem);
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|error| unreadable(&error))?;
        let key_pem = key.to_owned();
        let key = PrivateKey::from_pem(key)?;
        if key_of(&der)? != key.public_digest() {
            return Err(IdentityError::KeyMismatch);
        }
        let (_, not_after) = validity_of(&der)?;
        let issuer = Issuer::from_ca_cert_der(&der, key.into_pair()).map_err(|error| unreadable(&error))?;
        Ok(Self { certificate: der, certificate_pem: certificate.to_owned(), key_pem, issuer, not_after })
    }

    /// Returns the authority's certificate, PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Returns the authority's certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Returns the authority's private key, PEM.
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Returns the time until which the authority is valid, Unix milliseconds.
    pub fn not_after(&self) -> u64 {
        self.not_after
    }

    /// Certifies that the key of `request` is the key of `id`, who may also be reached at `hosts` (names or IP
    /// addresses; what is neither is left out). The certificate is valid for `lifetime`, but not longer than the
    /// authority itself.
    ///
    /// # Errors
    /// If it can't be signed.
    pub fn issue(
        &self,
        request: &SigningRequest,
        id: &SpiffeId,
        hosts: &[String],
        now: u64,
        lifetime: Duration,
    ) -> Result<Issued, IdentityError> {
        let failed = |error: rcgen::Error| IdentityError::failed("certificate", error);
        let mut params = CertificateParams::default();
        let (not_before, not_after) = validity(now, lifetime, self.not_after);
        set_validity(&mut params, not_before, not_after)?;
        params.serial_number = Some(serial()?);
        params.is_ca = IsCa::ExplicitNoCa;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let mut name = DistinguishedName::new();
        name.push(DnType::OrganizationName, "robeing");
        params.distinguished_name = name;
        params.subject_alt_names = vec![SanType::URI(id.to_string().try_into().map_err(failed)?)];
        params.subject_alt_names.extend(hosts.iter().filter_map(|host| host_name(host)));
        let certificate = params.signed_by(request.public_key(), &self.issuer).map_err(failed)?;
        Ok(Issued { certificate: certificate.der().clone(), not_before, not_after })
    }
}

/// Returns the alternative name for a host, if it is a name or an IP address.
fn host_name(host: &str) -> Option<SanType> {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(address) => Some(SanType::IpAddress(address)),
        Err(_) => {
            let valid = rustls_pki_types::DnsName::try_from(host).is_ok();
            valid.then(|| host.try_into().ok().map(SanType::DnsName)).flatten()
        }
    }
}

/// Returns the validity of a certificate that is issued `now`, Unix milliseconds in whole seconds.
fn validity(now: u64, lifetime: Duration, most: u64) -> (u64, u64) {
    let whole = |ms: u64| ms / 1_000 * 1_000;
    let margin = NOT_BEFORE_MARGIN.as_millis() as u64;
    let after = now.saturating_add(lifetime.as_millis() as u64);
    (whole(now.saturating_sub(margin)), whole(after.min(most)))
}

fn set_validity(params: &mut CertificateParams, not_before: u64, not_after: u64) -> Result<(), IdentityError> {
    let time = |ms: u64| {
        let seconds = i64::try_from(ms / 1_000).unwrap_or(i64::MAX);
        OffsetDateTime::from_unix_timestamp(seconds).map_err(|error| IdentityError::failed("certificate", error))
    };
    params.not_before = time(not_before)?;
    params.not_after = time(not_after)?;
    Ok(())
}

fn serial() -> Result<SerialNumber, IdentityError> {
    let mut bytes: [u8; 16] = random_bytes()?;
    // RFC 5280, section 4.1.2.2: a positive number of at most 20 bytes.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Certificate, PeerRole};

    const NOW: u64 = 1_800_000_000_123;

    fn realm() -> Realm {
        Realm::new("robeing.local", "default", "one").unwrap()
    }

    #[test]
    fn a_certificate_states_whose_it_is_and_for_how_long() {
        let authority = Authority::create(&realm(), NOW).unwrap();
        let key = PrivateKey::generate().unwrap();
        let request = SigningRequest::from_der(&key.request().unwrap()).unwrap();
        let id = realm().member(PeerRole::Worker, "data-0").unwrap();
        let hosts = ["localhost", "127.0.0.1", "[::1]", "not a host", ""].map(String::from);
        let issued = authority.issue(&request, &id, &hosts, NOW, LEAF_LIFETIME).unwrap();
        let read = Certificate::from_der(&issued.certificate).unwrap();
        assert_eq!(read.id, id);
        assert_eq!(read.key, key.public_digest());
        assert_eq!((read.not_before, read.not_after), (1_799_999_700_000, 1_800_003_600_000));
        assert_eq!((issued.not_before, issued.not_after), (read.not_before, read.not_after));
    }

    #[test]
    fn no_certificate_outlives_its_authority() {
        let authority = Authority::create(&realm(), NOW).unwrap();
        let key = PrivateKey::generate().unwrap();
        let request = SigningRequest::from_der(&key.request().unwrap()).unwrap();
        let id = realm().member(PeerRole::Client, "ann").unwrap();
        let issued = authority.issue(&request, &id, &[], authority.not_after() - 60_000, LEAF_LIFETIME).unwrap();
        assert_eq!(issued.not_after, authority.not_after());
    }

    #[test]
    fn an_authority_is_written_and_read_again() {
        let authority = Authority::create(&realm(), NOW).unwrap();
        let again = Authority::from_pem(authority.certificate_pem(), authority.key_pem()).unwrap();
        assert_eq!(again.not_after(), authority.not_after());
        let other = Authority::create(&realm(), NOW).unwrap();
        let mixed = Authority::from_pem(authority.certificate_pem(), other.key_pem());
        assert!(matches!(mixed, Err(IdentityError::KeyMismatch)));
        assert!(Authority::from_pem("", authority.key_pem()).is_err());
    }

    #[test]
    fn a_certificate_of_nobody_is_no_members() {
        let authority = Authority::create(&realm(), NOW).unwrap();
        assert!(matches!(Certificate::from_der(authority.certificate()), Err(IdentityError::NoIdentity(_))));
        assert!(Certificate::from_der(b"x").is_err());
    }
}
