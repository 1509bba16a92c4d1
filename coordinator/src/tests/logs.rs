//! Following what tasks say, at any coordinator.

use std::time::Duration;

use futures::{Stream, StreamExt};
use robeing_fleet::TaskId;
use robeing_net::gate::Caller;
use robeing_proto::{
    internal::v1::{self as internal, agent_message::Message as FromAgent, completion::Outcome},
    v1::{self, TaskLogsRequest, TaskLogsResponse, WatchTasksRequest, WatchTasksResponse},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use crate::{
    logs::{progress::MAX_PROGRESS, task::Wanted},
    tests::{
        fleet::{TestFleet, task},
        scripted::{NAME, Scripted},
    },
};

/// How long something may take, in the test's time.
const SOON: Duration = Duration::from_secs(60);

/// Starts a fleet whose only agent has been assigned task 1. Returns the number of the leader, the agent and the attempt
/// as well.
async fn assigned() -> (TestFleet, usize, Scripted, internal::AttemptRef) {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    let mut agent = Scripted::join(&fleet, leader).await;
    let submitted = fleet.tested(leader).submissions.submit(vec![task(1)], &Caller::Plaintext).await;
    assert_eq!(submitted.expect("somebody leads")[0].refusal, None);
    let attempt = agent.assigned().await;
    (fleet, leader, agent, attempt)
}

/// A stream that is read in its own task, as that of a client is.
struct Reading<T> {
    said: mpsc::UnboundedReceiver<Result<T, Status>>,
    _reading: AbortOnDropHandle<()>,
}

impl<T: Send + 'static> Reading<T> {
    fn of(stream: impl Stream<Item = Result<T, Status>> + Send + 'static) -> Self {
        let (sender, said) = mpsc::unbounded_channel();
        let reading = tokio::spawn(async move {
            let mut stream = stream.boxed();
            while let Some(next) = stream.next().await {
                let _ = sender.send(next);
            }
        });
        Self { said, _reading: AbortOnDropHandle::new(reading) }
    }

    /// Returns what comes next; `None` if the stream has ended.
    async fn end(&mut self) -> Option<T> {
        let next = timeout(SOON, self.said.recv()).await.expect("something comes");
        next.map(|next| next.unwrap_or_else(|status| panic!("{status}")))
    }

    async fn next(&mut self) -> T {
        self.end().await.expect("the stream goes on")
    }
}

/// Follows task 1, or reads what there is of it, once a coordinator knows its attempt.
async fn logs(fleet: &TestFleet, at: usize, follow: bool) -> Reading<TaskLogsResponse> {
    let knows = |fleet: &TestFleet| {
        let current =
            |fleet: &robeing_fleet::Fleet| fleet.task(TaskId(1)).is_some_and(|task| !task.attempts.is_empty());
        fleet.tested(at).state.look(current)
    };
    fleet.until("it knows the attempt", knows).await;
    let request = TaskLogsRequest { id: TaskId(1).to_string(), follow, ..TaskLogsRequest::default() };
    Reading::of(fleet.tested(at).logs.open(Wanted::of(request).expect("it is a request")).expect("it is known"))
}

