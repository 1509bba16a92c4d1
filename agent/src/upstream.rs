//! Chooses the coordinator that an agent's streams other than its session go to. Every coordinator serves them, so the
//! agents spread over all of them, and the leader has no more work than the others.

use std::sync::{Arc, PoisonError};

use robeing_net::Transport;
use robeing_platform::{Random, sync::Mutex};
use tonic::{Status, transport::Channel};

/// Maximum number of coordinators that are remembered.
const MAX_COORDINATORS: usize = 64;

struct Chosen {
    addresses: Vec<String>,
    /// The index of the chosen address.
    at: usize,
    /// Counts the choices, so that several streams that fail together move on once.
    generation: u64,
    channel: Option<Channel>,
}

/// The coordinator that streams other than the session go to: a random one, until it fails.
pub struct Upstream {
    transport: Transport,
    chosen: Mutex<Chosen>,
}

impl Upstream {
    /// Chooses a random one of these coordinators, `host:port`.
    pub fn new(transport: Transport, addresses: Vec<String>, random: &dyn Random) -> Self {
        let at = random.next_u64() as usize % addresses.len().max(1);
        let chosen = Chosen { addresses, at, generation: 0, channel: None };
        Self { transport, chosen: Mutex::new(chosen) }
    }

    /// Returns a channel to the chosen coordinator, which connects on first use, and the number of the choice. `None`
    /// if no coordinator has a usable address.
    pub fn channel(&self) -> Option<(u64, Channel)> {
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..chosen.addresses.len() {
            if let Some(channel) = &chosen.channel {
                return Some((chosen.generation, channel.clone()));
            }
            match self.transport.channel(&chosen.addresses[chosen.at]) {
                Ok(channel) => chosen.channel = Some(channel),
                Err(_) => chosen.at = (chosen.at + 1) % chosen.addresses.len(),
            }
        }
        chosen.channel.clone().map(|channel| (chosen.generation, channel))
    }

    /// Returns whether the coordinators always know who this agent is: over plaintext they don't, also while a fleet moves
    /// to TLS.
    pub fn proves_name(&self) -> bool {
        self.transport.tls().is_some_and(|tls| !tls.is_permissive())
    }

    /// Has the agent enrol again if a coordinator has refused a stream with this status because it does not know the agent's
    /// enrolment.
    pub fn enrol_again_if_unknown(&self, status: &Status) {
        self.transport.recertify_if_unknown(status);
    }

    /// Moves on to the next coordinator, unless that has happened since `generation` was chosen.
    pub fn failed(&self, generation: u64) {
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        if chosen.generation == generation {
            chosen.generation += 1;
            chosen.at = (chosen.at + 1) % chosen.addresses.len().max(1);
            chosen.channel = None;
        }
    }

    /// Adds coordinators that a coordinator has named.
    pub fn learn(&self, addresses: &[String]) {
        let mut chosen = self.chosen.lock().unwrap_or_else(PoisonError::into_inner);
        for address in addresses {
            if chosen.addresses.len() < MAX_COORDINATORS && !chosen.addresses.contains(address) {
                chosen.addresses.push(address.clone());
            }
        }
    }
}

/// An [`Upstream`] that several parts of an agent share.
pub type SharedUpstream = Arc<Upstream>;

#[cfg(test)]
mod tests {
    use robeing_net::security::{Credentials, Tls, TrustClock};
    use robeing_platform::Platform;
    use tokio::sync::watch;

    use super::*;

    fn upstream(addresses: &[&str]) -> Upstream {
        let platform = Platform::real();
        let addresses = addresses.iter().map(|address| (*address).to_owned()).collect();
        Upstream::new(Transport::new(platform.network), addresses, &*platform.random)
    }

    #[test]
    fn coordinators_know_an_agent_by_its_certificate_alone() {
        let network = Platform::real().network;
        let certified = |permissive| {
            let clock = Arc::new(TrustClock::new(Platform::real().clock));
            let credentials = Credentials::new("one", None, None, &clock).expect("they are right");
            let (_, credentials) = watch::channel(Arc::new(credentials));
            let transport = Transport::secured(Arc::clone(&network), Tls::new(credentials, permissive));
            Upstream::new(transport, Vec::new(), &*Platform::real().random).proves_name()
        };
        assert_eq!([upstream(&[]).proves_name(), certified(true), certified(false)], [false, false, true]);
    }

    #[tokio::test]
    async fn streams_that_fail_together_move_on_once() {
        let upstream = upstream(&["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3"]);
        let (generation, _) = upstream.channel().expect("a channel");
        upstream.failed(generation);
        upstream.failed(generation);
        assert_eq!(upstream.channel().expect("a channel").0, generation + 1);
    }

    #[tokio::test]
    async fn unusable_addresses_are_passed_over_and_coordinators_are_bounded() {
        assert!(upstream(&["nowhere", ""]).channel().is_none());
        let upstream = upstream(&["nowhere", "127.0.0.1:1"]);
        assert!(upstream.channel().is_some());
        let many: Vec<String> = (0..100).map(|port| format!("127.0.0.1:{port}")).collect();
        upstream.learn(&many);
        assert_eq!(upstream.chosen.lock().unwrap().addresses.len(), MAX_COORDINATORS);
    }
}
