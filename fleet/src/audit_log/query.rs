//! Queries about the audit log.

use std::sync::Arc;

use super::AuditRecord;
use crate::{Fleet, limits::MAX_PAGE};

impl Fleet {
    /// Returns at most `limit` (clamped to 1 to [`MAX_PAGE`]) records with numbers above `after`, oldest first. If the
    /// first number is higher than `after + 1`, the records in between were dropped.
    pub fn audit_records(&self, after: u64, limit: usize) -> impl Iterator<Item = &Arc<AuditRecord>> + '_ {
        self.state.audit_log.records.after(after).take(limit.clamp(1, MAX_PAGE))
    }

    /// Returns the number of the oldest record that is kept; `None` if there is none.
    pub fn audit_first_kept(&self) -> Option<u64> {
        self.state.audit_log.records.kept().first_key_value().map(|(seq, _)| *seq)
    }

    /// Returns the number of the newest record; 0 if nothing was ever recorded.
    pub fn audit_last(&self) -> u64 {
        self.state.audit_log.records.last()
    }
}
