//! The resource pool: what agents contribute, and who is granted which of it. A request is granted all of its parts or
//! none. It is granted at once or refused, or it waits in a queue if it is asked to; the queues are served by
//! dominant-resource fairness. What is granted is leased: it has a holder, an expiry and a fencing token, and is free
//! again when it is released, when it expires, when its holder is gone or when one of its agents is.

pub(crate) mod amounts;
pub(crate) mod audit;
pub(crate) mod command;
mod contributing;
mod ending;
mod granting;
pub(crate) mod indexes;
pub(crate) mod query;
pub(crate) mod room;
pub(crate) mod share;
pub(crate) mod state;
pub(crate) mod tasks;
#[cfg(test)]
mod tests;
mod turns;

use bilrost::{Enumeration, Message, Oneof};

use self::{
    amounts::{Amounts, Quota},
    command::RequestResources,
};
use crate::{
    AgentId, AllocationId, FleetMillis, Stamp, TaskId, TeamId,
    limits::{ALLOCATION_TTL_MS, DEFAULT_QUEUE_WEIGHT},
    numbered::Entry,
    snapshot::{Rest, Untaken},
};

/// What an agent contributes while its session lasts.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Contribution {
    /// The contribution's number. Numbers are never reused.
    #[bilrost(1)]
    pub number: u64,
    /// The agent.
    #[bilrost(2)]
    pub agent: AgentId,
    /// What it contributes; not nothing.
    #[bilrost(3)]
    pub amounts: Amounts,
}

/// Who holds an allocation. What it holds is released when it is gone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Oneof, Message)]
#[bilrost(distinguished)]
pub enum Holder {
    /// No valid request has this.
    #[bilrost(empty)]
    Nobody,
    /// A task, until it is finished.
    #[bilrost(1)]
    Task(TaskId),
    /// An agent by name, until its session ends.
    #[bilrost(2)]
    Agent(String),
    /// A team, until it is disbanded.
    #[bilrost(3)]
    Team(TeamId),
    /// A client by name. Whether it is gone only the expiry tells.
    #[bilrost(4)]
    Client(String),
}

/// A part of a request: amounts of one agent.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Part {
    /// What is asked for.
    #[bilrost(1)]
    pub amounts: Amounts,
    /// The agent that gives it; `None` if it never was granted.
    #[bilrost(2)]
    pub agent: Option<AgentId>,
}

/// How an allocation, or the wait for one, ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Enumeration)]
pub enum AllocationEnd {
    /// It was released, or no longer waited for.
    Released = 0,
    /// Its lease was not renewed in time.
    Expired = 1,
    /// Its holder is gone: the task is finished, the team is disbanded, or the agent's session ended.
    HolderGone = 2,
    /// An agent that gave a part of it is gone. The others' parts are free as well: it is all or nothing.
    AgentLost = 3,
    /// It was not granted in the time for which it was to wait.
    NotGranted = 4,
}

/// The state of a request for resources.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum AllocationState {
    /// It waits in its queue.
    #[bilrost(empty)]
    Waiting,
    /// Its holder has it.
    #[bilrost(tag(12), message)]
    Granted {
        /// The fencing token: later grants have higher ones.
        #[bilrost(1)]
        token: u64,
        /// When it was granted.
        #[bilrost(2)]
        at: Stamp,
        /// When the lease ends if it is not renewed.
        #[bilrost(3)]
        expires: FleetMillis,
    },
    /// Final: nothing of it is taken any more.
    #[bilrost(tag(13), message)]
    Ended {
        /// How it ended.
        #[bilrost(1)]
        end: AllocationEnd,
        /// The fencing token that it had; 0 if it never was granted.
        #[bilrost(2)]
        token: u64,
        /// When it ended.
        #[bilrost(3)]
        at: Stamp,
    },
}

