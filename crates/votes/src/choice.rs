//! What a member votes.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a member votes. A [`VoteStatement`](crate::VoteStatement) has its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Choice {
    /// For the proposal, or for one of the options.
    Approve,
    /// Against it, or against all options.
    Reject,
    /// Neither. The member's weight counts in the total.
    Abstain,
}

impl Choice {
    /// All choices.
    pub const ALL: [Self; 3] = [Self::Approve, Self::Reject, Self::Abstain];

    /// Returns the number that is signed: 1, 2 or 3.
    pub fn number(self) -> u8 {
        match self {
            Self::Approve => 1,
            Self::Reject => 2,
            Self::Abstain => 3,
        }
    }

    /// Returns the choice with a number.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|choice| choice.number() == number)
    }

    /// Returns the choice as it is written in a file: `approve`, `reject` or `abstain`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approve => "approve",
            Self::Reject => "reject",
            Self::Abstain => "abstain",
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
