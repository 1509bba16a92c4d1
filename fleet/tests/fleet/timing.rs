//! Queue expiries, progress timeouts, jitter, and failures after which a task is not tried again.

use proptest::prelude::*;
use robeing_fleet::{
    AgentCommand, AgentJoin, AttemptEnd, CancelCause, Command, Completion, ControlCommand, Effect, Failure,
    FailureKind, FailureMatch, Fleet, HeldState, Jitter, Outcome, Progress, Refusal, Reply, RetryPolicy, StaleReason,
    SubmitTask, TaskCommand, TaskId, TaskState, Timing, limits::*,
};

use crate::{
    fixture::{Trial, amounts, answered, failure, retry, success, task, to_verify, worker},
    time_samples,
};

/// What generated handlers call some failures.
pub const NAME: &str = "ValueError";

/// What generated tasks ask for, which is sometimes out of bounds.
pub fn asked() -> impl Strategy<Value = Timing> {
    let kinds = vec![FailureKind::Exit, FailureKind::TimedOut, FailureKind::AgentLost, FailureKind::Stalled];
    let of = (
        prop::option::weighted(0.6, prop::sample::select(kinds)),
        prop::option::weighted(0.2, 0..3i32),
        prop::bool::weighted(0.3),
    );
    let of = of.prop_map(|(kind, code, named)| FailureMatch {
        kind,
        code: kind.and(code),
        name: (named || kind.is_none()).then(|| NAME.to_owned()),
    });
    let jitter = (prop_oneof![9 => 1..=100u32, 1 => Just(101)], any::<u64>());
    let expiry = prop::option::weighted(0.3, 0..3_000u64);
    let progress = prop::option::weighted(0.5, 1..2_000u64);
    let jitter = prop::option::weighted(0.5, jitter.prop_map(|(percent, seed)| Jitter { percent, seed }));
    let named = prop::collection::vec(of, 0..3);
    (expiry, progress, jitter, named).prop_map(|(queue_expiry, progress_timeout, jitter, non_retryable)| Timing {
        queue_expiry,
        progress_timeout,
        jitter,
        non_retryable,
    })
}

fn with(n: u128, timing: Timing) -> SubmitTask {
    SubmitTask { timing: Some(Box::new(timing)), ..task(n) }
}

fn expiring(n: u128, within: u64) -> SubmitTask {
    with(n, Timing { queue_expiry: Some(within), ..Timing::default() })
}

fn watched(n: u128, within: u64) -> SubmitTask {
    with(n, Timing { progress_timeout: Some(within), ..Timing::default() })
}

fn stall(trial: &mut Trial, task: TaskId, attempt: u32) -> Reply {
    trial.apply(Command::Task(TaskCommand::Stalled { task, attempt }))
}

fn kind_of(trial: &Trial, id: TaskId) -> Option<FailureKind> {
    trial.task(id).failure.as_ref().map(|failure| failure.kind)
}

#[test]
fn a_task_that_no_agent_takes_in_time_fails_as_expired() {
    let mut trial = Trial::newest();
    let id = trial.submit(expiring(1, 100));
    assert_eq!(trial.fleet.next_due(), Some(trial.now + 100));
    trial.after(99);
    assert_eq!(trial.state(id), TaskState::Queued);
    trial.after(1);
    assert_eq!((trial.state(id), kind_of(&trial, id)), (TaskState::Failed, Some(FailureKind::Expired)));
    let message = trial.task(id).failure.as_ref().map(|failure| failure.message.clone());
    assert!(message.as_ref().is_some_and(|message| message.contains("within 100 ms")), "{message:?}");
    trial.join(worker("late"));
    assert_eq!(trial.assigned(), []);
}

#[test]
fn the_expiry_counts_from_the_end_of_the_delay_and_not_once_an_attempt_has_begun() {
    let mut trial = Trial::newest();
    let delayed = trial.submit(SubmitTask { delay: Some(1_000), ..expiring(1, 100) });
    trial.after(1_099);
    assert_eq!(trial.state(delayed), TaskState::Queued);
    trial.after(1);
    assert_eq!(kind_of(&trial, delayed), Some(FailureKind::Expired));
    let stay = trial.join(worker("a"));
    let begun = trial.submit(expiring(2, 100));
    trial.lose(stay);
    trial.after(100_000);
    assert_eq!(trial.state(begun), TaskState::Queued, "it had begun, and waits for another agent");
    let stay = trial.join(worker("b"));
    trial.complete(stay, begun, 2, success());
    assert_eq!(trial.state(begun), TaskState::Succeeded);
}

