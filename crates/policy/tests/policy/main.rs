//! Tests of policies through the interface of the crate.

mod bounds;
mod docs;
mod order;

use robeing_policy::{Action, Event, FailurePolicy, Input, Object, PolicySet, PolicySpec, Submission};

/// Returns a policy on submissions.
fn policy(name: &str, rule: &str, action: Action) -> PolicySpec {
    PolicySpec {
        name: name.to_owned(),
        on: vec![Event::Submission],
        condition: None,
        rule: rule.to_owned(),
        action,
        fields: Vec::new(),
        approval: None,
        message: None,
        message_expression: None,
        failure_policy: FailurePolicy::Closed,
    }
}

fn compiled(specs: &[PolicySpec]) -> PolicySet {
    PolicySet::compile(specs).unwrap_or_else(|errors| panic!("{errors:?}"))
}

/// Returns the submission of an input by a user.
fn submission(input: &[u8]) -> Input<'_> {
    let object = Object::Submission(Submission { kind: "report", priority: 5, input, ..Submission::default() });
    Input { user: "ada", rights: &["submit"], object }
}
