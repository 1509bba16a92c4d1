//! Tasks that wait for the approval of a ballot.

use bytes::Bytes;
use robeing_fleet::{
    BallotCommand, BallotId, BallotOutcome, Choice, Command, ControlCommand, Effect, Elector, FailureKind, Fleet,
    FleetConfig, LetterId, OpenBallot, Refusal, Reply, SubmitTask, TaskCommand, TaskId, TaskState, Waiting,
    known_version, limits::*,
};

use crate::{
    fixture::{Trial, ballot, elector, letter, success, task, to_approve, vote, worker},
    life::Before,
};

/// Checks that what became of each task that needs an approval follows from its ballot.
pub fn check(fleet: &Fleet, before: &Before) {
    for task in fleet.changed_tasks_since(0) {
        let Some(approval) = task.approval else { continue };
        assert_eq!(approval.ballot, BallotId(task.id.0), "{task:?}");
        let was = before.tasks.get(&task.seq);
        assert!(was.is_none_or(|was| was.approval.is_some_and(|was| !was.approved || approval.approved)), "{task:?}");
        // A closed ballot may be forgotten.
        let outcome = fleet.ballot(approval.ballot).map(|ballot| ballot.outcome());
        let not_approved = task.failure.as_ref().is_some_and(|failure| failure.kind == FailureKind::NotApproved);
        match outcome {
            Some(None) => assert!(!approval.approved && !not_approved && task.attempts.is_empty(), "{task:?}"),
            Some(Some(BallotOutcome::Approved { .. })) => {
                assert!(approval.approved || task.state.is_final(), "{task:?}")
            }
            Some(Some(_)) => assert!(!approval.approved && task.state.is_final(), "{task:?}"),
            None => assert!(approval.approved || task.state.is_final(), "{task:?}"),
        }
    }
}

fn submit(trial: &mut Trial, task: SubmitTask) -> Reply {
    trial.apply(Command::Task(TaskCommand::Submit(task)))
}

fn accepted(n: u128, existing: bool) -> Reply {
    Reply::Submitted { task: TaskId(n), existing }
}

/// Returns a task that a ballot of one client must approve.
fn lone(n: u128) -> SubmitTask {
    let electorate = vec![Elector { letter: None, ..elector("client:c", 0) }];
    SubmitTask { approval: Some(Box::new(OpenBallot { electorate, ..ballot(n) })), ..task(n) }
}

#[test]
fn a_task_waits_for_its_ballot_which_is_opened_with_it_and_starts_when_it_is_approved() {
    let mut trial = Trial::newest();
    let stay = trial.join(worker("w"));
    assert_eq!(submit(&mut trial, to_approve(7)), accepted(7, false));
    let [a, b] = [("a", 701), ("b", 702)].map(|(agent, id)| Effect::Mail { receiver: agent.into(), id: LetterId(id) });
    assert_eq!(trial.effects, [Effect::BallotOpened { id: BallotId(7) }, a, b]);
    assert_eq!((trial.state(TaskId(7)), trial.holder(TaskId(7))), (TaskState::Queued, None));
    let waits = format!("approval by ballot {}", BallotId(7));
    assert_eq!(trial.fleet.waiting_for(TaskId(7), trial.now), Some(waits));
    assert!(Waiting::of(trial.task(TaskId(7))).is_some_and(|waiting| !waiting.needs_agents()));
    // A free agent takes what is ready instead.
    let other = trial.submit(task(8));
    assert_eq!(trial.holder(other), Some(stay.agent));
    trial.complete(stay, other, 1, success());
    trial.cast(vote(7, "a", Choice::Approve));
    assert_eq!(trial.holder(TaskId(7)), None, "one of three is not enough");
    trial.cast(vote(7, "client:c", Choice::Approve));
    assert_eq!(trial.assigned(), [(TaskId(7), 1)]);
    assert_eq!(trial.holder(TaskId(7)), Some(stay.agent));
    trial.complete(stay, TaskId(7), 1, success());
    assert_eq!(trial.state(TaskId(7)), TaskState::Succeeded);
    // The same submission again is the same task, which needs no other ballot.
    assert_eq!(submit(&mut trial, to_approve(7)), accepted(7, true));
    assert_eq!(trial.fleet.ballot_counts().closed, 1);
}

