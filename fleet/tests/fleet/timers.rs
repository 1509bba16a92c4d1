//! What happens as time passes.

use robeing_fleet::{
    AgentJoin, AttemptEnd, CancelCause, Command, ControlCommand, Effect, FailureKind, Outcome, Reply, SubmitTask,
    TaskCommand, TaskState, limits::ATTEMPT_GRACE_MS,
};

use crate::fixture::{Trial, failure, retry, success, task, worker};

#[test]
fn a_delayed_task_starts_when_its_delay_has_passed() {
    let mut trial = Trial::new();
    trial.join(worker("a"));
    let id = trial.submit(SubmitTask { delay: Some(500), ..task(1) });
    assert_eq!(trial.fleet.next_due(), Some(trial.now + 500));
    assert_eq!(trial.fleet.waiting_for(id, trial.now).as_deref(), Some("the end of its delay, 500 ms from now"));
    let waits = |trial: &Trial, at| trial.fleet.waiting_for(id, at).unwrap_or_default();
    assert_eq!(
        waits(&trial, trial.now + 200),
        "the end of its delay, 300 ms from now",
        "even if nothing happened since"
    );
    assert_eq!(waits(&trial, trial.now - 4_600), "the end of its delay, 6 s from now");
    assert_eq!(waits(&trial, trial.now + 501), "the end of its delay, which is due");
    trial.after(499);
    assert_eq!(trial.state(id), TaskState::Queued);
    trial.after(1);
    assert_eq!(trial.assigned(), [(id, 1)]);
}

#[test]
fn what_is_due_happens_in_order_of_time_when_a_command_comes_late() {
    let mut trial = Trial::new();
    trial.join(AgentJoin { slots: 2, ..worker("a") });
    let later = trial.submit(SubmitTask { delay: Some(200), ..task(1) });
    let sooner = trial.submit(SubmitTask { delay: Some(100), ..task(2) });
    trial.after(300);
    assert_eq!(trial.assigned(), [(sooner, 1), (later, 1)]);
}

#[test]
fn a_deadline_fails_a_queued_task_and_an_assigned_one() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let due = |n| SubmitTask { deadline_in: Some(100), ..task(n) };
    let ids = [trial.submit(due(1)), trial.submit(due(2))];
    trial.after(99);
    assert_eq!(trial.state(ids[1]), TaskState::Queued);
    trial.after(1);
    for id in ids {
        assert_eq!(trial.state(id), TaskState::Failed);
        let kind = trial.task(id).failure.as_ref().map(|f| f.kind);
        assert_eq!(kind, Some(FailureKind::Deadline));
    }
    assert!(trial.effects.contains(&Effect::Stop {
        agent: stay.agent,
        session: stay.session,
        task: ids[0],
        attempt: 1,
        cause: CancelCause::Deadline,
    }));
    let late = trial.complete(stay, ids[0], 1, success());
    assert!(matches!(late, Reply::Stale(_)));
    assert_eq!(trial.fleet.held(stay.agent).count(), 0);
}

#[test]
fn a_deadline_is_kept_by_whatever_command_comes_next() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(SubmitTask { deadline_in: Some(100), ..task(1) });
    trial.now += 100;
    let late = trial.complete(stay, id, 1, success());
    assert!(matches!(late, Reply::Stale(_)));
    assert_eq!(trial.state(id), TaskState::Failed);
}

#[test]
fn an_attempt_that_its_agent_does_not_end_in_time_is_ended_and_tried_elsewhere() {
    let mut trial = Trial::new();
    let stuck = trial.join(worker("a"));
    let id = trial.submit(SubmitTask { attempt_timeout: Some(1_000), retry: retry(2), ..task(1) });
    let other = trial.join(worker("b"));
    trial.after(1_000 + ATTEMPT_GRACE_MS - 1);
    assert_eq!(trial.holder(id), Some(stuck.agent));
    trial.after(1);
    assert!(matches!(trial.effects[0], Effect::Stop { cause: CancelCause::TimedOut, attempt: 1, .. }));
    assert!(matches!(trial.effects[1..], [Effect::DirectoryChanged { .. }]), "its performance: {:?}", trial.effects);
    assert_eq!(trial.task(id).attempts[0].end, Some(AttemptEnd::TimedOut));
    let backoff = trial.task(id).retry.initial_backoff;
    trial.after(backoff);
    assert_eq!(trial.holder(id), Some(other.agent), "the stuck one's slot is taken");
    trial.after(1_000 + ATTEMPT_GRACE_MS);
    assert_eq!(trial.state(id), TaskState::DeadLettered);
    assert_eq!(trial.complete(stuck, id, 1, Outcome::Stopped), Reply::Done);
}

