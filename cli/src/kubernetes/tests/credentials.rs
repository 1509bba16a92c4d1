//! The credentials with which a fleet on Kubernetes is reached.

use std::time::Duration;

use robeing_client::Settings;
use robeing_proto::v1::Consistency;
use serde_json::{Value, json};

use super::fake::{CLUSTERS, Fake, TRUST, settings, tokens, with_fleet, with_plain_fleet};
use crate::{
    exit::Exit,
    kubernetes::{Access, Location, credentials, find},
};

/// Returns the accounts whose tokens were requested, in order.
fn requested(fake: &Fake) -> Vec<String> {
    let known = fake.known();
    let account = |(path, _): &(String, Value)| path.rsplit('/').nth(1).unwrap_or_default().to_owned();
    known.token_requests.iter().map(account).collect()
}

#[tokio::test]
async fn a_coordinator_is_shown_a_token_of_the_accounts_that_is_made_for_it_alone() {
    let (fake, running) = with_fleet().await;
    let found = fake.find(Some("f")).await.unwrap_or_else(|error| panic!("{error}"));
    found.client.status(Consistency::Local).await.expect("a coordinator answers over TLS");
    assert_eq!(running.stub.shared().authorizations, [Some("Bearer token-1".to_owned())]);
    assert_eq!(requested(&fake), ["f.user"]);
    let body = fake.known().token_requests[0].1.clone();
    assert_eq!((&body["apiVersion"], &body["kind"]), (&"authentication.k8s.io/v1".into(), &"TokenRequest".into()));
    assert_eq!(body["spec"], json!({"audiences": ["robeing"], "expirationSeconds": 3600}));
}

#[tokio::test]
async fn who_administers_gets_another_account_unless_one_is_named() {
    let (fake, _running) = with_fleet().await;
    fake.put(&tokens("own"), json!({}));
    let mut place = fake.place(Some("f"));
    credentials(&place, Access::Administer, &settings()).await.unwrap_or_else(|error| panic!("{error}"));
    place.service_account = Some("own".into());
    credentials(&place, Access::Administer, &settings()).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(requested(&fake), ["f.admin", "own"]);
}

#[tokio::test]
async fn a_fleet_of_which_nothing_says_whom_to_trust_is_reached_without_a_token() {
    let (fake, running) = with_plain_fleet().await;
    let found = fake.find(Some("f")).await.unwrap_or_else(|error| panic!("{error}"));
    found.client.status(Consistency::Local).await.expect("a coordinator answers without TLS");
    assert_eq!(running.stub.shared().authorizations, [None]);
    assert_eq!(requested(&fake), Vec::<String>::new());
}

#[tokio::test]
async fn a_fleet_that_moves_to_tls_is_reached_before_its_coordinators_speak_it() {
    let (fake, running) = with_fleet().await;
    let plain = running.endpoints[0].parse().expect("it is an address");
    for pod in ["f-coordinators-0", "f-coordinators-1"] {
        fake.known().ports.insert(pod.into(), plain);
    }
    let path = format!("{CLUSTERS}/f");
    let mut cluster = fake.known().objects[&path].clone();
    let condition = json!({"type": "Identity", "status": "False", "reason": "MovingToTls", "message": "it moves"});
    cluster["status"]["conditions"] = json!([condition]);
    fake.put(&path, cluster);
    let found = fake.find(Some("f")).await.unwrap_or_else(|error| panic!("{error}"));
    found.client.status(Consistency::Local).await.expect("a coordinator answers without TLS");
    assert_eq!(running.stub.shared().authorizations, [None], "a token is sent over TLS alone");
}

#[tokio::test]
async fn a_coordinator_that_another_authority_certified_gets_no_call() {
    let (fake, running) = with_fleet().await;
    let (other, _) = with_fleet().await;
    let trust = other.known().objects[TRUST].clone();
    fake.put(TRUST, trust);
    let place = fake.place(Some("f"));
    let brief = Settings { request_timeout: Duration::from_secs(2), ..settings() };
    let found = find(&place, Access::Use, false, brief).await.unwrap_or_else(|error| panic!("{error}"));
    found.client.status(Consistency::Local).await.expect_err("the coordinator is not trusted");
    assert_eq!(running.stub.shared().calls, 0);
}

#[tokio::test]
async fn a_token_that_is_too_old_is_replaced_before_another_connection_is_made() {
    let (fake, running) = with_fleet().await;
    fake.put(&tokens("f.user"), json!({"spec": {"expirationSeconds": 0}}));
    let found = fake.find(Some("f")).await.unwrap_or_else(|error| panic!("{error}"));
    // The call that opens the connection may still carry the token from before.
    for _ in 0..2 {
        found.client.status(Consistency::Local).await.expect("a coordinator answers");
    }
    let shown = running.stub.shared().authorizations[1].clone().expect("a token");
    assert_ne!(shown, "Bearer token-1", "that one had ended");
    // The authorities are read again, too.
    fake.known().objects.remove(TRUST);
    let asked = requested(&fake).len();
    fake.kill("f-coordinators-0").await;
    found.client.status(Consistency::Local).await.expect("the second coordinator answers");
    assert_eq!(requested(&fake).len(), asked, "the fleet is being deleted");
}

#[tokio::test]
async fn an_account_or_authorities_that_are_not_there_are_told() {
    let (fake, _running) = with_fleet().await;
    let place = Location { service_account: Some("none".into()), ..fake.place(Some("f")) };
    let error = credentials(&place, Access::Use, &settings()).await.expect_err("there is no such account");
    assert_eq!(
        error.to_string(),
        "namespace \"team\" has no ServiceAccount \"none\"; name another one with --service-account, or see whether the \
         operator could create it: `kubectl describe robeingclusters`"
    );
    assert_eq!(error.exit(), Exit::NotFound);
    for (data, problem) in [(json!({}), "it has no key trust.crt"), (json!({"trust.crt": "x"}), "")] {
        fake.put(TRUST, json!({"data": data}));
        let (sentence, exit) = fake.refused(Some("f")).await;
        let start = format!("ConfigMap team/f-trust should contain the trusted authorities, but {problem}");
        assert!(sentence.starts_with(&start), "{sentence}");
        assert_eq!(exit, Exit::Unreachable);
    }
}

#[tokio::test]
async fn an_answer_without_a_token_is_no_answer_of_an_api_server() {
    let (fake, _running) = with_fleet().await;
    fake.known().makes_none = true;
    let (sentence, exit) = fake.refused(Some("f")).await;
    assert!(sentence.ends_with("(its answer to a TokenRequest contains no token)"), "{sentence}");
    assert_eq!(exit, Exit::Unreachable);
}
