//! What policies decide.

use crate::{limits::MAX_MESSAGE_BYTES, spec::ApprovalSpec};

/// What all policies decided about an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it is allowed.
    pub decision: Decision,
    /// What [`redact`](crate::redact) must replace in the payload, if it is allowed.
    pub redactions: Vec<Redaction>,
    /// What each policy decided, in order. Policies for other events, and those after a `deny` or `allow`, are absent.
    pub trace: Vec<Traced>,
}

/// Whether an input is allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is allowed.
    Allow,
    /// It is refused.
    Deny {
        /// The name of the policy.
        policy: String,
        /// Why, for the one who is refused.
        message: String,
    },
    /// It is refused until somebody approves it.
    RequireApproval {
        /// The name of the policy.
        policy: String,
        /// Why, for the one who is refused, or for those who are asked.
        message: String,
        /// Who approves it; `None` if nobody can.
        approval: Option<ApprovalSpec>,
    },
}

/// What must be replaced in a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redaction {
    /// The name of the policy.
    pub policy: String,
    /// Where.
    pub what: Redacted,
}

/// A part of a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redacted {
    /// The whole payload.
    Payload,
    /// The values at these JSON pointers.
    Fields(Vec<String>),
}

/// What a policy decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traced {
    /// The name of the policy.
    pub policy: String,
    /// What it decided.
    pub outcome: Outcome,
}

/// What a policy decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Its `match` is false.
    NotApplicable,
    /// Its rule is false.
    Passed,
    /// It refuses the input.
    Denied,
    /// It redacts the payload.
    Redacted,
    /// It requires an approval.
    ApprovalRequired,
    /// It allows the input, and skips all later policies.
    Allowed,
    /// It could not be evaluated, and refuses the input since its failure policy is `Closed`.
    FailedClosed(String),
    /// It could not be evaluated, and is skipped since its failure policy is `Open`.
    FailedOpen(String),
}

/// Cuts a message to its limit, and replaces control characters, because it gets into logs and to terminals.
pub(crate) fn shorten(message: &str) -> String {
    let mut short = String::with_capacity(message.len().min(MAX_MESSAGE_BYTES));
    for character in message.chars() {
        let character = if character.is_control() { ' ' } else { character };
        if short.len() + character.len_utf8() > MAX_MESSAGE_BYTES {
            break;
        }
        short.push(character);
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_cut_at_its_limit_between_characters() {
        assert_eq!(shorten(&"a".repeat(MAX_MESSAGE_BYTES)).len(), MAX_MESSAGE_BYTES);
        assert_eq!(shorten(&"a".repeat(MAX_MESSAGE_BYTES + 1)).len(), MAX_MESSAGE_BYTES);
        assert_eq!(shorten(&format!("{}é", "a".repeat(MAX_MESSAGE_BYTES - 1))).len(), MAX_MESSAGE_BYTES - 1);
        assert_eq!(shorten("a\nb\u{1b}[c"), "a b [c");
    }
}
