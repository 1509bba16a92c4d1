//! Enrolment: which key an agent has, and that no proof is used twice.

use std::sync::Arc;

use super::{
    Enrolment, ProofKind, SpentProof,
    command::{Enrol, EnrolmentMode},
};
use crate::{
    AgentState, AuditOutcome, Effect, Fleet, Refusal, Reply,
    audit_log::action,
    limits::{MAX_ENROLMENTS, MAX_PROOFS_FORGOTTEN, MAX_SPENT_PROOFS},
};

impl Enrol {
    /// Returns whether this is what led to a known enrolment, so that its answer was lost.
    fn is_repeated(&self, known: &Enrolment) -> bool {
        self.key == known.key
            && self.role == known.role
            && self.pool == known.pool
            && self.proof == known.proof
            && self.single_use == known.single_use
    }
}

impl Fleet {
    pub(crate) fn enrol(&mut self, enrol: Enrol, effects: &mut Vec<Effect>) -> Reply {
        let known = self.enrolment_of(&enrol.agent).filter(|_| self.bar_of(&enrol.agent).is_none());
        if let Some(epoch) = known.filter(|known| enrol.is_repeated(known)).map(|known| known.epoch) {
            return Reply::Enrolled { epoch };
        }
        if let Err(refusal) = self.check_enrol(&enrol) {
            let detail = refusal.to_string();
            self.record(&enrol.agent, action::ENROL, &enrol.agent, AuditOutcome::Denied, detail);
            return Reply::Refused(refusal);
        }
        let role_before = self.enrolment_of(&enrol.agent).map(|known| known.role);
        self.forget_enrolment(&enrol.agent);
        if self.state.identity.enrolments.len() >= MAX_ENROLMENTS
            && let Some(oldest) = self.indexes.identity.absent.first().copied()
            && let Some(dropped) = self.drop_enrolment(oldest)
        {
            self.note_identity(&dropped.agent);
            effects.push(Effect::EnrolmentChanged { agent: Arc::clone(&dropped.agent) });
        }
        let at = self.state.now;
        if let Some(proof) = enrol.single_use {
            let spent = self.state.identity.spent.add(|number| SpentProof { number, proof });
            self.indexes.identity.add_spent(spent);
        }
        let in_session = self.has_session(&enrol.agent);
        let Enrol { agent, role, pool, key, proof, single_use, names_agent: _ } = enrol;
        let enrolment = self.state.identity.enrolments.add(|epoch| Enrolment {
            epoch,
            agent: Arc::from(agent.as_str()),
            role,
            pool,
            key,
            at,
            proof,
            single_use,
        });
        self.indexes.identity.add_enrolment(enrolment, in_session);
        effects.push(Effect::EnrolmentChanged { agent: Arc::clone(&enrolment.agent) });
        let (epoch, pool) = (enrolment.epoch, enrolment.pool.as_deref().unwrap_or("none"));
        let detail = format!("role {role:?}, pool {pool}, by {}, epoch {epoch}", proof.name());
        self.record(&agent, action::ENROL, &agent, AuditOutcome::Allowed, detail);
        effects.push(Effect::TrustChanged);
        if role_before != Some(role) {
            self.note_identity(&agent);
        }
        Reply::Enrolled { epoch }
    }

    fn check_enrol(&self, enrol: &Enrol) -> Result<(), Refusal> {
        enrol.check()?;
        self.check_not_barred(&enrol.agent)?;
        let config = self.state.identity.config.as_ref();
        if enrol.proof == ProofKind::Open && config.is_some_and(|config| config.enrolment == EnrolmentMode::Proof) {
            return Err(Refusal::OpenEnrolmentOff);
        }
        self.check_proof(enrol)?;
        let known = self.enrolment_of(&enrol.agent);
        if let Some(known) = known
            && known.key != enrol.key
            && !enrol.names_agent
            && self.has_session(&enrol.agent)
        {
            return Err(Refusal::NameHeld { agent: enrol.agent.clone(), since: known.at.wall });
        }
        let identity = &self.indexes.identity;
        let full = self.state.identity.enrolments.len() >= MAX_ENROLMENTS && identity.absent.is_empty();
        if full && known.is_none() {
            return Err(Refusal::Full {
                what: "enrolled agents that all have sessions".to_owned(),
                limit: MAX_ENROLMENTS as u64,
                remedy: "enrol again when some have left".to_owned(),
            });
        }
        Ok(())
    }

    /// Refuses a proof that was used before, or of which this is not known any more.
    fn check_proof(&self, enrol: &Enrol) -> Result<(), Refusal> {
        let Some(proof) = enrol.single_use else { return Ok(()) };
        if self.indexes.identity.spent.get(&proof.id).is_some() {
            return Err(Refusal::ProofSpent { agent: enrol.agent.clone() });
        }
        if proof.forgotten_at() <= self.state.now.wall.max(self.state.identity.forgotten_until) {
            return Err(Refusal::ProofExpired { expired: proof.expires });
        }
        if self.state.identity.spent.len() >= MAX_SPENT_PROOFS {
            return Err(Refusal::Full {
                what: "used proofs to remember".to_owned(),
                limit: MAX_SPENT_PROOFS as u64,
                remedy: "enrol again an hour after some have expired, or issue proofs that expire sooner".to_owned(),
            });
        }
        Ok(())
    }

    /// Returns whether the agent with this name has a session.
    pub(crate) fn has_session(&self, name: &str) -> bool {
        self.agent_by_name(name).is_some_and(|agent| agent.state != AgentState::Lost)
    }

    /// Forgets a few used proofs that have expired.
    pub(super) fn forget_expired_proofs(&mut self) {
        for _ in 0..MAX_PROOFS_FORGOTTEN {
            let first = self.indexes.identity.forgotten_at.first().copied();
            let Some((at, number)) = first.filter(|(at, _)| *at <= self.state.now.wall) else { return };
            let identity = &mut self.state.identity;
            identity.forgotten_until = identity.forgotten_until.max(at);
            if let Some(spent) = identity.spent.remove(number, &self.snapshots) {
                self.indexes.identity.drop_spent(&spent);
            }
        }
    }

    /// Forgets an agent's enrolment, if it has one.
    pub(super) fn forget_enrolment(&mut self, agent: &str) {
        if let Some(epoch) = self.indexes.identity.enrolled.get(agent).copied() {
            self.drop_enrolment(epoch);
        }
    }

    fn drop_enrolment(&mut self, epoch: u64) -> Option<Arc<Enrolment>> {
        let dropped = self.state.identity.enrolments.remove(epoch, &self.snapshots)?;
        self.indexes.identity.drop_enrolment(&dropped);
        Some(dropped)
    }
}
