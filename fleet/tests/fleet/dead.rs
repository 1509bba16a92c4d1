//! Dead letters: which tasks are kept as such, and how they are tried again and dropped.

use bytes::Bytes;
use robeing_fleet::{
    AgentJoin, AuditOutcome, Command, Completion, ControlCommand, DropDead, FailureKind, Fleet, FleetConfig, HeldState,
    Outcome, Refusal, Reply, RetryDead, SubmitTask, Task, TaskCommand, TaskId, TaskState, TeamId, Timing, Verify,
    known_version, limits::*,
};

use crate::{
    fixture::{
        OpenSession, Trial, answered, failure, retry, specialist, success, task, team, to_approve, to_compare,
        to_verify, worker,
    },
    life::Before,
};

/// Returns a dead letter as it is when it is tried again, before anything becomes of it.
pub fn revived(was: &Task) -> Task {
    let mut task = Task { state: TaskState::Queued, attempts_used: 0, hand_backs: 0, not_before: None, ..was.clone() };
    if let Some(timing) = &mut task.timing {
        timing.queue_until = None;
    }
    task
}

/// Checks what may become of a task that has ended: nothing, but that a dead letter is tried again or is one no more.
pub fn check_final(before: &Task, after: &Task, now: u64) {
    if before == after {
        return;
    }
    assert!(before.dead, "a finished task changed: {before:?} to {after:?}");
    if before.epoch() == after.epoch() {
        let (dead, expires_at, revision) = (true, before.expires_at, before.revision);
        assert!(!after.dead && after.expires_at <= expires_at && after.expires_at > Some(now), "{after:?}");
        assert_eq!(Task { dead, expires_at, revision, ..after.clone() }, *before, "it is only no dead letter any more");
        return;
    }
    assert_eq!(after.epoch(), before.epoch() + 1, "each time it is tried again has an epoch of its own");
    assert!(!after.dead && !after.state.is_final() && after.failure.is_none() && after.finished_at.is_none());
    assert_eq!(after.revival.as_ref().map(|revival| revival.at.fleet), Some(now));
    assert_eq!((&after.kind, &after.input, after.seq), (&before.kind, &before.input, before.seq));
    assert!(after.attempt >= before.attempt, "fencing numbers go on");
    let began = before.revival.as_ref().map_or(before.submitted_at, |revival| revival.at).fleet;
    assert_eq!(after.deadline, before.deadline.map(|at| now + (at - began)), "it has as long as before");
    let expiry = after.timing.as_ref().and_then(|timing| timing.asked.queue_expiry);
    let has_begun = after.current().is_some();
    assert_eq!(after.queue_until(), expiry.filter(|_| !has_begun).map(|most| now + most));
}

/// Returns a dead letter, or any other task if there is none.
pub fn pick(fleet: &Fleet, n: u16) -> TaskId {
    let (dead, _) = fleet.dead_letters(None, None, MAX_PAGE);
    dead.get(usize::from(n) % dead.len().max(1)).map_or(TaskId(u128::from(n) % 40), |task| task.id)
}

fn weight(task: &Task) -> u64 {
    task.stored_bytes().max(LEAST_DEAD_LETTER_BYTES)
}

