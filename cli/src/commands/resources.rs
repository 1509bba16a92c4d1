//! `robeing resources list`, `request`, `show`, `renew`, `release` and `queues`.

use std::{
    io::{self, Write},
    time::Duration,
};

use jiff::Timestamp;
use robeing_client::{FleetClient, new_allocation_id};
use robeing_proto::v1::{
    Allocation, AllocationState, GetAllocationRequest, ListAllocationsRequest, ListResourcesRequest,
    ListResourcesResponse, ReleaseResourcesRequest, RenewLeaseRequest, RequestResourcesRequest, ResourceAmounts,
    ResourceQueue, ResourceQuota, SetQueuesRequest,
};
use tokio::time::Instant;

use super::{connect::client, duration, ensure_id};
use crate::{
    args::{
        AmountArgs, Connection, Format, FreeArgs, ListResourcesArgs, QueueSpec, QueuesArgs, RenewArgs, RequestArgs,
        ResourcesCommand, ShowAllocationArgs,
    },
    error::CliError,
    exit::Exit,
    kubernetes::Access,
    render::{allocation_text, allocations_table, note, print_list, print_one, queue_line, resources_text},
};

/// How long one call waits for an allocation.
const WAIT_AT_ONCE: Duration = Duration::from_secs(20);
/// How long after its wait the end of it is waited for: a new leader may have to be elected to end it.
const AFTER_WAIT: Duration = Duration::from_secs(30);
/// Longest time that a command waits: an instant that is much later can't be computed.
const LONGEST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
/// Number of agents, and of allocations, that one call lists.
const AGENTS_PAGE: u32 = 1_000;
const PAGE: u32 = 100;
/// The commands that print the ids of allocations.
const PRINTED_BY: &str = "`robeing resources request` and `robeing resources list --allocations`";
/// The queue that there is unless it is set, with the weight 1 and no quota.
const DEFAULT_QUEUE: &str = "default";

pub(super) async fn run(command: ResourcesCommand, fleet: &Connection) -> Result<Exit, CliError> {
    match command {
        ResourcesCommand::List(args) => list(args, fleet).await,
        ResourcesCommand::Request(args) => request(args, fleet).await,
        ResourcesCommand::Show(args) => show(args, fleet).await,
        ResourcesCommand::Renew(args) => renew(args, fleet).await,
        ResourcesCommand::Release(args) => release(args, fleet).await,
        ResourcesCommand::Queues(args) => queues(args, fleet).await,
    }
}

async fn list(args: ListResourcesArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, None, Access::Use).await?;
    let format = args.output.output;
    if args.allocations {
        let found = allocations(&client, !args.all).await?;
        print_list(&mut io::stdout().lock(), format, &found, |list| allocations_table(list, Timestamp::now()))?;
        return Ok(Exit::Success);
    }
    let mut request = ListResourcesRequest { limit: AGENTS_PAGE, page_token: String::new() };
    let mut all = ListResourcesResponse::default();
    loop {
        let page = client.list_resources(request.clone()).await?;
        let mut agents = std::mem::take(&mut all.agents);
        agents.extend(page.agents.iter().cloned());
        request.page_token.clone_from(&page.next_page_token);
        all = ListResourcesResponse { agents, next_page_token: String::new(), ..page };
        if request.page_token.is_empty() {
            break;
        }
    }
    print_one(&mut io::stdout().lock(), format, &all, resources_text)?;
    Ok(Exit::Success)
}

async fn allocations(client: &FleetClient, live: bool) -> Result<Vec<Allocation>, CliError> {
    let mut request = ListAllocationsRequest { live, limit: PAGE, page_token: String::new() };
    let mut found = Vec::new();
    loop {
        let page = client.list_allocations(request.clone()).await?;
        found.extend(page.allocations);
        if page.next_page_token.is_empty() {
            return Ok(found);
        }
        request.page_token = page.next_page_token;
    }
}

/// Returns amounts as the API takes them.
pub(super) fn resource_amounts(amounts: &AmountArgs) -> ResourceAmounts {
    let AmountArgs { cpu, memory, storage, bandwidth } = *amounts;
    ResourceAmounts {
        cpu_millis: cpu,
        memory_bytes: memory,
        storage_bytes: storage,
        bandwidth_bits_per_second: bandwidth,
    }
}

fn asking(args: RequestArgs) -> RequestResourcesRequest {
    let part = resource_amounts(&args.amounts);
    RequestResourcesRequest {
        id: args.id.unwrap_or_else(new_allocation_id),
        holder: args.holder,
        queue: args.queue,
        parts: std::iter::repeat_n(part, args.parts as usize).collect(),
        spread: args.spread,
        lease: Some(duration(args.lease)),
        wait: args.wait.map(duration),
    }
}

