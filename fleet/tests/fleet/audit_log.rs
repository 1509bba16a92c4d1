//! The audit log: what is recorded, by whom, and how much of it is kept.

use robeing_fleet::{
    AuditEntry, AuditOutcome, AuditRecord, BarKind, EnrolmentMode, Fleet, IdentityCommand, IdentityConfig, Refusal,
    Reply, Role, limits::*,
};

use crate::fixture::{Trial, enrolment, worker};

fn entry(actor: &str) -> AuditEntry {
    AuditEntry {
        actor: actor.to_owned(),
        action: "message.send".to_owned(),
        subject: "bob".to_owned(),
        outcome: AuditOutcome::Denied,
        detail: "the sender is not the certificate's".to_owned(),
    }
}

fn all(trial: &Trial) -> Vec<AuditRecord> {
    trial.fleet.audit_records(0, MAX_PAGE).map(|record| AuditRecord::clone(record)).collect()
}

/// Returns the records as text: who did what to whom, the outcome and the detail.
fn told(trial: &Trial) -> Vec<String> {
    let told = all(trial).into_iter();
    let told = told.map(|r| format!("{} {} {}: {:?}, {}", r.actor, r.action, r.subject, r.outcome, r.detail));
    told.collect()
}

#[test]
fn what_others_observe_is_recorded_in_their_order_with_numbers_and_the_time() {
    let mut trial = Trial::newest();
    trial.wall_ahead = 500;
    assert_eq!(trial.record(vec![entry("eve"), entry("mallory")]), Reply::Done);
    let records = all(&trial);
    let found: Vec<_> = records.iter().map(|record| (record.seq, record.actor.as_str(), record.at)).collect();
    assert_eq!(found, [(1, "eve", trial.stamp()), (2, "mallory", trial.stamp())]);
    assert_eq!(records[0].detail, "the sender is not the certificate's");
    let second: Vec<_> = trial.fleet.audit_records(1, 5).map(|record| record.seq).collect();
    assert_eq!((second, trial.fleet.audit_first_kept(), trial.fleet.audit_last()), (vec![2], Some(1), 2));
    let revision = trial.fleet.revision();
    trial.record(vec![entry("eve")]);
    assert_eq!(trial.fleet.revision(), revision, "no task or agent changed");
}

#[test]
fn what_is_done_about_identities_is_recorded_and_repetitions_are_not() {
    let mut trial = Trial::newest();
    let config = IdentityConfig {
        bundle: "PEM".to_owned(),
        enrolment: EnrolmentMode::Proof,
        issuers: Vec::new(),
        pools: Vec::new(),
    };
    for _ in 0..2 {
        trial.identity(IdentityCommand::Configure(config.clone()));
        trial.enrol(enrolment("a", 1, 1));
    }
    trial.identity(IdentityCommand::Enrol(enrolment("b", 2, 1)));
    for _ in 0..2 {
        trial.bar("a", BarKind::Quarantined);
    }
    trial.bar("a", BarKind::Removed);
    for _ in 0..2 {
        trial.release("a");
    }
    trial.identity(IdentityCommand::Configure(IdentityConfig {
        bundle: "x".repeat(MAX_TRUST_TEXT_BYTES + 1),
        ..config
    }));
    trial.bar("", BarKind::Removed);
    assert_eq!(
        told(&trial),
        [
            "administrator identity.configure identity: Done, enrolment by proof, 3 bytes of trusted certificates, 0 \
             issuers, 0 pools",
            "a agent.enrol a: Allowed, role Worker, pool data, by join token, epoch 1",
            "b agent.enrol b: Denied, the proof of agent b was used before, and proves an identity only once; enrol \
             with a new one",
            "carol agent.quarantine a: Done, it lied",
            "carol agent.remove a: Done, it lied",
            "dave agent.release a: Done, it was removed: it lied",
            "administrator identity.configure identity: Failed, bundle: has 65537 bytes, the most is 65536",
            "carol agent.remove : Failed, agent: must not be empty",
        ]
    );
}

