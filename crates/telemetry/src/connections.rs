//! The metrics of the connections that a process accepts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use robeing_net::security::{Refused, TlsStats};

use super::Metrics;

/// The labels of the counter of refused connections.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    reason: &'static str,
}

/// The counters of the connections with TLS that a process has accepted and refused.
#[derive(Clone)]
pub struct ConnectionMetrics {
    refused: Family<Labels, Counter>,
    authenticated: Counter,
    anonymous: Counter,
}

impl ConnectionMetrics {
    /// Registers the counters, all zero.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            refused: metrics
                .counters("connections_refused", "Connections that were refused before any call, by reason"),
            authenticated: metrics.counter("connections_authenticated", "Connections accepted with a certificate"),
            anonymous: metrics.counter("connections_anonymous", "Connections accepted without a certificate"),
        }
    }

    /// Sets the counters to what TLS has counted since the process started.
    pub fn refresh(&self, stats: &TlsStats) {
        for why in Refused::ALL {
            raise(&self.refused.get_or_create_owned(&Labels { reason: why.as_str() }), stats.refused(why));
        }
        raise(&self.authenticated, stats.authenticated());
        raise(&self.anonymous, stats.anonymous());
    }
}

fn raise(counter: &Counter, to: u64) {
    counter.inc_by(to.saturating_sub(counter.get()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_in_the_text_from_the_beginning() {
        let metrics = Metrics::default();
        let connections = ConnectionMetrics::new(&metrics);
        connections.refresh(&TlsStats::default());
        let text = metrics.encode();
        for why in Refused::ALL {
            let line = format!("robeing_connections_refused_total{{reason=\"{}\"}} 0", why.as_str());
            assert!(text.contains(&line), "{line} is not in {text}");
        }
        raise(&connections.anonymous, 3);
        raise(&connections.anonymous, 2);
        assert_eq!(connections.anonymous.get(), 3, "a counter never decreases");
    }
}
