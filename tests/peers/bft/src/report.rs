//! The figures as a table and as JSON.

use std::{fmt, thread, time::Duration};

use serde::Serialize;

use crate::{
    Args, Kind,
    common::{Sample, outstanding},
};

/// The samples of one round, in the order of [`Kind::ALL`].
pub type Round = [Sample; Kind::ALL.len()];

/// Everything that was measured.
#[derive(Serialize)]
pub struct Report {
    bench: &'static str,
    peer: &'static str,
    processors: usize,
    /// The folder of the replicas' files, and how long a sync takes there: almost nothing if it is in memory.
    data: String,
    sync_us: f64,
    payload_bytes: u32,
    delay_ms: u64,
    rounds: u32,
    millis: u64,
    rows: Vec<Row>,
}

/// The medians of one group.
#[derive(Serialize)]
pub struct Row {
    members: u16,
    batch: u32,
    outstanding: usize,
    group: &'static str,
    decisions_per_s: f64,
    requests_per_s: f64,
    p50_ms: f64,
    p99_ms: f64,
    /// Medians of the rounds' own ratios: those of robeing-bft by those of this group.
    robeing_decisions_by_its: f64,
    robeing_requests_by_its: f64,
    robeing_p50_by_its: f64,
}

impl Report {
    /// Creates the report of a run.
    pub fn new(args: &Args, sync: Duration, rows: Vec<Row>) -> Self {
        Self {
            bench: "bft",
            peer: "commonware-consensus 2026.10.0",
            processors: thread::available_parallelism().map_or(0, usize::from),
            data: args.data.display().to_string(),
            sync_us: sync.as_secs_f64() * 1e6,
            payload_bytes: args.payload,
            delay_ms: args.delay,
            rounds: args.rounds,
            millis: args.millis,
            rows,
        }
    }
}

impl Row {
    /// Creates the row of a group, which is the one with this number in each round.
    pub fn new(members: u16, batch: u32, of: usize, rounds: &[Round]) -> Self {
        let over = |value: &dyn Fn(&Round) -> f64| median(rounds.iter().map(value).collect());
        Self {
            members,
            batch,
            outstanding: outstanding(batch),
            group: Kind::ALL[of].name(),
            decisions_per_s: over(&|round| round[of].decisions_per_s),
            requests_per_s: over(&|round| round[of].requests_per_s),
            p50_ms: over(&|round| round[of].p50_ms),
            p99_ms: over(&|round| round[of].p99_ms),
            robeing_decisions_by_its: over(&|round| round[0].decisions_per_s / round[of].decisions_per_s),
            robeing_requests_by_its: over(&|round| round[0].requests_per_s / round[of].requests_per_s),
            robeing_p50_by_its: over(&|round| round[0].p50_ms / round[of].p50_ms),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer, processors, data, sync_us, payload_bytes, delay_ms, rounds, .. } = self;
        writeln!(
            f,
            "{processors} processors; all groups sync their files in {data}, where a sync takes {sync_us:.0} us"
        )?;
        writeln!(
            f,
            "Decisions of robeing-bft beside {peer}: requests of {payload_bytes} bytes, messages take {delay_ms} ms"
        )?;
        writeln!(f, "Medians of {rounds} rounds; ratios are those of robeing-bft by those of the group\n")?;
        writeln!(
            f,
            "{:>2} {:>6} {:<17} {:>12} {:>11} {:>8} {:>8} {:>10} {:>9} {:>8}",
            "n", "batch", "group", "decisions/s", "requests/s", "p50 ms", "p99 ms", "x decided", "x request", "x p50"
        )?;
        self.rows.iter().try_for_each(|row| row.write(f))
    }
}

impl Row {
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { members, batch, group, decisions_per_s, requests_per_s, p50_ms, p99_ms, .. } = self;
        write!(f, "{members:>2} {batch:>6} {group:<17} {decisions_per_s:>12.0} {requests_per_s:>11.0}")?;
        write!(f, " {p50_ms:>8.2} {p99_ms:>8.2} {:>10.2}", self.robeing_decisions_by_its)?;
        writeln!(f, " {:>9.2} {:>8.2}", self.robeing_requests_by_its, self.robeing_p50_by_its)
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}
