//! 200 clusters created and deleted at once: the number of requests for each, that there are none at rest, that almost
//! none are reconciled at rest, and the memory that the operator uses.

use std::collections::BTreeMap;

use futures::{StreamExt, TryStreamExt, stream};
use kube::{
    Client, ResourceExt,
    api::{DeleteParams, ListParams, PostParams},
};
use robeing_tests::operator::{Call, ControlPlane, Operator, OperatorSettings, Sort, until};
use serde_json::json;

const CLUSTERS: usize = 200;
/// The number of clusters that are created or deleted concurrently.
const AT_ONCE: usize = 50;
/// The number of lease renewals at rest.
const RENEWALS: usize = 20;
/// The number of objects of each cluster: 7 for the coordinators, 4 for the identity of the members, 3 for each of the
/// two accounts for people, and a ServiceAccount and a Deployment for the pool.
const OBJECTS: usize = 19;
/// The maximum number of requests to create a cluster: one for each object, two that read whether there is an authority
/// already, and those for its status and events, which may change while the caches catch up.
const MOST_CALLS: usize = OBJECTS + 10;
/// What the operator reads at rest: the issuer of tokens every five minutes, and each authority every ten.
const READ_AT_REST: [&str; 3] = ["/.well-known/", "/openid/", "/secrets/"];
/// The maximum number of reconciles in a few seconds at rest: only watches and timers trigger a reconcile, and timers
/// do so after minutes.
const MOST_ROUNDS: u64 = CLUSTERS as u64 / 10;
const NAMESPACE: &str = "many";

