//! Who may be in the fleet: configuration, enrolments, used proofs.

use robeing_fleet::{
    AgentCommand, BarKind, Command, Effect, Enrol, EnrolmentMode, Fleet, IdentityCommand, IdentityConfig, PoolTrust,
    ProofKind, Refusal, Reply, Role, SingleUse, TokenIssuer, limits::*,
};

use crate::fixture::{Trial, enrolment, worker};

fn config() -> IdentityConfig {
    IdentityConfig {
        bundle: "PEM".to_owned(),
        enrolment: EnrolmentMode::Proof,
        issuers: vec![issuer(1)],
        pools: vec![trust(1)],
    }
}

fn issuer(n: usize) -> TokenIssuer {
    TokenIssuer { issuer: format!("https://api-{n}"), audience: "robeing".to_owned(), jwks: "{}".to_owned() }
}

fn trust(n: usize) -> PoolTrust {
    PoolTrust {
        pool: format!("p{n}"),
        role: Role::Worker,
        service_accounts: vec!["default/agents".to_owned()],
        secrets: vec![[n as u8; 32]],
    }
}

pub fn text(bytes: usize) -> String {
    "x".repeat(bytes)
}

pub fn refused(reply: Reply) -> Refusal {
    match reply {
        Reply::Refused(refusal) => refusal,
        other => panic!("not refused: {other:?}"),
    }
}

pub fn try_enrol(trial: &mut Trial, enrol: Enrol) -> Reply {
    trial.identity(IdentityCommand::Enrol(enrol))
}

fn with_proof(agent: &str, key: u8, proof: ProofKind) -> Enrol {
    Enrol { proof, single_use: None, ..enrolment(agent, key, 0) }
}

pub fn trust_changed(trial: &Trial) -> bool {
    trial.effects.contains(&Effect::TrustChanged)
}

#[test]
fn what_the_fleet_trusts_is_set_and_setting_it_again_changes_nothing() {
    let mut trial = Trial::newest();
    assert_eq!(trial.fleet.identity_config(), None);
    let revision = trial.fleet.revision();
    assert_eq!(trial.identity(IdentityCommand::Configure(config())), Reply::Done);
    assert!(trust_changed(&trial));
    assert_eq!(trial.fleet.revision(), revision + 1);
    assert_eq!(trial.fleet.identity_config().map(AsRef::as_ref), Some(&config()));
    let before = trial.fleet.encode();
    assert_eq!(trial.identity(IdentityCommand::Configure(config())), Reply::Done);
    assert!(!trust_changed(&trial));
    assert_eq!(trial.fleet.encode(), before);
    let restored = Fleet::decode(&before).expect("a fleet's own snapshot");
    assert_eq!(restored.identity_config(), trial.fleet.identity_config());
}

#[test]
fn configurations_are_held_to_their_limits() {
    type Change = fn(&mut IdentityConfig, usize);
    let cases: [(&str, Change, usize, usize); 13] = [
        ("bundle", |c, n| c.bundle = text(n), MAX_TRUST_TEXT_BYTES, MAX_TRUST_TEXT_BYTES + 1),
        ("issuers", |c, n| c.issuers = (0..n).map(issuer).collect(), MAX_TOKEN_ISSUERS, MAX_TOKEN_ISSUERS + 1),
        ("issuers.issuer", |c, n| c.issuers[0].issuer = text(n), MAX_ISSUER_BYTES, MAX_ISSUER_BYTES + 1),
        ("issuers.issuer", |c, n| c.issuers[0].issuer = text(n), 1, 0),
        ("issuers.audience", |c, n| c.issuers[0].audience = text(n), MAX_ISSUER_BYTES, MAX_ISSUER_BYTES + 1),
        ("issuers.audience", |c, n| c.issuers[0].audience = text(n), 1, 0),
        ("issuers.jwks", |c, n| c.issuers[0].jwks = text(n), MAX_TRUST_TEXT_BYTES, MAX_TRUST_TEXT_BYTES + 1),
        ("pools", |c, n| c.pools = (0..n).map(trust).collect(), MAX_POOLS, MAX_POOLS + 1),
        ("pools.pool", |c, n| c.pools[0].pool = text(n), MAX_NAME_BYTES, MAX_NAME_BYTES + 1),
        (
            "pools.service_accounts",
            |c, n| c.pools[0].service_accounts = (0..n).map(|n| format!("n/{n}")).collect(),
            MAX_SERVICE_ACCOUNTS,
            MAX_SERVICE_ACCOUNTS + 1,
        ),
        (
            "pools.service_accounts",
            |c, n| c.pools[0].service_accounts = vec![format!("n/{}", text(n - 2))],
            MAX_SERVICE_ACCOUNT_BYTES,
            MAX_SERVICE_ACCOUNT_BYTES + 1,
        ),
        ("pools.service_accounts", |c, n| c.pools[0].service_accounts = vec![format!("n{}a", "/".repeat(n))], 1, 2),
        ("pools.secrets", |c, n| c.pools[0].secrets = vec![[0; 32]; n], MAX_JOIN_SECRETS, MAX_JOIN_SECRETS + 1),
    ];
    for (field, change, good, bad) in cases {
        let of = |value| {
            let mut config = config();
            change(&mut config, value);
            config
        };
        assert_eq!(of(good).check(), Ok(()), "{field}");
        match of(bad).check() {
            Err(Refusal::Invalid { field: named, .. }) => assert_eq!(named, field),
            other => panic!("{field}: {other:?}"),
        }
        let mut trial = Trial::newest();
        refused(trial.identity(IdentityCommand::Configure(of(bad))));
        assert_eq!(trial.fleet.identity_config(), None);
    }
}

