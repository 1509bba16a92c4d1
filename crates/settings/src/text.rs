//! Formats values; [`forms`](super::forms) parses them. The pods of running fleets contain this text: formatting the
//! same value differently restarts them.

use std::{fmt::Write, time::Duration};

use super::{
    Weights,
    settings::{LOAD_TERM, PERFORMANCE_TERM, SPECIALIZATION_TERM},
};

const NANOS_PER_MILLI: u128 = 1_000_000;
const NANOS_PER_MICRO: u128 = 1_000;
/// Units above a millisecond, longest first, in nanoseconds.
const UNITS: [(&str, u128); 3] = [("h", 3_600_000_000_000), ("m", 60_000_000_000), ("s", 1_000_000_000)];

/// Formats a duration as Go and Kubernetes do: `500ms`, `2s`, `1m30s`, `0.500ms`.
pub fn duration(span: Duration) -> String {
    let mut left = span.as_nanos();
    let mut text = String::new();
    for (unit, length) in UNITS {
        if left >= length {
            let _ = write!(text, "{}{unit}", left / length);
            left %= length;
        }
    }
    let (millis, nanos) = (left / NANOS_PER_MILLI, left % NANOS_PER_MILLI);
    let _ = match (millis, nanos) {
        (0, 0) => Ok(()),
        (_, 0) => write!(text, "{millis}ms"),
        _ if nanos % NANOS_PER_MICRO == 0 => write!(text, "{millis}.{:03}ms", nanos / NANOS_PER_MICRO),
        _ => write!(text, "{millis}.{nanos:06}ms"),
    };
    if text.is_empty() { "0s".into() } else { text }
}

/// Formats a duration in whole seconds, `90s`; fractions are dropped.
pub fn seconds(span: Duration) -> String {
    format!("{}s", span.as_secs())
}

/// Formats two durations, the shorter first: `150ms..300ms`.
pub fn duration_range(min: Duration, max: Duration) -> String {
    format!("{}..{}", duration(min), duration(max))
}

/// Formats a list of addresses or specializations. Items must not contain commas.
pub fn list(items: &[String]) -> String {
    items.join(",")
}

/// Formats the name and address of each coordinator: `name=host:port,…`.
pub fn members<'a>(members: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let members: Vec<String> = members.into_iter().map(|(name, address)| format!("{name}={address}")).collect();
    members.join(",")
}

/// Formats all terms with their points.
pub fn weights(weights: Weights) -> String {
    let Weights { specialization, load, performance } = weights;
    let terms = [(SPECIALIZATION_TERM, specialization), (LOAD_TERM, load), (PERFORMANCE_TERM, performance)];
    terms.map(|(term, points)| format!("{}={points}", term.name)).join(",")
}
