//! Queries about who may be in the fleet.

use std::sync::Arc;

use super::{Bar, Enrolment, command::IdentityConfig};
use crate::Fleet;

impl Fleet {
    /// Returns what the fleet trusts; `None` if no administrator has set it.
    pub fn identity_config(&self) -> Option<&Arc<IdentityConfig>> {
        self.state.identity.config.as_ref()
    }

    /// Returns the enrolment of the agent with this name. A clone of the `Arc` keeps it as it is now.
    pub fn enrolment_of(&self, agent: &str) -> Option<&Arc<Enrolment>> {
        self.state.identity.enrolments.get(*self.indexes.identity.enrolled.get(agent)?)
    }

    /// Returns the enrolments with epochs above `after`, oldest first, so that many can be read in slices.
    pub fn enrolments_after(&self, after: u64) -> impl Iterator<Item = &Arc<Enrolment>> + '_ {
        self.state.identity.enrolments.after(after)
    }

    /// Returns the bar of the agent with this name.
    pub fn bar_of(&self, agent: &str) -> Option<&Arc<Bar>> {
        self.state.identity.bars.get(*self.indexes.identity.barred.get(agent)?)
    }

    /// Returns all bars, oldest first.
    pub fn bars(&self) -> impl Iterator<Item = &Arc<Bar>> + '_ {
        self.state.identity.bars.iter()
    }

    /// Returns the number of used proofs that are remembered.
    pub fn spent_proofs(&self) -> usize {
        self.state.identity.spent.len()
    }
}
