//! Logs on stderr, and traces to an OpenTelemetry collector where one is configured. Set up once, by the program.

use std::{
    fmt::Display,
    io::{IsTerminal, Write},
};

use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use robeing_settings::LogFormat;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{EnvFilter, Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// What is logged unless `RUST_LOG` says otherwise. The consensus library warns of every single message that fails, dozens a
/// second while a coordinator is down.
pub const DEFAULT_LOG: &str = "info,openraft=error,h2=warn,hyper=warn,tonic=warn";
/// What the name of every crate of the project begins with.
const OWN: &str = "robeing";
/// Environment names of which either turns traces on.
pub const OTLP_ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// Says on stderr why the process ends, in a form that stands without logs. What can't be written there is no reason to end
/// otherwise.
pub fn say(error: &dyn Display) {
    // In one piece, so that a log that others write to as well has it on one line.
    let _ = std::io::stderr().write_all(format!("robeing-agent: {error}\n").as_bytes());
}

/// Why logs or traces cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `RUST_LOG` is no filter.
    #[error("RUST_LOG is not a filter ({0}): write it like info or info,robeing_coordinator=debug")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The exporter of traces cannot be made.
    #[error("traces can't be sent ({0}): correct or remove OTEL_EXPORTER_OTLP_ENDPOINT")]
    Otlp(#[from] opentelemetry_otlp::ExporterBuildError),
    /// Another subscriber is set already.
    #[error("logging is set up already: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sends what is left of the traces when it ends.
#[must_use = "traces end when it is dropped"]
pub struct Logs {
    traces: Option<SdkTracerProvider>,
}

/// Sets up logs and traces of the process called `name`. Traces need a tokio runtime, which this must be called within.
///
/// # Errors
/// When `RUST_LOG` or the collector's address is malformed.
pub fn init(
    format: LogFormat,
    cluster_id: &str,
    name: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Logs, TelemetryError> {
    let filter = env("RUST_LOG").filter(|filter| !filter.is_empty());
    let filter = EnvFilter::builder().parse(filter.as_deref().unwrap_or(DEFAULT_LOG))?;
    // A line that can't be written, as to a disk that is full, is lost. Otherwise the layer would say so on stderr, where that
    // can't be written either, and panic.
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).log_internal_errors(false);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let wanted = OTLP_ENDPOINTS.iter().any(|endpoint| env(endpoint).is_some_and(|value| !value.is_empty()));
    let traces = if wanted { Some(provider(cluster_id, name)?) } else { None };
    let spans = traces.as_ref().map(|provider| {
        // Own spans only: those of the transport would trace the sending of traces.
        let own = Targets::new().with_target(OWN, LevelFilter::DEBUG);
        tracing_opentelemetry::layer().with_tracer(provider.tracer("robeing-agent")).with_filter(own)
    });
    tracing_subscriber::registry().with(spans).with(lines.with_filter(filter)).try_init()?;
    Ok(Logs { traces })
}

fn provider(cluster_id: &str, name: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let resource = Resource::builder()
        .with_service_name("robeing-agent")
        .with_attribute(KeyValue::new("service.namespace", cluster_id.to_owned()))
        .with_attribute(KeyValue::new("service.instance.id", name.to_owned()))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let exporter = SpanExporter::builder().with_tonic().build()?;
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

impl Logs {
    /// Sends what is left of the traces. Blocks for some seconds at most.
    pub fn finish(self) {
        if let Some(traces) = self.traces {
            // A collector that is away is no reason to say anything at the very end.
            let _ = traces.shutdown();
        }
    }
}
