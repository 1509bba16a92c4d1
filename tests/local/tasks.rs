//! The life of a task from its submitter's point of view: cancelled, past its deadline, retried, submitted again,
//! refused.

use std::time::Duration;

use prost_types::Duration as WireDuration;
use robeing_client::{ClientError, FleetClient};
use robeing_proto::v1::{
    AttemptState, CancelTasksRequest, FailureKind, GetTaskRequest, RetryPolicy, SubmitRequest, SubmitResult, Task,
    TaskSpec, TaskState, fleet_client::FleetClient as Rpc,
};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    processes::group_members,
    script::{answer, executions, task},
    wait::{check, eventually},
};

fn millis(millis: u64) -> Option<WireDuration> {
    Some(WireDuration::try_from(Duration::from_millis(millis)).expect("it is short"))
}

fn no_retries() -> Option<RetryPolicy> {
    Some(RetryPolicy { max_attempts: 1, ..RetryPolicy::default() })
}

async fn one_coordinator(slots: u32) -> Fleet {
    Fleet::start(FleetSpec::new(1).pool(PoolSpec::new("work", 1).slots(slots)).session_timeout("10s")).await
}

/// Submits tasks with a unary call, and returns the results.
async fn submit(fleet: &Fleet, tasks: Vec<TaskSpec>) -> Vec<SubmitResult> {
    let address = fleet.address(&fleet.coordinators()[0]);
    let mut rpc = Rpc::connect(format!("http://{address}")).await.expect("it listens");
    let answer = rpc.submit(SubmitRequest { tasks }).await;
    answer.unwrap_or_else(|status| panic!("the call as a whole was refused: {status}")).into_inner().results
}

fn assert_refused(result: &SubmitResult, code: &str, words: &str) {
    let refusal = result.refusal.as_ref().unwrap_or_else(|| panic!("it should be refused: {result:?}"));
    assert_eq!(refusal.code, code, "{refusal:?}");
    assert!(refusal.message.contains(words), "{words:?} is not in {refusal:?}");
}

async fn cancel(client: &FleetClient, id: &str) -> TaskState {
    let request = CancelTasksRequest { ids: vec![id.into()], reason: "not wanted".into(), wait: None };
    let answer = client.cancel_tasks(request).await.unwrap_or_else(|error| panic!("not cancelled: {error}"));
    assert_eq!(answer.results[0].refusal, None);
    answer.results[0].state()
}

fn failure_kind(task: &Task) -> FailureKind {
    task.failure.as_ref().unwrap_or_else(|| panic!("it has a failure: {task:#?}")).kind()
}

