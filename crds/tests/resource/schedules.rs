//! Schedules: what the schema refuses, and what only the reader of manifests can.

use robeing_crds::{limits, parse_manifest};

use crate::refusal::{assert_refused, manifest, only_problem};

/// A manifest with one schedule of the given fields, which are those of a right one unless they are given.
fn schedule(fields: &str) -> String {
    let defaults = [("name", "nightly"), ("cron", "\"@daily\""), ("task", "{kind: report}")];
    let missing = defaults.iter().filter(|(name, _)| !fields.contains(&format!("{name}: ")));
    let missing: String = missing.map(|(name, value)| format!("{name}: {value}, ")).collect();
    manifest(&format!("{{schedules: [{{{missing}{fields}}}]}}"))
}

#[test]
fn rules_about_schedules() {
    let at = |field: &str| format!("spec.schedules[0]{field}");
    let name =
        "The name of a schedule must be lower-case letters, digits and '-', and start and end with a letter or digit.";
    let form = "When a schedule is due must be five fields with spaces between them: minute, hour, day of the month, month \
                and day of the week, such as 30 4 * * mon-fri; or one of @hourly, @daily, @weekly, @monthly and @yearly.";
    let zone = "The time zone must be a name of the IANA database, such as Europe/Berlin or Etc/UTC.";
    let limit =
        "Only if all missed runs start late is their number limited; set missedRuns to All, or remove missedLimit.";
    for (given, path, message) in [
        ("name: Nightly", ".name", name),
        ("name: nightly-", ".name", name),
        ("cron: \"* * * *\"", ".cron", form),
        ("cron: \"0 0 * * * *\"", ".cron", form),
        ("cron: \"@Daily\"", ".cron", form),
        ("timeZone: Europe Berlin", ".timeZone", zone),
        ("missedLimit: 3", ".missedLimit", limit),
        ("missedLimit: 3, missedRuns: Latest", ".missedLimit", limit),
        ("missedLimit: 0, missedRuns: All", ".missedLimit", "This must be at least 1, but is 0."),
        ("missedLimit: 101, missedRuns: All", ".missedLimit", "This must be at most 100, but is 101."),
        ("startWithin: 0s", ".startWithin", "startWithin must be at least 1ms and at most 8784h."),
        (
            "concurrencyPolicy: Forbit",
            ".concurrencyPolicy",
            "This must be Allow, Forbid or Replace, but is the text \"Forbit\"; did you mean Forbid?",
        ),
        ("task: {kind: \"\"}", ".task.kind", "This must have at least 1 character, but has 0."),
        ("task: {kind: k, priority: 11}", ".task.priority", "This must be at most 10, but is 11."),
        ("task: {kind: k, deadline: 8785h}", ".task.deadline", "deadline must be at least 1ms and at most 8784h."),
        ("task: {}", ".task", "The field kind is missing; add it."),
    ] {
        assert_eq!(only_problem(&schedule(given)), (at(path), message.to_owned()), "{given}");
    }
    assert_refused(&[(
        manifest(
            "{schedules: [{name: a, cron: \"@daily\", task: {kind: k}}, {name: a, cron: \"@daily\", task: {kind: k}}]}",
        ),
        "spec.schedules[1]",
        "Item 0 of this list has the name \"a\" too; give one of them another name.",
    )]);
}

#[test]
fn a_schedule_that_would_never_be_due_is_found_in_the_manifest() {
    for (given, field, problem) in [
        ("cron: \"60 * * * *\"", "cron", "60"),
        ("cron: \"@fortnightly\"", "cron", "@hourly"),
        ("cron: \"0 0 30 2 *\"", "cron", "it would never be due"),
        ("timeZone: Europe/Paderborn", "timeZone", "there is no time zone \"Europe/Paderborn\""),
    ] {
        let (path, message) = only_problem(&schedule(given));
        assert_eq!(path, format!("spec.schedules[0].{field}"));
        assert!(message.starts_with("This schedule can't be kept: ") && message.contains(problem), "{message}");
    }
}

#[test]
fn schedules_are_taken_up_to_their_limits() {
    let many = |count: u32| {
        let one = |n: u32| format!("{{name: s{n}, cron: \"@daily\", task: {{kind: k}}}}");
        manifest(&format!("{{schedules: [{}]}}", (0..count).map(one).collect::<Vec<_>>().join(", ")))
    };
    let most = parse_manifest(&many(limits::MAX_SCHEDULES)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(most.spec.schedules.len(), limits::MAX_SCHEDULES as usize);
    assert!(parse_manifest(&many(limits::MAX_SCHEDULES + 1)).is_err());
    let input = |length: u32| schedule(&format!("task: {{kind: k, input: {}}}", "漢".repeat(length as usize)));
    let longest = parse_manifest(&input(limits::MAX_SCHEDULE_INPUT)).unwrap_or_else(|error| panic!("{error}"));
    assert!(longest.spec.schedules[0].task.input.len() <= 64 * 1024, "coordinators take 64 KiB");
    assert!(parse_manifest(&input(limits::MAX_SCHEDULE_INPUT + 1)).is_err());
}
