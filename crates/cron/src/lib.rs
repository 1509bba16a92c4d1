//! Cron expressions in time zones: when something that is repeated is due. Pure: the caller passes the time.
//!
//! The expressions are those of Kubernetes' CronJobs: five fields, lists, ranges, steps, names of months and days, and
//! macros such as `@daily`; a step is no larger than the greatest value of its field. If both the day of the month and the
//! day of the week are restricted, either of them is enough.
//!
//! When a time zone turns its clock, an expression that is for every hour (`*` in the second field) follows the elapsed
//! time: it is due in both passes of an hour that is repeated. For any other, no time of day is missed and none comes
//! twice: it is due at the first moment at which the local clock shows that time or a later one. So a time that the clock
//! skips is due when the clock is turned, and a time that is repeated is due in the first pass.

mod expression;
mod field;
mod timetable;

pub use expression::{CronError, Expression, MAX_CRON_BYTES};
pub use timetable::{MAX_COUNTED, MAX_ZONE_BYTES, Overdue, Timetable};

#[cfg(test)]
mod tests;
