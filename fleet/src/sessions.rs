//! The stays of agents in the fleet: joining, being lost, draining, leaving. Who of them waits as standby is in `pools`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::config::{check_length, check_name, invalid};
use crate::limits::{MAX_AGENTS, MAX_NAME_BYTES, MAX_SLOTS, MAX_SPECIALIZATIONS};
use crate::{
    Agent, AgentId, AgentJoin, AgentState, Effect, Fleet, HeldState, LossReason, Refusal, Reply, SessionId,
    agent::Loss, queue,
};

impl AgentJoin {
    /// Refuses a join that is out of its bounds, whatever the fleet's state.
    pub fn check(&self) -> Result<(), Refusal> {
        check_name("name", &self.name)?;
        if !(1..=MAX_SLOTS).contains(&self.slots) {
            let problem = format!("is {}, must be 1 to {MAX_SLOTS}", self.slots);
            return Err(invalid("slots", problem));
        }
        if self.specializations.len() > MAX_SPECIALIZATIONS {
            let problem = format!("has {} entries, the most is {MAX_SPECIALIZATIONS}", self.specializations.len());
            return Err(invalid("specializations", problem));
        }
        for name in &self.specializations {
            check_name("specializations", name)?;
        }
        if let Some(pool) = &self.pool {
            check_name("pool", &pool.name)?;
        }
        check_length("address", &self.address, MAX_NAME_BYTES)?;
        check_length("version", &self.version, MAX_NAME_BYTES)
    }
}

fn sorted(names: Vec<String>) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> = names.into_iter().map(Arc::from).collect();
    names.sort();
    names.dedup();
    names
}

impl Fleet {
    pub(crate) fn join(&mut self, join: AgentJoin, effects: &mut Vec<Effect>) -> Reply {
        if let Err(refusal) = join.check() {
            return Reply::Refused(refusal);
        }
        let known = self.indexes.names.get(join.name.as_str()).copied();
        let known = known.and_then(|id| self.state.agents.get(&id));
        match known {
            Some(agent) if agent.state == AgentState::Lost => {
                let id = agent.id;
                self.enter(id, join, effects)
            }
            Some(agent) if agent.incarnation == join.incarnation => {
                let (id, session) = (agent.id, agent.session);
                self.resume(id, join, effects);
                Reply::Joined { agent: id, session }
            }
            Some(agent) => {
                let id = agent.id;
                // Its place in the pool is its own again at once, so no standby is activated in between.
                let requeued = self.end_session(id, Some(LossReason::Replaced), effects);
                self.place_all(requeued, effects);
                self.enter(id, join, effects)
            }
            None => self.join_new(join, effects),
        }
    }

    /// The session of a live process goes on, with what it now says about itself.
    fn resume(&mut self, id: AgentId, join: AgentJoin, effects: &mut Vec<Effect>) {
        let before = self.state.agents.get(&id).and_then(|a| a.pool.clone());
        self.describe(id, join);
        let after = self.state.agents.get(&id).and_then(|a| a.pool.clone());
        self.pull(id, effects);
        self.refill(before.as_deref(), after.as_deref(), effects);
    }

    /// Takes what a join says about an agent that is known, and its word about the pool.
    fn describe(&mut self, id: AgentId, join: AgentJoin) {
        let pool = self.note_pool(join.pool.as_ref());
        self.change_agent(id, |agent| {
            agent.role = join.role;
            agent.pool = pool;
            agent.specializations = sorted(join.specializations);
            // Slots that are taken can't be taken away.
            agent.slots = join.slots.max(agent.used_slots());
            agent.address = join.address;
            agent.process = join.process;
            agent.pid = join.pid;
            agent.version = join.version;
        });
    }

    fn join_new(&mut self, join: AgentJoin, effects: &mut Vec<Effect>) -> Reply {
        if self.state.agents.len() >= MAX_AGENTS as usize {
            self.forget_longest_lost();
        }
        let full = self.state.agents.len() >= MAX_AGENTS as usize;
        if full || self.state.next_agent == u32::MAX {
            return Reply::Refused(Refusal::TooManyAgents { limit: MAX_AGENTS });
        }
        let id = AgentId(self.state.next_agent);
        self.state.next_agent += 1;
        let agent = Agent {
            id,
            name: Arc::from(join.name.as_str()),
            incarnation: join.incarnation,
            session: SessionId(0),
            role: join.role,
            pool: None,
            specializations: Vec::new(),
            slots: join.slots,
            address: String::new(),
            process: None,
            pid: 0,
            version: String::new(),
            state: AgentState::Lost,
            joined_at: self.state.now,
            lost: None,
            record: self.indexes.newcomer(),
            held: BTreeMap::new(),
            revision: self.next_revision(),
        };
        self.indexes.enter_agent(&agent, &self.state.config.weights);
        self.state.agents.insert(id, agent);
        self.enter(id, join, effects)
    }