pub async fn two_hundred_clusters(stage: &ControlPlane, client: &Client) {
    ControlPlane::namespace(client, NAMESPACE).await;
    // The default.
    let settings = OperatorSettings { poll: "3s", ..OperatorSettings::of(NAMESPACE) };
    let mut operator = stage.operator(settings).await;
    operator.rests(1).await;
    let alone = operator.memory().0;
    let mark = operator.requests.mark();
    create(client).await;
    until("all objects of all clusters", async || {
        assert!(operator.runs(), "{}", operator.log());
        // Counting the objects costs the API server more than creating some.
        let writes = operator.requests.lines(mark, Sort::Write).len();
        if writes < CLUSTERS * OBJECTS {
            return Err(writes);
        }
        let seen = count(client).await;
        if seen == CLUSTERS * OBJECTS { Ok(()) } else { Err(seen) }
    })
    .await;
    rests(&mut operator, "with all clusters").await;
    let calls = operator.requests.since(mark);
    per_cluster(&calls);
    let (with_all, most) = operator.memory();

    let mark = operator.requests.mark();
    delete(client).await;
    until("nothing is left", async || match count(client).await {
        0 => Ok(()),
        left => Err(left),
    })
    .await;
    rests(&mut operator, "after all are deleted").await;
    let calls = operator.requests.since(mark);
    let writes = operator.requests.lines(mark, Sort::Write);
    eprintln!(
        "{} requests during the deletion of {CLUSTERS} clusters, {} of them writes",
        without_lease(&calls),
        writes.len()
    );
    assert_eq!(count(client).await, 0, "recreated after its cluster was deleted: {writes:#?}");
    let (after, _) = operator.memory();
    eprintln!(
        "memory of the operator in MiB: {:.1} without clusters, {:.1} with {CLUSTERS} (at most {:.1}), {:.1} after them",
        mib(alone),
        mib(with_all),
        mib(most),
        mib(after),
    );
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

fn name(number: usize) -> String {
    format!("fleet-{number:03}")
}

async fn create(client: &Client) {
    let api = ControlPlane::api(client, NAMESPACE, "robeingclusters");
    let objects = (0..CLUSTERS).map(|number| {
        let object = json!({
            "apiVersion": "robeing.io/v1alpha1", "kind": "RobeingCluster", "metadata": {"name": name(number)},
            "spec": {
                "coordinators": {"replicas": 1},
                "pools": [{"name": "data", "role": "Worker", "replicas": 2, "executor": {"echo": {}}}],
            },
        });
        serde_json::from_value(object).expect("an object")
    });
    let made = stream::iter(objects).map(async |object| api.create(&PostParams::default(), &object).await);
    let made: Result<Vec<_>, _> = made.buffer_unordered(AT_ONCE).try_collect().await;
    made.unwrap_or_else(|error| panic!("{error}"));
}

async fn delete(client: &Client) {
    let api = ControlPlane::api(client, NAMESPACE, "robeingclusters");
    let deleted = stream::iter((0..CLUSTERS).map(name));
    let deleted = deleted.map(async |name| api.delete(&name, &DeleteParams::background()).await.map(drop));
    let deleted: Result<Vec<_>, _> = deleted.buffer_unordered(AT_ONCE).try_collect().await;
    deleted.unwrap_or_else(|error| panic!("{error}"));
}

/// Returns the number of objects of the kinds that the operator creates; all of them must be owned by their cluster.
async fn count(client: &Client) -> usize {
    let objects = ControlPlane::objects(client, NAMESPACE).await.unwrap_or_default();
    let orphans: Vec<String> = objects
        .iter()
        .filter(|(_, object)| object.owner_references().is_empty())
        .map(|(_, it)| it.name_any())
        .collect();
    assert_eq!(orphans, Vec::<String>::new(), "objects without an owner are never deleted");
    let clusters = ControlPlane::api(client, NAMESPACE, "robeingclusters").list(&ListParams::default()).await;
    objects.len() + if objects.is_empty() { clusters.map_or(1, |clusters| clusters.items.len()) } else { 0 }
}

/// Waits until the operator is at rest, and checks that it then only watches and renews the lease.
async fn rests(operator: &mut Operator, what: &str) {
    let since = operator.rests(RENEWALS).await;
    let (mark, ticks, rounds) = (operator.requests.mark(), operator.ticks(), operator.rounds().await);
    operator.rests_after(mark, RENEWALS).await;
    let rounds = operator.rounds().await - rounds;
    assert!(operator.runs(), "{}", operator.log());
    let calls = operator.requests.since(mark);
    let span = calls.last().map_or(0.0, |last| (last.at - calls[0].at).as_secs_f64());
    let used = (operator.ticks() - ticks) as f64 / 100.0;
    let at_rest = operator.requests.since(since);
    let is_read_seldom =
        |call: &Call| call.sort == Sort::Read && READ_AT_REST.iter().any(|path| call.path.contains(path));
    let others = at_rest.iter().filter(|call| matches!(call.sort, Sort::Read | Sort::Write));
    let others: Vec<String> = others.filter(|call| !is_read_seldom(call)).map(Call::line).collect();
    assert_eq!(others, Vec::<String>::new(), "requests at rest, {what}");
    eprintln!(
        "at rest {what}: {} requests in {span:.1} s, all watches or lease; {rounds} reconciles, {used:.1} s of CPU",
        calls.len()
    );
    assert!(rounds <= MOST_ROUNDS, "{rounds} reconciles in {span:.1} s at rest, {what}");
}

fn without_lease(calls: &[Call]) -> usize {
    calls.iter().filter(|call| matches!(call.sort, Sort::Read | Sort::Write)).count()
}

/// Checks the number of requests for each cluster.
fn per_cluster(calls: &[Call]) {
    let mut of: BTreeMap<String, Vec<String>> = (0..CLUSTERS).map(|number| (name(number), Vec::new())).collect();
    for call in calls.iter().filter(|call| matches!(call.sort, Sort::Read | Sort::Write)) {
        let named = call.path.find("fleet-").and_then(|at| call.path.get(at..at + "fleet-000".len()));
        let Some(calls) = named.and_then(|named| of.get_mut(named)) else { continue };
        calls.push(call.line());
    }
    let counts = || of.values().map(Vec::len);
    let (least, most) = (counts().min().unwrap_or(0), counts().max().unwrap_or(0));
    let total = without_lease(calls);
    eprintln!(
        "{total} requests created {CLUSTERS} clusters: {:.1} for each, {least} to {most} of them about its objects",
        total as f64 / CLUSTERS as f64
    );
    let worst = of.values().find(|calls| calls.len() == most);
    eprintln!("the most for one cluster: {worst:#?}");
    assert!(most <= MOST_CALLS, "{worst:#?}");
    assert!(total <= CLUSTERS * MOST_CALLS, "{total} requests in total");
}
