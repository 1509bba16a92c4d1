//! Access to a fleet through a fake API server: its responses, and the messages that users see.

mod credentials;
mod fake;

use std::time::Duration;

use robeing_proto::v1::Consistency;
use serde_json::json;
use tokio::net::TcpListener;

use self::fake::{CLUSTERS, Fake, PODS, TRUST, settings, tokens, with_fleet};
use super::*;
use crate::exit::Exit;

#[tokio::test]
async fn the_only_cluster_of_the_namespace_is_reached_through_its_leader() {
    let (fake, _running) = with_fleet().await;
    let mut cluster = fake.known().objects[&format!("{CLUSTERS}/f")].clone();
    cluster["status"]["leader"] = json!("f-coordinators-1");
    fake.put(&format!("{CLUSTERS}/f"), cluster);
    let found = fake.find(None).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(found.resource.phase(), "Degraded");
    assert_eq!(found.client.endpoints(), ["RobeingCluster team/f"]);
    let status = found.client.status(Consistency::Linearizable).await.expect("a coordinator answers");
    assert_eq!(status.cluster_id, "stub");
    let known = fake.known();
    assert_eq!(known.forwarded, ["f-coordinators-1"], "the first forward is used, and there is one only");
    let labels = known.queries.iter().find(|query| query.contains("labelSelector")).expect("pods were asked for");
    assert!(labels.contains("instance%3Df") && labels.contains("component%3Dcoordinator"), "{labels}");
}

#[tokio::test]
async fn another_pod_is_taken_when_one_dies() {
    let (fake, _running) = with_fleet().await;
    let found = fake.find(Some("f")).await.unwrap_or_else(|error| panic!("{error}"));
    found.client.status(Consistency::Local).await.expect("the first coordinator answers");
    fake.kill("f-coordinators-0").await;
    found.client.status(Consistency::Local).await.expect("the second coordinator answers");
    let forwarded = fake.known().forwarded.clone();
    assert_eq!(forwarded.first().map(String::as_str), Some("f-coordinators-0"));
    assert_eq!(forwarded.last().map(String::as_str), Some("f-coordinators-1"), "{forwarded:?}");
}

#[tokio::test]
async fn a_first_pod_that_can_not_be_forwarded_to_is_passed_over() {
    let (fake, _running) = with_fleet().await;
    fake.known().ports.remove("f-coordinators-0");
    let found = fake.find(Some("f")).await.unwrap_or_else(|error| panic!("{error}"));
    found.client.status(Consistency::Local).await.expect("the second coordinator answers");
    assert_eq!(fake.known().forwarded, ["f-coordinators-0", "f-coordinators-1"]);
}

#[tokio::test]
async fn when_all_die_the_sentence_names_the_cluster() {
    let (fake, _running) = with_fleet().await;
    let brief = Settings { request_timeout: Duration::from_secs(1), ..settings() };
    let found = find(&fake.place(Some("f")), Access::Use, false, brief).await.unwrap_or_else(|error| panic!("{error}"));
    fake.pods(&[]);
    fake.kill("f-coordinators-0").await;
    let error = found.client.status(Consistency::Local).await.expect_err("all are gone").to_string();
    assert!(error.starts_with("the fleet at RobeingCluster team/f has not answered for "), "{error}");
}

#[tokio::test]
async fn clusters_that_are_not_there_are_told_with_those_that_are() {
    let fake = Fake::new().await;
    let told = |sentence: &str, exit| (sentence.to_owned(), exit);
    assert_eq!(
        fake.refused(None).await,
        told("namespace \"team\" has no RobeingCluster; name another namespace with --namespace", Exit::NotFound)
    );
    assert_eq!(
        fake.refused(Some("x")).await,
        told("namespace \"team\" has no RobeingCluster \"x\"; it has none", Exit::NotFound)
    );
    fake.clusters(&["a", "b"]);
    assert_eq!(
        fake.refused(Some("x")).await,
        told("namespace \"team\" has no RobeingCluster \"x\"; it has a, b", Exit::NotFound)
    );
    assert_eq!(
        fake.refused(None).await,
        told("namespace \"team\" has 2 RobeingClusters; choose one with --cluster: a, b", Exit::Usage)
    );
    fake.known().objects.remove(CLUSTERS);
    let (sentence, exit) = fake.refused(None).await;
    assert!(sentence.contains("does not know RobeingClusters; install the chart robeing-crds"), "{sentence}");
    assert_eq!(exit, Exit::NotFound);
}

#[tokio::test]
async fn without_a_ready_coordinator_the_status_says_why() {
    let fake = Fake::new().await;
    fake.clusters(&["f"]);
    fake.pods(&[("f-coordinators-0", false), ("f-coordinators-1", false)]);
    assert_eq!(
        fake.refused(Some("f")).await,
        (
            "no coordinator of RobeingCluster team/f is ready: 2 of its 2 coordinators run; Degraded: no majority of the \
             coordinators answers (NoLeader)"
                .into(),
            Exit::Unreachable
        )
    );
}

