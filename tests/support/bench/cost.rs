//! The cost of a round: log syncs and bytes from the coordinators' own metrics, and processor time from the system. It
//! needs `/proc`; on other systems the costs are unknown.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    process,
    time::Duration,
};

use anyhow::{Context, Result};
use robeing::dev::plan::ProcessKind;
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::local_fleet::LocalFleet;

/// Longer than the one second between two updates of a coordinator's metrics.
const REFRESH: Duration = Duration::from_millis(1_100);
const SCRAPE: Duration = Duration::from_secs(2);
/// The state of a listening socket in `/proc/net/tcp`.
const LISTENING: &str = "0A";
/// The largest response that is read, in bytes.
const MAX_METRICS: u64 = 1024 * 1024;

/// The resources that a fleet and its client have used so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    syncs: f64,
    bytes: f64,
    leader_syncs: f64,
    leader_cpu: f64,
    followers_cpu: f64,
    agents_cpu: f64,
    client_cpu: f64,
}

/// The cost of one task, summed over all coordinators unless stated otherwise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    /// Syncs of the leader's log.
    pub leader_syncs: f64,
    /// Syncs of all coordinators' logs.
    pub syncs: f64,
    /// Bytes written to all logs.
    pub log_bytes: f64,
    /// Processor time of the leader, in microseconds.
    pub leader_cpu_us: f64,
    /// Processor time of all other coordinators, in microseconds.
    pub followers_cpu_us: f64,
    /// Processor time of all agents, in microseconds.
    pub agents_cpu_us: f64,
    /// Processor time of the client, which is the benchmark's own process, in microseconds.
    pub client_cpu_us: f64,
}

impl Used {
    /// Measures what was used so far. This takes more than a second, because metrics are updated only once a second;
    /// nothing should run in the meantime.
    ///
    /// # Errors
    /// If a coordinator's metrics can't be read.
    pub async fn now(fleet: &LocalFleet, leader: &str) -> Result<Self> {
        let mut used = Self { client_cpu: cpu_seconds(process::id()), ..Self::default() };
        sleep(REFRESH).await;
        for running in fleet.processes().processes() {
            let Some(pid) = running.pid else { continue };
            let cpu = cpu_seconds(pid);
            match running.kind {
                ProcessKind::Agent { .. } => used.agents_cpu += cpu,
                ProcessKind::Coordinator => {
                    let text = metrics(pid, &fleet.processes().plan().coordinators).await?;
                    let syncs = value(&text, "robeing_log_syncs");
                    used.syncs += syncs;
                    used.bytes += value(&text, "robeing_log_written_bytes");
                    if running.name == leader {
                        used.leader_syncs = syncs;
                        used.leader_cpu = cpu;
                    } else {
                        used.followers_cpu += cpu;
                    }
                }
            }
        }
        Ok(used)
    }

    /// Returns the cost of each of `tasks` tasks since `before`.
    pub fn since(&self, before: &Self, tasks: usize) -> Cost {
        let per_task = |now: f64, before: f64| (now - before) / tasks.max(1) as f64;
        let micros = |now: f64, before: f64| per_task(now, before) * 1e6;
        Cost {
            leader_syncs: per_task(self.leader_syncs, before.leader_syncs),
            syncs: per_task(self.syncs, before.syncs),
            log_bytes: per_task(self.bytes, before.bytes),
            leader_cpu_us: micros(self.leader_cpu, before.leader_cpu),
            followers_cpu_us: micros(self.followers_cpu, before.followers_cpu),
            agents_cpu_us: micros(self.agents_cpu, before.agents_cpu),
            client_cpu_us: micros(self.client_cpu, before.client_cpu),
        }
    }
}

/// Returns the user and system time of a process, or 0 if it is unknown.
fn cpu_seconds(pid: u32) -> f64 {
    /// Clock ticks of `/proc` per second, the same on every Linux.
    const TICKS: f64 = 100.0;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Fields 14 and 15; the first field after the name is field 3.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|f| f.parse::<f64>().ok()).unwrap_or_default();
    (ticks(11) + ticks(12)) / TICKS
}

/// Fetches the metrics of a coordinator. It serves them at a port that it chose, the only other one that it listens on.
async fn metrics(pid: u32, coordinators: &[String]) -> Result<String> {
    for port in listening_ports(pid) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if coordinators.contains(&address.to_string()) {
            continue;
        }
        if let Ok(Ok(text)) = timeout(SCRAPE, get(address, "/metrics")).await {
            return Ok(text);
        }
    }
    None.with_context(|| format!("coordinator process {pid} serves no metrics"))
}

async fn get(address: SocketAddr, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.take(MAX_METRICS).read_to_string(&mut text).await?;
    text.starts_with("HTTP/1.1 200").then_some(text).context("the response is not metrics")
}

/// Returns the value of a metric, or 0 if there is none.
fn value(text: &str, name: &str) -> f64 {
    text.lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter_map(|rest| rest.strip_prefix(' ').or_else(|| rest.strip_prefix("_total ")))
        .find_map(|value| value.trim().parse().ok())
        .unwrap_or_default()
}

/// Returns the TCP ports on which a process listens over IPv4.
fn listening_ports(pid: u32) -> Vec<u16> {
    let sockets: Vec<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).unwrap_or_default();
    table.lines().skip(1).filter_map(|line| listening_port(line, &sockets)).collect()
}

fn listening_port(line: &str, sockets: &[String]) -> Option<u16> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (local, state, inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
    if *state != LISTENING || !sockets.iter().any(|socket| socket == inode) {
        return None;
    }
    u16::from_str_radix(local.rsplit(':').next()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_found_by_its_whole_name() {
        let text = "# HELP robeing_log_syncs x\nrobeing_log_syncs_more 3\nrobeing_log_syncs 17\nrobeing_seen_total 4\n";
        assert_eq!(value(text, "robeing_log_syncs"), 17.0);
        assert_eq!(value(text, "robeing_seen"), 4.0);
        assert_eq!(value(text, "robeing_none"), 0.0);
    }

    #[test]
    fn a_listening_socket_is_told_from_others() {
        let line = "0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 4711 1";
        assert_eq!(listening_port(line, &["4711".into()]), Some(8080));
        assert_eq!(listening_port(line, &["4712".into()]), None);
        assert_eq!(listening_port(&line.replace(" 0A ", " 01 "), &["4711".into()]), None);
    }
}
