//! The events of the audit log.

use super::*;

/// The seconds of [`NOW`], Unix.
const SECONDS: i64 = 1_795_435_200;

fn record(seq: u64, action: &str, subject: &str, detail: &str) -> v1::AuditRecord {
    let mut record = v1::AuditRecord {
        seq,
        actor: if action.starts_with("agent.") { "guardian/watch-0" } else { "worker/data-0" }.into(),
        action: action.into(),
        subject: subject.into(),
        outcome: if action.starts_with("agent.") { "done" } else { "denied" }.into(),
        detail: detail.into(),
        at: None,
    };
    record.at.get_or_insert_default().seconds = SECONDS;
    record
}

fn with(records: Vec<v1::AuditRecord>) -> Scene {
    let mut scene = scene();
    let read = records.last().map(|record| record.seq);
    scene.answer().audit = coordinators::Audit { records, read };
    scene
}

fn aged(mut scene: Scene, by: i64) -> Scene {
    for record in &mut scene.answer().audit.records {
        record.at.get_or_insert_default().seconds -= by;
    }
    scene
}

/// Returns the keys of the events of a process that has not seen the fleet before.
fn keys(scene: &Scene) -> Vec<(String, Option<String>)> {
    let status = scene.status(None);
    let events = happened(&scene.observation, &scene.outcome, None, Some(&status), &status);
    events.into_iter().map(|event| (event.reason, event.once)).collect()
}

#[test]
fn what_people_want_to_know_of_the_audit_log_is_told() {
    let figures = "failures of 50.0 per second, and usually 0.1";
    let records = vec![
        record(1, "agent.enrol", "data-0", "worker"),
        record(2, "agent.flag", "data-0", figures),
        record(3, "agent.quarantine", "data-0", &format!("{figures}: severe anomalies in several seconds")),
        record(4, "agent.release", "data-0", ""),
        record(5, "agent.remove", "data-1", "it is not needed."),
        record(6, "policy.denied", "no-cards", "on Result, once"),
        record(7, "policy.failed_closed", "budget", "on Submission, 3 times: there is no field \"cost\""),
        record(8, "policy.failed_open", "hint", "on Submission, once"),
        record(9, "shortage", "queue", "refused 7 for the role worker, of priority 3"),
        record(10, "call", "robeing.v1.Admin/SetTrust", "PermissionDenied"),
        record(11, "conflict", "session data-2", "a guardian is served before a worker"),
    ];
    let (seen, now) = (scene(), with(records));
    let before = seen.status(None);
    insta::assert_snapshot!(now.events(&seen, Some(&before)).join("\n"));
    assert!(now.events(&now, Some(&before)).is_empty(), "nothing is published twice");
}

#[test]
fn an_event_of_a_policy_that_fails_contains_nothing_of_a_payload() {
    let before = scene().status(None);
    for detail in [
        "on Submission, 3 times: there is no field \"4111, once\"",
        "on Message, once: there is no field \": 4111, 2 times\"",
        "there is no field, 4111 times 4111: 4111",
        "on Result, 4111",
        "4111",
        "",
    ] {
        for action in ["policy.failed_closed", "policy.failed_open"] {
            let events = with(vec![record(1, action, "cards", detail)]).events(&scene(), Some(&before));
            assert!(events[0].contains(": Policy cards can't be evaluated and "), "{events:?}");
            assert!(!events[0].contains("4111") && !events[0].contains("worker/data-0"), "{events:?}");
        }
    }
}

#[test]
fn another_operator_gives_the_events_the_same_names_and_tells_no_old_news() {
    let now = with(vec![record(7, "agent.quarantine", "a", "odd"), record(8, "agent.flag", "a", "odd")]);
    let expected =
        [("AgentQuarantined", format!("7 {SECONDS}")), ("AgentFlagged", format!("agent.flag a {}", SECONDS / 300))];
    assert_eq!(keys(&now), expected.map(|(reason, once)| (reason.to_owned(), Some(once))));
    assert_eq!(keys(&aged(now, 302)), []);
}

