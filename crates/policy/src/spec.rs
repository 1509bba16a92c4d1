//! Policies as they are written in the resource.

use serde::{Deserialize, Serialize};

#[cfg(feature = "schema")]
use crate::limits::{
    MAX_APPROVAL_SECONDS, MAX_APPROVER_BYTES, MAX_APPROVERS, MAX_EXPRESSION_BYTES, MAX_FIELDS, MAX_MESSAGE_BYTES,
    MAX_NAME_BYTES, MAX_THRESHOLD_BYTES,
};

/// What a policy is evaluated on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Event {
    /// A task is submitted.
    Submission,
    /// An agent finished or failed a task.
    Result,
    /// An agent sends a message.
    Message,
}

impl Event {
    /// All events.
    pub const ALL: [Self; 3] = [Self::Submission, Self::Result, Self::Message];

    /// Returns the name, as in the resource.
    pub fn name(self) -> &'static str {
        match self {
            Self::Submission => "Submission",
            Self::Result => "Result",
            Self::Message => "Message",
        }
    }
}

/// What happens if the rule of a policy is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase")]
pub enum Action {
    /// Refuses the submission, result or message. Later policies are not evaluated.
    Deny,
    /// Replaces fields of the payload, or all of it, and continues with the next policy.
    Redact,
    /// Refuses it, or, if the policy names who approves, has a submission wait until they have; continues with the next
    /// policy, which may still deny it.
    RequireApproval,
    /// Skips all later policies. What earlier ones decided stays.
    Allow,
}

/// What happens if an expression of a policy can't be evaluated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum FailurePolicy {
    /// Refuses the submission, result or message.
    #[default]
    Closed,
    /// Skips the policy.
    Open,
}

/// Who approves a submission.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApprovalSpec {
    /// Addresses of those who vote, as in `robeing vote open --to`: `role:guardian`, `client:ada` or `client:ada=2`, with
    /// the weight of each after `=`. At least one.
    #[cfg_attr(
        feature = "schema",
        schemars(length(min = 1, max = MAX_APPROVERS), inner(length(min = 1, max = MAX_APPROVER_BYTES)))
    )]
    pub electorate: Vec<String>,
    /// The share of the weight of all of them that has to approve, such as `2/3`, `66%` or `0.66`. Default: what
    /// the fleet sets in `spec.consensus`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = MAX_THRESHOLD_BYTES)))]
    pub threshold: Option<String>,
    /// How long they have to vote, in seconds. Default: what the fleet sets in `spec.consensus`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(range(min = 1, max = MAX_APPROVAL_SECONDS)))]
    pub deadline_seconds: Option<u32>,
}

/// A policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicySpec {
    /// Name of the policy, unique in the list: a DNS label.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = MAX_NAME_BYTES)))]
    pub name: String,
    /// What the policy is evaluated on. At least one.
    #[cfg_attr(feature = "schema", schemars(length(min = 1, max = Event::ALL.len())))]
    // A key `on` would be the boolean `true` for parsers of YAML 1.1, such as that of kubectl.
    #[serde(rename = "events")]
    pub on: Vec<Event>,
    /// CEL expression; the policy applies where it is true. Default: everywhere.
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_EXPRESSION_BYTES)))]
    pub condition: Option<String>,
    /// CEL expression; the action is taken where it is true.
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_EXPRESSION_BYTES)))]
    pub rule: String,
    /// What happens if the rule is true.
    pub action: Action,
    /// JSON pointers (RFC 6901) to the fields that `redact` replaces. Empty: the whole payload.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_FIELDS)))]
    pub fields: Vec<String>,
    /// Who approves, for `requireApproval` on submissions. Default: nobody can, and what needs an approval is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub approval: Option<ApprovalSpec>,
    /// The message of a refusal, as plain text. Default: names the rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_MESSAGE_BYTES)))]
    pub message: Option<String>,
    /// CEL expression for the message; if it can't be evaluated, `message` is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(length(max = MAX_EXPRESSION_BYTES)))]
    pub message_expression: Option<String>,
    /// What happens if `match` or `rule` can't be evaluated.
    #[serde(default)]
    pub failure_policy: FailurePolicy,
}

#[cfg(all(test, feature = "schema"))]
mod tests {
    use super::*;

    #[test]
    fn the_schema_has_the_limits() {
        let schema = serde_json::to_value(schemars::schema_for!(PolicySpec)).unwrap();
        let properties = &schema["properties"];
        assert_eq!(properties["name"]["maxLength"], MAX_NAME_BYTES);
        assert_eq!(properties["events"]["minItems"], 1);
        for expression in ["match", "rule", "messageExpression"] {
            assert_eq!(properties[expression]["maxLength"], MAX_EXPRESSION_BYTES, "{expression}");
        }
        assert_eq!(properties["message"]["maxLength"], MAX_MESSAGE_BYTES);
        assert_eq!(properties["fields"]["maxItems"], MAX_FIELDS);
        assert_eq!(schema["additionalProperties"], false);
    }
}
