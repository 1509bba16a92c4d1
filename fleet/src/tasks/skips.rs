//! Which tasks an agent passes over although it has a free slot and what they require: those of which it has had its turn, and
//! those that it is still stopping.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Agent, Fleet, Task,
    agents::indexes::{AgentIndexes, Stopping},
    fleet::State,
    tasks::indexes::TaskIndexes,
};

/// What tells which tasks an agent passes over.
#[derive(Clone, Copy)]
pub(crate) struct Skips<'a> {
    kept: &'a BTreeMap<u64, Arc<Task>>,
    members: &'a BTreeMap<u64, u64>,
    stopping: &'a Stopping,
}

impl<'a> Skips<'a> {
    pub(crate) fn new(state: &'a State, tasks: &'a TaskIndexes, agents: &'a AgentIndexes) -> Self {
        Self { kept: &state.tasks.kept, members: &tasks.members, stopping: &agents.stopping }
    }

    /// Returns the last of the members of a task that an agent can't take, or the task itself if it is no member;
    /// `None` if the agent can take it.
    pub(crate) fn of(self, seq: u64, agent: &Agent) -> Option<u64> {
        if self.is_stopping_there(seq, agent) {
            return Some(seq);
        }
        if self.members.is_empty() {
            return None;
        }
        let parent = self.kept.get(self.members.get(&seq)?)?;
        let verification = parent.verification.as_ref()?;
        if verification.comparing == Some(seq) {
            return parent.givers().contains(&&agent.name).then_some(seq);
        }
        let holds = |seq: &u64| {
            let task = self.kept.get(seq);
            task.and_then(|task| task.current()).is_some_and(|attempt| attempt.agent == agent.id)
        };
        let is_excluded = parent.spent().any(|spent| *spent == agent.name) || verification.members.iter().any(holds);
        is_excluded.then(|| verification.members.last().copied().unwrap_or(seq))
    }

    /// Returns whether an agent is still stopping an attempt at a task that is watched for progress.
    fn is_stopping_there(self, seq: u64, agent: &Agent) -> bool {
        // Few agents stop anything, and this is asked of every task that an agent could take.
        if self.stopping.of(agent.id) == 0 {
            return false;
        }
        let watched = self.kept.get(&seq).filter(|task| task.progress_timeout().is_some());
        watched.is_some_and(|task| self.stopping.agents_of(task.id).any(|of| of == agent.id))
    }
}

impl Fleet {
    /// Returns what [`Skips::of`] does.
    pub(crate) fn skipped(&self, seq: u64, agent: &Agent) -> Option<u64> {
        Skips::new(&self.state, &self.indexes.tasks, &self.indexes.agents).of(seq, agent)
    }
}
