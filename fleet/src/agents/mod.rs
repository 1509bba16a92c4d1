//! An agent in the state machine: its session, what it holds and its track record. It knows only the ids of tasks.

pub(crate) mod audit;
pub(crate) mod command;
pub(crate) mod directory;
pub(crate) mod indexes;
pub(crate) mod kinds;
pub(crate) mod lost;
mod pools;
pub(crate) mod query;
pub(crate) mod recovery;
pub(crate) mod role;
pub(crate) mod sessions;
pub(crate) mod slots;
pub(crate) mod state;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use bilrost::{Enumeration, Message};

use self::kinds::KindRecord;
use crate::{
    AgentId, FleetMillis, LossReason, Recovery, Role, SessionId, Stamp, TaskId,
    codec::Endpoint,
    limits::OUTVOTED_RECORD_MS,
    sabotage::{Mistake, by_chance, planted},
};

/// The state of an agent, which decides whether it gets tasks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Enumeration)]
pub enum AgentState {
    /// Gets tasks.
    Live = 0,
    /// Gets no tasks until its pool lacks a live agent.
    Standby = 1,
    /// Gets no new tasks and finishes what it has.
    Draining = 2,
    /// Is gone, but is remembered for a while.
    Lost = 3,
    /// Gets no new tasks until it is healthy again, and hands back what it has.
    Unhealthy = 4,
}

/// The state of an attempt that an agent holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Enumeration)]
pub enum HeldState {
    /// It is the task's current attempt.
    Active = 0,
    /// The coordinators ended the attempt; the slot is taken until the agent reports that it stopped.
    Stopping = 1,
}

/// One taken slot of an agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// The task, which may already be forgotten if the attempt is stopping.
    pub task: TaskId,
    /// Fencing number.
    pub attempt: u32,
    /// Whether the attempt still counts.
    pub state: HeldState,
}

/// The loss of an agent.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Loss {
    /// When the agent was lost.
    #[bilrost(1)]
    pub at: Stamp,
    /// How the loss was noticed.
    #[bilrost(2)]
    pub reason: LossReason,
    /// When the agent is forgotten.
    #[bilrost(3)]
    pub forget_at: FleetMillis,
}

/// An agent's past performance, in integers so that every coordinator computes the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct TrackRecord {
    /// Share of attempts that succeeded, moving average, millionths (0 to [`TrackRecord::ONE`]).
    #[bilrost(1)]
    pub success: u32,
    /// Speed relative to the fleet's mean for the same kinds, moving average, millionths: half is as fast as the mean,
    /// two thirds is twice as fast.
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
    /// The agent's number.
    #[bilrost(1)]
    pub id: AgentId,
    /// The agent's name, which stays the same after a restart.
    #[bilrost(2)]
    pub name: Arc<str>,
    /// The incarnation of the agent's process.
    #[bilrost(3)]
    pub incarnation: u64,
    /// The current session; for a lost agent, its last one.
    #[bilrost(4)]
    pub session: SessionId,
    /// The agent's role.
    #[bilrost(5)]
    pub role: Role,
    /// The agent's pool.
    #[bilrost(6)]
    pub pool: Option<String>,
    /// The agent's specializations, sorted, each once.
    #[bilrost(7)]
    pub specializations: Vec<Arc<str>>,
    /// How many tasks the agent runs at once.
    #[bilrost(8)]
    pub slots: u32,
    /// Where others reach the agent, as it reports: host:port.
    #[bilrost(9)]
    pub address: String,
    /// The address at which its process is certain to listen; see [`AgentJoin::process`](crate::AgentJoin::process).
    #[bilrost(tag(10), encoding(Endpoint))]
    pub process: Option<SocketAddr>,
    /// Process id.
    #[bilrost(11)]
    pub pid: u32,
    /// Version of the agent's binary.
    #[bilrost(12)]
    pub version: String,
    /// Whether the agent gets tasks.
    #[bilrost(13)]
    pub state: AgentState,
    /// When the session began.
    #[bilrost(14)]
    pub joined_at: Stamp,
    /// The loss, if the agent is lost.
    #[bilrost(15)]
    pub lost: Option<Loss>,
    /// The reason as text, if the agent is unhealthy.
    #[bilrost(16)]
    pub unhealthy: Option<String>,
    /// The agent's newest recovery and the kept steps.
    #[bilrost(17)]
    pub recovery: Recovery,
    /// The agent's track record.
    #[bilrost(18)]
    pub record: TrackRecord,
    /// The taken slots, by task and fencing number.
    #[bilrost(19)]
    pub(crate) held: BTreeMap<(TaskId, u32), HeldState>,
    /// The fleet's revision at the agent's last change.
    #[bilrost(20)]
    pub revision: u64,
    /// Public key for payloads that only the agent can read: X25519. Needs [`Feature::Mail`](crate::Feature::Mail).
    #[bilrost(tag(21), encoding(plainbytes))]
    pub sealing_key: Option<[u8; 32]>,
    /// When it was last recorded that the agent was outvoted. Needs [`Feature::Verification`](crate::Feature::Verification).
    #[bilrost(22)]
    pub(crate) outvoted_at: Option<FleetMillis>,
    /// How many times it was outvoted since then, which the next record tells.
    #[bilrost(23)]
    pub(crate) outvoted: u32,
    /// How many slots those of the attempts take that take more than one. Needs [`Feature::Kinds`](crate::Feature::Kinds).
    #[bilrost(120)]
    pub(crate) wide: BTreeMap<(TaskId, u32), u32>,
    /// How many slots these take beyond one each.
    #[bilrost(121)]
    pub(crate) extra_slots: u32,
    /// The agent's records for the kinds that counted for it last, sorted by kind; at most
    /// [`MAX_KIND_RECORDS`](crate::limits::MAX_KIND_RECORDS). Needs [`Feature::Kinds`](crate::Feature::Kinds).
    #[bilrost(122)]
    pub kinds: Vec<KindRecord>,
    /// Whether it has said that it has no object store, so that it can't fetch inputs from there. Needs
    /// [`Feature::Blobs`](crate::Feature::Blobs).
    #[bilrost(170)]
    pub lacks_store: bool,
}

