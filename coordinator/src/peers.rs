//! Short requests to other coordinators, over connections that are kept. A connection on which a request failed or got
//! no response is dropped: the coordinator may have restarted elsewhere under the same name.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use robeing_net::{Transport, earlier::earlier_version, limited};
use robeing_platform::sync::{Mutex, MutexGuard, PoisonError};
use robeing_proto::internal::v1::raft_client::RaftClient;
use tokio::time::timeout;
use tonic::{Response, Status, transport::Channel};
use tracing::warn;

/// How long one request to another coordinator may take.
pub const PEER_TIMEOUT: Duration = Duration::from_millis(300);
/// Maximum number of connections kept: far more than a fleet has coordinators. At this limit all are dropped; they are
/// opened again when needed.
pub const MAX_KEPT: usize = 32;

/// The connections of one coordinator to others.
pub struct Peers {
    transport: Transport,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    channels: BTreeMap<String, Channel>,
    /// Addresses at which coordinators of an earlier version were found and logged.
    earlier: BTreeSet<String>,
}

impl Peers {
    /// Creates the table without connections.
    pub fn new(transport: Transport) -> Self {
        Self { transport, kept: Mutex::default() }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the connection to the coordinator at an address; `None` if it is no address.
    pub fn channel(&self, address: &str) -> Option<Channel> {
        let mut kept = self.kept();
        if let Some(channel) = kept.channels.get(address) {
            return Some(channel.clone());
        }
        let channel = self.transport.channel(address).ok()?;
        if kept.channels.len() >= MAX_KEPT {
            kept.channels.clear();
        }
        kept.channels.insert(address.to_owned(), channel.clone());
        Some(channel)
    }

    fn forget(&self, address: &str) {
        self.kept().channels.remove(address);
    }

    /// Handles a call that the coordinator at an address refused. If the status shows that it runs an earlier version,
    /// records that, logs it once, and returns a description of the problem.
    pub fn refused(&self, address: &str, status: &Status) -> Option<&'static str> {
        let problem = earlier_version(status)?;
        let mut kept = self.kept();
        if kept.earlier.len() >= MAX_KEPT && !kept.earlier.contains(address) {
            kept.earlier.clear();
        }
        if kept.earlier.insert(address.to_owned()) {
            warn!(address, problem, "a coordinator of this fleet can't be called");
        }
        Some(problem)
    }

    /// Returns whether the coordinator at an address ran an earlier version when it last answered.
    pub fn is_earlier(&self, address: &str) -> bool {
        self.kept().earlier.contains(address)
    }

    /// Sends a request to the coordinator at an address. Returns its response, unless it refuses or gives none within
    /// [`PEER_TIMEOUT`].
    pub async fn ask<T, F>(&self, address: &str, question: impl FnOnce(RaftClient<Channel>) -> F) -> Option<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask_within(address, PEER_TIMEOUT, question).await
    }

    /// Same as [`Peers::ask`], with the caller's time limit.
    pub async fn ask_within<T, F>(
        &self,
        address: &str,
        within: Duration,
        question: impl FnOnce(RaftClient<Channel>) -> F,
    ) -> Option<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let client = limited!(RaftClient::new(self.channel(address)?));
        let answered = timeout(within, question(client)).await;
        let refused = |status: &Status| self.refused(address, status).is_some();
        if !matches!(&answered, Ok(Err(status)) if refused(status)) {
            // A coordinator of an earlier version may have been stopped meanwhile, as the log message asks.
            self.kept().earlier.remove(address);
        }
        match answered {
            Ok(Ok(answer)) => Some(answer.into_inner()),
            Ok(Err(_)) | Err(_) => {
                self.forget(address);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use robeing_net::earlier::EARLIER_VERSION;
    use robeing_platform::Platform;
    use robeing_proto::internal::v1 as internal;
    use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

    use super::*;

    fn peers() -> Peers {
        Peers::new(Transport::new(Arc::clone(&Platform::real().network)))
    }

    #[tokio::test]
    async fn a_connection_that_gave_no_answer_is_not_kept() {
        // Listens, and never answers.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap().to_string();
        let peers = peers();
        let ask = peers.ask(&address, |mut peer| async move { peer.read_index(internal::ReadIndexRequest {}).await });
        assert!(ask.await.is_none());
        assert_eq!(peers.kept().channels.len(), 0);
    }

    /// Starts a coordinator of an earlier version: it serves, but knows none of the private services.
    async fn earlier_coordinator() -> (String, AbortOnDropHandle<()>) {
        let bound = Transport::new(Arc::clone(&Platform::real().network)).bind("127.0.0.1:0").await.unwrap();
        let address = bound.local_addr().unwrap().to_string();
        let routes = robeing_net::described_routes(&[]).unwrap();
        let serving = tokio::spawn(async move { bound.serve(routes, CancellationToken::new()).await.unwrap() });
        (address, AbortOnDropHandle::new(serving))
    }

    #[tokio::test]
    async fn a_coordinator_of_an_earlier_version_is_known_as_one_until_it_answers() {
        let (address, _serving) = earlier_coordinator().await;
        let peers = peers();
        let question =
            |mut peer: RaftClient<Channel>| async move { peer.read_index(internal::ReadIndexRequest {}).await };
        let found = async {
            // The first request also connects, which may take too long on a busy machine.
            while !peers.is_earlier(&address) {
                assert!(peers.ask(&address, question).await.is_none());
            }
        };
        timeout(Duration::from_secs(30), found).await.expect("it answers in time");
        assert_eq!(peers.refused(&address, &Status::unimplemented("")), Some(EARLIER_VERSION));
        assert_eq!(peers.refused(&address, &Status::unavailable("it stops")), None);
        assert!(peers.is_earlier(&address), "it has not answered since");
        let answer = async |_: RaftClient<Channel>| Ok(Response::new(()));
        assert!(peers.ask(&address, answer).await.is_some());
        assert!(!peers.is_earlier(&address), "it answers now");
    }

    #[tokio::test]
    async fn no_more_coordinators_of_an_earlier_version_are_remembered_than_connections() {
        let peers = peers();
        for port in 1..=MAX_KEPT + 1 {
            peers.refused(&format!("127.0.0.1:{port}"), &Status::unimplemented(""));
        }
        assert_eq!(peers.kept().earlier.len(), 1);
    }

    #[tokio::test]
    async fn connections_are_shared_and_their_number_is_bounded() {
        let peers = peers();
        for port in 1..=MAX_KEPT {
            assert!(peers.channel(&format!("127.0.0.1:{port}")).is_some());
            assert!(peers.channel(&format!("127.0.0.1:{port}")).is_some());
        }
        assert_eq!(peers.kept().channels.len(), MAX_KEPT);
        assert!(peers.channel("127.0.0.1:65535").is_some());
        assert_eq!(peers.kept().channels.len(), 1);
        assert!(peers.channel("nowhere").is_none());
    }
}
