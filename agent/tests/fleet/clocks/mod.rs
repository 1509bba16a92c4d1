//! The shipped coordinators and an agent, in this process, each with a wall clock that the test sets.

mod fixture;

use std::time::{Duration, Instant};

use fixture::{Fleet, HOUR, seconds, task};
use robeing_proto::v1::{self, FailureKind, TaskState};

const TWO_HOURS: i64 = 2 * HOUR;

/// What a wall clock that is temporarily two hours ahead must not do.
#[tokio::test]
async fn a_clock_that_is_ahead_for_a_moment_forgets_no_key_and_fails_nothing_that_has_time() {
    let fleet = Fleet::start(1).await;
    let keyed = || v1::TaskSpec { kind: "once".into(), idempotency_key: "once".into(), ..task("now") };
    let first = fleet.submit(keyed()).await.task_id;
    fleet.ended(&first).await;
    let running = fleet
        .submit(v1::TaskSpec { deadline_in: seconds(3_600), attempt_timeout: seconds(3_600), ..task("never") })
        .await
        .task_id;
    fleet.until(&running, |task| task.state() == TaskState::Assigned).await;

    fleet.clocks[0].set(TWO_HOURS, 0);
    let again = fleet.submit(keyed()).await;
    assert_eq!((again.existing, &again.task_id), (true, &first), "the key is kept for an hour");
    let other = fleet.submit(task("now")).await.task_id;
    fleet.ended(&other).await;
    let running = fleet.task(&running).await;
    assert_eq!((running.state(), running.attempt), (TaskState::Assigned, 1), "it has an hour to go");
    assert_eq!(fleet.ran("once"), 1);
    fleet.stop().await;
}

/// What must work again once the clock is right.
#[tokio::test]
async fn a_clock_that_was_ahead_holds_back_no_backoff_no_deadline_and_no_expiry_not_even_after_a_restart() {
    let mut fleet = Fleet::start(1).await;
    fleet.clocks[0].set(TWO_HOURS, 0);
    let before = fleet.submit(task("now")).await.task_id;
    fleet.ended(&before).await;
    fleet.clocks[0].set(0, 0);

    for _ in 0..2 {
        let begun = Instant::now();
        let backoff = v1::RetryPolicy { initial_backoff: seconds(1), max_attempts: 5, ..Default::default() };
        let retried = fleet.submit(v1::TaskSpec { retry: Some(backoff), ..task("second") }).await.task_id;
        let nobody = v1::Role::Guardian.into();
        let late = fleet.submit(v1::TaskSpec { deadline_in: seconds(2), required_role: nobody, ..task("now") }).await;
        let gone = fleet.submit(v1::TaskSpec { result_ttl: seconds(1), ..task("now") }).await.task_id;
        let waiting = fleet.until(&retried, |task| !task.waiting_for.is_empty()).await.waiting_for;
        let soon = waiting.ends_with(" ms from now") || waiting.ends_with(" 1 s from now") || waiting.ends_with("due");
        assert!(soon, "a backoff of 1 s is {waiting}");
        assert_eq!(fleet.ended(&retried).await.attempt, 2);
        let ended = fleet.ended(&late.task_id).await;
        assert_eq!(ended.failure.map(|failure| failure.kind()), Some(FailureKind::Deadline));
        assert!(begun.elapsed() >= Duration::from_millis(1_900), "early: {:?}", begun.elapsed());
        fleet.forgotten(&gone).await;
        // The earlier timestamps are in the log and the snapshot.
        let across = v1::TaskSpec { deadline_in: seconds(3), required_role: nobody, ..task("now") };
        let across = fleet.submit(across).await.task_id;
        fleet.restart().await;
        let ended = fleet.ended(&across).await;
        assert_eq!(ended.failure.map(|failure| failure.kind()), Some(FailureKind::Deadline));
    }
    fleet.stop().await;
}

#[tokio::test]
async fn one_wrong_clock_of_three_decides_nothing_whoever_leads_and_is_reported() {
    let fleet = Fleet::start(3).await;
    let leader = fleet.leader().await;
    let keyed = || v1::TaskSpec { kind: "once".into(), idempotency_key: "once".into(), ..task("now") };
    let first = fleet.submit(keyed()).await.task_id;
    fleet.ended(&first).await;
    fleet.clocks[leader].set(TWO_HOURS, 0);
    let name = format!("coordinator c-{leader}");
    let status = fleet.status_until(|status| !status.warnings.is_empty()).await;
    let [warning] = &status.warnings[..] else { panic!("one is wrong: {:?}", status.warnings) };
    assert_eq!(warning.reason, "ClockSkew");
    assert!(warning.message.contains(&name) && warning.message.contains("h ahead"), "{}", warning.message);
    assert!(fleet.metric(leader, "robeing_coordinator_clock_offset_ms") > 7_000_000);
    assert_eq!(fleet.metric((leader + 1) % 3, "robeing_coordinator_clock_offset_ms").abs() / 5_000, 0);

    for _ in 0..2 {
        assert!(fleet.submit(keyed()).await.existing, "the key is kept for an hour");
        let nobody = v1::Role::Guardian.into();
        let late = fleet.submit(v1::TaskSpec { deadline_in: seconds(3), required_role: nobody, ..task("now") }).await;
        // The displayed time of day is the median's.
        let shown = fleet.task(&late.task_id).await;
        let at = |time: Option<prost_types::Timestamp>| time.expect("it is shown").seconds;
        let now = at(fleet.status().await.now);
        assert!((now - fixture::unix_seconds()).abs() < 60, "the fleet says it is {now}");
        assert!((at(shown.submitted_at) - now).abs() < 60 && (at(shown.deadline) - now).abs() < 60);
        // The next leader continues the deadline.
        fleet.hand_over().await;
        fleet.ended(&late.task_id).await;
    }
    fleet.clocks[leader].set(0, 0);
    fleet.status_until(|status| status.warnings.is_empty()).await;
    fleet.stop().await;
}

#[tokio::test]
async fn an_agents_own_wall_clock_decides_nothing() {
    let fleet = Fleet::start(1).await;
    fleet.agent_clock.set(-TWO_HOURS, 0);
    let limits = || v1::TaskSpec { deadline_in: seconds(60), attempt_timeout: seconds(60), ..task("now") };
    let done = fleet.submit(limits()).await.task_id;
    assert_eq!(fleet.ended(&done).await.state(), TaskState::Succeeded);
    fleet.agent_clock.set(TWO_HOURS, 0);
    let done = fleet.submit(limits()).await.task_id;
    assert_eq!(fleet.ended(&done).await.state(), TaskState::Succeeded);
    for deadline in fleet.deadlines() {
        assert!(deadline.left <= Duration::from_secs(60) && deadline.left > Duration::from_secs(30), "{deadline:?}");
    }
    fleet.stop().await;
}
