//! The figures next to their targets.

use std::{fmt, thread, time::Duration};

use super::{OBJECTS, Rest, metrics::Calls};

/// The targets of the figures, for 1,000 fleets.
mod target {
    use std::time::Duration;

    /// The maximum time until all objects exist.
    pub const OBJECTS_WITHIN: Duration = Duration::from_secs(60);
    /// The maximum percentage of a core at rest.
    pub const CORE: f64 = 3.0;
    /// The maximum memory at rest, in MiB.
    pub const MEMORY: f64 = 100.0;
}

/// Everything that was measured.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The number of fleets.
    pub fleets: usize,
    /// Whether their pods were simulated, with coordinators that respond.
    pub running: bool,
    /// The memory without fleets, in MiB.
    pub without: f64,
    /// The time from the creation of the first fleet until all objects existed.
    pub objects_after: Duration,
    /// The requests from the creation of the first fleet until the operator was at rest.
    pub made_with: Calls,
    /// The CPU time from the creation of the first fleet until the operator was at rest, in seconds.
    pub made_core_seconds: f64,
    /// The cost at rest with all fleets.
    pub rest: Rest,
    /// The peak memory, in MiB.
    pub peak: f64,
    /// The time from the queuing of a task until the status showed it, if coordinators respond.
    pub shown_after: Option<Duration>,
    /// The cost at rest after all fleets were deleted.
    pub after: Rest,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let processors = thread::available_parallelism().map_or(0, std::num::NonZero::get);
        let pods = if self.running { "with simulated pods and coordinators that respond" } else { "without pods" };
        writeln!(
            f,
            "{} fleets of {OBJECTS} objects each, {pods}; kube-apiserver, etcd, the controllers and the operator on {processors} processors\n",
            self.fleets
        )?;
        let objects_s = self.objects_after.as_secs_f64();
        row(
            f,
            "created at once, all objects exist after",
            format!("{objects_s:.1} s"),
            Some(("60 s", self.objects_after <= target::OBJECTS_WITHIN)),
        )?;
        row(f, "  CPU time until at rest", format!("{:.1} s", self.made_core_seconds), None)?;
        let calls = self.made_with.total();
        row(f, "  requests until at rest, for each fleet", format!("{:.1}", calls as f64 / self.fleets as f64), None)?;
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
            "  requests except for the lease and watches",
            self.rest.calls.total().to_string(),
            Some(("0", self.rest.calls.total() == 0)),
        )?;
        row(f, "  reconciles", self.rest.rounds.to_string(), None)?;
        if let Some(shown) = self.shown_after {
            row(f, "a new queue is in the status after", format!("{:.2} s", shown.as_secs_f64()), None)?;
        }
        row(f, "memory: without fleets", format!("{:.0} MiB", self.without), None)?;
        row(f, "  at most", format!("{:.0} MiB", self.peak), None)?;
        row(f, "  after all fleets were deleted", format!("{:.0} MiB", self.after.memory), None)?;
        writeln!(f, "\nRequests until at rest: {}", self.made_with)?;
        if self.rest.calls.total() > 0 {
            writeln!(f, "Requests at rest: {}", self.rest.calls)?;
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
