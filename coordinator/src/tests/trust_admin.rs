//! What administrators do about who may be in the fleet.

use std::time::Duration;

use robeing_fleet::{AgentCommand, Command, Reply};
use robeing_identity::{Certificate, PeerRole};
use robeing_proto::v1;
use robeing_settings::Enrolment;
use rustls::pki_types::CertificateDer;
use tonic::Code;

use crate::{
    api::{
        flags::AT_ONCE,
        trust::{CLIENT_VALID_SPAN, MAX_TOKEN_VALID},
    },
    fixture,
    tests::{
        fleet::TestFleet,
        member::{TestMember, code, retried},
    },
};

fn valid_for(span: Duration) -> Option<prost_types::Duration> {
    Some(span.try_into().expect("it is short enough"))
}

async fn audited(admin: &TestMember, fleet: &TestFleet, at: usize) -> Vec<(String, String, String)> {
    let request = v1::ListAuditRecordsRequest::default();
    let records = retried(async || admin.admin(fleet, at).list_audit_records(request).await).await;
    let records = records.expect("an administrator reads it").into_inner().records;
    records.into_iter().map(|record| (record.actor, record.action, record.subject)).collect()
}

#[tokio::test(start_paused = true)]
async fn what_lets_somebody_in_is_bounded_in_time_and_recorded() {
    let fleet = TestFleet::start_secured(Enrolment::Proof);
    let leader = fleet.led().await;
    let admin = TestMember::certified(&fleet, PeerRole::Client, "root");
    let join = |valid: Option<Duration>| v1::CreateJoinTokenRequest {
        name: "w-0".into(),
        valid_for: valid.and_then(valid_for),
        ..v1::CreateJoinTokenRequest::default()
    };
    let make = async |request: v1::CreateJoinTokenRequest| {
        code(retried(async || admin.admin(&fleet, leader).create_join_token(request.clone()).await).await)
    };
    let second = Duration::from_secs(1);
    for valid in [None, Some(second), Some(MAX_TOKEN_VALID)] {
        assert_eq!(make(join(valid)).await, Code::Ok, "{valid:?}");
    }
    for valid in [Duration::ZERO, MAX_TOKEN_VALID + second] {
        assert_eq!(make(join(Some(valid))).await, Code::InvalidArgument, "{valid:?}");
    }
    let long = "x".repeat(10_000);
    assert_eq!(make(v1::CreateJoinTokenRequest { name: "a b".into(), ..join(None) }).await, Code::InvalidArgument);
    assert_eq!(make(v1::CreateJoinTokenRequest { name: long.clone(), ..join(None) }).await, Code::InvalidArgument);
    assert_eq!(make(v1::CreateJoinTokenRequest { pool: long, ..join(None) }).await, Code::InvalidArgument);

    let ann = TestMember::newcomer();
    let signing_request: bytes::Bytes = ann.key.request().unwrap().into();
    let certify = |valid: Duration| {
        let request = v1::CertifyClientRequest {
            name: "ann".into(),
            signing_request: signing_request.clone(),
            valid_for: valid_for(valid),
        };
        let (admin, fleet) = (&admin, &fleet);
        async move { retried(async || admin.admin(fleet, leader).certify_client(request.clone()).await).await }
    };
    let (least, most) = CLIENT_VALID_SPAN;
    let certificate = certify(least).await.unwrap().into_inner().certificate;
    let stated = Certificate::from_der(&CertificateDer::from(certificate.to_vec())).unwrap();
    assert_eq!((stated.id.role(), stated.id.name()), (PeerRole::Client, "ann"));
    assert_eq!(stated.key, ann.key.public_digest());
    assert_eq!(code(certify(most).await), Code::Ok);
    for wrong in [least - second, most + second] {
        assert_eq!(code(certify(wrong).await), Code::InvalidArgument, "{wrong:?}");
    }
    let records = audited(&admin, &fleet, leader).await;
    let count = |action: &str, subject: &str| {
        let expected = ("client/root".to_owned(), action.to_owned(), subject.to_owned());
        records.iter().filter(|record| **record == expected).count()
    };
    assert_eq!((count("create_join_token", "w-0"), count("certify_client", "ann")), (3, 2), "{records:?}");
}