#[test]
fn the_audit_log_is_read_from_where_it_was_read_to() {
    assert_eq!(audit_after(Some(7), 9), 7);
    assert_eq!(audit_after(Some(7), 7), 7, "nothing is read");
    assert_eq!(audit_after(Some(7), 3), 0, "the fleet was made again");
    assert_eq!(audit_after(None, 1_005), 5);
    assert_eq!(audit_after(None, 0), 0);
}

#[test]
fn it_is_unknown_what_was_read_until_something_was_and_then_stays_known() {
    let snapshot = |scene: &Scene, before: Option<&Snapshot>| Snapshot::of(&scene.observation, before).expect("one");
    let failed = snapshot(&scene(), None);
    assert_eq!(failed.audited(), None);
    let read = snapshot(&with(vec![record(7, "agent.flag", "a", "")]), Some(&failed));
    assert_eq!(read.audited(), Some(7));
    assert_eq!(snapshot(&scene(), Some(&read)).audited(), Some(7), "nothing was read, or there is said to be nothing");
    let again = with(vec![record(2, "agent.flag", "a", "")]);
    assert_eq!(snapshot(&again, Some(&read)).audited(), Some(2), "the fleet was made again");
}

#[test]
fn old_records_are_no_events_whatever_was_read_before() {
    let before = scene().status(None);
    let told = |by: i64, seen: &Scene| {
        aged(with(vec![record(7, "agent.quarantine", "a", "odd")]), by).events(seen, Some(&before)).join("\n")
    };
    let (failed, seen) = (scene(), with(vec![record(6, "agent.enrol", "a", "")]));
    for seen in [&failed, &seen] {
        assert!(told(300, seen).starts_with("Warning AgentQuarantined"), "{}", told(300, seen));
        assert!(!told(301, seen).contains("AgentQuarantined"), "{}", told(301, seen));
    }
    assert_eq!(told(301, &failed), "");
    assert!(told(301, &seen).starts_with("Normal AuditRecordsOmitted: 1 records"), "{}", told(301, &seen));
    let mut behind = aged(with(vec![record(7, "agent.quarantine", "a", "odd")]), 900);
    behind.answer().status.now.get_or_insert_default().seconds = SECONDS - 900;
    assert_eq!(behind.events(&failed, Some(&before)).len(), 1, "the fleet's clock counts, not the operator's");
}

#[test]
fn what_recurs_is_told_once_in_a_while_and_again_later() {
    let (seen, closed) = (scene(), |seq| record(seq, "policy.failed_closed", "budget", "on Submission, once"));
    let before = seen.status(None);
    let mut records: Vec<_> = (1..=100).map(closed).collect();
    assert_eq!(with(records.clone()).events(&seen, Some(&before)).len(), 1);
    records[99].at.get_or_insert_default().seconds += 300;
    assert_eq!(with(records).events(&seen, Some(&before)).len(), 2);
}

#[test]
fn records_that_the_fleet_did_not_keep_are_counted_and_a_fleet_made_again_begins_again() {
    let seen = with(vec![record(10, "agent.flag", "a", "")]);
    let before = seen.status(None);
    let events = with(vec![record(14, "agent.flag", "b", "")]).events(&seen, Some(&before));
    assert!(events[1].starts_with("Normal AuditRecordsOmitted: 3 records of the audit log"), "{events:?}");
    let again = with(vec![record(1, "agent.quarantine", "b", "")]);
    assert_eq!(again.events(&seen, Some(&before)).len(), 1);
    let one_reason = (1..=100).map(|seq| record(seq, "agent.quarantine", &format!("a-{seq}"), "")).collect();
    assert_eq!(with(one_reason).events(&scene(), Some(&before)).len(), 9, "the rest in one");
}
