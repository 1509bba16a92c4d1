//! The gRPC channels and listeners of every process, and the HTTPS client ([`https`]). They are made here, on the given
//! network, so that their common settings (deadlines, keep-alive, windows, limits, which connections are accepted) are
//! defined once.

pub mod batches;
pub mod client;
pub mod earlier;
pub mod gate;
pub mod https;
pub mod incarnation;
mod incoming;
pub mod pushback;
pub mod security;
pub mod web;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hyper_util::rt::TokioIo;
pub use incoming::ConnectInfo;
use robeing_platform::{Connection, Listener, Network};
use robeing_proto::MAX_MESSAGE_BYTES;
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Status,
    service::Routes,
    transport::{Channel, Endpoint, Server, Uri},
};
use tonic_reflection::server::v1::{ServerReflection, ServerReflectionServer};

use crate::security::{Expected, Tls};

/// Timeout for establishing a connection.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout for resolving a name; after it the name counts as unknown. An agent's session is opened only after this
/// look-up.
pub const RESOLVE_TIMEOUT: Duration = Duration::from_millis(100);
/// Interval of keep-alive pings on a connection with open calls.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long to wait for the answer to a keep-alive ping.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Flow-control window of one stream, in bytes; a connection's window is four times as large.
pub const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
/// Maximum number of open connections per listener, with those whose handshake is not finished; further ones wait to be
/// accepted. Members of lower priority can have fewer; see [`security::open_connections`].
pub const MAX_CONNECTIONS: usize = 24_000;
/// Maximum number of concurrent calls per connection.
pub const MAX_STREAMS_PER_CONNECTION: u32 = 1_024;
/// Maximum size of the headers of one call, in bytes.
pub const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// How long open calls may continue after the server is asked to stop.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// The text is not an address of the form `host:port`.
#[derive(Debug, thiserror::Error)]
#[error("{address:?} is not an address: give host:port")]
pub struct BadAddress {
    /// The given text.
    pub address: String,
}

/// The reason a connection could not be established.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address is not `host:port`.
    #[error(transparent)]
    BadAddress(#[from] BadAddress),
    /// The connection failed or timed out.
    #[error("cannot connect to {address}: {reason}")]
    Failed {
        /// The target address.
        address: String,
        /// The underlying error.
        reason: String,
    },
}

/// Extracts `host:port` from an address, which may be an `http://` URL.
fn target(address: &str) -> Result<&str, BadAddress> {
    let target = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    match target.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(target),
        _ => Err(BadAddress { address: address.to_owned() }),
    }
}

/// Returns an endpoint with tonic's default settings.
fn plain_endpoint(address: &str) -> Result<Endpoint, BadAddress> {
    Endpoint::from_shared(format!("http://{}", target(address)?))
        .map_err(|_| BadAddress { address: address.to_owned() })
}

fn endpoint(address: &str) -> Result<Endpoint, BadAddress> {
    Ok(plain_endpoint(address)?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(STREAM_WINDOW * 4))
}

/// Returns the text of the innermost error, which is more specific than the outer ones.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// Makes channels and listeners on one network. Cheap to clone.
#[derive(Clone)]
pub struct Transport {
    network: Arc<dyn Network>,
    tls: Option<Tls>,
}

impl Transport {
    /// Creates a transport on the given network, without TLS.
    pub fn new(network: Arc<dyn Network>) -> Self {
        Self { network, tls: None }
    }

    /// Creates a transport on the given network, with TLS.
    pub fn secured(network: Arc<dyn Network>, tls: Tls) -> Self {
        Self { network, tls: Some(tls) }
    }

    /// Returns the same network with TLS.
    pub fn with_tls(&self, tls: &Tls) -> Self {
        Self::secured(Arc::clone(&self.network), tls.clone())
    }

    /// Returns the TLS of this transport, if it has one.
    pub fn tls(&self) -> Option<&Tls> {
        self.tls.as_ref()
    }

    /// Has another certificate obtained if a coordinator has refused a stream of this process with this status because it
    /// does not know the present one any more.
    pub fn recertify_if_unknown(&self, status: &Status) {
        if status.code() == Code::Unauthenticated
            && let Some(tls) = &self.tls
        {
            tls.recertify();
        }
    }

    /// Returns a channel to the coordinator at `host:port`. It connects on first use, and reconnects when the
    /// connection is lost.
    pub fn channel(&self, address: &str) -> Result<Channel, BadAddress> {
        self.channel_to(address, Expected::Coordinator)
    }

    /// Returns a channel to whom is expected at `host:port`. It connects on first use, and reconnects when the
    /// connection is lost.
    pub fn channel_to(&self, address: &str, expected: Expected) -> Result<Channel, BadAddress> {
        let target = target(address)?;
        Ok(endpoint(target)?.connect_with_connector_lazy(self.connector(target, expected)))
    }

