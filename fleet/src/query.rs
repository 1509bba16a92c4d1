//! Reads: tasks, agents, pools, counts, and what changed since a revision.

use std::ops::Bound;

use crate::indexes::PoolMembers;
use crate::limits::{MAX_PAGE, MAX_SCANNED};
use crate::{
    Agent, AgentId, AgentState, Fleet, FleetConfig, FleetMillis, Held, PoolView, Stamp, Task, TaskId, TaskState, Totals,
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
    pub tasks: Vec<&'a Task>,
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

    /// A task, unless it never existed or was forgotten.
    pub fn task(&self, id: TaskId) -> Option<&Task> {
        let seq = self.indexes.ids.get(&id)?;
        self.state.tasks.get(seq).map(Box::as_ref)
    }

    /// The tasks that changed after `revision`, each once, by their newest change.
    pub fn changed_tasks_since(&self, revision: u64) -> impl Iterator<Item = &Task> + '_ {
        self.indexes
            .task_revisions
            .range((Bound::Excluded(revision), Bound::Unbounded))
            .filter_map(|(_, seq)| self.state.tasks.get(seq).map(Box::as_ref))
    }

    /// The agents that changed after `revision`, each once, by their newest change.
    pub fn changed_agents_since(&self, revision: u64) -> impl Iterator<Item = &Agent> + '_ {
        self.indexes
            .agent_revisions
            .range((Bound::Excluded(revision), Bound::Unbounded))
            .filter_map(|(_, id)| self.state.agents.get(id))
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
                tasks.push(task.as_ref());
            }
        }
        TaskPage { tasks, next: None }
    }

    /// An agent, unless it never joined or was forgotten.
    pub fn agent(&self, id: AgentId) -> Option<&Agent> {
        self.state.agents.get(&id)
    }

    /// The agent of this name.
    pub fn agent_by_name(&self, name: &str) -> Option<&Agent> {
        self.agent(*self.indexes.names.get(name)?)
    }

    /// All agents that are known, by number.
    pub fn agents(&self) -> impl Iterator<Item = &Agent> + '_ {
        self.state.agents.values()
    }

    /// The agents that are known, by name, from after the name `after`.
    pub fn agents_by_name(&self, after: Option<&str>) -> impl Iterator<Item = &Agent> + '_ {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let names = self.indexes.names.range::<str, _>((start, Bound::Unbounded));
        names.filter_map(|(_, id)| self.agent(*id))
    }

    /// Agents by state. Looks at each.
    pub fn agent_counts(&self) -> AgentCounts {
        let mut counts = AgentCounts::default();
        for agent in self.agents() {
            match agent.state {
                AgentState::Live => counts.live += 1,
                AgentState::Standby => counts.standby += 1,
                AgentState::Draining => counts.draining += 1,
                AgentState::Lost => counts.lost += 1,
            }
        }
        counts
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
        self.agent(id).into_iter().flat_map(Agent::held)
    }

    /// What a queued task waits for at the fleet time `now`, in words; `None` if it is not queued. Looks at every agent.
    pub fn waiting_for(&self, id: TaskId, now: FleetMillis) -> Option<String> {
        let task = self.task(id).filter(|t| t.state == TaskState::Queued)?;
        if let Some(due) = task.not_before {
            let what = match task.attempts_used {
                0 => "delay",
                _ => "backoff",
            };
            return Some(match due.saturating_sub(now) {
                0 => format!("the end of its {what}, which is due"),
                left @ 1..1_000 => format!("the end of its {what}, {left} ms from now"),
                left => format!("the end of its {what}, {} s from now", left.div_ceil(1_000)),
            });
        }
        let needs = task.needs();
        let fits = |a: &&Agent| needs.fit(a.role, a.has_specialization(needs.domain));
        let state = |state: AgentState| {
            let fitting = self.agents().filter(fits);
            fitting.filter(|a| a.state == state).count()
        };
        let live = state(AgentState::Live);
        if live > 0 {
            return Some(format!("a free slot: all {live} fitting agents are busy"));
        }
        let role = task.required_role.map(|role| format!("role {role:?}"));
        let skill = task.required_specialization.as_ref();
        let skill = skill.map(|name| format!("specialization {name:?}"));
        let wanted: Vec<String> = role.into_iter().chain(skill).collect();
        let missing = match wanted.is_empty() {
            true => "takes its kind".to_owned(),
            false => format!("has {}", wanted.join(" and ")),
        };
        let mut others = Vec::new();
        for (count, word) in [
            (state(AgentState::Standby), "on standby"),
            (state(AgentState::Draining), "draining"),
            (state(AgentState::Lost), "lost"),
        ] {
            if count > 0 {
                others.push(format!("{count} {word}"));
            }
        }
        let others = match others.is_empty() {
            true => String::new(),
            false => format!(" ({})", others.join(", ")),
        };
        Some(format!("an agent: no live one {missing}{others}"))
    }
}