/// A request for resources and what became of it.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Allocation {
    /// The allocation's number in the order of requests.
    #[bilrost(1)]
    pub seq: u64,
    /// The allocation's id, drawn by whoever asks.
    #[bilrost(2)]
    pub id: AllocationId,
    /// Who holds it.
    #[bilrost(3)]
    pub holder: Holder,
    /// The name of its queue.
    #[bilrost(4)]
    pub queue: String,
    /// What is asked for, and of whom it is given.
    #[bilrost(5)]
    pub parts: Vec<Part>,
    /// Each part must be of another agent.
    #[bilrost(6)]
    pub spread: bool,
    /// How long its lease lasts, ms of fleet time.
    #[bilrost(7)]
    pub ttl: u64,
    /// How long it waits at most, ms of fleet time; 0 if it does not.
    #[bilrost(8)]
    pub wait: u64,
    /// When it was asked for.
    #[bilrost(9)]
    pub requested: Stamp,
    /// Who asked; empty if it is of an attempt.
    #[bilrost(10)]
    pub requested_by: String,
    /// While it waits: the round in which it was asked for, or found last to be one that can't be granted then. Of the
    /// requests in a queue, those of earlier rounds come first.
    #[bilrost(11)]
    pub round: u64,
    /// Its state.
    #[bilrost(oneof(12-13))]
    pub state: AllocationState,
    /// The attempt of its holder, a task, for which the task's own resources are granted; `None` if somebody asked for
    /// it. It is not renewed or released: it ends with the attempt.
    #[bilrost(14)]
    pub attempt: Option<u32>,
}

/// A queue as the administrator set it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub(crate) struct Queue {
    #[bilrost(1)]
    pub weight: u32,
    #[bilrost(2)]
    pub quota: Quota,
}

impl Default for Queue {
    /// Returns what a queue has that was not set.
    fn default() -> Self {
        Self { weight: DEFAULT_QUEUE_WEIGHT, quota: Quota::default() }
    }
}

impl Allocation {
    /// Returns the sum of its parts.
    pub fn asked(&self) -> Amounts {
        sum(&self.parts)
    }

    /// Returns the fencing token; `None` unless it is granted.
    pub fn token(&self) -> Option<u64> {
        match self.state {
            AllocationState::Granted { token, .. } => Some(token),
            AllocationState::Waiting | AllocationState::Ended { .. } => None,
        }
    }

    /// Returns whether it neither waits nor is granted any more.
    pub fn is_ended(&self) -> bool {
        matches!(self.state, AllocationState::Ended { .. })
    }

    /// Returns whether this request is the same one again.
    fn is_same_as(&self, request: &RequestResources) -> bool {
        let asked = (&self.holder, &self.queue, self.spread, self.ttl, self.wait);
        self.requested_by == request.requested_by
            && asked == (&request.holder, &request.queue, request.spread, request.ttl, request.wait)
            && self.parts.iter().map(|part| part.amounts).eq(request.parts.iter().copied())
    }

    /// Ends it.
    fn end(&mut self, end: AllocationEnd, at: Stamp) {
        self.state = AllocationState::Ended { end, token: self.token().unwrap_or(0), at };
    }

    /// Returns whether nothing but the end of an attempt ends it.
    pub(crate) fn is_of_attempt(&self) -> bool {
        self.attempt.is_some() && !self.is_ended()
    }

    /// Returns when the wait ends, the lease expires or, once it has ended, it is forgotten.
    pub(crate) fn due(&self) -> FleetMillis {
        match &self.state {
            AllocationState::Waiting => self.requested.fleet.saturating_add(self.wait),
            AllocationState::Granted { expires, .. } => *expires,
            AllocationState::Ended { at, .. } => at.fleet.saturating_add(ALLOCATION_TTL_MS),
        }
    }
}

/// Returns the sum of parts.
pub(crate) fn sum(parts: &[Part]) -> Amounts {
    parts.iter().fold(Amounts::NONE, |sum, part| sum.plus(part.amounts))
}

impl Entry for Contribution {
    const FIELD: u32 = 16;
    const NAME: &str = "contributions";

    fn number(&self) -> u64 {
        self.number
    }

    fn untaken(rest: &mut Rest) -> &mut Untaken<u64, Self> {
        &mut rest.contributions
    }
}

impl Entry for Allocation {
    const FIELD: u32 = 17;
    const NAME: &str = "allocations";

    fn number(&self) -> u64 {
        self.seq
    }

    fn untaken(rest: &mut Rest) -> &mut Untaken<u64, Self> {
        &mut rest.allocations
    }
}
