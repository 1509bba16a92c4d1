//! The figures next to their targets, as a table or as JSON.

use std::{fmt, fs, path::Path};

use anyhow::Result;
use nix::sys::statfs::statfs;
use serde::Serialize;

use super::{cost::Cost, disk, measure::Spread};

/// The targets of the figures.
mod target {
    /// The minimum of tasks per second, by number in flight.
    pub const TASKS_PER_S: [(usize, f64); 2] = [(64, 4_500.0), (1_024, 10_000.0)];
    /// The maximum of the median latency by number in flight, in ms.
    pub const P50_MS: [(usize, f64); 1] = [(1, 4.0)];
    /// The maximum p99 after an agent is killed, in ms.
    pub const AGENT_KILLED_MS: f64 = 40.0;
    /// The maximum p99 after an agent is frozen, in ms.
    pub const AGENT_FROZEN_MS: f64 = 1_200.0;
    /// The maximum p99 after an agent and its guard are frozen, in ms: the session timeout and a margin.
    pub const AGENT_SILENT_MS: f64 = 2_200.0;
    /// The maximum p99 after the leader is killed, in ms.
    pub const LEADER_KILLED_MS: f64 = 350.0;
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Processors and memory.
    pub machine: String,
    /// The disk of the data directory, and how fast it syncs.
    pub disk: Disk,
    /// The results by number in flight.
    pub throughput: Vec<Throughput>,
    /// The results by kind of failure.
    pub takeover: Vec<Takeovers>,
}

/// The disk of the data directory.
#[derive(Debug, Serialize)]
pub struct Disk {
    /// Whether it is memory, in which case syncs cost nothing and the figures are not those of a durable fleet.
    pub is_memory: bool,
    /// The time to overwrite 4 KiB of a preallocated file and to call `fdatasync`.
    pub fdatasync: Spread,
}

/// The results of one number in flight.
#[derive(Debug, Serialize)]
pub struct Throughput {
    /// The number of submitted tasks whose results the client has not yet received.
    pub in_flight: usize,
    /// The round with the median rate.
    #[serde(flatten)]
    pub median: Round,
    /// The rate of every round, in order.
    pub tasks_per_s_of_rounds: Vec<f64>,
}

/// The result of one round.
#[derive(Clone, Debug, Serialize)]
pub struct Round {
    /// Results received per second.
    pub tasks_per_s: f64,
    /// The time from the submission of a task until its result is received.
    pub latency: Spread,
    /// The cost of a task.
    pub cost: Cost,
}

/// A kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// SIGKILL of an agent; measured until its task's next attempt runs elsewhere.
    AgentKilled,
    /// SIGSTOP of an agent; measured until its task's next attempt runs elsewhere.
    AgentFrozen,
    /// SIGSTOP of an agent and its guard, so that neither sends anything, as on a machine that is partitioned or
    /// frozen; measured until its task's next attempt runs elsewhere.
    AgentSilent,
    /// SIGKILL of the leader; measured until the next task is accepted.
    LeaderKilled,
}

impl Failure {
    /// All kinds, in the order in which they are measured.
    pub const ALL: [Self; 4] = [Self::AgentKilled, Self::AgentFrozen, Self::AgentSilent, Self::LeaderKilled];

    fn target_ms(self) -> f64 {
        match self {
            Self::AgentKilled => target::AGENT_KILLED_MS,
            Self::AgentFrozen => target::AGENT_FROZEN_MS,
            Self::AgentSilent => target::AGENT_SILENT_MS,
            Self::LeaderKilled => target::LEADER_KILLED_MS,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::AgentKilled => "agent SIGKILL to its task running elsewhere",
            Self::AgentFrozen => "agent SIGSTOP to its task running elsewhere",
            Self::AgentSilent => "agent and guard SIGSTOP to its task elsewhere",
            Self::LeaderKilled => "leader SIGKILL to the next task accepted",
        })
    }
}

/// The results of one kind of failure.
#[derive(Debug, Serialize)]
pub struct Takeovers {
    /// The kind of failure.
    pub failure: Failure,
    /// The distribution over all trials.
    #[serde(flatten)]
    pub spread: Spread,
    /// The time of each trial in ms, in order.
    pub trials_ms: Vec<f64>,
}

