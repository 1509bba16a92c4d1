//! The agent's own listener: gRPC health and reflection. The coordinators connect to it to find out whether the process
//! of an agent whose session broke still exists.

use std::{io, sync::Arc};

use robeing_net::{Transport, described_routes, gate::gated};
use robeing_settings::{AgentConfig, advertised_address};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, info};

use crate::identity::AgentGate;

/// A listener that serves until it is dropped.
pub struct Listening {
    /// The advertised address, host:port.
    pub advertised: String,
    _serving: AbortOnDropHandle<()>,
}

/// Listens on the configured address.
///
/// # Errors
/// When the address does not belong to this machine, or is in use.
pub async fn listen(config: &AgentConfig, transport: &Transport) -> io::Result<Listening> {
    let bound = transport.bind(&config.listen).await?;
    let local = bound.local_addr()?;
    let mut advertised = advertised_address(config.advertise.as_deref(), &config.listen, local);
    if config.advertises_host_name
        && let Some(address) = transport.own_address(&advertised).await
    {
        advertised = address.to_string();
    }
    info!(%local, %advertised, "listening");
    let routes = described_routes(&[])?;
    let routes = if transport.tls().is_some() { gated(routes, Arc::new(AgentGate)) } else { routes };
    let serving = tokio::spawn(async move {
        if let Err(error) = bound.serve(routes, CancellationToken::new()).await {
            error!(%error, "the agent's listener failed");
        }
    });
    Ok(Listening { advertised, _serving: AbortOnDropHandle::new(serving) })
}
