//! The course of attempts: fencing, retries, hand-backs and cancellation.

use robeing_fleet::{
    AgentCommand, AttemptEnd, CancelCause, Command, Effect, Failure, FailureKind, HeldState, Outcome, Refusal, Reply,
    RetryPolicy, StaleReason, SubmitTask, TaskId, TaskState, limits::MAX_RETRY_AFTER_MS,
};

use crate::fixture::{Trial, failure, retry, success, task, worker};

#[test]
fn a_result_finishes_the_task_and_frees_the_slot_for_the_next_one() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let (first, second) = (trial.submit(task(1)), trial.submit(task(2)));
    assert_eq!(trial.complete(stay, first, 1, success()), Reply::Completed);
    assert_eq!(trial.effects[0], Effect::Finished { task: first });
    assert_eq!(trial.assigned(), [(second, 1)]);
    assert_eq!(trial.task(first).output.as_deref(), Some(&b"3"[..]));
    assert_eq!(trial.task(first).attempts[0].end, Some(AttemptEnd::Succeeded));
}

#[test]
fn the_same_completion_again_is_stale_and_changes_nothing() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(task(1));
    trial.complete(stay, id, 1, success());
    let before = trial.task(id).clone();
    let again = trial.complete(stay, id, 1, failure(true));
    assert_eq!(again, Reply::Stale(StaleReason::Finished));
    assert_eq!(trial.task(id), &before);
    assert_eq!(trial.fleet.totals().stale_refused, 1);
}

#[test]
fn what_a_lost_agent_still_says_about_its_attempt_is_refused() {
    let mut trial = Trial::new();
    let old = trial.join(worker("a"));
    let id = trial.submit(task(1));
    trial.lose(old);
    let new = trial.join(worker("b"));
    assert_eq!(trial.task(id).attempt, 2);
    let late = trial.complete(old, id, 1, success());
    assert_eq!(late, Reply::Stale(StaleReason::SessionEnded));
    assert_eq!(trial.complete(new, id, 2, success()), Reply::Completed);
}

#[test]
fn an_attempt_number_that_is_not_current_is_refused() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(task(1));
    let ahead = trial.complete(stay, id, 2, success());
    assert_eq!(ahead, Reply::Stale(StaleReason::NotCurrent));
    let unknown = trial.complete(stay, TaskId(9), 1, success());
    assert_eq!(unknown, Reply::Stale(StaleReason::UnknownTask));
    assert_eq!(trial.state(id), TaskState::Assigned);
}

#[test]
fn a_retryable_failure_is_tried_again_after_a_growing_pause() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(SubmitTask {
        retry: Some(RetryPolicy { max_attempts: 4, initial_backoff: 100, max_backoff: 250, multiplier_percent: 200 }),
        ..task(1)
    });
    for (attempt, pause) in [(1, 100), (2, 200), (3, 250)] {
        trial.complete(stay, id, attempt, failure(true));
        assert_eq!(trial.state(id), TaskState::Queued);
        trial.after(pause - 1);
        assert_eq!(trial.state(id), TaskState::Queued, "attempt {attempt}");
        trial.after(1);
        assert_eq!(trial.assigned(), [(id, attempt + 1)]);
    }
    trial.complete(stay, id, 4, failure(true));
    assert_eq!(trial.state(id), TaskState::Failed);
    let kind = trial.task(id).failure.as_ref().map(|f| f.kind);
    assert_eq!(kind, Some(FailureKind::Exit));
}

#[test]
fn a_pause_is_cut_to_whole_milliseconds_each_time_it_grows_and_one_that_is_too_small_stays() {
    let policy = |initial_backoff, max_backoff| RetryPolicy {
        max_attempts: 20,
        initial_backoff,
        max_backoff,
        multiplier_percent: 150,
    };
    let pauses = |policy: RetryPolicy| (1..=10).map(|used| policy.backoff(used)).collect::<Vec<_>>();
    assert_eq!(pauses(policy(1, 10_000)), [1; 10]);
    assert_eq!(pauses(policy(2, 10_000)), [2, 3, 4, 6, 9, 13, 19, 28, 42, 63]);
    assert_eq!(pauses(policy(2, 20)), [2, 3, 4, 6, 9, 13, 19, 20, 20, 20]);
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(SubmitTask { retry: Some(policy(1, 10_000)), ..task(1) });
    for attempt in 1..=10 {
        trial.complete(stay, id, attempt, failure(true));
        assert_eq!(trial.state(id), TaskState::Queued);
        trial.after(1);
        assert_eq!(trial.assigned(), [(id, attempt + 1)]);
    }
}

