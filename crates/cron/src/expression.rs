//! An expression: which local times it names.

use std::str::FromStr;

use jiff::civil::{Date, DateTime};

use crate::field::{DAY, Field, HOUR, MINUTE, MONTH, Values, WEEKDAY};

/// Longest expression, bytes.
pub const MAX_CRON_BYTES: usize = 256;
/// How many years ahead a match is looked for. The rarest ones are on the 29th of February, which are eight years apart
/// at most.
const MAX_YEARS_AHEAD: i16 = 9;
/// Maximum number of characters of a text that an error repeats.
const EXCERPT_CHARS: usize = 32;

/// Why a text is no expression, or no time zone.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CronError {
    /// It is too long.
    #[error("the cron expression has {bytes} bytes, the most is {MAX_CRON_BYTES}")]
    TooLong {
        /// Its length, bytes.
        bytes: usize,
    },
    /// It has another number of fields.
    #[error(
        "the cron expression has {found} fields and must have five: minute, hour, day of the month, month and day of the \
         week, such as \"30 4 * * mon-fri\"; or be one of @hourly, @daily, @weekly, @monthly and @yearly"
    )]
    Fields {
        /// How many it has.
        found: usize,
    },
    /// A field is wrong.
    #[error("the {field} {part:?} of the cron expression {problem}")]
    Field {
        /// The field's name.
        field: &'static str,
        /// The beginning of the part of the field that is wrong.
        part: String,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
    /// None of its months has one of its days.
    #[error("the cron expression names a day that none of its months has; it would never be due")]
    Never,
    /// There is no such time zone.
    #[error(
        "there is no time zone {name:?}; give a name of the IANA time zone database, such as Europe/Berlin or Etc/UTC"
    )]
    Zone {
        /// The beginning of the name.
        name: String,
    },
}

/// Returns the beginning of a text, to repeat it in an error.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().take(EXCERPT_CHARS).collect()
}

/// A cron expression.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expression {
    minutes: Values,
    hours: Values,
    days: Values,
    months: Values,
    weekdays: Values,
}

/// Returns what a macro stands for; the text itself if it is none.
fn expanded(text: &str) -> &str {
    match text {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        text => text,
    }
}

fn parsed(field: &Field, text: &str) -> Result<Values, CronError> {
    field.parse(text).map_err(|(part, problem)| CronError::Field { field: field.name, part: excerpt(&part), problem })
}

impl FromStr for Expression {
    type Err = CronError;

    fn from_str(text: &str) -> Result<Self, CronError> {
        if text.len() > MAX_CRON_BYTES {
            return Err(CronError::TooLong { bytes: text.len() });
        }
        let fields: Vec<&str> = expanded(text.trim_ascii()).split_ascii_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(CronError::Fields { found: fields.len() });
        };
        let expression = Self {
            minutes: parsed(&MINUTE, minutes)?,
            hours: parsed(&HOUR, hours)?,
            days: parsed(&DAY, days)?,
            months: parsed(&MONTH, months)?,
            weekdays: parsed(&WEEKDAY, weekdays)?,
        };
        if expression.is_ever() { Ok(expression) } else { Err(CronError::Never) }
    }
}

