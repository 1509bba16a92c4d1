//! The metrics of an agent's sessions.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
};
use robeing_proto::internal::v1::completion;
use robeing_telemetry::Metrics;

/// Upper bounds of the heartbeat round trip, in seconds.
const ROUND_TRIP_BOUNDS: [f64; 9] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 2.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(super) struct Ended {
    outcome: &'static str,
}

/// The metrics of an agent's sessions.
#[derive(Clone)]
pub struct SessionMetrics {
    pub(super) running: Gauge,
    pub(super) reconnects: Counter,
    pub(super) fences: Counter,
    pub(super) heartbeat_round_trip: Histogram,
    completions: Family<Ended, Counter>,
}

impl SessionMetrics {
    /// Registers the metrics of an agent with `slots` slots, all zero.
    pub fn new(metrics: &Metrics, slots: u32) -> Self {
        metrics.gauge("agent_slots", "Tasks the agent may run at once").set(slots.into());
        Self {
            running: metrics.gauge("agent_running", "Attempts that are running"),
            completions: metrics.counters("agent_completions", "Attempts that ended, by outcome"),
            reconnects: metrics.counter("agent_reconnects", "Connections to a leader after the first"),
            fences: metrics.counter("agent_fences", "Leases that expired or were revoked, each stopping all attempts"),
            heartbeat_round_trip: metrics.histogram(
                "agent_heartbeat_round_trip_seconds",
                "Time from a heartbeat to its acknowledgement",
                ROUND_TRIP_BOUNDS,
            ),
        }
    }

    pub(super) fn ended(&self, outcome: &completion::Outcome) {
        let outcome = match outcome {
            completion::Outcome::Output(_) | completion::Outcome::OutputRef(_) => "succeeded",
            completion::Outcome::Failure(_) => "failed",
            completion::Outcome::Stopped(_) => "stopped",
            completion::Outcome::HandedBack(_) => "handed_back",
            completion::Outcome::Suspended(_) => "suspended",
        };
        self.completions.get_or_create(&Ended { outcome }).inc();
    }
}
