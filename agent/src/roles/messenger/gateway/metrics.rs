//! The metrics of a gateway.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use robeing_telemetry::Metrics;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    route: &'static str,
    status: u16,
}

/// The metrics of a gateway.
#[derive(Clone)]
pub struct GatewayMetrics {
    answered: Family<Answered, Counter>,
}

impl GatewayMetrics {
    /// Registers the metrics, all zero.
    pub fn new(metrics: &Metrics) -> Self {
        let answered = metrics.counters("agent_gateway_requests", "Requests to the gateway, by route and HTTP status");
        Self { answered }
    }

    /// Counts an answered request. There are few routes, and few statuses, so there are few counters.
    pub fn answered(&self, route: &'static str, status: u16) {
        self.answered.get_or_create(&Answered { route, status }).inc();
    }
}
