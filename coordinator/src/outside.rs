//! The environment of a coordinator.

use std::sync::Arc;

use robeing_net::Transport;
use robeing_platform::Platform;

use crate::peers::Peers;

/// The platform, and the means to reach other processes. Cheap to clone.
#[derive(Clone)]
pub struct Outside {
    /// The network, clock, random numbers, disk and host.
    pub platform: Platform,
    /// Creates channels and listeners.
    pub transport: Transport,
    /// Short requests to other coordinators.
    pub peers: Arc<Peers>,
}

impl Outside {
    /// Creates the environment from a platform and a transport.
    pub fn new(platform: Platform, transport: Transport) -> Self {
        let peers = Arc::new(Peers::new(transport.clone()));
        Self { platform, transport, peers }
    }
}
