//! Reads: tasks, agents, pools, counts, and what changed since a revision.

use std::{ops::Bound, sync::Arc};

use crate::{
    Agent, AgentId, AgentState, Fleet, FleetConfig, FleetMillis, Held, PoolView, Stamp, Task, TaskId, TaskState,
    Totals,
    indexes::PoolMembers,
    limits::{MAX_PAGE, MAX_SCANNED},
};

/// Which tasks a listing is about. Empty: all.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TaskFilter {
    /// In any of these states.
    pub states: Vec<TaskState>,
    /// Of this kind.
    pub kind: Option<String>,
    /// From this submitter.
    pub submitter: Option<String>,
    /// Whose newest attempt went to the agent of this name.
    pub agent: Option<String>,
}

impl TaskFilter {
    /// Whether `task` is one of them.
    pub fn matches(&self, task: &Task) -> bool {
        let is = |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|w| w == value);
        let agent = task.attempts.last().map(|a| a.agent_name.as_ref());
        (self.states.is_empty() || self.states.contains(&task.state))
            && is(&self.kind, &task.kind)
            && is(&self.submitter, &task.submitter)
            && self.agent.as_deref().is_none_or(|w| agent == Some(w))
    }
}

/// A page of a listing.
#[derive(Debug)]
pub struct TaskPage<'a> {
    /// Oldest first.
    pub tasks: Vec<&'a Arc<Task>>,
    /// Where the next page starts after; `None` if this is the last one.
    pub next: Option<u64>,
}

/// Tasks that are kept, by state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Waiting.
    pub queued: u32,
    /// Given to an agent.
    pub assigned: u32,
    /// Finished so.
    pub succeeded: u32,
    /// Finished so.
    pub failed: u32,
    /// Finished so.
    pub cancelled: u32,
    /// Finished so.
    pub dead_lettered: u32,
}

/// Agents that are known, by state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AgentCounts {
    /// Given work.
    pub live: u32,
    /// Waiting.
    pub standby: u32,
    /// Finishing what they have.
    pub draining: u32,
    /// Gone and remembered.
    pub lost: u32,
    /// Given nothing until they are healthy again.
    pub unhealthy: u32,
}

impl Fleet {
    /// Raised by every change of a task or an agent; equal revisions of one log mean equal tasks and agents.
    pub fn revision(&self) -> u64 {
        self.state.revision
    }

    /// The latest fleet time seen, and the wall time that came with the newest command.
    pub fn now(&self) -> Stamp {
        self.state.now
    }

    /// Which version of its behaviour is in force.
    pub fn version(&self) -> u32 {
        self.state.version
    }

    /// The configuration in force.
    pub fn config(&self) -> &FleetConfig {
        &self.state.config
    }

    /// A task, unless it never existed or was forgotten. A clone of the `Arc` keeps it as it is now.
    pub fn task(&self, id: TaskId) -> Option<&Arc<Task>> {
        let seq = self.indexes.ids.get(&id)?;
        self.state.tasks.get(seq)
    }