#[test]
fn a_task_that_is_not_approved_fails_and_its_failure_names_the_ballot() {
    let mut trial = Trial::newest();
    trial.join(worker("w"));
    for n in [7, 8] {
        trial.submit(to_approve(n));
    }
    trial.cast(vote(7, "a", Choice::Reject));
    trial.cast(vote(7, "b", Choice::Abstain));
    trial.cast(vote(8, "a", Choice::Approve));
    assert_eq!(trial.state(TaskId(8)), TaskState::Queued);
    trial.after(60_000);
    for (n, how) in [(7, "was rejected"), (8, "expired before")] {
        let task = trial.task(TaskId(n));
        let failure = task.failure.as_ref().expect("it failed");
        assert_eq!((task.state, failure.kind, failure.retryable), (TaskState::Failed, FailureKind::NotApproved, false));
        assert!(failure.message.contains(&format!("ballot {} {how}", BallotId(n))), "{failure:?}");
        assert!(task.attempts.is_empty());
    }
    assert_eq!(trial.fleet.totals().failed, 2);
}

#[test]
fn a_task_that_is_cancelled_or_late_leaves_its_ballot_open_and_is_not_started_by_it() {
    let mut trial = Trial::newest();
    trial.join(worker("w"));
    trial.submit(to_approve(7));
    trial.submit(SubmitTask { deadline_in: Some(10), ..to_approve(8) });
    assert_eq!(trial.cancel(TaskId(7)), Reply::Cancelled(TaskState::Cancelled));
    trial.after(10);
    assert_eq!(trial.fleet.ballot_counts().open, 2, "the members may still say what they think");
    for n in [7, 8] {
        trial.cast(vote(n, "a", Choice::Approve));
        trial.cast(vote(n, "b", Choice::Approve));
        assert_eq!(trial.assigned(), []);
    }
    assert_eq!(trial.state(TaskId(7)), TaskState::Cancelled);
    let late = trial.task(TaskId(8)).failure.as_ref().map(|failure| failure.kind);
    assert_eq!(late, Some(FailureKind::Deadline));
}

#[test]
fn a_delay_and_an_approval_must_both_be_over() {
    let mut trial = Trial::newest();
    trial.join(worker("w"));
    trial.submit(SubmitTask { delay: Some(1_000), ..lone(7) });
    trial.cast(vote(7, "client:c", Choice::Approve));
    assert_eq!(trial.state(TaskId(7)), TaskState::Queued, "its delay is not over");
    trial.after(1_000);
    assert_eq!(trial.state(TaskId(7)), TaskState::Assigned);
    let mut trial = Trial::newest();
    trial.join(worker("w"));
    trial.submit(SubmitTask { delay: Some(1_000), ..lone(7) });
    trial.after(1_000);
    assert_eq!(trial.state(TaskId(7)), TaskState::Queued, "it is not approved");
    trial.cast(vote(7, "client:c", Choice::Approve));
    assert_eq!(trial.state(TaskId(7)), TaskState::Assigned);
}

#[test]
fn what_waits_for_an_approval_is_in_snapshots() {
    let mut trial = Trial::newest();
    let stay = trial.join(worker("w"));
    trial.submit(lone(7));
    trial.submit(lone(8));
    trial.cast(vote(8, "client:c", Choice::Approve));
    trial.complete(stay, TaskId(8), 1, success());
    let mut restored = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    assert_eq!(restored.audit(), Ok(()));
    let cast = Command::Ballot(BallotCommand::Cast(vote(7, "client:c", Choice::Approve)));
    restored.apply(trial.stamp(), cast, &mut Vec::new());
    assert!(restored.task(TaskId(7)).is_some_and(|task| task.state == TaskState::Assigned));
}

