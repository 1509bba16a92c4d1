//! Durations in the format of Go and Kubernetes: `500ms`, `2s`, `1m30s`. Holds any span of whole microseconds that the
//! schema's format can express.

use std::{fmt, str::FromStr, time};

use robeing_settings::{Span, text};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{limits::MAX_DURATION, rules};

/// A span of time, written as numbers with the units `ms`, `s`, `m` and `h`: `500ms`, `2s`, `1m30s`, `1.5h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(time::Duration);

/// The text is not a valid [`Duration`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration; write numbers with the units ms, s, m or h, such as 500ms, 2s or 1m30s")]
pub struct ParseDurationError {
    text: String,
}

const MICROS_PER_MILLI: u64 = 1_000;
const MICROS_PER_SECOND: u64 = 1_000_000;
/// Units, longest first, with their length in microseconds.
const UNITS: [(&str, u64); 4] = [
    ("h", 3_600 * MICROS_PER_SECOND),
    ("m", 60 * MICROS_PER_SECOND),
    ("s", MICROS_PER_SECOND),
    ("ms", MICROS_PER_MILLI),
];
const MAX_WHOLE_DIGITS: usize = 6;
const MAX_FRACTION_DIGITS: usize = 3;

impl Duration {
    /// Creates a duration from milliseconds.
    pub const fn from_millis(millis: u32) -> Self {
        Self(time::Duration::from_millis(millis as u64))
    }

    /// Creates a duration from seconds.
    pub const fn from_secs(secs: u32) -> Self {
        Self(time::Duration::from_secs(secs as u64))
    }

    /// Returns the default of a setting.
    pub const fn default_of(setting: &Span) -> Self {
        Self(setting.default)
    }

    /// Returns the duration as the standard library's type.
    pub const fn get(self) -> time::Duration {
        self.0
    }
}

impl From<Duration> for time::Duration {
    fn from(duration: Duration) -> Self {
        duration.0
    }
}

impl FromStr for Duration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || ParseDurationError { text: text.chars().take(2 * MAX_DURATION as usize).collect() };
        if text.is_empty() || text.len() > MAX_DURATION as usize {
            return Err(fail());
        }
        let mut rest = text;
        let mut micros = 0_u64;
        while !rest.is_empty() {
            let (term, after) = leading_term(rest).ok_or_else(fail)?;
            micros = micros.checked_add(term).ok_or_else(fail)?;
            rest = after;
        }
        Ok(Self(time::Duration::from_micros(micros)))
    }
}

/// Parses one number and its unit at the start of `text`. Returns their length in microseconds and the rest of the
/// text.
fn leading_term(text: &str) -> Option<(u64, &str)> {
    let (whole, rest) = leading_digits(text, MAX_WHOLE_DIGITS)?;
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(after_point) => leading_digits(after_point, MAX_FRACTION_DIGITS)?,
        None => ("0", rest),
    };
    let unit_end = rest.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    let (_, unit_micros) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let scale = 10_u64.pow(u32::try_from(fraction.len()).ok()?);
    let whole = whole.parse::<u64>().ok()?.checked_mul(*unit_micros)?;
    let part = fraction.parse::<u64>().ok()?.checked_mul(*unit_micros)? / scale;
    Some((whole + part, rest))
}

fn leading_digits(text: &str, most: usize) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    (1..=most).contains(&end).then(|| text.split_at(end))
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&text::duration(self.0))
    }
}

impl Serialize for Duration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": MAX_DURATION,
            "x-kubernetes-validations": rules::as_json(&[rules::duration_form()]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_go_writes() {
        for (text, millis) in [
            ("500ms", 500),
            ("2s", 2_000),
            ("1m30s", 90_000),
            ("1.5h", 5_400_000),
            ("0.25s", 250),
            ("0s", 0),
            ("1h0m0.001s", 3_600_001),
        ] {
            let duration: Duration = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(duration.get(), time::Duration::from_millis(millis), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_duration() {
        for text in [
            "",
            "5",
            "s",
            "-2s",
            "2 s",
            "2S",
            "1d",
            "1e3s",
            ".5s",
            "1.s",
            "1.0000s",
            "1234567s",
            "2sec",
            "٢s",
            "1ms1",
            "1s1s1s1s1s1s1s1s1s1s1s",
        ] {
            let error = text.parse::<Duration>().expect_err(text);
            assert!(error.to_string().contains("such as 500ms, 2s or 1m30s"), "{error}");
        }
    }

    #[test]
    fn the_greatest_that_can_be_spelled_is_read() {
        let text = "999999h999999h";
        let duration: Duration = text.parse().expect("within the limits");
        assert_eq!(duration.get().as_secs(), 2 * 999_999 * 3_600);
    }

    #[test]
    fn printing_and_reading_are_inverse() {
        for text in ["500ms", "2s", "1m30s", "1h1ms", "0s", "0.500ms", "1s1.250ms", "48h"] {
            let duration: Duration = text.parse().expect(text);
            assert_eq!(duration.to_string(), text);
        }
    }
}
