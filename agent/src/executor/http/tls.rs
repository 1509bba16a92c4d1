//! Decides which https servers are trusted: by the system's trusted certificates, or those that SSL_CERT_FILE and
//! SSL_CERT_DIR name.
//!
//! A server whose own certificate is one of these is trusted even if it is a CA certificate, as `openssl req -x509`
//! creates them, or if its issuer is not trusted. webpki rejects such a certificate, since a CA should not be a server
//! and a chain should end in a CA; but listing the server's own certificate is an explicit choice.

use std::{env, fmt, path::PathBuf, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};
use rustls_native_certs::{CertificateResult, load_certs_from_paths, load_native_certs};

/// The object identifier of the subjectAltName extension, DER-encoded.
const SUBJECT_ALT_NAME: [u8; 5] = [6, 3, 0x55, 0x1D, 0x11];
/// The object identifier of the common name in a subject, DER-encoded.
const COMMON_NAME: [u8; 5] = [6, 3, 0x55, 4, 3];

/// Why there are no trusted certificates.
#[derive(Debug, thiserror::Error)]
pub enum CertificatesError {
    /// The file that SSL_CERT_FILE names has no readable certificate.
    #[error(
        "SSL_CERT_FILE names {path:?}, which has no readable certificate ({why}); name a file with PEM certificates"
    )]
    File {
        /// The path in SSL_CERT_FILE.
        path: PathBuf,
        /// The error from reading it.
        why: String,
    },
    /// No trusted certificates were found.
    #[error("{why}; install ca-certificates in the image or set SSL_CERT_FILE")]
    None {
        /// The error from looking for them.
        why: String,
    },
    /// The certificates can't be used.
    #[error(transparent)]
    Unusable(#[from] Box<dyn std::error::Error + Send + Sync>),
}

/// Returns the TLS configuration for https connections.
///
/// # Errors
/// When no trusted certificate can be read, or none in the file that SSL_CERT_FILE names.
pub(super) fn config() -> Result<ClientConfig, CertificatesError> {
    if let Some(path) = set("SSL_CERT_FILE") {
        usable(&load_certs_from_paths(Some(&path), None)).map_err(|why| CertificatesError::File { path, why })?;
    }
    let found = found();
    for error in &found.errors {
        tracing::warn!(%error, "not all trusted certificates can be read");
    }
    let roots = usable(&found).map_err(|why| CertificatesError::None { why })?;
    let provider = Arc::new(ring::default_provider());
    let verifier = Verifier::new(roots, found.certs, &provider).map_err(|error| Box::new(error) as Box<_>)?;
    with_verifier(provider, verifier)
}

/// Returns the TLS configuration of a connector that only makes connections without TLS: it trusts no certificate.
pub(super) fn trusting_nobody() -> Result<ClientConfig, CertificatesError> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().map_err(|error| Box::new(error) as Box<_>)?;
    Ok(config.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn with_verifier(provider: Arc<CryptoProvider>, verifier: Verifier) -> Result<ClientConfig, CertificatesError> {
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.map_err(|error| Box::new(error) as Box<_>)?;
    let config = config.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(config.with_no_client_auth())
}

/// Returns the path in an environment variable. An empty variable counts as unset.
fn set(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Returns the trusted certificates that can be read.
fn found() -> CertificateResult {
    let is_empty = env::var_os("SSL_CERT_FILE").is_some_and(|value| value.is_empty());
    if !is_empty || set("SSL_CERT_DIR").is_some() {
        return load_native_certs();
    }
    // With an empty SSL_CERT_FILE the library would only look for a file with an empty name.
    let system = openssl_probe::probe();
    let mut found = load_certs_from_paths(system.cert_file.as_deref(), None);
    for directory in &system.cert_dir {
        let more = load_certs_from_paths(None, Some(directory));
        found.certs.extend(more.certs);
        found.errors.extend(more.errors);
    }
    // Many systems have each certificate both in a bundle and in a file of its own.
    found.certs.sort_unstable_by(|a, b| a.cmp(b));
    found.certs.dedup();
    found
}

/// Returns the certificates that were found if at least one can be used; the error gives the reason.
fn usable(found: &CertificateResult) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs.iter().cloned());
    match found.errors.first() {
        _ if !roots.is_empty() => Ok(roots),
        Some(error) => Err(error.to_string()),
        None => Err("no trusted certificates were found".to_owned()),
    }
}

struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("trusted", &self.trusted.len()).finish_non_exhaustive()
    }
}

impl Verifier {
    fn new(
        roots: RootCertStore,
        trusted: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, impl std::error::Error + Send + Sync + 'static> {
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider)).build();
        webpki.map(|webpki| Self { webpki, trusted })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        let Err(error) = verified else { return verified };
        // webpki checks the validity period before it returns any of these errors.
        let is_forgivable = is_of_an_authority(&error) || is_of_a_stranger(&error) || is_of_another_name(&error);
        if !is_forgivable || !self.trusted.iter().any(|trusted| trusted.as_ref() == end_entity.as_ref()) {
            return Err(error);
        }
        if !is_common_name(end_entity, server_name) {
            verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

pub(super) fn is_of_an_authority(error: &Error) -> bool {
    let Error::InvalidCertificate(CertificateError::Other(other)) = error else { return false };
    matches!(other.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

fn is_of_a_stranger(error: &Error) -> bool {
    matches!(error, Error::InvalidCertificate(CertificateError::UnknownIssuer))
}

fn is_of_another_name(error: &Error) -> bool {
    use CertificateError::{NotValidForName, NotValidForNameContext};
    matches!(error, Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }))
}

/// Whether a certificate without subjectAltName, as old ones are, has this server as its common name.
fn is_common_name(certificate: &CertificateDer<'_>, server: &ServerName<'_>) -> bool {
    let has = |wanted: &[u8]| certificate.windows(wanted.len()).any(|bytes| bytes == wanted);
    let Ok(parsed) = webpki::EndEntityCert::try_from(certificate) else { return false };
    let subject = parsed.subject();
    let Some(at) = subject.windows(COMMON_NAME.len()).rposition(|bytes| bytes == COMMON_NAME) else { return false };
    // DER: the string type, the length, the text. Server names are too short to need the long form of the length.
    let name = match subject.get(at + COMMON_NAME.len()..) {
        Some([_, length @ ..=0x7F, text @ ..]) => text.get(..usize::from(*length)),
        _ => None,
    };
    let server = server.to_str();
    !has(&SUBJECT_ALT_NAME) && name.is_some_and(|name| name.eq_ignore_ascii_case(server.as_bytes()))
}
