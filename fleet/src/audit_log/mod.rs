//! The audit log: who did what to whom, and whether it was allowed. It is append-only and bounded: the oldest records
//! are dropped.

pub(crate) mod audit;
pub(crate) mod command;
mod query;
pub(crate) mod state;

use bilrost::{Enumeration, Message};

use crate::{
    Stamp,
    numbered::Entry,
    snapshot::{Rest, Untaken},
};

/// The actions that the state machine records by itself.
pub(crate) mod action {
    pub(crate) const CONFIGURE: &str = "identity.configure";
    pub(crate) const ENROL: &str = "agent.enrol";
    pub(crate) const REMOVE: &str = "agent.remove";
    pub(crate) const QUARANTINE: &str = "agent.quarantine";
    pub(crate) const RELEASE: &str = "agent.release";
    pub(crate) const SET_POLICIES: &str = "policies.set";
    pub(crate) const SET_KINDS: &str = "kinds.set";
    pub(crate) const OUTVOTED: &str = "result.outvoted";
    pub(crate) const RETRY_DEAD: &str = "dead.retry";
    pub(crate) const DROP_DEAD: &str = "dead.drop";
    pub(crate) const SET_SCHEDULE: &str = "schedule.set";
    pub(crate) const SUSPEND_SCHEDULE: &str = "schedule.suspend";
    pub(crate) const RESUME_SCHEDULE: &str = "schedule.resume";
    pub(crate) const REMOVE_SCHEDULE: &str = "schedule.remove";
}

/// What became of an action.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Enumeration)]
pub enum AuditOutcome {
    /// The action was allowed.
    Allowed = 0,
    /// The action was not allowed.
    Denied = 1,
    /// The action was done.
    Done = 2,
    /// The action was allowed, but failed.
    Failed = 3,
}

/// A record of the audit log.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct AuditRecord {
    /// The record's number, counting up by one from 1. Numbers are never reused.
    #[bilrost(1)]
    pub seq: u64,
    /// When it was recorded.
    #[bilrost(2)]
    pub at: Stamp,
    /// Who acted; at most [`MAX_ACTOR_BYTES`](crate::limits::MAX_ACTOR_BYTES).
    #[bilrost(3)]
    pub actor: String,
    /// What was done; at most [`MAX_NAME_BYTES`](crate::limits::MAX_NAME_BYTES).
    #[bilrost(4)]
    pub action: String,
    /// To whom or what; at most [`MAX_ACTOR_BYTES`](crate::limits::MAX_ACTOR_BYTES).
    #[bilrost(5)]
    pub subject: String,
    /// What became of it.
    #[bilrost(6)]
    pub outcome: AuditOutcome,
    /// More about it; at most [`MAX_DETAIL_BYTES`](crate::limits::MAX_DETAIL_BYTES).
    #[bilrost(7)]
    pub detail: String,
}

impl Entry for AuditRecord {
    const FIELD: u32 = 9;
    const NAME: &str = "records of the audit log";

    fn number(&self) -> u64 {
        self.seq
    }

    fn untaken(rest: &mut Rest) -> &mut Untaken<u64, Self> {
        &mut rest.records
    }
}