/// Checks that exactly those tasks are dead letters that should be and have room, and what the commands for them do.
pub fn check(fleet: &Fleet, before: &Before, (command, reply): (&Command, &Reply)) {
    let tasks: Vec<&Task> = fleet.changed_tasks_since(0).map(AsRef::as_ref).collect();
    let mut dead: Vec<&Task> = tasks.iter().copied().filter(|task| task.dead).collect();
    dead.sort_by_key(|task| (task.finished_at.map(|at| at.fleet), task.seq));
    let (listed, next) = fleet.dead_letters(None, None, MAX_PAGE);
    assert!(next.is_none() && listed.iter().map(|task| task.seq).eq(dead.iter().map(|task| task.seq)), "{listed:?}");
    let (most, most_bytes) = fleet.config().dead_letter_room();
    let bytes: u64 = dead.iter().map(|task| weight(task)).sum();
    for task in tasks {
        let was = before.tasks.get(&task.seq);
        let has_ended_now = task.state.is_final() && was.is_none_or(|was| !was.state.is_final());
        if has_ended_now && should_be_dead(fleet, task) && !task.dead {
            let is_full = dead.len() + 1 > most || bytes + weight(task) > most_bytes;
            assert!(is_full, "it is no dead letter although there is room: {task:?}");
        }
        assert!(!task.dead || should_be_dead(fleet, task), "{task:?}");
    }
    let found = |id: TaskId| before.tasks.values().find(|task| task.id == id);
    match (command, reply) {
        (Command::Task(TaskCommand::RetryDead(retry)), Reply::DeadRetried { epoch, existing }) => {
            let (was, now) = (found(retry.task).expect("it was known"), fleet.task(retry.task).expect("it is kept"));
            assert_eq!(*epoch, now.epoch());
            assert_eq!(now.epoch(), was.epoch() + u32::from(!existing));
            assert!(*existing || was.dead && retry.epoch.is_none_or(|epoch| epoch == was.epoch()), "{was:?}");
            assert!(*existing || told(fleet, "dead.retry", now.id), "it is recorded");
        }
        (Command::Task(TaskCommand::DropDead(dropped)), Reply::DeadDropped { existing }) => {
            let was = found(dropped.task).expect("it was known");
            assert!(was.dead != *existing && was.state.is_final());
            assert!(fleet.task(dropped.task).is_some_and(|task| !task.dead));
            assert!(*existing || told(fleet, "dead.drop", dropped.task), "it is recorded");
        }
        (Command::Task(TaskCommand::RetryDead(RetryDead { task, .. })), Reply::Refused(refusal))
        | (Command::Task(TaskCommand::DropDead(DropDead { task, .. })), Reply::Refused(refusal)) => {
            let (was, now) = (found(*task), fleet.task(*task));
            // The command before may have let go of it.
            let is_due = was.is_some_and(|was| was.expires_at.is_some_and(|at| at <= fleet.now().fleet));
            let is_same = was == now.map(AsRef::as_ref) || is_due && now.is_none();
            assert!(is_same, "refused with {refusal} and changed");
        }
        _ => {}
    }
}

fn should_be_dead(fleet: &Fleet, task: &Task) -> bool {
    let kind = task.failure.as_ref().map(|failure| failure.kind);
    let failed = matches!(task.state, TaskState::Failed | TaskState::DeadLettered);
    let hopeless = matches!(kind, Some(FailureKind::Deadline | FailureKind::Expired | FailureKind::NotApproved));
    fleet.version() >= 4 && failed && !hopeless && task.member_of.is_none() && task.links.is_none()
}

/// Returns whether the newest record of the audit log is of this action on a task.
fn told(fleet: &Fleet, action: &str, task: TaskId) -> bool {
    let newest = fleet.audit_records(fleet.audit_last().saturating_sub(1), 1).next();
    let is_it = |subject: &str, at: u64| subject == task.to_string() && at == fleet.now().fleet;
    newest.is_some_and(|record| record.action == action && is_it(&record.subject, record.at.fleet))
}

fn try_again(trial: &mut Trial, id: TaskId, epoch: Option<u32>) -> Reply {
    let by = "client:ann".to_owned();
    trial.apply(Command::Task(TaskCommand::RetryDead(RetryDead { task: id, epoch, seed: 7, by })))
}

fn drop_it(trial: &mut Trial, id: TaskId, epoch: Option<u32>) -> Reply {
    trial.apply(Command::Task(TaskCommand::DropDead(DropDead { task: id, epoch, by: "client:bob".to_owned() })))
}

fn retried(epoch: u32, existing: bool) -> Reply {
    Reply::DeadRetried { epoch, existing }
}

