//! Channels for clients outside the fleet: to a TCP address, or over connections opened by a [`Dialer`].

use std::{error::Error, io, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use robeing_platform::{Connection, Platform};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Uri},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower::service_fn;

use crate::{
    BadAddress, Transport, plain_endpoint,
    security::{Expected, Tls},
    target,
};

/// A bidirectional byte stream.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin + 'static> ByteStream for S {}

/// Opens connections to the coordinators of one fleet. A client has several slots, which should lead to different
/// coordinators; when a call fails, the client moves to the next slot. A slot dials again when its connection is lost.
pub trait Dialer: Send + Sync + 'static {
    /// Opens a new connection for the given slot.
    fn dial(self: Arc<Self>, slot: usize) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>>;
}

/// Keep-alive settings that decide when a connection is considered dead.
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    /// Idle time after which a keep-alive ping is sent.
    pub interval: Duration,
    /// How long to wait for the answer to the ping before the connection is closed.
    pub timeout: Duration,
    /// Whether pings are also sent while no call is open.
    pub while_idle: bool,
}

impl KeepAlive {
    fn of(self, endpoint: Endpoint) -> Endpoint {
        endpoint
            .http2_keep_alive_interval(self.interval)
            .keep_alive_timeout(self.timeout)
            .keep_alive_while_idle(self.while_idle)
    }
}

/// Returns a channel to the coordinator at `host:port`, with TLS if given. It connects on the first call, and
/// reconnects when the connection is lost. Requires a tokio runtime.
///
/// # Errors
/// [`BadAddress`] if `address` is not `host:port`.
pub fn tcp_channel(
    address: &str,
    connect_timeout: Duration,
    keep_alive: KeepAlive,
    tls: Option<&Tls>,
) -> Result<Channel, BadAddress> {
    let endpoint = plain_endpoint(address)?.connect_timeout(connect_timeout);
    let network = Platform::real().network;
    let transport = match tls {
        Some(tls) => Transport::secured(network, tls.clone()),
        None => Transport::new(network),
    };
    let connector = transport.connector(target(address)?, Expected::Coordinator);
    Ok(keep_alive.of(endpoint).connect_with_connector_lazy(connector))
}

/// Returns a channel over the connections that the dialer opens for this slot, with TLS if given. It dials on the first
/// call. Requires a tokio runtime.
pub fn dialed_channel(dialer: Arc<dyn Dialer>, slot: usize, keep_alive: KeepAlive, tls: Option<&Tls>) -> Channel {
    // The name is never resolved; it only appears in the requests.
    let endpoint = keep_alive.of(Endpoint::from_static("http://coordinator"));
    let tls = tls.cloned();
    endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
        let (dialer, tls) = (Arc::clone(&dialer), tls.clone());
        async move {
            let dialled = Connection::new(Arc::clone(&dialer).dial(slot).await?, None);
            let Some(tls) = tls else { return Ok(TokioIo::new(dialled)) };
            match tls.connect(dialled, &Expected::Coordinator).await {
                Err(error) if tls.is_permissive() && crate::security::speaks_no_tls(&error) => {
                    dialer.dial(slot).await.map(|dialled| TokioIo::new(Connection::new(dialled, None)))
                }
                connected => connected.map(TokioIo::new),
            }
        }
    }))
}

/// Asks the server at the end of a channel for its health, which anyone may do. Succeeds with whatever answer: somebody is
/// there. A frozen process takes connections, too, but answers nothing; so give this a time limit.
///
/// # Errors
/// If the connection fails, or the server is about to leave.
pub async fn answers(channel: Channel) -> Result<(), Status> {
    match HealthClient::new(channel).check(HealthCheckRequest::default()).await {
        // A status with a source was created on this side.
        Err(status) if status.source().is_some() || status.code() == Code::Unavailable => Err(status),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Connects to `host:port` and closes the connection: succeeds if something is listening there.
///
/// # Errors
/// The operating system's error.
pub async fn takes_connections(address: &str) -> io::Result<()> {
    TcpStream::connect(address).await.map(drop)
}