#[test]
fn a_task_that_is_due_and_has_expired_when_a_command_comes_late_is_not_started() {
    let mut trial = Trial::newest();
    trial.join(worker("a"));
    let id = trial.submit(SubmitTask { delay: Some(100), ..expiring(1, 100) });
    trial.after(300);
    assert_eq!((trial.assigned(), kind_of(&trial, id)), (Vec::new(), Some(FailureKind::Expired)));
}

#[test]
fn an_agent_gets_its_next_task_behind_more_than_one_command_ends_that_have_waited_for_too_long() {
    let most = u128::try_from(MAX_FIRINGS).expect("it fits");
    let mut fleet = Trial::newest().fleet;
    let mut now = fleet.now();
    let apply = |fleet: &mut Fleet, now, command| fleet.apply(now, command, &mut Vec::new());
    let joined = apply(&mut fleet, now, Command::Agent(AgentCommand::Joined(worker("a"))));
    let Reply::Joined { agent, session, .. } = joined else { panic!("not joined: {joined:?}") };
    apply(&mut fleet, now, Command::Task(TaskCommand::Submit(task(1))));
    for n in 2..2 + most + 1_000 {
        apply(&mut fleet, now, Command::Task(TaskCommand::Submit(expiring(n, 100))));
    }
    let last = SubmitTask { priority: 1, ..task(0) };
    apply(&mut fleet, now, Command::Task(TaskCommand::Submit(last)));
    now.fleet += 100;
    let completion = Completion { agent, session, task: TaskId(1), attempt: 1, ran_us: 1, outcome: success() };
    let complete = Command::Task(TaskCommand::Complete(completion));
    // The firings are steps, too; the command itself begins after them.
    let mut progress = fleet.begin(now, complete, MAX_FIRINGS, &mut Vec::new());
    let ended = fleet.counts().failed - MAX_FIRINGS as u32;
    assert!(ended < 100, "{ended} end in one step");
    while let Progress::Halfway(rest) = progress {
        let before = fleet.counts().failed;
        progress = fleet.advance(rest, 1, &mut Vec::new());
        assert!(fleet.counts().failed <= before + 1);
    }
    let holder = fleet.task(TaskId(0)).and_then(|task| task.current()).map(|attempt| attempt.agent);
    assert_eq!((fleet.counts().failed, holder), (MAX_FIRINGS as u32 + 1_000, Some(agent)));
    assert_eq!(fleet.audit(), Ok(()));
}

#[test]
fn a_verified_task_expires_only_while_none_of_its_runs_has_begun() {
    let mut trial = Trial::newest();
    let timing = || Some(Box::new(Timing { queue_expiry: Some(100), ..Timing::default() }));
    let id = trial.submit(SubmitTask { timing: timing(), ..to_verify(1) });
    trial.after(100);
    assert_eq!(kind_of(&trial, id), Some(FailureKind::Expired));
    assert_eq!(trial.fleet.counts().queued, 0, "its runs are gone with it");
    let stays = ["a", "b"].map(|name| trial.join(worker(name)));
    let id = trial.submit(SubmitTask { timing: timing(), ..to_verify(2) });
    trial.after(100_000);
    for stay in stays {
        let (member, attempt) = trial.held_by(stay);
        trial.complete(stay, member, attempt, answered("x"));
    }
    assert_eq!(trial.state(id), TaskState::Succeeded);
}

#[test]
fn an_attempt_without_progress_is_ended_and_runs_at_once_on_another_agent() {
    let mut trial = Trial::newest();
    let stuck = trial.join(AgentJoin { slots: 4, ..worker("a") });
    let id = trial.submit(watched(1, 1_000));
    let most = |trial: &Trial, agent, attempt| trial.fleet.progress_timeout_of(id, attempt, agent);
    assert_eq!(most(&trial, stuck.agent, 1), Some(1_000));
    assert_eq!(most(&trial, stuck.agent, 2), None, "there is no such attempt");
    let other = trial.join(worker("b"));
    trial.after(1_000);
    assert_eq!(trial.holder(id), Some(stuck.agent), "only the leader knows of progress");
    assert_eq!(stall(&mut trial, id, 1), Reply::Done);
    assert!(trial.effects.contains(&Effect::Stop {
        agent: stuck.agent,
        session: stuck.session,
        task: id,
        attempt: 1,
        cause: CancelCause::Stalled,
    }));
    assert_eq!((trial.assigned(), trial.holder(id)), (vec![(id, 2)], Some(other.agent)));
    assert_eq!((most(&trial, stuck.agent, 1), most(&trial, other.agent, 2)), (None, Some(1_000)));
    let first = &trial.task(id).attempts[0];
    let kind = first.failure.as_ref().map(|failure| (failure.kind, failure.retryable));
    assert_eq!((first.end, kind), (Some(AttemptEnd::TimedOut), Some((FailureKind::Stalled, true))));
    let record = trial.fleet.agent(stuck.agent).expect("it is known").record;
    assert_eq!(record.failed, 1);
    assert_eq!(trial.complete(stuck, id, 1, success()), Reply::Stale(StaleReason::NotCurrent));
}

