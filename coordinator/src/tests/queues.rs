//! Queues of tasks, at any coordinator.

use robeing_fleet::TaskId;
use robeing_net::gate::Caller;
use robeing_proto::v1::{
    self, Consistency, ListQueuesRequest, ListQueuesResponse, QueueLimit, QueueRate, SubmitResult, TaskQueue, TaskSpec,
    UpdateQueuesRequest, queues_server::Queues as _,
};
use tonic::{Code, Request, Status};

use crate::tests::{
    fleet::{TestFleet, task},
    mail::mailbox::start,
    member::code,
};

fn queue(name: &str) -> TaskQueue {
    TaskQueue { name: name.into(), ..TaskQueue::default() }
}

async fn update(fleet: &TestFleet, at: usize, set: Vec<TaskQueue>, remove: &[&str]) -> Result<(), Status> {
    let remove = remove.iter().map(|name| (*name).to_owned()).collect();
    fleet.tested(at).queues.update_queues(Request::new(UpdateQueuesRequest { set, remove })).await.map(drop)
}

async fn list(fleet: &TestFleet, at: usize, limit: u32, page_token: &str) -> ListQueuesResponse {
    let (page_token, consistency) = (page_token.to_owned(), Consistency::Linearizable.into());
    let request = Request::new(ListQueuesRequest { limit, page_token, consistency });
    fleet.tested(at).queues.list_queues(request).await.expect("somebody leads").into_inner()
}

async fn submit(fleet: &TestFleet, at: usize, spec: TaskSpec, by: &Caller) -> SubmitResult {
    let mut results = fleet.tested(at).submissions.submit(vec![spec], by).await.expect("somebody leads");
    results.remove(0)
}

fn names(page: &ListQueuesResponse) -> Vec<&str> {
    page.queues.iter().map(|queue| queue.name.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn queues_that_are_set_at_one_coordinator_are_there_at_all() {
    let (fleet, leader) = start().await;
    let [one, other] = fleet.followers(leader)[..] else { panic!("three coordinators") };
    let rate = Some(QueueRate { count: 5, per: Some(prost_types::Duration { seconds: 1, nanos: 0 }), burst: 9 });
    let limits = vec![QueueLimit { key: "*".into(), concurrency: Some(2), rate }];
    let batch = TaskQueue { weight: 3, limits, ..queue("batch") };
    update(&fleet, one, vec![batch.clone(), queue("web")], &[]).await.expect("they can be set");
    let page = list(&fleet, other, 2, "").await;
    assert_eq!((names(&page), page.next_page_token.as_str()), (vec!["batch", "default"], "default"));
    let told = &page.queues[0];
    assert_eq!((told.weight, told.set, &told.limits), (3, true, &batch.limits));
    assert!(!page.queues[1].set && page.queues[1].weight == 1);
    let rest = list(&fleet, leader, 2, &page.next_page_token).await;
    assert_eq!((names(&rest), rest.next_page_token.as_str()), (vec!["web"], ""));
    update(&fleet, other, Vec::new(), &["batch"]).await.expect("it can be removed");
    assert_eq!(names(&list(&fleet, one, 0, "").await), ["default", "web"]);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_is_out_of_bounds_is_refused_with_its_name() {
    let (fleet, leader) = start().await;
    let nothing = TaskQueue { limits: vec![QueueLimit::default()], ..queue("batch") };
    let refused = update(&fleet, leader, vec![nothing], &[]).await.expect_err("it limits nothing");
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("batch"), "{refused}");
    assert_eq!(code(update(&fleet, leader, vec![queue("a"), queue("a")], &[]).await), Code::InvalidArgument);
    assert_eq!(names(&list(&fleet, leader, 0, "").await), ["default"]);
}

#[tokio::test(start_paused = true)]
async fn a_task_waits_in_its_queue_and_one_for_which_that_has_no_room_is_told_when_to_come_again() {
    let (fleet, leader) = start().await;
    let follower = fleet.followers(leader)[0];
    let small = TaskQueue { max_unfinished: Some(1), ..queue("small") };
    update(&fleet, leader, vec![small], &[]).await.expect("it can be set");
    let of_small = |id| TaskSpec { queue: "small".into(), limit_key: "key".into(), ..task(id) };
    let accepted = submit(&fleet, follower, of_small(1), &Caller::Plaintext).await;
    assert_eq!((accepted.refusal, accepted.retry_after_ms), (None, 0));
    let told = fleet
        .tested(leader)
        .state
        .look(|fleet| fleet.task(TaskId(1)).map(|task| (task.queue().to_owned(), task.limit_key().to_owned())));
    assert_eq!(told, Some(("small".to_owned(), "key".to_owned())));
    for at in [leader, follower] {
        let refused = submit(&fleet, at, of_small(2), &Caller::Plaintext).await;
        let v1::Refusal { code, message } = refused.refusal.expect("it is full");
        assert!(code == "RESOURCE_EXHAUSTED" && message.contains("\"small\""), "{code}: {message}");
        assert_eq!(refused.retry_after_ms, 1_000);
    }
    let unknown = TaskSpec { queue: "nowhere".into(), ..task(3) };
    let refused = submit(&fleet, leader, unknown, &Caller::Plaintext).await.refusal.expect("nobody has set it");
    assert_eq!(refused.code, "INVALID_ARGUMENT");
    assert!(list(&fleet, follower, 0, "small").await.queues.is_empty(), "there is none after it");
}

#[tokio::test(start_paused = true)]
async fn who_submits_is_known_by_an_identity_and_else_by_the_name_that_is_given() {
    let (fleet, leader) = start().await;
    let named = |id| TaskSpec { submitter: "me".into(), ..task(id) };
    submit(&fleet, leader, named(1), &Caller::user("ann")).await;
    submit(&fleet, leader, named(2), &Caller::Plaintext).await;
    let counts_for = |id| {
        let found = fleet
            .tested(leader)
            .state
            .look(|fleet| fleet.task(TaskId(id)).map(|task| (task.counts_for().to_owned(), task.lane.is_some())));
        found.expect("it is accepted")
    };
    assert_eq!(counts_for(1), ("client:ann".to_owned(), true));
    assert_eq!(counts_for(2), ("me".to_owned(), false), "as before, and read by older programs");
}
