//! The agent's own listener: messages of other agents, gRPC health and reflection. The coordinators connect to it to find
//! out whether the process of an agent whose session broke still exists.

use std::{io, sync::Arc};

use robeing_net::{
    Bound, Transport, described_routes,
    gate::{Gate, gated},
};
use robeing_proto::message::FILE_DESCRIPTOR_SET;
use robeing_settings::{AgentConfig, advertised_address};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, info};

use crate::messaging::{Messenger, driver::Authentication};

/// A listener that does not serve yet; connections wait.
pub struct Listener {
    /// The advertised address, host:port.
    pub advertised: String,
    bound: Bound,
}

/// Listens on the configured address.
///
/// # Errors
/// When the address does not belong to this machine, or is in use.
pub async fn listen(config: &AgentConfig, transport: &Transport) -> io::Result<Listener> {
    let bound = transport.bind(&config.listen).await?;
    let local = bound.local_addr()?;
    let mut advertised = advertised_address(config.advertise.as_deref(), &config.listen, local);
    if config.advertises_host_name
        && let Some(address) = transport.own_address(&advertised).await
    {
        advertised = address.to_string();
    }
    info!(%local, %advertised, "listening");
    Ok(Listener { advertised, bound })
}

impl Listener {
    /// Serves the messages of other agents until the result is dropped.
    ///
    /// # Errors
    /// See [`described_routes`].
    pub fn serve(
        self,
        messenger: &Messenger,
        gate: Option<Arc<dyn Gate>>,
        authentication: Authentication,
    ) -> io::Result<AbortOnDropHandle<()>> {
        let routes = described_routes(&[FILE_DESCRIPTOR_SET])?.add_service(messenger.service(authentication));
        let routes = match gate {
            Some(gate) => gated(routes, gate),
            None => routes,
        };
        let bound = self.bound;
        Ok(AbortOnDropHandle::new(tokio::spawn(async move {
            if let Err(error) = bound.serve(routes, CancellationToken::new()).await {
                error!(%error, "the agent's listener failed");
            }
        })))
    }
}
