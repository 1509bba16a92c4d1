//! A network between agents and coordinators that a test can partition: a proxy in front of each coordinator. The proxy
//! learns from an agent's Hello which agent a connection belongs to. Once that agent is cut off, the proxy forwards
//! nothing in either direction and closes nothing, like a dead switch.

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

/// The beginning of a Hello to the test fleet: its field 1, the cluster id, and the tag of field 2, the agent's name.
/// Connections between coordinators never contain these bytes.
const HELLO: &[u8] = b"\x0a\x06tested\x12";
/// A Hello is within the first `HEAD_BYTES` bytes of a connection.
const HEAD_BYTES: usize = 8 * 1024;

/// Proxies in front of addresses, in the same order.
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
    /// Starts proxies in front of these addresses.
    ///
    /// # Panics
    /// If not enough ports are free.
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

    /// Returns the addresses at which the proxies listen.
    pub fn addresses(&self) -> &[String] {
        &self.addresses
    }

    /// Cuts an agent off.
    pub fn cut(&self, agent: &str) {
        self.cut.send_modify(|cut| {
            cut.insert(agent.into());
        });
    }

    /// Reconnects all agents. What was sent in the meantime arrives now.
    pub fn mend(&self) {
        self.cut.send_modify(BTreeSet::clear);
    }
}

async fn serve(listener: TcpListener, target: String, cut: watch::Receiver<BTreeSet<String>>) {
    let mut connections = JoinSet::new();
    // Accepting on the loopback address either always works or has failed for good.
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
            // The connection ends when either direction does.
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
    /// The agent that the connection belongs to, once a Hello has been seen.
    agent: Arc<OnceLock<String>>,
    cut: watch::Receiver<BTreeSet<String>>,
    /// The first bytes, kept only in the direction of a Hello and only until one is found or can no longer come.
    head: Option<Vec<u8>>,
}

/// Returns the name in a Hello that is anywhere in these bytes.
fn name_in(bytes: &[u8]) -> Option<String> {
    let after = bytes.windows(HELLO.len()).position(|window| window == HELLO)? + HELLO.len();
    let length = usize::from(*bytes.get(after)?);
    let name = bytes.get(after + 1..after + 1 + length)?;
    String::from_utf8(name.to_vec()).ok()
}

impl Direction {
    /// Forwards bytes unless the agent that the connection belongs to is cut off.
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
            // Nothing else sets it.
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