#[tokio::test(start_paused = true)]
async fn a_guardian_quarantines_agents_and_removes_none() {
    let fleet = TestFleet::start_secured(Enrolment::Proof);
    let leader = fleet.led().await;
    let bar_of = async |agent: &str, role, kind: v1::BarKind| {
        let member = TestMember::enrolled(&fleet, leader, role, "x").await;
        let (agent, kind, reason) = (agent.into(), kind.into(), "odd".into());
        let request = v1::BarAgentRequest { agent, kind, reason, known_only: false };
        code(retried(async || member.admin(&fleet, leader).bar_agent(request.clone()).await).await)
    };
    let bar = async |role, kind| bar_of("w-0", role, kind).await;
    assert_eq!(bar(PeerRole::Guardian, v1::BarKind::Removed).await, Code::PermissionDenied);
    assert_eq!(bar(PeerRole::Guardian, v1::BarKind::Quarantined).await, Code::Ok);
    let another = bar_of("w-1", PeerRole::Guardian, v1::BarKind::Quarantined).await;
    assert_eq!(another, Code::ResourceExhausted, "that would be more than a guardian may");
    assert_eq!(bar_of("w-1", PeerRole::Client, v1::BarKind::Quarantined).await, Code::Ok);
    assert_eq!(bar(PeerRole::Worker, v1::BarKind::Quarantined).await, Code::PermissionDenied);
    assert_eq!(bar(PeerRole::Client, v1::BarKind::Unspecified).await, Code::InvalidArgument);
    assert_eq!(bar(PeerRole::Client, v1::BarKind::Removed).await, Code::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_may_be_mistyped_is_not_barred_and_one_that_is_known_or_barred_is_as_often_as_asked() {
    let fleet = TestFleet::start_secured(Enrolment::Proof);
    let leader = fleet.led().await;
    let admin = TestMember::certified(&fleet, PeerRole::Client, "root");
    let bar = async |agent: &str, known_only: bool| {
        let (agent, kind, reason) = (agent.to_owned(), v1::BarKind::Removed.into(), "odd".to_owned());
        let request = v1::BarAgentRequest { agent, kind, reason, known_only };
        let barred = retried(async || admin.admin(&fleet, leader).bar_agent(request.clone()).await).await;
        barred.map(|barred| barred.into_inner().known).map_err(|status| status.code())
    };
    assert_eq!(bar("w-0", true).await, Err(Code::NotFound));
    assert!(fleet.tested(leader).state.look(|fleet| fleet.bar_of("w-0").is_none()), "nothing has changed");
    // It has enrolled, and never joined.
    TestMember::enrolled(&fleet, leader, PeerRole::Worker, "w-0").await;
    assert_eq!(bar("w-0", true).await, Ok(true));
    assert_eq!(bar("w-0", true).await, Ok(false), "the fleet has forgotten it, and keeps it out");
    assert_eq!(bar("w-1", false).await, Ok(false));
    assert_eq!(bar("w-1", true).await, Ok(false));
}

#[tokio::test(start_paused = true)]
async fn guardians_flag_agents_at_a_pace_and_read_how_active_they_are_and_others_do_neither() {
    let fleet = TestFleet::start_secured(Enrolment::Proof);
    let leader = fleet.led().await;
    let flag = v1::FlagAgentRequest { agent: "w-0".into(), reason: "failures of 50.0 per second".into() };
    let list = v1::ListActivityRequest::default;
    for role in [PeerRole::Worker, PeerRole::Specialist, PeerRole::Messenger] {
        let member = TestMember::certified(&fleet, role, "x");
        let flagged = retried(async || member.admin(&fleet, leader).flag_agent(flag.clone()).await).await;
        assert_eq!(code(flagged), Code::PermissionDenied, "{role}");
        let listed = retried(async || member.admin(&fleet, leader).list_activity(list()).await).await;
        assert_eq!(code(listed), Code::PermissionDenied, "{role}");
    }
    let guardian = TestMember::enrolled(&fleet, leader, PeerRole::Guardian, "g").await;
    for at in 0..3 {
        let listed = retried(async || guardian.admin(&fleet, at).list_activity(list()).await).await;
        assert_eq!(listed.map(|page| page.into_inner()).ok(), Some(v1::ListActivityResponse::default()), "at {at}");
    }
    let wrong = v1::ListActivityRequest { page_token: "x".repeat(1_000) };
    assert_eq!(code(guardian.admin(&fleet, leader).list_activity(wrong).await), Code::InvalidArgument);
    let flag_now = async |by: &TestMember, agent: String| {
        let request = v1::FlagAgentRequest { agent, ..flag.clone() };
        code(by.admin(&fleet, leader).flag_agent(request).await)
    };
    assert_eq!(flag_now(&guardian, "w-0".to_owned()).await, Code::NotFound, "there is none of this name");
    let proposer = fleet.tested(leader).proposer;
    for n in 0..2 * AT_ONCE {
        let join = fixture::join(&format!("w-{n}"), 1);
        let reply = proposer.propose_one(Command::Agent(AgentCommand::Joined(join))).await;
        assert!(matches!(reply, Ok(Reply::Joined { .. })), "{reply:?}");
    }
    let mut flagged = 0;
    while flag_now(&guardian, format!("w-{flagged}")).await == Code::Ok {
        flagged += 1;
        assert!(flagged < 2 * AT_ONCE, "it is never refused");
    }
    assert!(flagged >= AT_ONCE, "only after {flagged}");
    let another = TestMember::enrolled(&fleet, leader, PeerRole::Guardian, "h").await;
    assert_eq!(flag_now(&another, "w-0".to_owned()).await, Code::Ok, "one guardian does not silence another");
    assert_eq!(flag_now(&another, "w-0".to_owned()).await, Code::ResourceExhausted, "once a minute");
    let admin = TestMember::certified(&fleet, PeerRole::Client, "root");
    let record = ("guardian/g".to_owned(), "agent.flag".to_owned(), "w-0".to_owned());
    assert!(audited(&admin, &fleet, leader).await.contains(&record));
}

#[tokio::test(start_paused = true)]
async fn trust_that_can_not_be_read_is_refused_before_anybody_relies_on_it() {
    let fleet = TestFleet::start_secured(Enrolment::Proof);
    let leader = fleet.led().await;
    let admin = TestMember::certified(&fleet, PeerRole::Client, "root");
    let set = async |request: v1::SetTrustRequest| {
        code(retried(async || admin.admin(&fleet, leader).set_trust(request.clone()).await).await)
    };
    let issuer = v1::TokenIssuer { issuer: "https://issuer".into(), audience: "robeing".into(), jwks: "{}".into() };
    let pool = v1::PoolTrust {
        pool: "data".into(),
        role: v1::Role::Worker.into(),
        join_secret_digests: vec![vec![0; 31].into()],
        ..v1::PoolTrust::default()
    };
    let empty = v1::SetTrustRequest::default;
    for wrong in [
        v1::SetTrustRequest { trust_bundle: "no certificate".into(), ..empty() },
        v1::SetTrustRequest { issuers: vec![issuer], ..empty() },
        v1::SetTrustRequest { pools: vec![pool], ..empty() },
    ] {
        assert_eq!(set(wrong.clone()).await, Code::InvalidArgument, "{wrong:?}");
    }
    assert_eq!(set(empty()).await, Code::Ok);
}

#[tokio::test(start_paused = true)]
async fn refused_calls_are_recorded_with_who_has_proved_to_be_who() {
    let fleet = TestFleet::start_secured(Enrolment::Proof);
    let leader = fleet.led().await;
    let admin = TestMember::certified(&fleet, PeerRole::Client, "root");
    audited(&admin, &fleet, leader).await;
    let worker = TestMember::certified(&fleet, PeerRole::Worker, "w-0");
    let pools = worker.admin(&fleet, leader).set_pools(v1::SetPoolsRequest::default()).await;
    assert_eq!(code(pools), Code::PermissionDenied);
    let mut stranger = TestMember::newcomer();
    let request = stranger.request("client/root", None);
    assert_eq!(code(stranger.enrol(&fleet, leader, request).await), Code::InvalidArgument);
    let mut records = Vec::new();
    let mut waited = Duration::ZERO;
    while !records.iter().any(|(actor, _, _): &(String, String, String)| actor.starts_with("anonymous (10.0.3.1)")) {
        assert!(waited < Duration::from_secs(60), "{records:?}");
        waited += Duration::from_secs(1);
        tokio::time::sleep(Duration::from_secs(1)).await;
        records = audited(&admin, &fleet, leader).await;
    }
    let of_worker = ("worker/w-0 (10.0.3.1)".into(), "call".into(), "robeing.v1.Admin/SetPools".into());
    assert!(records.contains(&of_worker), "{records:?}");
}
