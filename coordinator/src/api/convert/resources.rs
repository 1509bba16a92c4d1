//! The resource pool.

use robeing_fleet::{
    AgentResources, AllocationEnd, AllocationState, Amounts, Holder, PoolSums, QueueShape, QueueView, Quota, Shortage,
};
use robeing_proto::v1;

use super::{BadField, bad, due, excerpt, happened, task_id, team_id};
use crate::resources::Seen;

/// Reads amounts.
pub fn amounts(amounts: &v1::ResourceAmounts) -> Amounts {
    Amounts {
        cpu: amounts.cpu_millis,
        memory: amounts.memory_bytes,
        storage: amounts.storage_bytes,
        bandwidth: amounts.bandwidth_bits_per_second,
    }
}

/// Converts amounts to their API form.
pub fn told_amounts(amounts: Amounts) -> v1::ResourceAmounts {
    v1::ResourceAmounts {
        cpu_millis: amounts.cpu,
        memory_bytes: amounts.memory,
        storage_bytes: amounts.storage,
        bandwidth_bits_per_second: amounts.bandwidth,
    }
}

/// Reads a holder.
///
/// # Errors
/// If it is none.
pub fn holder(text: &str) -> Result<Holder, BadField> {
    match text.split_once(':') {
        Some(("task", id)) => Ok(Holder::Task(task_id(id)?)),
        Some(("agent", name)) => Ok(Holder::Agent(name.to_owned())),
        Some(("team", id)) => Ok(Holder::Team(team_id("holder", id)?)),
        Some(("client", name)) => Ok(Holder::Client(name.to_owned())),
        _ => {
            let problem = format!("{:?} must be task:ID, team:ID, agent:NAME or client:NAME", excerpt(text));
            Err(bad("holder", problem))
        }
    }
}

/// Reads a queue.
pub fn queue_shape(queue: v1::ResourceQueue) -> QueueShape {
    let quota = queue.quota.unwrap_or_default();
    let quota = Quota {
        cpu: quota.cpu_millis,
        memory: quota.memory_bytes,
        storage: quota.storage_bytes,
        bandwidth: quota.bandwidth_bits_per_second,
    };
    QueueShape { name: queue.name, weight: queue.weight, quota }
}

/// Converts a queue to its API form.
pub fn queue(queue: QueueView) -> v1::ResourceQueue {
    let Quota { cpu, memory, storage, bandwidth } = queue.quota;
    let quota = v1::ResourceQuota {
        cpu_millis: cpu,
        memory_bytes: memory,
        storage_bytes: storage,
        bandwidth_bits_per_second: bandwidth,
    };
    v1::ResourceQueue {
        name: queue.name,
        weight: queue.weight,
        quota: Some(quota),
        used: Some(told_amounts(queue.used)),
        waiting: queue.waiting,
        granted: queue.granted,
    }
}

/// Converts what an agent contributes to its API form.
pub fn agent_resources((agent, resources): (String, AgentResources)) -> v1::AgentResources {
    v1::AgentResources {
        agent,
        contributed: Some(told_amounts(resources.contributed)),
        used: Some(told_amounts(resources.used)),
        live: resources.is_live,
    }
}

/// Converts the sums of the pool to their API form.
pub fn pool_sums(sums: PoolSums) -> v1::ResourceSums {
    v1::ResourceSums {
        contributed: Some(told_amounts(sums.contributed)),
        used: Some(told_amounts(sums.used)),
        free: Some(told_amounts(sums.free)),
        agents: sums.agents,
        waiting: sums.waiting,
        granted: sums.granted,
    }
}

fn end(end: AllocationEnd) -> v1::AllocationState {
    match end {
        AllocationEnd::Released => v1::AllocationState::Released,
        AllocationEnd::Expired => v1::AllocationState::Expired,
        AllocationEnd::HolderGone => v1::AllocationState::HolderGone,
        AllocationEnd::AgentLost => v1::AllocationState::AgentLost,
        AllocationEnd::NotGranted => v1::AllocationState::NotGranted,
    }
}

/// Converts an allocation to its API form.
pub fn allocation(seen: Seen) -> v1::Allocation {
    let Seen { allocation, agents, short, now } = seen;
    let parts = allocation
        .parts
        .iter()
        .zip(agents)
        .map(|(part, agent)| v1::allocation::Part { amounts: Some(told_amounts(part.amounts)), agent });
    let told = v1::Allocation {
        id: allocation.id.to_string(),
        holder: allocation.holder.to_string(),
        queue: allocation.queue.clone(),
        parts: parts.collect(),
        spread: allocation.spread,
        // That of an attempt lasts as long as the attempt.
        lease_ms: if allocation.attempt.is_some() { 0 } else { allocation.ttl },
        requested_at: Some(happened(allocation.requested)),
        requested_by: allocation.requested_by.clone(),
        short: short.iter().map(Shortage::to_string).collect(),
        ..v1::Allocation::default()
    };
    match &allocation.state {
        AllocationState::Waiting => {
            let until = allocation.requested.fleet.saturating_add(allocation.wait);
            v1::Allocation { state: v1::AllocationState::Waiting.into(), expires_at: Some(due(until, now)), ..told }
        }
        AllocationState::Granted { token, at, expires } => v1::Allocation {
            state: v1::AllocationState::Granted.into(),
            token: *token,
            granted_at: Some(happened(*at)),
            expires_at: allocation.attempt.is_none().then(|| due(*expires, now)),
            ..told
        },
        AllocationState::Ended { end: how, at, .. } => {
            v1::Allocation { state: end(*how).into(), ended_at: Some(happened(*at)), ..told }
        }
    }
}

#[cfg(test)]
mod tests {
    use robeing_fleet::{TaskId, TeamId};

    use super::*;

    #[test]
    fn holders_are_read_as_they_are_written() {
        for of in [
            Holder::Task(TaskId(7)),
            Holder::Agent("a:b".to_owned()),
            Holder::Team(TeamId(8)),
            Holder::Client("c".to_owned()),
        ] {
            assert_eq!(holder(&of.to_string()), Ok(of));
        }
        for wrong in ["", "nobody", "task:x", "team:x"] {
            assert!(holder(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn amounts_and_quotas_stay_what_they_are() {
        let some = Amounts { cpu: 1, memory: 2, storage: 3, bandwidth: 4 };
        assert_eq!(amounts(&told_amounts(some)), some);
        let quota = Quota { cpu: Some(0), ..Quota::default() };
        let view = QueueView { name: "q".to_owned(), weight: 2, quota, used: Amounts::NONE, waiting: 0, granted: 0 };
        let shape = QueueShape { name: "q".to_owned(), weight: 2, quota };
        assert_eq!(queue_shape(queue(view)), shape);
    }
}
