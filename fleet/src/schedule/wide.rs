//! Tasks that take several slots or skills, or an object store, and need no resources: which of them an agent takes. One that
//! takes many slots waits while smaller ones leave it too few: no agent keeps slots free for it.

use super::{
    needing::{Needing, Shape},
    queue::Found,
    submitters::Turn,
};
use crate::{Agent, AgentId, Fleet, Role};

impl Fleet {
    /// Returns the first of these tasks that an agent can take, and whether it is no task of a specialist's domain.
    pub(crate) fn next_wide(&mut self, id: AgentId) -> Option<(bool, Found)> {
        if self.indexes.schedule.wide.ready == 0 {
            return None;
        }
        let mut wide = std::mem::take(&mut self.indexes.schedule.wide);
        let agent = self.state.agents.known.get(&id).filter(|agent| agent.free_slots() > 0);
        let found = agent.and_then(|agent| self.first_wide(&mut wide, agent));
        self.indexes.schedule.wide = wide;
        found
    }

    fn first_wide(&self, wide: &mut Needing, agent: &Agent) -> Option<(bool, Found)> {
        let team = self.team_of(agent.id).map(|team| team.id);
        let (skip, rules) = (|seq: u64| self.skipped(seq, agent), self.rules());
        let mut best = None;
        for (shape, ready) in wide.waiting() {
            let fits = shape.needs().can_go_to(agent) && shape.team.is_none_or(|of| team == Some(of));
            if !fits || rules.gate.holds(&shape.queue, &shape.limit_key) {
                continue;
            }
            let served = |submitter: &str| rules.shares.of_submitter(&shape.queue, submitter);
            let Some(turn) = ready.first(&served, &skip) else { continue };
            let is_own = agent.role == Role::Specialist && agent.has_specialization(&shape.domain);
            best = Found::preferred(best, (!is_own, Found::in_queue(&shape.queue, turn, rules)));
        }
        best
    }

    /// Returns the first of these tasks of a queue that some agent can take.
    pub(crate) fn first_wide_of(&mut self, queue: &str) -> Option<Found> {
        if self.indexes.schedule.wide.ready == 0 {
            return None;
        }
        let mut wide = std::mem::take(&mut self.indexes.schedule.wide);
        let found = self.first_placed(&mut wide, queue);
        self.indexes.schedule.wide = wide;
        found
    }

    fn first_placed(&self, wide: &mut Needing, queue: &str) -> Option<Found> {
        let rules = self.rules();
        let served = |submitter: &str| rules.shares.of_submitter(queue, submitter);
        let mut turns: Vec<(Turn, &Shape)> = Vec::new();
        for (shape, ready) in wide.waiting_in(queue) {
            if rules.gate.holds(queue, &shape.limit_key) {
                continue;
            }
            let turn = ready.first(&served, &|seq: u64| self.unplaced(seq));
            turns.extend(turn.map(|turn| (turn, shape)));
        }
        turns.sort_unstable_by(|(one, _), (other, _)| one.order().cmp(&other.order()));
        // Those with different keys need the same, most often: agents are looked at once for all of them.
        let mut unmet: Vec<&Shape> = Vec::new();
        for (turn, shape) in turns {
            let Some(task) = self.state.tasks.kept.get(&turn.rank.1) else { continue };
            if unmet.iter().any(|known| shape.needs_as_much_as(known)) {
                continue;
            }
            if self.best_for(task).is_some() {
                return Some(Found::in_queue(queue, turn, rules));
            }
            if !self.is_special(task) {
                unmet.push(shape);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use bytes::Bytes;

    use crate::{
        AgentCommand, AgentJoin, AskedLane, Command, ControlCommand, Demand, Fleet, FleetConfig, Limit, QueueCommand,
        QueueRules, Stamp, SubmitTask, TaskCommand, TaskId, TaskQueue, known_version,
    };

    fn join(name: String, slots: u32) -> Command {
        Command::Agent(AgentCommand::Joined(AgentJoin::worker(name, slots)))
    }

    /// Each key has a task of two slots, of which one may run, and no agent has two free.
    #[test]
    fn agents_are_looked_at_once_for_tasks_with_many_keys_that_need_the_same() {
        const KEYS: u64 = 200;
        const AGENTS: u64 = 100;
        let (mut fleet, mut effects) = (Fleet::new(FleetConfig::default()), Vec::new());
        let mut apply = |fleet: &mut Fleet, command: Command| fleet.apply(Stamp::at(1), command, &mut effects);
        apply(&mut fleet, Command::Control(ControlCommand::RaiseVersion(known_version())));
        let limits = vec![Limit { key: String::new(), concurrency: Some(1), rate: None }];
        let queue = TaskQueue { name: "q".to_owned(), rules: QueueRules { limits, ..QueueRules::of_weight(1) } };
        apply(&mut fleet, Command::Queue(QueueCommand::Update { set: vec![queue], remove: Vec::new() }));
        apply(&mut fleet, join("large".to_owned(), 2));
        for n in 0..AGENTS {
            apply(&mut fleet, join(format!("small-{n}"), 1));
        }
        for n in 0..KEYS {
            let lane = AskedLane { queue: "q".to_owned(), limit_key: format!("key-{n}"), identity: String::new() };
            let demand = Some(Box::new(Demand { slots: 2, ..Demand::default() }));
            let task = SubmitTask::new(TaskId(u128::from(n)), "sum", Bytes::new());
            let task = SubmitTask { lane: Some(Box::new(lane)), demand, ..task };
            apply(&mut fleet, Command::Task(TaskCommand::Submit(task)));
        }
        assert_eq!(fleet.counts().assigned, 1);
        let before = fleet.indexes.schedule.free.steps.0.load(Ordering::Relaxed);
        // Its slots stay taken until the agent has stopped it.
        apply(&mut fleet, Command::Task(TaskCommand::Cancel { task: TaskId(0), reason: String::new() }));
        let steps = fleet.indexes.schedule.free.steps.0.load(Ordering::Relaxed) - before;
        assert!(steps <= 4 * AGENTS, "{steps} steps");
        assert_eq!(fleet.audit(), Ok(()));
    }
}
