//! Private keys, and the requests to certify them.

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, KeyPair, PublicKeyData, SigningKey,
};
use rustls_pki_types::{CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{IdentityError, digest};

/// Maximum size of a signing request, bytes.
const MAX_REQUEST_BYTES: usize = 4_096;

/// A private key, on the curve P-256, which all TLS libraries support. Its `Debug` form does not reveal it.
pub struct PrivateKey {
    pair: KeyPair,
}

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrivateKey")
    }
}

impl PrivateKey {
    /// Makes a new key.
    ///
    /// # Errors
    /// If the operating system has no random numbers.
    pub fn generate() -> Result<Self, IdentityError> {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256);
        Ok(Self { pair: pair.map_err(|error| IdentityError::failed("private key", error))? })
    }

    /// Reads a key in PEM form (PKCS #8), of any kind that TLS supports.
    ///
    /// # Errors
    /// If it is no such key.
    pub fn from_pem(pem: &str) -> Result<Self, IdentityError> {
        let pair = KeyPair::from_pem(pem).map_err(|error| IdentityError::unreadable("private key", error))?;
        Ok(Self { pair })
    }

    /// Writes the key in PEM form.
    pub fn to_pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// Returns the key in the form that rustls takes.
    pub fn to_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pair.serialize_der()))
    }

    /// Returns the digest of the public key.
    pub fn public_digest(&self) -> [u8; 32] {
        digest(&self.pair.subject_public_key_info())
    }

    /// Returns a request to certify this key, signed with it, DER. It names nobody: the authority decides whose key it
    /// is by the proof that comes with the request.
    ///
    /// # Errors
    /// If it can't be signed.
    pub fn request(&self) -> Result<Vec<u8>, IdentityError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params.serialize_request(&self.pair);
        Ok(request.map_err(|error| IdentityError::failed("signing request", error))?.der().to_vec())
    }

    /// Signs a message. [`Certificate::verify_signature`](crate::Certificate::verify_signature) verifies it: the hash is
    /// SHA-256, or what the key's kind prescribes.
    ///
    /// # Errors
    /// If the operating system has no random numbers.
    pub fn sign(&self, message: &[u8]) -> Result<Vec<u8>, IdentityError> {
        self.pair.sign(message).map_err(|error| IdentityError::failed("signature", error))
    }

    pub(crate) fn pair(&self) -> &impl SigningKey {
        &self.pair
    }

    pub(crate) fn into_pair(self) -> KeyPair {
        self.pair
    }
}

/// A request to certify a public key, whose sender has the private one.
#[derive(Debug)]
pub struct SigningRequest {
    params: CertificateSigningRequestParams,
}

impl SigningRequest {
    /// Reads a request and verifies its signature.
    ///
    /// # Errors
    /// If it is malformed or too large, or its signature is wrong.
    pub fn from_der(der: &[u8]) -> Result<Self, IdentityError> {
        if der.len() > MAX_REQUEST_BYTES {
            let problem = format!("it has {} bytes, the most is {MAX_REQUEST_BYTES}", der.len());
            return Err(IdentityError::unreadable("signing request", problem));
        }
        let der = CertificateSigningRequestDer::from(der);
        let params = CertificateSigningRequestParams::from_der(&der);
        Ok(Self { params: params.map_err(|error| IdentityError::unreadable("signing request", error))? })
    }

    /// Returns the digest of the public key.
    pub fn public_digest(&self) -> [u8; 32] {
        digest(&self.params.public_key.subject_public_key_info())
    }

    pub(crate) fn public_key(&self) -> &impl PublicKeyData {
        &self.params.public_key
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_carries_the_key_and_proves_its_possession() {
        let key = PrivateKey::generate().unwrap();
        let mut request = key.request().unwrap();
        assert_eq!(SigningRequest::from_der(&request).unwrap().public_digest(), key.public_digest());
        // The last bytes are the signature.
        let last = request.len() - 1;
        request[last] ^= 1;
        assert!(SigningRequest::from_der(&request).is_err());
        assert!(SigningRequest::from_der(&request[..last]).is_err());
        assert!(SigningRequest::from_der(&vec![0; MAX_REQUEST_BYTES + 1]).is_err());
    }

    #[test]
    fn a_key_is_written_and_read_again_but_not_shown() {
        let key = PrivateKey::generate().unwrap();
        let again = PrivateKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(again.public_digest(), key.public_digest());
        assert_eq!(format!("{key:?}"), "PrivateKey");
        assert!(PrivateKey::from_pem("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----").is_err());
    }
}
