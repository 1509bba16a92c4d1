//! What a pool does with messages: each violation of a rule is refused with its message, at the right field.

use robeing_crds::{limits, parse_manifest};

use crate::refusal::{assert_refused, manifest, only_problem, pool};

#[test]
fn rules_about_messages() {
    let one = "What is done with messages must set exactly one of inbox, command, http and worker.";
    let no_worker = "Only with the worker executor can processes attach to the agents and get messages; set executor to \
                     worker, or messages to inbox, command or http.";
    let messages = |fields: &str| pool(&format!("messages: {fields}"));
    for fit in ["{inbox: {}}", "{command: {argv: [handle, -v]}}", "{http: {url: \"https://a/b\"}}"] {
        parse_manifest(&messages(fit)).unwrap_or_else(|error| panic!("{fit}: {error}"));
    }
    let attached = manifest("{pools: [{name: p, executor: {worker: {}}, messages: {worker: {}}}]}");
    parse_manifest(&attached).unwrap_or_else(|error| panic!("{error}"));
    assert_refused(&[
        (messages("{}"), "spec.pools[0].messages", one),
        (messages("{inbox: {}, command: {argv: [a]}}"), "spec.pools[0].messages", one),
        (messages("{worker: {}}"), "spec.pools[0].messages", no_worker),
        (
            messages("{inbox: {size: 5}}"),
            "spec.pools[0].messages.inbox.size",
            "There is no field \"size\" here, nor any other; remove it.",
        ),
        (
            messages("{http: {ulr: a, url: \"http://a\"}}"),
            "spec.pools[0].messages.http.ulr",
            "There is no field \"ulr\" here; did you mean url?",
        ),
        (
            messages("{http: {url: \"127.0.0.1:9000\"}}"),
            "spec.pools[0].messages.http.url",
            "The URL must start with http:// or https://, name a host and have no blanks, such as \
             http://127.0.0.1:9000/run.",
        ),
        (
            messages("{http: {url: 'http://a\\b'}}"),
            "spec.pools[0].messages.http.url",
            "This URL can't be called: it has the character '\\\\'; remove it, or write it percent-encoded.",
        ),
        (
            messages("{command: {argv: [a, \"b\\0\"]}}"),
            "spec.pools[0].messages.command.argv[1]",
            "This has a NUL character, which no program can be given; remove it.",
        ),
        (
            messages("{command: {argv: []}}"),
            "spec.pools[0].messages.command.argv",
            "This must have at least 1 item, but has 0.",
        ),
    ]);
}

#[test]
fn a_handler_of_messages_that_no_agent_can_be_given() {
    let with = |last: usize| {
        let words = [vec!["x".repeat(8_000); 12], vec!["x".repeat(last)]].concat();
        pool(&format!("messages: {{command: {{argv: [{}]}}}}", words.join(", ")))
    };
    let room = limits::MAX_EXECUTOR_BYTES - r#"{"command":{"argv":[]}}"#.len() - 12 * 8_003 - 2;
    parse_manifest(&with(room)).unwrap_or_else(|error| panic!("{error}"));
    let (path, message) = only_problem(&with(room + 1));
    assert_eq!(path, "spec.pools[0].messages.command.argv");
    assert!(message.starts_with("This has 102401 bytes as JSON, but an agent can be given 102400"), "{message}");
}
