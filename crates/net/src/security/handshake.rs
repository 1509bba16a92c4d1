//! The server's part of a handshake.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use robeing_platform::{ConnectInfo, Connection};
use rustls::{CertificateError, Error};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tonic::transport::server::Connected;
use tracing::debug;

use super::{Counted, Open, PeerIdentity, PeerLimits, Refused, Tls, identity_of};

/// How long a handshake may take, from the moment the connection is accepted.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The first byte of every TLS connection: the type of a handshake record (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// A connection that is ready for calls.
pub(crate) struct Greeted {
    /// The connection, without TLS.
    pub connection: Connection,
    /// What is known of the connection below TLS.
    pub info: ConnectInfo,
    /// Who the peer is, if it has a certificate.
    pub identity: Option<Arc<PeerIdentity>>,
    /// Whether the connection is encrypted.
    pub encrypted: bool,
    /// Counts the connection for its peer.
    pub counted: Option<Counted>,
    /// Counts the connection among all of the listener.
    pub open: Open,
}

impl Tls {
    /// Performs the server's part of a handshake. Returns `None` if the connection is refused, which is counted.
    pub(crate) async fn accept(&self, connection: Connection, limits: PeerLimits) -> Option<Greeted> {
        let peer = connection.peer;
        let refused = |(why, problem): (Refused, String)| {
            self.stats.count_refused(why);
            debug!(?peer, reason = why.as_str(), problem, "a connection was refused");
            None
        };
        let counted = peer.map(|peer| limits.anonymous(peer.ip()));
        if matches!(counted, Some(None)) {
            return refused((Refused::TooMany, "too many connections without a certificate".into()));
        }
        match timeout(HANDSHAKE_TIMEOUT, self.greet(connection, counted.flatten(), &limits)).await {
            Ok(Ok(greeted)) => {
                self.stats.count_accepted(greeted.identity.is_some());
                Some(greeted)
            }
            Ok(Err(problem)) => refused(problem),
            Err(_) => refused((Refused::TooSlow, format!("no handshake within {HANDSHAKE_TIMEOUT:?}"))),
        }
    }

    async fn greet(
        &self,
        mut connection: Connection,
        counted: Option<Counted>,
        limits: &PeerLimits,
    ) -> Result<Greeted, (Refused, String)> {
        let failed = |error: io::Error| (reason_of(&error), error.to_string());
        let info = connection.connect_info();
        let first = connection.read_u8().await.map_err(failed)?;
        let connection = Prefixed { first: Some(first), rest: connection };
        if first != HANDSHAKE_RECORD {
            if !self.permissive {
                return Err((Refused::Plaintext, "it does not speak TLS".into()));
            }
            let peer = info.peer;
            let open = open(limits, None)?;
            let connection = Connection::new(connection, peer);
            return Ok(Greeted { connection, info, identity: None, encrypted: false, counted: None, open });
        }
        let credentials = self.credentials();
        let config = if self.web { &credentials.web } else { &credentials.server };
        let config = config.clone().ok_or((Refused::NotReady, "this process has no certificate yet".into()))?;
        let stream = TlsAcceptor::from(config).accept(connection).await.map_err(failed)?;
        let other = |problem| (Refused::OtherFleet, problem);
        let identity = identity_of(stream.get_ref().1.peer_certificates()).map_err(other)?;
        let counted = match &identity {
            Some(peer) if !credentials.is_of_this_fleet(&peer.id) => {
                return Err(other(format!("{} is of another fleet", peer.id)));
            }
            Some(peer) => match limits.member(&peer.id) {
                Some(counted) => Some(counted),
                None => return Err((Refused::TooMany, format!("too many connections of {}", peer.id))),
            },
            None => counted,
        };
        let open = open(limits, identity.as_ref())?;
        let peer = info.peer;
        let identity = identity.map(Arc::new);
        Ok(Greeted { connection: Connection::new(stream, peer), info, identity, encrypted: true, counted, open })
    }
}

fn open(limits: &PeerLimits, peer: Option<&PeerIdentity>) -> Result<Open, (Refused, String)> {
    let who = || peer.map_or("a peer without a certificate".to_owned(), |peer| peer.id.to_string());
    let refused = || (Refused::NoRoom, format!("the remaining connections are not for {}", who()));
    limits.open(peer.map(|peer| peer.id.role())).ok_or_else(refused)
}

/// Returns why a handshake failed.
fn reason_of(error: &io::Error) -> Refused {
    let Some(error) = error.get_ref().and_then(|error| error.downcast_ref::<Error>()) else {
        return Refused::Malformed;
    };
    match error {
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            Refused::Expired
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            Refused::NotYetValid
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            Refused::UnknownAuthority
        }
        _ => Refused::Malformed,
    }
}

/// A connection whose first byte has been read already.
struct Prefixed {
    first: Option<u8>,
    rest: Connection,
}

impl AsyncRead for Prefixed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if buf.remaining() > 0
            && let Some(first) = self.first.take()
        {
            buf.put_slice(&[first]);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.rest).poll_read(cx, buf)
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.rest).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.rest).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.rest).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.rest).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.rest.is_write_vectored()
    }
}