/// Has a task fail for good at this agent.
fn die(trial: &mut Trial, stay: OpenSession, submission: SubmitTask) -> TaskId {
    let id = trial.submit(submission);
    let attempt = trial.task(id).attempt;
    trial.complete(stay, id, attempt, failure(false));
    id
}

fn ids(trial: &Trial) -> Vec<TaskId> {
    trial.fleet.dead_letters(None, None, MAX_PAGE).0.into_iter().map(|task| task.id).collect()
}

#[test]
fn a_task_that_has_used_up_its_attempts_or_is_not_tried_again_is_a_dead_letter_and_kept_for_a_week() {
    let mut trial = Trial::newest();
    let stay = trial.join(worker("a"));
    let used_up = trial.submit(SubmitTask { retry: retry(1), ..task(1) });
    trial.complete(stay, used_up, 1, failure(true));
    let not_again = die(&mut trial, stay, task(2));
    let lost = trial.submit(SubmitTask { retry: retry(1), result_ttl: Some(DEAD_LETTER_TTL_MS + 1), ..task(3) });
    trial.lose(stay);
    assert_eq!(ids(&trial), [used_up, not_again, lost]);
    assert_eq!(trial.fleet.dead_letter_count(), 3);
    trial.after(DEAD_LETTER_TTL_MS - 1);
    assert_eq!(ids(&trial), [used_up, not_again, lost]);
    trial.after(1);
    assert_eq!(ids(&trial), [lost], "its result is kept for longer");
    trial.after(1);
    assert!(ids(&trial).is_empty() && trial.fleet.task(lost).is_none());
}

#[test]
fn a_task_whose_time_is_over_or_that_nobody_approved_or_that_was_cancelled_is_none() {
    let mut trial = Trial::newest();
    let timing = Some(Box::new(Timing { queue_expiry: Some(10), ..Timing::default() }));
    for submission in
        [SubmitTask { deadline_in: Some(10), ..task(1) }, SubmitTask { timing, ..task(2) }, to_approve(3), task(4)]
    {
        trial.submit(submission);
    }
    trial.cancel(TaskId(4));
    trial.after(60_000);
    assert_eq!(trial.fleet.counts().failed, 3);
    assert_eq!(ids(&trial), []);
    let refused = Reply::Refused(Refusal::NotDead { task: TaskId(1), state: TaskState::Failed });
    assert_eq!(try_again(&mut trial, TaskId(1), None), refused);
    assert_eq!(try_again(&mut trial, TaskId(9), None), Reply::Refused(Refusal::UnknownTask { task: TaskId(9) }));
}

#[test]
fn before_its_version_there_are_none() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = die(&mut trial, stay, SubmitTask { result_ttl: Some(5), ..task(1) });
    assert_eq!(ids(&trial), []);
    assert!(matches!(try_again(&mut trial, id, None), Reply::Refused(Refusal::NotInForce { since: 4, .. })));
    trial.after(5);
    assert!(trial.fleet.task(id).is_none());
}

