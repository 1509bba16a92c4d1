//! Manifests, and the policies in them.

use bytes::Bytes;
use robeing_policy::{
    Action, Checked, Event, FailurePolicy, Input, Message, Object, PolicySet, PolicySpec, StoredPolicies, Submission,
    TaskResult, redact,
};

use super::check_sentence;

/// Any text is either parsed as a manifest or refused with a message.
pub fn manifest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match robeing_crds::parse_manifests(text) {
        Ok(clusters) => assert!(!clusters.is_empty()),
        Err(refused) => check_sentence(refused),
    }
}

/// Returns an input for each event.
fn inputs(payload: &[u8]) -> [Input<'_>; 3] {
    let objects = [
        Object::Submission(Submission { input: payload, labels: &[("a", "b")], ..Submission::default() }),
        Object::Result(TaskResult { output: payload, ..TaskResult::default() }),
        Object::Message(Message { payload, ..Message::default() }),
    ];
    objects.map(|object| Input { user: "user", rights: &["submit"], object })
}

/// Any expression is either compiled or refused with a message; one that is compiled has the same verdict for the same
/// payload each time. The input is an expression, a NUL, and a payload.
pub fn policy(bytes: &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let Ok(expression) = std::str::from_utf8(&bytes[..end]) else { return };
    let payload = bytes.get(end + 1..).unwrap_or_default();
    let redacts = PolicySpec {
        name: "redacts".to_owned(),
        on: Event::ALL.to_vec(),
        condition: None,
        rule: expression.to_owned(),
        action: Action::Redact,
        fields: vec!["/a".to_owned(), "/b/0".to_owned()],
        message: None,
        message_expression: Some(expression.to_owned()),
        failure_policy: FailurePolicy::Open,
        approval: None,
    };
    let denies = PolicySpec { name: "denies".to_owned(), action: Action::Deny, fields: Vec::new(), ..redacts.clone() };
    let set = match PolicySet::compile(&[redacts, denies]) {
        Ok(set) => set,
        Err(errors) => return errors.into_iter().for_each(check_sentence),
    };
    for input in inputs(payload) {
        let verdict = set.evaluate(&input);
        assert_eq!(verdict, set.evaluate(&input), "a verdict is deterministic");
        redact(&Bytes::copy_from_slice(payload), &verdict.redactions);
    }
}

/// Policies as a fleet keeps them, each with a NUL after it, and a payload: what can't be used is named, and what it
/// concerns is refused.
pub fn stored(bytes: &[u8]) {
    let mut parts: Vec<&[u8]> = bytes.split(|byte| *byte == 0).collect();
    let payload = parts.pop().unwrap_or_default();
    let Ok(texts) = parts.into_iter().map(std::str::from_utf8).collect::<Result<Vec<&str>, _>>() else { return };
    for spec in texts.iter().filter_map(|text| PolicySpec::from_json(text).ok()) {
        assert_eq!(PolicySpec::from_json(&spec.to_json()), Ok(spec));
    }
    let policies = StoredPolicies::read(texts.iter().copied());
    let is_broken = policies.problems().map(|(_, problem)| check_sentence(problem)).count() > 0;
    assert!(!is_broken || Event::ALL.into_iter().any(|event| policies.concerns(event)));
    let payload = Bytes::copy_from_slice(payload);
    for input in inputs(&payload) {
        let (checked, deeds) = policies.check(&input, &payload);
        assert_eq!((checked.clone(), deeds), policies.check(&input, &payload), "a decision is deterministic");
        match checked {
            Checked::Allowed | Checked::Redacted(_) => {}
            Checked::Refused(refusal) => check_sentence(refusal.message),
        }
    }
}
