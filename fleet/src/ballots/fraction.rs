//! Exact fractions, such as two thirds. Thresholds are compared in integers, so that every coordinator decides the same.

use std::{fmt, str::FromStr};

use bilrost::Message;

/// Most digits after the point of a fraction that is written as a decimal number.
const MAX_DECIMALS: usize = 9;

/// A fraction above 0 and at most 1. As text it is `2/3`, `66%` or `0.66`; the latter two are 66 hundredths exactly.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Fraction {
    /// The upper number, at least 1.
    #[bilrost(1)]
    pub numerator: u32,
    /// The lower number, at least the upper one.
    #[bilrost(2)]
    pub denominator: u32,
}

/// Why a text or two numbers are no fraction.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FractionError {
    /// The text has another form.
    #[error("{0:?} is no fraction; write it as \"2/3\", \"66%\" or \"0.66\", with at most 9 decimals, or 7 before a %")]
    Form(String),
    /// The value is 0 or above 1, or the lower number is 0.
    #[error("{0} is not above 0 and at most 1, as the share of a whole must be")]
    Range(Fraction),
}

impl Fraction {
    /// Two thirds.
    pub const TWO_THIRDS: Fraction = Fraction { numerator: 2, denominator: 3 };

    /// Refuses a fraction that is not above 0 or is more than 1.
    ///
    /// # Errors
    /// Returns [`FractionError::Range`] then.
    pub fn check(self) -> Result<(), FractionError> {
        match 0 < self.numerator && self.numerator <= self.denominator {
            true => Ok(()),
            false => Err(FractionError::Range(self)),
        }
    }

    /// Returns whether `part` of `whole` is at least this fraction of it.
    pub fn is_reached_by(self, part: u64, whole: u64) -> bool {
        u128::from(part) * u128::from(self.denominator) >= u128::from(self.numerator) * u128::from(whole)
    }
}

impl fmt::Display for Fraction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.numerator, self.denominator)
    }
}

/// Reads a number of digits only: the standard library also takes a sign.
fn digits(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if is_number { text.parse().ok() } else { None }
}

/// Reads a decimal number as so many parts of `unit`.
fn decimal(text: &str, unit: u32) -> Option<Fraction> {
    let (whole, decimals) = match text.split_once('.') {
        Some((whole, decimals)) if !decimals.is_empty() => (whole, decimals),
        Some(_) => return None,
        None => (text, ""),
    };
    if decimals.len() > MAX_DECIMALS {
        return None;
    }
    let scale = 10_u32.checked_pow(u32::try_from(decimals.len()).ok()?)?;
    let parts = if decimals.is_empty() { 0 } else { digits(decimals)? };
    let numerator = digits(whole)?.checked_mul(scale)?.checked_add(parts)?;
    Some(Fraction { numerator, denominator: unit.checked_mul(scale)? })
}

impl FromStr for Fraction {
    type Err = FractionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fraction = match (text.split_once('/'), text.strip_suffix('%')) {
            (Some((numerator, denominator)), _) => {
                let numbers = digits(numerator).zip(digits(denominator));
                numbers.map(|(numerator, denominator)| Fraction { numerator, denominator })
            }
            (None, Some(percent)) => decimal(percent, 100),
            (None, None) => decimal(text, 1),
        };
        let fraction = fraction.ok_or_else(|| FractionError::Form(text.to_owned()))?;
        fraction.check().map(|()| fraction)
    }
}

#[cfg(test)]
mod tests {
    use proptest::{prop_assert_eq, proptest};

    use super::*;

    fn of(numerator: u32, denominator: u32) -> Fraction {
        Fraction { numerator, denominator }
    }

    #[test]
    fn a_fraction_is_what_is_written_exactly() {
        for (text, fraction) in [
            ("2/3", Fraction::TWO_THIRDS),
            ("1/1", of(1, 1)),
            ("66%", of(66, 100)),
            ("0.66", of(66, 100)),
            ("66.5%", of(665, 1_000)),
            ("100%", of(100, 100)),
            ("1", of(1, 1)),
            ("1.0", of(10, 10)),
            ("0.666666667", of(666_666_667, 1_000_000_000)),
            ("0.000000001", of(1, 1_000_000_000)),
            ("66.6666667%", of(666_666_667, 1_000_000_000)),
            ("4294967295/4294967295", of(u32::MAX, u32::MAX)),
        ] {
            assert_eq!(text.parse(), Ok(fraction), "{text}");
            assert_eq!(fraction.to_string().parse(), Ok(fraction), "{text}");
        }
    }

    #[test]
    fn what_is_no_fraction_of_a_whole_is_refused() {
        for (text, (numerator, denominator)) in
            [("0", (0, 1)), ("0/3", (0, 3)), ("1/0", (1, 0)), ("0/0", (0, 0)), ("4/3", (4, 3)), ("101%", (101, 100))]
        {
            let range = FractionError::Range(of(numerator, denominator));
            assert_eq!(text.parse::<Fraction>(), Err(range), "{text}");
        }
        let shapes = ["", "/", "2/", "/3", "%", ".", "1.", ".5", "2 / 3", " 1", "1/2/3", "half", "1e-1", "50%%"];
        let numbers = ["1/2%", "+1", "-1/2", "+1/2", "½", "0.6666666667", "66.66666667%", "4294967296/4294967296"];
        for text in [&shapes[..], &numbers[..]].concat() {
            assert_eq!(text.parse::<Fraction>(), Err(FractionError::Form(text.to_owned())), "{text}");
        }
    }

    #[test]
    fn a_share_is_reached_exactly_and_no_product_overflows() {
        for (part, whole, reached) in [(2, 3, true), (1, 3, false), (4, 6, true), (66, 100, false), (67, 100, true)] {
            assert_eq!(Fraction::TWO_THIRDS.is_reached_by(part, whole), reached, "{part} of {whole}");
        }
        assert!(of(u32::MAX, u32::MAX).is_reached_by(u64::MAX, u64::MAX));
        assert!(!of(u32::MAX, u32::MAX).is_reached_by(u64::MAX - 1, u64::MAX));
    }

    proptest! {
        #[test]
        fn a_fraction_is_read_from_its_own_text_and_any_text_is_read_or_refused(
            numerator in 1..=u32::MAX, denominator in 1..=u32::MAX, text in "[0-9./%+]{0,12}",
        ) {
            let fraction = of(numerator.min(denominator), denominator);
            prop_assert_eq!(fraction.to_string().parse(), Ok(fraction));
            if let Ok(fraction) = text.parse::<Fraction>() {
                prop_assert_eq!(fraction.check(), Ok(()));
            }
        }
    }
}