#[test]
fn an_issuer_a_pool_or_an_account_is_named_once() {
    let twice = [
        IdentityConfig {
            issuers: vec![issuer(1), TokenIssuer { audience: "other".to_owned(), ..issuer(1) }],
            ..config()
        },
        IdentityConfig { pools: vec![trust(1), trust(2), trust(1)], ..config() },
        IdentityConfig {
            pools: vec![PoolTrust { service_accounts: vec!["a/b".to_owned(); 2], ..trust(1) }],
            ..config()
        },
    ];
    for config in twice {
        let refusal = config.check().expect_err("something is there twice");
        assert!(refusal.to_string().ends_with("is there twice"), "{refusal}");
    }
    for account in ["agents", "/agents", "default/", "a/b/c", ""] {
        let pools = vec![PoolTrust { service_accounts: vec![account.to_owned()], ..trust(1) }];
        let refusal = IdentityConfig { pools, ..config() }.check().expect_err("no namespace and name");
        assert!(refusal.to_string().contains("is not a namespace and a name"), "{refusal}");
    }
}

#[test]
fn an_agent_is_enrolled_with_its_key_and_later_enrolments_have_higher_epochs() {
    let mut trial = Trial::newest();
    let revision = trial.fleet.revision();
    assert_eq!(trial.enrol(enrolment("a", 1, 1)), 1);
    assert!(trust_changed(&trial));
    assert_eq!(trial.enrol(enrolment("b", 2, 2)), 2);
    assert_eq!(trial.enrol(enrolment("a", 3, 3)), 3, "it has no session, so its name is free");
    assert_eq!(trial.fleet.revision(), revision, "no agent changed");
    let known = trial.fleet.enrolment_of("a").expect("it is enrolled");
    assert_eq!((known.key, known.epoch, known.at, known.role), ([3; 32], 3, trial.stamp(), Role::Worker));
    assert_eq!((known.pool.as_deref(), known.proof), (Some("data"), ProofKind::JoinToken));
    let all: Vec<_> = trial.fleet.enrolments_after(0).map(|known| (known.epoch, &*known.agent)).collect();
    assert_eq!(all, [(2, "b"), (3, "a")], "an agent has one enrolment");
    assert_eq!(trial.fleet.enrolments_after(2).count(), 1);
    assert_eq!(trial.fleet.enrolment_of("c"), None);
}

#[test]
fn a_repeated_enrolment_gets_the_same_answer_and_a_second_use_of_its_proof_is_refused() {
    let mut trial = Trial::newest();
    let first = enrolment("a", 1, 1);
    assert_eq!(trial.enrol(first.clone()), 1);
    let before = trial.fleet.encode();
    assert_eq!(trial.enrol(first.clone()), 1, "its answer was lost");
    assert!(!trust_changed(&trial));
    assert_eq!(trial.fleet.encode(), before);
    let spent = |agent: &str| Refusal::ProofSpent { agent: agent.to_owned() };
    for other in [
        Enrol { key: [2; 32], ..first.clone() },
        Enrol { agent: "b".to_owned(), ..first.clone() },
        Enrol { role: Role::Guardian, ..first.clone() },
        Enrol { pool: None, ..first.clone() },
        Enrol { proof: ProofKind::ServiceAccount, ..first.clone() },
    ] {
        let agent = other.agent.clone();
        assert_eq!(refused(try_enrol(&mut trial, other)), spent(&agent));
    }
    // The agent has another key since, so the repetition would give the name back to the old one.
    assert_eq!(trial.enrol(enrolment("a", 2, 2)), 2);
    assert_eq!(refused(try_enrol(&mut trial, first)), spent("a"));
    assert_eq!(trial.fleet.enrolment_of("a").map(|known| known.epoch), Some(2));
    assert_eq!(trial.fleet.spent_proofs(), 2);
}

