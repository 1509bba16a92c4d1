//! Logs on stderr, and traces to an OpenTelemetry collector if one is configured. The program sets them up once.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
    sync::mpsc,
    thread,
    time::Duration,
};

use opentelemetry::{KeyValue, trace::TracerProvider};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use robeing_settings::LogFormat;
use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, Layer, filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

/// The log filter unless `RUST_LOG` is set. The consensus library warns about every message that fails, dozens per
/// second while a coordinator is down.
pub const DEFAULT_LOG: &str = "info,openraft=error,h2=warn,hyper=warn,tonic=warn";
/// Prefix of the names of the project's crates.
const OWN: &str = "robeing";
/// Environment variables, either of which enables traces.
pub const OTLP_ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

/// The maximum number of log lines that wait to be written; further ones are dropped. A stderr that accepts nothing,
/// such as a stopped terminal or a pipe that nobody reads, must not stop the process.
pub const MAX_PENDING_LINES: usize = 8_192;
/// How long [`say`] waits for stderr.
const SAY_WITHIN: Duration = Duration::from_secs(1);

/// Prints on stderr why the process ends, independently of logging. A failed write is ignored, and one that blocks is
/// abandoned after a second: they must not change how the process ends.
pub fn say(error: &dyn Display) {
    // One write call for the whole line, so that other writers of the same log don't interleave with it.
    let line = format!("robeing-agent: {error}\n");
    let (written, wait) = mpsc::channel();
    let write = move || {
        let _ = io::stderr().write_all(line.as_bytes());
        let _ = written.send(());
    };
    // If the thread can't be created, the line is lost.
    if thread::Builder::new().name("last-words".into()).spawn(write).is_ok() {
        let _ = wait.recv_timeout(SAY_WITHIN);
    }
}

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
    lines: WorkerGuard,
}

/// Returns a writer of lines to stderr that never blocks, and the guard that writes the remaining lines when it is
/// dropped, within about a second.
pub fn lines() -> (NonBlocking, WorkerGuard) {
    lines_to(io::stderr())
}

fn lines_to(output: impl Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(MAX_PENDING_LINES).thread_name("log").finish(output)
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
    let lines = tracing_subscriber::fmt::layer().with_writer(writer).log_internal_errors(false);
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

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Instant,
    };

    use super::*;

    /// An output that blocks until the sender is dropped, and counts what it was given.
    struct Stuck {
        until: mpsc::Receiver<()>,
        written: Arc<AtomicUsize>,
    }

    impl Write for Stuck {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            let _ = self.until.recv();
            self.written.fetch_add(1, Ordering::Relaxed);
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_output_that_is_stuck_holds_nobody_up_and_further_lines_are_dropped() {
        let (release, until) = mpsc::channel();
        let written = Arc::new(AtomicUsize::new(0));
        let (mut lines, guard) = lines_to(Stuck { until, written: Arc::clone(&written) });
        for n in 0..2 * MAX_PENDING_LINES {
            lines.write_all(format!("line {n}\n").as_bytes()).expect("it never fails");
        }
        // One is being written, and the others wait.
        let dropped = lines.error_counter().dropped_lines();
        assert!((MAX_PENDING_LINES - 1..=MAX_PENDING_LINES).contains(&dropped), "{dropped}");
        drop(release);
        let end = Instant::now() + Duration::from_secs(60);
        while written.load(Ordering::Relaxed) < MAX_PENDING_LINES && Instant::now() < end {
            thread::yield_now();
        }
        drop(guard);
        assert_eq!(written.load(Ordering::Relaxed) + dropped, 2 * MAX_PENDING_LINES);
    }
}