#[tokio::test]
async fn a_coordinator_that_is_not_ready_answers_where_old_answers_will_do() {
    let (fake, _running) = with_fleet().await;
    fake.pods(&[("f-coordinators-0", false)]);
    let found =
        find(&fake.place(Some("f")), Access::Use, true, settings()).await.unwrap_or_else(|error| panic!("{error}"));
    found.client.status(Consistency::Local).await.expect("it answers");
}

#[tokio::test]
async fn a_missing_right_is_named() {
    let (fake, _running) = with_fleet().await;
    // Refuse all of them: when the first one refuses, another one is tried.
    let forward = format!("{PODS}/f-coordinators-");
    for (path, right, role) in [
        (CLUSTERS, "get robeingclusters", "view"),
        (PODS, "list pods", "view"),
        (TRUST, "get configmaps", "view"),
        (&tokens("f.user"), "create serviceaccounts/token for f.user", "edit"),
        (&forward, "get and create pods/portforward", "edit"),
    ] {
        fake.refuse(path, 403, "User \"ada\" cannot do that");
        let (sentence, exit) = fake.refused(Some("f")).await;
        assert_eq!(
            sentence,
            format!(
                "permission to {right} in namespace \"team\" is missing (User \"ada\" cannot do that); the ClusterRole \
                 {role:?} grants it"
            )
        );
        assert_eq!(exit, Exit::Refused);
        // The resource can still be read, so it can be shown.
        let told = resource(&fake.place(Some("f")), &settings()).await.ok();
        assert_eq!(told.map(|told| told.phase().to_owned()), (path != CLUSTERS).then(|| "Degraded".into()), "{right}");
        fake.known().refusals.clear();
    }
    fake.refuse("/", 401, "Unauthorized");
    let (sentence, exit) = fake.refused(Some("f")).await;
    assert_eq!(sentence, "Kubernetes does not accept the kubeconfig's credentials (Unauthorized); log in again");
    assert_eq!(exit, Exit::Refused);
}

#[tokio::test]
async fn an_api_server_that_is_away_or_is_none_is_told() {
    let fake = Fake::new().await;
    fake.put(CLUSTERS, json!("hello"));
    let (sentence, exit) = fake.refused(None).await;
    assert!(sentence.contains("does not respond like a Kubernetes API server"), "{sentence}");
    assert_eq!(exit, Exit::Unreachable);
    let nowhere = TcpListener::bind("127.0.0.1:0").await.expect("a port is free").local_addr().expect("it is bound");
    fake.write_kubeconfig(&nowhere.to_string());
    assert_eq!(
        fake.refused(None).await,
        (
            format!(
                "the API server of Kubernetes at http://{nowhere} does not answer (connection refused); see whether kubectl \
                 reaches it"
            ),
            Exit::Unreachable
        )
    );
}

#[tokio::test]
async fn a_kubeconfig_that_can_not_be_used_is_told() {
    let fake = Fake::new().await;
    let told = async |place: Location| {
        let error = find(&place, Access::Use, false, settings()).await.expect_err("it can't be used");
        (error.to_string(), error.exit())
    };
    let place = Location { context: Some("nowhere".into()), ..fake.place(None) };
    assert_eq!(
        told(place).await,
        ("the kubeconfig has no context \"nowhere\"; it has here, there".into(), Exit::Usage)
    );
    let file = fake.dir.path().join("missing");
    assert_eq!(
        told(Location { kubeconfig: Some(file.clone()), ..Default::default() }).await,
        (
            format!(
                "no kubeconfig at {}; name one with --kubeconfig or KUBECONFIG, or a coordinator with --endpoint",
                file.display()
            ),
            Exit::Local
        )
    );
    std::fs::write(&file, "apiVersion: v1\nkind: Config\n").expect("it can be written");
    assert_eq!(
        told(Location { kubeconfig: Some(file), ..Default::default() }).await,
        ("the kubeconfig has no current context; choose one with --context (it has none)".into(), Exit::Usage)
    );
}

#[tokio::test]
async fn the_namespace_is_the_contexts_unless_one_is_given() {
    let fake = Fake::new().await;
    for (context, namespace, expected) in [(None, None, "team"), (Some("there"), None, "other"), (None, Some("x"), "x")]
    {
        let place = Location {
            context: context.map(str::to_owned),
            namespace: namespace.map(str::to_owned),
            ..fake.place(None)
        };
        fake.put(&CLUSTERS.replace("team", expected), json!([]));
        let error = find(&place, Access::Use, false, settings()).await.expect_err("there is no cluster").to_string();
        assert!(error.starts_with(&format!("namespace {expected:?} has no")), "{error}");
    }
}
