//! Cancelling tasks, and waiting until nothing of them runs any more.

use std::time::Duration;

use robeing_fleet::TaskId;
use robeing_net::gate::Caller;
use robeing_proto::{
    internal::v1::{self as internal, completion::Outcome},
    v1::{self, CancelTasksRequest},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};
use tonic::Status;

use crate::{
    api::cancels::MAX_WAITING_CALLS,
    tests::{
        fleet::{SESSION_TIMEOUT, TestFleet, task},
        mail::mailbox::start,
        scripted::{NAME, Scripted},
    },
};

async fn submit(fleet: &TestFleet, at: usize, ids: &[u128]) {
    let tasks = ids.iter().map(|id| task(*id)).collect();
    let results = fleet.tested(at).submissions.submit(tasks, &Caller::Plaintext).await.expect("somebody leads");
    assert!(results.iter().all(|result| result.refusal.is_none()), "{results:?}");
}

type Cancelling = JoinHandle<Result<v1::CancelTasksResponse, Status>>;

/// Cancels tasks at a coordinator, and waits there.
fn cancel(fleet: &TestFleet, at: usize, ids: &[u128], wait: Duration) -> Cancelling {
    let cancels = fleet.tested(at).cancels;
    let ids = ids.iter().map(|id| TaskId(*id).to_string()).collect();
    let request = CancelTasksRequest { ids, wait: wait.try_into().ok(), ..CancelTasksRequest::default() };
    tokio::spawn(async move { cancels.cancel(request).await })
}

async fn results(cancelling: Cancelling) -> Vec<v1::CancelResult> {
    let ended = timeout(Duration::from_secs(120), cancelling).await.expect("it ends").expect("no panic");
    ended.expect("it is answered").results
}

