//! The stored state of ballots.

use super::{Ballot, KnownAuthority};
use crate::numbered::Numbered;

/// The part of the state for ballots.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Ballots {
    /// The ballots that are open, and those that were closed recently.
    pub kept: Numbered<Ballot>,
    /// The authorities that the evidence of kept votes refers to, each once.
    pub authorities: Numbered<KnownAuthority>,
}