async fn group_ends(group: u32) {
    eventually("the end of the command", async || {
        let left = group_members(group);
        check(left.is_empty(), (), left)
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_task_is_stopped_or_never_begun() {
    let fleet = one_coordinator(1).await;
    let gate = fleet.gate("never");
    let running = fleet.submit_one(task(&gate.wait())).await;
    let group = fleet.executing(&running, 1).await;
    let queued = fleet.submit_one(task(&answer("queued"))).await;
    assert_eq!(fleet.task(&queued).await.state(), TaskState::Queued, "the only slot is taken");

    assert_eq!(cancel(&fleet.client(), &queued).await, TaskState::Cancelled);
    assert_eq!(cancel(&fleet.client(), &running).await, TaskState::Cancelled);
    let ended = fleet.finished(&running, TaskState::Cancelled).await;
    assert_eq!(ended.cancel_reason, "not wanted");
    assert_eq!(ended.attempts[0].state(), AttemptState::Cancelled, "{ended:#?}");
    group_ends(group).await;

    // The slot is free again, and the task that was cancelled while it was queued does not take it.
    let next = fleet.submit_one(task(&answer("next"))).await;
    let next = fleet.finished(&next, TaskState::Succeeded).await;
    assert_eq!(fleet.executions_of(&queued), [], "it never ran");
    assert_eq!(fleet.task(&queued).await.attempts, [], "and no attempt was made");
    assert_eq!(cancel(&fleet.client(), &next.id).await, TaskState::Succeeded, "too late to cancel");
    assert_eq!(fleet.task(&next.id).await, next);
}

#[tokio::test]
async fn a_task_out_of_time_is_stopped() {
    let fleet = one_coordinator(1).await;
    let gate = fleet.gate("never");
    let late = fleet.submit_one(TaskSpec { deadline_in: millis(400), ..task(&gate.wait()) }).await;
    let group = fleet.executing(&late, 1).await;
    // Its deadline passes while it waits for the slot.
    let waiting = fleet.submit_one(TaskSpec { deadline_in: millis(200), ..task(&answer("waiting")) }).await;
    let ended = fleet.finished(&late, TaskState::Failed).await;
    assert_eq!(failure_kind(&ended), FailureKind::Deadline, "{ended:#?}");
    assert_eq!(ended.attempts.len(), 1, "there is no time for another attempt: {ended:#?}");
    group_ends(group).await;
    let ended = fleet.finished(&waiting, TaskState::Failed).await;
    assert_eq!(failure_kind(&ended), FailureKind::Deadline, "{ended:#?}");

    // The timeout of an attempt is different: another attempt follows, and after the last one the task is
    // dead-lettered.
    let retry = RetryPolicy { max_attempts: 2, initial_backoff: millis(10), ..RetryPolicy::default() };
    let slow = TaskSpec { attempt_timeout: millis(300), retry: Some(retry), ..task(&gate.wait()) };
    let slow = fleet.submit_one(slow).await;
    let ended = fleet.finished(&slow, TaskState::DeadLettered).await;
    assert_eq!(failure_kind(&ended), FailureKind::TimedOut, "{ended:#?}");
    let states: Vec<_> = ended.attempts.iter().map(|attempt| attempt.state()).collect();
    assert_eq!(states, [AttemptState::TimedOut, AttemptState::TimedOut], "{ended:#?}");
    for execution in fleet.executions_of(&slow) {
        group_ends(execution.group).await;
    }
}

#[tokio::test]
async fn a_failed_attempt_is_repeated_after_its_backoff() {
    let fleet = one_coordinator(4).await;
    let retry = RetryPolicy {
        max_attempts: 3,
        initial_backoff: millis(200),
        max_backoff: millis(10_000),
        multiplier_percent: 300,
        ..RetryPolicy::default()
    };
    let failing = TaskSpec { retry: Some(retry.clone()), ..task("echo 'no luck' >&2; exit 7") };
    let failing = fleet.submit_one(failing).await;
    // This one succeeds at its second attempt.
    let passing = task(&format!("[ $ROBEING_ATTEMPT = 2 ] || exit 1\n{}", answer("lucky")));
    let passing = fleet.submit_one(TaskSpec { retry: Some(retry), ..passing }).await;

    let ended = fleet.finished(&failing, TaskState::Failed).await;
    let failure = ended.failure.clone().expect("it has a failure");
    assert_eq!((failure.kind(), failure.code), (FailureKind::Exit, Some(7)), "{ended:#?}");
    assert!(failure.stderr_tail.contains("no luck"), "{failure:?}");
    assert_eq!((ended.attempts.len(), ended.attempts_used), (3, 3), "{ended:#?}");
    let pauses: Vec<i64> = ended
        .attempts
        .windows(2)
        .map(|pair| {
            let at = |time: Option<prost_types::Timestamp>| {
                let time = time.expect("the attempt has begun and ended");
                time.seconds * 1000 + i64::from(time.nanos) / 1_000_000
            };
            at(pair[1].assigned_at) - at(pair[0].ended_at)
        })
        .collect();
    // In the reported wall time, a pause may be a twentieth shorter, and both of its ends are truncated to
    // milliseconds.
    let least = [200, 600].map(|pause: i64| pause * 19 / 20 - 1);
    assert!(pauses[0] >= least[0] && pauses[1] >= least[1], "at least {least:?} ms: {pauses:?}");
    assert_eq!(fleet.executions_of(&failing).len(), 3);

    let ended = fleet.finished(&passing, TaskState::Succeeded).await;
    assert_eq!(String::from_utf8_lossy(&ended.output), format!("{passing} 2 lucky\n"));
}

#[tokio::test]
async fn a_repeated_submission_is_one_task() {
    let fleet = one_coordinator(4).await;
    let keyed = |script: &str| TaskSpec { idempotency_key: "the same".into(), ..task(script) };
    let first = submit(&fleet, vec![keyed(&answer("once"))]).await.remove(0);
    assert_eq!((first.existing, &first.refusal), (false, &None));
    fleet.finished(&first.task_id, TaskState::Succeeded).await;
    let again = submit(&fleet, vec![keyed(&answer("once"))]).await.remove(0);
    assert_eq!((again.existing, &again.task_id), (true, &first.task_id), "another id, but the same key");
    let same_id = TaskSpec { id: first.task_id.clone(), idempotency_key: "the same".into(), ..task(&answer("once")) };
    let again = submit(&fleet, vec![same_id]).await.remove(0);
    assert_eq!((again.existing, &again.task_id), (true, &first.task_id));
    let other = submit(&fleet, vec![keyed(&answer("something else"))]).await.remove(0);
    assert_refused(&other, "ALREADY_EXISTS", &first.task_id);
    assert_eq!(fleet.executions_of(&first.task_id).len(), 1);
    assert_eq!(executions(&fleet.executions_file()).len(), 1, "nothing else ran");
}

#[tokio::test]
async fn what_can_not_be_taken_is_refused_with_the_reason() {
    const LIMIT: usize = 1024 * 1024;
    const MAX_QUEUED: usize = 5;
    let spec = FleetSpec::new(1).pool(PoolSpec::new("work", 1).slots(1)).session_timeout("10s");
    let fleet = Fleet::start(spec.flag("max-queued", &MAX_QUEUED.to_string())).await;

    // Each task is checked separately: the valid one among the invalid ones is accepted.
    let padded = |bytes: usize| {
        let mut input = format!("{} #", answer("padded")).into_bytes();
        input.resize(bytes, b'x');
        TaskSpec { input: input.into(), ..task("") }
    };
    let bad_id = TaskSpec { id: "not-a-uuid".into(), ..task("") };
    let no_kind = TaskSpec { kind: String::new(), ..task("") };
    let bad_priority = TaskSpec { priority: 11, ..task("") };
    let negative = TaskSpec { delay: Some(WireDuration { seconds: -1, nanos: 0 }), ..task("") };
    let of_coordinators = TaskSpec { required_role: 1, ..task("") };
    let tasks = vec![padded(LIMIT), padded(LIMIT + 1), bad_id, no_kind, bad_priority, negative, of_coordinators];
    let results = submit(&fleet, tasks).await;
    assert_eq!(results[0].refusal, None, "an input at the limit is accepted");
    assert_refused(&results[1], "INVALID_ARGUMENT", &LIMIT.to_string());
    assert_refused(&results[2], "INVALID_ARGUMENT", "not-a-uuid");
    assert_refused(&results[3], "INVALID_ARGUMENT", "kind");
    assert_refused(&results[4], "INVALID_ARGUMENT", "priority");
    assert_refused(&results[5], "INVALID_ARGUMENT", "delay");
    assert_refused(&results[6], "INVALID_ARGUMENT", "required_role");
    fleet.finished(&results[0].task_id, TaskState::Succeeded).await;

    // A full queue: this many unfinished tasks are accepted, and no more.
    let gate = fleet.gate("queue");
    let mut tasks: Vec<TaskSpec> =
        (0..=MAX_QUEUED).map(|_| TaskSpec { retry: no_retries(), ..task(&gate.wait()) }).collect();
    let last = tasks.pop().expect("there are some");
    let taken = submit(&fleet, tasks).await;
    assert!(taken.iter().all(|result| result.refusal.is_none()), "{taken:#?}");
    let refused = submit(&fleet, vec![last.clone()]).await.remove(0);
    assert_refused(&refused, "RESOURCE_EXHAUSTED", "queue is full");
    gate.open();
    for result in &taken {
        fleet.finished(&result.task_id, TaskState::Succeeded).await;
    }
    let again = submit(&fleet, vec![last]).await.remove(0);
    assert_eq!(again.refusal, None, "there is room again");
    fleet.finished(&again.task_id, TaskState::Succeeded).await;

    // A task that does not exist.
    let unknown = robeing_client::new_task_id();
    let client = fleet.client();
    let request = GetTaskRequest { id: unknown.clone(), ..GetTaskRequest::default() };
    let answer = client.get_task(request).await;
    assert!(matches!(&answer, Err(ClientError::NotFound { message }) if message.contains(&unknown)), "{answer:?}");
    let request = CancelTasksRequest { ids: vec![unknown.clone()], ..CancelTasksRequest::default() };
    let answer = client.cancel_tasks(request).await.expect("the call as a whole is valid");
    assert_eq!(answer.results[0].refusal.as_ref().map(|refusal| refusal.code.as_str()), Some("NOT_FOUND"));
}
