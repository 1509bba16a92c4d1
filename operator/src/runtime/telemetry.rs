//! The structured log, on stderr.

use robeing_telemetry::LinesGuard;
use tracing_subscriber::{EnvFilter, fmt};

/// Starts logging at the levels set by `RUST_LOG`; does nothing if logging has already started. Dropping the guard
/// writes the remaining lines.
#[must_use = "lines are dropped without it"]
pub fn begin(json: bool) -> LinesGuard {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube_client=warn,tower=warn"));
    let (writer, guard) = robeing_telemetry::lines();
    // A line that can't be written is dropped: reporting the error on stderr would fail too, and the layer would panic.
    let log =
        fmt().with_env_filter(filter).with_writer(move || writer.clone()).with_target(true).log_internal_errors(false);
    let begun = if json {
        log.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        log.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init()
    };
    drop(begun);
    guard
}
