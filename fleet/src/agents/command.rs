//! What can be asked of agents and their pools.

use std::net::SocketAddr;

use bilrost::{Enumeration, Message, Oneof};

use crate::{AgentId, Effect, Fleet, Reply, SessionId, codec::Endpoint, steps::Jobs};

/// A command that is about one agent. The numbers are those of all domains' commands; see `codec`.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum AgentCommand {
    /// An agent opens a session.
    #[bilrost(3)]
    Joined(AgentJoin),
    /// A session ended without a word. Ignored unless `session` is the agent's current one.
    #[bilrost(tag(4), message)]
    Lost {
        /// Who.
        #[bilrost(1)]
        agent: AgentId,
        /// Which stay.
        #[bilrost(2)]
        session: SessionId,
        /// How it was noticed.
        #[bilrost(3)]
        reason: LossReason,
    },
    /// An agent takes nothing new from here on.
    #[bilrost(tag(5), message)]
    Draining {
        /// Who.
        #[bilrost(1)]
        agent: AgentId,
        /// Which stay.
        #[bilrost(2)]
        session: SessionId,
    },
    /// An agent leaves in good order; whatever it still holds is queued again at no cost to the task.
    #[bilrost(tag(6), message)]
    Left {
        /// Who.
        #[bilrost(1)]
        agent: AgentId,
        /// Which stay.
        #[bilrost(2)]
        session: SessionId,
    },
    /// An agent failed its health checks: it gets nothing new until it is healthy again. Ignored unless `session` is the
    /// agent's current one and it works or waits.
    #[bilrost(tag(11), message)]
    Unhealthy {
        /// Who.
        #[bilrost(1)]
        agent: AgentId,
        /// Which stay.
        #[bilrost(2)]
        session: SessionId,
        /// Why, in words; cut to [`crate::limits::MAX_REASON_BYTES`].
        #[bilrost(3)]
        reason: String,
    },
    /// An unhealthy agent passed its health check. Ignored for any other agent, and unless `session` is the current one.
    #[bilrost(tag(12), message)]
    Healthy {
        /// Who.
        #[bilrost(1)]
        agent: AgentId,
        /// Which stay.
        #[bilrost(2)]
        session: SessionId,
        /// It has passed enough of them to be given work again.
        #[bilrost(3)]
        readmit: bool,
    },
}

/// A command that is about pools.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum PoolCommand {
    /// Fix how large the named pools should be, by the word of whoever runs the fleet. It beats what joining agents say, for
    /// as long as the pool is named in the newest such command.
    #[bilrost(10)]
    Set(Vec<PoolShape>),
}

/// What an agent is for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Enumeration)]
pub enum Role {
    /// Takes everything.
    Worker = 0,
    /// Takes tasks of its domain first.
    Specialist = 1,
    /// Takes only tasks that require its role or name one of its specializations as their kind.
    Messenger = 2,
    /// As a messenger.
    Guardian = 3,
}

/// An agent that opens a session.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct AgentJoin {
    /// The same after a restart.
    #[bilrost(1)]
    pub name: String,
    /// Drawn by each process.
    #[bilrost(2)]
    pub incarnation: u64,
    /// Its role.
    #[bilrost(3)]
    pub role: Role,
    /// Its pool, and how many agents that should have.
    #[bilrost(4)]
    pub pool: Option<PoolShape>,
    /// Its skills.
    #[bilrost(5)]
    pub specializations: Vec<String>,
    /// Tasks it runs at once.
    #[bilrost(6)]
    pub slots: u32,
    /// Where others reach it, as it says: host:port.
    #[bilrost(7)]
    pub address: String,
    /// Where its process listens for certain: nobody but it, or a process in its place, can accept a connection there. `None`
    /// if that is not known.
    #[bilrost(tag(8), encoding(Endpoint))]
    pub process: Option<SocketAddr>,
    /// Process id.
    #[bilrost(9)]
    pub pid: u32,
    /// Of its binary.
    #[bilrost(10)]
    pub version: String,
}

/// How many agents a pool should have. Unless the fleet was told by [`PoolCommand::Set`], the newest join's word counts.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct PoolShape {
    /// Its name.
    #[bilrost(1)]
    pub name: String,
    /// Agents that work. `None`: not fixed (an autoscaler decides); then all but `standby` of those known, the recently lost
    /// included, should work.
    #[bilrost(2)]
    pub replicas: Option<u32>,
    /// Agents that wait.
    #[bilrost(3)]
    pub standby: u32,
}

/// How the loss of an agent was noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Enumeration)]
pub enum LossReason {
    /// Its connection dropped and its process is gone.
    Disconnected = 0,
    /// No heartbeat for the session timeout.
    Silent = 1,
    /// Another process of the same name joined.
    Replaced = 2,
    /// It lives, and failed its health checks beyond recovery.
    Failed = 3,
}

impl Fleet {
    pub(crate) fn run_agent(&mut self, command: AgentCommand, jobs: &mut Jobs, effects: &mut Vec<Effect>) -> Reply {
        match command {
            AgentCommand::Joined(join) => self.join(join, jobs, effects),
            AgentCommand::Lost { agent, session, reason } => self.lose(agent, session, reason, jobs, effects),
            AgentCommand::Draining { agent, session } => self.drain(agent, session, jobs, effects),
            AgentCommand::Left { agent, session } => self.leave(agent, session, jobs, effects),
            AgentCommand::Unhealthy { agent, session, reason } => self.unhealthy(agent, session, reason, jobs, effects),
            AgentCommand::Healthy { agent, session, readmit } => self.healthy(agent, session, readmit, jobs, effects),
        }
    }
}
