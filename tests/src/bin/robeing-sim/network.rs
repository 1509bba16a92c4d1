//! The simulated network, clock and machine, as the shipped code asks for them.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use robeing_agent::platform::{Clock, Connection, Host, Listener, Network};

/// Machines that answer and on which no process listens.
#[derive(Clone, Default)]
pub struct Down(Arc<Mutex<BTreeSet<String>>>);

impl Down {
    /// Notes whether a host's process is gone.
    pub fn set(&self, host: &str, down: bool) {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match down {
            true => hosts.insert(host.to_owned()),
            false => hosts.remove(host),
        };
    }

    fn has(&self, host: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(host)
    }
}

/// How long a machine takes to say that nobody listens.
const REFUSED_AFTER: Duration = Duration::from_millis(1);

/// Sockets within the simulation.
pub struct SimulatedNetwork {
    down: Down,
}

impl SimulatedNetwork {
    /// In which these hosts are down.
    pub fn new(down: Down) -> Self {
        Self { down }
    }
}

fn split(address: &str) -> io::Result<(&str, u16)> {
    let bad = || io::Error::new(io::ErrorKind::InvalidInput, format!("{address} is not host:port"));
    let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
    Ok((host, port.parse().map_err(|_| bad())?))
}

#[async_trait::async_trait]
impl Network for SimulatedNetwork {
    async fn connect(&self, address: &str) -> io::Result<Connection> {
        let (host, port) = split(address)?;
        // An agent's process is looked for by the IP address of its session.
        let by_ip = host.parse().ok().and_then(turmoil::reverse_lookup);
        let host = by_ip.as_deref().unwrap_or(host);
        if self.down.has(host) {
            tokio::time::sleep(REFUSED_AFTER).await;
            return Err(io::Error::new(io::ErrorKind::ConnectionRefused, format!("nobody listens on {address}")));
        }
        match turmoil::net::TcpStream::connect((host, port)).await {
            Ok(stream) => {
                let peer = stream.peer_addr().ok();
                Ok(Connection::new(stream, peer))
            }
            // Only a machine whose process is gone refuses. What the simulator reports so otherwise is a lost packet, which
            // nobody learns of.
            Err(_) => std::future::pending().await,
        }
    }

    async fn resolve(&self, address: &str) -> io::Result<Vec<SocketAddr>> {
        let (host, port) = split(address)?;
        Ok(vec![SocketAddr::new(turmoil::lookup(host), port)])
    }

    async fn listen(&self, address: &str) -> io::Result<Box<dyn Listener>> {
        let (_, port) = split(address)?;
        Ok(Box::new(SimulatedListener(turmoil::net::TcpListener::bind(("0.0.0.0", port)).await?)))
    }
}

struct SimulatedListener(turmoil::net::TcpListener);

#[async_trait::async_trait]
impl Listener for SimulatedListener {
    async fn accept(&mut self) -> io::Result<Connection> {
        let (stream, peer) = self.0.accept().await?;
        Ok(Connection::new(stream, Some(peer)))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// The simulated time, on a machine whose clock is somewhat wrong.
pub struct SimulatedClock {
    /// By how many milliseconds it is ahead.
    pub ahead: u64,
}

impl Clock for SimulatedClock {
    fn unix_millis(&self) -> u64 {
        turmoil::since_epoch().map_or(0, |time| time.as_millis() as u64) + self.ahead
    }
}

/// A machine of which nothing is known that another run would not know.
pub struct SimulatedHost;

impl Host for SimulatedHost {
    fn free_share(&self) -> f64 {
        0.5
    }

    fn pid(&self) -> u32 {
        1
    }
}
