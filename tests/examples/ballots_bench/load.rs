//! A number of ballots in flight, for some time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Error, Result};
use robeing_tests::{
    bench::Spread,
    processes::{TICKS_PER_SECOND, cpu_ticks},
};
use tokio::task::JoinSet;

use crate::{etcd::Etcd, ours::Ours};

/// What decides ballots.
pub enum Peer {
    /// A fleet.
    Ours(Box<Ours>),
    /// An etcd cluster.
    Etcd(Box<Etcd>),
}

/// What was measured of one peer in one round.
pub struct Sample {
    took: Duration,
    /// The number of ballots that were decided.
    ballots: usize,
    /// The time that each took.
    pub latency: Spread,
    /// Processor time of the peer's processes, in seconds.
    cpu: f64,
}

impl Peer {
    async fn ballot(&self) -> Result<()> {
        match self {
            Self::Ours(ours) => ours.ballot().await,
            Self::Etcd(etcd) => etcd.ballot().await,
        }
    }

    fn cpu(&self) -> f64 {
        let pids = match self {
            Self::Ours(ours) => ours.pids(),
            Self::Etcd(etcd) => etcd.pids(),
        };
        let ticks: u64 = pids.into_iter().map(cpu_ticks).sum();
        ticks as f64 / TICKS_PER_SECOND as f64
    }

    /// Keeps this number of ballots in flight for some time, and ends when the last one is decided.
    ///
    /// # Errors
    /// If one is not decided.
    pub async fn run(self: &Arc<Self>, in_flight: usize, time: Duration) -> Result<Sample> {
        let (cpu, start) = (self.cpu(), Instant::now());
        let mut callers = JoinSet::new();
        for _ in 0..in_flight {
            callers.spawn(decide(Arc::clone(self), start + time));
        }
        let mut latencies = Vec::new();
        while let Some(ended) = callers.join_next().await {
            latencies.append(&mut ended??);
        }
        let (took, cpu) = (start.elapsed(), self.cpu() - cpu);
        Ok(Sample { took, ballots: latencies.len(), latency: Spread::of(latencies), cpu })
    }
}

/// Decides one ballot after another, and returns how long each took.
async fn decide(peer: Arc<Peer>, end: Instant) -> Result<Vec<Duration>, Error> {
    let mut latencies = Vec::new();
    let mut begin = Instant::now();
    while begin < end {
        peer.ballot().await?;
        let now = Instant::now();
        latencies.push(now - begin);
        begin = now;
    }
    Ok(latencies)
}

impl Sample {
    /// Returns the decided ballots per second.
    pub fn rate(&self) -> f64 {
        self.ballots as f64 / self.took.as_secs_f64()
    }

    /// Returns the processor time of the peer's processes for one ballot, in microseconds.
    pub fn cpu_per_ballot(&self) -> f64 {
        self.cpu * 1e6 / self.ballots.max(1) as f64
    }
}