    /// Opens a new session for an agent that has none.
    fn enter(&mut self, id: AgentId, join: AgentJoin, effects: &mut Vec<Effect>) -> Reply {
        let session = SessionId(self.state.next_session);
        self.state.next_session += 1;
        let now = self.state.now;
        let incarnation = join.incarnation;
        let before = self.state.agents.get(&id).and_then(|a| a.pool.clone());
        self.describe(id, join);
        // Standby first: whether the pool lacks a live agent is then a question about the others.
        self.change_agent(id, |agent| {
            agent.incarnation = incarnation;
            agent.session = session;
            agent.joined_at = now;
            agent.lost = None;
            agent.state = AgentState::Standby;
        });
        let pool = self.state.agents.get(&id).and_then(|a| a.pool.clone());
        if self.lacking(pool.as_deref()) > 0 {
            self.change_agent(id, |agent| agent.state = AgentState::Live);
            self.pull(id, effects);
        }
        // The join may have asked for more agents than the newcomer alone, or taken it from another pool.
        self.refill(before.as_deref(), pool.as_deref(), effects);
        Reply::Joined { agent: id, session }
    }

    pub(crate) fn lose(
        &mut self,
        id: AgentId,
        session: SessionId,
        reason: LossReason,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        if !self.in_session(id, session) {
            return Reply::Done;
        }
        let requeued = self.end_session(id, Some(reason), effects);
        self.place_all(requeued, effects);
        let pool = self.state.agents.get(&id).and_then(|a| a.pool.clone());
        self.fill(pool.as_deref(), effects);
        Reply::Done
    }

    pub(crate) fn drain(&mut self, id: AgentId, session: SessionId, effects: &mut Vec<Effect>) -> Reply {
        if !self.in_session(id, session) {
            return Reply::Refused(Refusal::StaleSession);
        }
        let pool = self.change_agent(id, |agent| {
            agent.state = AgentState::Draining;
            agent.pool.clone()
        });
        self.fill(pool.flatten().as_deref(), effects);
        Reply::Done
    }

    pub(crate) fn leave(&mut self, id: AgentId, session: SessionId, effects: &mut Vec<Effect>) -> Reply {
        if !self.in_session(id, session) {
            return Reply::Refused(Refusal::StaleSession);
        }
        let pool = self.state.agents.get(&id).and_then(|a| a.pool.clone());
        let requeued = self.end_session(id, None, effects);
        self.forget(id);
        self.place_all(requeued, effects);
        self.fill(pool.as_deref(), effects);
        Reply::Done
    }

    fn in_session(&self, id: AgentId, session: SessionId) -> bool {
        let agent = self.state.agents.get(&id);
        agent.is_some_and(|a| a.session == session && a.state != AgentState::Lost)
    }

    /// Ends a session, as a loss or (`None`) in good order, and queues what the agent held. Gives what was queued, in the
    /// order of the queue.
    fn end_session(&mut self, id: AgentId, loss: Option<LossReason>, effects: &mut Vec<Effect>) -> Vec<u64> {
        let now = self.state.now;
        let forget_at = now.fleet.saturating_add(self.state.config.lost_agent_ttl.max(1));
        let ended = self.change_agent(id, |agent| {
            let held = std::mem::take(&mut agent.held);
            let active = held.values().filter(|h| **h == HeldState::Active).count() as u32;
            if loss.is_some() {
                agent.record.note_failure(active);
            }
            agent.state = AgentState::Lost;
            agent.lost = Some(Loss { at: now, reason: loss.unwrap_or(LossReason::Disconnected), forget_at });
            (held, agent.session, agent.name.clone())
        });
        let Some((held, session, name)) = ended else {
            return Vec::new();
        };
        effects.push(Effect::SessionEnded { agent: id, session });
        let mut ranks: Vec<queue::Rank> = held
            .into_iter()
            .filter(|(_, state)| *state == HeldState::Active)
            .filter_map(|((task, _), _)| self.task(task).map(queue::rank))
            .collect();
        ranks.sort_unstable();
        let message = match loss {
            Some(LossReason::Disconnected) => "its connection dropped",
            Some(LossReason::Silent) => "it was not heard from any more",
            Some(LossReason::Replaced) => "another process of its name joined",
            None => "it left",
        };
        let message = format!("agent {name} was lost: {message}");
        let mut requeued = Vec::with_capacity(ranks.len());
        for (_, seq) in ranks {
            let queued = match loss {
                Some(_) => self.lose_attempt(seq, &message, effects),
                None => {
                    self.give_back(seq, effects);
                    true
                }
            };
            if queued {
                requeued.push(seq);
            }
        }
        if loss.is_some() && !requeued.is_empty() {
            let tasks = requeued.len() as u32;
            let total = &mut self.state.totals.redistributed;
            *total = total.saturating_add(u64::from(tasks));
            effects.push(Effect::Redistributed { from: id, tasks });
        }
        requeued
    }

    fn place_all(&mut self, tasks: Vec<u64>, effects: &mut Vec<Effect>) {
        for seq in tasks {
            self.place(seq, effects);
        }
    }

    /// Forgets an agent without a session.
    pub(crate) fn forget(&mut self, id: AgentId) {
        let Some(agent) = self.state.agents.remove(&id) else {
            return;
        };
        self.indexes.leave_agent(&agent, &self.state.config.weights);
        self.drop_empty_pool(agent.pool.as_deref());
        self.next_revision();
    }

    fn forget_longest_lost(&mut self) {
        let agents = self.state.agents.values();
        let lost = agents.filter_map(|a| a.lost.map(|loss| (loss.at, a.id)));
        if let Some((_, id)) = lost.min() {
            self.forget(id);
        }
    }
}
