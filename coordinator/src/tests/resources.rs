//! The resource pool, at any coordinator.

use std::time::Duration;

use prost_types::Duration as WireDuration;
use robeing_fleet::{
    AllocationId, Amounts, Command, Holder, Reply, ResourceCommand, TaskCommand, TaskId, TaskState, limits::JOINING_MS,
};
use robeing_net::gate::Caller;
use robeing_proto::v1::{
    self, Allocation, AllocationState, GetAllocationRequest, ListAllocationsRequest, ListResourcesRequest,
    ReleaseResourcesRequest, RenewLeaseRequest, RequestResourcesRequest, ResourceAmounts, ResourceQueue, ResourceQuota,
    SetQueuesRequest, SubmitResult, TaskSpec, resources_server::Resources as _,
};
use tonic::{Code, Request, Status};

use crate::tests::{
    agent::TestAgent,
    fleet::{TestFleet, task},
    mail::mailbox::start,
    member::code,
};

fn seconds(seconds: i64) -> Option<WireDuration> {
    Some(WireDuration { seconds, nanos: 0 })
}

/// A request for this many thousandths of a processor.
fn asked(id: u128, cpu_millis: u64) -> RequestResourcesRequest {
    let part = ResourceAmounts { cpu_millis, ..ResourceAmounts::default() };
    RequestResourcesRequest {
        id: AllocationId(id).to_string(),
        parts: vec![part],
        lease: seconds(60),
        ..RequestResourcesRequest::default()
    }
}

async fn request(fleet: &TestFleet, at: usize, request: RequestResourcesRequest) -> Result<v1::Allocation, Status> {
    let granted = fleet.tested(at).resources.request_resources(Request::new(request)).await?;
    Ok(granted.into_inner().allocation.expect("it says which"))
}

async fn get(fleet: &TestFleet, at: usize, id: u128, wait: i64) -> Result<v1::Allocation, Status> {
    let request = GetAllocationRequest { id: AllocationId(id).to_string(), wait: seconds(wait) };
    Ok(fleet.tested(at).resources.get_allocation(Request::new(request)).await?.into_inner())
}

async fn release(fleet: &TestFleet, at: usize, id: u128, token: u64) -> Result<(), Status> {
    let request = ReleaseResourcesRequest { id: AllocationId(id).to_string(), token };
    fleet.tested(at).resources.release_resources(Request::new(request)).await.map(drop)
}

/// Makes an agent contribute, as the leader does for one that joined before the fleet could keep that.
async fn contribute(fleet: &TestFleet, leader: usize, name: &str, cpu: u64) {
    let tested = fleet.tested(leader);
    let found = tested.state.look(|fleet| fleet.agent_by_name(name).map(|agent| (agent.id, agent.session)));
    let (agent, session) = found.expect("it has joined");
    let amounts = Amounts { cpu, ..Amounts::NONE };
    let command = Command::Resource(ResourceCommand::Contribute { agent, session, amounts });
    let replies = tested.proposer.propose(tested.proposer.sender(), [&command]).await;
    assert_eq!(replies.expect("it is written"), [Reply::Done]);
}

