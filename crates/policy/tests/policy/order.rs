//! What several policies decide together.

use proptest::prelude::*;
use robeing_policy::{
    Action, Decision, Event, FailurePolicy, Input, Message, Object, Outcome, PolicySet, Redacted, Verdict,
};

use crate::{compiled, policy, submission};

fn names(verdict: &Verdict) -> Vec<(&str, &Outcome)> {
    verdict.trace.iter().map(|traced| (traced.policy.as_str(), &traced.outcome)).collect()
}

fn denied_by(verdict: &Verdict) -> Option<&str> {
    match &verdict.decision {
        Decision::Deny { policy, .. } => Some(policy),
        _ => None,
    }
}

#[test]
fn the_first_deny_wins_and_ends_the_evaluation() {
    let set = compiled(&[
        policy("a", "false", Action::Deny),
        policy("b", "true", Action::Deny),
        policy("c", "true", Action::Deny),
    ]);
    let verdict = set.evaluate(&submission(b""));
    assert_eq!(denied_by(&verdict), Some("b"));
    assert_eq!(names(&verdict), [("a", &Outcome::Passed), ("b", &Outcome::Denied)]);
}

#[test]
fn redactions_accumulate() {
    let mut one = policy("one", "true", Action::Redact);
    one.fields = vec!["/a".to_owned(), "/b".to_owned()];
    let other = policy("other", "size > 0", Action::Redact);
    let verdict = compiled(&[one, other]).evaluate(&submission(b"{}"));
    assert_eq!(verdict.decision, Decision::Allow);
    let what: Vec<_> = verdict.redactions.iter().map(|redaction| (&redaction.policy[..], &redaction.what)).collect();
    let fields = Redacted::Fields(vec!["/a".to_owned(), "/b".to_owned()]);
    assert_eq!(what, [("one", &fields), ("other", &Redacted::Payload)]);
}

#[test]
fn the_first_required_approval_stays_unless_a_later_policy_denies() {
    let approvals = [policy("a", "true", Action::RequireApproval), policy("b", "true", Action::RequireApproval)];
    let verdict = compiled(&approvals).evaluate(&submission(b""));
    let Decision::RequireApproval { policy: by, message, .. } = &verdict.decision else { panic!("{verdict:?}") };
    assert_eq!(by, "a");
    assert!(message.contains("policy a requires an approval, and names nobody who could give it"), "{message}");
    let mut all = approvals.to_vec();
    all.push(policy("c", "true", Action::Deny));
    assert_eq!(denied_by(&compiled(&all).evaluate(&submission(b""))), Some("c"));
}

#[test]
fn allow_skips_later_policies_and_changes_no_earlier_decision() {
    let allow = policy("allow", "true", Action::Allow);
    let deny = policy("deny", "true", Action::Deny);
    let verdict = compiled(&[allow.clone(), deny.clone()]).evaluate(&submission(b""));
    assert_eq!((&verdict.decision, names(&verdict).len()), (&Decision::Allow, 1));
    let approval = policy("approval", "true", Action::RequireApproval);
    let verdict = compiled(&[approval, allow, deny]).evaluate(&submission(b""));
    assert!(matches!(verdict.decision, Decision::RequireApproval { .. }));
}

#[test]
fn a_policy_that_fails_is_closed_or_open_as_it_says() {
    for action in [Action::Deny, Action::Redact, Action::RequireApproval, Action::Allow] {
        for broken in ["1 / 0 == 1", "1", "json.a.b"] {
            let mut spec = policy("p", broken, action);
            let verdict = compiled(std::slice::from_ref(&spec)).evaluate(&submission(b"{}"));
            assert_eq!(denied_by(&verdict), Some("p"), "{action:?} {broken}");
            spec.failure_policy = FailurePolicy::Open;
            let verdict = compiled(std::slice::from_ref(&spec)).evaluate(&submission(b"{}"));
            assert_eq!(verdict.decision, Decision::Allow, "{action:?} {broken}");
            assert!(verdict.redactions.is_empty());
            assert!(matches!(names(&verdict)[..], [("p", Outcome::FailedOpen(_))]), "{verdict:?}");
            (spec.rule, spec.condition) = ("true".to_owned(), Some(broken.to_owned()));
            let verdict = compiled(&[spec]).evaluate(&submission(b"{}"));
            assert!(
                matches!(names(&verdict)[..], [("p", Outcome::FailedOpen(reason))] if reason.starts_with("match: "))
            );
        }
    }
}