/// Returns the lines that come next, and the number of the first.
async fn lines(logs: &mut Reading<TaskLogsResponse>) -> (u64, Vec<String>) {
    loop {
        let said = logs.next().await;
        if !said.lines.is_empty() {
            assert_eq!((said.agent.as_str(), said.attempt), (NAME, 1));
            return (said.first, said.lines.into_iter().map(|line| line.text).collect());
        }
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_task_is_followed_at_a_follower_until_it_has_finished() {
    let (fleet, leader, mut agent, attempt) = assigned().await;
    let mut logs = logs(&fleet, fleet.followers(leader)[0], true).await;
    let order = agent.followed().await;
    assert_eq!((&order.task_id, order.attempt, order.from, order.stop), (&attempt.task_id, 1, 0, false));
    agent.write(&attempt, 0, &["one"], false).await;
    assert_eq!(lines(&mut logs).await, (0, owned(&["one"])));
    agent.write(&attempt, 1, &["two", "three"], false).await;
    assert_eq!(lines(&mut logs).await, (1, owned(&["two", "three"])));
    agent.complete(&attempt, Outcome::Output("done".into())).await;
    agent.write(&attempt, 3, &["last"], true).await;
    assert_eq!(lines(&mut logs).await, (3, owned(&["last"])));
    let mut last = logs.next().await;
    while !last.finished {
        last = logs.next().await;
    }
    assert!(logs.end().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_agent_is_asked_once_and_told_when_nobody_follows_any_more() {
    let (fleet, leader, mut agent, attempt) = assigned().await;
    let mut first = logs(&fleet, leader, true).await;
    assert!(!agent.followed().await.stop);
    agent.write(&attempt, 0, &["one"], false).await;
    assert_eq!(lines(&mut first).await, (0, owned(&["one"])));
    let mut second = logs(&fleet, fleet.followers(leader)[0], true).await;
    assert_eq!(lines(&mut second).await, (0, owned(&["one"])), "it is kept");
    drop(first);
    agent.write(&attempt, 1, &["two"], false).await;
    assert_eq!(lines(&mut second).await, (1, owned(&["two"])));
    drop(second);
    let order = agent.followed().await;
    assert!(order.stop, "the only other order: {order:?}");
}

#[tokio::test(start_paused = true)]
async fn what_is_there_is_returned_without_waiting_for_more() {
    let (fleet, leader, mut agent, attempt) = assigned().await;
    let mut logs = logs(&fleet, fleet.followers(leader)[0], false).await;
    agent.followed().await;
    agent.write(&attempt, 0, &["one"], false).await;
    assert_eq!(lines(&mut logs).await, (0, owned(&["one"])));
    assert!(logs.end().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_does_not_answer_is_waited_for_briefly() {
    let (fleet, leader, _agent, _) = assigned().await;
    let mut logs = logs(&fleet, fleet.followers(leader)[0], false).await;
    let said = logs.next().await;
    assert!(said.missing.contains("the agent a did not send the lines"), "{said:?}");
    assert!(logs.end().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn the_end_of_an_attempt_that_its_agent_does_not_tell_ends_the_stream_nevertheless() {
    let (fleet, leader, mut agent, attempt) = assigned().await;
    let mut logs = logs(&fleet, leader, true).await;
    agent.followed().await;
    agent.complete(&attempt, Outcome::Output("done".into())).await;
    let said = logs.next().await;
    assert!(said.missing.contains("did not send the last lines"), "{said:?}");
    assert!(logs.next().await.finished);
    assert!(logs.end().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn who_follows_a_task_goes_on_at_the_next_leader() {
    let (mut fleet, leader, mut agent, attempt) = assigned().await;
    let mut logs = logs(&fleet, fleet.followers(leader)[0], true).await;
    agent.followed().await;
    agent.write(&attempt, 0, &["one"], false).await;
    assert_eq!(lines(&mut logs).await, (0, owned(&["one"])));
    fleet.take_away(leader);
    let next = fleet.led().await;
    agent.resume(&fleet, next).await;
    // It is assigned what its Hello did not name, before it is asked.
    agent.assigned().await;
    let order = agent.followed().await;
    assert_eq!((order.attempt, order.stop), (1, false));
    agent.write(&attempt, 0, &["one", "two"], false).await;
    assert_eq!(lines(&mut logs).await, (1, owned(&["two"])), "nothing comes twice");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_comes_back_is_asked_for_the_rest() {
    let (fleet, leader, mut agent, attempt) = assigned().await;
    let mut logs = logs(&fleet, leader, true).await;
    agent.followed().await;
    agent.write(&attempt, 0, &["one"], false).await;
    assert_eq!(lines(&mut logs).await, (0, owned(&["one"])));
    agent.resume(&fleet, leader).await;
    agent.assigned().await;
    let order = agent.followed().await;
    assert_eq!((order.from, order.stop), (1, false));
    agent.write(&attempt, 1, &["two"], false).await;
    assert_eq!(lines(&mut logs).await, (1, owned(&["two"])));
}

#[tokio::test(start_paused = true)]
async fn a_watch_tells_the_progress_of_the_tasks_that_it_is_of() {
    let (fleet, leader, mut agent, attempt) = assigned().await;
    let at = fleet.tested(leader);
    let ids = vec![attempt.task_id.clone()];
    let request = WatchTasksRequest { ids: ids.clone(), ..WatchTasksRequest::default() };
    let changes = at.watches.tasks(request.clone()).expect("it is a request").boxed();
    let mut watch = Reading::of(at.logs.with_progress(changes, &ids, 0).expect("it is one task"));
    let first: WatchTasksResponse = watch.next().await;
    assert_eq!(first.tasks.len(), 1);
    agent.followed().await;
    let progress = Some(internal::Progress { fraction: 0.5, text: "half".to_owned() });
    let (task_id, number) = (attempt.task_id.clone(), attempt.attempt);
    let log = internal::AttemptLog { task_id, attempt: number, progress, ..internal::AttemptLog::default() };
    agent.say(FromAgent::AttemptLog(log)).await;
    let told = watch.next().await;
    let [progress] = &told.progress[..] else { panic!("{told:?}") };
    assert_eq!((progress.task_id.as_str(), progress.attempt, progress.agent.as_str()), (&*attempt.task_id, 1, NAME));
    let half = v1::AttemptProgress { fraction: 0.5, text: "half".to_owned() };
    assert_eq!((progress.progress.clone(), told.revision), (Some(half), first.revision));
    agent.complete(&attempt, Outcome::Output("done".into())).await;
    let mut told = watch.next().await;
    while told.tasks.is_empty() {
        told = watch.next().await;
    }
    assert_eq!(told.tasks[0].state(), v1::TaskState::Succeeded);

    // Only of certain tasks, and of few.
    let changes = || at.watches.tasks(request.clone()).expect("it is a request").boxed();
    let many = vec![attempt.task_id.clone(); MAX_PROGRESS + 1];
    assert!(at.logs.with_progress(changes(), &many[..MAX_PROGRESS], 0).is_ok());
    for ids in [&many[..], &[]] {
        let refused = at.logs.with_progress(changes(), ids, 0).err().map(|status| status.code());
        assert_eq!(refused, Some(tonic::Code::InvalidArgument));
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_not_known_is_not_followed() {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    let refused = fleet.tested(leader).logs.open(Wanted::all_of(TaskId(9))).err().map(|status| status.code());
    assert_eq!(refused, Some(tonic::Code::NotFound));
}
