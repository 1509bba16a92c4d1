//! The counters that processes serve to those who watch them.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::wait::{PATIENCE, check, eventually, eventually_within};

/// A counter or gauge of a process, and its value when a test began to look at it.
#[derive(Debug)]
pub struct Counter {
    /// The address at which the process serves its metrics, host:port.
    address: String,
    /// The name, with labels.
    name: String,
    before: u64,
}

impl Counter {
    /// Begins to look at a counter, which has its name and labels as in the text of the metrics.
    pub async fn of(address: &str, name: &str) -> Self {
        let mut counter = Self { address: address.into(), name: name.into(), before: 0 };
        counter.before = eventually(&format!("metrics at {address}"), async || counter.risen().await).await;
        counter
    }

    /// Returns by how much it has risen.
    ///
    /// # Errors
    /// Why there are no metrics.
    async fn risen(&self) -> Result<u64, String> {
        let value = |text: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(self.name.as_str())?.strip_prefix(' '));
            line.map_or(0, |value| value.trim().parse().unwrap_or_else(|_| panic!("{}: {value:?}", self.name)))
        };
        let text = page(&self.address).await.map_err(|error| error.to_string())?;
        let value: u64 = value(&text);
        Ok(value.saturating_sub(self.before))
    }

    /// Returns by how much it has risen now.
    ///
    /// # Panics
    /// If the process does not serve metrics.
    pub async fn now(&self) -> u64 {
        self.risen().await.unwrap_or_else(|error| panic!("no metrics at {}: {error}", self.address))
    }

    /// Waits until it has risen by exactly this much.
    pub async fn rises_by(&self, expected: u64) {
        self.rises_by_within(PATIENCE, expected).await;
    }

    /// Like [`Counter::rises_by`], for what takes up to this time.
    pub async fn rises_by_within(&self, patience: Duration, expected: u64) {
        eventually_within(patience, &format!("{} has risen by {expected}", self.name), async || {
            let risen = self.risen().await?;
            check(risen == expected, (), format!("by {risen}"))
        })
        .await;
    }

    /// Waits until it has risen by this much or more.
    pub async fn rises_by_at_least(&self, expected: u64) {
        eventually(&format!("{} has risen by {expected} at least", self.name), async || {
            let risen = self.risen().await?;
            check(risen >= expected, (), format!("by {risen}"))
        })
        .await;
    }
}

/// Fetches the metrics over HTTP/1.1, with the head of the response.
async fn page(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}
