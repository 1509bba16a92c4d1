//! A thief of a fleet's certificate authority, who can be whoever a test likes: a member of the fleet, one of another
//! fleet, or one whose certificate has expired.

use std::{
    fmt, fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use robeing_client::{ClientIdentity, Security};
use robeing_identity::{
    Authority, JoinClaims, JoinKey, LEAF_LIFETIME, PeerRole, PrivateKey, Realm, SigningRequest, TrustBundle,
    certificate_pem,
    files::{CERTIFICATE, JOIN_KEY, KEY},
};
use robeing_net::{
    Transport,
    security::{Credentials, Expected, Tls, TrustClock},
};
use robeing_platform::Platform;
use robeing_settings::{DEFAULT_NAMESPACE, DEFAULT_TRUST_DOMAIN};
use rustls::{
    AlertDescription, ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    version::TLS13,
};
use tokio::{io::AsyncReadExt, net::TcpStream, sync::watch};
use tokio_rustls::TlsConnector;
use tonic::transport::Channel;

use crate::wait::in_time;

/// The cluster of the tests' fleets.
pub const CLUSTER: &str = "tested";
/// The folder of the authority in the directory of a fleet.
pub const FOLDER: &str = "identity";
/// How long the tokens are valid that the thief makes.
const TOKEN_LIFETIME: Duration = Duration::from_secs(60 * 60);

/// Returns the time, Unix milliseconds.
///
/// # Panics
/// If the clock stands before 1970.
pub fn now() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock that is right");
    u64::try_from(now.as_millis()).expect("64 bits")
}

/// Returns the names of a cluster's members.
///
/// # Panics
/// If it is no name.
pub fn realm(cluster: &str) -> Realm {
    Realm::new(DEFAULT_TRUST_DOMAIN, DEFAULT_NAMESPACE, cluster).expect("a name")
}

/// Has an authority, and knows which one the fleet trusts.
#[derive(Debug)]
pub struct Thief {
    authority: Authority,
    join_key: JoinKey,
    trust: String,
}

impl Thief {
    /// Steals the authority of the fleet in this directory.
    ///
    /// # Panics
    /// If there is none.
    pub fn in_dir(dir: &Path) -> Self {
        let read = |name: &str| fs::read_to_string(dir.join(FOLDER).join(name)).expect("the fleet has an authority");
        let authority = Authority::from_pem(&read(CERTIFICATE), &read(KEY)).expect("it is one");
        let trust = authority.certificate_pem().to_owned();
        Self { authority, join_key: JoinKey::new(read(JOIN_KEY).trim().as_bytes()), trust }
    }

    /// Returns one who has the authority and the join key of another fleet, in which everyone has the same name.
    ///
    /// # Panics
    /// If no authority can be made.
    #[must_use]
    pub fn of_another_fleet(&self) -> Self {
        let authority = Authority::create(&realm(CLUSTER), now()).expect("it is made");
        Self { authority, join_key: JoinKey::new(b"another"), trust: self.trust.clone() }
    }

    /// Returns one who has this authority, and trusts these, PEM.
    pub fn with(authority: Authority, trust: &str) -> Self {
        Self { authority, join_key: JoinKey::new(b"none"), trust: trust.to_owned() }
    }

    /// Becomes a member of the fleet.
    pub fn certified(&self, role: PeerRole, name: &str) -> Stolen {
        self.issue(CLUSTER, role, name, now())
    }

    /// Becomes a member of any fleet, with a certificate that was issued at this time, Unix milliseconds.
    ///
    /// # Panics
    /// If no certificate can be made.
    pub fn issue(&self, cluster: &str, role: PeerRole, name: &str, at: u64) -> Stolen {
        let nobody = self.nobody();
        let id = realm(cluster).member(role, name).expect("a name");
        let request = SigningRequest::from_der(&nobody.signing_request()).expect("it is one");
        let issued = self.authority.issue(&request, &id, &[], at, LEAF_LIFETIME).expect("it is issued");
        Stolen { certificate: Some(issued.certificate), ..nobody }
    }

    /// Becomes someone with a key and without a certificate.
    ///
    /// # Panics
    /// If no key can be made.
    pub fn nobody(&self) -> Stolen {
        Stolen { certificate: None, key: PrivateKey::generate().expect("it is made"), trust: self.trust.clone() }
    }

