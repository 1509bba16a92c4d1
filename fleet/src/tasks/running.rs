//! Queries about what runs of a task: for those who follow it, and for those who wait until nothing of it runs any more.

use std::{collections::BTreeSet, sync::Arc};

use crate::{AgentId, Attempt, Fleet, Task, TaskId};

/// What runs of a task on agents that are not known to be gone.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remains {
    /// Whether the task will never run again: it is in a final state, or not known (any more).
    pub is_final: bool,
    /// The names of the agents that run an attempt of it, or have not reported that one of it has stopped.
    pub agents: BTreeSet<Arc<str>>,
}

impl Remains {
    /// Returns whether nothing of the task runs, or ever will.
    pub fn is_nothing(&self) -> bool {
        self.is_final && self.agents.is_empty()
    }
}

/// An attempt at a task, or at one of its members.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct TaskRun {
    /// The id that the agent knows: that of the task, or of its member.
    pub task: TaskId,
    /// The fencing number.
    pub attempt: u32,
    /// The name of the agent that has it, or had it.
    pub agent: Arc<str>,
    /// Whether it has not ended.
    pub is_current: bool,
}

impl Fleet {
    /// Returns the members of a task that have not ended.
    fn members_of<'a>(&'a self, task: &'a Task) -> impl Iterator<Item = &'a Arc<Task>> + 'a {
        let members = task.verification.iter().flat_map(|verification| &verification.members);
        members.filter_map(|seq| self.state.tasks.kept.get(seq))
    }

    /// Returns the ids under which agents have attempts at a task besides its own: those of its runs and comparisons, which
    /// end with it. None once the task is forgotten, which can be before all that runs of it has stopped. What its parts and
    /// subtasks run is found by [`Fleet::walk_below`].
    pub fn parts_of(&self, id: TaskId) -> Vec<TaskId> {
        self.task(id).map_or(Vec::new(), |task| self.own_parts(task))
    }

    /// Returns the same for a task that is known.
    pub(super) fn own_parts(&self, task: &Task) -> Vec<TaskId> {
        let members = self.members_of(task).map(|member| member.id);
        let comparison = task.verification.iter().filter_map(|verification| verification.comparing);
        let comparison = comparison.filter_map(|seq| Some(self.state.tasks.kept.get(&seq)?.id));
        let removed = task.verification.iter().flat_map(|verification| verification.stopping.iter().copied());
        members.chain(comparison).chain(removed).collect()
    }

    /// Returns what runs of a task itself.
    pub fn remains_of(&self, id: TaskId) -> Remains {
        self.remains_with(id, self.parts_of(id))
    }

    /// Returns what runs of a task and of these parts, which it has or had when it was still known.
    pub fn remains_with(&self, id: TaskId, parts: impl IntoIterator<Item = TaskId>) -> Remains {
        let task = self.task(id);
        let parts = std::iter::once(id).chain(parts);
        Remains {
            is_final: task.is_none_or(|task| task.state.is_final()),
            agents: parts.flat_map(|part| self.agents_with(part)).cloned().collect(),
        }
    }

    /// Returns the names of the agents that run an attempt at what has this id, or have not reported that one of it has
    /// stopped.
    pub fn agents_with(&self, id: TaskId) -> impl Iterator<Item = &Arc<str>> {
        let current = self.task(id).and_then(|task| task.current()).map(|attempt| attempt.agent);
        let stopping = self.stopping_of(id).map(|(_, agent)| agent);
        current.into_iter().chain(stopping).filter_map(move |agent| Some(&self.agent(agent)?.name))
    }

    /// Returns the attempts that agents are stopping for a task id. What an agent held that was just lost may still be in
    /// the index, but runs no more.
    fn stopping_of(&self, part: TaskId) -> impl Iterator<Item = (u32, AgentId)> + '_ {
        let holds = move |(attempt, agent): &(u32, AgentId)| {
            self.agent(*agent).is_some_and(|agent| agent.held.contains_key(&(part, *attempt)))
        };
        self.indexes.agents.stopping.of_task(part).filter(holds)
    }

    /// Returns the attempt with a number, or the newest one. Of a task with several runs, those that have not ended, each
    /// with its own number.
    pub fn runs_of(&self, task: &Task, attempt: Option<u32>) -> Vec<TaskRun> {
        let run = |of: &Task, attempt: &Attempt| TaskRun {
            task: of.id,
            attempt: attempt.number,
            agent: Arc::clone(&attempt.agent_name),
            is_current: attempt.end.is_none(),
        };
        let is_wanted = |of: &Attempt| attempt.is_none_or(|number| of.number == number);
        if task.verification.is_some() {
            let members = self.members_of(task).filter_map(|member| Some((member, member.current()?)));
            return members.filter(|(_, of)| is_wanted(of)).map(|(member, of)| run(member, of)).collect();
        }
        let found = task.attempts.iter().rev().find(|of| is_wanted(of));
        found.map(|of| run(task, of)).into_iter().collect()
    }

    /// Returns the agent that has an attempt, had it, or is stopping it; `None` if that is not known (any more).
    pub fn holder_of(&self, task: TaskId, attempt: u32) -> Option<AgentId> {
        let kept = self.task(task).and_then(|task| task.attempts.iter().find(|of| of.number == attempt));
        let stopping = || self.stopping_of(task).find(|(number, _)| *number == attempt);
        kept.map(|of| of.agent).or_else(|| stopping().map(|(_, agent)| agent))
    }
}
