//! The operator's own metrics, read as Prometheus would read them.

use std::{collections::BTreeMap, fmt};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const CALLS: &str = "robeing_operator_api_requests_total";
const ROUNDS: &str = "robeing_operator_reconciles_total";

/// Requests to the API server by verb and resource, except for the lease and the start of watches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Calls {
    by_kind: BTreeMap<String, u64>,
    watches: u64,
}

impl Calls {
    /// Returns the total number.
    pub fn total(&self) -> u64 {
        self.by_kind.values().sum()
    }

    /// Returns whether watches have started.
    pub fn is_started(&self) -> bool {
        self.watches > 0
    }

    /// Returns the requests that are not included in an earlier reading.
    pub fn since(&self, earlier: &Self) -> Self {
        let more = |(kind, count): (&String, &u64)| {
            let new = count.saturating_sub(earlier.by_kind.get(kind).copied().unwrap_or(0));
            (new > 0).then(|| (kind.clone(), new))
        };
        Self { by_kind: self.by_kind.iter().filter_map(more).collect(), watches: self.watches - earlier.watches }
    }

    fn read(text: &str) -> Self {
        let mut calls = Self::default();
        for (labels, count) in samples(text, CALLS) {
            let label = |name: &str| {
                let (_, rest) = labels.split_once(&format!("{name}=\""))?;
                rest.split('"').next()
            };
            match (label("verb"), label("resource")) {
                (_, Some("leases")) => {}
                (Some("watch"), _) => calls.watches += count,
                (verb, resource) => {
                    *calls
                        .by_kind
                        .entry(format!("{} {}", verb.unwrap_or("?"), resource.unwrap_or("?")))
                        .or_default() += count;
                }
            }
        }
        calls
    }
}

impl fmt::Display for Calls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut by_count: Vec<_> = self.by_kind.iter().collect();
        by_count.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let texts: Vec<String> = by_count.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        f.write_str(&texts.join(", "))
    }
}

/// Returns the labels and the value of each sample of a counter.
fn samples<'a>(text: &'a str, of: &'a str) -> impl Iterator<Item = (&'a str, u64)> {
    text.lines().filter_map(move |line| {
        let (labels, value) = line.strip_prefix(of)?.rsplit_once(' ')?;
        Some((labels, value.parse().ok()?))
    })
}

/// Returns the requests so far.
pub async fn calls(port: u16) -> Result<Calls> {
    Ok(Calls::read(&scrape(port).await?))
}

/// Returns the number of reconciles so far.
pub async fn rounds(port: u16) -> Result<u64> {
    Ok(samples(&scrape(port).await?, ROUNDS).map(|(_, count)| count).sum())
}

async fn scrape(port: u16) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.context("the operator's metrics")?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    ensure!(text.starts_with("HTTP/1.1 200"), "the operator's metrics: {text}");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_those_that_are_neither_the_lease_nor_watches() {
        let text = "# TYPE robeing_operator_api_requests counter\n\
            robeing_operator_api_requests_total{verb=\"patch\",resource=\"services\"} 7\n\
            robeing_operator_api_requests_total{verb=\"get\",resource=\"services\"} 2\n\
            robeing_operator_api_requests_total{verb=\"watch\",resource=\"pods\"} 3\n\
            robeing_operator_api_requests_total{verb=\"update\",resource=\"leases\"} 40\n\
            robeing_operator_reconciles_total{result=\"ok\"} 5\n";
        let calls = Calls::read(text);
        assert_eq!((calls.total(), calls.is_started()), (9, true));
        assert_eq!(calls.to_string(), "7 patch services, 2 get services");
        let earlier =
            Calls { by_kind: BTreeMap::from([("patch services".into(), 6), ("get services".into(), 2)]), watches: 3 };
        assert_eq!(calls.since(&earlier).to_string(), "1 patch services");
        assert_eq!(samples(text, ROUNDS).map(|(_, count)| count).sum::<u64>(), 5);
    }
}
