//! The registry of a process's Prometheus metrics, and its readiness.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::{
    encoding::text::encode,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry},
};

use super::Readiness;

/// Prefix of all metric names.
pub const PREFIX: &str = "robeing";

/// A shared registry. Cheap to clone. Each component registers its metrics once, at its start, and updates them without
/// the registry.
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
    /// Registers a metric and returns it. The name gets the prefix `robeing_`, and a counter's name the suffix
    /// `_total`.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner).register(name, help, metric.clone());
        metric
    }

    /// Registers a counter.
    pub fn counter(&self, name: &str, help: &str) -> Counter {
        self.register(name, help, Counter::default())
    }

    /// Registers a gauge.
    pub fn gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default())
    }

    /// Registers a family of counters that differ by labels.
    pub fn counters<L>(&self, name: &str, help: &str) -> Family<L, Counter>
    where
        Family<L, Counter>: Metric + Clone + Default,
    {
        self.register(name, help, Family::default())
    }

    /// Registers a histogram with these upper bounds.
    pub fn histogram(&self, name: &str, help: &str, bounds: impl IntoIterator<Item = f64>) -> Histogram {
        self.register(name, help, Histogram::new(bounds))
    }

    /// The readiness of the process, for its components to set.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// Returns all metrics in the OpenMetrics text format.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail; a metric that fails to encode is left out, along with those after it.
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
