//! The sessions of agents: joining, draining, leaving. Loss is in `lost`, standbys are in `pools`.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Agent, AgentId, AgentJoin, AgentState, Effect, Feature, Fleet, LossReason, PoolShape, Recovery, RecoveryEvent,
    Refusal, Reply, SessionId,
    config::{check_length, check_name, invalid},
    limits::{MAX_AGENTS, MAX_KEPT_POOLS, MAX_NAME_BYTES, MAX_SLOTS, MAX_SPECIALIZATIONS},
    steps::{Job, Jobs},
};

/// An agent that gets a new session.
#[derive(Debug)]
pub(crate) struct Entering {
    id: AgentId,
    session: SessionId,
    join: AgentJoin,
}

impl AgentJoin {
    /// Refuses a join that is out of bounds, whatever the fleet's state.
    pub fn check(&self) -> Result<(), Refusal> {
        check_name("name", &self.name)?;
        // An agent without slots is a member that currently takes no tasks.
        if self.slots > MAX_SLOTS {
            let problem = format!("is {}, the most is {MAX_SLOTS}", self.slots);
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
        check_length("version", &self.version, MAX_NAME_BYTES)?;
        self.contributed.as_ref().map_or(Ok(()), |amounts| amounts.check("contributed"))
    }
}

fn sorted(names: Vec<String>) -> Vec<Arc<str>> {
    let mut names: Vec<Arc<str>> = names.into_iter().map(Arc::from).collect();
    names.sort();
    names.dedup();
    names
}

impl Fleet {
    pub(crate) fn join(&mut self, join: AgentJoin, jobs: &mut Jobs, effects: &mut Vec<Effect>) -> Reply {
        if let Err(refusal) = self.check_join(&join) {
            return Reply::Refused(refusal);
        }
        let known = self.indexes.agents.names.get(join.name.as_str()).copied();
        let known = known.and_then(|id| self.state.agents.known.get(&id));
        match known {
            Some(agent) if agent.state == AgentState::Lost => {
                let id = agent.id;
                self.open_session(id, join, jobs)
            }
            Some(agent) if agent.incarnation == join.incarnation => {
                let (id, session) = (agent.id, agent.session);
                self.resume(id, join, jobs, effects);
                Reply::Joined { agent: id, session }
            }
            Some(agent) => {
                let id = agent.id;
                let reply = self.open_session(id, join, jobs);
                // The new session takes the agent's place in its pool at once, so no standby is activated in between.
                jobs.push(Job::Record(id, RecoveryEvent::Removed));
                self.end_session(id, Some(LossReason::Replaced), jobs, effects);
                reply
            }
            None => self.join_new(join, jobs),
        }
    }

    fn check_join(&self, join: &AgentJoin) -> Result<(), Refusal> {
        join.check()?;
        self.check_not_barred(&join.name)?;
        self.check_pool(join)
    }

    /// Refuses a join that brings a new pool when [`MAX_KEPT_POOLS`] pools are already known.
    fn check_pool(&self, join: &AgentJoin) -> Result<(), Refusal> {
        let is_new = |pool: &PoolShape| !self.state.agents.pools.contains_key(&pool.name);
        match join.pool.as_ref().filter(|pool| is_new(pool)) {
            Some(_) if self.state.agents.pools.len() >= MAX_KEPT_POOLS => {
                let problem = format!("would be one more than the {MAX_KEPT_POOLS} that a fleet may have");
                Err(invalid("pool", problem))
            }
            _ => Ok(()),
        }
    }

    /// Continues the session of a live process, with what the process now reports about itself.
    fn resume(&mut self, id: AgentId, join: AgentJoin, jobs: &mut Jobs, effects: &mut Vec<Effect>) {
        let before = self.state.agents.known.get(&id).and_then(|a| a.pool.clone());
        self.describe(id, join);
        let after = self.state.agents.known.get(&id).and_then(|a| a.pool.clone());
        let waits = self.state.agents.known.get(&id).is_some_and(|a| a.state == AgentState::Standby);
        if waits && after.is_none() {
            // It no longer has a pool from which it could be activated.
            self.change_agent(id, |agent| agent.state = AgentState::Live);
            effects.push(Effect::StandbyActivated { agent: id });
        }
        jobs.push(Job::Refill(before, after));
        jobs.push(Job::Pull(id));
    }

    /// Updates a known agent, its pool and what it contributes with what a join reports.
    fn describe(&mut self, id: AgentId, join: AgentJoin) {
        let contributed = join.contributed;
        let pool = self.note_pool(join.pool.as_ref());
        self.change_agent(id, |agent| {
            agent.role = join.role;
            agent.pool = pool;
            agent.specializations = sorted(join.specializations);
            // Slots in use can't be taken away.
            agent.slots = join.slots.max(agent.used_slots());
            agent.address = join.address;
            agent.process = join.process;
            agent.pid = join.pid;
            agent.version = join.version;
            agent.sealing_key = join.sealing_key;
            agent.lacks_store = join.lacks_store;
        });
        if let Some(amounts) = contributed {
            self.note_contribution(id, *amounts);
        }
    }

    /// Returns whether the key of an agent in this session is not the one that the fleet has, and can be recorded.
    pub fn lacks_key(&self, id: AgentId, session: SessionId, key: [u8; 32]) -> bool {
        let has_it = || self.agent(id).is_some_and(|agent| agent.sealing_key == Some(key));
        self.has(Feature::Describe) && self.in_session(id, session) && !has_it()
    }

