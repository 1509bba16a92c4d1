//! Short questions to other coordinators, over connections that are kept. A connection on which a question stayed unanswered
//! is given up: the coordinator may have come back elsewhere under the same name.

use std::{collections::BTreeMap, time::Duration};

use robeing_net::{Transport, limited};
use robeing_platform::sync::{Mutex, PoisonError};
use robeing_proto::internal::v1::raft_client::RaftClient;
use tokio::time::timeout;
use tonic::{Response, Status, transport::Channel};

/// How long one question to another coordinator may take.
pub const PEER_TIMEOUT: Duration = Duration::from_millis(300);
/// Connections kept at most: far more than a fleet has coordinators. Beyond it all are given up and made again when needed.
pub const MAX_KEPT: usize = 32;

/// The connections of one coordinator to others.
pub struct Peers {
    transport: Transport,
    kept: Mutex<BTreeMap<String, Channel>>,
}

impl Peers {
    /// With no connection yet.
    pub fn new(transport: Transport) -> Self {
        Self { transport, kept: Mutex::default() }
    }

    fn channel(&self, address: &str) -> Option<Channel> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(channel) = kept.get(address) {
            return Some(channel.clone());
        }
        let channel = self.transport.channel(address).ok()?;
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert(address.to_owned(), channel.clone());
        Some(channel)
    }

    fn forget(&self, address: &str) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(address);
    }

    /// Puts a question to the coordinator at an address: its answer, unless it refuses or gives none within
    /// [`PEER_TIMEOUT`].
    pub async fn ask<T, F>(&self, address: &str, question: impl FnOnce(RaftClient<Channel>) -> F) -> Option<T>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.ask_within(address, PEER_TIMEOUT, question).await
    }

    /// As [`Peers::ask`], with a time limit of the caller's.
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
        match timeout(within, question(client)).await {
            Ok(Ok(answer)) => Some(answer.into_inner()),
            Ok(Err(_)) | Err(_) => {
                self.forget(address);
                None
            }
        }
    }

    #[cfg(test)]
    fn kept(&self) -> usize {
        self.kept.lock().unwrap().len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use robeing_platform::Platform;
    use robeing_proto::internal::v1 as internal;

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
        assert_eq!(peers.kept(), 0);
    }

    #[tokio::test]
    async fn connections_are_shared_and_their_number_is_bounded() {
        let peers = peers();
        for port in 1..=MAX_KEPT {
            assert!(peers.channel(&format!("127.0.0.1:{port}")).is_some());
            assert!(peers.channel(&format!("127.0.0.1:{port}")).is_some());
        }
        assert_eq!(peers.kept(), MAX_KEPT);
        assert!(peers.channel("127.0.0.1:65535").is_some());
        assert_eq!(peers.kept(), 1);
        assert!(peers.channel("nowhere").is_none());
    }
}