    /// Connects to the coordinator at `host:port` and returns the channel.
    ///
    /// # Errors
    /// [`ConnectError`] if the address is malformed, or if no connection is established `within` this time.
    pub async fn connect(&self, address: &str, within: Duration) -> Result<Channel, ConnectError> {
        self.connect_to(address, Expected::Coordinator, within).await
    }

    /// Connects to whom is expected at `host:port` and returns the channel.
    ///
    /// # Errors
    /// [`ConnectError`] if the address is malformed, or if no connection is established `within` this time.
    pub async fn connect_to(
        &self,
        address: &str,
        expected: Expected,
        within: Duration,
    ) -> Result<Channel, ConnectError> {
        let target = target(address)?;
        let endpoint = endpoint(target)?.connect_timeout(within);
        let connecting = endpoint.connect_with_connector(self.connector(target, expected));
        let failed = |reason: String| ConnectError::Failed { address: target.to_owned(), reason };
        match tokio::time::timeout(within, connecting).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(failed(innermost(&error))),
            Err(_) => Err(failed(format!("no connection within {} ms", within.as_millis()))),
        }
    }

    fn connector(
        &self,
        target: &str,
        expected: Expected,
    ) -> impl tower::Service<Uri, Response = TokioIo<Connection>, Error = io::Error, Future: Send> + Send + 'static
    {
        let (transport, target, expected) = (self.clone(), target.to_owned(), Arc::new(expected));
        tower::service_fn(move |_: Uri| {
            let (transport, target, expected) = (transport.clone(), target.clone(), Arc::clone(&expected));
            async move { transport.open(&target, &expected).await.map(TokioIo::new) }
        })
    }

    /// Opens a connection, with TLS if this transport has it.
    async fn open(&self, target: &str, expected: &Expected) -> io::Result<Connection> {
        let connection = self.network.connect(target).await?;
        let Some(tls) = &self.tls else { return Ok(connection) };
        match tls.connect(connection, expected).await {
            Err(error) if tls.is_permissive() && security::speaks_no_tls(&error) => self.network.connect(target).await,
            connected => connected,
        }
    }

    /// Returns the listening address of the process that connected from `peer` and advertises `advertised`, if it can
    /// be determined for certain: `peer`'s IP address with the advertised port, provided that `advertised` resolves to
    /// that IP address now. Returns `None` otherwise: behind a proxy or NAT, `peer` is another machine, and a wildcard
    /// address matches any machine.
    ///
    /// A refused connection at that address is part of the proof that the process is gone. A refused connection at a
    /// name that is resolved later proves nothing, because the name may refer to another machine by then.
    pub async fn locate(&self, peer: Option<SocketAddr>, advertised: &str) -> Option<SocketAddr> {
        let peer = peer?.ip().to_canonical();
        let resolved = tokio::time::timeout(RESOLVE_TIMEOUT, self.network.resolve(advertised)).await;
        let found = resolved.ok()?.ok()?.into_iter().find(|address| address.ip().to_canonical() == peer)?;
        Some(SocketAddr::new(peer, found.port()))
    }

    /// Resolves `host:port`, where the host is this machine's own name, to an address by which others may reach it. A
    /// container can resolve its own name, while others often cannot. Loopback and unspecified addresses are skipped.
    pub async fn own_address(&self, named: &str) -> Option<SocketAddr> {
        let resolved = tokio::time::timeout(RESOLVE_TIMEOUT, self.network.resolve(named)).await;
        let usable = |address: &SocketAddr| !address.ip().is_loopback() && !address.ip().is_unspecified();
        resolved.ok()?.ok()?.into_iter().find(usable)
    }

    /// Checks whether a process listens at `address`: `Some(true)` if it accepts the connection, `Some(false)` if it is
    /// refused, `None` if neither happens `within` this time.
    pub async fn probe(&self, address: &str, within: Duration) -> Option<bool> {
        let target = target(address).ok()?;
        match tokio::time::timeout(within, self.network.connect(target)).await {
            Ok(Ok(_)) => Some(true),
            Ok(Err(e)) if e.kind() == io::ErrorKind::ConnectionRefused => Some(false),
            Ok(Err(_)) | Err(_) => None,
        }
    }

    /// Listens on `host:port`.
    ///
    /// # Errors
    /// The operating system's error, with the address.
    pub async fn bind(&self, address: &str) -> io::Result<Bound> {
        let listener = self
            .network
            .listen(address)
            .await
            .map_err(|e| io::Error::new(e.kind(), format!("cannot listen on {address}: {e}")))?;
        Ok(Bound { listener, tls: self.tls.clone() })
    }
}

/// A bound listener that does not serve yet.
pub struct Bound {
    listener: Box<dyn Listener>,
    tls: Option<Tls>,
}