#[test]
fn an_agent_gets_no_attempt_at_a_task_that_it_is_still_stopping() {
    let mut trial = Trial::newest();
    let wide = trial.join(AgentJoin { slots: 3, ..worker("wide") });
    let id = trial.submit(watched(1, 1_000));
    trial.after(1_000);
    stall(&mut trial, id, 1);
    assert_eq!((trial.assigned(), trial.state(id)), (Vec::new(), TaskState::Queued));
    // What comes after it in the queue is not held up, however the agent gets to it.
    let other = trial.submit(task(2));
    assert_eq!(trial.holder(other), Some(wide.agent));
    trial.complete(wide, other, 1, success());
    assert_eq!(trial.state(id), TaskState::Queued);
    let held: Vec<HeldState> = trial.fleet.held(wide.agent).map(|held| held.state).collect();
    assert_eq!(held, [HeldState::Stopping]);
    assert_eq!(trial.complete(wide, id, 1, Outcome::Stopped), Reply::Done);
    assert_eq!(trial.assigned(), [(id, 2)], "now it may have it");
}

#[test]
fn what_needs_resources_is_not_given_to_the_agent_that_still_stops_it_and_holds_up_nothing() {
    let mut trial = Trial::newest();
    let wide = trial.join(AgentJoin { slots: 3, ..worker("wide") });
    trial.contribute(wide, amounts(4_000, 0));
    let resources = |cpu| {
        let queue = "default".to_owned();
        Some(Box::new(robeing_fleet::TaskResources { amounts: amounts(cpu, 0), queue }))
    };
    let id = trial.submit(SubmitTask { resources: resources(1_000), ..watched(1, 1_000) });
    trial.after(1_000);
    stall(&mut trial, id, 1);
    trial.after(1_000);
    assert_eq!(trial.state(id), TaskState::Queued);
    let same = trial.submit(SubmitTask { resources: resources(1_000), ..task(2) });
    trial.after(1_000);
    assert_eq!(trial.holder(same), Some(wide.agent));
    let other = trial.join(worker("other"));
    trial.contribute(other, amounts(4_000, 0));
    trial.after(1_000);
    assert_eq!(trial.holder(id), Some(other.agent));
}

#[test]
fn only_the_current_attempt_of_a_task_with_a_progress_timeout_is_ended_and_not_before_it_passed() {
    let mut trial = Trial::newest();
    trial.join(AgentJoin { slots: 2, ..worker("a") });
    let (id, other) = (trial.submit(watched(1, 1_000)), trial.submit(task(2)));
    trial.after(999);
    let early = stall(&mut trial, id, 1);
    assert!(matches!(&early, Reply::Refused(Refusal::Invalid { field, .. }) if field == "attempt"), "{early:?}");
    trial.after(1);
    assert_eq!(stall(&mut trial, id, 2), Reply::Stale(StaleReason::NotCurrent));
    assert_eq!(stall(&mut trial, TaskId(9), 1), Reply::Stale(StaleReason::UnknownTask));
    let unwatched = stall(&mut trial, other, 1);
    assert!(matches!(&unwatched, Reply::Refused(Refusal::Invalid { field, .. }) if field == "task"), "{unwatched:?}");
    assert_eq!(trial.fleet.counts().assigned, 2);
    trial.cancel(id);
    assert_eq!(stall(&mut trial, id, 1), Reply::Stale(StaleReason::Finished));
}

