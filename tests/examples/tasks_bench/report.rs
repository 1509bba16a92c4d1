//! The figures as a table and as JSON.

use std::{fmt, time::Duration};

use robeing_tests::bench::Spread;
use serde::Serialize;

/// Everything that was measured.
#[derive(Serialize)]
pub struct Figures {
    /// Which benchmark it is.
    pub bench: &'static str,
    /// Processors and memory.
    pub machine: String,
    /// What the disk takes for a sync.
    pub disk: String,
    /// How clients and the processes of the fleet connect.
    pub mode: &'static str,
    /// The parts that were measured, in order.
    pub sections: Vec<Section>,
}

/// What was measured of one part.
#[derive(Serialize)]
pub struct Section {
    part: &'static str,
    /// What was done.
    about: String,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    what: String,
    value: f64,
    unit: &'static str,
}

impl Section {
    /// Creates a section without rows.
    pub fn new(part: &'static str, about: String) -> Self {
        Self { part, about, rows: Vec::new() }
    }

    /// Adds a figure.
    pub fn add(&mut self, what: impl Into<String>, value: f64, unit: &'static str) {
        self.rows.push(Row { what: what.into(), value, unit });
    }

    /// Adds a number of things.
    pub fn count(&mut self, what: impl Into<String>, value: u64, unit: &'static str) {
        self.add(what, value as f64, unit);
    }

    /// Adds a time, in milliseconds.
    pub fn time(&mut self, what: impl Into<String>, took: Duration) {
        self.add(what, took.as_secs_f64() * 1e3, "ms");
    }

    /// Adds how many tasks there were per second.
    pub fn rate(&mut self, what: impl Into<String>, tasks: u64, took: Duration) {
        self.add(what, per_second(tasks, took), "tasks/s");
    }

    /// Adds an amount of memory, in MiB.
    pub fn memory(&mut self, what: impl Into<String>, bytes: u64) {
        self.add(what, bytes as f64 / (1024.0 * 1024.0), "MiB");
    }

    /// Adds a distribution.
    pub fn spread(&mut self, what: &str, spread: Spread) {
        let Spread { p50_ms, p99_ms, max_ms } = spread;
        for (which, value) in [("p50", p50_ms), ("p99", p99_ms), ("max", max_ms)] {
            self.add(format!("{what}, {which}"), value, "ms");
        }
    }
}

/// Returns how many there were per second.
pub fn per_second(count: u64, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64().max(1e-9)
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}; {}", self.machine, self.disk)?;
        writeln!(f, "3 coordinators, every entry synced before it is committed; {}", self.mode)?;
        for section in &self.sections {
            write!(f, "\n{section}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}: {}\n", self.part, self.about)?;
        for Row { what, value, unit } in &self.rows {
            let digits = if *value < 1_000.0 && value.fract() != 0.0 { 2 } else { 0 };
            writeln!(f, "  {what:<58} {value:>12.digits$} {unit}")?;
        }
        Ok(())
    }
}