#[tokio::test(start_paused = true)]
async fn what_is_granted_at_one_coordinator_is_taken_at_all_and_free_once_it_is_released() {
    let (fleet, leader) = start().await;
    let _a = TestAgent::join(&fleet, leader, "a").await;
    contribute(&fleet, leader, "a", 4_000).await;
    let [one, other] = fleet.followers(leader)[..] else { panic!("three coordinators") };
    let granted = request(&fleet, one, asked(1, 3_000)).await.expect("it is free");
    assert_eq!((granted.state(), granted.parts[0].agent.as_str()), (AllocationState::Granted, "a"));
    let same = request(&fleet, other, asked(1, 3_000)).await.expect("it is the same");
    // Times of the wall are rounded at each coordinator.
    let facts = |of: &Allocation| (of.id.clone(), of.state(), of.token, of.parts.clone(), of.lease_ms);
    assert_eq!(facts(&granted), facts(&same));

    let refused = request(&fleet, other, asked(2, 2_000)).await.expect_err("it is not free");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let expected = "Insufficient resources: cpu: 2000 millis asked, 1000 free";
    assert!(refused.message().starts_with(expected), "{refused}");

    let waits = RequestResourcesRequest { wait: seconds(600), ..asked(2, 2_000) };
    let waits = request(&fleet, other, waits).await.expect("it waits");
    assert_eq!((waits.state(), waits.token, waits.short.len()), (AllocationState::Waiting, 0, 1));
    assert_eq!(code(release(&fleet, one, 1, granted.token + 1).await), Code::FailedPrecondition, "another token");
    let (next, released) = tokio::join!(get(&fleet, one, 2, 60), release(&fleet, leader, 1, granted.token));
    released.expect("it is released");
    let next = next.expect("it is known");
    assert_eq!(next.state(), AllocationState::Granted);
    assert!(next.token > granted.token, "later grants have higher tokens");
    let ended = get(&fleet, one, 1, 0).await.expect("it is kept");
    assert_eq!((ended.state(), ended.ended_at.is_some()), (AllocationState::Released, true));
}

#[tokio::test(start_paused = true)]
async fn a_lease_ends_unless_it_is_renewed() {
    let (fleet, leader) = start().await;
    let _a = TestAgent::join(&fleet, leader, "a").await;
    contribute(&fleet, leader, "a", 1_000).await;
    let granted = request(&fleet, leader, asked(1, 1_000)).await.expect("it is free");
    let renew = async || {
        let request = RenewLeaseRequest { id: granted.id.clone(), token: granted.token };
        fleet.tested(leader).resources.renew_lease(Request::new(request)).await
    };
    tokio::time::sleep(Duration::from_secs(40)).await;
    let renewed = renew().await.expect("it lasts").into_inner();
    assert_eq!(renewed.lease, seconds(60));
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(get(&fleet, leader, 1, 0).await.expect("it is known").state(), AllocationState::Granted);
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!(get(&fleet, leader, 1, 0).await.expect("it is kept").state(), AllocationState::Expired);
    assert_eq!(renew().await.expect_err("it is over").code(), Code::FailedPrecondition);
}

#[tokio::test(start_paused = true)]
async fn the_pool_its_queues_and_its_allocations_are_listed() {
    let (fleet, leader) = start().await;
    let (_a, _b) = (TestAgent::join(&fleet, leader, "a").await, TestAgent::join_from(&fleet, leader, "b", 2).await);
    contribute(&fleet, leader, "a", 1_000).await;
    contribute(&fleet, leader, "b", 2_000).await;
    let quota = ResourceQuota { cpu_millis: Some(500), ..ResourceQuota::default() };
    let queue = ResourceQueue { name: "batch".into(), weight: 3, quota: Some(quota), ..ResourceQueue::default() };
    let set = SetQueuesRequest { queues: vec![queue] };
    fleet.tested(leader).resources.set_queues(Request::new(set)).await.expect("they are set");
    let of_batch = |id, cpu| RequestResourcesRequest { queue: "batch".into(), ..asked(id, cpu) };
    request(&fleet, leader, of_batch(1, 500)).await.expect("it is free");
    assert_eq!(code(request(&fleet, leader, of_batch(2, 1)).await), Code::ResourceExhausted, "the quota is used up");

    let first = ListResourcesRequest { limit: 1, page_token: String::new() };
    let first = fleet.tested(leader).resources.list_resources(Request::new(first)).await.expect("it is known");
    let first = first.into_inner();
    assert_eq!((first.agents.len(), first.agents[0].agent.as_str()), (1, "a"));
    let sums = first.sums.expect("there are some");
    let [contributed, used] = [sums.contributed, sums.used].map(|sum| sum.map(|sum| sum.cpu_millis));
    assert_eq!((contributed, used), (Some(3_000), Some(500)));
    let queues: Vec<_> = first.queues.iter().map(|queue| (queue.name.as_str(), queue.weight, queue.granted)).collect();
    assert_eq!(queues, [("batch", 3, 1)]);
    let rest = ListResourcesRequest { limit: 1, page_token: first.next_page_token };
    let rest = fleet.tested(leader).resources.list_resources(Request::new(rest)).await.expect("it is known");
    let rest = rest.into_inner();
    assert_eq!((rest.agents[0].agent.as_str(), rest.next_page_token.as_str()), ("b", ""));

    let list = ListAllocationsRequest { live: true, ..ListAllocationsRequest::default() };
    let list = fleet.tested(leader).resources.list_allocations(Request::new(list)).await.expect("they are known");
    let ids: Vec<String> = list.into_inner().allocations.into_iter().map(|allocation| allocation.id).collect();
    assert_eq!(ids, [AllocationId(1).to_string()]);
}