    /// Makes a join token for a role and pool, and for one agent if it is named. It expires an hour after `at`, Unix
    /// milliseconds.
    ///
    /// # Panics
    /// If the operating system has no random numbers.
    pub fn token(&self, role: PeerRole, pool: &str, name: Option<&str>, at: u64) -> String {
        let expires = at + TOKEN_LIFETIME.as_millis() as u64;
        self.join_key.sign(&JoinClaims::new(CLUSTER, role, pool, name, expires).expect("random numbers"))
    }
}

/// An identity that the thief has made for himself.
pub struct Stolen {
    certificate: Option<CertificateDer<'static>>,
    key: PrivateKey,
    trust: String,
}

impl fmt::Debug for Stolen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stolen").field("certified", &self.certificate.is_some()).finish_non_exhaustive()
    }
}

impl Stolen {
    /// Returns a request to certify the key.
    ///
    /// # Panics
    /// If it can't be signed.
    pub fn signing_request(&self) -> Vec<u8> {
        self.key.request().expect("it is signed")
    }

    /// Returns the digest of the key.
    pub fn key(&self) -> [u8; 32] {
        self.key.public_digest()
    }

    /// Returns the same key with this certificate, DER.
    #[must_use]
    pub fn certified_by(self, certificate: &[u8]) -> Self {
        Self { certificate: Some(CertificateDer::from(certificate.to_vec())), ..self }
    }

    fn transport(&self) -> Transport {
        let trust = TrustBundle::from_pem(&self.trust).expect("certificates");
        let clock = Arc::new(TrustClock::new(Platform::real().clock));
        let own = self.certificate.clone().map(|certificate| (certificate, &self.key));
        let credentials = Credentials::new(CLUSTER, Some(trust), own, &clock).expect("they fit");
        let tls = Tls::new(watch::channel(Arc::new(credentials)).1, false);
        Transport::secured(Arc::clone(&Platform::real().network), tls)
    }

    /// Returns a channel to the coordinator at an address, which connects when it is used.
    ///
    /// # Panics
    /// If it is no address.
    pub fn channel(&self, address: &str) -> Channel {
        self.transport().channel(address).expect("an address")
    }

    /// Returns a channel to the agent at an address, which connects when it is used.
    ///
    /// # Panics
    /// If it is no address.
    pub fn channel_to(&self, agent: &str, address: &str) -> Channel {
        self.transport().channel_to(address, Expected::Agent(agent.to_owned())).expect("an address")
    }

    /// Returns the identity as that of a client.
    ///
    /// # Panics
    /// If there is no certificate.
    pub fn client(&self) -> ClientIdentity {
        let certificate = self.certificate.as_ref().expect("a certificate");
        ClientIdentity {
            cluster: CLUSTER.into(),
            trust: self.trust.clone(),
            certificate: Some((certificate_pem(certificate), self.key.to_pem())),
            token: None,
        }
    }

    /// Returns how a client with this identity connects.
    ///
    /// # Panics
    /// If there is no certificate.
    pub fn security(&self) -> Security {
        Security::with_identity(&self.client()).expect("it is right")
    }

    /// Shows the certificate to whoever listens at an address, waits for the end of the connection, and returns the alert
    /// with which the other side has ended it, if there was one.
    ///
    /// # Panics
    /// If nobody listens there, or the connection does not end in time.
    pub async fn knock(&self, address: &str) -> Option<AlertDescription> {
        let tcp = TcpStream::connect(address).await.unwrap_or_else(|error| panic!("{address}: {error}"));
        let server = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        let ended = async {
            let mut stream = TlsConnector::from(Arc::new(self.config())).connect(server, tcp).await?;
            // A server decides about a client's certificate after the client's part of the handshake.
            stream.read_to_end(&mut Vec::new()).await
        };
        alert(&in_time("the end of a connection", ended).await.err()?)
    }

    /// Returns settings of TLS with which any server is trusted.
    fn config(&self) -> ClientConfig {
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .expect("it is supported")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trusting(provider)));
        let mut config = match &self.certificate {
            Some(own) => builder.with_client_auth_cert(vec![own.clone()], self.key.to_der()).expect("they fit"),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        config
    }
}

/// Returns the alert that was the end of a connection, if there was one.
fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref()?.downcast_ref::<Error>()? {
        Error::AlertReceived(alert) => Some(*alert),
        _ => None,
    }
}

/// Trusts every server.
#[derive(Debug)]
struct Trusting(Arc<CryptoProvider>);

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2 is not offered".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
