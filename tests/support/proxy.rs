//! A network between agents and coordinators that a test can cut: a proxy in front of each coordinator, which learns
//! from an agent's Hello whose connection it is, and from some moment on passes nothing on for one agent, either way,
//! without closing anything. That is what a dead switch looks like.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use crate::ports::Ports;

/// What a Hello to the test fleet begins with: its field 1, the cluster id, and the tag of field 2, the agent's name.
/// Coordinators among themselves never say that.
const HELLO: &[u8] = b"\x0a\x06tested\x12";
/// A Hello is among the first so many bytes of a connection.
const HEAD_BYTES: usize = 8 * 1024;

/// Proxies in front of addresses, in their order.
#[derive(Debug)]
pub struct Network {
    addresses: Vec<String>,
    /// Names of the agents that are cut off.
    cut: watch::Sender<BTreeSet<String>>,
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
            proxies.push(tokio::spawn(serve(listener, target.clone(), cut.subscribe())));
        }
        Self { addresses, cut, proxies, _ports: ports }
    }

    /// Where the proxies listen.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Cuts an agent off.
    pub fn cut(&self, agent: &str) {
        self.cut.send_modify(|cut| {
            cut.insert(agent.into());
        });
    }

    /// Connects all again. What was sent meanwhile arrives now, late.
    pub fn mend(&self) {
        self.cut.send_modify(BTreeSet::clear);
    }
}

async fn serve(listener: TcpListener, target: String, cut: watch::Receiver<BTreeSet<String>>) {
    let mut connections = JoinSet::new();
    // A listener of the loopback address fails for good or not at all.
    while let Ok((client, _)) = listener.accept().await {
        let (target, cut) = (target.clone(), cut.clone());
        connections.spawn(async move {
            let Ok(server) = TcpStream::connect(&target).await else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (client_in, client_out) = client.into_split();
            let (server_in, server_out) = server.into_split();
            let agent = Arc::new(OnceLock::new());
            let says = Direction { agent: Arc::clone(&agent), cut: cut.clone(), head: Some(Vec::new()) };
            let hears = Direction { agent, cut, head: None };
            // The connection ends when either side does.
            tokio::select! {
                () = says.pass(client_in, server_out) => {}
                () = hears.pass(server_in, client_out) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

/// One direction of a connection.
struct Direction {
    /// Whose connection it is, once it is known to be an agent's.
    agent: Arc<OnceLock<String>>,
    cut: watch::Receiver<BTreeSet<String>>,
    /// What was said at first, of the direction in which a Hello may come and as long as it may.
    head: Option<Vec<u8>>,
}

/// The name in a Hello that is somewhere in these bytes.
fn name_in(bytes: &[u8]) -> Option<String> {
    let after = bytes.windows(HELLO.len()).position(|window| window == HELLO)? + HELLO.len();
    let length = usize::from(*bytes.get(after)?);
    let name = bytes.get(after + 1..after + 1 + length)?;
    String::from_utf8(name.to_vec()).ok()
}

impl Direction {
    /// Passes bytes on while the agent whose connection it is is not cut off.
    async fn pass(mut self, mut from: OwnedReadHalf, mut to: OwnedWriteHalf) {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let Ok(count) = from.read(&mut buffer).await else { return };
            self.look_for_hello(&buffer[..count]);
            let Self { agent, cut, .. } = &mut self;
            let may_pass = |cut: &BTreeSet<String>| agent.get().is_none_or(|agent| !cut.contains(agent));
            if cut.wait_for(may_pass).await.is_err() {
                return;
            }
            if count == 0 || to.write_all(&buffer[..count]).await.is_err() {
                return;
            }
        }
    }

    fn look_for_hello(&mut self, bytes: &[u8]) {
        let Some(head) = &mut self.head else { return };
        head.extend_from_slice(bytes);
        let name = name_in(head);
        if name.is_some() || head.len() > HEAD_BYTES {
            self.head = None;
        }
        if let Some(name) = name {
            // Nobody else sets it.
            let _ = self.agent.set(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::scripted_agent::hello;

    #[test]
    fn a_hello_tells_the_name() {
        let hello = hello("work-0").encode_to_vec();
        assert_eq!(name_in(&[b"before", &hello[..], b"after"].concat()).as_deref(), Some("work-0"));
        assert_eq!(name_in(&hello[..10]), None, "it is not whole");
        assert_eq!(name_in(b"nothing of that kind"), None);
    }
}
