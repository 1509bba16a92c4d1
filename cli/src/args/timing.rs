//! The options of `submit` and `schedule set` that are about time and retries.

use std::{str::FromStr, time::Duration};

use clap::Args;
use jiff::Timestamp;
use robeing_proto::v1::{FailureKind, FailureMatch};

/// How long a task may wait, and when it is tried again.
#[derive(Args, Clone, Debug, Default)]
pub struct TimingArgs {
    /// Fail the task if no agent has taken it this long after it was accepted, or after its delay or what it depends on
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub queue_expiry: Option<Duration>,

    /// End an attempt that reports no progress for this long, and run the task on another agent
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub progress_timeout: Option<Duration>,

    /// The pause before the second attempt; each further one is longer. Defaults to the fleet's setting
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub backoff: Option<Duration>,

    /// The longest pause between two attempts
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub max_backoff: Option<Duration>,

    /// Shorten each pause by up to this part of it, by chance: 1 to 100
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub jitter: Option<u32>,

    /// A failure after which the task is not tried again: a kind such as exit, http or timed-out, a kind with a code
    /// such as exit:2 or http:404, or name:NAME for what the handler calls the failure. Repeat it, or separate several
    /// by commas
    #[arg(long, value_name = "FAILURE", value_delimiter = ',', value_parser = failure)]
    pub non_retryable: Vec<FailureMatch>,
}

/// Reads a time with its zone.
pub(super) fn time(text: &str) -> Result<Timestamp, String> {
    Timestamp::from_str(text)
        .map_err(|error| format!("{error}; write a time with its zone, such as 2030-01-31T08:00:00Z"))
}

/// Returns the kinds of failures by the names that they have on a command line.
fn kinds() -> impl Iterator<Item = (String, FailureKind)> {
    let kinds = (1..=i32::from(u8::MAX)).filter_map(|kind| FailureKind::try_from(kind).ok());
    kinds.map(|kind| {
        let name = kind.as_str_name();
        (name.strip_prefix("FAILURE_KIND_").unwrap_or(name).to_ascii_lowercase().replace('_', "-"), kind)
    })
}

/// Reads a kind of failure, with or without a code, or `name:NAME`.
fn failure(text: &str) -> Result<FailureMatch, String> {
    let (word, rest) = match text.split_once(':') {
        Some((word, rest)) => (word, Some(rest)),
        None => (text, None),
    };
    if word == "name" {
        return match rest {
            Some(name) if !name.is_empty() => Ok(FailureMatch { name: name.into(), ..FailureMatch::default() }),
            _ => Err("write name:NAME, with what the handler calls the failure".into()),
        };
    }
    let Some((_, kind)) = kinds().find(|(name, _)| name == word) else {
        let names: Vec<String> = kinds().map(|(name, _)| name).collect();
        return Err(format!("{word:?} is no kind of failure: write name:NAME, or one of {}", names.join(", ")));
    };
    let code = rest.map(|code| code.parse().map_err(|_| format!("{code:?} is no code, which is a whole number")));
    Ok(FailureMatch { kind: kind.into(), code: code.transpose()?, ..FailureMatch::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_a_kind_with_or_without_a_code_or_a_name() {
        let of = |kind: FailureKind, code| FailureMatch { kind: kind.into(), code, ..FailureMatch::default() };
        assert_eq!(failure("exit"), Ok(of(FailureKind::Exit, None)));
        assert_eq!(failure("timed-out"), Ok(of(FailureKind::TimedOut, None)));
        assert_eq!(failure("stalled"), Ok(of(FailureKind::Stalled, None)));
        assert_eq!(failure("http:404"), Ok(of(FailureKind::Http, Some(404))));
        assert_eq!(failure("exit:-1"), Ok(of(FailureKind::Exit, Some(-1))));
        let named = FailureMatch { name: "ns:ValueError".into(), ..FailureMatch::default() };
        assert_eq!(failure("name:ns:ValueError"), Ok(named));
        for (bad, reason) in [
            ("exot", "is no kind of failure: write name:NAME, or one of exit, signal,"),
            ("unspecified", "is no kind of failure"),
            ("exit:two", "is no code"),
            ("name:", "write name:NAME"),
            ("name", "write name:NAME"),
        ] {
            let refused = failure(bad).expect_err(bad);
            assert!(refused.contains(reason), "{bad}: {refused}");
        }
    }

    #[test]
    fn a_time_has_a_zone() {
        assert_eq!(time("2030-01-31T08:00:00Z").map(|at| at.as_second()), Ok(1_896_076_800));
        assert_eq!(time("2030-01-31T09:00:00+01:00"), time("2030-01-31T08:00:00Z"));
        assert!(time("tomorrow").expect_err("it is no time").contains("write a time with its zone"));
    }
}
