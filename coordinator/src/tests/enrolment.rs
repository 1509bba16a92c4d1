//! How agents enrol, and which sessions they may open then.

use std::path::Path;

use robeing_identity::{Certificate, JoinSecret, PeerRole};
use robeing_platform::Disk;
use robeing_proto::{
    internal::v1::{Hello, coordinator_message::Message as ToAgent, enrol_request::Proof},
    v1,
};
use robeing_settings::Enrolment;
use rustls::pki_types::CertificateDer;
use tonic::Code;

use crate::{
    assembly::Tested,
    tests::{
        fleet::{JOIN, TestFleet},
        mail::mailbox::TestMailbox,
        member::{TestMember, code, hello, retried},
    },
};

async fn secured(enrolment: Enrolment) -> (TestFleet, usize) {
    let fleet = TestFleet::start_secured(enrolment);
    let leader = fleet.led().await;
    (fleet, leader)
}

/// A token for a worker of the pool `data`, of this name if it is not empty.
async fn token(fleet: &TestFleet, at: usize, name: &str) -> Option<Proof> {
    let admin = TestMember::certified(fleet, PeerRole::Client, "root");
    let request =
        v1::CreateJoinTokenRequest { pool: "data".into(), name: name.into(), ..v1::CreateJoinTokenRequest::default() };
    let made = retried(async || admin.admin(fleet, at).create_join_token(request.clone()).await).await;
    Some(Proof::JoinToken(made.expect("an administrator gets it").into_inner().token))
}

/// A worker of the pool `data` that has enrolled.
pub async fn enrolled(fleet: &TestFleet, at: usize, name: &str) -> TestMember {
    let mut member = TestMember::newcomer();
    let request = member.request(name, token(fleet, at, name).await);
    member.enrol(fleet, at, request).await.expect("it has a token");
    member
}

#[tokio::test(start_paused = true)]
async fn a_join_token_lets_one_key_in_and_that_again_and_again() {
    let (fleet, leader) = secured(Enrolment::Proof).await;
    let at = fleet.followers(leader)[0];
    let proof = token(&fleet, at, "").await;
    let mut member = TestMember::newcomer();
    let request = member.request("w-0", proof.clone());
    let response = member.enrol(&fleet, at, request.clone()).await.expect("the token is new");
    let stated = Certificate::from_der(&CertificateDer::from(response.certificate.to_vec())).unwrap();
    assert_eq!(stated.id.to_string(), "spiffe://robeing.local/ns/default/cluster/test/worker/w-0");
    assert_eq!(stated.key, member.key.public_digest());
    assert_eq!(response.trust_bundle, fleet.security.as_ref().unwrap().certifier.bundle.pem());
    // Its answer was lost; any coordinator answers it.
    for again in fleet.running() {
        let has_it = |fleet: &TestFleet| fleet.tested(again).state.look(|state| state.enrolment_of("w-0").is_some());
        fleet.until("the enrolment", has_it).await;
        member.enrol(&fleet, again, request.clone()).await.expect("it is the same key");
    }
    // Another process has seen the token.
    let mut thief = TestMember::newcomer();
    for name in ["w-0", "w-1"] {
        let stolen = thief.request(name, proof.clone());
        assert_eq!(code(thief.enrol(&fleet, leader, stolen).await), Code::Unauthenticated, "{name}");
    }
    // It renews by its key alone, as what it has enrolled as.
    let renewal = member.request("w-0", None);
    member.enrol(&fleet, leader, renewal.clone()).await.expect("the key is known");
    let mut other = renewal.clone();
    other.pool = "other".into();
    assert_eq!(code(member.enrol(&fleet, leader, other).await), Code::Unauthenticated);
    let mut other = renewal;
    other.role = v1::Role::Guardian.into();
    assert_eq!(code(member.enrol(&fleet, leader, other).await), Code::Unauthenticated);
}

#[tokio::test(start_paused = true)]
async fn a_token_is_for_its_role_pool_name_and_cluster_alone() {
    let (fleet, leader) = secured(Enrolment::Proof).await;
    let mut member = TestMember::newcomer();
    let request = member.request("w-0", token(&fleet, leader, "w-0").await);
    let mut others = vec![request.clone(); 4];
    others[0].pool = "other".into();
    others[1].role = v1::Role::Guardian.into();
    others[2].name = "w-1".into();
    others[3].cluster_id = "elsewhere".into();
    for other in others {
        assert_eq!(code(member.enrol(&fleet, leader, other.clone()).await), Code::PermissionDenied, "{other:?}");
    }
    let mut wrong = vec![request.clone(); 3];
    wrong[0].signing_request = vec![1, 2, 3].into();
    wrong[1].name = "a b".into();
    wrong[2].role = v1::Role::Unspecified.into();
    for wrong in wrong {
        assert_eq!(code(member.enrol(&fleet, leader, wrong.clone()).await), Code::InvalidArgument, "{wrong:?}");
    }
    let without = member.request("w-0", None);
    assert_eq!(code(member.enrol(&fleet, leader, without).await), Code::Unauthenticated);
    member.enrol(&fleet, leader, request).await.expect("none of these has used it up");
}