#[test]
fn a_proof_that_can_be_used_often_is_no_second_use() {
    let mut trial = Trial::newest();
    let proof = with_proof("a", 1, ProofKind::PoolSecret);
    assert_eq!(trial.enrol(proof.clone()), 1);
    assert_eq!(trial.enrol(proof.clone()), 1);
    assert_eq!(trial.enrol(Enrol { key: [2; 32], ..proof.clone() }), 2);
    assert_eq!(trial.enrol(proof), 3);
    assert_eq!(trial.fleet.spent_proofs(), 0);
}

#[test]
fn a_used_proof_is_remembered_until_an_hour_after_its_expiry_and_refused_from_then_on() {
    let mut trial = Trial::newest();
    let expires = trial.now + 1_000;
    let of = |agent: &str, proof: u8| Enrol {
        single_use: Some(SingleUse { id: [proof; 32], expires }),
        ..enrolment(agent, proof, 0)
    };
    trial.enrol(of("a", 1));
    trial.now = expires + SPENT_PROOF_GRACE_MS - 1;
    assert_eq!(refused(try_enrol(&mut trial, of("b", 1))), Refusal::ProofSpent { agent: "b".to_owned() });
    trial.enrol(of("c", 2));
    assert_eq!(trial.fleet.spent_proofs(), 2);
    // Fleet time stands still, and only the wall time advances.
    trial.wall_ahead = 1;
    assert_eq!(refused(try_enrol(&mut trial, of("b", 1))), Refusal::ProofExpired { expired: expires });
    assert_eq!(trial.fleet.spent_proofs(), 0);
    assert_eq!(refused(try_enrol(&mut trial, of("d", 3))), Refusal::ProofExpired { expired: expires });
    assert_eq!(trial.enrol(of("c", 2)), 2, "a repetition is no use");
}

#[test]
fn a_proof_that_was_forgotten_by_a_wrong_wall_time_is_not_used_again_when_the_wall_time_is_right() {
    let mut trial = Trial::newest();
    let of = |key: u8, proof: u8, expires: u64| Enrol {
        single_use: Some(SingleUse { id: [proof; 32], expires }),
        ..enrolment("a", key, 0)
    };
    trial.enrol(of(1, 1, 2_000_000));
    trial.wall_ahead = 24 * 3600 * 1000;
    trial.release("nobody");
    assert_eq!(trial.fleet.spent_proofs(), 0);
    trial.wall_ahead = 0;
    let restored = Fleet::decode(&trial.fleet.encode()).expect("a fleet's own snapshot");
    trial.fleet = restored;
    let refusal = Refusal::ProofExpired { expired: 2_000_000 };
    assert_eq!(refused(try_enrol(&mut trial, of(2, 1, 2_000_000))), refusal);
    trial.enrol(of(2, 2, 2_000_001));
}

#[test]
fn one_command_forgets_a_few_expired_proofs_and_the_next_ones_the_others() {
    let mut trial = Trial::newest();
    for proof in 1..=10 {
        trial.enrol(enrolment("a", proof, proof));
    }
    trial.now += SPENT_PROOF_GRACE_MS + 2_000_000;
    let mut left = 10;
    while left > 0 {
        trial.release("nobody");
        left -= left.min(MAX_PROOFS_FORGOTTEN);
        assert_eq!(trial.fleet.spent_proofs(), left);
    }
}

#[test]
fn the_name_of_a_live_agent_is_given_to_another_key_only_by_a_proof_that_names_it() {
    let mut trial = Trial::newest();
    let since = trial.stamp().wall;
    trial.enrol(enrolment("a", 1, 1));
    let stay = trial.join(worker("a"));
    trial.now += 5_000;
    let held = Refusal::NameHeld { agent: "a".to_owned(), since };
    assert_eq!(refused(try_enrol(&mut trial, enrolment("a", 2, 2))), held);
    assert!(held.to_string().contains("1970-01-01T00:16:40Z"), "{held}");
    assert_eq!(trial.enrol(enrolment("a", 1, 3)), 2, "the same key, by another proof");
    assert_eq!(trial.enrol(Enrol { names_agent: true, ..enrolment("a", 2, 2) }), 3);
    trial.lose(stay);
    assert_eq!(trial.enrol(enrolment("a", 4, 4)), 4, "a lost agent's name is free");
    // An agent that joined before identities were in force has no key.
    trial.join(worker("b"));
    assert_eq!(trial.enrol(enrolment("b", 5, 5)), 5);
}

