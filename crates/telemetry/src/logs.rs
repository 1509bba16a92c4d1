//! Logs on stderr, and traces to an OpenTelemetry collector if one is configured. The program sets them up once.

use std::io::{self, IsTerminal};

use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use robeing_settings::LogFormat;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{EnvFilter, Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use crate::lines::{LinesGuard, lines};

/// The log filter unless `RUST_LOG` is set. The consensus library warns about every message that fails, dozens per
/// second while a coordinator is down.
pub const DEFAULT_LOG: &str = "info,openraft=error,h2=warn,hyper=warn,tonic=warn";
/// Prefix of the names of the project's crates.
const OWN: &str = "robeing";
/// Environment variables, either of which enables traces.
pub const OTLP_ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// The reason logs or traces could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `RUST_LOG` is not a valid filter.
    #[error("RUST_LOG is not a filter ({0}): write it like info or info,robeing_coordinator=debug")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The trace exporter could not be created.
    #[error("traces can't be sent ({0}): correct or remove OTEL_EXPORTER_OTLP_ENDPOINT")]
    Otlp(#[from] opentelemetry_otlp::ExporterBuildError),
    /// Another global subscriber is already set.
    #[error("logging is set up already: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Keeps logs and traces flowing. [`Logs::finish`] writes and sends the remaining ones.
#[must_use = "logs and traces end when it is dropped"]
pub struct Logs {
    traces: Option<SdkTracerProvider>,
    lines: LinesGuard,
}

/// Sets up logs and traces of the process called `name`. Traces require this to be called within a tokio runtime.
///
/// # Errors
/// If `RUST_LOG` or the collector's address is malformed, or another subscriber is already set.
pub fn init(
    format: LogFormat,
    cluster_id: &str,
    name: &str,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Logs, TelemetryError> {
    let filter = env("RUST_LOG").filter(|filter| !filter.is_empty());
    let filter = EnvFilter::builder().parse(filter.as_deref().unwrap_or(DEFAULT_LOG))?;
    // A line that can't be written, for example because the disk is full, is lost. Otherwise the layer would report
    // that on stderr, which would fail as well, and panic.
    let (writer, guard) = lines();
    let lines = tracing_subscriber::fmt::layer().with_writer(move || writer.clone()).log_internal_errors(false);
    let lines = match format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).with_target(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let wanted = OTLP_ENDPOINTS.iter().any(|endpoint| env(endpoint).is_some_and(|value| !value.is_empty()));
    let traces = if wanted { Some(provider(cluster_id, name)?) } else { None };
    let spans = traces.as_ref().map(|provider| {
        // Only the project's own spans: spans of the transport would trace the sending of traces.
        let own = Targets::new().with_target(OWN, LevelFilter::DEBUG);
        tracing_opentelemetry::layer().with_tracer(provider.tracer("robeing-agent")).with_filter(own)
    });
    tracing_subscriber::registry().with(spans).with(lines.with_filter(filter)).try_init()?;
    Ok(Logs { traces, lines: guard })
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
    /// Sends the remaining traces and writes the remaining lines. Blocks for a few seconds at most.
    pub fn finish(self) {
        if let Some(traces) = self.traces {
            // An unreachable collector is not worth a message at the very end.
            let _ = traces.shutdown();
        }
        drop(self.lines);
    }
}
