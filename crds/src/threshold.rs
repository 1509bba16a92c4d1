//! The share of an electorate that must approve, such as `2/3` or `66%`. It keeps the form in which it was written, so
//! that a manifest round-trips unchanged.

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{limits::MAX_THRESHOLD, rules};

/// A share of an electorate, greater than zero and at most all of it, written as a fraction (`2/3`) or percentage
/// (`66%`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Threshold {
    numerator: u32,
    denominator: u32,
    percent: bool,
}

/// The text is not a valid [`Threshold`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a threshold; write a fraction such as 2/3 or a percentage from 1% to 100%")]
pub struct ParseThresholdError {
    text: String,
}

const GREATEST_TERM: u32 = 9_999;

impl Threshold {
    /// Two thirds, the default.
    pub const TWO_THIRDS: Self = Self { numerator: 2, denominator: 3, percent: false };

    /// Returns the numerator of the fraction; for a percentage, the percent value.
    pub const fn numerator(self) -> u32 {
        self.numerator
    }

    /// Returns the denominator of the fraction; for a percentage, 100. Never zero.
    pub const fn denominator(self) -> u32 {
        self.denominator
    }

    /// Returns the least number of approvals out of `electorate` members that reaches the threshold.
    pub const fn approvals_needed(self, electorate: u32) -> u32 {
        let share = electorate as u64 * self.numerator as u64;
        // At most `electorate`, because the numerator is at most the denominator.
        share.div_ceil(self.denominator as u64) as u32
    }
}

impl FromStr for Threshold {
    type Err = ParseThresholdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fail = || ParseThresholdError { text: text.chars().take(2 * MAX_THRESHOLD as usize).collect() };
        let (numerator, denominator, percent) = match (text.split_once('/'), text.strip_suffix('%')) {
            (Some((upper, lower)), None) => (term(upper), term(lower), false),
            (None, Some(percents)) => (term(percents), Some(100), true),
            _ => return Err(fail()),
        };
        match (numerator, denominator) {
            (Some(numerator), Some(denominator)) if numerator <= denominator => {
                Ok(Self { numerator, denominator, percent })
            }
            _ => Err(fail()),
        }
    }
}

/// Parses a number from 1 to [`GREATEST_TERM`] without sign or leading zero.
fn term(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|number| plain && *number <= GREATEST_TERM)
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.percent {
            true => write!(f, "{}%", self.numerator),
            false => write!(f, "{}/{}", self.numerator, self.denominator),
        }
    }
}

impl Serialize for Threshold {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Threshold {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl JsonSchema for Threshold {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Threshold".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": MAX_THRESHOLD,
            "x-kubernetes-validations": rules::as_json(&[rules::threshold_form(), rules::threshold_at_most_one()]),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_the_approvals_up() {
        for (text, electorate, needed) in
            [("2/3", 3, 2), ("2/3", 4, 3), ("2/3", 0, 0), ("1/2", 5, 3), ("66%", 3, 2), ("67%", 3, 3), ("100%", 7, 7)]
        {
            let threshold: Threshold = text.parse().expect(text);
            assert_eq!(threshold.approvals_needed(electorate), needed, "{text} of {electorate}");
            assert_eq!(threshold.to_string(), text);
        }
        let whole: Threshold = "9999/9999".parse().expect("the greatest terms");
        assert_eq!(whole.approvals_needed(u32::MAX), u32::MAX);
    }

    #[test]
    fn refuses_what_is_no_share() {
        for text in
            ["", "2", "3/2", "0/3", "2/0", "0%", "101%", "066%", "+2/3", "2/3%", "1/2/3", "10000/10000", "66.6%"]
        {
            let error = text.parse::<Threshold>().expect_err(text);
            assert!(error.to_string().contains("such as 2/3"), "{error}");
        }
    }
}
