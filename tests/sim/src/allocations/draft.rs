//! Requests for resources as a client makes them.

use std::time::Duration;

use robeing_platform::Random;
use robeing_proto::v1::{self, RequestResourcesRequest, ResourceAmounts};

use crate::{clients::below, mail::agents, profile::between, state::Granted, tasks::millis};

/// The number of parts, from the first bound to the second, exclusive.
const PARTS: (u64, u64) = (1, 4);
/// The processor time of a part, in thousandths of a processor, and its memory, in bytes: an agent has two of the
/// largest at most.
const CPU: (u64, u64) = (500, 2_500);
const MEMORY: (u64, u64) = (1 << 20, 1 << 29);
/// How long a lease lasts, in milliseconds.
const LEASE: (u64, u64) = (1_000, 4_000);
/// How long requests wait that do, in milliseconds.
const WAIT: (u64, u64) = (1_000, 5_000);
/// One of this many requests does not wait.
const REFUSED_ONE_OF: u64 = 3;
/// One of this many requests is of an agent.
const OF_AGENT_ONE_OF: u64 = 4;
/// One of this many requests is from the queue with a quota.
const LIMITED_ONE_OF: u64 = 3;
/// Begins the holders that are agents.
pub const AGENT: &str = "agent:";
/// The queue that there always is, which has no quota.
pub const DEFAULT: &str = "default";
/// The queue with a quota.
pub const LIMITED: &str = "limited";

/// Returns the name of a queue as a request has it.
pub fn named(queue: &str) -> String {
    if queue == DEFAULT { String::new() } else { queue.to_owned() }
}

/// A request for resources.
#[derive(Clone, PartialEq, Debug)]
pub struct Draft {
    /// Who is to hold them.
    pub holder: String,
    /// The queue.
    pub queue: &'static str,
    /// The parts.
    pub parts: Vec<ResourceAmounts>,
    /// Whether each part must be of another agent.
    pub spread: bool,
    /// How long the lease lasts.
    pub lease: Duration,
    /// How long the request waits; 0 if it does not.
    pub wait: Duration,
}

impl Draft {
    /// Draws the request of this number. The first one is small and waits, so that there is always one that is granted.
    pub fn draw(random: &dyn Random, client: &str, number: usize) -> Self {
        let client = format!("client:{client}");
        let amounts = |cpu_millis, memory_bytes| ResourceAmounts { cpu_millis, memory_bytes, ..Default::default() };
        let lease = Duration::from_millis(between(random, LEASE));
        let wait = Duration::from_millis(between(random, WAIT));
        if number == 0 {
            let parts = vec![amounts(CPU.0, MEMORY.0)];
            return Self { holder: client, queue: DEFAULT, parts, spread: false, lease, wait };
        }
        let all = agents();
        let agent = &all[below(random, all.len() as u64) as usize];
        let is_of_agent = below(random, OF_AGENT_ONE_OF) == 0;
        let is_limited = below(random, LIMITED_ONE_OF) == 0;
        let parts = (0..between(random, PARTS)).map(|_| amounts(between(random, CPU), between(random, MEMORY)));
        Self {
            holder: if is_of_agent { format!("{AGENT}{agent}") } else { client },
            queue: if is_limited { LIMITED } else { DEFAULT },
            parts: parts.collect(),
            spread: below(random, 2) == 0,
            lease,
            wait: if below(random, REFUSED_ONE_OF) == 0 { Duration::ZERO } else { wait },
        }
    }

    /// Returns the request under this id.
    pub fn request(&self, id: &str) -> RequestResourcesRequest {
        RequestResourcesRequest {
            id: id.to_owned(),
            holder: self.holder.clone(),
            queue: named(self.queue),
            parts: self.parts.clone(),
            spread: self.spread,
            lease: Some(millis(self.lease.as_millis() as u64)),
            wait: (!self.wait.is_zero()).then(|| millis(self.wait.as_millis() as u64)),
        }
    }

    /// Returns whether an allocation is what was asked for.
    pub fn is_that(&self, told: &v1::Allocation) -> bool {
        (told.holder.as_str(), told.queue.as_str(), told.spread) == (self.holder.as_str(), self.queue, self.spread)
            && u128::from(told.lease_ms) == self.lease.as_millis()
            && told.parts.iter().map(|part| part.amounts).eq(self.parts.iter().map(|part| Some(*part)))
    }

    /// Returns whether what is granted is what was asked for.
    pub fn is_granted_by(&self, granted: &Granted) -> bool {
        let asked = self.parts.iter().map(|part| [part.cpu_millis, part.memory_bytes]);
        (granted.holder.as_str(), granted.queue.as_str()) == (self.holder.as_str(), self.queue)
            && granted.parts.iter().map(|part| part.amounts).eq(asked)
    }

    /// Returns the agent that is the holder, if one is.
    pub fn holding_agent(&self) -> Option<&str> {
        self.holder.strip_prefix(AGENT)
    }
}

#[cfg(test)]
mod tests {
    use robeing_platform::simulated::SeededRandom;

    use super::*;

    #[test]
    fn requests_differ_and_an_allocation_is_what_was_asked_for() {
        let random = SeededRandom::new(1);
        let all: Vec<Draft> = (1..60).map(|number| Draft::draw(&random, "ann", number)).collect();
        assert!(all.iter().any(|draft| draft.parts.len() == 3 && draft.spread));
        assert!(all.iter().any(|draft| draft.holding_agent().is_some()));
        assert!(all.iter().any(|draft| draft.queue == LIMITED) && all.iter().any(|draft| draft.queue == DEFAULT));
        assert!(all.iter().any(|draft| draft.wait.is_zero()) && all.iter().any(|draft| !draft.wait.is_zero()));
        for draft in all {
            let request = draft.request("1");
            let part = |of: &ResourceAmounts| v1::allocation::Part { amounts: Some(*of), agent: String::new() };
            let right = v1::Allocation {
                holder: request.holder,
                queue: draft.queue.to_owned(),
                parts: request.parts.iter().map(part).collect(),
                spread: request.spread,
                lease_ms: draft.lease.as_millis() as u64,
                ..v1::Allocation::default()
            };
            assert!(draft.is_that(&right) && draft.is_granted_by(&Granted::told(&right)));
            assert!(!draft.is_granted_by(&Granted { queue: String::new(), ..Granted::told(&right) }));
            assert!(!draft.is_that(&v1::Allocation { lease_ms: 1, ..right.clone() }));
            assert!(!draft.is_that(&v1::Allocation { parts: Vec::new(), ..right }));
        }
    }
}
