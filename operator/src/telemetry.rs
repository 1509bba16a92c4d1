//! The structured log, on stderr.

use tracing_subscriber::{EnvFilter, fmt};

/// Starts logging at the level of `RUST_LOG`. Does nothing if logging has already been started.
pub fn begin(json: bool) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube_client=warn,tower=warn"));
    // A line that can't be written is dropped: reporting the error on stderr would fail too, and the layer would panic.
    let log = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true).log_internal_errors(false);
    let begun = if json {
        log.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        log.try_init()
    };
    drop(begun);
}
