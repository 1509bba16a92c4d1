//! How a connection ended, as observed on this side.
//!
//! When a process closes a connection or dies, its kernel sends FIN. It sends RST instead if there were unread bytes,
//! or if it does not know the connection. A firewall that rejects packets, and a kernel that is asked to destroy a
//! socket, send RST and never FIN. So FIN proves that the process at the other end, or a proxy in its place, has closed
//! the connection; RST proves nothing.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use tokio_util::sync::CancellationToken;

const OPEN: u8 = 0;
const CLOSED_BY_PEER: u8 = 1;
const BROKEN: u8 = 2;

#[derive(Debug, Default)]
struct State {
    how: AtomicU8,
    over: CancellationToken,
    is_claimed: AtomicBool,
}

/// Records how one connection ended. Clones share the record. The first observation counts.
#[derive(Clone, Debug, Default)]
pub struct Ending(Arc<State>);

impl Ending {
    /// Returns whether the peer closed the connection (FIN) before anything else broke it.
    pub fn closed_by_peer(&self) -> bool {
        self.0.how.load(Ordering::SeqCst) == CLOSED_BY_PEER
    }

    /// Returns true for the first caller only, which then watches for the end on behalf of all.
    pub fn claim(&self) -> bool {
        !self.0.is_claimed.swap(true, Ordering::SeqCst)
    }

    /// Waits until the connection has ended, in any way. Cancellation-safe.
    pub async fn over(&self) {
        self.0.over.cancelled().await;
    }

    fn note(&self, how: u8) {
        // Later observations are consequences of the first.
        let first = self.0.how.compare_exchange(OPEN, how, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if first {
            self.0.over.cancel();
        }
    }

    /// Records that the peer closed the connection. For tests.
    #[cfg(any(test, feature = "simulated"))]
    pub fn close(&self) {
        self.read_end();
    }

    /// Records that reading reached the end of the stream.
    pub(super) fn read_end(&self) {
        self.note(CLOSED_BY_PEER);
    }

    /// Records that reading failed.
    pub(super) fn read_failed(&self) {
        self.note(BROKEN);
    }

    /// Records that writing failed. A reset after FIN shows as a broken pipe, a reset without FIN as a connection
    /// reset.
    pub(super) fn write_failed(&self, error: &io::Error) {
        self.note(if error.kind() == io::ErrorKind::BrokenPipe { CLOSED_BY_PEER } else { BROKEN });
    }

    /// Records that this side dropped the connection.
    pub(super) fn dropped(&self) {
        self.note(BROKEN);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };
    use tonic::transport::server::Connected;

    use crate::{Connection, Listener, Network, TcpNetwork};

    const WITHIN: Duration = Duration::from_secs(10);

    async fn pair() -> (Connection, TcpStream) {
        let mut listener: Box<dyn Listener> = TcpNetwork.listen("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (listener.accept().await.unwrap(), peer)
    }

    async fn read_to_end(connection: &mut Connection) {
        let mut rest = Vec::new();
        // Reading may fail or not; the test checks the recorded ending.
        drop(tokio::time::timeout(WITHIN, connection.read_to_end(&mut rest)).await.expect("it ends"));
    }

    #[tokio::test]
    async fn a_peer_that_closes_is_told_from_one_that_resets() {
        for resets in [false, true] {
            let (mut connection, peer) = pair().await;
            let ending = connection.connect_info().ending;
            assert!(!ending.closed_by_peer());
            if resets {
                connection.write_all(b"not read").await.unwrap();
                peer.readable().await.unwrap();
            }
            drop(peer);
            read_to_end(&mut connection).await;
            assert_eq!(ending.closed_by_peer(), !resets);
            tokio::time::timeout(WITHIN, ending.over()).await.expect("it is over");
        }
    }

    #[tokio::test]
    async fn a_reset_in_answer_to_what_came_after_the_close_changes_nothing() {
        let (mut connection, peer) = pair().await;
        let ending = connection.connect_info().ending;
        drop(peer);
        // The peer answers the first write with a reset, which a later write then observes.
        for _ in 0..1_000 {
            if connection.write_all(b"x").await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        read_to_end(&mut connection).await;
        assert!(ending.closed_by_peer());
    }

    #[tokio::test]
    async fn giving_a_connection_up_says_nothing_of_the_peer() {
        let (connection, _peer) = pair().await;
        let ending = connection.connect_info().ending;
        drop(connection);
        assert!(!ending.closed_by_peer());
        tokio::time::timeout(WITHIN, ending.over()).await.expect("it is over");
    }
}
