//! Idempotency keys of tasks that are forgotten.

use bytes::Bytes;
use robeing_fleet::{
    Command, ControlCommand, Feature, Fleet, FleetConfig, Refusal, Reply, Stamp, SubmitTask, TaskCommand, TaskId,
    TaskState, known_version,
    limits::{DEFAULT_KEY_WINDOW_MS, MAX_DURATION_MS, MAX_KEPT_KEY_BYTES, MAX_KEY_BYTES, SPENT_KEY_OVERHEAD},
};

use crate::fixture::{Trial, success, task, worker};

/// Returns a task with a key that is forgotten 50 ms after its end.
fn keyed(n: u128) -> SubmitTask {
    SubmitTask { idempotency_key: Some("order-7".to_owned()), result_ttl: Some(50), ..task(n) }
}

fn submit(trial: &mut Trial, task: SubmitTask) -> Reply {
    trial.apply(Command::Task(TaskCommand::Submit(task)))
}

/// Submits a task and lets it end, be it forgotten then or not.
fn done(trial: &mut Trial, task: SubmitTask) -> TaskId {
    let id = trial.submit(task);
    trial.cancel(id);
    id
}

#[test]
fn a_key_stands_for_its_first_task_within_its_window_also_when_that_is_forgotten() {
    let mut trial = Trial::newest();
    let stay = trial.join(worker("a"));
    let id = trial.submit(keyed(1));
    let first = Reply::Submitted { task: id, existing: true };
    trial.complete(stay, id, 1, success());
    assert_eq!((trial.state(id), submit(&mut trial, keyed(2))), (TaskState::Succeeded, first.clone()));
    trial.after(50);
    assert_eq!(trial.fleet.task(id), None);
    assert_eq!(submit(&mut trial, keyed(2)), first, "it is long done");
    assert!(trial.fleet.knows(&keyed(3)) && trial.fleet.refusal_of(&keyed(3)).is_none());
    // The state machine that has read this one's snapshot knows it as well, as one of another leader does.
    trial.fleet = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    trial.after(DEFAULT_KEY_WINDOW_MS - 51);
    assert_eq!(submit(&mut trial, keyed(2)), first, "one millisecond before its window ends");
    trial.after(1);
    assert_eq!(submit(&mut trial, keyed(2)), Reply::Submitted { task: TaskId(2), existing: false });
}

#[test]
fn a_key_with_another_kind_or_input_is_refused_with_the_task_that_has_it() {
    let mut trial = Trial::newest();
    let first = done(&mut trial, keyed(1));
    trial.after(50);
    let conflict = Reply::Refused(Refusal::Conflict { what: "the idempotency key".to_owned(), task: first });
    for other in [
        SubmitTask { input: Bytes::from_static(b"1 3"), ..keyed(2) },
        SubmitTask { input: Bytes::new(), ..keyed(2) },
        SubmitTask { kind: "product".to_owned(), ..keyed(2) },
        // The same bytes, divided otherwise.
        SubmitTask { kind: "su".to_owned(), input: Bytes::from_static(b"m1 2"), ..keyed(2) },
    ] {
        assert_eq!(submit(&mut trial, other), conflict);
    }
}

#[test]
fn a_task_that_is_kept_for_longer_keeps_its_key_for_as_long() {
    let config = FleetConfig { idempotency_window: 1_000, ..FleetConfig::default() };
    let mut trial = Trial::newest();
    trial.apply(Command::Control(ControlCommand::Configure(config)));
    let first = done(&mut trial, SubmitTask { result_ttl: Some(2_000), ..keyed(1) });
    trial.after(1_999);
    assert_eq!(trial.submit(keyed(2)), first);
    trial.after(1);
    assert_eq!(trial.submit(keyed(2)), TaskId(2), "its window is over, too");
}

