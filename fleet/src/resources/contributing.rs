//! What agents contribute, from their joins or their later word until their sessions end, and the queues of the
//! administrator.

use super::{Contribution, Holder, Queue, amounts::Amounts, command::QueueShape};
use crate::{
    AgentId, AllocationEnd, Effect, Feature, Fleet, Refusal, Reply, SessionId,
    limits::{DEFAULT_QUEUE, MAX_QUEUES, MAX_TASK_QUEUES},
    steps::{Job, Jobs},
};

impl Fleet {
    /// Returns whether an agent in this session is known to contribute something else, and this can be recorded, or
    /// what is granted of it if that is more.
    pub fn lacks_contribution(&self, id: AgentId, session: SessionId, amounts: Amounts) -> bool {
        self.contributes_other(id, amounts) && self.has(Feature::Resources) && self.in_session(id, session)
    }

    fn contributes_other(&self, id: AgentId, amounts: Amounts) -> bool {
        match self.indexes.resources.agents.get(&id) {
            None => amounts != Amounts::NONE,
            Some(agent) => agent.contributed != amounts.at_least(agent.used),
        }
    }

    pub(super) fn contribute(&mut self, id: AgentId, session: SessionId, amounts: Amounts) -> Reply {
        if let Err(refusal) = amounts.check("contributed") {
            return Reply::Refused(refusal);
        }
        if !self.in_session(id, session) {
            return Reply::Refused(Refusal::StaleSession);
        }
        self.note_contribution(id, amounts);
        Reply::Done
    }

    /// Notes what a known agent contributes from now on.
    pub(crate) fn note_contribution(&mut self, id: AgentId, amounts: Amounts) {
        if !self.contributes_other(id, amounts) {
            return;
        }
        let known = self.indexes.resources.agents.get(&id).map(|agent| (agent.number, agent.used));
        match known {
            Some((number, used)) if amounts.at_least(used) == Amounts::NONE => self.drop_contribution(number),
            // What is granted stays granted, and no more is.
            Some((number, used)) => self.change_contribution(number, amounts.at_least(used)),
            None => self.add_contribution(id, amounts),
        }
        self.wake_allocations();
    }

    fn add_contribution(&mut self, agent: AgentId, amounts: Amounts) {
        let contribution = self.state.resources.contributions.add(|number| Contribution { number, agent, amounts });
        self.indexes.resources.enter_contribution(contribution);
        if let Some(agent) = self.state.agents.known.get(&agent) {
            self.indexes.resources.enter_agent(agent);
        }
    }

    fn change_contribution(&mut self, number: u64, amounts: Amounts) {
        let changed = self.state.resources.contributions.change(number, &self.snapshots, |contribution| {
            (contribution.agent, std::mem::replace(&mut contribution.amounts, amounts))
        });
        if let Some((agent, before)) = changed {
            self.indexes.resources.set_amounts(agent, before, amounts);
        }
    }

    fn drop_contribution(&mut self, number: u64) {
        if let Some(contribution) = self.state.resources.contributions.remove(number, &self.snapshots) {
            self.indexes.resources.leave_contribution(&contribution);
        }
    }

    /// Schedules the end of what an agent holds and gives, because its session has ended.
    pub(crate) fn withdraw_afterwards(&self, id: AgentId, name: &str, jobs: &mut Jobs) {
        let indexes = &self.indexes.resources;
        let holder = Holder::Agent(name.to_owned());
        if indexes.agents.contains_key(&id) || indexes.holders.contains_key(&holder) {
            jobs.push(Job::Withdraw(id, holder));
        }
    }

    /// Ends one allocation that an agent holds or gives a part of. If there is none, its contribution ends. Returns
    /// whether there was one.
    pub(crate) fn withdraw_one(&mut self, id: AgentId, holder: &Holder, effects: &mut Vec<Effect>) -> bool {
        let indexes = &self.indexes.resources;
        let held = indexes.holders.get(holder).and_then(|held| held.allocations.first());
        if let Some(seq) = held.copied() {
            self.end_allocation(seq, AllocationEnd::HolderGone, effects);
            return true;
        }
        let agent = indexes.agents.get(&id);
        if let Some(seq) = agent.and_then(|agent| agent.allocations.first()).copied() {
            self.end_allocation(seq, AllocationEnd::AgentLost, effects);
            return true;
        }
        if let Some(number) = agent.map(|agent| agent.number) {
            self.drop_contribution(number);
            // The shares of all queues are larger now.
            self.wake_allocations();
        }
        false
    }

    pub(super) fn set_queues(&mut self, shapes: Vec<QueueShape>) -> Reply {
        if let Err(refusal) = QueueShape::check_all(&shapes) {
            return Reply::Refused(refusal);
        }
        let is_of_tasks = |name: &String| self.state.queues.set.contains_key(name);
        let is_named = |name: &String| shapes.iter().any(|shape| shape.name == *name);
        let stays = |name: &String| name == DEFAULT_QUEUE || is_named(name) || is_of_tasks(name);
        let left = self.indexes.resources.queues.keys().filter(|name| !stays(name)).count();
        if left + shapes.len() + 1 > MAX_QUEUES {
            return Reply::Refused(Refusal::Full {
                what: "queues, with those that are left out and in use".to_owned(),
                limit: MAX_QUEUES as u64,
                remedy: "name those in use as well, or wait until nothing is granted from them".to_owned(),
            });
        }
        if self.left_queues(stays) > MAX_TASK_QUEUES {
            return Reply::Refused(Refusal::Full {
                what: "queues that are removed and in use".to_owned(),
                limit: MAX_TASK_QUEUES as u64,
                remedy: "wait until nothing is granted from them, and their tasks have finished".to_owned(),
            });
        }
        let queues = shapes.into_iter().map(|QueueShape { name, weight, quota }| (name, Queue { weight, quota }));
        self.state.resources.queues = queues.collect();
        self.forget_left_shares();
        self.wake_allocations();
        Reply::Done
    }
}
