//! What kinds of tasks need, and which agents could take a task, at any coordinator.

use std::sync::Arc;

use prost_types::Duration as WireDuration;
use robeing_fleet::{Kept, TaskId};
use robeing_net::{Transport, gate::Caller, limited};
use robeing_platform::simulated::HostNetwork;
use robeing_proto::{
    internal::v1::{self as internal, completion::Outcome},
    v1::{
        self, GetStatusRequest, GetTaskKindsRequest, GetTaskRequest, RetryPolicy, SetTaskKindsRequest, TaskKind,
        TaskSpec, TaskState, UpdateQueuesRequest, admin_client::AdminClient, fleet_client::FleetClient,
        queues_server::Queues as _,
    },
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, transport::Channel};

use crate::tests::{
    agent::TestAgent,
    fleet::{TestFleet, address, task},
    mail::mailbox::start,
    member::code,
};

fn channel(fleet: &TestFleet, at: usize) -> Channel {
    let network = HostNetwork::new(fleet.network.clone(), CancellationToken::new()).at([10, 0, 3, 1]);
    Transport::new(Arc::new(network)).channel(&address(at)).expect("it is an address")
}

async fn set(fleet: &TestFleet, at: usize, kinds: Vec<TaskKind>) -> Result<u64, Status> {
    let set = AdminClient::new(channel(fleet, at)).set_task_kinds(SetTaskKindsRequest { kinds }).await?;
    Ok(set.into_inner().revision)
}

async fn submit(fleet: &TestFleet, at: usize, spec: TaskSpec) {
    let results = fleet.tested(at).submissions.submit(vec![spec], &Caller::Plaintext).await.expect("somebody leads");
    assert_eq!(results[0].refusal, None);
}

async fn get(fleet: &TestFleet, at: usize, id: u128) -> v1::Task {
    let id = TaskId(id).to_string();
    let request = GetTaskRequest { id, include_candidates: true, ..GetTaskRequest::default() };
    limited!(FleetClient::new(channel(fleet, at))).get_task(request).await.expect("it is kept").into_inner()
}

async fn unmet(fleet: &TestFleet, at: usize) -> Vec<v1::UnmetNeed> {
    let status = limited!(FleetClient::new(channel(fleet, at))).get_status(GetStatusRequest::default()).await;
    status.expect("it answers").into_inner().unmet_needs
}