#[test]
fn attempts_without_progress_count_and_dead_letter_the_task() {
    let mut trial = Trial::newest();
    let stays = ["a", "b"].map(|name| trial.join(worker(name)));
    let id = trial.submit(SubmitTask { retry: retry(2), ..watched(1, 1_000) });
    for attempt in 1..=2 {
        assert_eq!(trial.task(id).attempt, attempt);
        trial.after(1_000);
        assert_eq!(stall(&mut trial, id, attempt), Reply::Done);
    }
    assert_eq!((trial.state(id), kind_of(&trial, id)), (TaskState::DeadLettered, Some(FailureKind::Stalled)));
    assert!(trial.task(id).dead);
    for (stay, attempt) in stays.into_iter().zip([1, 2]) {
        assert_eq!(trial.complete(stay, id, attempt, Outcome::Stopped), Reply::Done);
    }
}

fn failed(kind: FailureKind, code: Option<i32>, name: &str) -> Outcome {
    let Outcome::Failed(failure) = failure(true) else { panic!("a failure") };
    Outcome::Failed(Failure { kind, code, name: name.to_owned(), ..failure })
}

#[test]
fn a_failure_that_the_task_names_is_final_and_others_are_tried_again() {
    let of = |kind, code, name: Option<&str>| FailureMatch { kind, code, name: name.map(str::to_owned) };
    let non_retryable = vec![
        of(Some(FailureKind::Http), None, None),
        of(Some(FailureKind::Exit), Some(2), None),
        of(None, None, Some(NAME)),
        of(Some(FailureKind::Reported), None, Some("KeyError")),
    ];
    use FailureKind::{Exit, Http, Reported, Signal};
    for (kind, code, name, is_final) in [
        (Http, Some(503), "", true),
        (Exit, Some(2), "", true),
        (Exit, Some(3), "", false),
        (Exit, None, "", false),
        (Signal, Some(2), "", false),
        (Reported, None, NAME, true),
        (Exit, Some(9), NAME, true),
        (Reported, Some(1), "KeyError", true),
        (Exit, Some(9), "KeyError", false),
        (Reported, None, "Other", false),
    ] {
        let mut trial = Trial::newest();
        let stay = trial.join(worker("a"));
        let id = trial.submit(with(1, Timing { non_retryable: non_retryable.clone(), ..Timing::default() }));
        trial.complete(stay, id, 1, failed(kind, code, name));
        let expected = if is_final { TaskState::Failed } else { TaskState::Queued };
        assert_eq!(trial.state(id), expected, "{kind:?} {code:?} {name:?}");
        let kept = trial.task(id).attempts[0].failure.clone().expect("it is kept");
        assert_eq!((kept.retryable, &*kept.name, trial.task(id).dead), (!is_final, name, is_final));
    }
}

#[test]
fn the_loss_of_an_agent_and_a_timeout_can_be_named_too() {
    let named = |n, kind| {
        let non_retryable = vec![FailureMatch { kind: Some(kind), ..FailureMatch::default() }];
        with(n, Timing { non_retryable, ..Timing::default() })
    };
    let mut trial = Trial::newest();
    let stay = trial.join(worker("a"));
    let lost = trial.submit(named(1, FailureKind::AgentLost));
    trial.lose(stay);
    assert_eq!((trial.state(lost), kind_of(&trial, lost)), (TaskState::Failed, Some(FailureKind::AgentLost)));
    trial.join(worker("b"));
    let late = trial.submit(SubmitTask { attempt_timeout: Some(10), ..named(2, FailureKind::TimedOut) });
    trial.after(10 + ATTEMPT_GRACE_MS);
    assert_eq!((trial.state(late), kind_of(&trial, late)), (TaskState::Failed, Some(FailureKind::TimedOut)));
}

#[test]
fn jitter_shortens_each_backoff_by_chance_and_by_no_more_than_its_part() {
    let policy = RetryPolicy { max_attempts: 10, initial_backoff: 1_000, max_backoff: 4_000, multiplier_percent: 200 };
    let pauses = |seed: u64| {
        let mut trial = Trial::newest();
        let stay = trial.join(worker("a"));
        let jitter = Some(Jitter { percent: 40, seed });
        let submission = SubmitTask { retry: Some(policy), ..with(1, Timing { jitter, ..Timing::default() }) };
        let id = trial.submit(submission);
        let mut pauses = Vec::new();
        for used in 1..=9 {
            trial.complete(stay, id, used, failure(true));
            let pause = trial.task(id).not_before.map_or(0, |at| at - trial.now);
            let full = policy.backoff(used);
            assert!((full * 6 / 10..=full).contains(&pause), "{pause} of {full}");
            pauses.push(pause);
            trial.after(pause);
        }
        pauses
    };
    let drawn = pauses(7);
    assert_eq!(drawn, pauses(7), "the same log has the same pauses");
    assert_ne!(drawn, pauses(8));
    assert!(drawn.windows(2).skip(2).any(|two| two[0] != two[1]), "also once they grow no more: {drawn:?}");
}

