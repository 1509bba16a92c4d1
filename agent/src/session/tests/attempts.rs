//! Assignments, cancellations and completions.

use std::{sync::Arc, time::Duration};

use robeing_platform::simulated::MemoryNetwork;
use robeing_proto::{
    internal::v1::{
        self as internal, Assignments, Cancels, completion::Outcome as Ended, coordinator_message::Message,
    },
    v1,
};
use robeing_telemetry::Metrics;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::script::{C0, Coordinator, assignment, config, in_session, platform, reference};
use crate::{
    executor::{EchoExecutor, Failure, FailureKind, Outcome},
    runtime::run,
};

#[tokio::test(start_paused = true)]
async fn no_more_run_than_there_are_slots_and_the_rest_follow_in_order() {
    let (mut agent, mut call, _leader, _network) = in_session(2, 1).await;
    call.assign(&["a", "b", "c", "d"]).await;
    let mut a = agent.started().await;
    let _b = agent.started().await;
    call.quiet_for(Duration::from_secs(1)).await;
    assert!(!agent.has_started_another());
    a.succeed();
    assert_eq!(agent.started().await.attempt.task_id, "c");
}

#[tokio::test(start_paused = true)]
async fn an_assignment_that_is_repeated_is_run_once() {
    let (mut agent, mut call, _leader, _network) = in_session(4, 1).await;
    call.assign(&["a", "a"]).await;
    let mut a = agent.started().await;
    call.assign(&["a"]).await;
    a.succeed();
    assert_eq!(call.completions().await.len(), 1);
    call.assign(&["a"]).await;
    call.quiet_for(Duration::from_secs(1)).await;
    assert!(!agent.has_started_another());
}

#[tokio::test(start_paused = true)]
async fn the_attempt_is_told_what_the_assignment_says_and_how_long_it_has_left() {
    let (mut agent, mut call, _leader, _network) = in_session(1, 1).await;
    let limited =
        |task: &str, time_limit_ms| internal::Assignment { deadline_in_ms: 20_000, time_limit_ms, ..assignment(task) };
    let assignments = vec![limited("a", 9_000), limited("b", 9_000), limited("c", 2_000)];
    call.say(Message::Assignments(Assignments { assignments })).await;
    let mut a = agent.started().await;
    assert_eq!((a.attempt.attempt, a.attempt.kind.as_str(), &a.attempt.input[..]), (1, "k", &b"a"[..]));
    let told = |attempt: &crate::executor::Attempt| attempt.deadline.expect("it has one").left;
    assert_eq!(told(&a.attempt), Duration::from_secs(20));
    assert_eq!(a.attempt.time_limit, Some(Duration::from_secs(9)));
    call.quiet_for(Duration::from_secs(3)).await;
    a.succeed();
    let mut b = agent.started().await;
    let first = call.completions().await;
    call.acknowledge(&first, true).await;
    let left = b.attempt.time_limit.expect("it is limited");
    assert!(left <= Duration::from_secs(6) && left > Duration::from_millis(5_900), "counted from receipt: {left:?}");
    assert!(told(&b.attempt) <= Duration::from_secs(17), "counted from receipt: {:?}", told(&b.attempt));
    b.succeed();
    let mut ended = Vec::new();
    while ended.len() < 2 {
        ended.extend(call.completions().await);
    }
    let Some(Ended::Failure(failure)) = &ended[1].outcome else { panic!("expected a failure, got {:?}", ended[1]) };
    assert_eq!(failure.kind(), v1::FailureKind::TimedOut, "its time was over before its turn came");
    assert!(!agent.has_started_another());
}

#[tokio::test(start_paused = true)]
async fn cancelled_attempts_say_that_they_stopped_or_how_they_ended() {
    let (mut agent, mut call, _leader, _network) = in_session(2, 1).await;
    call.assign(&["a", "b", "c"]).await;
    let _a = agent.started().await;
    let mut b = agent.started().await;
    b.succeed();
    let attempts = ["a", "b", "c", "unknown"].map(reference).to_vec();
    call.say(Message::Cancels(Cancels { attempts })).await;
    let mut ended = Vec::new();
    while ended.len() < 4 {
        ended.extend(call.completions().await);
    }
    ended.sort_by(|x, y| x.task_id.cmp(&y.task_id));
    let stopped: Vec<bool> = ended.iter().map(|c| matches!(c.outcome, Some(Ended::Stopped(_)))).collect();
    let names: Vec<&str> = ended.iter().map(|c| c.task_id.as_str()).collect();
    assert_eq!(names, ["a", "b", "c", "unknown"]);
    assert_eq!(stopped, [true, false, true, true], "b had ended already");
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_in_full() {
    let (mut agent, mut call, _leader, _network) = in_session(1, 1).await;
    call.assign(&["a"]).await;
    let mut a = agent.started().await;
    call.quiet_for(Duration::from_millis(250)).await;
    a.finish(Outcome::Failed(Failure {
        kind: FailureKind::Exit,
        message: "it exited".into(),
        code: Some(3),
        stderr_tail: "oh".into(),
        retryable: true,
        retry_after: Some(Duration::from_secs(90)),
        name: "OSError".into(),
    }));
    let ended = call.completions().await;
    assert_eq!(ended[0].ran_us / 1_000, 250);
    let expected = v1::Failure {
        kind: v1::FailureKind::Exit.into(),
        message: "it exited".into(),
        code: Some(3),
        stderr_tail: "oh".into(),
        retryable: true,
        retry_after_ms: 90_000,
        name: "OSError".into(),
    };
    assert_eq!(ended[0].outcome, Some(Ended::Failure(expected)));
}

#[tokio::test(start_paused = true)]
async fn many_small_tasks_are_answered_in_few_messages() {
    let network = MemoryNetwork::default();
    let mut leader = Coordinator::start(&network, C0).await;
    let stop = CancellationToken::new();
    let executor = async { Ok(Arc::new(EchoExecutor) as _) };
    let agent = run(config(1_024, &[C0]), platform(&network), executor, Metrics::default(), stop.clone());
    let _agent = AbortOnDropHandle::new(tokio::spawn(agent));
    let (mut call, _) = leader.welcome(1, false).await;
    let tasks: Vec<String> = (0..1_000).map(|n| format!("task-{n}")).collect();
    call.assign(&tasks.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let (mut ended, mut messages) = (Vec::new(), 0);
    while ended.len() < tasks.len() {
        let batch = call.completions().await;
        call.acknowledge(&batch, true).await;
        ended.extend(batch);
        messages += 1;
    }
    assert!(messages <= 100, "{messages} messages for {} completions", ended.len());
    assert!(ended.iter().all(|c| c.outcome == Some(Ended::Output(c.task_id.clone().into()))));
    call.quiet_for(Duration::from_secs(1)).await;
}
