//! The limits of policies, and what is refused beyond them.

use std::{collections::BTreeSet, fs};

use robeing_policy::{
    Action, ApprovalSpec, Decision, Event, FailurePolicy, Input, Object, Outcome, PolicySet, PolicySpec, Problem,
    Submission,
    limits::{
        MAX_APPROVAL_SECONDS, MAX_APPROVER_BYTES, MAX_APPROVERS, MAX_FIELDS, MAX_MESSAGE_BYTES, MAX_NAME_BYTES,
        MAX_PATTERNS, MAX_POLICIES, MAX_STEPS, MAX_STEPS_OF_ALL, MAX_THRESHOLD_BYTES,
    },
};

use crate::{compiled, policy, submission};

fn problems(specs: &[PolicySpec]) -> Vec<(String, &'static str, Problem)> {
    let errors = PolicySet::compile(specs).err().unwrap_or_default();
    errors.into_iter().map(|error| (error.policy, error.field, error.problem)).collect()
}

fn problem(change: impl FnOnce(&mut PolicySpec)) -> Option<(&'static str, Problem)> {
    let mut spec = policy("p", "true", Action::Deny);
    change(&mut spec);
    problems(&[spec]).pop().map(|(_, field, problem)| (field, problem))
}

#[test]
fn there_are_at_most_so_many_policies() {
    let all: Vec<_> = (0..=MAX_POLICIES).map(|number| policy(&format!("p{number}"), "true", Action::Deny)).collect();
    assert_eq!(problems(&all[..MAX_POLICIES]), []);
    let too_many = Problem::TooManyPolicies(MAX_POLICIES + 1);
    assert_eq!(problems(&all), [(String::new(), "policies", too_many)]);
}

#[test]
fn all_policies_together_have_a_limit_of_patterns() {
    let matching = |name: &str, patterns: usize| {
        let rule = vec!["text.matches('a')"; patterns].join(" || ");
        policy(name, &rule, Action::Deny)
    };
    let mut specs = vec![matching("a", MAX_PATTERNS / 2), matching("b", MAX_PATTERNS / 2)];
    assert_eq!(problems(&specs), []);
    specs.push(matching("c", 1));
    assert_eq!(problems(&specs), [("c".to_owned(), "rule", Problem::TooManyPatterns(MAX_PATTERNS + 1))]);
}

#[test]
fn what_a_field_of_the_input_builds_is_charged() {
    let labels = vec![("name", "value"); 10_000];
    let input = br"[1,1,1,1,1,1,1,1,1,1]";
    let set = compiled(&[policy("p", "json.all(x, size(object.labels) > 0)", Action::Deny)]);
    let object = Object::Submission(Submission { labels: &labels, input, ..Submission::default() });
    let verdict = set.evaluate(&Input { user: "", rights: &[], object });
    assert!(
        matches!(&verdict.trace[0].outcome, Outcome::FailedClosed(reason) if reason.contains("bytes")),
        "{verdict:?}"
    );
}

#[test]
fn names_are_unique_dns_labels() {
    let named = |name: &str| problem(|spec| spec.name = name.to_owned());
    for name in ["a", "a-1", &"a".repeat(MAX_NAME_BYTES)] {
        assert_eq!(named(name), None, "{name}");
    }
    for name in ["", "A", "a.b", "-a", "a-", "a\n", &"a".repeat(MAX_NAME_BYTES + 1)] {
        assert_eq!(named(name), Some(("name", Problem::Name)), "{name}");
    }
    let twice = [policy("a", "true", Action::Deny), policy("a", "false", Action::Allow)];
    assert_eq!(problems(&twice), [("a".to_owned(), "name", Problem::Duplicate)]);
}

#[test]
fn every_field_with_an_error_is_named() {
    let mut spec = policy("Bad", "json.", Action::Deny);
    spec.on.clear();
    spec.condition = Some("nothing".to_owned());
    spec.message_expression = Some("(".to_owned());
    spec.message = Some("m".repeat(MAX_MESSAGE_BYTES + 1));
    spec.fields = vec!["/a".to_owned()];
    let found = problems(&[policy("good", "true", Action::Deny), spec]);
    let fields: BTreeSet<_> = found.iter().map(|(_, field, _)| *field).collect();
    assert_eq!(fields, BTreeSet::from(["name", "events", "message", "fields", "match", "rule", "messageExpression"]));
    assert!(found.iter().all(|(policy, ..)| policy == "Bad"));
}

#[test]
fn redacted_fields_and_messages_have_limits() {
    let fields = |count: usize| {
        problem(|spec| {
            spec.action = Action::Redact;
            spec.fields = (0..count).map(|number| format!("/{number}")).collect();
        })
    };
    assert_eq!(fields(MAX_FIELDS), None);
    assert_eq!(fields(MAX_FIELDS + 1), Some(("fields", Problem::TooManyFields(MAX_FIELDS + 1))));
    let pointer = problem(|spec| (spec.action, spec.fields) = (Action::Redact, vec!["password".to_owned()]));
    assert_eq!(pointer, Some(("fields", Problem::Pointer("password".to_owned()))));
    assert_eq!(problem(|spec| spec.message = Some("m".repeat(MAX_MESSAGE_BYTES))), None);
    let long = problem(|spec| spec.message = Some("m".repeat(MAX_MESSAGE_BYTES + 1)));
    assert_eq!(long, Some(("message", Problem::MessageTooLong(MAX_MESSAGE_BYTES + 1))));
}