#[test]
fn a_policy_is_evaluated_only_where_it_applies() {
    let mut spec = policy("p", "true", Action::Deny);
    spec.on = vec![Event::Message];
    spec.condition = Some("object.receiver == 'b'".to_owned());
    let set = compiled(&[spec]);
    assert!(set.is_empty_for(Event::Submission) && !set.is_empty_for(Event::Message));
    assert!(set.evaluate(&submission(b"")).trace.is_empty());
    let message = |receiver| {
        let object = Object::Message(Message { sender: "a", receiver, ..Message::default() });
        set.evaluate(&Input { user: "a", rights: &[], object })
    };
    assert_eq!(names(&message("c")), [("p", &Outcome::NotApplicable)]);
    assert_eq!(denied_by(&message("b")), Some("p"));
}

#[test]
fn a_message_is_its_expression_or_the_text_or_the_rule() {
    let message = |expression: Option<&str>, text: Option<&str>| {
        let mut spec = policy("p", "size == 0", Action::Deny);
        spec.message_expression = expression.map(str::to_owned);
        spec.message = text.map(str::to_owned);
        match compiled(&[spec]).evaluate(&submission(b"")).decision {
            Decision::Deny { message, .. } => message,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(message(Some("'by ' + request.user"), Some("text")), "by ada");
    for broken in ["json.a", "1", "' '"] {
        assert_eq!(message(Some(broken), Some("text")), "text", "{broken}");
    }
    assert_eq!(message(None, None), "policy p refuses what fulfils its rule: size == 0");
    assert_eq!(message(Some("'a\\n\\u001b[31m'"), None), "a  [31m", "nothing that a terminal interprets");
}

#[test]
fn no_policies_allow_everything() {
    let set = PolicySet::default();
    assert_eq!(set.evaluate(&submission(b"x")).decision, Decision::Allow);
    assert!(Event::ALL.into_iter().all(|event| set.is_empty_for(event)));
}

proptest! {
    #[test]
    fn verdicts_are_those_of_the_rules_of_order(
        policies in prop::collection::vec((prop::sample::select(vec!["true", "false", "json.x"]), 0_usize..4, any::<bool>()), 0..12)
    ) {
        let actions = [Action::Deny, Action::Redact, Action::RequireApproval, Action::Allow];
        let (mut expected, mut redactions, mut over) = ("allow", 0, false);
        let mut specs = Vec::new();
        for (index, (rule, action, is_open)) in policies.into_iter().enumerate() {
            let mut spec = policy(&format!("p{index}"), rule, actions[action]);
            if is_open {
                spec.failure_policy = FailurePolicy::Open;
            }
            specs.push(spec);
            if over || rule == "false" || (rule == "json.x" && is_open) {
                continue;
            }
            match (rule, actions[action]) {
                ("json.x", _) | (_, Action::Deny) => (expected, over) = ("deny", true),
                (_, Action::Redact) => redactions += 1,
                (_, Action::RequireApproval) => expected = "approval",
                (_, Action::Allow) => over = true,
            }
        }
        let verdict = compiled(&specs).evaluate(&submission(b"[]"));
        let found = match verdict.decision {
            Decision::Allow => "allow",
            Decision::Deny { .. } => "deny",
            Decision::RequireApproval { .. } => "approval",
        };
        prop_assert_eq!((found, verdict.redactions.len()), (expected, redactions));
    }
}
