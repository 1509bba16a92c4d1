//! The audit log for people.

use robeing_proto::v1::AuditRecord;

use super::{
    table::table,
    words::{instant, printable},
};

/// Formats records of the audit log as a table.
pub fn audit_table(records: &[AuditRecord]) -> String {
    if records.is_empty() {
        return "no records\n".into();
    }
    table(
        ["SEQ", "TIME", "OUTCOME", "ACTOR", "ACTION", "SUBJECT", "DETAIL"],
        records.iter().map(|record| {
            [
                record.seq.to_string(),
                time(record),
                record.outcome.clone(),
                record.actor.clone(),
                record.action.clone(),
                record.subject.clone(),
                record.detail.clone(),
            ]
        }),
    )
}

/// Formats a record of the audit log as a line that needs no other lines: the same columns, without alignment.
pub fn audit_line(record: &AuditRecord) -> String {
    let AuditRecord { seq, actor, action, subject, outcome, detail, .. } = record;
    let seq = seq.to_string();
    let columns = [&seq, &time(record), outcome, actor, action, subject, detail];
    let columns = columns.map(|column| if column.is_empty() { "-".to_owned() } else { printable(column) });
    format!("{}\n", columns.join("   "))
}

fn time(record: &AuditRecord) -> String {
    instant(record.at.as_ref()).map(|time| format!("{time:.3}")).unwrap_or_default()
}