#[test]
fn open_enrolment_is_refused_once_an_administrator_wants_proofs() {
    let mut trial = Trial::newest();
    let open = |key| with_proof("a", key, ProofKind::Open);
    assert_eq!(trial.enrol(open(1)), 1, "nothing is set yet");
    trial.identity(IdentityCommand::Configure(IdentityConfig { enrolment: EnrolmentMode::Open, ..config() }));
    assert_eq!(trial.enrol(open(2)), 2);
    trial.identity(IdentityCommand::Configure(config()));
    assert_eq!(refused(try_enrol(&mut trial, open(3))), Refusal::OpenEnrolmentOff);
    assert_eq!(trial.enrol(enrolment("a", 3, 3)), 3);
}

#[test]
fn enrolments_are_held_to_their_limits() {
    let named = |agent: &str| enrolment(agent, 1, 1);
    assert_eq!(named(&text(MAX_NAME_BYTES)).check(), Ok(()));
    assert!(named(&text(MAX_NAME_BYTES + 1)).check().is_err());
    assert!(named("").check().is_err());
    let pool = |pool: String| Enrol { pool: Some(pool), ..named("a") };
    assert_eq!(pool(text(MAX_NAME_BYTES)).check(), Ok(()));
    assert!(pool(text(MAX_NAME_BYTES + 1)).check().is_err());
    let mut trial = Trial::newest();
    refused(try_enrol(&mut trial, named("")));
    assert_eq!(trial.fleet.enrolments_after(0).count(), 0);
}

#[test]
fn a_fleet_full_of_enrolments_forgets_the_oldest_one_without_a_session_and_else_refuses() {
    let mut trial = Trial::newest();
    let mut effects = Vec::new();
    let name = |n: usize| format!("w{n}");
    let mut apply = |trial: &mut Trial, command: Command| trial.fleet.apply(trial.stamp(), command, &mut effects);
    let enrol =
        |n: usize| Command::Identity(IdentityCommand::Enrol(with_proof(&name(n), 1, ProofKind::ServiceAccount)));
    for n in 0..MAX_ENROLMENTS {
        assert_eq!(apply(&mut trial, enrol(n)), Reply::Enrolled { epoch: n as u64 + 1 });
    }
    let join = |n: usize| Command::Agent(AgentCommand::Joined(worker(&name(n))));
    for n in 0..MAX_ENROLMENTS - 1 {
        assert!(matches!(apply(&mut trial, join(n)), Reply::Joined { .. }));
    }
    // The last one is the only one without a session, although it is the newest.
    let more = MAX_ENROLMENTS;
    assert!(matches!(apply(&mut trial, enrol(more)), Reply::Enrolled { .. }));
    assert!(trial.fleet.enrolment_of(&name(more - 1)).is_none());
    assert!(trial.fleet.enrolment_of(&name(0)).is_some());
    assert!(matches!(apply(&mut trial, join(more)), Reply::Joined { .. }));
    let refusal = refused(apply(&mut trial, enrol(more + 1)));
    assert!(matches!(refusal, Refusal::Full { limit, .. } if limit == MAX_ENROLMENTS as u64), "{refusal}");
    let again = Enrol { names_agent: true, ..with_proof(&name(3), 2, ProofKind::ServiceAccount) };
    let again = apply(&mut trial, Command::Identity(IdentityCommand::Enrol(again)));
    assert!(matches!(again, Reply::Enrolled { .. }), "an enrolled agent needs no more room: {again:?}");
    for n in [5, 4] {
        let lost = trial.fleet.agent_by_name(&name(n)).map(|agent| (agent.id, agent.session));
        let (agent, session) = lost.expect("it joined");
        trial.lose(crate::fixture::OpenSession { agent, session });
    }
    trial.enrol(with_proof(&name(more + 1), 1, ProofKind::ServiceAccount));
    assert!(trial.fleet.enrolment_of(&name(4)).is_none(), "the older of two");
    assert!(trial.fleet.enrolment_of(&name(5)).is_some());
}

