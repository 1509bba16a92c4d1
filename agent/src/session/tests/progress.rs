//! What the agent says about the progress of attempts.

use std::time::Duration;

use robeing_proto::internal::v1::{
    self as internal, Assignments, Progressed, agent_message::Message as FromAgent, coordinator_message::Message,
};

use super::script::{Call, assignment, in_session};

/// Assigns attempts, each with its progress timeout in milliseconds.
async fn assign(call: &Call, tasks: &[(&str, u64)]) {
    let limited = |(task, progress_timeout_ms): &(&str, u64)| internal::Assignment {
        progress_timeout_ms: *progress_timeout_ms,
        ..assignment(task)
    };
    let assignments = tasks.iter().map(limited).collect();
    call.say(Message::Assignments(Assignments { assignments })).await;
}

/// Returns the attempts that the agent's next message says have made progress, and how long ago, in milliseconds.
async fn progressed(call: &mut Call) -> Vec<(String, u64)> {
    match call.next().await {
        Some(FromAgent::Progressed(Progressed { attempts })) => {
            attempts.into_iter().map(|of| (of.task_id, of.ago_ms)).collect()
        }
        other => panic!("expected progress, got {other:?}"),
    }
}

/// Same, without the times.
async fn tasks(call: &mut Call) -> Vec<String> {
    progressed(call).await.into_iter().map(|(task, _)| task).collect()
}

#[tokio::test(start_paused = true)]
async fn the_agent_says_when_an_attempt_with_a_progress_timeout_starts_and_when_it_makes_progress() {
    let (mut agent, mut call, _leader, _network) = in_session(1, 1).await;
    assign(&call, &[("a", 8_000), ("b", 0)]).await;
    let mut a = agent.started().await;
    assert_eq!(tasks(&mut call).await, ["a"]);
    call.quiet_for(Duration::from_secs(5)).await;
    a.attempt.log.progress(0.5, "half");
    a.attempt.log.line("twice, and told once");
    assert_eq!(tasks(&mut call).await, ["a"]);
    call.quiet_for(Duration::from_secs(5)).await;
    a.succeed();
    let done = call.completions().await;
    call.acknowledge(&done, true).await;
    let b = agent.started().await;
    b.attempt.log.line("it has no progress timeout");
    call.quiet_for(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn over_a_new_stream_the_agent_says_again_how_long_ago_the_newest_progress_was() {
    let (mut agent, mut call, mut leader, _network) = in_session(1, 1).await;
    assign(&call, &[("a", 8_000)]).await;
    let _a = agent.started().await;
    assert_eq!(tasks(&mut call).await, ["a"]);
    call.quiet_for(Duration::from_secs(2)).await;
    drop(call);
    let (mut call, _) = leader.welcome(1, true).await;
    let again = progressed(&mut call).await;
    assert!(matches!(&again[..], [(task, ago)] if task == "a" && (2_000..3_000).contains(ago)), "{again:?}");
    call.quiet_for(Duration::from_secs(2)).await;
}