#[test]
fn a_dead_letter_is_tried_again_as_the_same_task_with_fresh_attempts_and_as_much_time() {
    let mut trial = Trial::newest();
    let stay = trial.join(worker("a"));
    let keyed =
        SubmitTask { retry: retry(2), deadline_in: Some(60_000), idempotency_key: Some("once".to_owned()), ..task(1) };
    let id = die(&mut trial, stay, keyed.clone());
    trial.after(50_000);
    assert_eq!(try_again(&mut trial, id, Some(0)), retried(1, false));
    assert_eq!(trial.assigned(), [(id, 2)], "fencing numbers go on");
    let again = trial.task(id);
    assert_eq!((again.state, again.epoch(), again.attempts_used), (TaskState::Assigned, 1, 1));
    assert_eq!(again.deadline, Some(trial.now + 60_000));
    assert_eq!((again.failure.as_ref(), again.finished_at, again.expires_at), (None, None, None));
    assert_eq!(again.attempts.len(), 2, "what it died of can still be read");
    let told = trial.fleet.audit_records(0, MAX_PAGE).last().expect("it is recorded").clone();
    assert_eq!((&*told.actor, &*told.action, told.outcome), ("client:ann", "dead.retry", AuditOutcome::Done));
    assert_eq!((told.subject.clone(), told.detail.contains("exit code 1")), (id.to_string(), true), "{told:?}");
    assert_eq!(
        trial.apply(Command::Task(TaskCommand::Submit(SubmitTask { id: TaskId(2), ..keyed }))),
        Reply::Submitted { task: id, existing: true },
        "its key still finds it"
    );
    // What the first epoch's agent still says is refused.
    assert!(matches!(trial.complete(stay, id, 1, success()), Reply::Stale(_)));
    trial.complete(stay, id, 2, success());
    assert_eq!((trial.state(id), ids(&trial)), (TaskState::Succeeded, Vec::new()));
    assert_eq!(trial.task(id).expires_at, Some(trial.now + DEFAULT_RESULT_TTL_MS), "as any result");
}

#[test]
fn a_command_to_try_again_has_one_effect_however_often_it_is_sent() {
    let mut trial = Trial::newest();
    let stay = trial.join(worker("a"));
    let id = die(&mut trial, stay, task(1));
    assert_eq!(try_again(&mut trial, id, Some(0)), retried(1, false));
    let records = trial.fleet.audit_last();
    for epoch in [Some(0), None] {
        assert_eq!(try_again(&mut trial, id, epoch), retried(1, true));
    }
    trial.complete(stay, id, 2, failure(false));
    assert_eq!(try_again(&mut trial, id, Some(0)), retried(1, true), "it has died again since");
    assert_eq!((trial.fleet.audit_last(), ids(&trial)), (records, vec![id]));
    assert_eq!(try_again(&mut trial, id, Some(1)), retried(2, false));
    let refused = try_again(&mut trial, id, Some(3));
    assert!(matches!(&refused, Reply::Refused(Refusal::Invalid { field, .. }) if field == "epoch"), "{refused:?}");
    trial.complete(stay, id, 3, success());
    let not_dead = Reply::Refused(Refusal::NotDead { task: id, state: TaskState::Succeeded });
    assert_eq!(try_again(&mut trial, id, None), not_dead);
    assert_eq!(try_again(&mut trial, id, Some(1)), retried(2, true));
}

#[test]
fn a_dropped_dead_letter_is_forgotten_as_other_results_are_but_not_within_a_minute() {
    let mut trial = Trial::newest();
    let stay = trial.join(worker("a"));
    let (fresh, old) = (die(&mut trial, stay, task(1)), SubmitTask { result_ttl: Some(5), ..task(2) });
    let old = die(&mut trial, stay, old);
    trial.after(1_000);
    for id in [fresh, old] {
        assert_eq!(drop_it(&mut trial, id, Some(0)), Reply::DeadDropped { existing: false });
        assert_eq!(drop_it(&mut trial, id, Some(0)), Reply::DeadDropped { existing: true });
        let not_dead = Reply::Refused(Refusal::NotDead { task: id, state: TaskState::Failed });
        assert_eq!(try_again(&mut trial, id, Some(0)), not_dead);
    }
    let told = trial.fleet.audit_records(0, MAX_PAGE).last().expect("it is recorded").clone();
    assert_eq!((&*told.actor, &*told.action, told.subject.clone()), ("client:bob", "dead.drop", old.to_string()));
    trial.after(DROPPED_TTL_MS - 1);
    assert_eq!(trial.state(old), TaskState::Failed);
    trial.after(1);
    assert!(trial.fleet.task(old).is_none());
    trial.after(DEFAULT_RESULT_TTL_MS - DROPPED_TTL_MS - 1_001);
    assert_eq!(trial.state(fresh), TaskState::Failed);
    trial.after(1);
    assert!(trial.fleet.task(fresh).is_none());
    assert_eq!(drop_it(&mut trial, fresh, None), Reply::Refused(Refusal::UnknownTask { task: fresh }));
}

