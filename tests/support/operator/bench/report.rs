//! The figures, beside what they should be.

use std::{fmt, thread, time::Duration};

use super::{OBJECTS, Rest, metrics::Calls};

/// What the figures are held to, for 1,000 fleets.
mod target {
    use std::time::Duration;

    /// Until all objects are there, at most.
    pub const OBJECTS_WITHIN: Duration = Duration::from_secs(60);
    /// At rest, at most, percent of a core.
    pub const CORE: f64 = 3.0;
    /// At rest, at most, MiB.
    pub const MEMORY: f64 = 100.0;
}

/// Everything that was measured.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How many fleets there were.
    pub fleets: usize,
    /// Whether their pods were stood in for, and their coordinators answered.
    pub running: bool,
    /// Memory without fleets, MiB.
    pub without: f64,
    /// From the first fleet's making until all objects were there.
    pub objects_after: Duration,
    /// Calls from the first fleet's making until rest.
    pub made_with: Calls,
    /// Time of a core from the first fleet's making until rest.
    pub made_core_seconds: f64,
    /// At rest with all fleets.
    pub rest: Rest,
    /// The most memory it ever held, MiB.
    pub peak: f64,
    /// From a task's being queued until the status showed it, where coordinators answer.
    pub shown_after: Option<Duration>,
    /// At rest after all fleets were deleted.
    pub after: Rest,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let processors = thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let pods =
            if self.running { "whose pods are stood in for and whose coordinators answer" } else { "without pods" };
        writeln!(
            f,
            "{} fleets of {OBJECTS} objects each, {pods}; kube-apiserver, etcd, the controllers and the operator on {processors} processors\n",
            self.fleets
        )?;
        let objects_s = self.objects_after.as_secs_f64();
        row(
            f,
            "made at once, all objects are there after",
            format!("{objects_s:.1} s"),
            Some(("60 s", self.objects_after <= target::OBJECTS_WITHIN)),
        )?;
        row(f, "  time of a core until rest", format!("{:.1} s", self.made_core_seconds), None)?;
        let calls = self.made_with.total();
        row(f, "  calls until rest, for each fleet", format!("{:.1}", calls as f64 / self.fleets as f64), None)?;
        row(
            f,
            "at rest: of a core",
            format!("{:.2} %", self.rest.core),
            Some(("3 %", self.rest.core <= target::CORE)),
        )?;
        row(
            f,
            "  memory",
            format!("{:.0} MiB", self.rest.memory),
            Some(("100 MiB", self.rest.memory <= target::MEMORY)),
        )?;
        row(
            f,
            "  calls but for the lease and watches",
            self.rest.calls.total().to_string(),
            Some(("0", self.rest.calls.total() == 0)),
        )?;
        row(f, "  rounds for a fleet", self.rest.rounds.to_string(), None)?;
        if let Some(shown) = self.shown_after {
            row(f, "a queue at rest is in the status after", format!("{:.2} s", shown.as_secs_f64()), None)?;
        }
        row(f, "memory: without fleets", format!("{:.0} MiB", self.without), None)?;
        row(f, "  at most", format!("{:.0} MiB", self.peak), None)?;
        row(f, "  after all fleets were deleted", format!("{:.0} MiB", self.after.memory), None)?;
        writeln!(f, "\nCalls until rest: {}", self.made_with)?;
        if self.rest.calls.total() > 0 {
            writeln!(f, "Calls at rest: {}", self.rest.calls)?;
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter<'_>, what: &str, measured: String, target: Option<(&str, bool)>) -> fmt::Result {
    match target {
        Some((most, is_met)) => {
            let verdict = if is_met { "met" } else { "MISSED" };
            writeln!(f, "{what:45} {measured:>12}   at most {most}: {verdict}")
        }
        None => writeln!(f, "{what:45} {measured:>12}"),
    }
}
