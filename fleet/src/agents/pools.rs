//! Pools: how many agents of each should be live, and which are on standby.
//!
//! The agents that join a pool report its size, until the administrator sets it; then only the set size counts. When a
//! pool shrinks, its live agents stay live: which of them stop is not decided here.

use std::collections::BTreeSet;

use super::{indexes::PoolMembers, state::Pool};
use crate::{
    AgentId, AgentState, Effect, Fleet, PoolShape, RecoveryEvent, Refusal, Reply,
    config::{check_name, invalid},
    limits::{JOINING_MS, MAX_AGENTS, MAX_POOLS},
    steps::{Job, Jobs},
};

impl PoolShape {
    /// Refuses a shape that is out of bounds for [`PoolCommand::Set`](crate::PoolCommand::Set).
    fn check(&self) -> Result<(), Refusal> {
        check_name("pools.name", &self.name)?;
        for (field, value) in [("replicas", self.replicas.unwrap_or(0)), ("standby", self.standby)] {
            if value > MAX_AGENTS {
                let problem = format!("is {value} for pool {:?}, the most is {MAX_AGENTS}", self.name);
                return Err(invalid(&format!("pools.{field}"), problem));
            }
        }
        Ok(())
    }

    /// Refuses shapes that can't be set together: too many, one out of bounds, or two with the same name.
    pub fn check_all(shapes: &[PoolShape]) -> Result<(), Refusal> {
        if shapes.len() > MAX_POOLS {
            return Err(invalid("pools", format!("has {} entries, the most is {MAX_POOLS}", shapes.len())));
        }
        let mut names = BTreeSet::new();
        for shape in shapes {
            shape.check()?;
            if !names.insert(&shape.name) {
                return Err(invalid("pools.name", format!("{:?} is there twice", shape.name)));
            }
        }
        Ok(())
    }
}

impl Fleet {
    /// Sets the sizes of pools as the administrator wants them.
    pub(crate) fn set_pools(&mut self, shapes: Vec<PoolShape>, jobs: &mut Jobs) -> Reply {
        if let Err(refusal) = PoolShape::check_all(&shapes) {
            return Reply::Refused(refusal);
        }
        let before = self.state.agents.pools.clone();
        for pool in self.state.agents.pools.values_mut() {
            pool.set = false;
        }
        let names: Vec<String> = shapes.iter().map(|shape| shape.name.clone()).collect();
        for PoolShape { name, replicas, standby } in shapes {
            self.state.agents.pools.insert(name, Pool { replicas, standby, set: true });
        }
        for name in before.keys() {
            self.drop_empty_pool(Some(name));
        }
        if self.state.agents.pools != before {
            self.next_revision();
        }
        for name in names.into_iter().rev() {
            jobs.push(Job::Fill(name, None));
        }
        Reply::PoolsSet { revision: self.revision() }
    }

    /// Stores the pool's shape that a join reports, unless the pool's size is set. Returns the pool's name.
    pub(crate) fn note_pool(&mut self, shape: Option<&PoolShape>) -> Option<String> {
        let PoolShape { name, replicas, standby } = shape?;
        let pool = Pool { replicas: *replicas, standby: *standby, set: false };
        let known = self.state.agents.pools.entry(name.clone()).or_insert(pool);
        if !known.set {
            *known = pool;
        }
        Some(name.clone())
    }

    /// Returns how many live agents the pool lacks. An agent without a pool is always needed.
    pub(crate) fn lacking(&self, pool: Option<&str>) -> u32 {
        let Some(name) = pool else { return 1 };
        let shape = self.state.agents.pools.get(name);
        let (Some(shape), Some(members)) = (shape, self.indexes.agents.pools.get(name)) else {
            return 0;
        };
        let desired = members.desired(shape.replicas, shape.standby);
        desired.saturating_sub(members.live)
    }

    /// Returns whether agents are expected to join: the newest one has joined less than [`JOINING_MS`] ago, or a pool has
    /// fewer than it should have.
    pub(crate) fn expects_agents(&self) -> bool {
        let newest = self.state.agents.known.last_key_value();
        let until = newest.map(|(_, agent)| agent.joined_at.fleet.saturating_add(JOINING_MS));
        if until.is_some_and(|until| self.state.now.fleet < until) {
            return true;
        }
        let nobody = PoolMembers::default();
        self.state.agents.pools.iter().any(|(name, pool)| {
            let members = self.indexes.agents.pools.get(name).unwrap_or(&nobody);
            members.lacks_any(pool.replicas, pool.standby)
        })
    }

    /// Activates the standby agent with the lowest number if the pool lacks a live agent. If an agent `failed`, this is
    /// a step of its recovery.
    pub(crate) fn activate_one(
        &mut self,
        pool: &str,
        failed: Option<AgentId>,
        effects: &mut Vec<Effect>,
    ) -> Option<AgentId> {
        if self.lacking(Some(pool)) == 0 {
            return None;
        }
        let id = *self.indexes.agents.pools.get(pool)?.standby.first()?;
        let activated = self.change_agent(id, |agent| {
            agent.state = AgentState::Live;
            agent.name.clone()
        });
        effects.push(Effect::StandbyActivated { agent: id });
        if let (Some(failed), Some(agent)) = (failed, activated) {
            self.record_step(failed, RecoveryEvent::StandbyActivated { agent }, effects);
        }
        Some(id)
    }

    /// Forgets a pool that has no members left, unless its size is set.
    pub(crate) fn drop_empty_pool(&mut self, pool: Option<&str>) {
        let Some(name) = pool.filter(|name| self.indexes.agents.pool_is_empty(name)) else { return };
        self.indexes.agents.pools.remove(name);
        if self.state.agents.pools.get(name).is_some_and(|pool| !pool.set) {
            self.state.agents.pools.remove(name);
        }
    }
}
