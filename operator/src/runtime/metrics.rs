//! The operator's metrics, in the OpenMetrics text format. Every request to the API server is counted when it is sent,
//! so that "quiet at rest" can be observed.

use std::{
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Method, Request};
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use robeing_telemetry::Monitored;
use tower::{Layer, Service};

/// Upper bounds of the buckets for the duration of reconciliations, in seconds.
const ROUND_SECONDS: [f64; 9] = [0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Call {
    verb: String,
    resource: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Result_ {
    result: String,
}

/// The operator's metrics. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    calls: Family<Call, Counter>,
    rounds: Family<Result_, Counter>,
    seconds: Histogram,
    leads: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("robeing_operator");
        let (calls, rounds) = (Family::default(), Family::default());
        let (seconds, leads) = (Histogram::new(ROUND_SECONDS), Gauge::default());
        registry.register("api_requests", "Requests to the API server", calls.clone());
        registry.register("reconciles", "Reconciliations of a cluster, by result", rounds.clone());
        registry.register("reconcile_seconds", "Duration of a reconciliation of a cluster", seconds.clone());
        registry.register("leads", "Whether this replica holds the lease (1) or is on standby (0)", leads.clone());
        Self { registry: Arc::new(registry), calls, rounds, seconds, leads }
    }
}

impl Monitored for Metrics {
    fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// A replica that stands by is as ready as the active one.
    fn is_ready(&self) -> bool {
        true
    }
}

impl Metrics {
    /// Counts a reconciliation.
    pub fn reconciled(&self, ok: bool, took: Duration) {
        let result = if ok { "ok" } else { "error" };
        self.rounds.get_or_create(&Result_ { result: result.into() }).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// Sets whether this replica is the active one.
    pub fn lead(&self, leads: bool) {
        self.leads.set(leads.into());
    }

    fn called(&self, method: &Method, path: &str, query: Option<&str>) {
        let (verb, resource) = call(method, path, query);
        self.calls.get_or_create(&Call { verb: verb.into(), resource }).inc();
    }
}

/// Returns the verb and the resource of a request, in the terms of RBAC.
fn call(method: &Method, path: &str, query: Option<&str>) -> (&'static str, String) {
    let mut parts = path.trim_matches('/').split('/');
    // "api/v1" or "apis/group/version".
    let skipped = if parts.next() == Some("api") { 1 } else { 2 };
    let rest: Vec<&str> = parts.skip(skipped).collect();
    let rest = match &rest[..] {
        ["namespaces", _, inner @ ..] if !inner.is_empty() => inner,
        all => all,
    };
    let (resource, name, sub) = (rest.first(), rest.get(1), rest.get(2));
    let resource = match (resource, sub) {
        (Some(resource), Some(sub)) => format!("{resource}/{sub}"),
        (Some(resource), None) => (*resource).to_owned(),
        (None, _) => "none".to_owned(),
    };
    let watched = is_watch(query);
    let verb = match (method.as_str(), name) {
        ("GET", _) if watched => "watch",
        ("GET", Some(_)) => "get",
        ("GET", None) => "list",
        ("POST", _) => "create",
        ("PUT", _) => "update",
        ("PATCH", _) => "patch",
        ("DELETE", _) => "delete",
        _ => "other",
    };
    (verb, resource)
}

/// Returns whether the query of a request makes it a watch.
pub(crate) fn is_watch(query: Option<&str>) -> bool {
    query.is_some_and(|query| query.split('&').any(|pair| pair == "watch=true"))
}

/// A layer that counts requests.
#[derive(Clone, Debug)]
pub struct CountRequests(pub Metrics);

impl<S> Layer<S> for CountRequests {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Counted { inner, metrics: self.0.clone() }
    }
}

/// A service whose requests are counted.
#[derive(Clone, Debug)]
pub struct Counted<S> {
    inner: S,
    metrics: Metrics,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.metrics.called(request.method(), request.uri().path(), request.uri().query());
        self.inner.call(request)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_what_they_ask() {
        for (method, path, query, expected) in [
            (Method::GET, "/api/v1/pods", Some("watch=true&labelSelector=a"), ("watch", "pods")),
            (Method::GET, "/api/v1/namespaces/a/pods", Some("limit=1"), ("list", "pods")),
            (Method::GET, "/api/v1/namespaces/a/services/b", None, ("get", "services")),
            (
                Method::PATCH,
                "/apis/robeing.io/v1alpha1/namespaces/a/robeingclusters/b/status",
                None,
                ("patch", "robeingclusters/status"),
            ),
            (Method::PUT, "/apis/coordination.k8s.io/v1/namespaces/a/leases/b", None, ("update", "leases")),
            (Method::POST, "/apis/events.k8s.io/v1/namespaces/a/events", None, ("create", "events")),
            (Method::DELETE, "/api/v1/namespaces/a/pods/b", None, ("delete", "pods")),
            (Method::GET, "/version", None, ("list", "none")),
        ] {
            let (verb, resource) = call(&method, path, query);
            assert_eq!((verb, resource.as_str()), expected, "{method} {path}");
        }
        let metrics = Metrics::default();
        metrics.called(&Method::GET, "/api/v1/pods", Some("watch=true"));
        metrics.lead(true);
        let text = metrics.encode();
        let line = r#"robeing_operator_api_requests_total{verb="watch",resource="pods"} 1"#;
        assert!(text.contains(line), "{text}");
        assert!(text.contains("robeing_operator_leads 1"), "{text}");
    }
}
