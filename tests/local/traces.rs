//! Traces reach an OpenTelemetry collector if one is configured; here, the collector's gRPC service is the test itself.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
};
use robeing_proto::v1::TaskState;
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    script::{answer, task},
    wait::in_time,
};
use tokio::{net::TcpListener, sync::mpsc};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// The capacity of the channel of exports.
const EXPORTS: usize = 1_000;

struct Collector(mpsc::Sender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let told = self.0.send(request.into_inner()).await;
        told.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// Returns the attributes that are text, by name.
fn texts(attributes: &[KeyValue]) -> BTreeMap<&str, &str> {
    attributes.iter().filter_map(text).collect()
}

fn text(attribute: &KeyValue) -> Option<(&str, &str)> {
    match attribute.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some((&attribute.key, text)),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_attempt_is_a_span_at_the_collector() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let endpoint = format!("http://{}", listener.local_addr().expect("it is bound"));
    let (sender, mut exports) = mpsc::channel(EXPORTS);
    let service = TraceServiceServer::new(Collector(sender));
    let collector =
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(TcpListenerStream::new(listener)));
    let spec = FleetSpec::new(1).pool(PoolSpec::new("data", 1)).environment("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint);
    let fleet = Fleet::start(spec).await;
    let id = fleet.submit_one(task(&answer("traced"))).await;
    fleet.finished(&id, TaskState::Succeeded).await;
    in_time("a span of the attempt", async {
        loop {
            let export = exports.recv().await.expect("the collector runs");
            for of in &export.resource_spans {
                let resource = of.resource.as_ref().map(|resource| texts(&resource.attributes)).unwrap_or_default();
                let mut spans = of.scope_spans.iter().flat_map(|scope| &scope.spans);
                if let Some(span) = spans.find(|span| texts(&span.attributes).get("task") == Some(&id.as_str())) {
                    assert_eq!(span.name, "attempt");
                    assert!(span.end_time_unix_nano > span.start_time_unix_nano, "{span:?}");
                    assert_eq!(resource.get("service.name"), Some(&"robeing-agent"));
                    assert_eq!(resource.get("service.namespace"), Some(&"tested"));
                    assert_eq!(resource.get("service.instance.id"), Some(&"data-0"));
                    return;
                }
            }
        }
    })
    .await;
    drop(fleet);
    collector.abort();
}
