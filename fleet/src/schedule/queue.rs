//! Which task an agent takes: the ready tasks, in sets per required role and per required role and domain, ordered by
//! priority and then by acceptance.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use crate::{Agent, Role, Task, limits::MAX_PRIORITY};

/// A task's place in the queue: higher priority first, then earlier acceptance.
pub(crate) type Rank = (u8, u64);

/// One set per required role; the first is for tasks that require none.
type ByRole = [BTreeSet<Rank>; 5];

/// The queued tasks that are ready.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct ReadyQueue {
    /// Tasks that require no specialization.
    general: ByRole,
    /// All tasks by domain: the required specialization, else the kind.
    domains: BTreeMap<String, ByRole>,
}

pub(crate) fn rank(task: &Task) -> Rank {
    (MAX_PRIORITY.saturating_sub(task.priority), task.seq)
}

fn column(role: Option<Role>) -> usize {
    role.map_or(0, |role| role as usize + 1)
}

/// Returns the first task of a set that is not to be skipped. `skip` returns, for one that is, the last number up to which
/// all of the same priority are skipped: those of one task that runs on several agents, of which there are not many.
pub(crate) fn first(set: &BTreeSet<Rank>, skip: &impl Fn(u64) -> Option<u64>) -> Option<Rank> {
    let mut next = set.first().copied();
    while let Some((priority, seq)) = next {
        let Some(last) = skip(seq) else { break };
        next = set.range((Bound::Excluded((priority, last.max(seq))), Bound::Unbounded)).next().copied();
    }
    next
}

impl ReadyQueue {
    /// Queues a task.
    pub(crate) fn insert(&mut self, task: &Task) {
        let (needs, rank) = (task.needs(), rank(task));
        let column = column(needs.role);
        if !needs.specialization_required {
            self.general[column].insert(rank);
        }
        let sets = match self.domains.get_mut(needs.domain) {
            Some(sets) => sets,
            None => self.domains.entry(needs.domain.to_owned()).or_default(),
        };
        sets[column].insert(rank);
    }

    /// Removes a task.
    pub(crate) fn remove(&mut self, task: &Task) {
        let (needs, rank) = (task.needs(), rank(task));
        let column = column(needs.role);
        self.general[column].remove(&rank);
        if let Some(sets) = self.domains.get_mut(needs.domain) {
            sets[column].remove(&rank);
            if sets.iter().all(BTreeSet::is_empty) {
                self.domains.remove(needs.domain);
            }
        }
    }

    /// Returns whether no task is queued.
    pub(crate) fn is_empty(&self) -> bool {
        self.domains.is_empty()
    }

    /// Returns the task that `agent` should take next, as a pair that is lower for the better one of two queues: whether
    /// it is no task of a specialist's domain, and its place. A specialist takes a task of its domain first; other
    /// agents, and a specialist without such a task, take the first by priority and acceptance. It takes none of those
    /// that `skip` names.
    pub(crate) fn next_for(&self, agent: &Agent, skip: &impl Fn(u64) -> Option<u64>) -> Option<(bool, Rank)> {
        let own = column(Some(agent.role));
        let domain = agent
            .specializations
            .iter()
            .filter_map(|name| self.domains.get(name.as_ref()))
            .flat_map(|sets| [first(&sets[0], skip), first(&sets[own], skip)])
            .flatten()
            .min();
        if agent.role == Role::Specialist
            && let Some(rank) = domain
        {
            return Some((false, rank));
        }
        let everyone = match agent.role {
            Role::Worker | Role::Specialist => first(&self.general[0], skip),
            Role::Messenger | Role::Guardian => None,
        };
        let general = [everyone, first(&self.general[own], skip)];
        general.into_iter().flatten().chain(domain).min().map(|rank| (true, rank))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use bytes::Bytes;

    use crate::{
        AgentCommand, AgentId, AgentJoin, Command, ControlCommand, Fleet, FleetConfig, Reply, Role, Stamp, SubmitTask,
        TaskCommand, TaskId, Verify, known_version,
        limits::{MAX_VERIFIED_TASKS, MAX_VERIFYING_AGENTS},
    };

    #[test]
    fn an_agent_that_has_had_its_turns_looks_once_at_each_task() {
        let mut effects = Vec::new();
        let mut fleet = Fleet::new(FleetConfig::default());
        fleet.apply(Stamp::at(1), Command::Control(ControlCommand::RaiseVersion(known_version())), &mut effects);
        let join = AgentJoin {
            name: "wide".to_owned(),
            incarnation: 1,
            role: Role::Worker,
            pool: None,
            specializations: Vec::new(),
            slots: MAX_VERIFIED_TASKS + 1,
            address: String::new(),
            process: None,
            pid: 1,
            version: String::new(),
            sealing_key: None,
            contributed: None,
        };
        let joined = fleet.apply(Stamp::at(1), Command::Agent(AgentCommand::Joined(join)), &mut effects);
        let agent = if let Reply::Joined { agent, .. } = joined { agent } else { AgentId(u32::MAX) };
        for n in 0..u128::from(MAX_VERIFIED_TASKS) {
            let (agents, agree) = (MAX_VERIFYING_AGENTS, MAX_VERIFYING_AGENTS);
            let verify = Some(Box::new(Verify { agents, agree, pointer: None, compare: None }));
            let task = SubmitTask { verify, ..SubmitTask::new(TaskId(n), "sum", Bytes::new()) };
            fleet.apply(Stamp::at(1), Command::Task(TaskCommand::Submit(task)), &mut effects);
        }
        assert_eq!(fleet.counts().assigned, MAX_VERIFIED_TASKS, "a run of each; the others are queued");
        let agent = fleet.agent(agent).expect("it has joined");
        let looks = Cell::new(0);
        let skip = |seq: u64| {
            looks.set(looks.get() + 1);
            fleet.skipped(seq, agent)
        };
        assert_eq!(fleet.indexes.schedule.queue.next_for(agent, &skip), None);
        assert_eq!(looks.get(), MAX_VERIFIED_TASKS);
    }
}