#[test]
fn long_texts_are_cut_at_a_character() {
    let mut trial = Trial::newest();
    let long = |bytes: usize| "é".repeat(bytes / 2 + 1);
    trial.record(vec![AuditEntry {
        actor: long(MAX_ACTOR_BYTES),
        action: long(MAX_NAME_BYTES),
        subject: "s".repeat(MAX_ACTOR_BYTES + 1),
        outcome: AuditOutcome::Failed,
        detail: format!("x{}", long(MAX_DETAIL_BYTES)),
    }]);
    let record = all(&trial).remove(0);
    let lengths = [&record.actor, &record.action, &record.subject, &record.detail].map(String::len);
    assert_eq!(lengths, [MAX_ACTOR_BYTES, MAX_NAME_BYTES - 1, MAX_ACTOR_BYTES, MAX_DETAIL_BYTES - 1]);
    let fits = AuditEntry { actor: "s".repeat(MAX_ACTOR_BYTES), ..entry("eve") };
    assert_eq!(fits.clone().within_limits(), fits);
    let name = "n".repeat(MAX_NAME_BYTES + 1);
    trial.identity(IdentityCommand::Enrol(robeing_fleet::Enrol { role: Role::Worker, ..enrolment(&name, 1, 1) }));
    assert_eq!(all(&trial)[1].subject, name, "a refused name is recorded as far as it fits");
}

#[test]
fn so_many_records_are_taken_at_once_and_one_more_is_refused() {
    let mut trial = Trial::newest();
    assert_eq!(trial.record(vec![entry("eve"); MAX_AUDIT_BATCH]), Reply::Done);
    let refused = trial.record(vec![entry("eve"); MAX_AUDIT_BATCH + 1]);
    assert!(matches!(refused, Reply::Refused(Refusal::Invalid { field, .. }) if field == "records"));
    assert_eq!(trial.fleet.audit_last(), MAX_AUDIT_BATCH as u64);
}

#[test]
fn the_newest_records_are_kept_and_no_number_is_used_again() {
    let mut trial = Trial::newest();
    let mut effects = Vec::new();
    let batch =
        || robeing_fleet::Command::Audit(robeing_fleet::AuditCommand::Record(vec![entry("eve"); MAX_AUDIT_BATCH]));
    for _ in 0..MAX_AUDIT_RECORDS / MAX_AUDIT_BATCH {
        trial.fleet.apply(trial.stamp(), batch(), &mut effects);
    }
    assert_eq!((trial.fleet.audit_first_kept(), trial.fleet.audit_last()), (Some(1), MAX_AUDIT_RECORDS as u64));
    trial.record(vec![entry("mallory"); 3]);
    let (first, last) = (trial.fleet.audit_first_kept(), trial.fleet.audit_last());
    assert_eq!((first, last), (Some(4), MAX_AUDIT_RECORDS as u64 + 3));
    let after_a_gap: Vec<u64> = trial.fleet.audit_records(1, 2).map(|record| record.seq).collect();
    assert_eq!(after_a_gap, [4, 5]);
    let restored = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    assert_eq!(restored.audit_first_kept(), first);
}

#[test]
fn a_page_of_records_is_no_longer_than_asked_and_no_longer_than_a_page() {
    let mut trial = Trial::newest();
    for _ in 0..MAX_PAGE / MAX_AUDIT_BATCH + 1 {
        trial.record(vec![entry("eve"); MAX_AUDIT_BATCH]);
    }
    for (asked, given) in [(0, 1), (1, 1), (MAX_PAGE, MAX_PAGE), (usize::MAX, MAX_PAGE)] {
        assert_eq!(trial.fleet.audit_records(0, asked).count(), given, "of {asked}");
    }
}

#[test]
fn a_join_that_is_refused_is_not_recorded_by_itself() {
    // A barred agent tries again and again; coordinators record that as often as it is useful.
    let mut trial = Trial::newest();
    trial.bar("a", BarKind::Quarantined);
    let before = trial.fleet.audit_last();
    trial.apply(robeing_fleet::Command::Agent(robeing_fleet::AgentCommand::Joined(worker("a"))));
    assert_eq!(trial.fleet.audit_last(), before);
}
