//! The authorities that the members of a fleet trust.

use rustls_pki_types::{CertificateDer, pem::PemObject};

use crate::{
    IdentityError,
    certificate::{certificate_pem, validity_of},
    digest,
};

/// Maximum number of authorities in a bundle.
pub const MAX_AUTHORITIES: usize = 8;
/// Maximum size of a bundle, bytes of PEM.
pub const MAX_BUNDLE_BYTES: usize = 64 * 1024;

/// The certificates of the authorities that a fleet trusts: one, or several while they are rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundle {
    authorities: Vec<CertificateDer<'static>>,
    pem: String,
}

impl TrustBundle {
    /// Reads a bundle in PEM form. Text between the certificates is ignored.
    ///
    /// # Errors
    /// If it has no certificate, too many of them, or one that can't be read.
    pub fn from_pem(pem: &str) -> Result<Self, IdentityError> {
        if pem.len() > MAX_BUNDLE_BYTES {
            let problem = format!("the trust bundle has {} bytes, the most is {MAX_BUNDLE_BYTES}", pem.len());
            return Err(IdentityError::Bundle(problem));
        }
        let mut authorities: Vec<CertificateDer<'static>> = Vec::new();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            let certificate = certificate.map_err(|error| IdentityError::unreadable("trust bundle", error))?;
            validity_of(&certificate)?;
            if !authorities.contains(&certificate) {
                authorities.push(certificate);
            }
        }
        match authorities.len() {
            0 => Err(IdentityError::Bundle("the trust bundle has no certificate".into())),
            count if count > MAX_AUTHORITIES => Err(IdentityError::Bundle(format!(
                "the trust bundle has {count} authorities, the most is {MAX_AUTHORITIES}; remove those that expired"
            ))),
            _ => Ok(Self { authorities, pem: pem.to_owned() }),
        }
    }

    /// Creates a bundle from certificates, DER.
    ///
    /// # Errors
    /// See [`TrustBundle::from_pem`].
    pub fn from_der(authorities: &[Vec<u8>]) -> Result<Self, IdentityError> {
        Self::from_pem(&authorities.iter().map(|der| certificate_pem(der)).collect::<String>())
    }

    /// Returns the certificates of the authorities.
    pub fn authorities(&self) -> &[CertificateDer<'static>] {
        &self.authorities
    }

    /// Returns the bundle in PEM form.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Returns a digest of the bundle's content.
    pub fn digest(&self) -> [u8; 32] {
        let mut digests: Vec<[u8; 32]> = self.authorities.iter().map(|authority| digest(authority)).collect();
        digests.sort_unstable();
        digest(&digests.concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, Realm};

    fn authority() -> Authority {
        Authority::create(&Realm::new("a", "b", "c").unwrap(), 1_800_000_000_000).unwrap()
    }

    #[test]
    fn a_bundle_has_each_authority_once_in_any_order() {
        let (one, two) = (authority(), authority());
        let both = format!("{}\n# a comment\n{}", one.certificate_pem(), two.certificate_pem());
        let bundle = TrustBundle::from_pem(&both).unwrap();
        assert_eq!(bundle.authorities(), [one.certificate().clone(), two.certificate().clone()]);
        let ders: Vec<Vec<u8>> = bundle.authorities().iter().map(|authority| authority.to_vec()).collect();
        assert_eq!(TrustBundle::from_der(&ders).unwrap().digest(), bundle.digest());
        let turned = format!("{}{}{}", two.certificate_pem(), one.certificate_pem(), two.certificate_pem());
        assert_eq!(TrustBundle::from_pem(&turned).unwrap().digest(), bundle.digest());
        assert_ne!(TrustBundle::from_pem(one.certificate_pem()).unwrap().digest(), bundle.digest());
    }

    #[test]
    fn a_bundle_is_bounded_and_not_empty() {
        assert!(TrustBundle::from_pem("").is_err());
        assert!(TrustBundle::from_pem("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").is_err());
        let most: String = (0..MAX_AUTHORITIES).map(|_| authority().certificate_pem().to_owned()).collect();
        assert!(TrustBundle::from_pem(&most).is_ok());
        assert!(TrustBundle::from_pem(&(most + authority().certificate_pem())).is_err());
        assert!(TrustBundle::from_pem(&" ".repeat(MAX_BUNDLE_BYTES + 1)).is_err());
    }
}
