//! The API server returns errors, closes connections, does not respond, or is killed: the operator ends or continues as
//! it should, and changes nothing.

use std::collections::BTreeMap;

use http::Method;
use kube::{
    Client, ResourceExt,
    api::{DeleteParams, ListParams},
};
use robeing_tests::operator::{Call, ControlPlane, Failure, Operator, OperatorSettings, Sort, until};

use crate::{CLUSTER, spec};

/// The number of lease renewals without other writes after which an operator counts as at rest.
const RENEWALS: usize = 8;
/// The number of requests to a failing API server that show that the operator keeps trying.
const TRIES: usize = 3;

type Versions = BTreeMap<String, (Option<String>, Option<String>)>;

/// Returns every object with its UID and resource version, including the clusters: while they are equal, nothing was
/// created, deleted or changed.
async fn versions(client: &Client, namespace: &str) -> Result<Versions, String> {
    let mut objects = ControlPlane::objects(client, namespace).await?;
    let clusters = ControlPlane::api(client, namespace, "robeingclusters").list(&ListParams::default()).await;
    let clusters = clusters.map_err(|error| error.to_string())?;
    objects.extend(clusters.into_iter().map(|object| ("RobeingCluster", object)));
    Ok(objects
        .into_iter()
        .map(|(kind, object)| (format!("{kind}/{}", object.name_any()), (object.uid(), object.resource_version())))
        .collect())
}

/// Starts an operator, and waits until it is at rest; returns it and its fleet's objects.
async fn rested(stage: &ControlPlane, client: &Client, settings: OperatorSettings) -> (Operator, Versions) {
    let namespace = settings.lease.clone();
    ControlPlane::namespace(client, &namespace).await;
    ControlPlane::create(client, &namespace, CLUSTER, &spec()).await;
    let mut operator = stage.operator(settings).await;
    until("a fleet", async || ControlPlane::get(client, &namespace, "deployments", "first-auto").await).await;
    operator.rests(RENEWALS).await;
    let before = versions(client, &namespace).await.expect("the objects");
    (operator, before)
}

fn short(namespace: &str) -> OperatorSettings {
    OperatorSettings { timings: ["3s", "2s", "200ms"], ..OperatorSettings::of(namespace) }
}

/// A new process applies everything once more: this must change and delete nothing. What it wrote before a write that
/// failed does not count, since it begins again after that.
fn assert_applied_once_at_most(operator: &Operator, mark: usize, objects: &Versions, what: &str) {
    let writes = operator.requests.since(mark).into_iter().filter(|call| call.sort == Sort::Write);
    let writes: Vec<_> = writes.collect();
    let lines = || writes.iter().map(Call::line).collect::<Vec<_>>();
    assert!(writes.iter().all(|call| call.method == Method::PATCH), "after {what}: {:#?}", lines());
    let has_failed = |call: &Call| call.status.is_none_or(|status| status >= 500);
    let begins = writes.iter().rposition(has_failed).map_or(0, |failed| failed + 1);
    assert!(writes.len() - begins < objects.len(), "after {what}: {:#?}", lines());
}

pub async fn an_outage_changes_nothing(stage: &ControlPlane, client: &Client) {
    let namespace = "outages";
    let (mut operator, before) = rested(stage, client, short(namespace)).await;
    for failure in [Failure::Unavailable, Failure::Closed, Failure::Silent] {
        let mark = operator.requests.mark();
        operator.requests.fail(failure);
        operator.loses_its_lease().await;
        // A process that a kubelet starts in the meantime waits, and does not end repeatedly.
        operator.restart();
        let again = operator.requests.mark();
        until("an operator that keeps trying", async || {
            let tried = operator.requests.mark() - again;
            assert!(operator.runs(), "{failure:?}: {}", operator.log());
            if tried >= TRIES { Ok(()) } else { Err(tried) }
        })
        .await;
        operator.requests.resume();
        operator.rests(RENEWALS).await;
        assert_applied_once_at_most(&operator, mark, &before, &format!("{failure:?}"));
        let after = versions(client, namespace).await.expect("the objects");
        assert_eq!(after, before, "after {failure:?}");
    }
    works(client, namespace).await;
    a_short_outage_ends_nobody(stage, client).await;
}

pub async fn the_api_server_is_killed(stage: &ControlPlane, client: &Client) {
    let namespace = "outages-crash";
    let (mut operator, before) = rested(stage, client, short(namespace)).await;
    let mark = operator.requests.mark();
    stage.crash().await;
    operator.loses_its_lease().await;
    operator.restart();
    stage.heal().await;
    let after = until("the API server responds", async || versions(client, namespace).await).await;
    assert_eq!(after, before, "the API server itself lost something");
    operator.rests(RENEWALS).await;
    assert_applied_once_at_most(&operator, mark, &before, "the API server's end");
    assert_eq!(versions(client, namespace).await.expect("the objects"), before);
    works(client, namespace).await;
}

/// Checks that the operator works again.
async fn works(client: &Client, namespace: &str) {
    let deleted = ControlPlane::api(client, namespace, "services").delete(CLUSTER, &DeleteParams::default()).await;
    deleted.unwrap_or_else(|error| panic!("a Service to delete: {error}"));
    until("a recreated Service", async || ControlPlane::get(client, namespace, "services", CLUSTER).await).await;
}

async fn a_short_outage_ends_nobody(stage: &ControlPlane, client: &Client) {
    let namespace = "outages-short";
    let (mut operator, before) = rested(stage, client, OperatorSettings::of(namespace)).await;
    let mark = operator.requests.mark();
    for failure in [Failure::Unavailable, Failure::Closed] {
        operator.requests.fail(failure);
        let failing = operator.requests.mark();
        until("requests that fail", async || {
            let tried = operator.requests.mark() - failing;
            if tried >= 4 * TRIES { Ok(()) } else { Err(tried) }
        })
        .await;
        operator.requests.resume();
        assert!(operator.runs(), "it ended too early: {}", operator.log());
    }
    operator.rests_after(operator.requests.mark(), RENEWALS).await;
    assert!(operator.runs(), "{}", operator.log());
    assert_eq!(operator.requests.lines(mark, Sort::Write), Vec::<String>::new());
    assert_eq!(versions(client, namespace).await.expect("the objects"), before);
    works(client, namespace).await;
}

/// The response to a write is lost on a connection that stays open: the cluster is reconciled again nevertheless.
pub async fn a_lost_answer_is_not_waited_for(stage: &ControlPlane, client: &Client) {
    let namespace = "outages-lost";
    ControlPlane::namespace(client, namespace).await;
    let operator = stage.operator(OperatorSettings::of(namespace)).await;
    operator.requests.lose("/services/");
    ControlPlane::create(client, namespace, CLUSTER, &spec()).await;
    until("a fleet", async || ControlPlane::get(client, namespace, "deployments", "first-auto").await).await;
    assert!(!operator.requests.has_yet_to_lose(), "no response was lost");
}
