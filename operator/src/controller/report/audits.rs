//! The events of the fleet's audit log: what people want to know without reading it. The fleet numbers the records, so
//! each is published once, regardless of which operator sees it and how often; what is recorded again and again, such as
//! a policy that fails, is published once in each [`AGAIN_AFTER_SECONDS`].

use std::collections::BTreeSet;

use robeing_proto::v1;

use super::events::{EventRecord, Importance, NEWS_FOR, normal};
use crate::controller::observe::Observation;

/// For how long no further event is published of what is recorded again about the same, in seconds of the fleet's time.
const AGAIN_AFTER_SECONDS: i64 = 300;

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
        "policy.failed_closed" => format!("Policy {subject} can't be evaluated and refuses what {actor} asks for{why}"),
        "policy.failed_open" => format!("Policy {subject} can't be evaluated and lets pass what {actor} asks for{why}"),
        "shortage" => format!("There is too little room for {subject}{why}"),
        _ => format!("Two asked for {subject} at the same time{why}"),
    }
}

fn seconds(record: &v1::AuditRecord) -> i64 {
    record.at.map_or(0, |at| at.seconds)
}

/// Returns the number of the newest record that was read; 0 if there is none.
pub(super) fn read(observation: &Observation) -> u64 {
    observation.fleet.as_ref().map_or(0, |answer| answer.audit.read)
}

/// Returns the events of the records after number `seen`. An operator that has not seen any yet reports the recent ones.
pub(super) fn happened(observation: &Observation, seen: Option<u64>) -> Vec<EventRecord> {
    let records: &[v1::AuditRecord] = observation.fleet.as_ref().map_or(&[], |answer| &answer.audit.records);
    // A recreated fleet numbers its records from one again.
    let seen = seen.filter(|seen| *seen <= read(observation));
    let is_new = |record: &&v1::AuditRecord| match seen {
        Some(seen) => record.seq > seen,
        None => observation.now.as_second().saturating_sub(seconds(record)).unsigned_abs() <= NEWS_FOR.as_secs(),
    };
    let mut told = BTreeSet::new();
    let mut events = Vec::new();
    for record in records.iter().filter(is_new) {
        let Some(kind) = kind_of(record) else { continue };
        // With the time, since a recreated fleet uses the numbers again.
        let once = match kind.recurs {
            true => format!("{} {} {}", record.action, record.subject, seconds(record) / AGAIN_AFTER_SECONDS),
            false => format!("{} {}", record.seq, seconds(record)),
        };
        if told.insert((kind.reason, once.clone())) {
            let event = EventRecord { importance: kind.importance, ..normal(kind.reason, kind.action, note(record)) };
            events.push(EventRecord { once: Some(once), ..event });
        }
    }
    let missed = match (seen, records.first()) {
        (Some(seen), Some(first)) => first.seq.saturating_sub(seen + 1),
        _ => 0,
    };
    if missed > 0 {
        let note = format!("{missed} records of the audit log are in no event: there were more at once than are kept.");
        events.push(normal("AuditRecordsOmitted", "Observe", note));
    }
    events
}
