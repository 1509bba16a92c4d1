//! The stored state of durable messages.

use super::Letter;
use crate::numbered::Numbered;

/// The part of the state for durable messages.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Mail {
    /// The letters that wait, and those that were settled recently.
    pub letters: Numbered<Letter>,
}