#[test]
fn what_a_failure_asks_to_wait_is_not_shortened() {
    let mut trial = Trial::newest();
    let stay = trial.join(worker("a"));
    let jitter = Some(Jitter { percent: 100, seed: 7 });
    let id = trial.submit(with(1, Timing { jitter, ..Timing::default() }));
    let Outcome::Failed(busy) = failure(true) else { panic!("a failure") };
    trial.complete(stay, id, 1, Outcome::Failed(Failure { retry_after_ms: 5_000, ..busy }));
    assert_eq!(trial.task(id).not_before, Some(trial.now + 5_000));
}

#[test]
fn the_rules_of_a_task_are_held_to_their_limits() {
    let check = |change: &dyn Fn(&mut Timing)| {
        let mut timing = time_samples::timing();
        change(&mut timing);
        with(1, timing).check().err().map(|refusal| match refusal {
            Refusal::Invalid { field, .. } => field,
            other => panic!("{other:?}"),
        })
    };
    let named = |name: String| FailureMatch { name: Some(name), ..FailureMatch::default() };
    let bad = |field: &str| Some(field.to_owned());
    assert_eq!(check(&|_| {}), None);
    assert_eq!(check(&|of| of.queue_expiry = Some(MAX_DURATION_MS)), None);
    assert_eq!(check(&|of| of.queue_expiry = Some(MAX_DURATION_MS + 1)), bad("queue_expiry"));
    assert_eq!(check(&|of| of.queue_expiry = Some(0)), bad("queue_expiry"));
    assert_eq!(check(&|of| of.progress_timeout = Some(MAX_DURATION_MS)), None);
    assert_eq!(check(&|of| of.progress_timeout = Some(MAX_DURATION_MS + 1)), bad("progress_timeout"));
    assert_eq!(check(&|of| of.progress_timeout = Some(0)), bad("progress_timeout"));
    let percent = |percent| move |of: &mut Timing| of.jitter = Some(Jitter { percent, seed: 1 });
    assert_eq!((check(&percent(1)), check(&percent(MAX_JITTER_PERCENT))), (None, None));
    assert_eq!(check(&percent(MAX_JITTER_PERCENT + 1)), bad("retry.jitter_percent"));
    assert_eq!(check(&percent(0)), bad("retry.jitter_percent"));
    let many =
        |count| move |of: &mut Timing| of.non_retryable = vec![time_samples::timing().non_retryable[0].clone(); count];
    assert_eq!(check(&many(MAX_NON_RETRYABLE)), None);
    assert_eq!(check(&many(MAX_NON_RETRYABLE + 1)), bad("retry.non_retryable"));
    assert_eq!(check(&|of| of.non_retryable = vec![named("x".repeat(MAX_FAILURE_NAME_BYTES))]), None);
    for wrong in [
        named("x".repeat(MAX_FAILURE_NAME_BYTES + 1)),
        named(String::new()),
        FailureMatch::default(),
        FailureMatch { code: Some(1), ..FailureMatch::default() },
        FailureMatch { code: Some(1), ..named("x".to_owned()) },
    ] {
        let is_code_of_a_name = wrong.name.is_some() && wrong.code.is_some();
        let found = check(&|of| of.non_retryable = vec![wrong.clone()]);
        assert_eq!(found.is_none(), is_code_of_a_name, "{wrong:?}");
    }
    let long = failed(FailureKind::Exit, None, &"é".repeat(MAX_FAILURE_NAME_BYTES)).within_limits();
    assert!(matches!(long, Outcome::Failed(failure) if failure.name.len() == MAX_FAILURE_NAME_BYTES));
}

#[test]
fn rules_and_what_came_of_them_are_in_snapshots() {
    let mut trial = Trial::newest();
    trial.submit(with(1, time_samples::timing()));
    let restored = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    assert_eq!((restored.audit(), restored.encode()), (Ok(()), trial.fleet.encode()));
    let mut effects = Vec::new();
    let (mut restored, mut later) = (restored, trial.stamp());
    later.fleet += 30_000;
    restored.apply(later, Command::Control(ControlCommand::Tick), &mut effects);
    let kind = restored.task(TaskId(1)).and_then(|task| Some(task.failure.as_ref()?.kind));
    assert_eq!(kind, Some(FailureKind::Expired));
}
