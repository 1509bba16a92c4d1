//! TLS between the processes of a fleet. Every connection is TLS 1.3; a server always has a certificate, and a client
//! has one unless it enrols or comes with a token. The certificates in use can be replaced at any time: a handshake
//! takes the newest, and connections that exist are kept.
//!
//! A peer is known by its [`SpiffeId`] alone. Host names and IP addresses in certificates are for clients of other
//! makers, which look at nothing else.

mod clock;
mod credentials;
mod handshake;
mod limits;
mod source;
mod stats;
mod verifier;

use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

pub use clock::TrustClock;
pub use credentials::{Credentials, CredentialsError, OwnCertificate};
pub(crate) use limits::{Counted, Open, PeerLimits};
pub use limits::{
    KEPT_CONNECTIONS, MAX_ANONYMOUS_PER_ADDRESS, MAX_PER_IDENTITY, NETWORK_BITS, network_of, open_connections,
};
use robeing_identity::{Certificate, PeerRole, SpiffeId};
use robeing_platform::Connection;
use rustls::pki_types::{CertificateDer, ServerName};
pub use source::{IdentityKeeper, IdentitySource, Obtained, Recertify};
pub use stats::{Refused, TlsStats};
use tokio::sync::watch;
use tokio_rustls::TlsConnector;
pub use verifier::FIRST_CONTACT_TOLERANCE;

/// A peer whose certificate was verified when its connection was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Who it is.
    pub id: SpiffeId,
    /// The digest of its public key.
    pub key: [u8; 32],
}

/// Who is expected at the other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// A coordinator of this fleet.
    Coordinator,
    /// The agent of this fleet with this name.
    Agent(String),
}

impl Expected {
    fn is(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Coordinator => id.role() == PeerRole::Coordinator,
            Self::Agent(name) => id.role().is_agent() && id.name() == name,
        }
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Coordinator => f.write_str("a coordinator of this fleet"),
            Self::Agent(name) => write!(f, "the agent {name} of this fleet"),
        }
    }
}

/// Whether a server was found to speak no TLS when it was connected to last. Clones are of the same server.
#[derive(Clone, Debug, Default)]
pub struct NoTls(Arc<AtomicBool>);

