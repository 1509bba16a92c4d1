//! Amounts of resources, as exact integers.

use std::fmt;

use bilrost::{Enumeration, Message};

use crate::{Refusal, config::invalid, limits::MAX_AMOUNT};

/// A resource that agents contribute.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Enumeration)]
pub enum Resource {
    /// Processor time, thousandths of a processor.
    Cpu = 0,
    /// Memory, bytes.
    Memory = 1,
    /// Disk space, bytes.
    Storage = 2,
    /// Network bandwidth, bits per second.
    Bandwidth = 3,
}

/// An amount of each resource.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct Amounts {
    /// Processor time, thousandths of a processor.
    #[bilrost(1)]
    pub cpu: u64,
    /// Memory, bytes.
    #[bilrost(2)]
    pub memory: u64,
    /// Disk space, bytes.
    #[bilrost(3)]
    pub storage: u64,
    /// Network bandwidth, bits per second.
    #[bilrost(4)]
    pub bandwidth: u64,
}

/// The most of each resource; `None` if it is not limited.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct Quota {
    /// Processor time, thousandths of a processor.
    #[bilrost(1)]
    pub cpu: Option<u64>,
    /// Memory, bytes.
    #[bilrost(2)]
    pub memory: Option<u64>,
    /// Disk space, bytes.
    #[bilrost(3)]
    pub storage: Option<u64>,
    /// Network bandwidth, bits per second.
    #[bilrost(4)]
    pub bandwidth: Option<u64>,
}

/// A resource of which there is too little.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Shortage {
    /// The resource.
    #[bilrost(1)]
    pub resource: Resource,
    /// What is asked for.
    #[bilrost(2)]
    pub asked: u64,
    /// What is free.
    #[bilrost(3)]
    pub free: u64,
    /// Both are of a single agent: the largest part that is asked for, and the most that one agent has free.
    #[bilrost(4)]
    pub of_one: bool,
}

impl Resource {
    /// All resources, in the order of their numbers.
    pub const ALL: [Resource; 4] = [Resource::Cpu, Resource::Memory, Resource::Storage, Resource::Bandwidth];

    /// Returns the resource's name.
    pub fn name(self) -> &'static str {
        match self {
            Resource::Cpu => "cpu",
            Resource::Memory => "memory",
            Resource::Storage => "storage",
            Resource::Bandwidth => "bandwidth",
        }
    }

    /// Returns the unit of the resource's amounts.
    pub fn unit(self) -> &'static str {
        match self {
            Resource::Cpu => "millis",
            Resource::Memory | Resource::Storage => "bytes",
            Resource::Bandwidth => "bit/s",
        }
    }
}

impl Amounts {
    /// Nothing of any resource.
    pub const NONE: Amounts = Amounts { cpu: 0, memory: 0, storage: 0, bandwidth: 0 };

    /// Returns the amount of a resource.
    pub fn get(&self, resource: Resource) -> u64 {
        match resource {
            Resource::Cpu => self.cpu,
            Resource::Memory => self.memory,
            Resource::Storage => self.storage,
            Resource::Bandwidth => self.bandwidth,
        }
    }

    /// Returns whether there is enough of each resource.
    pub fn covers(&self, asked: Amounts) -> bool {
        Resource::ALL.iter().all(|resource| self.get(*resource) >= asked.get(*resource))
    }

    /// Returns the sums. The limits keep them far below the largest number.
    #[must_use]
    pub fn plus(self, other: Amounts) -> Amounts {
        Amounts {
            cpu: self.cpu.saturating_add(other.cpu),
            memory: self.memory.saturating_add(other.memory),
            storage: self.storage.saturating_add(other.storage),
            bandwidth: self.bandwidth.saturating_add(other.bandwidth),
        }
    }

