//! The stored state of schedules.

use super::Schedule;
use crate::numbered::Numbered;

/// The part of the state for schedules.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Schedules {
    pub kept: Numbered<Schedule>,
}