impl NoTls {
    /// Returns whether the server speaks no TLS, as far as is known.
    pub fn is_found(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The TLS of one process. Cheap to clone.
#[derive(Clone)]
pub struct Tls {
    credentials: watch::Receiver<Arc<Credentials>>,
    /// Whether peers that don't speak TLS are accepted and called, too.
    permissive: bool,
    /// Whether connections that this process opens present its certificate.
    presents: bool,
    /// Whether HTTP/1.1 is spoken with clients, too.
    web: bool,
    /// Where it is noted whether the server speaks TLS.
    noted: Option<NoTls>,
    /// Asks for another certificate.
    recertify: Option<Recertify>,
    stats: Arc<TlsStats>,
}

impl Tls {
    /// Creates the TLS of a process with these credentials, now and whenever they are replaced. If it is `permissive`,
    /// peers without TLS are accepted and called as well: for the time in which a fleet moves to TLS.
    pub fn new(credentials: watch::Receiver<Arc<Credentials>>, permissive: bool) -> Self {
        let stats = Arc::default();
        Self { credentials, permissive, presents: true, web: false, noted: None, recertify: None, stats }
    }

    /// Returns the same TLS of a process whose keeper can be asked for another certificate.
    #[must_use]
    pub fn recertified_by(&self, recertify: Recertify) -> Self {
        Self { recertify: Some(recertify), ..self.clone() }
    }

    /// Has another certificate obtained for this process soon, since the fleet does not know the present one any more. Does
    /// nothing if nobody keeps the process certified.
    pub fn recertify(&self) {
        if let Some(recertify) = &self.recertify {
            recertify.ask();
        }
    }

    /// Returns the same TLS for connections on which this process does not present its certificate: to obtain one, also
    /// after the one that it has has expired, with which no handshake would succeed.
    #[must_use]
    pub fn nameless(&self) -> Self {
        Self { presents: false, ..self.clone() }
    }

    /// Returns the same TLS for connections that are never without it: secrets such as tokens are sent over no others, also
    /// while a fleet moves to TLS.
    #[must_use]
    pub fn strict(&self) -> Self {
        Self { permissive: false, ..self.clone() }
    }

    /// Returns the same TLS for connections to one server, of which it is noted whether it speaks TLS.
    #[must_use]
    pub fn noting(&self, server: &NoTls) -> Self {
        Self { noted: Some(server.clone()), ..self.clone() }
    }

    /// Returns the same TLS for a listener of clients that speak HTTP/1.1 or HTTP/2, and not gRPC alone.
    #[must_use]
    pub(crate) fn for_web(&self) -> Self {
        Self { web: true, ..self.clone() }
    }

    /// Returns the credentials as they are now.
    pub fn credentials(&self) -> Arc<Credentials> {
        Arc::clone(&self.credentials.borrow())
    }

    /// Waits until this process has a certificate.
    pub async fn certified(&self) {
        let mut credentials = self.credentials.clone();
        // Without a keeper there will never be one.
        if credentials.wait_for(|credentials| credentials.own().is_some()).await.is_err() {
            std::future::pending().await
        }
    }

    /// Returns whether peers without TLS are accepted and called.
    pub fn is_permissive(&self) -> bool {
        self.permissive
    }

    /// Returns the numbers of connections that were accepted and refused.
    pub fn stats(&self) -> &Arc<TlsStats> {
        &self.stats
    }

    /// Performs the client's part of a handshake on a new connection, and checks that the peer is who is expected.
    ///
    /// # Errors
    /// If the handshake fails, or the peer is another one.
    pub(crate) async fn connect(&self, connection: Connection, expected: &Expected) -> io::Result<Connection> {
        let credentials = self.credentials();
        let config = if self.presents { &credentials.client } else { &credentials.nameless };
        let connector = TlsConnector::from(Arc::clone(config));
        let peer = connection.peer;
        // Not sent; the peer is known by its SPIFFE id.
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        let connected = connector.connect(name, connection).await;
        if let Some(NoTls(noted)) = &self.noted {
            let is_missing = connected.as_ref().is_err_and(speaks_no_tls);
            if is_missing || connected.is_ok() {
                noted.store(is_missing, Ordering::Relaxed);
            }
            if is_missing && !self.permissive {
                // No matter of trust: whoever notes it goes on without what needs TLS.
                return Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server speaks no TLS"));
            }
        }
        let stream = connected?;
        let other = |problem: String| io::Error::new(io::ErrorKind::PermissionDenied, problem);
        let found = identity_of(stream.get_ref().1.peer_certificates()).map_err(other)?;
        let id = found.map(|peer| peer.id).ok_or_else(|| other("the server has no certificate".into()))?;
        if !expected.is(&id) || !credentials.is_of_this_fleet(&id) {
            return Err(other(format!("the server is {id}, not {expected}")));
        }
        Ok(Connection::new(stream, peer))
    }
}

/// Returns whether a client's handshake failed because the server spoke something else than TLS, or closed the
/// connection, as a server of HTTP/2 does when it is sent a handshake.
pub(crate) fn speaks_no_tls(error: &io::Error) -> bool {
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match tls {
        Some(error) => matches!(error, rustls::Error::InvalidMessage(_)),
        None => matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
        ),
    }
}

/// Returns whose these certificates are, or `None` if there is none.
fn identity_of(certificates: Option<&[CertificateDer<'_>]>) -> Result<Option<PeerIdentity>, String> {
    let Some(own) = certificates.and_then(<[_]>::first) else { return Ok(None) };
    let Certificate { id, key, .. } = Certificate::from_der(own).map_err(|error| error.to_string())?;
    Ok(Some(PeerIdentity { id, key }))
}

#[cfg(test)]
mod tests;