#[test]
fn all_policies_together_have_a_limit_of_steps_and_each_has_its_own() {
    // Each takes all of its own steps.
    let endless = "json.all(x, json.all(y, true))";
    let mut specs: Vec<_> = (0..8).map(|number| policy(&format!("p{number}"), endless, Action::Deny)).collect();
    specs.iter_mut().for_each(|spec| spec.failure_policy = FailurePolicy::Open);
    specs.push(policy("last", "size < 0", Action::Deny));
    let input = format!("[{}1]", "1,".repeat(2_000));
    let verdict = compiled(&specs).evaluate(&submission(input.as_bytes()));
    let failed = verdict.trace.iter().filter(|traced| matches!(traced.outcome, Outcome::FailedOpen(_))).count();
    assert_eq!(failed, 8);
    const { assert!(8 * MAX_STEPS > MAX_STEPS_OF_ALL) };
    let last = verdict.trace.last().map(|traced| &traced.outcome);
    assert!(matches!(last, Some(Outcome::FailedClosed(reason)) if reason.contains("steps")), "{last:?}");
    assert!(matches!(verdict.decision, Decision::Deny { policy, .. } if policy == "last"));
    // Alone, a policy after one that spends its own steps has enough of them.
    let few = [specs[0].clone(), specs[8].clone()];
    assert_eq!(compiled(&few).evaluate(&submission(input.as_bytes())).decision, Decision::Allow);
}

#[test]
fn a_message_of_an_expression_is_cut() {
    let mut spec = policy("p", "true", Action::Deny);
    spec.message_expression = Some("text".to_owned());
    let long = "é".repeat(MAX_MESSAGE_BYTES);
    match compiled(&[spec]).evaluate(&submission(long.as_bytes())).decision {
        Decision::Deny { message, .. } => assert_eq!(message.len(), MAX_MESSAGE_BYTES),
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_approves_is_within_limits_and_only_of_submissions_that_need_an_approval() {
    let with = |change: &dyn Fn(&mut PolicySpec, &mut ApprovalSpec)| {
        problem(|spec| {
            spec.action = Action::RequireApproval;
            let electorate = vec!["a".repeat(MAX_APPROVER_BYTES); MAX_APPROVERS];
            let threshold = Some("1".repeat(MAX_THRESHOLD_BYTES));
            let mut approval = ApprovalSpec { electorate, threshold, deadline_seconds: Some(MAX_APPROVAL_SECONDS) };
            change(spec, &mut approval);
            spec.approval = Some(approval);
        })
    };
    assert_eq!(with(&|_, _| {}), None);
    assert_eq!(with(&|_, approval| (approval.threshold, approval.deadline_seconds) = (None, None)), None);
    type Change<'a> = &'a dyn Fn(&mut PolicySpec, &mut ApprovalSpec);
    let wrong: [(Change<'_>, Problem); 8] = [
        (&|spec, _| spec.action = Action::Deny, Problem::ApprovalWithoutRequirement),
        (&|spec, _| spec.on.push(Event::Message), Problem::ApprovalEvents),
        (&|_, approval| approval.electorate.clear(), Problem::Electorate),
        (&|_, approval| approval.electorate.push("a".to_owned()), Problem::Electorate),
        (&|_, approval| approval.electorate[0].push('a'), Problem::Electorate),
        (&|_, approval| approval.electorate[0].clear(), Problem::Electorate),
        (&|_, approval| approval.threshold = Some("1".repeat(MAX_THRESHOLD_BYTES + 1)), Problem::Threshold),
        (&|_, approval| approval.deadline_seconds = Some(0), Problem::ApprovalSeconds(0)),
    ];
    for (change, expected) in wrong {
        assert_eq!(with(change), Some(("approval", expected)));
    }
}

#[test]
fn compiled_policies_can_be_shared_by_threads() {
    fn shared<T: Send + Sync>(_: &T) {}
    shared(&PolicySet::default());
}

#[test]
fn unknown_fields_and_values_of_the_resource_are_refused() {
    let parse = |text: &str| serde_json::from_str::<PolicySpec>(text);
    let spec =
        parse(r#"{"name": "p", "events": ["Result"], "match": "true", "rule": "false", "action": "requireApproval"}"#);
    let spec = spec.unwrap();
    assert_eq!((spec.condition.as_deref(), spec.failure_policy), (Some("true"), FailurePolicy::Closed));
    let again: PolicySpec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
    assert_eq!(again, spec);
    for broken in [
        r#"{"name": "p", "events": ["Result"], "rule": "true", "action": "deny", "matches": "true"}"#,
        r#"{"name": "p", "events": ["result"], "rule": "true", "action": "deny"}"#,
        r#"{"name": "p", "events": ["Result"], "rule": "true", "action": "Deny"}"#,
        r#"{"name": "p", "events": ["Result"], "rule": "true", "action": "deny", "failurePolicy": "open"}"#,
        r#"{"name": "p", "events": ["Result"], "action": "deny"}"#,
    ] {
        assert!(parse(broken).is_err(), "{broken}");
    }
}

#[test]
fn the_first_inputs_of_the_fuzzer_are_compiled_or_refused() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/seeds/policy");
    let mut compiles = 0;
    let mut refused = 0;
    for entry in fs::read_dir(folder).expect("the corpus") {
        let bytes = fs::read(entry.expect("an entry").path()).expect("a file");
        let end = bytes.iter().position(|byte| *byte == 0).expect("a NUL after the expression");
        let mut spec = policy("p", str::from_utf8(&bytes[..end]).expect("an expression"), Action::Deny);
        spec.on = Event::ALL.to_vec();
        match PolicySet::compile(&[spec]) {
            Ok(set) => {
                let verdict = set.evaluate(&submission(&bytes[end + 1..]));
                assert_eq!(verdict, set.evaluate(&submission(&bytes[end + 1..])));
                compiles += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert_eq!((compiles, refused), (10, 2));
}