/// What tasks of the kind of [`task`] need: two slots, and some limits.
fn two_slots() -> TaskKind {
    TaskKind {
        name: "kind".into(),
        slots: 2,
        attempt_timeout: Some(WireDuration { seconds: 5, nanos: 0 }),
        retry: Some(RetryPolicy { max_attempts: 3, ..RetryPolicy::default() }),
        ..TaskKind::default()
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_kind_needs_is_set_at_one_coordinator_and_counts_at_all_unless_a_task_says_otherwise() {
    let (fleet, leader) = start().await;
    let _a = TestAgent::join(&fleet, leader, "a").await;
    let [one, other] = fleet.followers(leader)[..] else { panic!("three coordinators") };
    let revision = set(&fleet, one, vec![two_slots()]).await.expect("it is set");
    assert_eq!(set(&fleet, other, vec![two_slots()]).await.expect("it is the same"), revision);
    let told = AdminClient::new(channel(&fleet, other)).get_task_kinds(GetTaskKindsRequest {}).await;
    let told = told.expect("it is known").into_inner();
    assert_eq!((told.revision, told.kinds), (revision, vec![two_slots()]));

    submit(&fleet, other, task(1)).await;
    submit(&fleet, other, TaskSpec { slots: 1, ..task(2) }).await;
    let (wide, narrow) = (get(&fleet, leader, 1).await, get(&fleet, leader, 2).await);
    assert_eq!((wide.slots, wide.max_attempts, wide.state()), (2, 3, TaskState::Queued));
    assert_eq!((narrow.slots, narrow.max_attempts, narrow.state()), (1, 3, TaskState::Assigned));

    set(&fleet, one, vec![]).await.expect("it is set");
    submit(&fleet, other, task(3)).await;
    assert_eq!(get(&fleet, leader, 3).await.slots, 1, "nothing is set any more");
    assert_eq!(get(&fleet, leader, 1).await.slots, 2, "it was accepted before");
    let of_unknown_queue = TaskKind {
        resources: Some(v1::ResourceAmounts { cpu_millis: 1, ..v1::ResourceAmounts::default() }),
        queue: "unheard-of".into(),
        ..two_slots()
    };
    assert_eq!(code(set(&fleet, one, vec![of_unknown_queue]).await), Code::InvalidArgument);
}

#[tokio::test(start_paused = true)]
async fn a_task_waits_in_the_queue_of_its_kind_unless_it_names_one_be_it_the_one_that_is_always_there() {
    let (fleet, leader) = start().await;
    let batch = v1::TaskQueue { name: "batch".into(), ..v1::TaskQueue::default() };
    let update = UpdateQueuesRequest { set: vec![batch], remove: Vec::new() };
    fleet.tested(leader).queues.update_queues(Request::new(update)).await.expect("it can be set");
    set(&fleet, leader, vec![TaskKind { queue: "batch".into(), ..two_slots() }]).await.expect("it is set");
    submit(&fleet, leader, task(1)).await;
    submit(&fleet, leader, TaskSpec { queue: "default".into(), ..task(2) }).await;
    let queues = fleet
        .tested(leader)
        .state
        .look(|fleet| [1, 2].map(|id| fleet.task(TaskId(id)).map(|task| task.queue().to_owned()).unwrap_or_default()));
    assert_eq!(queues, ["batch", "default"]);
}

#[tokio::test(start_paused = true)]
async fn it_is_told_of_each_agent_why_it_does_not_take_a_task_and_what_no_agent_could_run() {
    let (fleet, leader) = start().await;
    let _a = TestAgent::join(&fleet, leader, "a").await;
    let follower = fleet.followers(leader)[0];
    let bounded = TaskSpec { attempt_timeout: two_slots().attempt_timeout, ..task(1) };
    submit(&fleet, leader, bounded).await;
    submit(&fleet, leader, task(2)).await;
    submit(&fleet, leader, TaskSpec { slots: 2, ..task(3) }).await;
    submit(&fleet, leader, TaskSpec { required_specialization: "ocr".into(), ..task(4) }).await;

    let busy = get(&fleet, leader, 2).await;
    let [candidate] = &busy.candidates[..] else { panic!("one agent: {busy:?}") };
    assert_eq!((candidate.agent.as_str(), candidate.free_slots, busy.unfit_agents), ("a", 0, 0));
    assert!(candidate.free_in.is_some(), "its attempt ends at its limit: {candidate:?}");
    assert!(candidate.why_not.starts_with("it is busy, and expected to have room in"), "{candidate:?}");
    assert!(busy.waiting_for.contains("the first is expected in"), "{}", busy.waiting_for);
    let wide = get(&fleet, follower, 3).await;
    assert_eq!(wide.candidates[0].why_not, "it never has more than 1 slots");
    let skilled = get(&fleet, follower, 4).await;
    assert_eq!((skilled.candidates.len(), skilled.unfit_agents), (0, 1));

    let needs = unmet(&fleet, follower).await;
    let told: Vec<_> = needs.iter().map(|need| (need.tasks, need.task_id.clone(), need.problem.as_str())).collect();
    let [slots, skill] = ["no agent has 2 slots", "no agent has specialization \"ocr\""];
    assert_eq!(told, [(1, TaskId(3).to_string(), slots), (1, TaskId(4).to_string(), skill)]);
}

/// Divides into two parts, counts the bytes of a part, or adds what was counted.
fn cut_and_count(given: &internal::Assignment) -> Option<Outcome> {
    let output = match given.kind.as_str() {
        "cut" => r#"["ab","cde"]"#.to_owned(),
        "lines" => format!("{},", given.input.len()),
        _ => String::from_utf8_lossy(&given.input).into_owned(),
    };
    Some(Outcome::Output(output.into()))
}

#[tokio::test(start_paused = true)]
async fn a_command_that_a_kind_names_divides_the_input_of_its_tasks() {
    let (fleet, leader) = start().await;
    let _a = TestAgent::join_to_work(&fleet, leader, "a", cut_and_count).await;
    let splitter = v1::Splitter { by: v1::SplitBy::Command.into(), kind: "cut".into(), ..v1::Splitter::default() };
    let kind = TaskKind { name: "kind".into(), splitter: Some(splitter), ..TaskKind::default() };
    set(&fleet, leader, vec![kind]).await.expect("it is set");
    let split = v1::Split { join: v1::Join::Reduce.into(), part_kind: "lines".into(), ..v1::Split::default() };
    let passing = v1::Passing::AsInput.into();
    submit(&fleet, leader, TaskSpec { agents: 2, split: Some(split), passing, ..task(1) }).await;
    let output = |fleet: &TestFleet| {
        fleet.tested(leader).state.look(|fleet| fleet.task(TaskId(1)).and_then(|task| task.output.clone()))
    };
    fleet.until("the end of the task", |fleet| output(fleet).is_some()).await;
    assert_eq!(output(&fleet).as_deref(), Some(&b"2,3,"[..]));
    let kinds: Vec<String> = parts(&fleet, leader, 1).into_iter().map(|(kind, ..)| kind).collect();
    assert_eq!(kinds, ["lines", "lines"]);
}

/// What tasks of the kind of [`task`] are split by: their lines, among so many agents.
fn by_lines(agents: u32) -> TaskKind {
    let splitter = v1::Splitter {
        by: v1::SplitBy::Lines.into(),
        join: v1::Join::Reduce.into(),
        part_kind: "lines".into(),
        kind: String::new(),
    };
    TaskKind { name: "kind".into(), agents, splitter: Some(splitter), ..TaskKind::default() }
}

/// Returns the parts of a task: their kinds, their inputs, and the agents that run them.
fn parts(fleet: &TestFleet, at: usize, id: u128) -> Vec<(String, String, Option<String>)> {
    let parts = fleet.tested(at).state.look(|fleet| fleet.children_of(TaskId(id), 0, 100));
    let told = parts.into_iter().map(|(_, part)| {
        let Kept::Here(part) = part else { panic!("a part is archived") };
        let agent = part.current().map(|current| current.agent_name.to_string());
        (part.kind.clone(), String::from_utf8_lossy(&part.input).into_owned(), agent)
    });
    told.collect()
}

#[tokio::test(start_paused = true)]
async fn a_task_is_split_among_different_agents_as_its_kind_says_and_once_however_often_it_is_submitted() {
    let (fleet, leader) = start().await;
    let _a = TestAgent::join_from(&fleet, leader, "a", 1).await;
    let _b = TestAgent::join_from(&fleet, leader, "b", 2).await;
    let follower = fleet.followers(leader)[0];
    let are_known = |fleet: &TestFleet, revision: u64| {
        let known = |at: usize| fleet.tested(at).state.look(|fleet| fleet.task_kinds().map(|kinds| kinds.revision));
        fleet.running().into_iter().all(|at| known(at) == Some(revision))
    };
    let revision = set(&fleet, follower, vec![by_lines(3)]).await.expect("it is set");
    fleet.until("the kinds at all", |fleet| are_known(fleet, revision)).await;
    let spec = |id| TaskSpec { input: "1\n2\n3\n4\n".into(), idempotency_key: "once".into(), ..task(id) };
    let submit = |at: usize, spec: TaskSpec| {
        let submissions = fleet.tested(at).submissions.clone();
        async move { submissions.submit(vec![spec], &Caller::Plaintext).await.expect("somebody leads").remove(0) }
    };
    let accepted =
        |existing| v1::SubmitResult { task_id: TaskId(1).to_string(), existing, ..v1::SubmitResult::default() };
    assert_eq!(submit(follower, spec(1)).await, accepted(false));
    let told = parts(&fleet, leader, 1);
    let inputs: Vec<(&str, &str)> = told.iter().map(|(kind, input, _)| (kind.as_str(), input.as_str())).collect();
    assert_eq!(inputs, [("lines", "1\n"), ("lines", "2\n"), ("lines", "3\n4\n")]);
    let agents: Vec<&str> = told.iter().filter_map(|(.., agent)| agent.as_deref()).collect();
    assert_eq!(agents, ["a", "b"], "one part waits");

    assert_eq!(submit(leader, spec(1)).await, accepted(true), "the same id");
    assert_eq!(submit(leader, spec(2)).await, accepted(true), "the same key");
    let revision = set(&fleet, follower, vec![by_lines(2)]).await.expect("it is set");
    fleet.until("the kinds at all", |fleet| are_known(fleet, revision)).await;
    assert_eq!(submit(follower, spec(1)).await, accepted(true), "although its kind is split otherwise now");
    let kept = get(&fleet, leader, 1).await;
    assert_eq!((kept.state(), kept.subtasks.map(|parts| parts.accepted)), (TaskState::Queued, Some(3)));
    let whole = TaskSpec { agents: 1, idempotency_key: String::new(), ..spec(3) };
    assert_eq!(submit(follower, whole).await.refusal, None);
    assert!(parts(&fleet, leader, 3).is_empty());
}
