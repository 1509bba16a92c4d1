//! The threshold and the deadline of ballots whose openers set none.

use std::time::Duration;

use robeing_fleet::{Fraction, limits};

use super::{
    ConfigError,
    definition::{For, Setting, Span},
    forms::span,
    sources::{Sources, Value},
};

/// The share of the weight of all members that has to approve a ballot; see [`BallotDefaults::threshold`].
pub const BALLOT_THRESHOLD: Setting = Setting::new(
    For::Coordinators,
    "ballot-threshold",
    &["ROBEING_BALLOT_THRESHOLD"],
    "FRACTION",
    "Share of the weight of all members that has to approve a ballot that sets no threshold, as 2/3, 66% or 0.66",
)
.unset("2/3");

/// How long the members of a ballot have to vote; see [`BallotDefaults::deadline`].
pub const BALLOT_DEADLINE: Span = Span {
    setting: Setting::new(
        For::Coordinators,
        "ballot-deadline",
        &["ROBEING_BALLOT_DEADLINE"],
        "DURATION",
        "How long members have to vote in a ballot that sets no deadline",
    ),
    least: Duration::from_millis(100),
    most: Duration::from_millis(limits::MAX_BALLOT_DURATION_MS),
    default: Duration::from_secs(30),
};

/// What a ballot has that its opener does not set. The coordinator at which it is opened fills it in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BallotDefaults {
    /// The share of the weight of all members that has to approve.
    pub threshold: Fraction,
    /// How long members have to vote, in whole milliseconds; what is less is dropped.
    pub deadline: Duration,
}

impl BallotDefaults {
    /// Returns how long members have to vote, ms.
    pub fn ttl_ms(self) -> u64 {
        u64::try_from(self.deadline.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Default for BallotDefaults {
    fn default() -> Self {
        Self { threshold: Fraction::TWO_THIRDS, deadline: BALLOT_DEADLINE.default }
    }
}

/// Reads both settings.
pub(super) fn ballots(sources: &Sources<'_>) -> Result<BallotDefaults, ConfigError> {
    let unset = BallotDefaults::default();
    let given = sources.get(&BALLOT_THRESHOLD).map(|value| fraction(&value)).transpose()?;
    let deadline = span(sources, &BALLOT_DEADLINE)?.unwrap_or(unset.deadline);
    Ok(BallotDefaults { threshold: given.unwrap_or(unset.threshold), deadline })
}

/// Parses a share, exactly as it is written: `0.66` is 66 hundredths.
fn fraction(value: &Value) -> Result<Fraction, ConfigError> {
    let read = value.text.trim().parse::<Fraction>();
    read.map_err(|_| value.wrong("a fraction above 0 and at most 1, such as 2/3, 66% or 0.66"))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::{Process, parse};

    fn read(arguments: &[&str]) -> Result<BallotDefaults, String> {
        let who = ["robeing-agent", "--role=coordinator", "--name=c", "--advertise=a:1"];
        let arguments: Vec<OsString> = who.iter().chain(arguments).map(|argument| OsString::from(*argument)).collect();
        match parse(arguments, &|_| None).map_err(|error| error.to_string())?.process {
            Process::Coordinator(config) => Ok(config.ballots),
            Process::Agent(..) => panic!("it is a coordinator"),
        }
    }

    #[test]
    fn a_threshold_counts_as_it_is_written() {
        for (text, numerator, denominator) in [("2/3", 2, 3), ("0.66", 66, 100), ("66%", 66, 100), ("1/1", 1, 1)] {
            let read = read(&[&format!("--ballot-threshold={text}")]).expect(text);
            let threshold = Fraction { numerator, denominator };
            assert_eq!(read, BallotDefaults { threshold, ..BallotDefaults::default() }, "{text}");
        }
        for wrong in ["", "most", "0", "4/3", "101%"] {
            let error = read(&[&format!("--ballot-threshold={wrong}")]).expect_err(wrong);
            assert!(error.starts_with("--ballot-threshold is ") && error.contains("such as 2/3"), "{error}");
        }
    }

    #[test]
    fn a_deadline_is_kept_within_its_bounds() {
        for (text, millis) in [("100ms", 100), ("1m30s", 90_000), ("30days", limits::MAX_BALLOT_DURATION_MS)] {
            let read = read(&[&format!("--ballot-deadline={text}")]).expect(text);
            assert_eq!((read.ttl_ms(), read.threshold), (millis, Fraction::TWO_THIRDS), "{text}");
        }
        for wrong in ["99ms", "30days 1ms", "soon"] {
            let error = read(&[&format!("--ballot-deadline={wrong}")]).expect_err(wrong);
            assert!(error.starts_with("--ballot-deadline is ") && error.contains(": give a duration"), "{error}");
        }
        assert_eq!(read(&[]).expect("nothing is set"), BallotDefaults::default());
    }
}