/// The size of a pool.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PoolView {
    /// The pool's name.
    pub name: String,
    /// Number of live agents.
    pub live: u32,
    /// Number of standby agents.
    pub standby: u32,
    /// Number of agents that should be live.
    pub desired: u32,
}

impl Agent {
    /// Returns whether the agent has this specialization.
    pub fn has_specialization(&self, name: &str) -> bool {
        self.specializations.binary_search_by(|s| s.as_ref().cmp(name)).is_ok()
    }

    /// Notes that the agent was outvoted. Returns how many times it was since the last record in the audit log, if another
    /// one is due, see [`OUTVOTED_RECORD_MS`].
    pub(crate) fn note_outvoted(&mut self, now: FleetMillis) -> Option<u32> {
        self.outvoted = self.outvoted.saturating_add(1);
        if self.outvoted_at.is_some_and(|at| now < at.saturating_add(OUTVOTED_RECORD_MS)) {
            return None;
        }
        self.outvoted_at = Some(now);
        Some(std::mem::take(&mut self.outvoted))
    }
}

impl TrackRecord {
    /// 100 %, in the unit of `success` and `speed`.
    pub const ONE: u32 = 1_000_000;
    /// A new sample has a weight of one in this many.
    const MEMORY: i64 = 8;

    /// The record of a new agent when no other agent is known.
    pub(crate) const BLANK: TrackRecord =
        TrackRecord { success: Self::ONE, speed: Self::ONE / 2, succeeded: 0, failed: 0 };

    /// Returns the performance, 0 to 1000: seven tenths success, three tenths speed.
    pub fn performance(&self) -> u32 {
        performance(self.success, self.speed)
    }

    /// Records an attempt that succeeded at this relative speed.
    pub(crate) fn note_success(&mut self, speed: u32) {
        if planted(Mistake::ApplyByChance) && by_chance() {
            return;
        }
        self.succeeded = self.succeeded.saturating_add(1);
        self.success = moved(self.success, Self::ONE);
        self.speed = moved(self.speed, speed);
    }

    /// Records `attempts` attempts that failed by one event, which counts as one sample.
    pub(crate) fn note_failure(&mut self, attempts: u32) {
        self.failed = self.failed.saturating_add(u64::from(attempts));
        self.success = moved(self.success, 0);
    }
}

/// Returns the performance of a record with these averages.
fn performance(success: u32, speed: u32) -> u32 {
    let sum = u64::from(success) * 7 + u64::from(speed) * 3;
    (sum / 10_000) as u32
}

fn moved(mean: u32, sample: u32) -> u32 {
    let (mean, sample) = (i64::from(mean), i64::from(sample));
    (mean + (sample - mean) / TrackRecord::MEMORY).clamp(0, i64::from(TrackRecord::ONE)) as u32
}
