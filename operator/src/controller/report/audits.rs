//! The events of the fleet's audit log: what people want to know without reading it. The fleet numbers the records, so
//! each is published once, regardless of which operator sees it and how often; what is recorded again and again, such as
//! a policy that fails, is published once in each period of [`PERIOD_SECONDS`]. Records that are no news any more are
//! not published, so that an operator that doesn't know what others have published repeats little.

use std::collections::BTreeSet;

use robeing_proto::v1;

use super::events::{EventRecord, Importance, NEWS_FOR, normal};
use crate::controller::observe::Observation;

/// The periods of the fleet's Unix time, in seconds, in each of which what is recorded again about the same is published
/// once. They begin at the same times for all operators, so that these give an event the same name; an event at the end of
/// a period may be followed closely by one of the next.
const PERIOD_SECONDS: i64 = 300;

/// Number of records of the audit log that an operator reads which has just started.
const RECORDS_OF_A_START: u64 = 1_000;

/// How an event of a kind of record is published.
struct Kind {
    importance: Importance,
    reason: &'static str,
    action: &'static str,
    /// Whether it recurs while its cause lasts.
    recurs: bool,
}

const fn warned(reason: &'static str, action: &'static str, recurs: bool) -> Kind {
    Kind { importance: Importance::Warning, reason, action, recurs }
}

/// Returns how a record is published; `None` for what is normal operation, or too frequent for events.
fn kind_of(record: &v1::AuditRecord) -> Option<Kind> {
    match (&*record.action, &*record.outcome) {
        ("agent.flag", "done") => Some(warned("AgentFlagged", "Observe", true)),
        ("agent.quarantine", "done") => Some(warned("AgentQuarantined", "Quarantine", false)),
        ("agent.remove", "done") => Some(warned("AgentBarred", "Remove", false)),
        ("agent.release", "done") => {
            let importance = Importance::Normal;
            Some(Kind { importance, reason: "AgentReleased", action: "Release", recurs: false })
        }
        ("policy.failed_closed", _) => Some(warned("PolicyFailedClosed", "Evaluate", true)),
        ("policy.failed_open", _) => Some(warned("PolicyFailedOpen", "Evaluate", true)),
        ("shortage", _) => Some(warned("Shortage", "Refuse", true)),
        ("conflict", _) => Some(warned("ConflictDecided", "Refuse", true)),
        _ => None,
    }
}

/// Where the cause of a failure is.
const WHY: &str = "the audit log says why.";

/// Returns how often a policy failed, such as ` 3 times`, from the part of a record's detail that contains nothing of a
/// payload: `on Submission, 3 times: …`.
fn times(detail: &str) -> String {
    let head = detail.split_once(':').map_or(detail, |(head, _)| head);
    let times = head.rsplit_once(", ").map_or("", |(_, times)| times);
    let is_number = |text: &str| text.parse::<u64>().is_ok();
    match times == "once" || times.strip_suffix(" times").is_some_and(is_number) {
        true => format!(" {times}"),
        false => String::new(),
    }
}

/// Returns the description of a record.
fn note(record: &v1::AuditRecord) -> String {
    let v1::AuditRecord { actor, subject, detail, .. } = record;
    let why = match detail.as_str() {
        "" => ".".to_owned(),
        detail => format!(": {}", detail.strip_suffix('.').unwrap_or(detail).to_owned() + "."),
    };
    match &*record.action {
        "agent.flag" => format!("Agent {subject} behaves unlike itself, says {actor}{why}"),
        "agent.quarantine" => format!("Agent {subject} was quarantined by {actor}{why}"),
        "agent.remove" => format!("Agent {subject} was removed by {actor}, and stays out until it is released{why}"),
        "agent.release" => format!("Agent {subject} was released by {actor}: it may be in the fleet again."),
        // Why it fails may contain parts of a payload, and more people may read events than the audit log.
        "policy.failed_closed" => {
            format!("Policy {subject} can't be evaluated and refused something{}: {WHY}", times(detail))
        }
        "policy.failed_open" => {
            format!("Policy {subject} can't be evaluated and let something pass{}: {WHY}", times(detail))
        }
        "shortage" => format!("There is too little room for {subject}{why}"),
        _ => format!("Two asked for {subject} at the same time{why}"),
    }
}

fn seconds(record: &v1::AuditRecord) -> i64 {
    record.at.map_or(0, |at| at.seconds)
}

/// Returns the number after which the audit log is read, whose newest record is `newest`: up to where it was read before,
/// or the last records if that is not known. A recreated fleet numbers its records from one again.
pub(crate) fn audit_after(read: Option<u64>, newest: u64) -> u64 {
    read.filter(|read| *read <= newest).unwrap_or_else(|| newest.saturating_sub(RECORDS_OF_A_START))
}

/// Returns the number of the newest record that was read; `None` if none was.
pub(super) fn read(observation: &Observation) -> Option<u64> {
    observation.fleet.as_ref().ok()?.audit.read
}

/// Returns the events of the recent records after number `seen`, or of all recent ones if it is not known what was seen.
pub(super) fn happened(observation: &Observation, seen: Option<u64>) -> Vec<EventRecord> {
    let Ok(answer) = &observation.fleet else { return Vec::new() };
    let records = &answer.audit.records;
    // A recreated fleet numbers its records from one again.
    let seen = seen.filter(|seen| answer.audit.read.is_some_and(|read| *seen <= read));
    // Records have the fleet's time, which may differ from the operator's.
    let now = answer.status.now.map_or(observation.now.as_second(), |now| now.seconds);
    let (mut told, mut old) = (BTreeSet::new(), 0_u64);
    let mut events = Vec::new();
    for record in records.iter().filter(|record| seen.is_none_or(|seen| record.seq > seen)) {
        let Some(kind) = kind_of(record) else { continue };
        if now.saturating_sub(seconds(record)).unsigned_abs() > NEWS_FOR.as_secs() {
            old += 1;
            continue;
        }
        // With the time, since a recreated fleet uses the numbers again.
        let once = match kind.recurs {
            true => format!("{} {} {}", record.action, record.subject, seconds(record) / PERIOD_SECONDS),
            false => format!("{} {}", record.seq, seconds(record)),
        };
        if told.insert((kind.reason, once.clone())) {
            let event = EventRecord { importance: kind.importance, ..normal(kind.reason, kind.action, note(record)) };
            events.push(EventRecord { once: Some(once), ..event });
        }
    }
    let omitted = match (seen, records.first()) {
        (Some(seen), Some(first)) => first.seq.saturating_sub(seen.saturating_add(1)).saturating_add(old),
        _ => 0,
    };
    if omitted > 0 {
        let note = format!(
            "{omitted} records of the audit log are in no event: there were more at once than are kept, or they could \
             be read only long after."
        );
        events.push(normal("AuditRecordsOmitted", "Observe", note));
    }
    events
}
