//! Any expression is either compiled or refused with a message; one that is compiled has the same verdict for the same
//! payload each time. The input is an expression, a NUL, and a payload; `seeds/policy` has some.
#![no_main]

use bytes::Bytes;
use robeing_policy::{
    Action, Event, FailurePolicy, Input, Message, Object, PolicySet, PolicySpec, Submission, TaskResult, redact,
};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
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
    };
    let denies = PolicySpec { name: "denies".to_owned(), action: Action::Deny, fields: Vec::new(), ..redacts.clone() };
    let set = match PolicySet::compile(&[redacts, denies]) {
        Ok(set) => set,
        Err(errors) => {
            assert!(errors.iter().all(|error| !error.to_string().is_empty()));
            return;
        }
    };
    let objects = [
        Object::Submission(Submission { input: payload, labels: &[("a", "b")], ..Submission::default() }),
        Object::Result(TaskResult { output: payload, ..TaskResult::default() }),
        Object::Message(Message { payload, ..Message::default() }),
    ];
    for object in objects {
        let input = Input { user: "user", rights: &["submit"], object };
        let verdict = set.evaluate(&input);
        assert_eq!(verdict, set.evaluate(&input), "a verdict is deterministic");
        redact(&Bytes::copy_from_slice(payload), &verdict.redactions);
    }
});