#[tokio::test(start_paused = true)]
async fn a_cancellation_is_confirmed_when_the_agent_has_said_that_all_has_stopped() {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    let mut agent = Scripted::join(&fleet, leader).await;
    submit(&fleet, leader, &[1]).await;
    let attempt = agent.assigned().await;
    for at in [leader, fleet.followers(leader)[0]] {
        let cancelling = cancel(&fleet, at, &[1], Duration::from_secs(2));
        if at == leader {
            assert_eq!(agent.stops().await, std::slice::from_ref(&attempt));
        }
        let begun = Instant::now();
        let result = results(cancelling).await.remove(0);
        assert!(begun.elapsed() <= Duration::from_secs(3), "{:?}", begun.elapsed());
        assert_eq!((result.state(), result.stopped), (v1::TaskState::Cancelled, false));
        assert_eq!(result.stopping_agents, [NAME]);
    }
    let waiting = cancel(&fleet, fleet.followers(leader)[0], &[1], Duration::from_secs(60));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    agent.complete(&attempt, Outcome::Stopped(internal::Stopped {})).await;
    let said = Instant::now();
    let result = results(waiting).await.remove(0);
    assert_eq!((result.stopped, result.stopping_agents.len()), (true, 0));
    assert!(said.elapsed() < Duration::from_secs(1), "{:?}", said.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_ran_on_an_agent_that_is_lost_has_stopped() {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    let mut agent = Scripted::join(&fleet, leader).await;
    submit(&fleet, leader, &[1]).await;
    agent.assigned().await;
    let waiting = cancel(&fleet, leader, &[1], Duration::from_secs(60));
    agent.stops().await;
    agent.fall_silent();
    let begun = Instant::now();
    assert!(results(waiting).await[0].stopped);
    assert!(begun.elapsed() >= SESSION_TIMEOUT / 2, "its lease must end first: {:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_runs_of_a_task_that_is_forgotten_at_once_is_waited_for() {
    let (fleet, leader) = start().await;
    let mut agent = Scripted::join(&fleet, leader).await;
    let verify = Some(v1::Verify { agents: 2, agree: 2, ..v1::Verify::default() });
    let spec = v1::TaskSpec { verify, result_ttl: Some(prost_types::Duration::default()), ..task(1) };
    let told = fleet.tested(leader).submissions.submit(vec![spec], &Caller::Plaintext).await.expect("somebody leads");
    assert_eq!(told[0].refusal, None);
    let attempt = agent.assigned().await;
    let waiting = cancel(&fleet, leader, &[1], Duration::from_secs(60));
    assert_eq!(agent.stops().await, std::slice::from_ref(&attempt));
    let is_gone = |fleet: &TestFleet| fleet.tested(leader).state.look(|fleet| fleet.task(TaskId(1)).is_none());
    fleet.until("it is forgotten", is_gone).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!waiting.is_finished());
    agent.complete(&attempt, Outcome::Stopped(internal::Stopped {})).await;
    assert!(results(waiting).await[0].stopped);
}

/// Cancels a task with two parts that run, which are kept for so long when they have ended, and has them stop one after
/// the other.
async fn cancel_tree(result_ttl: Option<prost_types::Duration>) {
    let (fleet, leader) = start().await;
    let mut agent = Scripted::join(&fleet, leader).await;
    let spec = |id| v1::TaskSpec { result_ttl, ..task(id) };
    let part_of = |index| Some(v1::PartOf { task: TaskId(1).to_string(), index });
    let split = Some(v1::Split { parts: 2, ..v1::Split::default() });
    let mut attempts = Vec::new();
    for (n, spec) in [
        v1::TaskSpec { split, ..spec(1) },
        v1::TaskSpec { part_of: part_of(0), ..spec(10) },
        v1::TaskSpec { part_of: part_of(1), ..spec(11) },
    ]
    .into_iter()
    .enumerate()
    {
        let told = fleet.tested(leader).submissions.submit(vec![spec], &Caller::Plaintext).await;
        assert_eq!(told.expect("somebody leads")[0].refusal, None);
        if n > 0 {
            attempts.push(agent.assigned().await);
        }
    }
    let waiting = cancel(&fleet, fleet.followers(leader)[0], &[1], Duration::from_secs(60));
    let mut stops = agent.stops().await;
    while stops.len() < attempts.len() {
        stops.extend(agent.stops().await);
    }
    assert_eq!(stops, attempts);
    if result_ttl.is_some() {
        let is_gone = |fleet: &TestFleet| fleet.tested(leader).state.look(|fleet| fleet.task(TaskId(10)).is_none());
        fleet.until("the parts are forgotten", is_gone).await;
    }
    for attempt in &attempts {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!waiting.is_finished());
        agent.complete(attempt, Outcome::Stopped(internal::Stopped {})).await;
    }
    let result = results(waiting).await.remove(0);
    assert_eq!((result.state(), result.stopped), (v1::TaskState::Cancelled, true));
}

#[tokio::test(start_paused = true)]
async fn all_that_runs_of_the_parts_of_a_task_is_waited_for() {
    cancel_tree(None).await;
}

#[tokio::test(start_paused = true)]
async fn what_runs_of_parts_that_are_forgotten_at_once_is_waited_for() {
    cancel_tree(Some(prost_types::Duration::default())).await;
}

#[tokio::test(start_paused = true)]
async fn tasks_that_do_not_run_are_confirmed_at_once_and_unknown_ones_are_refused() {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    submit(&fleet, leader, &[1]).await;
    let at = fleet.followers(leader)[0];
    let begun = Instant::now();
    let told = results(cancel(&fleet, at, &[1, 2, 1], Duration::from_secs(60))).await;
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!(told.iter().map(|result| result.stopped).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(told[1].refusal.as_ref().map(|refusal| refusal.code.as_str()), Some("NOT_FOUND"));
}

#[tokio::test(start_paused = true)]
async fn as_many_calls_wait_as_may() {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    let cancels = fleet.tested(leader).cancels;
    let _others = cancels.room.try_acquire_many(MAX_WAITING_CALLS as u32 - 1).expect("nobody waits");
    assert_eq!(results(cancel(&fleet, leader, &[1], Duration::ZERO)).await.len(), 1);
    let _last = cancels.room.try_acquire().expect("there is one place");
    let refused = cancel(&fleet, leader, &[1], Duration::ZERO).await.expect("no panic").expect_err("all wait");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    let without = CancelTasksRequest { ids: vec![TaskId(1).to_string()], ..CancelTasksRequest::default() };
    cancels.cancel(without).await.expect("who does not wait needs no place");
}
