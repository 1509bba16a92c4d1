//! A messenger's gateway: tasks and messages over HTTP/1.1 and HTTP/2, in JSON, CBOR or protobuf, for clients that don't
//! speak gRPC. It passes everything on to the coordinators, and decides nothing about rights: who calls is passed on,
//! too ([`caller`]).
//!
//! ```text
//! request ──► server (limits, routes) ──► media (JSON, CBOR, protobuf) ──► forms ──► coordinators
//!                  problem (RFC 9457) ◄────────────── gRPC status ◄──────────────────────┘
//! ```
//!
//! Invariants:
//!
//! 1. **Nothing of its own.** No call for a client uses a right of the messenger.
//! 2. **Safe to repeat.** A call to a coordinator carries the id of its task or message, so that trying again after a
//!    lost answer does nothing twice.
//! 3. **Bounded.** Connections, requests, bodies, waits and times have named limits; what exceeds them is refused with a
//!    status that says so.

pub(crate) mod caller;
pub mod cbor;
pub mod cloudevents;
pub(super) mod coordinators;
pub(super) mod forms;
pub(crate) mod media;
mod messages;
mod metrics;
mod openapi;
pub mod problem;
pub(crate) mod requests;
pub(crate) mod server;
mod shares;
mod task_form;
mod tasks;
pub(super) mod views;

#[cfg(test)]
pub(super) mod tests;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use robeing_net::{MAX_STREAMS_PER_CONNECTION, Transport};
use robeing_platform::Platform;
use robeing_telemetry::Metrics;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::info;

use self::{coordinators::Coordinators, metrics::GatewayMetrics, server::Server};
use crate::upstream::{SharedUpstream, Upstream};

/// Maximum size of a request's body, bytes.
pub const MAX_BODY: usize = 4 * 1024 * 1024;
/// Maximum total size of the bodies of requests in progress, bytes.
pub const MAX_BODIES: usize = 64 * 1024 * 1024;
/// How long a client may take to send the body of a request.
pub const BODY_WITHIN: Duration = Duration::from_secs(30);
/// Maximum size of what is left of a body that is still read over HTTP/2 when the answer is known, bytes.
pub const MAX_DRAINED: usize = 64 * 1024;
/// How long such a body is read.
pub const DRAIN_WITHIN: Duration = Duration::from_secs(1);
/// Maximum number of requests in progress, besides those that only wait.
pub const MAX_REQUESTS: usize = 512;
/// Maximum number of requests that wait for a task to end, or for a receiver to decide.
pub const MAX_WAITS: usize = 512;
// Each may be a call of its own over the same connection to a coordinator. Beyond its calls, those that don't wait would
// wait for those that do.
const _: () = assert!(MAX_REQUESTS + MAX_WAITS <= MAX_STREAMS_PER_CONNECTION as usize);
/// The longest time for which a request may wait.
pub const MAX_WAIT: Duration = Duration::from_secs(600);

/// Why the gateway can't be served.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The address can't be listened on.
    #[error("{0}; another process may listen there, or the address is not of this machine: change --gateway-listen")]
    Listen(#[source] io::Error),
}

/// What a gateway needs.
pub struct GatewayDeps {
    /// Where it listens, `host:port`.
    pub listen: String,
    /// The agent's transport. If it has TLS, so has the gateway, with the agent's certificate.
    pub transport: Transport,
    /// The agent's way to the coordinators, with its certificate.
    pub upstream: SharedUpstream,
    /// The addresses of coordinators, for a second way there, without the agent's certificate.
    pub coordinators: Vec<String>,
    /// The platform.
    pub platform: Platform,
    /// Where its metrics are registered.
    pub metrics: Metrics,
}

/// A gateway that serves until it is dropped.
pub struct Gateway {
    local: SocketAddr,
    stop: CancellationToken,
    serving: AbortOnDropHandle<()>,
}

impl Gateway {
    /// Listens, and serves from now on. While the agent has no certificate yet, connections with TLS are refused.
    ///
    /// # Errors
    /// [`GatewayError`] if the address can't be listened on.
    pub async fn start(deps: GatewayDeps) -> Result<Self, GatewayError> {
        Self::with_limits(deps, server::Limits::default()).await
    }

    async fn with_limits(deps: GatewayDeps, limits: server::Limits) -> Result<Self, GatewayError> {
        let GatewayDeps { listen, transport, upstream, coordinators, platform, metrics } = deps;
        let bound = transport.bind(&listen).await.map_err(GatewayError::Listen)?;
        let local = bound.local_addr().map_err(GatewayError::Listen)?;
        let tls = transport.tls();
        // It carries tokens, so it has TLS also while the fleet moves to it.
        let nameless = tls.map_or_else(|| transport.clone(), |tls| transport.with_tls(&tls.nameless().strict()));
        let nameless = Arc::new(Upstream::new(nameless, coordinators, &*platform.random));
        let stop = CancellationToken::new();
        let server = Server::new(
            Coordinators { named: upstream, nameless, platform },
            GatewayMetrics::new(&metrics),
            tls.is_some(),
            limits,
            stop.clone(),
        );
        info!(%local, tls = tls.is_some(), "the gateway is listening");
        let serving = tokio::spawn(bound.serve_web(Arc::new(server), stop.clone()));
        Ok(Self { local, stop, serving: AbortOnDropHandle::new(serving) })
    }

    /// Returns the address at which it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Ends it: requests that wait are answered at once, and others may finish for a short time.
    pub async fn stop(self) {
        self.stop.cancel();
        // It has been reported if it panicked.
        let _ = self.serving.await;
    }
}
