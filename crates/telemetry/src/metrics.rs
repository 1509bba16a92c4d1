//! The registry of a process's Prometheus metrics, and whether the process is ready.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry},
};

use super::Readiness;

/// What all metric names begin with.
pub const PREFIX: &str = "robeing";

/// A shared registry. Cheap to clone; metrics are registered once, at the start of a part, and updated without it.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
    readiness: Readiness,
}

impl Default for Metrics {
    fn default() -> Self {
        Self { registry: Arc::new(Mutex::new(Registry::with_prefix(PREFIX))), readiness: Readiness::default() }
    }
}

impl Metrics {
    /// Adds a metric and gives it back. Its name gets the prefix `robeing_`, and a counter's the suffix `_total`.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner).register(name, help, metric.clone());
        metric
    }

    /// Adds a counter.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.register(name, help, Counter::default())
    }

    /// Adds a gauge.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default())
    }

    /// Adds counters told apart by labels.
    pub fn counters<L>(&self, name: &str, help: &str) -> Family<L, Counter>
    where
        Family<L, Counter>: Metric + Clone + Default,
    {
        self.register(name, help, Family::default())
    }

    /// Adds a histogram with these upper bounds.
    pub fn histogram(&self, name: &str, help: &str, bounds: impl IntoIterator<Item = f64>) -> Histogram {
        self.register(name, help, Histogram::new(bounds))
    }

    /// Whether the process can do its work, for its parts to say.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// All metrics in the OpenMetrics text form.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail; a metric that cannot be written is left out with those after it.
        let _ = encode(&mut text, &self.registry.lock().unwrap_or_else(PoisonError::into_inner));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registered_counter_is_in_the_text_with_its_value() {
        let metrics = Metrics::default();
        let seen = metrics.counter("things_seen", "Things seen");
        seen.inc_by(3);
        let text = metrics.encode();
        assert!(text.contains("# HELP robeing_things_seen Things seen."), "{text}");
        assert!(text.contains("robeing_things_seen_total 3\n"), "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
    }
}