impl Bound {
    /// The local address, with the port that was actually bound.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Sets the TLS with which connections are accepted.
    pub fn with_tls(self, tls: &Tls) -> Self {
        Self { tls: Some(tls.clone()), ..self }
    }

    /// The listener itself, for a protocol other than gRPC.
    pub fn into_listener(self) -> Box<dyn Listener> {
        self.listener
    }

    /// Serves gRPC until `stop` is cancelled and open calls have ended, or [`SHUTDOWN_GRACE`] has passed.
    pub async fn serve(self, routes: Routes, stop: CancellationToken) -> Result<(), tonic::transport::Error> {
        let server = Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(STREAM_WINDOW * 4)
            .max_concurrent_streams(MAX_STREAMS_PER_CONNECTION)
            .http2_max_header_list_size(MAX_HEADER_BYTES)
            .add_routes(routes)
            .serve_with_incoming_shutdown(
                incoming::accepted(self.listener, self.tls, MAX_CONNECTIONS, incoming::HTTP2_PREFACE),
                stop.clone().cancelled_owned(),
            );
        let overdue = async {
            stop.cancelled().await;
            tokio::time::sleep(SHUTDOWN_GRACE).await;
        };
        tokio::select! {
            served = server => served,
            () = overdue => Ok(()),
        }
    }
}

/// Returns the gRPC reflection service for the health service and the services in these descriptor sets. It exposes
/// nothing else: any other service of the process is private.
///
/// # Errors
/// If the descriptors cannot be decoded; those of this build always can.
pub fn reflection(descriptors: &[&'static [u8]]) -> io::Result<ServerReflectionServer<impl ServerReflection + use<>>> {
    let health = tonic_health::pb::FILE_DESCRIPTOR_SET;
    let builder = tonic_reflection::server::Builder::configure().register_encoded_file_descriptor_set(health);
    let all = descriptors.iter().fold(builder, |builder, set| builder.register_encoded_file_descriptor_set(set));
    all.build_v1().map_err(io::Error::other)
}

/// Returns the services of every agent's listener: gRPC health, and reflection of it and of the services in these
/// descriptor sets.
///
/// # Errors
/// See [`reflection`].
pub fn described_routes(descriptors: &[&'static [u8]]) -> io::Result<Routes> {
    let (_, health) = tonic_health::server::health_reporter();
    Ok(Routes::new(health).add_service(reflection(descriptors)?))
}

/// Sets the common message size limits on a generated client or server.
#[macro_export]
macro_rules! limited {
    ($service:expr) => {
        $service.max_decoding_message_size($crate::message_limit()).max_encoding_message_size($crate::message_limit())
    };
}

/// The maximum size of a message, in bytes.
pub const fn message_limit() -> usize {
    MAX_MESSAGE_BYTES
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;

    use super::*;

    /// A network on which the name `agent:1` resolves to these addresses.
    struct Names(Vec<SocketAddr>);

    #[async_trait]
    impl Network for Names {
        async fn connect(&self, _: &str) -> io::Result<Connection> {
            Err(io::ErrorKind::HostUnreachable.into())
        }
        async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
            match address {
                "silent:1" => std::future::pending().await,
                "agent:1" => Ok(self.0.clone()),
                other => Ok(vec![other.parse().map_err(io::Error::other)?]),
            }
        }
        async fn listen(&self, _: &str) -> io::Result<Box<dyn Listener>> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_is_where_it_connected_from_if_what_it_advertises_is_there() {
        let names = ["10.0.0.1:1", "10.0.0.2:1"].map(|address| address.parse().unwrap());
        let transport = Transport::new(Arc::new(Names(names.into())));
        for (peer, advertised, expected) in [
            ("10.0.0.2:50000", "10.0.0.2:1", Some("10.0.0.2:1")),
            ("10.0.0.2:50000", "agent:1", Some("10.0.0.2:1")),
            ("[::ffff:10.0.0.2]:50000", "10.0.0.2:1", Some("10.0.0.2:1")),
            ("[fd00::1]:50000", "[fd00::1]:1", Some("[fd00::1]:1")),
            // Behind NAT, or with a name that refers to another machine by now.
            ("10.0.0.9:50000", "10.0.0.2:1", None),
            ("10.0.0.9:50000", "agent:1", None),
            // A wildcard address would match any machine.
            ("10.0.0.2:50000", "0.0.0.0:1", None),
            ("10.0.0.2:50000", "", None),
            ("10.0.0.2:50000", "silent:1", None),
        ] {
            let found = transport.locate(peer.parse().ok(), advertised).await;
            assert_eq!(found, expected.map(|address| address.parse().unwrap()), "{peer} {advertised}");
        }
        assert_eq!(transport.locate(None, "10.0.0.2:1").await, None);
    }
}