/// Submits a task that needs this many thousandths of a processor.
async fn submit(fleet: &TestFleet, at: usize, id: u128, cpu_millis: u64) -> SubmitResult {
    let resources = Some(ResourceAmounts { cpu_millis, ..ResourceAmounts::default() });
    let spec = TaskSpec { resources, ..task(id) };
    let mut results =
        fleet.tested(at).submissions.submit(vec![spec], &Caller::Plaintext).await.expect("somebody leads");
    results.remove(0)
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_has_a_session_contributes_already() {
    let (fleet, leader) = start().await;
    assert_eq!(submit(&fleet, leader, 1, 800).await.refusal, None, "nobody knows yet what there will be");
    let _a = TestAgent::join_contributing(&fleet, leader, "a", 1_000).await;
    let found = fleet.tested(leader).state.look(|fleet| {
        let contributed = fleet.agent_by_name("a").and_then(|agent| fleet.contribution(agent.id));
        (contributed.map(|found| found.contributed.cpu), fleet.task(TaskId(1)).map(|task| task.state))
    });
    assert_eq!(found, (Some(1_000), Some(TaskState::Assigned)));
}

#[tokio::test(start_paused = true)]
async fn a_task_runs_with_the_resources_that_it_needs_or_waits_or_is_refused() {
    let (fleet, leader) = start().await;
    let _a = TestAgent::join(&fleet, leader, "a").await;
    contribute(&fleet, leader, "a", 1_000).await;
    // Until then others are expected.
    tokio::time::sleep(Duration::from_millis(2 * JOINING_MS)).await;
    let refusal = submit(&fleet, leader, 1, 2_000).await.refusal.expect("nobody has so much");
    let expected = "Insufficient resources: cpu: 2000 millis asked, 1000 contributed";
    assert!(refusal.code == "RESOURCE_EXHAUSTED" && refusal.message.starts_with(expected), "{refusal:?}");
    for id in [1, 2] {
        assert_eq!(submit(&fleet, leader, id, 800).await.refusal, None);
    }
    let state = |id| fleet.tested(leader).state.look(|fleet| fleet.task(TaskId(id)).map(|task| task.state));
    assert_eq!((state(1), state(2)), (Some(TaskState::Assigned), Some(TaskState::Queued)));

    let list = ListAllocationsRequest { live: true, ..ListAllocationsRequest::default() };
    let list = fleet.tested(leader).resources.list_allocations(Request::new(list)).await.expect("they are known");
    let found = list.into_inner().allocations;
    let holders: Vec<&str> = found.iter().map(|allocation| allocation.holder.as_str()).collect();
    assert_eq!(holders, [format!("task:{}", TaskId(1))]);
    assert_eq!((found[0].lease_ms, found[0].expires_at), (0, None), "it lasts as long as the attempt");
    let release = ReleaseResourcesRequest { id: found[0].id.clone(), token: 0 };
    let released = fleet.tested(leader).resources.release_resources(Request::new(release)).await;
    assert_eq!(code(released), Code::InvalidArgument);

    let cancel = Command::Task(TaskCommand::Cancel { task: TaskId(1), reason: "no".to_owned() });
    fleet.tested(leader).proposer.propose_one(cancel).await.expect("somebody leads");
    let used = || fleet.tested(leader).state.look(|fleet| fleet.held_resources(&Holder::Task(TaskId(1))));
    assert_eq!(used(), Amounts::NONE);
}