    /// Records the key of an agent.
    pub(crate) fn keep_key(&mut self, id: AgentId, session: SessionId, key: [u8; 32]) -> Reply {
        if !self.in_session(id, session) {
            return Reply::Refused(Refusal::StaleSession);
        }
        if self.lacks_key(id, session, key) {
            self.change_agent(id, |agent| agent.sealing_key = Some(key));
        }
        Reply::Done
    }

    fn join_new(&mut self, join: AgentJoin, jobs: &mut Jobs) -> Reply {
        if self.state.agents.known.len() >= MAX_AGENTS as usize {
            self.forget_longest_lost();
        }
        let full = self.state.agents.known.len() >= MAX_AGENTS as usize;
        if full || self.state.agents.next == u32::MAX {
            return Reply::Refused(Refusal::TooManyAgents { limit: MAX_AGENTS });
        }
        let id = AgentId(self.state.agents.next);
        self.state.agents.next += 1;
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
            unhealthy: None,
            recovery: Recovery::default(),
            record: self.indexes.agents.newcomer(),
            held: BTreeMap::new(),
            revision: self.next_revision(),
            sealing_key: None,
            outvoted_at: None,
            outvoted: 0,
            wide: BTreeMap::new(),
            extra_slots: 0,
            kinds: Vec::new(),
            lacks_store: false,
        };
        self.indexes.enter_agent(&agent, &self.state.config.weights);
        self.state.agents.known.insert(id, Arc::new(agent));
        self.open_session(id, join, jobs)
    }

    /// Returns a new session for the agent and schedules its opening. When that job runs, the agent has no other
    /// session.
    fn open_session(&mut self, id: AgentId, join: AgentJoin, jobs: &mut Jobs) -> Reply {
        let session = SessionId(self.state.agents.next_session);
        self.state.agents.next_session += 1;
        jobs.push(Job::Enter(Box::new(Entering { id, session, join })));
        Reply::Joined { agent: id, session }
    }

    pub(crate) fn enter(&mut self, entering: Entering, jobs: &mut Jobs, effects: &mut Vec<Effect>) {
        let Entering { id, session, join } = entering;
        let now = self.state.now;
        let incarnation = join.incarnation;
        let before = self.state.agents.known.get(&id).and_then(|a| a.pool.clone());
        self.describe(id, join);
        let was_lost = self.change_agent(id, |agent| {
            agent.incarnation = incarnation;
            agent.session = session;
            agent.joined_at = now;
            agent.state = AgentState::Standby;
            agent.lost.take().is_some()
        });
        let recovered = was_lost == Some(true);
        effects.push(Effect::SessionStarted { agent: id, session });
        let pool = self.state.agents.known.get(&id).and_then(|a| a.pool.clone());
        // The join may have raised the pool's desired size by more than this agent, or moved the agent from another
        // pool.
        jobs.push(Job::Refill(before, pool));
        if recovered {
            self.record_step(id, RecoveryEvent::RecoveryAttempted, effects);
        }
        self.admit(id, recovered, jobs, effects);
    }

    pub(crate) fn drain(
        &mut self,
        id: AgentId,
        session: SessionId,
        jobs: &mut Jobs,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        if !self.in_session(id, session) {
            return Reply::Refused(Refusal::StaleSession);
        }
        self.change_agent(id, |agent| {
            agent.state = AgentState::Draining;
            agent.unhealthy = None;
        });
        self.settle_recovery(id, effects);
        self.fill_afterwards(id, false, jobs);
        Reply::Done
    }

    pub(crate) fn leave(
        &mut self,
        id: AgentId,
        session: SessionId,
        jobs: &mut Jobs,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        if !self.in_session(id, session) {
            return Reply::Refused(Refusal::StaleSession);
        }
        self.fill_afterwards(id, false, jobs);
        self.end_session(id, None, jobs, effects);
        Reply::Done
    }

    /// Schedules the activation of standbys in the agent's pool. It runs after the jobs that are pushed later. If the
    /// agent `failed`, each activation is a step of its recovery.
    pub(crate) fn fill_afterwards(&self, id: AgentId, failed: bool, jobs: &mut Jobs) {
        let pool = self.state.agents.known.get(&id).and_then(|a| a.pool.clone());
        if let Some(pool) = pool {
            jobs.push(Job::Fill(pool, failed.then_some(id)));
        }
    }

    pub(crate) fn in_session(&self, id: AgentId, session: SessionId) -> bool {
        let agent = self.state.agents.known.get(&id);
        agent.is_some_and(|a| a.session == session && a.state != AgentState::Lost)
    }

    /// Forgets an agent that has no session.
    pub(crate) fn forget(&mut self, id: AgentId) {
        let Some(agent) = self.state.agents.known.remove(&id) else {
            return;
        };
        self.snapshots.save_agent(&agent);
        self.indexes.leave_agent(&agent, &self.state.config.weights);
        self.drop_empty_pool(agent.pool.as_deref());
        self.next_revision();
        self.directory.note(&agent.name);
    }

    fn forget_longest_lost(&mut self) {
        if let Some(&(_, id)) = self.indexes.agents.lost.first() {
            self.forget(id);
        }
    }
}
