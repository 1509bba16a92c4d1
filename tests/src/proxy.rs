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

use crate::{ports::Ports, processes::owner_of_port};

/// Proxies in front of addresses, in their order.
#[derive(Debug)]
pub struct Network {
    addresses: Vec<String>,
    /// Processes that are cut off. The kernel tells who has a connection, so they need not be known before.
    cut: watch::Sender<BTreeSet<u32>>,
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
        let (cut, _) = watch::channel(BTreeSet::new());
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
    pub fn cut(&self, pid: u32) {
        self.cut.send_modify(|cut| {
            cut.insert(pid);
        });
    }

    /// Connects all again. What was sent meanwhile arrives now, late.
    pub fn mend(&self) {
        self.cut.send_modify(BTreeSet::clear);
    }
}

async fn serve(listener: TcpListener, target: String, cut: watch::Sender<BTreeSet<u32>>) {
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
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, port: u16, mut cut: watch::Receiver<BTreeSet<u32>>) {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let Ok(count) = from.read(&mut buffer).await else { return };
        let is_through = |cut: &BTreeSet<u32>| {
            let among: Vec<u32> = cut.iter().copied().collect();
            cut.is_empty() || matches!(owner_of_port(port, &among), Ok(None))
        };
        if cut.wait_for(is_through).await.is_err() || count == 0 || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