#[test]
fn what_was_tried_again_is_not_dropped_by_a_command_about_the_epoch_before() {
    let mut trial = Trial::newest();
    let stay = trial.join(worker("a"));
    let id = die(&mut trial, stay, task(1));
    try_again(&mut trial, id, Some(0));
    trial.complete(stay, id, 2, failure(false));
    let refused = Reply::Refused(Refusal::NotDead { task: id, state: TaskState::Failed });
    assert_eq!(drop_it(&mut trial, id, Some(0)), refused);
    assert_eq!(ids(&trial), [id]);
    assert_eq!(drop_it(&mut trial, id, None), Reply::DeadDropped { existing: false });
}

/// A fleet of the newest version in which so many tasks and bytes are kept.
fn with_room(max_tasks: u32, max_bytes: u64) -> (Trial, OpenSession) {
    let mut trial = Trial::with(FleetConfig { max_tasks, max_bytes, ..FleetConfig::default() });
    trial.apply(Command::Control(ControlCommand::RaiseVersion(known_version())));
    let stay = trial.join(worker("a"));
    (trial, stay)
}

#[test]
fn the_first_ones_make_room_for_more_and_are_then_kept_as_other_results_are() {
    let (mut trial, stay) = with_room(4 * PLACES_PER_DEAD_LETTER as u32 - 1, DEFAULT_MAX_BYTES);
    assert_eq!(trial.fleet.config().dead_letter_room().0, 3);
    let dead: Vec<TaskId> = (1..=4).map(|n| die(&mut trial, stay, task(n))).collect();
    assert_eq!(ids(&trial), dead[1..]);
    assert_eq!((trial.state(dead[0]), trial.task(dead[0]).dead), (TaskState::Failed, false));
    trial.after(DEFAULT_RESULT_TTL_MS);
    assert!(trial.fleet.task(dead[0]).is_none());
    assert_eq!(ids(&trial), dead[1..]);
    // By bytes: each counts for 4 KiB at least, and a large one for what it is.
    let (mut trial, stay) = with_room(1_000, PLACES_PER_DEAD_LETTER as u64 * 5 * LEAST_DEAD_LETTER_BYTES);
    let small: Vec<TaskId> = (1..=5).map(|n| die(&mut trial, stay, task(n))).collect();
    assert_eq!(ids(&trial), small);
    let input = Bytes::from(vec![0; 2 * LEAST_DEAD_LETTER_BYTES as usize]);
    let large = die(&mut trial, stay, SubmitTask { input, ..task(6) });
    assert_eq!(ids(&trial), [small[3], small[4], large]);
    let (mut trial, stay) = with_room(PLACES_PER_DEAD_LETTER as u32 - 1, DEFAULT_MAX_BYTES);
    die(&mut trial, stay, task(1));
    assert_eq!(ids(&trial), [], "there is room for none");
}

#[test]
fn there_are_no_more_than_the_most() {
    let config = FleetConfig { max_queued: u32::MAX, ..FleetConfig::default() };
    assert_eq!(config.dead_letter_room().0, MAX_DEAD_LETTERS);
    let mut trial = Trial::with(config);
    trial.apply(Command::Control(ControlCommand::RaiseVersion(known_version())));
    let OpenSession { agent, session } = trial.join(worker("a"));
    // Without an audit after each command, which takes as long as there are tasks.
    let apply = |trial: &mut Trial, command: TaskCommand| {
        trial.fleet.apply(trial.stamp(), Command::Task(command), &mut Vec::new());
    };
    for n in 1..=MAX_DEAD_LETTERS as u128 + 1 {
        apply(&mut trial, TaskCommand::Submit(task(n)));
        let (task, outcome) = (TaskId(n), failure(false));
        let ended = Completion { agent, session, task, attempt: 1, ran_us: 1, outcome };
        apply(&mut trial, TaskCommand::Complete(ended));
    }
    assert_eq!(trial.fleet.dead_letter_count(), MAX_DEAD_LETTERS);
    assert!(!trial.task(TaskId(1)).dead && trial.task(TaskId(2)).dead);
    assert_eq!(trial.fleet.audit(), Ok(()));
}

