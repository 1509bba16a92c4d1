//! What a manifest may say about kinds of tasks.

use std::time::Duration;

use robeing_crds::{Role, TaskKind, TaskKindResources, limits, parse_manifest};
use robeing_settings::Contribute;

use crate::refusal::{assert_refused, manifest};

fn kind(fields: &str) -> String {
    manifest(&format!("{{taskKinds: [{{name: read, {fields}}}]}}"))
}

fn only(text: &str) -> TaskKind {
    let cluster = parse_manifest(text).unwrap_or_else(|error| panic!("{error}"));
    cluster.spec.task_kinds.into_iter().next().expect("a kind")
}

#[test]
fn a_kind_needs_what_is_written_and_otherwise_one_slot() {
    let smallest = only(&kind(""));
    assert_eq!((smallest.name.as_str(), smallest.slots), ("read", 1));
    assert_eq!((smallest.role, smallest.resources, smallest.retry), (None, None, None));
    let waits = only(&kind("queue: batch"));
    assert_eq!((waits.queue.as_deref(), waits.resources), (Some("batch"), None));
    let whole = only(&kind(
        "role: Specialist, skills: [ocr, law], slots: 2, resources: {cpu: 500m, memory: 1Gi}, queue: batch, \
         deadline: 1h, attemptTimeout: 90s, queueExpiry: 5m, progressTimeout: 30s, \
         retry: {maxAttempts: 3, initialBackoff: 0s, multiplierPercent: 200, jitterPercent: 50}",
    ));
    let amounts = whole.resources.as_ref().map(TaskKindResources::amounts);
    assert_eq!(
        amounts,
        Some(Contribute { cpu: Some(500), memory: Some(1 << 30), ..Contribute::default() }),
        "in the units of the resource pool"
    );
    assert_eq!((whole.role, whole.skills.len(), whole.slots), (Some(Role::Specialist), 2, 2));
    assert_eq!(whole.attempt_timeout.map(Duration::from), Some(Duration::from_secs(90)));
    let times = [whole.queue_expiry, whole.progress_timeout].map(|time| time.map(Duration::from));
    assert_eq!(times, [300, 30].map(|secs| Some(Duration::from_secs(secs))));
    let retry = whole.retry.expect("it is set");
    assert_eq!((retry.max_attempts, retry.max_backoff, retry.multiplier_percent), (Some(3), None, Some(200)));
    assert_eq!(retry.jitter_percent, Some(50));
}

#[test]
fn rules_about_kinds_of_tasks() {
    let amount = "The amount must be a whole number above zero, with or without a unit, and at most 256Ti, such as 512Mi or \
                  100M.";
    let cpu = "The CPU must be above zero and in whole thousandths of a CPU, such as 500m, 2 or 1.5.";
    let times = "deadline must be at least 1ms and at most 8784h.";
    let first = "spec.taskKinds[0]";
    let at = |field: &str| format!("{first}.{field}");
    let cases = [
        (kind("slots: 0"), at("slots"), "This must be at least 1, but is 0."),
        (kind("slots: 4097"), at("slots"), "This must be at most 4096, but is 4097."),
        (kind("skills: [ocr, ocr]"), at("skills[1]"), "\"ocr\" is already in this list; remove one."),
        (
            kind("resources: {}"),
            at("resources"),
            "The resources must set at least one of cpu, memory, storage and bandwidth; or remove them.",
        ),
        (kind("resources: {cpu: 0m}"), at("resources.cpu"), cpu),
        (kind("resources: {cpu: \"0.0001\"}"), at("resources.cpu"), cpu),
        (kind("resources: {memory: 1.5Gi}"), at("resources.memory"), amount),
        (kind("resources: {storage: 257Ti}"), at("resources.storage"), amount),
        (kind("resources: {bandwidth: fast}"), at("resources.bandwidth"), amount),
        (kind("deadline: 0s"), at("deadline"), times),
        (kind("deadline: 8785h"), at("deadline"), times),
        (kind("attemptTimeout: 0.5ms"), at("attemptTimeout"), "attemptTimeout must be at least 1ms and at most 8784h."),
        (kind("queueExpiry: 0s"), at("queueExpiry"), "queueExpiry must be at least 1ms and at most 8784h."),
        (kind("progressTimeout: 0s"), at("progressTimeout"), "progressTimeout must be at least 1ms and at most 8784h."),
        (kind("retry: {jitterPercent: 101}"), at("retry.jitterPercent"), "This must be at most 100, but is 101."),
        (kind("retry: {maxAttempts: 0}"), at("retry.maxAttempts"), "This must be at least 1, but is 0."),
        (
            kind("retry: {multiplierPercent: 99}"),
            at("retry.multiplierPercent"),
            "This must be at least 100, but is 99.",
        ),
        (
            manifest("{taskKinds: [{name: \"a\\tb\"}]}"),
            at("name"),
            "The name of a kind must be one line of text, without control characters.",
        ),
        (
            manifest("{taskKinds: [{name: a}, {name: a}]}"),
            "spec.taskKinds[1]".to_owned(),
            "Item 0 of this list has the name \"a\" too; give one of them another name.",
        ),
    ];
    for (text, path, sentence) in cases {
        assert_refused(&[(text, path.as_str(), sentence)]);
    }
}

#[test]
fn kinds_at_their_limits_are_taken_and_one_more_is_not() {
    let text = |kinds: u32, name: u32, skills: u32| {
        let skills: Vec<String> = (0..skills).map(|n| format!("s{n}")).collect();
        let skills = skills.join(", ");
        let longest = "é".repeat(name as usize);
        let others: String = (1..kinds).map(|n| format!(", {{name: k{n}}}")).collect();
        manifest(&format!("{{taskKinds: [{{name: {longest}, skills: [{skills}]}}{others}]}}"))
    };
    let (kinds, name, skills) = (limits::MAX_TASK_KINDS, limits::MAX_KIND_NAME, limits::MAX_KIND_SKILLS);
    parse_manifest(&text(kinds, name, skills)).unwrap_or_else(|error| panic!("{error}"));
    for above in [text(kinds + 1, name, skills), text(kinds, name + 1, skills), text(kinds, name, skills + 1)] {
        assert!(parse_manifest(&above).is_err());
    }
}
