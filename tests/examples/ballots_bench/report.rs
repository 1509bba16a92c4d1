//! The figures as a table and as JSON.

use std::fmt;

use robeing_tests::bench::median;
use serde::Serialize;

use crate::load::Sample;

/// The samples of one round: of the fleet, and of etcd.
pub type Round = [Sample; 2];

/// Everything that was measured.
#[derive(Serialize)]
pub struct Ballots {
    /// Which benchmark it is.
    pub bench: &'static str,
    /// Processors and memory.
    pub machine: String,
    /// What the disk takes for a sync.
    pub disk: String,
    /// For each way to connect and each number in flight.
    pub rows: Vec<Row>,
}

/// The medians of the rounds with one number in flight.
#[derive(Serialize)]
pub struct Row {
    mode: &'static str,
    in_flight: usize,
    robeing: Figures,
    etcd: Figures,
    /// The median of the rounds' own ratios of ballots per second.
    robeing_by_etcd: f64,
    /// The median of the rounds' own ratios of the median latency.
    p50_robeing_by_etcd: f64,
}

#[derive(Serialize)]
struct Figures {
    ballots_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    servers_cpu_us: f64,
}

impl Row {
    /// Creates the row of some rounds.
    pub fn new(mode: &'static str, in_flight: usize, rounds: &[Round]) -> Self {
        let over = |value: &dyn Fn(&Round) -> f64| {
            let values: Vec<f64> = rounds.iter().map(value).collect();
            median(values, |value| *value).unwrap_or_default()
        };
        let figures = |of: usize| Figures {
            ballots_per_s: over(&|round| round[of].rate()),
            p50_ms: over(&|round| round[of].latency.p50_ms),
            p99_ms: over(&|round| round[of].latency.p99_ms),
            servers_cpu_us: over(&|round| round[of].cpu_per_ballot()),
        };
        Self {
            mode,
            in_flight,
            robeing: figures(0),
            etcd: figures(1),
            robeing_by_etcd: over(&|[robeing, etcd]| robeing.rate() / etcd.rate()),
            p50_robeing_by_etcd: over(&|[robeing, etcd]| robeing.latency.p50_ms / etcd.latency.p50_ms),
        }
    }
}

impl fmt::Display for Ballots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}; {}", self.machine, self.disk)?;
        writeln!(f, "Ballots of five votes beside six etcd transactions each; medians of the rounds\n")?;
        writeln!(
            f,
            "{:<10} {:>9} {:<8} {:>10} {:>9} {:>9} {:>11} {:>7} {:>10}",
            "mode", "in flight", "peer", "ballots/s", "p50 ms", "p99 ms", "servers us", "x etcd", "p50 x etcd"
        )?;
        for row in &self.rows {
            row.robeing.write(f, row, "robeing")?;
            writeln!(f, " {:>7.2} {:>10.2}", row.robeing_by_etcd, row.p50_robeing_by_etcd)?;
            row.etcd.write(f, row, "etcd")?;
            writeln!(f)?;
        }
        Ok(())
    }
}

impl Figures {
    fn write(&self, f: &mut fmt::Formatter<'_>, row: &Row, peer: &str) -> fmt::Result {
        let Self { ballots_per_s, p50_ms, p99_ms, servers_cpu_us } = self;
        let (mode, in_flight) = (row.mode, row.in_flight);
        write!(
            f,
            "{mode:<10} {in_flight:>9} {peer:<8} {ballots_per_s:>10.0} {p50_ms:>9.2} {p99_ms:>9.2} {servers_cpu_us:>11.0}"
        )
    }
}
