//! The commands for the resource pool, and their bounds.

use std::collections::BTreeSet;

use bilrost::{Message, Oneof};

use super::{
    Holder, Part,
    amounts::{Amounts, Quota, Resource},
};
use crate::{
    AgentId, AllocationId, Effect, Fleet, Refusal, Reply, SessionId,
    config::{check_duration, check_length, check_name, invalid},
    limits::{MAX_PARTS, MAX_QUEUE_WEIGHT, MAX_QUOTA, MAX_SENDER_BYTES, MAX_SET_QUEUES},
};

/// A command for the resource pool. All need [`Feature::Resources`](crate::Feature::Resources). All domains share one
/// range of field numbers; see `codec`.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum ResourceCommand {
    /// An agent contributes this much from now on, for as long as its session lasts, but no less
    /// than what is granted of it.
    #[bilrost(tag(35), message)]
    Contribute {
        /// The agent.
        #[bilrost(1)]
        agent: AgentId,
        /// Its session.
        #[bilrost(2)]
        session: SessionId,
        /// What it contributes; nothing takes back what it contributed.
        #[bilrost(3)]
        amounts: Amounts,
    },
    /// Asks for resources.
    #[bilrost(36)]
    Request(RequestResources),
    /// Releases an allocation, or no longer waits for it. Does nothing if it has ended.
    #[bilrost(tag(37), message)]
    Release {
        /// The allocation.
        #[bilrost(1)]
        id: AllocationId,
        /// Its fencing token; `None` releases it whatever its token is.
        #[bilrost(2)]
        token: Option<u64>,
    },
    /// Renews the lease of an allocation.
    #[bilrost(tag(38), message)]
    Renew {
        /// The allocation.
        #[bilrost(1)]
        id: AllocationId,
        /// Its fencing token.
        #[bilrost(2)]
        token: u64,
    },
    /// Sets the queues that have a weight or a quota. What is granted already stays so.
    #[bilrost(39)]
    SetQueues(Vec<QueueShape>),
}

/// A request for resources.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct RequestResources {
    /// The allocation's id, drawn by whoever asks: a second request with the same id and content is the same request.
    #[bilrost(1)]
    pub id: AllocationId,
    /// Who is to hold it.
    #[bilrost(2)]
    pub holder: Holder,
    /// The name of the queue.
    #[bilrost(3)]
    pub queue: String,
    /// What is asked for: 1 to [`MAX_PARTS`] parts, none of them nothing. All are granted or none.
    #[bilrost(4)]
    pub parts: Vec<Amounts>,
    /// Each part must be of another agent.
    #[bilrost(5)]
    pub spread: bool,
    /// How long the lease lasts without being renewed, ms of fleet time; 1 to
    /// [`MAX_DURATION_MS`](crate::limits::MAX_DURATION_MS).
    #[bilrost(6)]
    pub ttl: u64,
    /// How long the request waits at most if it can't be granted at once, ms of fleet time; at most
    /// [`MAX_DURATION_MS`](crate::limits::MAX_DURATION_MS). 0 refuses it instead.
    #[bilrost(7)]
    pub wait: u64,
    /// Who asks; at most [`MAX_SENDER_BYTES`].
    #[bilrost(8)]
    pub requested_by: String,
}

/// A queue's weight and quota.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct QueueShape {
    /// The queue's name.
    #[bilrost(1)]
    pub name: String,
    /// A queue of twice the weight gets twice the share; 1 to [`MAX_QUEUE_WEIGHT`].
    #[bilrost(2)]
    pub weight: u32,
    /// The most that can be granted from it at a time.
    #[bilrost(3)]
    pub quota: Quota,
}

impl Holder {
    /// Refuses a holder that nobody can be, whatever the fleet's state.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        match self {
            Holder::Nobody => Err(invalid("holder", "must be a task, an agent, a team or a client")),
            Holder::Task(_) | Holder::Team(_) => Ok(()),
            Holder::Agent(name) | Holder::Client(name) => check_name("holder", name),
        }
    }
}

impl RequestResources {
    /// Refuses a request that is out of bounds, whatever the fleet's state.
    ///
    /// # Errors
    /// Returns [`Refusal::Invalid`], which names the field.
    pub fn check(&self) -> Result<(), Refusal> {
        self.holder.check()?;
        check_name("queue", &self.queue)?;
        check_length("requested_by", &self.requested_by, MAX_SENDER_BYTES)?;
        let count = self.parts.len();
        if !(1..=MAX_PARTS).contains(&count) {
            return Err(invalid("parts", format!("has {count} entries, must have 1 to {MAX_PARTS}")));
        }
        for part in &self.parts {
            if *part == Amounts::NONE {
                return Err(invalid("parts", "a part must ask for something"));
            }
            part.check("parts")?;
        }
        check_duration("ttl", Some(self.ttl), 1)?;
        check_duration("wait", Some(self.wait), 0)
    }

    /// Returns the parts as they are kept while nothing is granted.
    pub(super) fn to_parts(&self) -> Vec<Part> {
        self.parts.iter().map(|amounts| Part { amounts: *amounts, agent: None }).collect()
    }
}

impl QueueShape {
    fn check(&self) -> Result<(), Refusal> {
        check_name("queues.name", &self.name)?;
        if !(1..=MAX_QUEUE_WEIGHT).contains(&self.weight) {
            let problem = format!("is {} for queue {:?}, must be 1 to {MAX_QUEUE_WEIGHT}", self.weight, self.name);
            return Err(invalid("queues.weight", problem));
        }
        self.quota.check(&self.name)
    }

    /// Refuses queues that can't be set together: too many, one out of bounds, or two with the same name.
    ///
    /// # Errors
    /// Returns [`Refusal::Invalid`], which names the field.
    pub fn check_all(shapes: &[QueueShape]) -> Result<(), Refusal> {
        if shapes.len() > MAX_SET_QUEUES {
            return Err(invalid("queues", format!("has {} entries, the most is {MAX_SET_QUEUES}", shapes.len())));
        }
        let mut names = BTreeSet::new();
        for shape in shapes {
            shape.check()?;
            if !names.insert(&shape.name) {
                return Err(invalid("queues.name", format!("{:?} is there twice", shape.name)));
            }
        }
        Ok(())
    }
}

impl Quota {
    pub(crate) fn check(&self, queue: &str) -> Result<(), Refusal> {
        if Resource::ALL.iter().all(|resource| self.get(*resource).is_none_or(|most| most <= MAX_QUOTA)) {
            return Ok(());
        }
        Err(invalid("queues.quota", format!("of queue {queue:?} must be at most {MAX_QUOTA} of each resource")))
    }
}

impl Fleet {
    pub(crate) fn run_resources(&mut self, command: ResourceCommand, effects: &mut Vec<Effect>) -> Reply {
        match command {
            ResourceCommand::Contribute { agent, session, amounts } => self.contribute(agent, session, amounts),
            ResourceCommand::Request(request) => self.request_resources(request, effects),
            ResourceCommand::Release { id, token } => self.release_resources(id, token, effects),
            ResourceCommand::Renew { id, token } => self.renew_lease(id, token),
            ResourceCommand::SetQueues(shapes) => self.set_queues(shapes),
        }
    }
}
