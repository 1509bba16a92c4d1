//! Enrolments with a proof that is wrong, of another, or was used.

use robeing_identity::{Certificate, JoinSecret, PeerRole};
use robeing_proto::{
    internal::v1::{EnrolRequest, EnrolResponse, enrol_request::Proof, enrolment_client::EnrolmentClient},
    v1::{EnrolmentMode, PoolTrust, Role, SetTrustRequest, admin_client::AdminClient},
};
use robeing_tests::{
    counter::Counter,
    thief::{CLUSTER, Stolen, now},
    wait::{check, eventually},
};
use tonic::{Code, Status};

use super::{POOL, Scene, VICTIM, refused_calls};

const METHOD: &str = "robeing.internal.v1.Enrolment/Enrol";
const HOUR: u64 = 60 * 60 * 1_000;

/// Returns the request of a worker of the pool `data`.
fn request(identity: &Stolen, name: &str, proof: Option<Proof>) -> EnrolRequest {
    EnrolRequest {
        cluster_id: CLUSTER.into(),
        name: name.into(),
        role: Role::Worker.into(),
        pool: "data".into(),
        signing_request: identity.signing_request().into(),
        proof,
    }
}

/// The enrolment at one coordinator.
struct Door<'a> {
    scene: &'a Scene,
    coordinator: &'a str,
}

impl<'a> Door<'a> {
    fn of(scene: &'a Scene) -> Self {
        Self { scene, coordinator: "coordinator-0" }
    }

    /// Enrols; a coordinator that does not know yet what it must know is asked again.
    async fn enrol(&self, request: EnrolRequest) -> Result<EnrolResponse, Status> {
        let channel = self.scene.thief.nobody().channel(&self.scene.fleet.address(self.coordinator));
        eventually("an answer to an enrolment", async || {
            let answered = EnrolmentClient::new(channel.clone()).enrol(request.clone()).await;
            let is_away = matches!(&answered, Err(status) if status.code() == Code::Unavailable);
            check(!is_away, answered.map(tonic::Response::into_inner), "it is away")
        })
        .await
    }

    /// Enrols, which must be refused with this code and these words, and counted.
    async fn refuses(&self, request: EnrolRequest, code: Code, words: &str) {
        let metrics = self.scene.fleet.metrics_address(self.coordinator);
        let counter = Counter::of(&metrics, &refused_calls(METHOD, code)).await;
        let refused = self.enrol(request.clone()).await.err();
        let refused = refused.unwrap_or_else(|| panic!("{} was enrolled", request.name));
        assert_eq!(refused.code(), code, "{refused:?}");
        assert!(refused.message().contains(words), "{words:?} is not in {refused:?}");
        counter.rises_by(1).await;
    }
}

#[tokio::test]
async fn a_join_token_enrols_one_key_and_is_then_refused_everywhere() {
    let scene = Scene::start(3).await;
    let token = || Some(Proof::JoinToken(scene.thief.token(PeerRole::Worker, "data", None, now())));
    let used = token();
    let (first, thief) = (scene.thief.nobody(), scene.thief.nobody());
    let enrolled = Door::of(&scene).enrol(request(&first, "data-0", used.clone())).await;
    enrolled.expect("the token is new");
    for coordinator in scene.fleet.coordinators() {
        let door = Door { scene: &scene, coordinator: &coordinator };
        for name in ["data-0", "data-1"] {
            door.refuses(request(&thief, name, used.clone()), Code::Unauthenticated, "was used before").await;
        }
    }
    let enrolled = Door::of(&scene).enrol(request(&thief, "data-1", token())).await;
    enrolled.expect("another token is new");
}

#[tokio::test]
async fn a_join_token_that_is_not_for_this_agent_now_is_refused() {
    let scene = Scene::start(1).await;
    let (door, key) = (Door::of(&scene), scene.thief.nobody());
    let token = |role, pool, name, at| Some(Proof::JoinToken(scene.thief.token(role, pool, name, at)));
    let worker = PeerRole::Worker;
    for (proof, code, words) in [
        (None, Code::Unauthenticated, "has no proof"),
        (Some(Proof::JoinToken("robeing-join-1.x.y".into())), Code::Unauthenticated, "no join token"),
        (token(worker, "data", None, now() - 2 * HOUR), Code::Unauthenticated, "has expired"),
        (token(worker, "web", None, now()), Code::PermissionDenied, "for the pool \"web\""),
        (token(PeerRole::Guardian, "data", None, now()), Code::PermissionDenied, "for the role \"guardian\""),
        (token(worker, "data", Some("data-1"), now()), Code::PermissionDenied, "for the agent \"data-1\""),
        (
            Some(Proof::JoinToken(scene.thief.of_another_fleet().token(worker, "data", None, now()))),
            Code::Unauthenticated,
            "not of this fleet",
        ),
    ] {
        door.refuses(request(&key, "data-0", proof), code, words).await;
    }
    let right = token(worker, "data", Some("data-0"), now());
    let elsewhere = EnrolRequest { cluster_id: "another".into(), ..request(&key, "data-0", right.clone()) };
    door.refuses(elsewhere, Code::PermissionDenied, "this is cluster").await;
    door.enrol(request(&key, "data-0", right)).await.expect("none of these has used it up");
}

