//! Policies as text: their bounds, and that a change is told once.

use robeing_fleet::{
    AuditOutcome, Command, Effect, Failure, FailureKind, Fleet, Outcome, PolicyCommand, Refusal, Reply, StoredPolicy,
    TaskState,
    limits::{MAX_NAME_BYTES, MAX_POLICIES, MAX_POLICIES_BYTES, MAX_POLICY_BYTES},
};

use crate::{
    fixture::{Trial, retry, task, worker},
    samples::policy,
};

fn of_bytes(n: usize, bytes: usize) -> StoredPolicy {
    StoredPolicy { name: format!("p{n:04}"), json: "x".repeat(bytes - 5) }
}

#[test]
fn policies_are_set_and_setting_them_again_changes_nothing() {
    let mut trial = Trial::newest();
    assert_eq!(trial.set_policies(Vec::new()), Reply::PoliciesSet { revision: 0 });
    assert_eq!((trial.fleet.policies(), trial.effects.len()), (None, 0));
    let before = trial.fleet.revision();
    let Reply::PoliciesSet { revision } = trial.set_policies(vec![policy("a"), policy("b")]) else {
        panic!("they are not set");
    };
    assert!(revision > before && revision == trial.fleet.revision());
    assert_eq!(trial.effects, [Effect::PoliciesChanged]);
    assert_eq!(trial.set_policies(vec![policy("a"), policy("b")]), Reply::PoliciesSet { revision });
    assert_eq!((trial.fleet.revision(), trial.effects.len()), (revision, 0));
    let restored = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    assert_eq!(restored.policies(), trial.fleet.policies());
    // Another order is another decision.
    assert_eq!(
        trial.set_policies(vec![policy("b"), policy("a")]),
        Reply::PoliciesSet { revision: trial.fleet.revision() }
    );
    trial.set_policies(Vec::new());
    let list = trial.fleet.policies().expect("they were set");
    assert!(list.policies.is_empty() && list.revision == trial.fleet.revision(), "{list:?}");
    let records: Vec<_> = trial.fleet.audit_records(0, 10).map(|record| (&*record.action, &*record.detail)).collect();
    assert_eq!(records, [("policies.set", "2: a, b"), ("policies.set", "2: b, a"), ("policies.set", "none")]);
}

#[test]
fn the_number_and_the_bytes_of_policies_have_limits() {
    let many = |count: usize| (0..count).map(|n| policy(&format!("p{n}"))).collect::<Vec<_>>();
    let full = |bytes: usize| {
        let whole = MAX_POLICIES_BYTES / MAX_POLICY_BYTES;
        let mut all: Vec<StoredPolicy> = (1..whole).map(|n| of_bytes(n, MAX_POLICY_BYTES)).collect();
        all.push(of_bytes(0, bytes - (whole - 1) * MAX_POLICY_BYTES));
        all
    };
    let named = |bytes: usize| vec![policy(&"n".repeat(bytes))];
    let long = |bytes: usize| vec![StoredPolicy { name: "p".to_owned(), json: "x".repeat(bytes) }];
    for (good, bad) in [
        (many(MAX_POLICIES), many(MAX_POLICIES + 1)),
        (full(MAX_POLICIES_BYTES), full(MAX_POLICIES_BYTES + 1)),
        (named(MAX_NAME_BYTES), named(MAX_NAME_BYTES + 1)),
        (named(1), named(0)),
        (long(MAX_POLICY_BYTES), long(MAX_POLICY_BYTES + 1)),
        (vec![policy("a")], vec![policy("a"), policy("a")]),
    ] {
        let mut trial = Trial::newest();
        assert!(matches!(trial.set_policies(bad), Reply::Refused(Refusal::Invalid { .. })));
        assert_eq!((trial.fleet.policies(), trial.effects.len()), (None, 0));
        let record = trial.fleet.audit_records(0, 1).next().expect("it is recorded");
        assert_eq!((record.outcome, &*record.actor), (AuditOutcome::Failed, "carol"));
        assert!(matches!(trial.set_policies(good), Reply::PoliciesSet { .. }));
        assert!(Fleet::decode(&trial.fleet.encode()).is_ok());
    }
}

#[test]
fn a_snapshot_has_the_policies_of_its_beginning() {
    let mut trial = Trial::newest();
    trial.set_policies(vec![policy("a")]);
    let expected = trial.fleet.encode();
    let mut snapshot = trial.fleet.begin_snapshot();
    trial.set_policies(vec![policy("b")]);
    while let Some(part) = snapshot.take(&trial.fleet, 1) {
        snapshot.encode(&part);
    }
    // The record of the second change is newer than the snapshot, too.
    assert_eq!(snapshot.finish().expect("all of it is taken"), expected);
}

#[test]
fn a_result_that_is_denied_is_final() {
    let mut trial = Trial::newest();
    let stay = trial.join(worker("a"));
    let id = trial.submit(robeing_fleet::SubmitTask { retry: retry(3), ..task(1) });
    let denied = Failure::of(FailureKind::Denied, "no");
    trial.complete(stay, id, 1, Outcome::Failed(denied.clone()));
    let task = trial.fleet.task(id).expect("it is kept");
    assert_eq!((task.state, task.failure.as_ref()), (TaskState::Failed, Some(&denied)));
    assert!(Fleet::decode(&trial.fleet.encode()).is_ok());
}

#[test]
fn who_sets_them_is_cut_to_the_limit_of_actors() {
    let mut trial = Trial::newest();
    trial.apply(Command::Policy(PolicyCommand::Set { policies: vec![policy("a")], by: "x".repeat(10_000) }));
    let record = trial.fleet.audit_records(0, 1).next().expect("it is recorded");
    assert_eq!(record.actor.len(), robeing_fleet::limits::MAX_ACTOR_BYTES);
}