#[test]
fn so_many_used_proofs_are_remembered_and_one_more_is_refused() {
    let mut trial = Trial::newest();
    let mut effects = Vec::new();
    let of = |n: usize| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&(n as u64).to_be_bytes());
        let single_use = Some(SingleUse { id, expires: 2_000_000 });
        IdentityCommand::Enrol(Enrol { single_use, ..enrolment("a", 1, 0) })
    };
    for n in 0..MAX_SPENT_PROOFS {
        let reply = trial.fleet.apply(trial.stamp(), Command::Identity(of(n)), &mut effects);
        assert!(matches!(reply, Reply::Enrolled { .. }), "{n}: {reply:?}");
    }
    let refusal = refused(trial.identity(of(MAX_SPENT_PROOFS)));
    assert!(matches!(refusal, Refusal::Full { limit, .. } if limit == MAX_SPENT_PROOFS as u64), "{refusal}");
    trial.enrol(with_proof("b", 1, ProofKind::PoolSecret));
    trial.now = 2_000_000 + SPENT_PROOF_GRACE_MS;
    trial.enrol(Enrol { single_use: Some(SingleUse { id: [9; 32], expires: u64::MAX }), ..enrolment("c", 1, 0) });
}

#[test]
fn what_is_largest_fits_what_a_snapshot_may_take() {
    let names = |n: usize| format!("{n:0>width$}", width = MAX_NAME_BYTES);
    let size = |trial: &Trial| trial.fleet.encode().len() as u64;
    let mut trial = Trial::newest();
    (trial.now, trial.wall_ahead) = (MAX_TIME_MS, 0);
    let before = size(&trial);
    trial.identity(IdentityCommand::Configure(IdentityConfig {
        bundle: text(MAX_TRUST_TEXT_BYTES),
        enrolment: EnrolmentMode::Open,
        issuers: (0..MAX_TOKEN_ISSUERS)
            .map(|n| TokenIssuer {
                issuer: format!("{n}{}", text(MAX_ISSUER_BYTES - 1)),
                audience: text(MAX_ISSUER_BYTES),
                jwks: text(MAX_TRUST_TEXT_BYTES),
            })
            .collect(),
        pools: (0..MAX_POOLS)
            .map(|n| PoolTrust {
                pool: names(n),
                role: Role::Guardian,
                service_accounts: (0..MAX_SERVICE_ACCOUNTS)
                    .map(|n| format!("{n}/{}", text(MAX_SERVICE_ACCOUNT_BYTES - 2)))
                    .collect(),
                secrets: vec![[1; 32]; MAX_JOIN_SECRETS],
            })
            .collect(),
    }));
    assert!(size(&trial) - before <= MAX_IDENTITY_CONFIG_BYTES);
    let records = trial.fleet.audit_last();
    let before = size(&trial);
    let single_use = Some(SingleUse { id: [255; 32], expires: u64::MAX });
    trial.enrol(Enrol { pool: Some(names(1)), single_use, ..enrolment(&names(1), 255, 1) });
    assert_eq!(trial.fleet.audit_last(), records + 1);
    let most = MAX_ENROLMENT_OVERHEAD + MAX_SPENT_PROOF_OVERHEAD + MAX_AUDIT_RECORD_OVERHEAD;
    assert!(size(&trial) - before <= most);
    let before = size(&trial);
    let (agent, reason, by) = (names(2), text(MAX_REASON_BYTES), text(MAX_ACTOR_BYTES));
    trial.identity(IdentityCommand::Bar { agent, kind: BarKind::Quarantined, reason, by });
    assert!(size(&trial) - before <= MAX_BAR_OVERHEAD + MAX_AUDIT_RECORD_OVERHEAD);
    let before = size(&trial);
    trial.record(vec![robeing_fleet::AuditEntry {
        actor: text(MAX_ACTOR_BYTES),
        action: text(MAX_NAME_BYTES),
        subject: text(MAX_ACTOR_BYTES),
        outcome: robeing_fleet::AuditOutcome::Failed,
        detail: text(MAX_DETAIL_BYTES),
    }]);
    assert!(size(&trial) - before <= MAX_AUDIT_RECORD_OVERHEAD);
}

#[test]
fn it_is_told_who_has_enrolled_and_a_repetition_is_no_news() {
    let mut trial = Trial::newest();
    for key in [1, 2] {
        trial.enrol(enrolment("a", key, key));
        assert!(trial.effects.contains(&Effect::EnrolmentChanged { agent: "a".into() }), "{:?}", trial.effects);
    }
    trial.enrol(enrolment("a", 2, 2));
    assert!(trial.effects.is_empty(), "{:?}", trial.effects);
}
