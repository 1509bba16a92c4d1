//! What is outside of a coordinator.

use std::sync::Arc;

use robeing_net::Transport;
use robeing_platform::Platform;

use crate::peers::Peers;

/// The world, and the ways to others in it. Cheap to clone.
#[derive(Clone)]
pub struct Outside {
    /// The world.
    pub platform: Platform,
    /// Connections.
    pub transport: Transport,
    /// Short questions to other coordinators.
    pub peers: Arc<Peers>,
}

impl Outside {
    /// This world, by these connections.
    pub fn new(platform: Platform, transport: Transport) -> Self {
        let peers = Arc::new(Peers::new(transport.clone()));
        Self { platform, transport, peers }
    }
}
