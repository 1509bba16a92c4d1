//! An agent as the fleet knows it: its session, what it holds and its track record. Knows nothing of tasks but their ids.

pub(crate) mod audit;
pub(crate) mod command;
pub(crate) mod indexes;
pub(crate) mod lost;
mod pools;
pub(crate) mod query;
pub(crate) mod recovery;
pub(crate) mod sessions;
pub(crate) mod state;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use bilrost::{Enumeration, Message};

use crate::{
    AgentId, FleetMillis, LossReason, Recovery, Role, SessionId, Stamp, TaskId,
    codec::Endpoint,
    sabotage::{Mistake, by_chance, planted},
};

/// What an agent may be given.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Enumeration)]
pub enum AgentState {
    /// Work.
    Live = 0,
    /// Nothing, until its pool lacks a live agent.
    Standby = 1,
    /// Nothing; it finishes what it has.
    Draining = 2,
    /// Gone; remembered for a while.
    Lost = 3,
    /// Nothing, until it is healthy again; it hands back what it has.
    Unhealthy = 4,
}

/// What an agent does with an attempt it was given.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Enumeration)]
pub enum HeldState {
    /// It is the task's current attempt.
    Active = 0,
    /// The attempt was ended by the coordinators; the slot is taken until the agent says that it stopped.
    Stopping = 1,
}

/// One taken slot of an agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// The task; of a stopping attempt it may have been forgotten meanwhile.
    pub task: TaskId,
    /// Fencing number.
    pub attempt: u32,
    /// Whether the attempt still counts.
    pub state: HeldState,
}

/// How a stay ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Loss {
    /// When.
    #[bilrost(1)]
    pub at: Stamp,
    /// How it was noticed.
    #[bilrost(2)]
    pub reason: LossReason,
    /// When the agent is forgotten.
    #[bilrost(3)]
    pub forget_at: FleetMillis,
}

/// What an agent's past says about it, in integers so that every coordinator computes the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct TrackRecord {
    /// Share of good ends, moving average, millionths (0 to [`TrackRecord::ONE`]).
    #[bilrost(1)]
    pub success: u32,
    /// Speed relative to the fleet's for the same kinds, moving average, millionths: half is as fast as the mean, two thirds
    /// twice as fast.
    #[bilrost(2)]
    pub speed: u32,
    /// Attempts that succeeded.
    #[bilrost(3)]
    pub succeeded: u64,
    /// Attempts that failed or were lost.
    #[bilrost(4)]
    pub failed: u64,
}

/// An agent.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Agent {
    /// Its number.
    #[bilrost(1)]
    pub id: AgentId,
    /// The same after a restart.
    #[bilrost(2)]
    pub name: Arc<str>,
    /// Of its process.
    #[bilrost(3)]
    pub incarnation: u64,
    /// Its current stay; of a lost agent, its last.
    #[bilrost(4)]
    pub session: SessionId,
    /// Its role.
    #[bilrost(5)]
    pub role: Role,
    /// Its pool.
    #[bilrost(6)]
    pub pool: Option<String>,
    /// Its skills, sorted, each once.
    #[bilrost(7)]
    pub specializations: Vec<Arc<str>>,
    /// Tasks it runs at once.
    #[bilrost(8)]
    pub slots: u32,
    /// Where others reach it, as it says: host:port.
    #[bilrost(9)]
    pub address: String,
    /// Where its process listens for certain; see [`AgentJoin::process`](crate::AgentJoin::process).
    #[bilrost(tag(10), encoding(Endpoint))]
    pub process: Option<SocketAddr>,
    /// Process id.
    #[bilrost(11)]
    pub pid: u32,
    /// Of its binary.
    #[bilrost(12)]
    pub version: String,
    /// What it may be given.
    #[bilrost(13)]
    pub state: AgentState,
    /// When its stay began.
    #[bilrost(14)]
    pub joined_at: Stamp,
    /// Of a lost agent.
    #[bilrost(15)]
    pub lost: Option<Loss>,
    /// Of an unhealthy agent: why, in words.
    #[bilrost(16)]
    pub unhealthy: Option<String>,
    /// How it was last recovered from.
    #[bilrost(17)]
    pub recovery: Recovery,
    /// Its past.
    #[bilrost(18)]
    pub record: TrackRecord,
    /// Its taken slots, by task and fencing number.
    #[bilrost(19)]
    pub(crate) held: BTreeMap<(TaskId, u32), HeldState>,
    /// The fleet's revision at its last change.
    #[bilrost(20)]
    pub revision: u64,
}

/// How many agents of a pool there are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolView {
    /// The pool.
    pub name: String,
    /// Agents that work.
    pub live: u32,
    /// Agents that wait.
    pub standby: u32,
    /// Agents that should work.
    pub desired: u32,
}

impl Agent {
    /// Slots that are taken, by running and by stopping attempts.
    pub fn used_slots(&self) -> u32 {
        self.held.len() as u32
    }

    /// Slots that may be given work.
    pub(crate) fn free_slots(&self) -> u32 {
        match self.state {
            AgentState::Live => self.slots.saturating_sub(self.used_slots()),
            _ => 0,
        }
    }

    /// Its taken slots, by task.
    pub fn held(&self) -> impl Iterator<Item = Held> + '_ {
        self.held.iter().map(|((task, attempt), state)| Held { task: *task, attempt: *attempt, state: *state })
    }

    /// Whether it has this specialization.
    pub fn has_specialization(&self, name: &str) -> bool {
        self.specializations.binary_search_by(|s| s.as_ref().cmp(name)).is_ok()
    }

    /// Taken slots per thousand.
    pub(crate) fn load(&self) -> u32 {
        let slots = u64::from(self.slots.max(1));
        (u64::from(self.used_slots()) * 1000 / slots) as u32
    }
}

impl TrackRecord {
    /// The whole, in the unit of `success` and `speed`.
    pub const ONE: u32 = 1_000_000;
    /// A new sample weighs one in so many.
    const MEMORY: i64 = 8;

    /// Of a newcomer to a fleet without any record.
    pub(crate) const BLANK: TrackRecord =
        TrackRecord { success: Self::ONE, speed: Self::ONE / 2, succeeded: 0, failed: 0 };

    /// 0 to 1000: seven tenths success, three tenths speed.
    pub fn performance(&self) -> u32 {
        let sum = u64::from(self.success) * 7 + u64::from(self.speed) * 3;
        (sum / 10_000) as u32
    }

    /// An attempt succeeded, at this relative speed.
    pub(crate) fn note_success(&mut self, speed: u32) {
        if planted(Mistake::ApplyByChance) && by_chance() {
            return;
        }
        self.succeeded = self.succeeded.saturating_add(1);
        self.success = moved(self.success, Self::ONE);
        self.speed = moved(self.speed, speed);
    }

    /// `attempts` attempts came to nothing by one event, which is one sample.
    pub(crate) fn note_failure(&mut self, attempts: u32) {
        self.failed = self.failed.saturating_add(u64::from(attempts));
        self.success = moved(self.success, 0);
    }
}

fn moved(mean: u32, sample: u32) -> u32 {
    let (mean, sample) = (i64::from(mean), i64::from(sample));
    (mean + (sample - mean) / TrackRecord::MEMORY).clamp(0, i64::from(TrackRecord::ONE)) as u32
}