#[test]
fn a_dead_letter_is_not_tried_again_without_a_place_for_it_or_a_team_that_may_run_it() {
    let mut trial = Trial::with(FleetConfig { max_queued: 1, ..FleetConfig::default() });
    trial.apply(Command::Control(ControlCommand::RaiseVersion(known_version())));
    let stay = trial.join(worker("a"));
    let id = die(&mut trial, stay, task(1));
    let other = trial.submit(task(2));
    let before = trial.task(id).clone();
    assert_eq!(try_again(&mut trial, id, None), Reply::Refused(Refusal::QueueFull { limit: 1 }));
    assert_eq!(trial.task(id), &before);
    trial.complete(stay, other, 1, success());
    assert_eq!(try_again(&mut trial, id, None), retried(1, false));
    let mut trial = Trial::newest();
    let stay = trial.join(worker("a"));
    trial.form(team(5, 1));
    let of_team = SubmitTask { team: Some(TeamId(5)), ..task(1) };
    let id = die(&mut trial, stay, of_team);
    trial.disband(5);
    let disbanded = Reply::Refused(Refusal::TeamDisbanded { team: TeamId(5) });
    assert_eq!(try_again(&mut trial, id, None), disbanded);
}

#[test]
fn agents_that_disagreed_are_asked_again() {
    let mut trial = Trial::newest();
    let stays = ["a", "b", "c"].map(|name| trial.join(worker(name)));
    let id = trial.submit(to_verify(1));
    let answer = |trial: &mut Trial, outputs: [&'static str; 3]| {
        for (stay, output) in stays.iter().zip(outputs) {
            let (member, attempt) = trial.held_by(*stay);
            trial.complete(*stay, member, attempt, answered(output));
        }
    };
    answer(&mut trial, ["x", "y", "z"]);
    assert_eq!(ids(&trial), [id]);
    assert_eq!(try_again(&mut trial, id, Some(0)), retried(1, false));
    assert_eq!((trial.assigned().len(), trial.task(id).attempts.len()), (3, 0), "each has another turn");
    let (first, attempt) = trial.held_by(stays[0]);
    trial.complete(stays[0], first, attempt, answered("x"));
    let (second, attempt) = trial.held_by(stays[1]);
    trial.complete(stays[1], second, attempt, answered("x"));
    assert_eq!(trial.state(id), TaskState::Succeeded);
}

#[test]
fn outputs_that_could_not_be_compared_are_compared_again_and_what_still_stops_is_waited_for() {
    let mut trial = Trial::newest();
    let stays = ["a", "b", "c"].map(|name| trial.join(worker(name)));
    let judge = trial.join(specialist("judge", "near"));
    let compared = |trial: &mut Trial, outcome: Outcome| {
        for (stay, output) in stays.into_iter().zip(["x", "y"]) {
            let (member, attempt) = trial.held_by(stay);
            trial.complete(stay, member, attempt, answered(output));
        }
        let (comparison, attempt) = trial.held_by(judge);
        trial.complete(judge, comparison, attempt, outcome);
    };
    let id = trial.submit(SubmitTask { retry: retry(1), ..to_compare(1) });
    compared(&mut trial, failure(false));
    assert_eq!(ids(&trial), [id]);
    assert_eq!(try_again(&mut trial, id, Some(0)), retried(1, false));
    let found = |trial: &Trial| {
        let verification = trial.task(id).verification.as_ref().expect("it is verified");
        (verification.comparisons.len(), verification.comparing, verification.stopping.len())
    };
    assert_eq!(found(&trial), (0, None, 1));
    assert_eq!(trial.remains_of(id).agents.len(), 3, "two run it, and one still stops its first run");
    compared(&mut trial, Outcome::Succeeded(Bytes::from_static(b"true")));
    assert_eq!((trial.state(id), found(&trial)), (TaskState::Succeeded, (1, None, 1)));
    let (stopping, held) = (stays[2], trial.fleet.held(stays[2].agent).next().expect("it has not stopped"));
    assert!(trial.remains_of(id).agents.iter().all(|agent| &**agent == "c"));
    assert!(!trial.remains_of(id).is_nothing());
    trial.complete(stopping, held.task, held.attempt, Outcome::Stopped);
    assert!(trial.remains_of(id).is_nothing());
}

