//! The proxy from the host to the API server: a port on 127.0.0.1 whose connections are forwarded into the cluster's
//! network, to which the host has no other link. Its socket listens in the host's network namespace; its thread then
//! enters the cluster's.

use std::{
    fs::File,
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    thread::JoinHandle,
    time::Duration,
};

use nix::sched::{CloneFlags, setns};
use tokio::{
    io::copy_bidirectional,
    net::TcpStream,
    sync::oneshot,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::error::{Error, Result};

/// The maximum number of concurrent connections; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 1_024;
/// The deadline for connecting to the API server.
const CONNECT: Duration = Duration::from_secs(5);
/// The pause after a connection could not be accepted, for example because of a lack of file descriptors.
const PAUSE: Duration = Duration::from_millis(50);

/// A port that leads into the cluster. Dropping this closes the port and its connections.
#[derive(Debug)]
pub(crate) struct Proxy {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Opens a port on the host and forwards its connections to `target` in a network namespace.
    pub(crate) fn start(namespace: File, target: SocketAddr) -> Result<Self> {
        let failed = |source| Error::Proxy { source };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        let (entered, result) = std::sync::mpsc::sync_channel(1);
        let thread = std::thread::Builder::new().name("devkube-proxy".into()).spawn(move || {
            let runtime = enter(&namespace);
            let failure = runtime.as_ref().err().map(|error| io::Error::new(error.kind(), error.to_string()));
            // The receiver waits for this value; without a receiver, the proxy is not needed.
            let _ = entered.send(failure);
            if let Ok(runtime) = runtime {
                runtime.block_on(async {
                    tokio::select! {
                        () = carry(listener, target) => {}
                        _ = stopped => {}
                    }
                });
            }
        });
        let thread = thread.map_err(failed)?;
        match result.recv() {
            Ok(None) => Ok(Self { address, stop: Some(stop), thread: Some(thread) }),
            Ok(Some(source)) => Err(failed(source)),
            Err(_) => Err(failed(io::Error::other("its thread ended"))),
        }
    }

    /// The address of the port on the host.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // A panic has already been printed.
            let _ = thread.join();
        }
    }
}

/// Moves this thread, and no other, into a network namespace, and returns a runtime for it.
fn enter(namespace: &File) -> io::Result<tokio::runtime::Runtime> {
    setns(namespace, CloneFlags::CLONE_NEWNET)?;
    // Single-threaded, so that every connection is made in the namespace.
    tokio::runtime::Builder::new_current_thread().enable_all().build()
}

async fn carry(listener: TcpListener, target: SocketAddr) {
    let Ok(listener) = tokio::net::TcpListener::from_std(listener) else { return };
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        if connections.len() >= CONNECTIONS {
            connections.join_next().await;
        }
        match listener.accept().await {
            Ok((near, _)) => drop(connections.spawn(forward(near, target))),
            Err(_) => sleep(PAUSE).await,
        }
    }
}

/// Forwards one connection. If one side closes or fails, the other is closed; no error is reported.
async fn forward(mut near: TcpStream, target: SocketAddr) {
    if let Ok(Ok(mut far)) = timeout(CONNECT, TcpStream::connect(target)).await {
        let _ = (near.set_nodelay(true), far.set_nodelay(true));
        let _ = copy_bidirectional(&mut near, &mut far).await;
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// Uses this process's own namespace: entering it needs root, like entering any other.
    #[test]
    fn bytes_go_both_ways_and_the_port_closes() {
        let far = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let own = File::open("/proc/self/ns/net").unwrap();
        let proxy = match Proxy::start(own, far.local_addr().unwrap()) {
            Ok(proxy) => proxy,
            Err(error) => {
                assert!(!nix::unistd::geteuid().is_root(), "{error}");
                return;
            }
        };
        let address = proxy.address();
        let mut near = std::net::TcpStream::connect(address).unwrap();
        let (mut other, _) = far.accept().unwrap();
        near.write_all(b"ping").unwrap();
        let mut heard = [0; 4];
        other.read_exact(&mut heard).unwrap();
        other.write_all(b"pong").unwrap();
        near.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"pong");
        drop(proxy);
        assert_eq!(near.read(&mut heard).unwrap_or(0), 0);
        // Another process may briefly have been assigned the port in the meantime.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while std::net::TcpStream::connect(address).is_ok() {
            assert!(std::time::Instant::now() < end, "{address} is still open");
            std::thread::yield_now();
        }
    }
}
