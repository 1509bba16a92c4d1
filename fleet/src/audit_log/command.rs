//! The command that adds to the audit log what coordinators and guardians observe.

use bilrost::{Message, Oneof};

use super::{AuditOutcome, AuditRecord};
use crate::{
    Fleet, Reply,
    config::invalid,
    limits::{MAX_ACTOR_BYTES, MAX_AUDIT_BATCH, MAX_AUDIT_RECORDS, MAX_DETAIL_BYTES, MAX_NAME_BYTES},
    tasks::attempts::cut,
};

/// A command for the audit log. It needs [`Feature::Identity`](crate::Feature::Identity). All domains share one range
/// of field numbers; see `codec`.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum AuditCommand {
    /// Adds records, at most [`MAX_AUDIT_BATCH`].
    #[bilrost(17)]
    Record(Vec<AuditEntry>),
}

/// What is to be recorded. Texts that are too long are cut.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct AuditEntry {
    /// Who acted; cut to [`MAX_ACTOR_BYTES`].
    #[bilrost(1)]
    pub actor: String,
    /// What was done; cut to [`MAX_NAME_BYTES`].
    #[bilrost(2)]
    pub action: String,
    /// To whom or what; cut to [`MAX_ACTOR_BYTES`].
    #[bilrost(3)]
    pub subject: String,
    /// What became of it.
    #[bilrost(4)]
    pub outcome: AuditOutcome,
    /// More about it; cut to [`MAX_DETAIL_BYTES`].
    #[bilrost(5)]
    pub detail: String,
}

impl AuditEntry {
    /// Cuts texts that are too long, between two characters. Coordinators do this before an entry enters the
    /// log, so that what is cut is not replicated.
    #[must_use]
    pub fn within_limits(mut self) -> Self {
        cut(&mut self.actor, MAX_ACTOR_BYTES, false);
        cut(&mut self.action, MAX_NAME_BYTES, false);
        cut(&mut self.subject, MAX_ACTOR_BYTES, false);
        cut(&mut self.detail, MAX_DETAIL_BYTES, false);
        self
    }
}

impl Fleet {
    pub(crate) fn run_audit(&mut self, command: AuditCommand) -> Reply {
        let AuditCommand::Record(entries) = command;
        if entries.len() > MAX_AUDIT_BATCH {
            let problem = format!("has {} records, the most is {MAX_AUDIT_BATCH}; record them in parts", entries.len());
            return Reply::Refused(invalid("records", problem));
        }
        entries.into_iter().for_each(|entry| self.append(entry));
        Reply::Done
    }

    /// Records what the state machine itself has decided.
    pub(crate) fn record(&mut self, actor: &str, action: &str, subject: &str, outcome: AuditOutcome, detail: String) {
        let [actor, action, subject] = [actor, action, subject].map(str::to_owned);
        self.append(AuditEntry { actor, action, subject, outcome, detail });
    }

    fn append(&mut self, entry: AuditEntry) {
        let AuditEntry { actor, action, subject, outcome, detail } = entry.within_limits();
        let at = self.state.now;
        let records = &mut self.state.audit_log.records;
        records.add(|seq| AuditRecord { seq, at, actor, action, subject, outcome, detail });
        if records.len() > MAX_AUDIT_RECORDS
            && let Some(oldest) = records.kept().first_key_value().map(|(seq, _)| *seq)
        {
            records.remove(oldest, &self.snapshots);
        }
    }
}
