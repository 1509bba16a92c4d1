//! A network between agents and coordinators that a test can cut: a proxy in front of each coordinator, which knows
//! what process each connection is from, and from some moment on passes nothing on for one of them, either way, without
//! closing anything. That is what a dead switch looks like.

use std::{collections::BTreeSet, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::{ports::Ports, processes::tcp_ports_of};

/// What is cut off. The kernel tells whose a connection is, so no process needs to be known before.
#[derive(Clone, Debug, Default)]
struct Cut {
    pids: BTreeSet<u32>,
    /// The ports their connections are from.
    ports: BTreeSet<u16>,
}

/// Proxies in front of addresses, in their order.
#[derive(Debug)]
pub struct Network {
    addresses: Vec<String>,
    cut: watch::Sender<Cut>,
    proxies: Vec<JoinHandle<()>>,
    _ports: Ports,
}

impl Drop for Network {
    fn drop(&mut self) {
        for proxy in &self.proxies {
            proxy.abort();
        }
    }
}

impl Network {
    /// Proxies to these addresses.
    ///
    /// # Panics
    /// When no ports can be had.
    pub async fn to(targets: &[String]) -> Self {
        let ports = Ports::take(targets.len());
        let (cut, _) = watch::channel(Cut::default());
        let (mut addresses, mut proxies) = (Vec::new(), Vec::new());
        for (target, port) in targets.iter().zip(ports.numbers()) {
            let listener = TcpListener::bind(("127.0.0.1", *port)).await.expect("the port was taken for this");
            addresses.push(format!("127.0.0.1:{port}"));
            proxies.push(tokio::spawn(serve(listener, target.clone(), cut.clone())));
        }
        Self { addresses, cut, proxies, _ports: ports }
    }

    /// Where the proxies listen.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Cuts a process off.
    ///
    /// # Panics
    /// When the kernel does not tell its connections.
    pub fn cut(&self, pid: u32) {
        let ports = tcp_ports_of(pid).expect("the kernel tells of connections");
        assert!(!ports.is_empty(), "process {pid} has no connections to be cut");
        self.cut.send_modify(|cut| {
            cut.pids.insert(pid);
            cut.ports.extend(ports);
        });
    }

    /// Connects all again. What was sent meanwhile arrives now, late.
    pub fn mend(&self) {
        self.cut.send_replace(Cut::default());
    }
}

/// Notes a new connection that is from a process which is cut off.
fn note(cut: &watch::Sender<Cut>, port: u16) {
    let pids = cut.borrow().pids.clone();
    if pids.into_iter().any(|pid| tcp_ports_of(pid).is_ok_and(|ports| ports.contains(&port))) {
        cut.send_modify(|cut| {
            cut.ports.insert(port);
        });
    }
}

async fn serve(listener: TcpListener, target: String, cut: watch::Sender<Cut>) {
    let cut = Arc::new(cut);
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let (target, cut) = (target.clone(), Arc::clone(&cut));
        connections.spawn(async move {
            let port = client.peer_addr().map(|address| address.port());
            let Ok(server) = TcpStream::connect(&target).await else { return };
            let (Ok(port), Ok(_)) = (port, client.set_nodelay(true)) else { return };
            let _ = server.set_nodelay(true);
            note(&cut, port);
            let (client_in, client_out) = client.into_split();
            let (server_in, server_out) = server.into_split();
            // The connection ends when either side does.
            tokio::select! {
                () = pass(client_in, server_out, port, cut.subscribe()) => {}
                () = pass(server_in, client_out, port, cut.subscribe()) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Passes bytes on from one side, while the process whose connection it is, known by its port, is not cut off.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, port: u16, mut cut: watch::Receiver<Cut>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(count) = from.read(&mut buffer).await else { return };
        if cut.wait_for(|cut| !cut.ports.contains(&port)).await.is_err() {
            return;
        }
        if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
