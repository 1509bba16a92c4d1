//! How an agent answers health checks, and what it does when it is unhealthy or has failed.

use std::time::Duration;

use robeing_proto::internal::v1::{
    HandBack, HealthCheck, HealthReport, HealthState, SessionEnded, agent_message::Message as FromAgent,
    completion::Outcome as Ended, coordinator_message::Message,
};
use tokio::time::Instant;

use super::script::{Call, in_session};
use crate::{
    executor::Health,
    runtime::AgentError,
    session::{END_WITHIN, SessionError},
};

async fn check(call: &mut Call, seq: u64) -> HealthReport {
    ask(call, seq, 5_000).await;
    match call.next().await {
        Some(FromAgent::HealthReport(report)) => report,
        other => panic!("expected a report, got {other:?}"),
    }
}

async fn ask(call: &Call, seq: u64, within_ms: u32) {
    call.say(Message::HealthCheck(HealthCheck { seq, within_ms })).await;
}

fn report(seq: u64, state: HealthState, reason: &str) -> HealthReport {
    HealthReport { seq, state: state.into(), reason: reason.into() }
}

#[tokio::test(start_paused = true)]
async fn it_says_in_its_hello_that_it_answers_and_answers_with_what_its_executor_says() {
    let (agent, call, mut leader, _network) = in_session(1, 1).await;
    drop(call);
    let (mut call, hello) = leader.welcome(1, true).await;
    assert!(hello.answers_health_checks);
    let cases = [
        (Health::Healthy, HealthState::Healthy, ""),
        (Health::Unhealthy("503".into()), HealthState::Unhealthy, "503"),
        (Health::Silent("no answer".into()), HealthState::Silent, "no answer"),
    ];
    for (seq, (health, state, reason)) in (1..).zip(cases) {
        agent.health.send_replace(Some(health));
        assert_eq!(check(&mut call, seq).await, report(seq, state, reason));
    }
}

#[tokio::test(start_paused = true)]
async fn an_executor_that_does_not_answer_is_silent_and_holds_up_nothing() {
    let (mut agent, mut call, _leader, _network) = in_session(1, 1).await;
    agent.health.send_replace(None);
    ask(&call, 1, 1_000).await;
    call.assign(&["a"]).await;
    agent.started().await.succeed();
    let done = call.completions().await;
    call.acknowledge(&done, true).await;
    let asked = Instant::now();
    match call.next().await {
        Some(FromAgent::HealthReport(report)) => assert_eq!(report.state(), HealthState::Silent, "{report:?}"),
        other => panic!("expected a report, got {other:?}"),
    }
    assert!(asked.elapsed() <= Duration::from_secs(2), "after {:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn only_the_newest_check_is_answered_and_none_of_an_earlier_stream() {
    let (agent, mut call, mut leader, _network) = in_session(1, 1).await;
    agent.health.send_replace(None);
    ask(&call, 1, 5_000).await;
    call.quiet_for(Duration::from_secs(1)).await;
    agent.health.send_replace(Some(Health::Healthy));
    assert_eq!(check(&mut call, 2).await.seq, 2);
    agent.health.send_replace(None);
    ask(&call, 3, 1_000).await;
    call.quiet_for(Duration::from_millis(100)).await;
    drop(call);
    let (mut call, _) = leader.welcome(1, true).await;
    call.quiet_for(Duration::from_secs(20)).await;
}

#[tokio::test(start_paused = true)]
async fn an_unhealthy_agent_stops_everything_and_hands_it_back() {
    let (mut agent, mut call, _leader, _network) = in_session(1, 1).await;
    call.assign(&["a", "b"]).await;
    let a = agent.started().await;
    call.say(Message::HandBack(HandBack {})).await;
    let mut back = Vec::new();
    while back.len() < 2 {
        back.extend(call.completions().await);
    }
    a.gone().await;
    let mut tasks: Vec<_> = back.iter().map(|back| back.task_id.as_str()).collect();
    tasks.sort_unstable();
    assert_eq!(tasks, ["a", "b"]);
    assert!(back.iter().all(|back| matches!(back.outcome, Some(Ended::HandedBack(_)))), "{back:?}");
    assert!(!agent.has_started_another(), "what waited was not begun");
    call.acknowledge(&back, true).await;
    // The leader may assign work again at any time.
    call.assign(&["c"]).await;
    agent.started().await.succeed();
    assert_eq!(call.completions().await[0].task_id, "c");
}

#[tokio::test(start_paused = true)]
async fn a_failed_agent_stops_everything_says_so_and_ends_when_its_session_is_over() {
    let (mut agent, mut call, _leader, _network) = in_session(1, 1).await;
    call.assign(&["a"]).await;
    let mut a = agent.started().await;
    agent.health.send_replace(Some(Health::Failed("no thread; restart the agent".into())));
    assert_eq!(check(&mut call, 1).await, report(1, HealthState::Failed, "no thread; restart the agent"));
    assert!(!a.is_running(), "it says so when nothing runs");
    call.assign(&["b"]).await;
    call.quiet_for(Duration::from_secs(1)).await;
    assert!(!agent.has_started_another());
    call.say(Message::SessionEnded(SessionEnded::default())).await;
    let end = agent.end().await;
    assert!(
        matches!(&end, Err(AgentError::Session(SessionError::Failed { reason })) if reason.contains("restart the agent")),
        "{end:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_agent_ends_though_nobody_takes_note() {
    let (agent, mut call, _leader, _network) = in_session(1, 1).await;
    agent.health.send_replace(Some(Health::Failed("no thread".into())));
    check(&mut call, 1).await;
    let said = Instant::now();
    while call.next().await.is_some() {}
    assert!(matches!(agent.end().await, Err(AgentError::Session(SessionError::Failed { .. }))));
    assert!(said.elapsed() <= END_WITHIN + Duration::from_millis(100), "after {:?}", said.elapsed());
}
