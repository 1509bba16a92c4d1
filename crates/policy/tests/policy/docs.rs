//! The examples of docs/policies.md have the verdicts that it shows, and its table of limits has their values.

use std::collections::BTreeMap;

use bytes::Bytes;
use robeing_policy::{
    Decision, Event, Failure, Input, Message, Object, PolicySet, PolicySpec, Submission, TaskResult, limits, redact,
};
use serde::Deserialize;

const PAGE: &str = include_str!("../../../../docs/policies.md");
/// The number of examples on the page.
const EXAMPLES: usize = 9;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Policies {
    policies: Vec<PolicySpec>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Verdicts {
    verdicts: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    on: Event,
    #[serde(default)]
    user: String,
    #[serde(default)]
    rights: Vec<String>,
    #[serde(default)]
    object: Fields,
    #[serde(default)]
    payload: String,
    verdict: String,
    message: Option<String>,
    redacted: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Fields {
    kind: String,
    sender_role: String,
    priority: u32,
    attempt: u64,
    failure: Option<FailureFields>,
}

#[derive(Deserialize)]
struct FailureFields {
    kind: String,
    message: String,
}

/// Returns the YAML blocks of the page, in order.
fn blocks() -> Vec<&'static str> {
    PAGE.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap_or_default()).collect()
}

fn check(set: &PolicySet, case: &Case) {
    let payload = case.payload.as_bytes();
    let fields = &case.object;
    let failure = fields.failure.as_ref().map(|failure| Failure { kind: &failure.kind, message: &failure.message });
    let object = match case.on {
        Event::Submission => Object::Submission(Submission {
            kind: &fields.kind,
            priority: fields.priority,
            input: payload,
            ..Submission::default()
        }),
        Event::Result => Object::Result(TaskResult {
            kind: &fields.kind,
            attempt: fields.attempt,
            failure,
            output: payload,
            ..TaskResult::default()
        }),
        Event::Message => Object::Message(Message {
            sender_role: &fields.sender_role,
            priority: fields.priority,
            payload,
            ..Message::default()
        }),
    };
    let rights: Vec<&str> = case.rights.iter().map(String::as_str).collect();
    let verdict = set.evaluate(&Input { user: &case.user, rights: &rights, object });
    let (decision, message) = match verdict.decision {
        Decision::Allow => ("Allow", None),
        Decision::Deny { message, .. } => ("Deny", Some(message)),
        Decision::RequireApproval { message, .. } => ("RequireApproval", Some(message)),
    };
    assert_eq!((decision, &message), (&case.verdict[..], &case.message), "payload {:?}", case.payload);
    if let Some(redacted) = &case.redacted {
        let found = redact(&Bytes::copy_from_slice(payload), &verdict.redactions);
        assert_eq!(String::from_utf8_lossy(&found), *redacted);
    }
}

#[test]
fn the_examples_have_the_verdicts_that_are_shown() {
    let blocks = blocks();
    assert_eq!(blocks.len(), 2 * EXAMPLES);
    for pair in blocks.chunks(2) {
        let policies: Policies = serde_yaml::from_str(pair[0]).unwrap_or_else(|error| panic!("{error}: {}", pair[0]));
        let verdicts: Verdicts = serde_yaml::from_str(pair[1]).unwrap_or_else(|error| panic!("{error}: {}", pair[1]));
        let set = PolicySet::compile(&policies.policies).unwrap_or_else(|errors| panic!("{errors:?}: {}", pair[0]));
        assert!(!verdicts.verdicts.is_empty());
        verdicts.verdicts.iter().for_each(|case| check(&set, case));
    }
}

#[test]
fn the_table_has_the_values_of_the_limits() {
    let limits = [
        ("MAX_POLICIES", limits::MAX_POLICIES as u64),
        ("MAX_EXPRESSION_BYTES", limits::MAX_EXPRESSION_BYTES as u64),
        ("MAX_TOKENS", limits::MAX_TOKENS as u64),
        ("MAX_NESTING", limits::MAX_NESTING as u64),
        ("MAX_DEPTH", limits::MAX_DEPTH as u64),
        ("MAX_NODES", limits::MAX_NODES as u64),
        ("MAX_LOOP_DEPTH", limits::MAX_LOOP_DEPTH as u64),
        ("MAX_PATTERN_BYTES", limits::MAX_PATTERN_BYTES as u64),
        ("MAX_PATTERNS", limits::MAX_PATTERNS as u64),
        ("MAX_STEPS", limits::MAX_STEPS),
        ("MAX_STEPS_OF_ALL", limits::MAX_STEPS_OF_ALL),
        ("MAX_BUILT_BYTES", limits::MAX_BUILT_BYTES),
        ("MAX_MESSAGE_BYTES", limits::MAX_MESSAGE_BYTES as u64),
        ("MAX_FIELDS", limits::MAX_FIELDS as u64),
        ("MAX_JSON_BYTES", limits::MAX_JSON_BYTES as u64),
        ("MAX_JSON_DEPTH", limits::MAX_JSON_DEPTH as u64),
        ("MAX_JSON_VALUES", limits::MAX_JSON_VALUES as u64),
    ];
    let row = |line: &'static str| {
        let (name, value) = line.strip_prefix("| `MAX_")?.strip_suffix(" |")?.split_once("` | ")?;
        Some((format!("MAX_{name}"), value.parse().ok()?))
    };
    let table: BTreeMap<String, u64> = PAGE.lines().filter_map(row).collect();
    assert_eq!(table, limits.map(|(name, value)| (name.to_owned(), value)).into());
}
