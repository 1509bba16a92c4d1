//! Bars: agents that may not be in the fleet, and what becomes of one that is in it.

use std::sync::Arc;

use super::{Bar, BarKind};
use crate::{
    AuditOutcome, Effect, Fleet, LossReason, RecoveryEvent, Refusal, Reply,
    audit_log::action,
    config::check_name,
    limits::{MAX_ACTOR_BYTES, MAX_BARS, MAX_REASON_BYTES},
    steps::{Job, Jobs},
    tasks::attempts::cut,
};

impl Fleet {
    /// Bars an agent. Does nothing if it is barred in this way already.
    pub(crate) fn bar(
        &mut self,
        (agent, kind): (String, BarKind),
        mut reason: String,
        mut by: String,
        jobs: &mut Jobs,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        let action = match kind {
            BarKind::Removed => action::REMOVE,
            BarKind::Quarantined => action::QUARANTINE,
        };
        let known = self.bar_of(&agent).map(|bar| bar.kind);
        if known == Some(kind) {
            return Reply::Done;
        }
        if let Err(refusal) = self.check_bar(&agent, known.is_none()) {
            self.record(&by, action, &agent, AuditOutcome::Failed, refusal.to_string());
            return Reply::Refused(refusal);
        }
        cut(&mut reason, MAX_REASON_BYTES, false);
        cut(&mut by, MAX_ACTOR_BYTES, false);
        self.drop_bar(&agent);
        // A quarantined agent that is released may have no other proof than its key.
        if kind == BarKind::Removed {
            self.forget_enrolment(&agent);
        }
        self.record(&by, action, &agent, AuditOutcome::Done, reason.clone());
        let (name, at): (Arc<str>, _) = (agent.as_str().into(), self.state.now);
        effects.push(Effect::Barred { agent: Arc::clone(&name) });
        let bar = self.state.identity.bars.add(|number| Bar { number, agent: name, kind, at, reason, by });
        self.indexes.identity.add_bar(bar);
        self.next_revision();
        effects.push(Effect::TrustChanged);
        self.expel(&agent, kind, jobs, effects);
        Reply::Done
    }

    fn check_bar(&self, agent: &str, is_new: bool) -> Result<(), Refusal> {
        check_name("agent", agent)?;
        if is_new && self.state.identity.bars.len() >= MAX_BARS {
            return Err(Refusal::Full {
                what: "barred agents".to_owned(),
                limit: MAX_BARS as u64,
                remedy: "release those that will not come back".to_owned(),
            });
        }
        Ok(())
    }

    /// Ends the session of a barred agent as a loss does. A removed agent is forgotten afterwards, before its pool is
    /// filled: a pool without a fixed size becomes smaller by it.
    fn expel(&mut self, agent: &str, kind: BarKind, jobs: &mut Jobs, effects: &mut Vec<Effect>) {
        let Some(id) = self.agent_by_name(agent).map(|agent| agent.id) else { return };
        let in_session = self.has_session(agent);
        let removed = Job::Record(id, RecoveryEvent::Removed);
        // The job that is pushed last is done first.
        match kind {
            BarKind::Removed => {
                self.fill_afterwards(id, false, jobs);
                jobs.push(Job::Forget(id));
                if in_session {
                    jobs.push(removed);
                }
            }
            BarKind::Quarantined if in_session => {
                jobs.push(removed);
                self.fill_afterwards(id, true, jobs);
            }
            BarKind::Quarantined => {}
        }
        if in_session {
            self.end_session(id, Some(LossReason::Barred), jobs, effects);
        }
    }

    /// Lifts the bar of an agent, if there is one.
    pub(crate) fn release(&mut self, agent: &str, by: String, effects: &mut Vec<Effect>) -> Reply {
        let Some(bar) = self.drop_bar(agent) else { return Reply::Done };
        let detail = format!("it was {}: {}", bar.kind.past(), bar.reason);
        self.record(&by, action::RELEASE, agent, AuditOutcome::Done, detail);
        self.next_revision();
        effects.push(Effect::TrustChanged);
        Reply::Done
    }

    fn drop_bar(&mut self, agent: &str) -> Option<Arc<Bar>> {
        let number = self.indexes.identity.barred.get(agent).copied()?;
        let bar = self.state.identity.bars.remove(number, &self.snapshots)?;
        self.indexes.identity.drop_bar(&bar);
        Some(bar)
    }

    /// Refuses an agent that is barred.
    pub(crate) fn check_not_barred(&self, agent: &str) -> Result<(), Refusal> {
        match self.bar_of(agent) {
            None => Ok(()),
            Some(bar) => Err(Refusal::Barred {
                agent: agent.to_owned(),
                kind: bar.kind,
                since: bar.at.wall,
                reason: bar.reason.clone(),
                by: bar.by.clone(),
            }),
        }
    }
}
