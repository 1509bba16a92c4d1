//! One field of an expression: the values that it names, as bits.

/// A field: its name, and which values it may have.
#[derive(Debug)]
pub(crate) struct Field {
    /// What it is called, for messages.
    pub name: &'static str,
    /// The least value.
    pub least: u8,
    /// The greatest value, which ranges without an end go up to.
    pub most: u8,
    /// The greatest value that may be written: Sunday is 0 and 7.
    pub most_written: u8,
    /// Names of the values from `least` on.
    pub names: &'static [&'static str],
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

pub(crate) const MINUTE: Field = Field { name: "minute", least: 0, most: 59, most_written: 59, names: &[] };
pub(crate) const HOUR: Field = Field { name: "hour", least: 0, most: 23, most_written: 23, names: &[] };
pub(crate) const DAY: Field = Field { name: "day of the month", least: 1, most: 31, most_written: 31, names: &[] };
pub(crate) const MONTH: Field = Field { name: "month", least: 1, most: 12, most_written: 12, names: &MONTHS };
pub(crate) const WEEKDAY: Field =
    Field { name: "day of the week", least: 0, most: 6, most_written: 7, names: &WEEKDAYS };

/// The values that a field names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Values {
    /// The values, as bits.
    pub bits: u64,
    /// Whether the field restricts nothing: it has a `*` or `?` without a step.
    pub is_any: bool,
}

impl Values {
    pub(crate) fn contain(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|value| value < u64::BITS && self.bits & (1 << value) != 0)
    }
}

/// Why a part of a field is refused, as text that follows the part.
type Problem = String;

impl Field {
    /// Reads the text of the field. The error is the part that is wrong, and what is wrong with it.
    pub(crate) fn parse(&self, text: &str) -> Result<Values, (String, Problem)> {
        let mut values = Values { bits: 0, is_any: false };
        for part in text.split(',') {
            let (bits, is_any) = self.part(part).map_err(|problem| (part.to_owned(), problem))?;
            values = Values { bits: values.bits | bits, is_any: values.is_any || is_any };
        }
        if self.most_written > self.most {
            // Sunday.
            let last = 1 << self.most_written;
            values.bits = values.bits & !last | u64::from(values.bits & last != 0);
        }
        Ok(values)
    }

    fn part(&self, part: &str) -> Result<(u64, bool), Problem> {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(self.step(step)?)),
            None => (part, None),
        };
        let (low, high, is_star) = match (range, range.split_once('-')) {
            ("*" | "?", _) => (self.least, self.most, true),
            (_, Some((low, high))) => (self.value(low)?, self.value(high)?, false),
            (one, None) => {
                let value = self.value(one)?;
                (value, if step.is_some() { self.most.max(value) } else { value }, false)
            }
        };
        if low > high {
            return Err("must have its lower end first".to_owned());
        }
        let bits = (low..=high).step_by(step.unwrap_or(1)).fold(0, |bits, value| bits | 1 << value);
        Ok((bits, is_star && step.unwrap_or(1) == 1))
    }

    fn step(&self, text: &str) -> Result<usize, Problem> {
        match number(text) {
            Some(step) if (1..=self.most).contains(&step) => Ok(usize::from(step)),
            _ => Err(format!("must have a step of 1 to {}", self.most)),
        }
    }

    fn value(&self, text: &str) -> Result<u8, Problem> {
        let named = self.names.iter().position(|name| name.eq_ignore_ascii_case(text));
        let named = named.and_then(|place| u8::try_from(place).ok()).map(|place| place + self.least);
        match named.or_else(|| number(text)) {
            Some(value) if (self.least..=self.most_written).contains(&value) => Ok(value),
            _ => {
                let names = match self.names {
                    [first, .., last] => format!(", or {first} to {last}"),
                    _ => String::new(),
                };
                Err(format!("must be {} to {}{names}", self.least, self.most_written))
            }
        }
    }
}

/// Reads a number of one or two digits, and nothing else.
fn number(text: &str) -> Option<u8> {
    let is_number = (1..=2).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(field: &Field, text: &str) -> Vec<u32> {
        let values = field.parse(text).unwrap_or_else(|error| panic!("{text}: {error:?}"));
        (0..u64::BITS).filter(|bit| values.bits & (1 << bit) != 0).collect()
    }

    #[test]
    fn lists_ranges_steps_and_names_are_read() {
        for (field, text, expected) in [
            (&MINUTE, "0,30", vec![0, 30]),
            (&MINUTE, "*/20", vec![0, 20, 40]),
            (&MINUTE, "50/3", vec![50, 53, 56, 59]),
            (&HOUR, "8-18/5,23", vec![8, 13, 18, 23]),
            (&MONTH, "JAN,mar-May", vec![1, 3, 4, 5]),
            (&WEEKDAY, "mon-fri", vec![1, 2, 3, 4, 5]),
            (&WEEKDAY, "7", vec![0]),
            (&WEEKDAY, "5-7", vec![0, 5, 6]),
            (&WEEKDAY, "*/2", vec![0, 2, 4, 6]),
            (&WEEKDAY, "7/1", vec![0]),
        ] {
            assert_eq!(values(field, text), expected, "{text}");
        }
        assert_eq!(values(&DAY, "?").len(), 31);
    }

    #[test]
    fn only_what_has_no_step_restricts_nothing() {
        for (text, is_any) in [("*", true), ("?", true), ("*/1", true), ("*/2", false), ("0-23", false), ("5,*", true)]
        {
            assert_eq!(HOUR.parse(text).expect(text).is_any, is_any, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_what_would_be_right() {
        for (field, text, part, problem) in [
            (&MINUTE, "60", "60", "must be 0 to 59"),
            (&MINUTE, "5,,6", "", "must be 0 to 59"),
            (&MINUTE, "-1", "-1", "must be 0 to 59"),
            (&MINUTE, "+1", "+1", "must be 0 to 59"),
            (&MINUTE, "007", "007", "must be 0 to 59"),
            (&HOUR, "*/0", "*/0", "must have a step of 1 to 23"),
            (&HOUR, "*/24", "*/24", "must have a step of 1 to 23"),
            (&HOUR, "1/", "1/", "must have a step of 1 to 23"),
            (&DAY, "0", "0", "must be 1 to 31"),
            (&MONTH, "january", "january", "must be 1 to 12, or jan to dec"),
            (&WEEKDAY, "8", "8", "must be 0 to 7, or sun to sat"),
            (&WEEKDAY, "fri-mon", "fri-mon", "must have its lower end first"),
            (&HOUR, "*-5", "*-5", "must be 0 to 23"),
        ] {
            assert_eq!(field.parse(text), Err((part.to_owned(), problem.to_owned())), "{text}");
        }
    }
}
