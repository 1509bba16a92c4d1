//! How a connection ended, as this side saw it.
//!
//! A kernel that closes a connection for its process sends FIN, also when the process was killed. It sends RST instead when
//! bytes were not read, or when it knows nothing of the connection. A firewall that rejects, and a kernel that is told to
//! destroy a socket, send RST and never FIN. So FIN says that the process at the other end, or a proxy in its place, has closed
//! the connection; RST says nothing of the kind.

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

/// The end of one connection. Clones share it. What is seen first counts.
#[derive(Clone, Debug, Default)]
pub struct Ending(Arc<State>);

impl Ending {
    /// Whether the peer closed the connection (FIN), and nothing broke it before.
    pub fn closed_by_peer(&self) -> bool {
        self.0.how.load(Ordering::SeqCst) == CLOSED_BY_PEER
    }

    /// True for the first caller, who watches over the end for all.
    pub fn claim(&self) -> bool {
        !self.0.is_claimed.swap(true, Ordering::SeqCst)
    }

    /// Waits until the connection is over, however it ended. Cancellation-safe.
    pub async fn over(&self) {
        self.0.over.cancelled().await;
    }

    fn note(&self, how: u8) {
        // Later ones follow from the first.
        let first = self.0.how.compare_exchange(OPEN, how, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if first {
            self.0.over.cancel();
        }
    }

    /// The peer closes it, in a test.
    #[cfg(any(test, feature = "simulated"))]
    pub fn close(&self) {
        self.read_end();
    }

    /// Nothing more is to be read.
    pub(super) fn read_end(&self) {
        self.note(CLOSED_BY_PEER);
    }

    /// Reading failed.
    pub(super) fn read_failed(&self) {
        self.note(BROKEN);
    }

    /// Writing failed. A reset that comes after FIN shows as a broken pipe, one that comes without as a reset.
    pub(super) fn write_failed(&self, error: &io::Error) {
        self.note(if error.kind() == io::ErrorKind::BrokenPipe { CLOSED_BY_PEER } else { BROKEN });
    }

    /// This side gave the connection up.
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
        // Whether it fails is what is looked at.
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
        // The first write is answered with a reset, of which a later one hears.
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
