//! The resource pool for people.

use std::fmt::Write;

use jiff::Timestamp;
use robeing_proto::v1::{
    Allocation, AllocationState, ListResourcesResponse, ResourceAmounts, ResourceQueue, ResourceQuota,
};
use robeing_settings::quantities::{amount_text, cpu_text};

use super::{
    table::table,
    words::{age, camel, moment, plural, printable},
};

/// Formats amounts as columns: of processor time, memory, disk space and bandwidth.
fn columns(amounts: Option<&ResourceAmounts>) -> [String; 4] {
    let amounts = amounts.copied().unwrap_or_default();
    [
        cpu_text(amounts.cpu_millis),
        amount_text(amounts.memory_bytes),
        amount_text(amounts.storage_bytes),
        amount_text(amounts.bandwidth_bits_per_second),
    ]
}

/// Formats used and contributed amounts as columns: `1/4`.
fn of(used: Option<&ResourceAmounts>, contributed: Option<&ResourceAmounts>) -> [String; 4] {
    let (used, contributed) = (columns(used), columns(contributed));
    std::array::from_fn(|n| format!("{}/{}", used[n], contributed[n]))
}

/// Formats amounts in one text, without those that are nothing.
pub fn amounts_text(amounts: Option<&ResourceAmounts>) -> String {
    let names = ["cpu", "memory", "storage", "bandwidth"];
    let some = columns(amounts).into_iter().zip(names).filter(|(amount, _)| amount != "0");
    some.map(|(amount, name)| format!("{name} {amount}")).collect::<Vec<_>>().join(", ")
}

fn quota(quota: Option<&ResourceQuota>) -> String {
    let quota = quota.copied().unwrap_or_default();
    let limits = [
        ("cpu", quota.cpu_millis.map(cpu_text)),
        ("memory", quota.memory_bytes.map(amount_text)),
        ("storage", quota.storage_bytes.map(amount_text)),
        ("bandwidth", quota.bandwidth_bits_per_second.map(amount_text)),
    ];
    let limits = limits.into_iter().filter_map(|(name, most)| Some(format!("{name} {}", most?)));
    limits.collect::<Vec<_>>().join(", ")
}

/// Formats a queue that was set: its name, weight and quota.
pub fn queue_line(queue: &ResourceQueue) -> String {
    let most = quota(queue.quota.as_ref());
    let most = if most.is_empty() { "no quota".to_owned() } else { format!("at most {most}") };
    printable(&format!("{}: weight {}, {most}", queue.name, queue.weight))
}

/// Formats `robeing resources list`: agents, then the sums, then queues.
pub fn resources_text(resources: &ListResourcesResponse) -> String {
    let sums = resources.sums.unwrap_or_default();
    if resources.agents.is_empty() && resources.queues.is_empty() {
        return "no agent contributes resources\n".into();
    }
    let agents = resources.agents.iter().map(|agent| {
        let [cpu, memory, storage, bandwidth] = of(agent.used.as_ref(), agent.contributed.as_ref());
        let state = if agent.live { "" } else { "gives no more" };
        [agent.agent.clone(), cpu, memory, storage, bandwidth, state.to_owned()]
    });
    let [cpu, memory, storage, bandwidth] = of(sums.used.as_ref(), sums.contributed.as_ref());
    let all = [format!("all {}", sums.agents), cpu, memory, storage, bandwidth, String::new()];
    let headers = ["AGENT", "CPU", "MEMORY", "STORAGE", "BANDWIDTH", ""];
    let mut text = table(headers, agents.chain(std::iter::once(all)));
    // Writing to a string can't fail.
    let _ = writeln!(
        text,
        "\n{} granted, {} waiting",
        plural(usize::try_from(sums.granted).unwrap_or(usize::MAX), "allocation"),
        sums.waiting
    );
    if resources.queues.is_empty() {
        return text;
    }
    let queues = resources.queues.iter().map(|queue| {
        let (used, most) = (amounts_text(queue.used.as_ref()), quota(queue.quota.as_ref()));
        let counts = (queue.granted.to_string(), queue.waiting.to_string());
        [queue.name.clone(), queue.weight.to_string(), counts.0, counts.1, used, most]
    });
    text.push('\n');
    text.push_str(&table(["QUEUE", "WEIGHT", "GRANTED", "WAITING", "USED", "QUOTA"], queues));
    text
}

fn state_word(state: AllocationState) -> String {
    camel(state.as_str_name(), "ALLOCATION_STATE_")
}

/// Returns the sum of an allocation's parts.
fn asked(allocation: &Allocation) -> ResourceAmounts {
    let parts = allocation.parts.iter().filter_map(|part| part.amounts.as_ref());
    parts.fold(ResourceAmounts::default(), |sum, part| ResourceAmounts {
        cpu_millis: sum.cpu_millis.saturating_add(part.cpu_millis),
        memory_bytes: sum.memory_bytes.saturating_add(part.memory_bytes),
        storage_bytes: sum.storage_bytes.saturating_add(part.storage_bytes),
        bandwidth_bits_per_second: sum.bandwidth_bits_per_second.saturating_add(part.bandwidth_bits_per_second),
    })
}

