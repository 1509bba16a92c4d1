//! Indexes of identities, so that no operation has to search them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Bar, Enrolment, SpentProof, state::Identity};
use crate::{Agent, AgentState, UnixMillis, fixed_map::FixedMap};

/// The indexes of identities.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct IdentityIndexes {
    /// Epochs of enrolments by the agent's name.
    pub enrolled: BTreeMap<Arc<str>, u64>,
    /// Epochs of enrolments of agents without a session.
    pub absent: BTreeSet<u64>,
    /// Numbers of bars by the agent's name.
    pub barred: BTreeMap<Arc<str>, u64>,
    /// Numbers of used proofs by their ids.
    pub spent: FixedMap<[u8; 32], u64>,
    /// When used proofs are forgotten, and their numbers.
    pub forgotten_at: BTreeSet<(UnixMillis, u64)>,
}

impl IdentityIndexes {
    /// Computes the indexes as if no agent had a session; [`IdentityIndexes::enter_agent`] does the rest.
    pub(crate) fn rebuild(state: &Identity) -> Self {
        let mut indexes = Self::default();
        state.enrolments.iter().for_each(|enrolment| indexes.add_enrolment(enrolment, false));
        state.bars.iter().for_each(|bar| indexes.add_bar(bar));
        state.spent.iter().for_each(|spent| indexes.add_spent(spent));
        indexes
    }

    /// Notes that an agent has a session, if it has.
    pub(crate) fn enter_agent(&mut self, agent: &Agent) {
        if agent.state != AgentState::Lost
            && let Some(epoch) = self.enrolled.get(&agent.name)
        {
            self.absent.remove(epoch);
        }
    }

    /// Undoes [`IdentityIndexes::enter_agent`], before a change.
    pub(crate) fn leave_agent(&mut self, agent: &Agent) {
        if let Some(epoch) = self.enrolled.get(&agent.name) {
            self.absent.insert(*epoch);
        }
    }

    pub(crate) fn add_enrolment(&mut self, enrolment: &Enrolment, in_session: bool) {
        self.enrolled.insert(Arc::clone(&enrolment.agent), enrolment.epoch);
        if !in_session {
            self.absent.insert(enrolment.epoch);
        }
    }

    pub(crate) fn drop_enrolment(&mut self, enrolment: &Enrolment) {
        self.enrolled.remove(&enrolment.agent);
        self.absent.remove(&enrolment.epoch);
    }

    pub(crate) fn add_bar(&mut self, bar: &Bar) {
        self.barred.insert(Arc::clone(&bar.agent), bar.number);
    }

    pub(crate) fn drop_bar(&mut self, bar: &Bar) {
        self.barred.remove(&bar.agent);
    }

    pub(crate) fn add_spent(&mut self, spent: &SpentProof) {
        self.spent.insert(spent.proof.id, spent.number);
        self.forgotten_at.insert((spent.proof.forgotten_at(), spent.number));
    }

    pub(crate) fn drop_spent(&mut self, spent: &SpentProof) {
        self.spent.remove(&spent.proof.id);
        self.forgotten_at.remove(&(spent.proof.forgotten_at(), spent.number));
    }
}
