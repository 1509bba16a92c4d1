//! The stored state of the audit log.

use super::AuditRecord;
use crate::numbered::Numbered;

/// The audit log's part of the state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct AuditLog {
    /// The newest records.
    pub records: Numbered<AuditRecord>,
}
