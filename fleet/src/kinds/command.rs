//! The command that sets the kinds.

use std::{collections::BTreeSet, sync::Arc};

use bilrost::Oneof;

use super::{RetryDefaults, TaskKind, TaskKindList};
use crate::{
    AuditOutcome, Fleet, Refusal, Reply, RetryPolicy,
    audit_log::action,
    config::{check_duration, check_name, invalid},
    limits::MAX_TASK_KINDS,
    tasks::demand::{check_skills, check_slots},
};

/// A command for kinds of tasks. It needs [`Feature::Kinds`](crate::Feature::Kinds). All domains share one range of field
/// numbers; see `codec`.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum KindCommand {
    /// Replaces what is set for all kinds. Nothing changes if it is the same. Recorded in the audit log otherwise.
    #[bilrost(tag(120), message)]
    Set {
        /// The kinds, in any order.
        #[bilrost(1)]
        kinds: Vec<TaskKind>,
        /// Who sets them; cut to [`MAX_ACTOR_BYTES`](crate::limits::MAX_ACTOR_BYTES).
        #[bilrost(2)]
        by: String,
    },
}

impl TaskKind {
    /// Refuses kinds that are out of bounds, whatever the fleet's state.
    pub fn check_all(kinds: &[TaskKind]) -> Result<(), Refusal> {
        if kinds.len() > MAX_TASK_KINDS {
            return Err(invalid("kinds", format!("has {} entries, the most is {MAX_TASK_KINDS}", kinds.len())));
        }
        let mut names = BTreeSet::new();
        for kind in kinds {
            kind.check()?;
            if !names.insert(&kind.name) {
                return Err(invalid("kinds.name", format!("{:?} is there twice", kind.name)));
            }
        }
        Ok(())
    }

    fn check(&self) -> Result<(), Refusal> {
        check_name("kinds.name", &self.name)?;
        let checked = self
            .check_queue_name()
            .and_then(|()| check_slots(self.slots))
            .and_then(|()| check_skills(self.skills.iter().map(String::as_str)))
            .and_then(|()| self.resources.as_ref().map_or(Ok(()), |resources| resources.check()))
            .and_then(|()| check_duration("deadline", self.deadline_in, 1))
            .and_then(|()| check_duration("attempt_timeout", self.attempt_timeout, 1))
            .and_then(|()| self.retry.over(RetryPolicy::default()).check("retry"))
            .and_then(|()| self.timing.as_ref().map_or(Ok(()), |timing| timing.check()));
        checked.map_err(|refusal| match refusal {
            Refusal::Invalid { field, problem } => Refusal::Invalid {
                field: format!("kinds.{field}"),
                problem: format!("of kind {:?} {problem}", self.name),
            },
            other => other,
        })
    }
}

impl TaskKind {
    fn check_queue_name(&self) -> Result<(), Refusal> {
        match (self.queue.is_empty(), &self.resources) {
            (true, _) => Ok(()),
            (false, None) => check_name("queue", &self.queue),
            (false, Some(_)) => Err(invalid("queue", "must be empty, as its resources name one")),
        }
    }
}

impl RetryDefaults {
    /// Returns the policy that has these parts, and the others of another one.
    pub(crate) fn over(&self, other: RetryPolicy) -> RetryPolicy {
        RetryPolicy {
            max_attempts: self.max_attempts.unwrap_or(other.max_attempts),
            initial_backoff: self.initial_backoff.unwrap_or(other.initial_backoff),
            max_backoff: self.max_backoff.unwrap_or(other.max_backoff),
            multiplier_percent: self.multiplier_percent.unwrap_or(other.multiplier_percent),
        }
    }
}

impl Fleet {
    pub(crate) fn run_kinds(&mut self, command: KindCommand) -> Reply {
        const SUBJECT: &str = "kinds";
        let KindCommand::Set { mut kinds, by } = command;
        if let Err(refusal) = TaskKind::check_all(&kinds).and_then(|()| self.check_queues_of(&kinds)) {
            let detail = refusal.to_string();
            self.record(&by, action::SET_KINDS, SUBJECT, AuditOutcome::Failed, detail);
            return Reply::Refused(refusal);
        }
        kinds.sort_by(|one, other| one.name.cmp(&other.name));
        let known = self.state.task_kinds.as_deref();
        if known.map_or(&[][..], |known| &known.kinds) == kinds {
            return Reply::KindsSet { revision: known.map_or(0, |known| known.revision) };
        }
        let names: Vec<&str> = kinds.iter().map(|kind| kind.name.as_str()).collect();
        let detail = match names.as_slice() {
            [] => "none".to_owned(),
            names => format!("{}: {}", names.len(), names.join(", ")),
        };
        self.record(&by, action::SET_KINDS, SUBJECT, AuditOutcome::Done, detail);
        let revision = self.next_revision();
        self.state.task_kinds = Some(Arc::new(TaskKindList { revision, kinds }));
        Reply::KindsSet { revision }
    }

    /// Refuses kinds from a queue that is not set: every task of such a kind would be refused.
    fn check_queues_of(&self, kinds: &[TaskKind]) -> Result<(), Refusal> {
        for kind in kinds {
            let queue = kind.resources.as_ref().map_or(&kind.queue, |resources| &resources.queue);
            if !queue.is_empty() && !self.knows_queue(queue) {
                let problem = format!("of kind {:?} is {queue:?}, which was not set", kind.name);
                return Err(invalid("kinds.queue", problem));
            }
        }
        Ok(())
    }
}