#[test]
fn the_window_is_set_within_bounds_and_only_where_every_coordinator_knows_it() {
    let of = |idempotency_window| FleetConfig { idempotency_window, ..FleetConfig::default() };
    assert_eq!((of(0).key_window(), of(7).key_window()), (DEFAULT_KEY_WINDOW_MS, 7));
    assert!(of(MAX_DURATION_MS).check().is_ok() && of(MAX_DURATION_MS + 1).check().is_err());
    let mut trial = Trial::new();
    let configure = |trial: &mut Trial, window| trial.apply(Command::Control(ControlCommand::Configure(of(window))));
    let refused = configure(&mut trial, 7);
    assert!(
        matches!(refused, Reply::Refused(Refusal::NotInForce { since, .. }) if since == Feature::KeyWindow.since())
    );
    assert_eq!(configure(&mut trial, 0), Reply::Done);
    // Without it, a key is forgotten with its task.
    done(&mut trial, keyed(1));
    trial.after(50);
    assert_eq!(trial.submit(keyed(2)), TaskId(2));
    trial.apply(Command::Control(ControlCommand::RaiseVersion(known_version())));
    assert_eq!(configure(&mut trial, 7), Reply::Done);
}

#[test]
fn a_key_whose_window_is_over_can_be_used_again_and_again() {
    let mut trial = Trial::newest();
    trial.apply(Command::Control(ControlCommand::Configure(FleetConfig {
        idempotency_window: 100,
        ..FleetConfig::default()
    })));
    for n in 1..10 {
        assert_eq!(done(&mut trial, keyed(n)), TaskId(n));
        trial.after(50);
        assert_eq!(trial.submit(keyed(100 + n)), TaskId(n));
        trial.after(50);
    }
}

#[test]
fn so_many_keys_are_kept_and_then_submissions_with_keys_are_refused_until_windows_end() {
    let mut fleet = Trial::newest().fleet;
    let (mut now, mut effects) = (fleet.now(), Vec::new());
    let began = now.fleet;
    let of_one = MAX_KEY_BYTES as u64 + SPENT_KEY_OVERHEAD;
    let most = MAX_KEPT_KEY_BYTES / 2;
    let long = |n: u64| SubmitTask {
        idempotency_key: Some(format!("{n:0width$}", width = MAX_KEY_BYTES)),
        result_ttl: Some(0),
        ..task(u128::from(n) + 1)
    };
    let mut accepted = 0;
    let refused = loop {
        let submission = long(accepted);
        let id = submission.id;
        match fleet.apply(now, Command::Task(TaskCommand::Submit(submission)), &mut effects) {
            Reply::Submitted { .. } => accepted += 1,
            Reply::Refused(refusal) => break refusal,
            other => panic!("{other:?}"),
        }
        let cancel = TaskCommand::Cancel { task: id, reason: String::new() };
        fleet.apply(now, Command::Task(cancel), &mut effects);
        now.fleet += 1;
        effects.clear();
    };
    // The last one is forgotten with the command after it.
    assert_eq!(accepted, most.div_ceil(of_one));
    assert!(matches!(refused, Refusal::Full { limit, .. } if limit == most), "{refused}");
    fleet.audit().expect("the invariants hold");
    assert_eq!(
        submit_at(&mut fleet, now, long(7)),
        Reply::Submitted { task: TaskId(8), existing: true },
        "one that is known needs no room"
    );
    let new = |reply: Reply| matches!(reply, Reply::Submitted { existing: false, .. });
    assert!(new(submit_at(&mut fleet, now, task(u128::MAX))), "nor does one without a key");
    // No task with a key is left, at whose end keys would be dropped.
    now.fleet = began + DEFAULT_KEY_WINDOW_MS - 1;
    assert_eq!(submit_at(&mut fleet, now, long(accepted)), Reply::Refused(refused), "no window has ended");
    now.fleet += 1;
    assert_eq!(fleet.next_due(), Some(now.fleet), "the leader has time pass then");
    let mut restored = Fleet::decode(&fleet.encode()).expect("a fleet's own snapshot");
    for fleet in [&mut fleet, &mut restored] {
        fleet.apply(now, Command::Control(ControlCommand::Tick), &mut Vec::new());
        assert_eq!(fleet.refusal_of(&long(accepted)), None, "the first window has ended");
        assert_eq!(fleet.next_due(), None);
        assert!(new(submit_at(fleet, now, long(accepted))));
        fleet.audit().expect("the invariants hold");
    }
}

fn submit_at(fleet: &mut Fleet, now: Stamp, task: SubmitTask) -> Reply {
    fleet.apply(now, Command::Task(TaskCommand::Submit(task)), &mut Vec::new())
}
