//! Invariants of the audit log in any state.

use super::AuditRecord;
use crate::{
    Feature,
    audit::{Check, ensure},
    fleet::State,
    limits::{MAX_ACTOR_BYTES, MAX_AUDIT_RECORDS, MAX_DETAIL_BYTES, MAX_NAME_BYTES},
};

/// Checks that the records are the newest ones, without gaps, and each within its limits.
pub(crate) fn check_audit_log(state: &State) -> Check {
    let log = &state.audit_log;
    ensure(state.version >= Feature::Identity.since() || *log == Default::default(), || {
        "an audit log before its version".to_owned()
    })?;
    let records = &log.records;
    records.check(MAX_AUDIT_RECORDS)?;
    let kept = (records.len() as u64, records.last().min(MAX_AUDIT_RECORDS as u64));
    ensure(kept.0 == kept.1, || format!("{} records of the audit log instead of {}", kept.0, kept.1))?;
    let first = records.kept().first_key_value().map(|(seq, _)| *seq);
    ensure(first.is_none_or(|first| first + kept.0 - 1 == records.last()), || "a gap in the audit log".to_owned())?;
    let unsound = records.iter().find(|record| !is_sound(record, state.now.fleet));
    ensure(unsound.is_none(), || format!("record {} of the audit log", unsound.map_or(0, |record| record.seq)))
}

fn is_sound(record: &AuditRecord, now: u64) -> bool {
    record.actor.len() <= MAX_ACTOR_BYTES
        && record.action.len() <= MAX_NAME_BYTES
        && record.subject.len() <= MAX_ACTOR_BYTES
        && record.detail.len() <= MAX_DETAIL_BYTES
        && record.at.fleet <= now
}