    /// The tasks that changed after `revision`, each once, by their newest change.
    pub fn changed_tasks_since(&self, revision: u64) -> impl Iterator<Item = &Arc<Task>> + '_ {
        self.indexes
            .task_revisions
            .range((Bound::Excluded(revision), Bound::Unbounded))
            .filter_map(|(_, seq)| self.state.tasks.get(seq))
    }

    /// The agents that changed after `revision`, each once, by their newest change.
    pub fn changed_agents_since(&self, revision: u64) -> impl Iterator<Item = &Agent> + '_ {
        self.indexes
            .agent_revisions
            .range((Bound::Excluded(revision), Bound::Unbounded))
            .filter_map(|(_, id)| self.state.agents.get(id).map(Arc::as_ref))
    }

    /// At most `limit` (at least 1, at most [`MAX_PAGE`]) tasks in order of acceptance, from after the cursor. Looks at no
    /// more than [`MAX_SCANNED`] tasks, so a page may be short, even empty, and have a next one.
    pub fn tasks(&self, filter: &TaskFilter, after: Option<u64>, limit: usize) -> TaskPage<'_> {
        let limit = limit.clamp(1, MAX_PAGE);
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut tasks = Vec::new();
        let mut last = None;
        for (scanned, (seq, task)) in self.state.tasks.range((start, Bound::Unbounded)).enumerate() {
            if tasks.len() == limit || scanned == MAX_SCANNED {
                return TaskPage { tasks, next: last };
            }
            last = Some(*seq);
            if filter.matches(task) {
                tasks.push(task);
            }
        }
        TaskPage { tasks, next: None }
    }

    /// An agent, unless it never joined or was forgotten. A clone of the `Arc` keeps it as it is now.
    pub fn agent(&self, id: AgentId) -> Option<&Arc<Agent>> {
        self.state.agents.get(&id)
    }

    /// The agent of this name.
    pub fn agent_by_name(&self, name: &str) -> Option<&Arc<Agent>> {
        self.agent(*self.indexes.names.get(name)?)
    }

    /// All agents that are known, by number.
    pub fn agents(&self) -> impl Iterator<Item = &Arc<Agent>> + '_ {
        self.state.agents.values()
    }

    /// The agents that are known, by name, from after the name `after`.
    pub fn agents_by_name(&self, after: Option<&str>) -> impl Iterator<Item = &Arc<Agent>> + '_ {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let names = self.indexes.names.range::<str, _>((start, Bound::Unbounded));
        names.filter_map(|(_, id)| self.agent(*id))
    }

    /// The agents with numbers above `after`, or all, by number: for reading many of them in slices.
    pub fn agents_after(&self, after: Option<AgentId>) -> impl Iterator<Item = &Arc<Agent>> + '_ {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.state.agents.range((start, Bound::Unbounded)).map(|(_, agent)| agent)
    }

    /// Agents by state.
    pub fn agent_counts(&self) -> AgentCounts {
        let count = |state: AgentState| self.indexes.agent_counts[state as usize];
        AgentCounts {
            live: count(AgentState::Live),
            standby: count(AgentState::Standby),
            draining: count(AgentState::Draining),
            lost: count(AgentState::Lost),
            unhealthy: count(AgentState::Unhealthy),
        }
    }

    /// The pools, by name; those whose size was set also while they have no agent.
    pub fn pools(&self) -> Vec<PoolView> {
        let pools = self.state.pools.iter();
        let empty = PoolMembers::default();
        let view = pools.map(|(name, pool)| {
            let members = self.indexes.pools.get(name).unwrap_or(&empty);
            PoolView {
                name: name.clone(),
                live: members.live,
                standby: members.standby.len() as u32,
                desired: members.desired(pool.replicas, pool.standby),
            }
        });
        view.collect()
    }

    /// Tasks that are kept, by state.
    pub fn counts(&self) -> Counts {
        let count = |state: TaskState| self.indexes.counts[state as usize];
        Counts {
            queued: count(TaskState::Queued),
            assigned: count(TaskState::Assigned),
            succeeded: count(TaskState::Succeeded),
            failed: count(TaskState::Failed),
            cancelled: count(TaskState::Cancelled),
            dead_lettered: count(TaskState::DeadLettered),
        }
    }

    /// Sums since the fleet began.
    pub fn totals(&self) -> &Totals {
        &self.state.totals
    }

    /// Bytes that count against [`FleetConfig::max_bytes`].
    pub fn stored_bytes(&self) -> u64 {
        self.indexes.bytes
    }

    /// When the next timer is due; in the past if one command could not fire all that was.
    pub fn next_due(&self) -> Option<FleetMillis> {
        self.indexes.timers.next_due()
    }

    /// The taken slots of an agent; none if it is unknown.
    pub fn held(&self, id: AgentId) -> impl Iterator<Item = Held> + '_ {
        self.agent(id).into_iter().flat_map(|agent| agent.held())
    }
}