#[test]
fn a_task_is_not_approved_by_a_ballot_that_was_there_before_it() {
    let mut trial = Trial::newest();
    let taken = Reply::Refused(Refusal::BallotTaken { ballot: BallotId(7) });
    trial.open(ballot(7));
    assert_eq!(submit(&mut trial, to_approve(7)), taken, "although it has the same content");
    trial.cast(vote(7, "a", Choice::Approve));
    trial.cast(vote(7, "b", Choice::Approve));
    assert_eq!(submit(&mut trial, to_approve(7)), taken);
    assert!(trial.fleet.task(TaskId(7)).is_none());
    // And an earlier task with its id, whose result has expired, has approved nothing of it.
    trial.submit(SubmitTask { result_ttl: Some(0), ..lone(9) });
    trial.cancel(TaskId(9));
    trial.after(10);
    assert!(trial.fleet.task(TaskId(9)).is_none());
    assert_eq!(submit(&mut trial, lone(9)), Reply::Refused(Refusal::BallotTaken { ballot: BallotId(9) }));
}

#[test]
fn a_task_and_its_ballot_are_accepted_together_or_not_at_all() {
    let mut trial = Trial::newest();
    trial.post(letter(701));
    let before = trial.fleet.encode();
    let conflict = Reply::Refused(Refusal::LetterConflict { letter: LetterId(701) });
    assert_eq!(submit(&mut trial, to_approve(7)), conflict);
    let change = |change: &dyn Fn(&mut OpenBallot)| {
        let mut ballot = ballot(8);
        change(&mut ballot);
        SubmitTask { approval: Some(Box::new(ballot)), ..task(8) }
    };
    let bad = [
        change(&|ballot| ballot.id = BallotId(9)),
        change(&|ballot| ballot.options = vec!["left".to_owned(), "right".to_owned()]),
        change(&|ballot| ballot.electorate.clear()),
        change(&|ballot| ballot.notice = Bytes::from(vec![0; MAX_NOTICE_BYTES + 1])),
    ];
    for submission in bad {
        let refused = trial.fleet.refusal_of(&submission).expect("it is invalid");
        assert!(matches!(refused, Refusal::Invalid { .. }), "{refused:?}");
        assert_eq!(submit(&mut trial, submission), Reply::Refused(refused));
    }
    assert_eq!(trial.fleet.encode(), before, "nothing was changed");
    let mut full = Trial::with(FleetConfig { max_queued: 1, ..FleetConfig::default() });
    full.apply(Command::Control(ControlCommand::RaiseVersion(known_version())));
    full.submit(task(1));
    assert_eq!(submit(&mut full, lone(7)), Reply::Refused(Refusal::QueueFull { limit: 1 }));
    assert_eq!(full.fleet.ballot_counts().open, 0);
}

#[test]
fn as_many_tasks_wait_for_approvals_as_ballots_are_open() {
    let mut trial = Trial::newest();
    let by_another = |n: u128| {
        let SubmitTask { approval, .. } = lone(n);
        let opened_by = format!("client:{}", n / MAX_OPEN_BALLOTS_OF_ONE as u128);
        SubmitTask { approval: approval.map(|ballot| Box::new(OpenBallot { opened_by, ..*ballot })), ..task(n) }
    };
    for n in 0..MAX_OPEN_BALLOTS as u128 {
        let command = Command::Task(TaskCommand::Submit(by_another(n)));
        assert_eq!(trial.fleet.apply(trial.stamp(), command, &mut Vec::new()), accepted(n, false));
    }
    let next = MAX_OPEN_BALLOTS as u128;
    let full = submit(&mut trial, by_another(next));
    assert!(
        matches!(full, Reply::Refused(Refusal::Full { limit, .. }) if limit == MAX_OPEN_BALLOTS as u64),
        "{full:?}"
    );
    assert_eq!(trial.fleet.refusal_of(&by_another(0)), None, "it is known");
    trial.cast(vote(0, "client:c", Choice::Reject));
    assert_eq!(submit(&mut trial, by_another(next)), accepted(next, false));
}
