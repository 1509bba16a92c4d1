//! What the operator refuses to build, and what the API server refuses: both are reported, neither affects what runs,
//! and retries become rarer.

use kube::{
    Api, Client,
    api::{ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, PostParams},
};
use robeing_tests::operator::{ControlPlane, Operator, OperatorSettings, Sort, until};
use serde_json::{Value, json};

use crate::{CLUSTER, spec};

const NAMESPACE: &str = "refusals";
/// The number of lease renewals without other writes after which an operator counts as at rest.
const RENEWALS: usize = 6;
/// The number of attempts that are always refused after which the backoff is distinguishable from a pause of one
/// second.
const TIMES: usize = 5;
/// The minimum sum of the pauses between these attempts: 1, 2, 4 and 8 seconds, each shortened by up to a quarter at
/// random.
const PAUSES_SECONDS: u64 = 11;

pub async fn what_is_refused_harms_nothing_else(stage: &ControlPlane, client: &Client) {
    ControlPlane::namespace(client, NAMESPACE).await;
    ControlPlane::create(client, NAMESPACE, CLUSTER, &spec()).await;
    let mut operator = stage.operator(OperatorSettings::of(NAMESPACE)).await;
    until("a fleet", async || ControlPlane::get(client, NAMESPACE, "deployments", "first-auto").await).await;
    operator.rests(RENEWALS).await;
    a_pool_that_can_not_be_built_any_more_stays(client, &mut operator).await;
    an_object_that_is_refused_is_asked_ever_more_seldom(client, &operator).await;
    disks_that_are_there_have_room(client).await;
}

async fn pools(client: &Client, pools: Vec<Value>) {
    ControlPlane::patch(client, NAMESPACE, "robeingclusters", CLUSTER, &json!({"spec": {"pools": pools}})).await;
}

/// Waits until the status is that of the newest spec, and the message of `Degraded` contains `words`.
async fn until_degraded(client: &Client, words: &str) {
    until(&format!("{words:?} is reported"), async || {
        let cluster = ControlPlane::get(client, NAMESPACE, "robeingclusters", CLUSTER).await?;
        let (status, generation) = (&cluster.data["status"], cluster.metadata.generation);
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let degraded = conditions.into_iter().find(|condition| condition["type"] == "Degraded").unwrap_or_default();
        let told = degraded["message"].as_str().is_some_and(|message| message.contains(words));
        let current = status["observedGeneration"].as_i64() == generation;
        if told && current { Ok(()) } else { Err(format!("{degraded} of {}", status["observedGeneration"])) }
    })
    .await;
}

async fn a_pool_that_can_not_be_built_any_more_stays(client: &Client, operator: &mut Operator) {
    let before = ControlPlane::get(client, NAMESPACE, "deployments", "first-data").await.expect("a pool");
    let mut wrong = spec()["pools"].as_array().expect("pools").clone();
    wrong[0]["executor"] = json!({"worker": {}});
    wrong[0]["container"] = json!({"command": ["theirs"]});
    pools(client, wrong).await;
    until_degraded(client, "Pool \"data\" is not built").await;
    operator.rests(RENEWALS).await;
    let after =
        ControlPlane::get(client, NAMESPACE, "deployments", "first-data").await.expect("the pool is still there");
    assert_eq!(after.metadata.uid, before.metadata.uid);
    assert_eq!(after.data["spec"], before.data["spec"]);
    ControlPlane::get(client, NAMESPACE, "serviceaccounts", "first-data").await.expect("its account is kept");
    // Once it is removed from the spec, it is deleted.
    pools(client, vec![spec()["pools"][1].clone()]).await;
    until("the pool is gone", async || match ControlPlane::get(client, NAMESPACE, "deployments", "first-data").await {
        Ok(_) => Err("it is there"),
        Err(_) => Ok(()),
    })
    .await;
}

async fn an_object_that_is_refused_is_asked_ever_more_seldom(client: &Client, operator: &Operator) {
    let mark = operator.requests.mark();
    let mut broken = spec()["pools"][0].clone();
    // The schema accepts it, but the API server refuses the Deployment.
    broken["template"] = json!({"labels": {"no label": "x"}});
    pools(client, vec![spec()["pools"][1].clone(), broken]).await;
    until_degraded(client, "the API server refused to apply Deployment first-data").await;
    let asked = until("it is retried repeatedly", async || {
        let calls = operator.requests.since(mark).into_iter();
        let asked: Vec<_> =
            calls.filter(|call| call.sort == Sort::Write && call.path.contains("deployments/first-data")).collect();
        if asked.len() >= TIMES { Ok(asked) } else { Err(asked.len()) }
    })
    .await;
    let took = asked[TIMES - 1].at.duration_since(asked[0].at).as_secs();
    assert!(took >= PAUSES_SECONDS, "tried {TIMES} times within {took} s");
    // A change is not delayed by the backoff, and the refusal ends with its cause.
    pools(client, spec()["pools"].as_array().expect("pools").clone()).await;
    until("the new pool", async || ControlPlane::get(client, NAMESPACE, "deployments", "first-data").await).await;
    until_degraded(client, "Nothing is wrong").await;
}

/// A recreated StatefulSet starts with as many coordinators as have disks, whatever the spec contains.
async fn disks_that_are_there_have_room(client: &Client) {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "PersistentVolumeClaim"));
    let disks: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &kind);
    for ordinal in 0..5 {
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": format!("data-{CLUSTER}-coordinators-{ordinal}"), "labels": {
                "app.kubernetes.io/managed-by": "robeing-operator", "app.kubernetes.io/name": "robeing",
                "app.kubernetes.io/instance": CLUSTER, "app.kubernetes.io/component": "coordinator",
            }},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        });
        let claim = serde_json::from_value(claim).expect("a claim");
        disks.create(&PostParams::default(), &claim).await.expect("a claim is created");
    }
    let sets = ControlPlane::api(client, NAMESPACE, "statefulsets");
    let before = sets.get("first-coordinators").await.expect("a StatefulSet").metadata.uid;
    sets.delete("first-coordinators", &DeleteParams::background()).await.expect("it is deleted");
    until("a StatefulSet of five", async || {
        let set = ControlPlane::get(client, NAMESPACE, "statefulsets", "first-coordinators").await?;
        let (uid, replicas) = (set.metadata.uid, set.data["spec"]["replicas"].clone());
        if uid != before && replicas == 5 { Ok(()) } else { Err(format!("{uid:?} of {replicas}")) }
    })
    .await;
    let left = disks.list(&ListParams::default()).await.expect("the claims").items.len();
    assert_eq!(left, 5, "no disk is deleted while the members are unknown");
}