#[tokio::test(start_paused = true)]
async fn a_barred_agent_is_refused_everything_until_it_is_released() {
    let (fleet, leader) = secured(Enrolment::Proof).await;
    let mut member = enrolled(&fleet, leader, "w-0").await;
    let read = async |member: &TestMember| {
        let request = v1::GetStatusRequest::default();
        retried(async || member.fleet(&fleet, leader).get_status(request).await).await
    };
    assert_eq!(code(read(&member).await), Code::Ok);
    let mut admin = TestMember::certified(&fleet, PeerRole::Client, "root").admin(&fleet, leader);
    let kind = v1::BarKind::Removed.into();
    let bar = v1::BarAgentRequest { agent: "w-0".into(), kind, reason: "stolen".into(), known_only: true };
    admin.bar_agent(bar).await.unwrap();
    assert_eq!(code(read(&member).await), Code::PermissionDenied);
    // Its key is forgotten. Without a proof, it could be anyone, who need not know what it has done.
    let renewal = member.request("w-0", None);
    let refused = member.enrol(&fleet, leader, renewal.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(!refused.message().contains("stolen"), "{}", refused.message());
    let with_token = member.request("w-0", token(&fleet, leader, "w-0").await);
    let refused = member.enrol(&fleet, leader, with_token.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("removed from the fleet by client/root (stolen)"), "{}", refused.message());
    assert_eq!(code(member.open(&fleet, leader, hello("w-0")).await), Code::PermissionDenied);
    assert!(admin.release_agent(v1::ReleaseAgentRequest { agent: "w-0".into() }).await.unwrap().into_inner().released);
    assert_eq!(code(member.enrol(&fleet, leader, renewal).await), Code::Unauthenticated, "it is forgotten");
    member.enrol(&fleet, leader, with_token).await.expect("it may enrol again");
    assert_eq!(code(read(&member).await), Code::Ok);
}

#[tokio::test(start_paused = true)]
async fn where_enrolment_is_open_anyone_becomes_a_worker_or_a_specialist_and_nothing_more() {
    let (fleet, leader) = secured(Enrolment::Open).await;
    for (role, expected) in [
        (v1::Role::Worker, Code::Ok),
        (v1::Role::Specialist, Code::Ok),
        (v1::Role::Messenger, Code::PermissionDenied),
        (v1::Role::Guardian, Code::PermissionDenied),
    ] {
        let mut member = TestMember::newcomer();
        let mut request = member.request(role.as_str_name(), None);
        request.role = role.into();
        assert_eq!(code(member.enrol(&fleet, leader, request).await), expected, "{role:?}");
    }
    let stranger = TestMember::newcomer();
    assert_eq!(code(stranger.fleet(&fleet, leader).get_status(v1::GetStatusRequest::default()).await), Code::Ok);
    let pools = stranger.admin(&fleet, leader).set_pools(v1::SetPoolsRequest::default()).await;
    assert_eq!(code(pools), Code::Unauthenticated);
    // The fleet's configuration closes it.
    let admin = TestMember::certified(&fleet, PeerRole::Client, "root");
    let closed = v1::SetTrustRequest { enrolment: v1::EnrolmentMode::Proof.into(), ..v1::SetTrustRequest::default() };
    retried(async || admin.admin(&fleet, leader).set_trust(closed.clone()).await).await.unwrap();
    let mut late = TestMember::newcomer();
    let request = late.request("late", None);
    assert_eq!(code(late.enrol(&fleet, leader, request).await), Code::Unauthenticated);
    let status = stranger.fleet(&fleet, leader).get_status(v1::GetStatusRequest::default()).await;
    assert_eq!(code(status), Code::Unauthenticated);
}

#[tokio::test(start_paused = true)]
async fn who_can_read_the_join_directory_enrols_in_any_pool_and_role() {
    let (fleet, leader) = secured(Enrolment::Proof).await;
    let secret = fleet.disks[leader].read(&Path::new(JOIN).join("join.secret")).await.unwrap();
    let secret = JoinSecret::from_text(str::from_utf8(&secret).unwrap()).unwrap();
    for (name, role, pool) in [("w-0", v1::Role::Worker, "data"), ("g-0", v1::Role::Guardian, "")] {
        let mut member = TestMember::newcomer();
        let mut request = member.request(name, Some(Proof::JoinSecret(secret.bytes().to_vec().into())));
        (request.role, request.pool) = (role.into(), pool.into());
        member.enrol(&fleet, leader, request).await.expect("it is the secret");
    }
    let written = fleet.disks[leader].read(&Path::new(JOIN).join("trust.crt")).await.unwrap();
    assert_eq!(written, fleet.security.as_ref().unwrap().certifier.bundle.pem());
    let mut member = TestMember::newcomer();
    let wrong = member.request("w-1", Some(Proof::JoinSecret(vec![0; 32].into())));
    assert_eq!(code(member.enrol(&fleet, leader, wrong).await), Code::Unauthenticated);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_of_the_agent_that_the_certificate_names_and_of_no_other() {
    let (fleet, leader) = secured(Enrolment::Proof).await;
    let member = enrolled(&fleet, leader, "w-0").await;
    let mut others = vec![hello("w-0"); 4];
    others[0].name = "w-1".into();
    others[1].role = v1::Role::Guardian.into();
    others[2].pool = "other".into();
    others[3].cluster_id = "elsewhere".into();
    for other in others {
        assert_eq!(code(member.open(&fleet, leader, other.clone()).await), Code::PermissionDenied, "{other:?}");
    }
    assert_eq!(code(TestMember::newcomer().open(&fleet, leader, hello("w-0")).await), Code::Unauthenticated);
    let opened = member.open(&fleet, leader, hello("w-0")).await.expect("it is its own");
    assert!(matches!(opened.first, ToAgent::Welcome(_)), "{:?}", opened.first);

    // A process without a token of this name can't take it from a live agent.
    let mut rival = TestMember::newcomer();
    let any = rival.request("w-0", token(&fleet, leader, "").await);
    assert_eq!(code(rival.enrol(&fleet, leader, any).await), Code::AlreadyExists);
    // With one, it can; then the name is no longer the first one's.
    let named = rival.request("w-0", token(&fleet, leader, "w-0").await);
    rival.enrol(&fleet, leader, named).await.expect("the token names the agent");
    drop(opened);
    let refused = member.open(&fleet, leader, hello("w-0")).await.err().expect("it is refused");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("another process has enrolled as the agent w-0"), "{}", refused.message());
    let mut again = hello("w-0");
    again.incarnation = 2;
    rival.open(&fleet, leader, again).await.expect("the name is its own");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_was_removed_opens_nothing_after_its_release_before_it_has_proved_again_who_it_is() {
    let (fleet, leader) = secured(Enrolment::Proof).await;
    let mut member = enrolled(&fleet, leader, "w-0").await;
    let mut admin = TestMember::certified(&fleet, PeerRole::Client, "root").admin(&fleet, leader);
    let kind = v1::BarKind::Removed.into();
    let bar = v1::BarAgentRequest { agent: "w-0".into(), kind, reason: "stolen".into(), known_only: true };
    admin.bar_agent(bar).await.unwrap();
    assert!(admin.release_agent(v1::ReleaseAgentRequest { agent: "w-0".into() }).await.unwrap().into_inner().released);
    let released = fleet.tested(leader).state.look(|state| state.revision());
    let everywhere = |fleet: &TestFleet| {
        fleet.running().into_iter().all(|n| fleet.tested(n).state.look(|state| state.revision()) >= released)
    };
    fleet.until("the release everywhere", everywhere).await;
    // Its certificate is valid for most of an hour.
    for pool in ["data", "another", ""] {
        let hello = Hello { pool: pool.into(), ..hello("w-0") };
        for at in fleet.running() {
            let refused = member.open(&fleet, at, hello.clone()).await.err().expect("it is refused");
            assert_eq!(refused.code(), Code::Unauthenticated, "{pool} {refused:?}");
            assert!(refused.message().contains("it has to enrol again"), "{refused}");
        }
    }
    let mut mailbox = TestMailbox::open_over(member.channel(&fleet, leader), "w-0").await.expect("it is asked for");
    assert_eq!(mailbox.next().await.expect_err("it has to enrol").code(), Code::Unauthenticated);
    let with_token = member.request("w-0", token(&fleet, leader, "w-0").await);
    member.enrol(&fleet, leader, with_token).await.expect("it is released");
    let opened = member.open(&fleet, leader, hello("w-0")).await.expect("it is its own");
    assert!(matches!(opened.first, ToAgent::Welcome(_)), "{:?}", opened.first);
}

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_has_not_heard_of_an_enrolment_yet_waits_for_it() {
    let (mut fleet, leader) = secured(Enrolment::Proof).await;
    let follower = fleet.followers(leader)[0];
    fleet.take_away(follower);
    let member = enrolled(&fleet, leader, "w-0").await;
    fleet.run(follower);
    let has_heard = |tested: Tested| tested.state.look(|state| state.enrolment_of("w-0").is_some());
    assert!(!fleet.up(follower).is_some_and(has_heard), "it was down meanwhile");
    let opened = retried(async || member.open(&fleet, follower, hello("w-0")).await).await.expect("it has enrolled");
    assert!(matches!(opened.first, ToAgent::Redirect(_)), "{:?}", opened.first);
}