/// Returns the greatest number of days that a month has.
fn longest(month: i8) -> i8 {
    match month {
        2 => 29,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl Expression {
    /// Returns whether it names any date.
    fn is_ever(&self) -> bool {
        let has_day = |month: i8| (1..=longest(month)).any(|day| self.days.contain(day));
        let is_by_weekday = !self.weekdays.is_any && !self.days.is_any;
        is_by_weekday || (1..=12).any(|month| self.months.contain(month) && has_day(month))
    }

    /// Returns whether it is for every hour, so that it follows the elapsed time when the clock is turned.
    pub(crate) fn is_for_every_hour(&self) -> bool {
        (0..24).all(|hour| self.hours.contain(hour))
    }

    fn has_date(&self, date: Date) -> bool {
        let day = self.days.contain(date.day());
        let weekday = self.weekdays.contain(date.weekday().to_sunday_zero_offset());
        let is_day = match (self.days.is_any, self.weekdays.is_any) {
            // Either of the two, if both are restricted.
            (false, false) => day || weekday,
            _ => day && weekday,
        };
        is_day && self.months.contain(date.month())
    }

    /// Returns the first local time that it names, at `from` or later; `None` if it is beyond what can be represented.
    /// Names whole minutes only.
    pub(crate) fn first_from(&self, from: DateTime) -> Option<DateTime> {
        let mut date = from.date();
        let last_year = date.year().saturating_add(MAX_YEARS_AHEAD);
        let is_whole = from.second() == 0 && from.subsec_nanosecond() == 0;
        let mut minute = i16::from(from.hour()) * 60 + i16::from(from.minute()) + i16::from(!is_whole);
        while date.year() <= last_year {
            if !self.months.contain(date.month()) {
                date = date.last_of_month().tomorrow().ok()?;
                minute = 0;
                continue;
            }
            if self.has_date(date)
                && let Some(found) = self.first_of_day(minute)
            {
                // Both are parts of a time of day.
                return Some(date.at((found / 60) as i8, (found % 60) as i8, 0, 0));
            }
            date = date.tomorrow().ok()?;
            minute = 0;
        }
        None
    }

    /// Returns the first minute of a day that it names, at `from` or later.
    fn first_of_day(&self, from: i16) -> Option<i16> {
        let (mut hour, mut minute) = (from / 60, from % 60);
        while hour < 24 {
            if self.hours.contain(hour as i8)
                && let Some(found) = (minute..60).find(|minute| self.minutes.contain(*minute as i8))
            {
                return Some(hour * 60 + found);
            }
            (hour, minute) = (hour + 1, 0);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;

    fn expression(text: &str) -> Expression {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn the_first_time_from_a_moment_is_found() {
        let from = date(2026, 3, 10).at(12, 30, 0, 0);
        for (text, expected) in [
            ("* * * * *", from),
            ("31 * * * *", date(2026, 3, 10).at(12, 31, 0, 0)),
            ("0 * * * *", date(2026, 3, 10).at(13, 0, 0, 0)),
            ("0 12 * * *", date(2026, 3, 11).at(12, 0, 0, 0)),
            ("@monthly", date(2026, 4, 1).at(0, 0, 0, 0)),
            ("@yearly", date(2027, 1, 1).at(0, 0, 0, 0)),
            ("0 0 29 2 *", date(2028, 2, 29).at(0, 0, 0, 0)),
            ("15 4 * * sun", date(2026, 3, 15).at(4, 15, 0, 0)),
            // Either the 13th or a Friday: both are the 13th here.
            ("0 0 13 * fri", date(2026, 3, 13).at(0, 0, 0, 0)),
            ("0 0 20 * tue", date(2026, 3, 17).at(0, 0, 0, 0)),
            // A day of the week among every day of the month.
            ("0 0 * * tue", date(2026, 3, 17).at(0, 0, 0, 0)),
            ("  0\t0 1 jan * ", date(2027, 1, 1).at(0, 0, 0, 0)),
        ] {
            assert_eq!(expression(text).first_from(from), Some(expected), "{text}");
        }
        let within = date(2026, 3, 10).at(12, 30, 0, 1);
        assert_eq!(expression("* * * * *").first_from(within), Some(date(2026, 3, 10).at(12, 31, 0, 0)));
        let last = date(2026, 12, 31).at(23, 59, 59, 0);
        assert_eq!(expression("* * * * *").first_from(last), Some(date(2027, 1, 1).at(0, 0, 0, 0)));
        let before_a_century = date(2096, 3, 1).at(0, 0, 0, 0);
        assert_eq!(expression("0 0 29 2 *").first_from(before_a_century), Some(date(2104, 2, 29).at(0, 0, 0, 0)));
        assert_eq!(expression("0 0 1 1 *").first_from(date(9999, 6, 1).at(0, 0, 0, 0)), None);
    }

    #[test]
    fn what_is_no_expression_is_refused_with_what_is_wrong() {
        for (text, expected) in [
            ("", "has 0 fields and must have five"),
            ("* * * *", "has 4 fields"),
            ("0 * * * * *", "has 6 fields"),
            ("@reboot", "has 1 fields"),
            ("* 24 * * *", "the hour \"24\" of the cron expression must be 0 to 23"),
            ("* * L * *", "the day of the month \"L\" of the cron expression must be 1 to 31"),
            ("0 0 30 2 *", "would never be due"),
            ("0 0 31 apr,jun *", "would never be due"),
        ] {
            let error = text.parse::<Expression>().expect_err(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!("0 0 30 2 mon".parse::<Expression>().is_ok(), "Mondays of February");
        let longest = format!("{:width$}", "* * * * *", width = MAX_CRON_BYTES);
        assert!(longest.parse::<Expression>().is_ok());
        let longer = format!("{longest} ");
        assert_eq!(longer.parse::<Expression>(), Err(CronError::TooLong { bytes: MAX_CRON_BYTES + 1 }));
    }
}
