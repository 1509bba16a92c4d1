//! Channels of clients, which come from outside a fleet: to an address, or over connections that something else opens.

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

/// Bytes in both directions.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for S {}

/// Opens connections to the coordinators of one fleet. A client has several slots, which should be different
/// coordinators, and turns to the next one when a call fails; a slot dials again when its connection broke.
pub trait Dialer: Send + Sync + 'static {
    /// Opens a connection for a slot.
    fn dial(self: Arc<Self>, slot: usize) -> BoxFuture<'static, io::Result<Box<dyn ByteStream>>>;
}

/// When a connection is given up.
#[derive(Clone, Copy, Debug)]
pub struct KeepAlive {
    /// How long it may be silent before it is asked for a sign of life.
    pub interval: Duration,
    /// How long the sign may take.
    pub timeout: Duration,
    /// Whether that holds while no call is open, too.
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

/// A channel to `host:port`. It connects with the first call, and again when the connection was lost. Needs a tokio runtime.
///
/// # Errors
/// When the address is none.
pub fn tcp_channel(address: &str, connect_timeout: Duration, keep_alive: KeepAlive) -> Result<Channel, BadAddress> {
    let endpoint = plain_endpoint(address)?.connect_timeout(connect_timeout).tcp_nodelay(true);
    Ok(keep_alive.of(endpoint).connect_lazy())
}

/// A channel over what the dialer opens for this slot. It dials with the first call. Needs a tokio runtime.
pub fn dialed_channel(dialer: Arc<dyn Dialer>, slot: usize, keep_alive: KeepAlive) -> Channel {
    // Nobody resolves the name: it only stands in the requests.
    let endpoint = keep_alive.of(Endpoint::from_static("http://coordinator"));
    endpoint.connect_with_connector_lazy(service_fn(move |_: Uri| {
        let dialled = Arc::clone(&dialer).dial(slot);
        async move { dialled.await.map(TokioIo::new) }
    }))
}

/// Whether somebody takes connections at `host:port`.
///
/// # Errors
/// What the operating system says.
pub async fn takes_connections(address: &str) -> io::Result<()> {
    TcpStream::connect(address).await.map(drop)
}
