//! What a process trusts and how it proves who it is, with the TLS settings made of it.

use std::{fmt, sync::Arc};

use robeing_identity::{Certificate, IdentityError, PrivateKey, SpiffeId, TrustBundle};
use rustls::{
    ClientConfig, ServerConfig, SupportedProtocolVersion,
    client::Resumption,
    crypto::{CryptoProvider, ring},
    pki_types::CertificateDer,
    server::NoServerSessionStorage,
    version::TLS13,
};

use super::{clock::TrustClock, verifier::PeerVerifier};

/// The one version of TLS that is spoken.
const VERSIONS: &[&SupportedProtocolVersion] = &[&TLS13];
/// What is spoken over TLS: HTTP/2, as gRPC needs it.
const ALPN: &[u8] = b"h2";
/// What is spoken with clients that may know nothing of gRPC, besides HTTP/2.
const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Why credentials can't be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A certificate or key can't be read.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The TLS library refuses them.
    #[error("TLS can't be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// The certificate of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnCertificate {
    /// The certificate.
    pub certificate: CertificateDer<'static>,
    /// What it states.
    pub stated: Certificate,
}

/// What a process trusts, and its own certificate, at some moment; they are replaced as a whole when the certificate is
/// renewed or an authority is added or removed. Connections that exist are not affected.
pub struct Credentials {
    cluster: String,
    clock: Arc<TrustClock>,
    bundle: Option<TrustBundle>,
    own: Option<OwnCertificate>,
    /// The key of the own certificate, for signatures outside of TLS.
    signer: Option<PrivateKey>,
    pub(super) client: Arc<ClientConfig>,
    /// For connections on which this process does not present its certificate.
    pub(super) nameless: Arc<ClientConfig>,
    /// `None` while this process has no certificate.
    pub(super) server: Option<Arc<ServerConfig>>,
    /// For listeners that speak HTTP/1.1 as well; `None` while this process has no certificate.
    pub(super) web: Option<Arc<ServerConfig>>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("cluster", &self.cluster).field("own", &self.id()).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Creates the credentials of a process of this cluster; a client that knows no name of the cluster gives an empty
    /// one. Without a `bundle` it trusts whatever server it meets, and no client; that is right only for the first
    /// contact of open enrolment. Without `own` it can neither serve nor prove who it is.
    ///
    /// # Errors
    /// If the certificate names no member, or TLS can't use it with this key.
    pub fn new(
        cluster: &str,
        bundle: Option<TrustBundle>,
        own: Option<(CertificateDer<'static>, &PrivateKey)>,
        clock: &Arc<TrustClock>,
    ) -> Result<Self, CredentialsError> {
        let provider = Arc::new(ring::default_provider());
        let verifier = Arc::new(PeerVerifier::new(bundle.as_ref(), Arc::clone(clock), Arc::clone(&provider))?);
        let nameless = Arc::new(client_config(&verifier, &provider, clock, None)?);
        let client = match own.as_ref() {
            Some(own) => Arc::new(client_config(&verifier, &provider, clock, Some(own))?),
            None => Arc::clone(&nameless),
        };
        let server = own.as_ref().map(|own| server_config(&verifier, &provider, clock, own)).transpose()?;
        let web = server.clone().map(|mut config| {
            config.alpn_protocols.push(ALPN_HTTP1.to_vec());
            Arc::new(config)
        });
        // A copy: whoever keeps the key certifies it again.
        let signer = own.as_ref().map(|(_, key)| PrivateKey::from_pem(&key.to_pem())).transpose()?;
        let own = own.map(|(certificate, _)| {
            let stated = Certificate::from_der(&certificate)?;
            Ok::<_, CredentialsError>(OwnCertificate { certificate, stated })
        });
        Ok(Self {
            cluster: cluster.to_owned(),
            clock: Arc::clone(clock),
            bundle,
            own: own.transpose()?,
            signer,
            client,
            nameless,
            server: server.map(Arc::new),
            web,
        })
    }

    /// Returns the cluster that the process belongs to.
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Returns the clock by which certificates are judged.
    pub fn clock(&self) -> &Arc<TrustClock> {
        &self.clock
    }

    /// Returns the trusted authorities, if any are known.
    pub fn bundle(&self) -> Option<&TrustBundle> {
        self.bundle.as_ref()
    }

    /// Returns the certificate of this process, if it has one.
    pub fn own(&self) -> Option<&OwnCertificate> {
        self.own.as_ref()
    }

    /// Returns the private key of the certificate of this process, if it has one: to sign what others verify by the
    /// certificate.
    pub fn signer(&self) -> Option<&PrivateKey> {
        self.signer.as_ref()
    }

    /// Returns who this process is, if it has a certificate.
    pub fn id(&self) -> Option<&SpiffeId> {
        self.own.as_ref().map(|own| &own.stated.id)
    }

    /// Returns whether a peer with this id is of the same fleet.
    pub(super) fn is_of_this_fleet(&self, peer: &SpiffeId) -> bool {
        match self.id() {
            Some(own) => own.realm() == peer.realm(),
            None => self.cluster.is_empty() || peer.realm().cluster() == self.cluster,
        }
    }
}

fn client_config(
    verifier: &Arc<PeerVerifier>,
    provider: &Arc<CryptoProvider>,
    clock: &Arc<TrustClock>,
    own: Option<&(CertificateDer<'static>, &PrivateKey)>,
) -> Result<ClientConfig, CredentialsError> {
    let builder = ClientConfig::builder_with_details(Arc::clone(provider), Arc::clone(clock) as _)
        .with_protocol_versions(VERSIONS)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(verifier) as _);
    let mut config = match own {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate.clone()], key.to_der())?,
        None => builder.with_no_client_auth(),
    };
    // A resumed connection would not present the certificate again.
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}

fn server_config(
    verifier: &Arc<PeerVerifier>,
    provider: &Arc<CryptoProvider>,
    clock: &Arc<TrustClock>,
    (certificate, key): &(CertificateDer<'static>, &PrivateKey),
) -> Result<ServerConfig, CredentialsError> {
    let mut config = ServerConfig::builder_with_details(Arc::clone(provider), Arc::clone(clock) as _)
        .with_protocol_versions(VERSIONS)?
        .with_client_cert_verifier(Arc::clone(verifier) as _)
        .with_single_cert(vec![certificate.clone()], key.to_der())?;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}
