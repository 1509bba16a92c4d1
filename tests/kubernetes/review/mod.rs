//! The example in `examples/review`, on a real Kubernetes, with the commands of its README. `make e2e E2E=review` runs
//! it.

use std::{fs, path::Path};

use robeing_tests::{
    documented,
    kubernetes::{Deployed, USERLAND, step},
    review::{README, Review},
    terminal::Terminal,
};
use serde_json::{Value, json};

/// The manifest of the example, as the README applies it.
const MANIFEST: &str = "examples/review/robeingcluster.yaml";

/// Returns the manifest for an image that is on the nodes but in no registry, and with requests that fit on nodes that
/// share a machine.
fn manifest() -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(MANIFEST);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut manifest: Value = serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{MANIFEST}: {error}"));
    manifest["metadata"]["namespace"] = json!("default");
    for pool in manifest["spec"]["pools"].as_array_mut().into_iter().flatten() {
        pool["resources"]["requests"] = json!({"cpu": "20m", "memory": "16Mi"});
        if !pool["container"].is_null() {
            pool["container"]["image"] = json!(USERLAND);
        }
    }
    manifest["spec"]["coordinators"]["resources"]["requests"] = json!({"cpu": "20m", "memory": "16Mi"});
    manifest
}

/// Returns commands by which a shell finds the cluster and kubectl.
fn environment(deployed: &Deployed) -> String {
    let clients = deployed.cluster().clients();
    let (kubeconfig, tools) = (clients.kubeconfig().display(), clients.path());
    format!("export KUBECONFIG='{kubeconfig}' PATH='{}':\"$PATH\"", tools.display())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn documents_are_reviewed_on_kubernetes_while_an_agent_dies_and_another_lies() {
    let blocks = documented::commands(README, "On Kubernetes");
    let [start, setup] = &blocks[..] else { panic!("two blocks: {blocks:?}") };
    let deployed = step("a cluster with both charts", Deployed::start()).await;
    let review = Review::new(Terminal::default(), &format!("{}\n{setup}", environment(&deployed)));
    let (apply, ready) = start.split_once('\n').expect("two commands");
    assert_eq!(apply, format!("kubectl apply -f {MANIFEST}"), "the test applies it with images that there are");
    deployed.apply(&manifest()).await;
    let wait: Vec<&str> = ready.strip_prefix("kubectl ").expect("it waits").split_whitespace().collect();
    let all = [&["--namespace", "default"], &wait[..]].concat();
    let ready = deployed.cluster().kubectl(&all).await;
    ready.unwrap_or_else(|error| panic!("{error}"));
    step("reviews, a death, a lie and a release", review.is_as_documented()).await;
    let deleted = deployed.cluster().kubectl(&["--namespace", "default", "delete", "rbc", "review"]).await;
    deleted.unwrap_or_else(|error| panic!("{error}"));
    step("removal", deployed.down()).await;
}