#[test]
fn the_next_attempt_waits_for_what_a_failure_asks_within_an_hour() {
    for (asked, pause) in [(0, 100), (50, 100), (700, 700), (u64::MAX, MAX_RETRY_AFTER_MS)] {
        let mut trial = Trial::new();
        let stay = trial.join(worker("a"));
        let id = trial.submit(SubmitTask {
            retry: Some(RetryPolicy {
                max_attempts: 2,
                initial_backoff: 100,
                max_backoff: 100,
                multiplier_percent: 200,
            }),
            ..task(1)
        });
        let Outcome::Failed(busy) = failure(true) else {
            panic!("a failure");
        };
        trial.complete(stay, id, 1, Outcome::Failed(Failure { retry_after_ms: asked, ..busy }));
        trial.after(pause - 1);
        assert_eq!(trial.state(id), TaskState::Queued, "asked for {asked}");
        trial.after(1);
        assert_eq!(trial.assigned(), [(id, 2)], "asked for {asked}");
    }
}

#[test]
fn a_failure_that_is_not_retryable_is_final() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(task(1));
    trial.complete(stay, id, 1, failure(false));
    assert_eq!(trial.state(id), TaskState::Failed);
}

#[test]
fn attempts_that_only_ran_out_of_time_dead_letter_the_task() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(SubmitTask { retry: retry(1), ..task(1) });
    let Outcome::Failed(mut slow) = failure(true) else {
        panic!("a failure");
    };
    slow.kind = FailureKind::TimedOut;
    trial.complete(stay, id, 1, Outcome::Failed(slow));
    assert_eq!(trial.state(id), TaskState::DeadLettered);
    assert_eq!(trial.task(id).attempts[0].end, Some(AttemptEnd::TimedOut));
}

#[test]
fn a_handed_back_task_keeps_its_place_and_its_attempts() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let first = trial.submit(SubmitTask { retry: retry(1), ..task(1) });
    let second = trial.submit(task(2));
    trial.drain(stay);
    trial.complete(stay, first, 1, Outcome::HandedBack);
    assert_eq!(trial.task(first).attempts_used, 0);
    trial.join(worker("b"));
    assert_eq!(trial.assigned(), [(first, 2)], "before {second}");
    assert_eq!(trial.task(first).attempts[0].end, Some(AttemptEnd::HandedBack));
}

#[test]
fn a_cancelled_task_ends_at_once_and_its_slot_is_free_when_the_agent_says_so() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let (id, next) = (trial.submit(task(1)), trial.submit(task(2)));
    assert_eq!(trial.cancel(id), Reply::Cancelled(TaskState::Cancelled));
    assert!(trial.effects.contains(&Effect::Stop {
        agent: stay.agent,
        session: stay.session,
        task: id,
        attempt: 1,
        cause: CancelCause::Cancelled,
    }));
    assert_eq!(trial.task(id).cancel_reason.as_deref(), Some("not needed"));
    let held: Vec<_> = trial.fleet.held(stay.agent).map(|h| h.state).collect();
    assert_eq!(held, [HeldState::Stopping]);
    assert_eq!(trial.state(next), TaskState::Queued);
    assert_eq!(trial.complete(stay, id, 1, Outcome::Stopped), Reply::Done);
    assert_eq!(trial.assigned(), [(next, 1)]);
    assert_eq!(trial.fleet.totals().stale_refused, 0, "it stopped as ordered");
}

#[test]
fn a_result_that_crosses_its_cancellation_is_refused_and_frees_the_slot() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(task(1));
    trial.cancel(id);
    let late = trial.complete(stay, id, 1, success());
    assert_eq!(late, Reply::Stale(StaleReason::Finished));
    assert_eq!(trial.state(id), TaskState::Cancelled);
    assert_eq!(trial.fleet.held(stay.agent).count(), 0);
}

#[test]
fn cancelling_again_or_too_late_tells_how_it_ended() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let done = trial.submit(task(1));
    trial.complete(stay, done, 1, success());
    assert_eq!(trial.cancel(done), Reply::Cancelled(TaskState::Succeeded));
    let unknown = Refusal::UnknownTask { task: TaskId(9) };
    assert_eq!(trial.cancel(TaskId(9)), Reply::Refused(unknown));
}

#[test]
fn a_task_that_takes_the_id_of_a_forgotten_one_does_not_meet_its_stopping_attempt() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let once = SubmitTask { result_ttl: Some(0), ..task(1) };
    let id = trial.submit(once.clone());
    trial.cancel(id);
    trial.after(1);
    assert!(trial.fleet.task(id).is_none());
    trial.submit(once);
    trial.complete(stay, id, 1, Outcome::Stopped);
    assert_eq!(trial.assigned(), [(id, 2)]);
}

#[test]
fn no_command_panics_whatever_numbers_it_names() {
    let mut trial = Trial::new();
    trial.join(worker("a"));
    trial.submit(task(1));
    for n in [0, 1, 2, u32::MAX] {
        let agent = robeing_fleet::AgentId(n);
        let session = robeing_fleet::SessionId(u64::from(n));
        trial.apply(Command::Agent(AgentCommand::Draining { agent, session }));
        let stay = crate::fixture::OpenSession { agent, session };
        for attempt in [0, 1, u32::MAX] {
            trial.complete(stay, TaskId(1), attempt, Outcome::Stopped);
        }
        trial.lose(stay);
        trial.leave(stay);
    }
}