/// Formats the list of `robeing resources list --allocations`.
pub fn allocations_table(allocations: &[Allocation], now: Timestamp) -> String {
    if allocations.is_empty() {
        return "no allocations\n".into();
    }
    table(
        ["ID", "STATE", "HOLDER", "QUEUE", "RESOURCES", "PARTS", "AGE"],
        allocations.iter().map(|allocation| {
            [
                allocation.id.clone(),
                state_word(allocation.state()),
                allocation.holder.clone(),
                allocation.queue.clone(),
                amounts_text(Some(&asked(allocation))),
                allocation.parts.len().to_string(),
                age(allocation.requested_at.as_ref(), now),
            ]
        }),
    )
}

/// Formats one allocation in full, with its parts.
pub fn allocation_text(allocation: &Allocation, now: Timestamp) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            // Writing to a string can't fail.
            let _ = writeln!(text, "{:<16}{}", format!("{name}:"), printable(&value));
        }
    };
    line("ID", allocation.id.clone());
    line("State", state_word(allocation.state()));
    line("Token", if allocation.token == 0 { String::new() } else { allocation.token.to_string() });
    line("Holder", allocation.holder.clone());
    line("Queue", allocation.queue.clone());
    let requested = moment(allocation.requested_at.as_ref(), now);
    line(
        "Requested",
        match allocation.requested_by.as_str() {
            // It is of an attempt at a task.
            "" => requested,
            name => format!("{requested} by {name}"),
        },
    );
    if allocation.granted_at.is_some() {
        line("Granted", moment(allocation.granted_at.as_ref(), now));
    }
    match allocation.state() {
        AllocationState::Waiting => line("Waits until", moment(allocation.expires_at.as_ref(), now)),
        AllocationState::Granted => line("Expires", moment(allocation.expires_at.as_ref(), now)),
        _ => line("Ended", moment(allocation.ended_at.as_ref(), now)),
    }
    line("Short", allocation.short.join("; "));
    let parts = allocation.parts.iter().map(|part| {
        let [cpu, memory, storage, bandwidth] = columns(part.amounts.as_ref());
        [part.agent.clone(), cpu, memory, storage, bandwidth]
    });
    text.push('\n');
    text.push_str(&table(["AGENT", "CPU", "MEMORY", "STORAGE", "BANDWIDTH"], parts));
    text
}

#[cfg(test)]
mod tests {
    use robeing_proto::v1::{AgentResources, ResourceSums, allocation::Part};

    use super::*;

    fn amounts(cpu_millis: u64, memory_bytes: u64) -> Option<ResourceAmounts> {
        Some(ResourceAmounts { cpu_millis, memory_bytes, ..ResourceAmounts::default() })
    }

    #[test]
    fn what_agents_contribute_is_shown_with_what_is_used_of_it() {
        let (contributed, used) = (amounts(4_000, 8 << 30), amounts(500, 0));
        let agent = AgentResources { agent: "a".into(), contributed, used, live: true };
        let queue = ResourceQueue { name: "default".into(), weight: 1, ..ResourceQueue::default() };
        let sums = ResourceSums {
            contributed: amounts(4_000, 8 << 30),
            used: amounts(500, 0),
            agents: 1,
            granted: 1,
            ..ResourceSums::default()
        };
        let (agents, queues) = (vec![agent], vec![queue]);
        let text =
            resources_text(&ListResourcesResponse { agents, sums: Some(sums), queues, next_page_token: String::new() });
        for shown in ["500m/4", "0/8Gi", "all 1", "1 allocation granted, 0 waiting", "default"] {
            assert!(text.contains(shown), "{shown}: {text}");
        }
        assert_eq!(resources_text(&ListResourcesResponse::default()), "no agent contributes resources\n");
    }

    #[test]
    fn a_queue_that_was_set_is_one_line() {
        let mut queue = ResourceQueue { name: "batch".into(), weight: 3, ..ResourceQueue::default() };
        assert_eq!(queue_line(&queue), "batch: weight 3, no quota");
        let (cpu_millis, memory_bytes) = (Some(16_000), Some(64 << 30));
        queue.quota = Some(ResourceQuota { cpu_millis, memory_bytes, ..ResourceQuota::default() });
        assert_eq!(queue_line(&queue), "batch: weight 3, at most cpu 16, memory 64Gi");
    }

    #[test]
    fn an_allocation_is_shown_with_its_agents_and_its_token() {
        let part = Part { amounts: amounts(1_500, 1 << 30), agent: "data-0".into() };
        let mut allocation =
            Allocation { id: "7".into(), token: 9, parts: vec![part.clone(), part], ..Allocation::default() };
        allocation.set_state(AllocationState::Granted);
        let now = Timestamp::UNIX_EPOCH;
        let text = allocation_text(&allocation, now);
        for shown in ["Granted", "Token:", "9", "data-0", "1500m", "1Gi"] {
            assert!(text.contains(shown), "{shown}: {text}");
        }
        let table = allocations_table(&[allocation], now);
        assert!(table.contains("cpu 3, memory 2Gi"), "{table}");
    }
}