#[tokio::test]
async fn an_enrolment_that_is_replayed_helps_nobody_but_the_owner_of_the_key() {
    let scene = Scene::start(1).await;
    let door = Door::of(&scene);
    let token = || Some(Proof::JoinToken(scene.thief.token(PeerRole::Worker, "data", Some("data-0"), now())));
    let (first, second, thief) = (scene.thief.nobody(), scene.thief.nobody(), scene.thief.nobody());
    let recorded = request(&first, "data-0", token());
    door.enrol(recorded.clone()).await.expect("the token is new");
    let again = door.enrol(recorded.clone()).await.expect("the owner of the key may have lost the answer");
    let stated = Certificate::from_der(&again.certificate).expect("a certificate");
    assert_eq!(stated.key, first.key(), "the certificate is of the key that only the agent has");
    // With another key in it, or with a request that its key has not signed, it is refused.
    let replaced = EnrolRequest { signing_request: thief.signing_request().into(), ..recorded.clone() };
    door.refuses(replaced, Code::Unauthenticated, "was used before").await;
    let mut forged = recorded.signing_request.to_vec();
    *forged.last_mut().expect("it is not empty") ^= 1;
    let forged = EnrolRequest { signing_request: forged.into(), ..recorded.clone() };
    door.refuses(forged, Code::InvalidArgument, "signing request").await;

    // The agent restarts with another key and token; what was recorded before brings nothing more.
    door.enrol(request(&second, "data-0", token())).await.expect("the token is new");
    door.refuses(recorded, Code::Unauthenticated, "was used before").await;
}

#[tokio::test]
async fn the_name_and_certificate_of_another_agent_can_not_be_had() {
    let scene = Scene::start(1).await;
    let (door, thief) = (Door::of(&scene), scene.thief.nobody());
    let of_victim = |proof| EnrolRequest { pool: POOL.into(), ..request(&thief, VICTIM, proof) };
    // A renewal is for the key that has enrolled.
    door.refuses(of_victim(None), Code::Unauthenticated, "has no proof").await;
    let token = |name| Some(Proof::JoinToken(scene.thief.token(PeerRole::Worker, POOL, name, now())));
    door.refuses(of_victim(token(Some("victim-1"))), Code::PermissionDenied, "for the agent \"victim-1\"").await;
    door.refuses(of_victim(token(None)), Code::AlreadyExists, VICTIM).await;
    let agents = scene.fleet.agents().await;
    assert_eq!(agents.iter().map(|agent| agent.name.as_str()).collect::<Vec<_>>(), [VICTIM]);
}

/// Sets the digests of the join secrets of the pools `data` and `web`, the newest first.
async fn set_secrets(scene: &Scene, data: &[&JoinSecret], web: &JoinSecret) {
    let pool = |name: &str, secrets: &[&JoinSecret]| PoolTrust {
        pool: name.into(),
        role: Role::Worker.into(),
        join_secret_digests: secrets.iter().map(|secret| secret.digest().to_vec().into()).collect(),
        ..PoolTrust::default()
    };
    let request = SetTrustRequest {
        enrolment: EnrolmentMode::Proof.into(),
        pools: vec![pool("data", data), pool("web", &[web])],
        ..SetTrustRequest::default()
    };
    let channel = scene.thief.certified(PeerRole::Operator, "operator").channel(&scene.coordinator);
    eventually("the secrets are set", async || AdminClient::new(channel.clone()).set_trust(request.clone()).await)
        .await;
}

#[tokio::test]
async fn the_secret_of_a_pool_is_for_its_pool_and_role_until_it_is_rotated() {
    let scene = Scene::start(1).await;
    let door = Door::of(&scene);
    let [first, second, third, web] = [(); 4].map(|()| JoinSecret::generate().expect("random numbers"));
    let with = |name: &str, secret: &JoinSecret| {
        request(&scene.thief.nobody(), name, Some(Proof::JoinSecret(secret.bytes().to_vec().into())))
    };
    let refused = "not a join secret of the pool \"data\"";
    set_secrets(&scene, &[&first], &web).await;
    door.enrol(with("data-0", &first)).await.expect("it is the secret of the pool");
    door.refuses(with("data-1", &web), Code::Unauthenticated, refused).await;
    let elsewhere = EnrolRequest { pool: "web".into(), ..with("web-0", &first) };
    door.refuses(elsewhere, Code::Unauthenticated, "of the pool \"web\"").await;
    let no_pool = EnrolRequest { pool: String::new(), ..with("free-0", &first) };
    door.refuses(no_pool, Code::Unauthenticated, "of the pool \"\"").await;
    let guardian = EnrolRequest { role: Role::Guardian.into(), ..with("data-2", &first) };
    door.refuses(guardian, Code::PermissionDenied, "for the role \"worker\"").await;
    door.refuses(with("data-3", &second), Code::Unauthenticated, refused).await;

    // While it is rotated, the two newest are accepted.
    set_secrets(&scene, &[&second, &first], &web).await;
    door.enrol(with("data-4", &first)).await.expect("the one before is still accepted");
    door.enrol(with("data-5", &second)).await.expect("so is the new one");
    set_secrets(&scene, &[&third, &second], &web).await;
    door.refuses(with("data-6", &first), Code::Unauthenticated, refused).await;
    door.enrol(with("data-6", &second)).await.expect("the one before is still accepted");
    set_secrets(&scene, &[&third], &web).await;
    door.refuses(with("data-7", &second), Code::Unauthenticated, refused).await;
    door.enrol(with("data-7", &third)).await.expect("the new one is");
}