    /// Returns the differences, at least 0. Callers take away only what is there, which the audit checks.
    #[must_use]
    pub fn minus(self, other: Amounts) -> Amounts {
        Amounts {
            cpu: self.cpu.saturating_sub(other.cpu),
            memory: self.memory.saturating_sub(other.memory),
            storage: self.storage.saturating_sub(other.storage),
            bandwidth: self.bandwidth.saturating_sub(other.bandwidth),
        }
    }

    /// Returns at most this much of each resource.
    #[must_use]
    pub fn at_most(self, most: u64) -> Amounts {
        let Amounts { cpu, memory, storage, bandwidth } = self;
        let [cpu, memory, storage, bandwidth] = [cpu, memory, storage, bandwidth].map(|amount| amount.min(most));
        Amounts { cpu, memory, storage, bandwidth }
    }

    /// Returns the larger amount of each resource.
    #[must_use]
    pub fn at_least(self, other: Amounts) -> Amounts {
        Amounts {
            cpu: self.cpu.max(other.cpu),
            memory: self.memory.max(other.memory),
            storage: self.storage.max(other.storage),
            bandwidth: self.bandwidth.max(other.bandwidth),
        }
    }

    /// Refuses an amount above [`MAX_AMOUNT`].
    pub(crate) fn check(&self, field: &str) -> Result<(), Refusal> {
        match Resource::ALL.into_iter().find(|resource| self.get(*resource) > MAX_AMOUNT) {
            None => Ok(()),
            Some(resource) => {
                let (amount, unit) = (self.get(resource), resource.unit());
                let problem = format!("is {amount} {unit}, the most is {MAX_AMOUNT}");
                Err(invalid(&format!("{field}.{}", resource.name()), problem))
            }
        }
    }
}

impl Quota {
    /// Returns the most of a resource; `None` if it is not limited.
    pub fn get(&self, resource: Resource) -> Option<u64> {
        match resource {
            Resource::Cpu => self.cpu,
            Resource::Memory => self.memory,
            Resource::Storage => self.storage,
            Resource::Bandwidth => self.bandwidth,
        }
    }

    /// Returns the first resource of which there would be more than allowed, with what is allowed.
    pub(crate) fn exceeded_by(&self, amounts: Amounts) -> Option<(Resource, u64)> {
        let over = |resource: Resource| Some((resource, self.get(resource)?));
        Resource::ALL.into_iter().filter_map(over).find(|(resource, most)| amounts.get(*resource) > *most)
    }
}

impl Shortage {
    /// Formats it where what is free of it is all that agents contribute.
    fn of_contributed(&self) -> String {
        let Shortage { resource, asked, free, of_one } = self;
        let (name, unit) = (resource.name(), resource.unit());
        match of_one {
            false => format!("{name}: {asked} {unit} asked, {free} contributed"),
            true => format!("{name}: {asked} {unit} asked of one agent, at most {free} contributed by one"),
        }
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shortage { resource, asked, free, of_one } = self;
        let (name, unit) = (resource.name(), resource.unit());
        match of_one {
            false => write!(f, "{name}: {asked} {unit} asked, {free} free"),
            true => write!(f, "{name}: {asked} {unit} asked of one agent, at most {free} free at one"),
        }
    }
}

/// Says which resources are short, or what else is in the way, and what to do. `contributed`: what is free is what agents
/// contribute.
pub(crate) fn in_words(short: &[Shortage], others_wait: bool, contributed: bool) -> String {
    let remedy = match contributed {
        false => "ask for less, ask to wait, or let agents contribute more",
        true => "ask for less, or let agents contribute more",
    };
    let problem = match (short, others_wait, contributed) {
        ([], true, _) => "requests that wait come first".to_owned(),
        ([], false, false) => "no choice of agents has room for all parts".to_owned(),
        ([], false, true) => "no agent contributes all of it".to_owned(),
        (short, _, false) => short.iter().map(Shortage::to_string).collect::<Vec<_>>().join("; "),
        (short, _, true) => short.iter().map(Shortage::of_contributed).collect::<Vec<_>>().join("; "),
    };
    format!("{problem}; {remedy}")
}
