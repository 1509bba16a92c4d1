//! What the fleet's directory shows of an agent, and which agents have changed in it. Most changes of an agent are that
//! it begins or finishes a task, which the directory does not show.

use std::sync::Arc;

use crate::{Agent, AgentState, Effect, Fleet, Role, TrackRecord};

/// What the directory shows of an agent, besides its name and its enrolment. Of the record it shows
/// [`TrackRecord::twentieths`].
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct Shown {
    role: Role,
    state: AgentState,
    pool: Option<String>,
    specializations: Vec<Arc<str>>,
    address: String,
    twentieths: u32,
    sealing_key: Option<[u8; 32]>,
}

/// The agents that have changed in the directory since the last step, in the order of their changes.
#[derive(Clone, Debug, Default)]
pub(crate) struct DirectoryChanges(Vec<Arc<str>>);

impl Shown {
    pub(crate) fn of(agent: &Agent) -> Self {
        Self {
            role: agent.role,
            state: agent.state,
            pool: agent.pool.clone(),
            specializations: agent.specializations.clone(),
            address: agent.address.clone(),
            twentieths: agent.record.twentieths(),
            sealing_key: agent.sealing_key,
        }
    }
}

impl DirectoryChanges {
    /// Records that what the directory shows of this agent has changed.
    pub(crate) fn note(&mut self, agent: &Arc<str>) {
        if self.0.last() != Some(agent) {
            self.0.push(Arc::clone(agent));
        }
    }
}

impl TrackRecord {
    /// Returns the performance in twentieths, rounded, 0 to 20: coarse, so that results of tasks rarely change it.
    pub fn twentieths(&self) -> u32 {
        (self.performance() * 20 + 500) / 1000
    }
}

impl Fleet {
    /// Reports the changes of the directory as effects. Called after each step, so that the effects do not depend on how
    /// the steps of a command are divided.
    pub(crate) fn report_directory(&mut self, effects: &mut Vec<Effect>) {
        if self.directory.0.is_empty() {
            // Few steps change any, and even an empty drain has its cost.
            return;
        }
        effects.extend(self.directory.0.drain(..).map(|agent| Effect::DirectoryChanged { agent }));
    }

    /// Records that the identity of an agent, which the directory shows, has changed. Does nothing if the agent is not
    /// known.
    pub(crate) fn note_identity(&mut self, agent: &str) {
        if let Some(name) = self.agent_by_name(agent).map(|agent| Arc::clone(&agent.name)) {
            // Watchers of the directory resume by the revision.
            self.next_revision();
            self.directory.note(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_performance_is_rounded_to_twentieths() {
        let of = |success| TrackRecord { success, speed: TrackRecord::ONE, ..TrackRecord::BLANK }.twentieths();
        // Three tenths are the speed.
        assert_eq!((of(0), of(TrackRecord::ONE)), (6, 20));
        let (half_a_step, next) = (35_714, 35_715);
        assert_eq!((of(half_a_step), of(next)), (6, 7));
        assert_eq!((of(36_000), of(107_000), of(107_200)), (7, 7, 8));
        let none = TrackRecord { success: 0, speed: 0, ..TrackRecord::BLANK };
        assert_eq!(none.twentieths(), 0);
    }
}