#[test]
fn runs_of_earlier_epochs_that_still_stop_are_remembered_up_to_the_most() {
    let mut trial = Trial::newest();
    let quick = trial.join(worker("quick"));
    let slow = trial.join(AgentJoin { slots: 2 * MAX_STOPPING_PARTS as u32, ..worker("slow") });
    let verify = Some(Box::new(Verify { agents: 2, agree: 2, pointer: None, compare: None }));
    let id = trial.submit(SubmitTask { verify, retry: retry(1), ..task(1) });
    let fail = |trial: &mut Trial| {
        let (member, attempt) = trial.held_by(quick);
        trial.complete(quick, member, attempt, failure(false));
        trial.task(id).verification.as_ref().map_or(0, |of| of.stopping.len())
    };
    for died in 1..=MAX_STOPPING_PARTS + 1 {
        assert_eq!(fail(&mut trial), died.min(MAX_STOPPING_PARTS));
        assert_eq!(try_again(&mut trial, id, None), retried(died as u32, false));
    }
    let held: Vec<_> = trial.fleet.held(slow.agent).filter(|held| held.state == HeldState::Stopping).collect();
    for held in held {
        trial.complete(slow, held.task, held.attempt, Outcome::Stopped);
    }
    assert_eq!(fail(&mut trial), 1, "those that have stopped are forgotten");
}

#[test]
fn a_listing_goes_on_from_its_cursor_and_is_of_one_kind_if_one_is_named() {
    let mut trial = Trial::newest();
    let stay = trial.join(worker("a"));
    let dead: Vec<TaskId> = (1..=5)
        .map(|n| {
            let kind = if n % 2 == 0 { "even" } else { "odd" };
            let id = die(&mut trial, stay, SubmitTask { kind: kind.to_owned(), ..task(10 - n) });
            trial.after(1);
            id
        })
        .collect();
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let (page, next) = trial.fleet.dead_letters(None, after, 2);
        assert!(page.len() <= 2);
        seen.extend(page.iter().map(|task| task.id));
        after = match next {
            Some(next) => Some(next),
            None => break,
        };
    }
    assert_eq!(seen, dead, "in the order in which they died");
    let even: Vec<TaskId> = trial.fleet.dead_letters(Some("even"), None, 9).0.iter().map(|task| task.id).collect();
    assert_eq!(even, [dead[1], dead[3]]);
}

#[test]
fn dead_letters_and_their_epochs_are_in_snapshots() {
    let mut trial = Trial::newest();
    let stay = trial.join(worker("a"));
    let id = die(&mut trial, stay, task(1));
    try_again(&mut trial, id, None);
    trial.complete(stay, id, 2, Outcome::HandedBack);
    let attempt = trial.task(id).attempt;
    trial.complete(stay, id, attempt, failure(false));
    let restored = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    assert_eq!((restored.audit(), restored.dead_letter_count()), (Ok(()), 1));
    assert_eq!(restored.task(id).map(|task| task.epoch()), Some(1));
    assert_eq!(restored.encode(), trial.fleet.encode());
}
