//! A number of messages in flight, for some time.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::try_join_all;
use nix::{time::clock_getcpuclockid, unistd::Pid};
use tokio::task::JoinHandle;

use crate::{Failure, raw::RawStream};

/// The payload of every message: 1 KiB.
pub const PAYLOAD: [u8; 1_024] = [b'x'; 1_024];

/// Returns the payload of one message.
pub fn payload() -> Bytes {
    Bytes::copy_from_slice(&PAYLOAD)
}

/// What was measured in one round.
pub struct Sample {
    /// The way that was measured.
    pub name: &'static str,
    /// How long it took.
    pub took: Duration,
    /// The time that each message took until it was acknowledged, in ascending order.
    pub latencies: Vec<Duration>,
    /// CPU time of all processes.
    pub cpu: Duration,
}

impl Sample {
    /// Creates the sample of a load that began at `start`.
    pub fn new(name: &'static str, start: Instant, mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        Self { name, took: start.elapsed(), latencies, cpu: Duration::ZERO }
    }

    /// Returns the acknowledged messages per second.
    pub fn rate(&self) -> f64 {
        self.latencies.len() as f64 / self.took.as_secs_f64()
    }

    /// Returns the latency of this percentile, in microseconds.
    pub fn percentile(&self, percent: usize) -> f64 {
        let index = (self.latencies.len() * percent / 100).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(index).map_or(0.0, |latency| latency.as_secs_f64() * 1e6)
    }

    /// Returns the CPU time of all processes for one message, in microseconds.
    pub fn cpu_per_message(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.latencies.len().max(1) as f64
    }
}

type Latencies = Result<Vec<Duration>, Failure>;
/// Starts a task that sends one message after another until some time.
type StartCaller = Box<dyn Fn(Instant) -> JoinHandle<Latencies> + Send + Sync>;

/// A way to send messages.
pub enum Load {
    /// Each message in flight is a task that waits for its own acknowledgement.
    Calls(&'static str, StartCaller),
    /// One task writes and reads a stream.
    Loop(Box<RawStream>),
}

impl Load {
    /// Creates a way whose messages are calls of this function.
    pub fn calls<F: Future<Output = Result<(), Failure>> + Send + 'static>(
        name: &'static str,
        call: impl Fn() -> F + Clone + Send + Sync + 'static,
    ) -> Self {
        Self::Calls(name, Box::new(move |end| tokio::spawn(caller(call.clone(), end))))
    }

    /// Returns the name of the way.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Calls(name, _) => name,
            Self::Loop(_) => "raw-loop",
        }
    }

    /// Keeps this number of messages in flight for some time.
    pub async fn run(&mut self, in_flight: usize, time: Duration) -> Result<Sample, Failure> {
        let (name, start) = (self.name(), Instant::now());
        let latencies = match self {
            Self::Loop(stream) => stream.run(in_flight, start + time).await?,
            Self::Calls(_, start_caller) => {
                let callers = (0..in_flight).map(|_| start_caller(start + time));
                let latencies = try_join_all(callers).await?.into_iter().collect::<Result<Vec<_>, _>>()?;
                latencies.concat()
            }
        };
        Ok(Sample::new(name, start, latencies))
    }
}

async fn caller<F: Future<Output = Result<(), Failure>>>(call: impl Fn() -> F, end: Instant) -> Latencies {
    let mut latencies = Vec::new();
    let mut begin = Instant::now();
    while begin < end {
        call().await?;
        let now = Instant::now();
        latencies.push(now - begin);
        begin = now;
    }
    Ok(latencies)
}

/// Returns the CPU time of this process and these others.
pub fn cpu_of(others: &[u32]) -> Duration {
    others.iter().copied().chain([std::process::id()]).filter_map(cpu).sum()
}

fn cpu(process: u32) -> Option<Duration> {
    let clock = clock_getcpuclockid(Pid::from_raw(process.try_into().ok()?)).ok()?;
    Some(clock.now().ok()?.into())
}