#[test]
fn a_finished_task_is_kept_for_its_time_and_then_forgotten() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(SubmitTask { result_ttl: Some(50), ..task(1) });
    trial.complete(stay, id, 1, success());
    trial.after(49);
    assert_eq!(trial.state(id), TaskState::Succeeded);
    trial.after(1);
    assert!(trial.fleet.task(id).is_none());
    assert_eq!(trial.fleet.stored_bytes(), 0);
    assert_eq!(trial.fleet.next_due(), None);
}

#[test]
fn a_result_without_any_time_to_live_can_be_read_until_time_goes_on() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(SubmitTask { result_ttl: Some(0), ..task(1) });
    trial.complete(stay, id, 1, success());
    trial.after(0);
    assert_eq!(trial.state(id), TaskState::Succeeded);
    trial.after(1);
    assert!(trial.fleet.task(id).is_none());
}

#[test]
fn time_that_goes_back_is_taken_as_the_latest_seen() {
    let mut trial = Trial::new();
    let id = trial.submit(task(1));
    let accepted = trial.now;
    trial.now -= 500;
    trial.apply(Command::Control(ControlCommand::Tick));
    assert_eq!(trial.fleet.now().fleet, accepted);
    let second = trial.submit(task(2));
    assert_eq!(trial.task(second).submitted_at.fleet, trial.task(id).submitted_at.fleet);
}

const HOUR: i64 = 3_600_000;

#[test]
fn a_wall_clock_that_jumps_expires_nothing_fails_nothing_and_holds_nothing_back() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let keyed = |n| SubmitTask { idempotency_key: Some("once".to_owned()), ..task(n) };
    let done = trial.submit(keyed(1));
    trial.complete(stay, done, 1, success());
    let running = trial.submit(SubmitTask { deadline_in: Some(HOUR as u64), attempt_timeout: Some(60_000), ..task(2) });
    trial.wall_ahead = 2 * HOUR;
    trial.after(2_000);
    assert_eq!(trial.state(done), TaskState::Succeeded, "its result is kept for an hour");
    assert_eq!(
        trial.apply(Command::Task(TaskCommand::Submit(keyed(3)))),
        Reply::Submitted { task: done, existing: true }
    );
    assert_eq!(trial.holder(running), Some(stay.agent));
    trial.wall_ahead = -2 * HOUR;
    trial.complete(stay, running, 1, failure(true));
    let left = trial.fleet.waiting_for(running, trial.now);
    assert_eq!(left.as_deref(), Some("the end of its backoff, 1 s from now"));
    trial.after(1_000);
    assert_eq!(trial.holder(running), Some(stay.agent));
}

#[test]
fn what_happened_keeps_the_wall_time_of_its_moment() {
    let mut trial = Trial::new();
    trial.wall_ahead = 500;
    let id = trial.submit(SubmitTask { deadline_in: Some(10_000), ..task(1) });
    let accepted = trial.stamp();
    trial.wall_ahead = HOUR;
    trial.after(100);
    assert_eq!(trial.task(id).submitted_at, accepted);
    assert_eq!(accepted.wall, accepted.fleet + 500);
    let now = trial.fleet.now();
    let due = trial.task(id).deadline.expect("it has one");
    assert_eq!(now.wall_at(due), now.wall + 9_900, "a future time is estimated from the clock as it is now");
    assert_eq!(now.wall_at(now.fleet - 300), now.wall - 300);
}
