//! How the leader follows what attempts say.

use std::time::Duration;

use robeing_proto::internal::v1::{
    self as internal, AttemptLog, FollowAttempt, agent_message::Message as FromAgent, coordinator_message::Message,
};

use super::script::{Call, in_session};
use crate::session::logs::{APART, BYTES_PER_SECOND};

async fn follow(call: &Call, task: &str, from: u64) {
    let order = FollowAttempt { task_id: task.to_owned(), attempt: 1, from, stop: false };
    call.say(Message::FollowAttempt(order)).await;
}

async fn log(call: &mut Call) -> AttemptLog {
    match call.next().await {
        Some(FromAgent::AttemptLog(log)) => log,
        other => panic!("expected a log, got {other:?}"),
    }
}

fn texts(log: &AttemptLog) -> Vec<&str> {
    log.lines.iter().map(|line| line.text.as_str()).collect()
}

#[tokio::test(start_paused = true)]
async fn an_attempt_is_told_while_it_is_followed_and_only_then() {
    let (mut agent, mut call, _leader, _network) = in_session(2, 1).await;
    call.assign(&["a"]).await;
    let mut a = agent.started().await;
    a.attempt.log.line("before");
    call.quiet_for(Duration::from_secs(2)).await;
    follow(&call, "a", 0).await;
    let first = log(&mut call).await;
    assert_eq!((texts(&first), first.first, first.caught_up), (vec!["before"], 0, true));
    a.attempt.log.line("during");
    a.attempt.log.progress(0.5, "half");
    let mut next = log(&mut call).await;
    if next.progress.is_none() {
        next.progress = log(&mut call).await.progress;
    }
    assert_eq!((texts(&next), next.first), (vec!["during"], 1));
    assert_eq!(next.progress, Some(internal::Progress { fraction: 0.5, text: "half".to_owned() }));
    let stop = FollowAttempt { task_id: "a".to_owned(), attempt: 1, from: 0, stop: true };
    call.say(Message::FollowAttempt(stop)).await;
    call.quiet_for(Duration::from_secs(1)).await;
    a.attempt.log.line("after");
    call.quiet_for(Duration::from_secs(1)).await;
    a.succeed();
    let done = call.completions().await;
    call.acknowledge(&done, true).await;
    // It has ended, and is kept for a while.
    follow(&call, "a", 1).await;
    let last = log(&mut call).await;
    assert_eq!((texts(&last), last.first, last.ended), (vec!["during", "after"], 1, true));
    call.quiet_for(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_the_agent_does_not_know_has_no_lines() {
    let (_agent, mut call, _leader, _network) = in_session(1, 1).await;
    follow(&call, "unknown", 0).await;
    let unknown = log(&mut call).await;
    assert!(!unknown.missing.is_empty() && unknown.task_id == "unknown", "{unknown:?}");
    call.quiet_for(Duration::from_secs(1)).await;
}

#[tokio::test(start_paused = true)]
async fn another_stream_is_told_nothing_until_it_asks() {
    let (mut agent, mut call, mut leader, _network) = in_session(1, 1).await;
    call.assign(&["a"]).await;
    let a = agent.started().await;
    follow(&call, "a", 0).await;
    assert!(log(&mut call).await.caught_up);
    drop(call);
    let (mut call, _) = leader.welcome(1, true).await;
    a.attempt.log.line("one");
    call.quiet_for(Duration::from_secs(1)).await;
    follow(&call, "a", 0).await;
    assert_eq!(texts(&log(&mut call).await), ["one"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_killed_with_the_session_has_ended() {
    let (mut agent, call, mut leader, _network) = in_session(1, 1).await;
    call.assign(&["a"]).await;
    let a = agent.started().await;
    a.attempt.log.line("last words");
    let ended = internal::SessionEnded { reason: "the agent counts as lost".to_owned() };
    call.say(Message::SessionEnded(ended)).await;
    let (mut call, _) = leader.welcome(2, false).await;
    follow(&call, "a", 0).await;
    let last = log(&mut call).await;
    assert_eq!((texts(&last), last.ended), (vec!["last words"], true));
}

#[tokio::test(start_paused = true)]
async fn completions_and_heartbeats_are_not_held_up_by_an_attempt_that_writes_much() {
    let (mut agent, mut call, _leader, _network) = in_session(2, 1).await;
    call.assign(&["loud", "quiet"]).await;
    let (loud, mut quiet) = (agent.started().await, agent.started().await);
    let writer = loud.attempt.log.clone();
    let writing = tokio::spawn(async move {
        let line = "x".repeat(1_000);
        loop {
            (0..1_000).for_each(|_| writer.line(&line));
            tokio::time::sleep(APART).await;
        }
    });
    follow(&call, "loud", 0).await;
    let begun = tokio::time::Instant::now();
    let mut bytes = 0;
    while begun.elapsed() < Duration::from_secs(5) {
        let log = log(&mut call).await;
        bytes += log.lines.iter().map(|line| line.text.len()).sum::<usize>();
    }
    assert!(bytes <= 7 * BYTES_PER_SECOND, "{bytes} bytes in about 5 s");
    quiet.succeed();
    let mut logs = 0;
    let done = loop {
        match call.next().await {
            Some(FromAgent::Completions(completions)) => break completions.completions,
            Some(FromAgent::AttemptLog(_)) => logs += 1,
            other => panic!("expected a completion, got {other:?}"),
        }
    };
    writing.abort();
    assert_eq!((done.len(), done[0].task_id.as_str()), (1, "quiet"));
    assert!(logs < 32, "{logs} messages before it");
}