impl Report {
    /// Creates a report that contains only the machine and the disk of a directory.
    ///
    /// # Errors
    /// If the directory can't be written to.
    pub fn of_this_machine(data: &Path) -> Result<Self> {
        let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kib = memory.split_ascii_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok()).unwrap_or_default();
        let machine = format!("{processors} processors, {:.0} GiB", kib / (1024.0 * 1024.0));
        let disk = Disk { is_memory: is_memory(data), fdatasync: disk::sync_latency(data)? };
        Ok(Self { machine, disk, throughput: Vec::new(), takeover: Vec::new() })
    }
}

#[cfg(target_os = "linux")]
fn is_memory(directory: &Path) -> bool {
    statfs(directory).is_ok_and(|found| matches!(found.filesystem_type(), nix::sys::statfs::TMPFS_MAGIC))
}

#[cfg(not(target_os = "linux"))]
fn is_memory(_directory: &Path) -> bool {
    false
}

impl fmt::Display for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Spread { p50_ms, p99_ms, .. } = self.fdatasync;
        write!(f, "fdatasync of 4 KiB p50 {p50_ms:.2} ms, p99 {p99_ms:.2} ms")?;
        if self.is_memory {
            write!(
                f,
                " (in MEMORY: these are not the figures of a durable fleet; set --data to a directory on a disk)"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}; 3 coordinators, every entry synced before it is committed; {}", self.machine, self.disk)?;
        if !self.throughput.is_empty() {
            writeln!(f, "\nDurable no-op tasks, from submission to result; median of the rounds\n")?;
            writeln!(
                f,
                "{:>9} {:>9} {:>9} {:>8} {:>8} {:>8}   target",
                "in flight", "tasks/s", "target", "p50 ms", "p99 ms", "max ms"
            )?;
            for row in &self.throughput {
                row.write_speed(f)?;
            }
            writeln!(f, "\nCost of a task\n")?;
            writeln!(
                f,
                "{:>9} {:>13} {:>11} {:>10} {:>10} {:>13} {:>10} {:>10}",
                "in flight",
                "fsyncs leader",
                "fsyncs all",
                "log bytes",
                "leader µs",
                "followers µs",
                "agents µs",
                "client µs"
            )?;
            for row in &self.throughput {
                row.write_cost(f)?;
            }
        }
        if !self.takeover.is_empty() {
            writeln!(f, "\nTime until work resumes\n")?;
            writeln!(f, "{:45} {:>8} {:>8} {:>8}   target", "", "p50 ms", "p99 ms", "max ms")?;
            for row in &self.takeover {
                let Spread { p50_ms, p99_ms, max_ms } = row.spread;
                let target = row.failure.target_ms();
                let verdict = verdict(p99_ms <= target);
                writeln!(
                    f,
                    "{:45} {p50_ms:8.0} {p99_ms:8.0} {max_ms:8.0}   p99 <= {target:.0} ms: {verdict}",
                    row.failure
                )?;
            }
        }
        Ok(())
    }
}

impl Throughput {
    fn write_speed(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Round { tasks_per_s, latency: Spread { p50_ms, p99_ms, max_ms }, .. } = self.median;
        let find = |targets: &[(usize, f64)]| targets.iter().find(|(n, _)| *n == self.in_flight).map(|(_, t)| *t);
        write!(f, "{:>9} {tasks_per_s:9.0} ", self.in_flight)?;
        match find(&target::TASKS_PER_S) {
            Some(target) => write!(f, "{target:9.0} ")?,
            None => write!(f, "{:>9} ", "")?,
        }
        write!(f, "{p50_ms:8.2} {p99_ms:8.2} {max_ms:8.2}   ")?;
        match (find(&target::TASKS_PER_S), find(&target::P50_MS)) {
            (Some(target), _) => writeln!(f, ">= {target:.0}/s: {}", verdict(tasks_per_s >= target)),
            (_, Some(target)) => writeln!(f, "p50 <= {target} ms: {}", verdict(p50_ms <= target)),
            (None, None) => writeln!(f),
        }
    }

    fn write_cost(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Cost { leader_syncs, syncs, log_bytes, leader_cpu_us, followers_cpu_us, agents_cpu_us, client_cpu_us } =
            self.median.cost;
        writeln!(
            f,
            "{:>9} {leader_syncs:13.3} {syncs:11.3} {log_bytes:10.0} {leader_cpu_us:10.1} {followers_cpu_us:13.1} {agents_cpu_us:10.1} {client_cpu_us:10.1}",
            self.in_flight
        )
    }
}

fn verdict(is_met: bool) -> &'static str {
    if is_met { "met" } else { "MISSED" }
}
