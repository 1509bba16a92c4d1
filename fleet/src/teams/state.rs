//! The stored state of teams.

use super::Team;
use crate::numbered::Numbered;

/// The part of the state for teams: those that work, and those that were disbanded recently.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Teams {
    pub kept: Numbered<Team>,
}
