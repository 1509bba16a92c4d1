//! Channels for clients outside the fleet: to a TCP address, or over connections opened by a [`Dialer`].

use std::{io, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::{BadAddress, plain_endpoint};

/// A bidirectional byte stream.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

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

/// Returns a channel to `host:port`. It connects on the first call, and reconnects when the connection is lost.
/// Requires a tokio runtime.
///
/// # Errors
/// [`BadAddress`] if `address` is not `host:port`.
pub fn tcp_channel(address: &str, connect_timeout: Duration, keep_alive: KeepAlive) -> Result<Channel, BadAddress> {
    let endpoint = plain_endpoint(address)?.connect_timeout(connect_timeout).tcp_nodelay(true);
    Ok(keep_alive.of(endpoint).connect_lazy())
}

/// Returns a channel over the connections that the dialer opens for this slot. It dials on the first call. Requires a
/// tokio runtime.
pub fn dialed_channel(dialer: Arc<dyn Dialer>, slot: usize, keep_alive: KeepAlive) -> Channel {
    // The name is never resolved; it only appears in the requests.
    let endpoint = keep_alive.of(Endpoint::from_static("http://coordinator"));
    endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
        let dialled = Arc::clone(&dialer).dial(slot);
        async move { dialled.await.map(TokioIo::new) }
    }))
}

/// Connects to `host:port` and closes the connection: succeeds if something is listening there.
///
/// # Errors
/// The operating system's error.
pub async fn takes_connections(address: &str) -> io::Result<()> {
    TcpStream::connect(address).await.map(drop)
}