async fn request(args: RequestArgs, fleet: &Connection) -> Result<Exit, CliError> {
    if args.amounts == AmountArgs::default() {
        return Err(CliError::Usage("nothing is asked for: give --cpu, --memory, --storage or --bandwidth".into()));
    }
    let (wait, format) = (args.wait, args.output.output);
    let client = client(fleet, None, Access::Use).await?;
    let mut allocation = client.request_resources(asking(args)).await?;
    if let Some(wait) = wait.filter(|_| allocation.state() == AllocationState::Waiting) {
        if format == Format::Table {
            note(&format!("waiting for allocation {}; it goes on without this command", allocation.id));
        }
        let until = Instant::now() + wait.saturating_add(AFTER_WAIT).min(LONGEST);
        allocation = granted(&client, &allocation.id, until).await?;
    }
    print_one(&mut io::stdout().lock(), format, &allocation, |found| allocation_text(found, Timestamp::now()))?;
    Ok(exit_of(allocation.state()))
}

/// Waits until an allocation no longer waits, or until this time, and returns it.
async fn granted(client: &FleetClient, id: &str, until: Instant) -> Result<Allocation, CliError> {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let wait = Some(duration(left.min(WAIT_AT_ONCE)));
        let allocation = client.get_allocation(GetAllocationRequest { id: id.to_owned(), wait }).await?;
        if allocation.state() != AllocationState::Waiting || left.is_zero() {
            return Ok(allocation);
        }
    }
}

async fn show(args: ShowAllocationArgs, fleet: &Connection) -> Result<Exit, CliError> {
    ensure_id("allocation", &args.allocation, PRINTED_BY)?;
    let client = client(fleet, None, Access::Use).await?;
    let allocation = client.get_allocation(GetAllocationRequest { id: args.allocation, wait: None }).await?;
    let format = args.output.output;
    print_one(&mut io::stdout().lock(), format, &allocation, |found| allocation_text(found, Timestamp::now()))?;
    Ok(Exit::Success)
}

async fn renew(args: RenewArgs, fleet: &Connection) -> Result<Exit, CliError> {
    ensure_id("allocation", &args.allocation, PRINTED_BY)?;
    let client = client(fleet, None, Access::Use).await?;
    client.renew_lease(RenewLeaseRequest { id: args.allocation, token: args.token }).await?;
    Ok(Exit::Success)
}

async fn release(args: FreeArgs, fleet: &Connection) -> Result<Exit, CliError> {
    ensure_id("allocation", &args.allocation, PRINTED_BY)?;
    let client = client(fleet, None, Access::Use).await?;
    client.release_resources(ReleaseResourcesRequest { id: args.allocation, token: args.token }).await?;
    Ok(Exit::Success)
}

async fn queues(args: QueuesArgs, fleet: &Connection) -> Result<Exit, CliError> {
    let client = client(fleet, None, Access::Administer).await?;
    let named = if args.none { Vec::new() } else { args.queues };
    let mut queues: Vec<ResourceQueue> = named.into_iter().map(queue).collect();
    client.set_queues(SetQueuesRequest { queues: queues.clone() }).await?;
    if queues.iter().all(|queue| queue.name != DEFAULT_QUEUE) {
        queues.insert(0, queue(QueueSpec { name: DEFAULT_QUEUE.into(), weight: 1, ..QueueSpec::default() }));
    }
    let mut out = io::stdout().lock();
    for queue in &queues {
        writeln!(out, "{}", queue_line(queue))?;
    }
    Ok(Exit::Success)
}

fn queue(spec: QueueSpec) -> ResourceQueue {
    let quota = ResourceQuota {
        cpu_millis: spec.cpu,
        memory_bytes: spec.memory,
        storage_bytes: spec.storage,
        bandwidth_bits_per_second: spec.bandwidth,
    };
    ResourceQueue { name: spec.name, weight: spec.weight, quota: Some(quota), ..ResourceQueue::default() }
}

fn exit_of(state: AllocationState) -> Exit {
    match state {
        AllocationState::Granted => Exit::Success,
        AllocationState::Waiting | AllocationState::NotGranted => Exit::TimedOut,
        _ => Exit::TaskFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_granted_is_a_success() {
        for (state, exit) in [
            (AllocationState::Granted, Exit::Success),
            (AllocationState::Waiting, Exit::TimedOut),
            (AllocationState::NotGranted, Exit::TimedOut),
            (AllocationState::AgentLost, Exit::TaskFailed),
        ] {
            assert_eq!(exit_of(state), exit, "{state:?}");
        }
    }
}
