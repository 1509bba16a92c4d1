//! The commands for agents and their pools.

use std::net::SocketAddr;

use bilrost::{Enumeration, Message, Oneof};

use crate::{AgentId, Amounts, Effect, Fleet, Reply, SessionId, codec::Endpoint, steps::Jobs};

/// A command for one agent. All domains share one range of field numbers; see `codec`.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum AgentCommand {
    /// An agent opens a session.
    #[bilrost(3)]
    Joined(AgentJoin),
    /// An agent's session ended unexpectedly. Ignored unless `session` is the agent's current one.
    #[bilrost(tag(4), message)]
    Lost {
        /// The agent.
        #[bilrost(1)]
        agent: AgentId,
        /// Its session.
        #[bilrost(2)]
        session: SessionId,
        /// How the loss was noticed.
        #[bilrost(3)]
        reason: LossReason,
    },
    /// An agent drains: it accepts no new tasks.
    #[bilrost(tag(5), message)]
    Draining {
        /// The agent.
        #[bilrost(1)]
        agent: AgentId,
        /// Its session.
        #[bilrost(2)]
        session: SessionId,
    },
    /// An agent leaves gracefully; the tasks that it still holds are queued again, as if it had handed them back.
    #[bilrost(tag(6), message)]
    Left {
        /// The agent.
        #[bilrost(1)]
        agent: AgentId,
        /// Its session.
        #[bilrost(2)]
        session: SessionId,
    },
    /// An agent failed its health checks and gets no new tasks until it is healthy again. Ignored unless `session` is
    /// the agent's current one and the agent is live or on standby.
    #[bilrost(tag(11), message)]
    Unhealthy {
        /// The agent.
        #[bilrost(1)]
        agent: AgentId,
        /// Its session.
        #[bilrost(2)]
        session: SessionId,
        /// The reason as text; cut to [`crate::limits::MAX_REASON_BYTES`].
        #[bilrost(3)]
        reason: String,
    },
    /// An unhealthy agent passed a health check. Ignored for any other agent, and unless `session` is the current one.
    #[bilrost(tag(12), message)]
    Healthy {
        /// The agent.
        #[bilrost(1)]
        agent: AgentId,
        /// Its session.
        #[bilrost(2)]
        session: SessionId,
        /// The agent has passed enough health checks to be given work again.
        #[bilrost(3)]
        readmit: bool,
    },
    /// The leader has learned the key of an agent whose session began when the fleet could not keep it yet. Changes
    /// nothing but the key. Needs [`Feature::Describe`](crate::Feature::Describe).
    #[bilrost(tag(25), message)]
    Describe {
        /// The agent.
        #[bilrost(1)]
        agent: AgentId,
        /// Its session.
        #[bilrost(2)]
        session: SessionId,
        /// Public key for payloads that only the agent can read: X25519.
        #[bilrost(tag(3), encoding(plainbytes))]
        sealing_key: [u8; 32],
    },
}

/// A command for pools.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum PoolCommand {
    /// Sets the sizes of the named pools, as the administrator wants them. The set size of a pool overrides what
    /// joining agents report, until a later such command omits the pool.
    #[bilrost(10)]
    Set(Vec<PoolShape>),
}

/// The role of an agent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Enumeration)]
pub enum Role {
    /// Takes tasks that require no other role and no specialization that the agent lacks.
    Worker = 0,
    /// Like a worker, but takes tasks of its domain first.
    Specialist = 1,
    /// Takes only tasks that require its role, or that require no role and have one of its specializations as their
    /// domain.
    Messenger = 2,
    /// Like a messenger, but with its own role.
    Guardian = 3,
}

/// What an agent reports when it opens a session.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct AgentJoin {
    /// The agent's name, which stays the same after a restart.
    #[bilrost(1)]
    pub name: String,
    /// A number that is unique to the process.
    #[bilrost(2)]
    pub incarnation: u64,
    /// The agent's role.
    #[bilrost(3)]
    pub role: Role,
    /// The agent's pool and how many agents it should have.
    #[bilrost(4)]
    pub pool: Option<PoolShape>,
    /// The agent's specializations.
    #[bilrost(5)]
    pub specializations: Vec<String>,
    /// How many tasks the agent runs at once.
    #[bilrost(6)]
    pub slots: u32,
    /// Where others reach the agent, as it reports: host:port.
    #[bilrost(7)]
    pub address: String,
    /// The address at which its process is certain to listen: only this process, or one that has replaced it, can
    /// accept a connection there. `None` if that is not known.
    #[bilrost(tag(8), encoding(Endpoint))]
    pub process: Option<SocketAddr>,
    /// Process id.
    #[bilrost(9)]
    pub pid: u32,
    /// Version of the agent's binary.
    #[bilrost(10)]
    pub version: String,
    /// Public key for payloads that only the agent can read: X25519. Needs [`Feature::Mail`](crate::Feature::Mail).
    #[bilrost(tag(11), encoding(plainbytes))]
    pub sealing_key: Option<[u8; 32]>,
    /// What it contributes to the resource pool from its join on, at least what is granted of it. `None` if the join does
    /// not say so: then it contributes what [`Contribute`](crate::ResourceCommand::Contribute) says. Needs
    /// [`Feature::Resources`](crate::Feature::Resources).
    #[bilrost(12)]
    pub contributed: Option<Box<Amounts>>,
    /// Whether it has no object store, from which it would fetch inputs. False if that is not known. Needs
    /// [`Feature::Blobs`](crate::Feature::Blobs).
    #[bilrost(13)]
    pub lacks_store: bool,
}

#[cfg(test)]
impl AgentJoin {
    /// Returns the join of a worker with this many slots, and with nothing else that matters to scheduling.
    pub(crate) fn worker(name: impl Into<String>, slots: u32) -> AgentJoin {
        AgentJoin {
            name: name.into(),
            incarnation: 1,
            role: Role::Worker,
            pool: None,
            specializations: Vec::new(),
            slots,
            address: String::new(),
            process: None,
            pid: 1,
            version: String::new(),
            sealing_key: None,
            contributed: None,
            lacks_store: false,
        }
    }
}

/// How many agents a pool should have. The newest join decides, unless the pool was set by [`PoolCommand::Set`].
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct PoolShape {
    /// The pool's name.
    #[bilrost(1)]
    pub name: String,
    /// How many agents should be live. `None` if not fixed (an autoscaler decides): then all known agents, recently
    /// lost ones included, except `standby` of them should be live.
    #[bilrost(2)]
    pub replicas: Option<u32>,
    /// How many agents should be on standby.
    #[bilrost(3)]
    pub standby: u32,
}

/// How the loss of an agent was noticed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Enumeration)]
pub enum LossReason {
    /// The agent's connection dropped and its process is gone.
    Disconnected = 0,
    /// No heartbeat arrived for the session timeout.
    Silent = 1,
    /// Another process of the same name joined.
    Replaced = 2,
    /// The agent is alive but failed its health checks beyond recovery.
    Failed = 3,
    /// The agent was barred. Needs [`Feature::Identity`](crate::Feature::Identity).
    Barred = 4,
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
            AgentCommand::Describe { agent, session, sealing_key } => self.keep_key(agent, session, sealing_key),
        }
    }
}
