//! The stored state of agents and pools.

use std::{collections::BTreeMap, sync::Arc};

use bilrost::Message;

use super::{Agent, recovery::RecoveryLog};
use crate::AgentId;

/// The agents' part of the state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Agents {
    pub known: BTreeMap<AgentId, Arc<Agent>>,
    /// The number of the next new agent.
    pub next: u32,
    /// The number of the next session.
    pub next_session: u64,
    pub pools: BTreeMap<String, Pool>,
    pub recoveries: RecoveryLog,
}

impl Default for Agents {
    fn default() -> Self {
        Self {
            known: BTreeMap::new(),
            next: 1,
            next_session: 1,
            pools: BTreeMap::new(),
            recoveries: RecoveryLog::default(),
        }
    }
}

/// A pool as the newest join reported it, or as the administrator set it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub(crate) struct Pool {
    #[bilrost(1)]
    pub replicas: Option<u32>,
    #[bilrost(2)]
    pub standby: u32,
    /// The newest [`PoolCommand::Set`](crate::PoolCommand::Set) named this pool: sizes reported by joins are ignored,
    /// and the pool is kept without agents.
    #[bilrost(3)]
    pub set: bool,
}
