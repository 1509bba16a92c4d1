//! An operator is killed right before and right after each of its writes; a new process reaches the same result as one
//! that was not killed.

use futures::{StreamExt, stream};
use kube::Client;
use robeing_tests::operator::{ControlPlane, Essence, Operator, OperatorSettings, Sort, When, until};
use serde_json::{Value, json};

use crate::{CLUSTER, spec};

/// The number of operators that are tested concurrently, each in its own namespace.
const AT_ONCE: usize = 6;
/// The number of lease renewals without other writes after which an operator counts as at rest.
const RENEWALS: usize = 6;

/// The result of an operator that is not killed: the objects after a fleet was created and after it was changed, and
/// the writes of both phases.
pub struct Alone {
    /// The objects after each phase.
    pub ends: [Essence; 2],
    /// The writes in each phase.
    pub writes: [Vec<String>; 2],
}

/// A change that creates, changes and deletes objects.
fn change() -> Value {
    json!({"spec": {
        "image": "robeing:next",
        "coordinators": {"replicas": 1},
        "pools": [
            {"name": "data", "role": "Worker", "replicas": 4, "executor": {"echo": {}}},
            {"name": "more", "role": "Worker", "replicas": 1, "executor": {"echo": {}}},
        ],
    }})
}

fn settings(namespace: &str) -> OperatorSettings {
    // Short, since each new process waits until the lease of the killed one expires.
    OperatorSettings { timings: ["2s", "1500ms", "200ms"], ..OperatorSettings::of(namespace) }
}

/// Returns the result of an operator that is not killed.
pub async fn killed_in_each_step(stage: &ControlPlane, client: &Client) -> Alone {
    let undisturbed = undisturbed(stage, client).await;
    let alone = &undisturbed;
    let [made, changed] = [&alone.writes[0], &alone.writes[1]];
    eprintln!("{} writes create a fleet of 3 coordinators and 2 pools: {made:#?}", made.len());
    eprintln!("{} writes change it: {changed:#?}", changed.len());
    let (kills, last) = kill_at_every_write(stage, client, alone).await;
    eprintln!("killed {kills} times, up to write {last}");
    assert!(last >= made.len().max(changed.len()) - 1, "killed only up to write {last}, of {made:?} and {changed:?}");
    undisturbed
}

/// Returns the number of kills, and the number of the last write at which an operator was killed.
async fn kill_at_every_write(stage: &ControlPlane, client: &Client, alone: &Alone) -> (usize, usize) {
    let cases = (1..).flat_map(|nth| [(nth, When::Before), (nth, When::After)]);
    let cases = stream::iter(cases)
        .map(|(nth, when)| async move { (nth, killed_at(stage, client, nth, when, alone).await) })
        .buffered(AT_ONCE);
    let mut cases = std::pin::pin!(cases);
    let (mut kills, mut last) = (0, 0);
    while let Some((nth, killed)) = cases.next().await {
        if killed == 0 {
            break;
        }
        (kills, last) = (kills + killed, nth);
    }
    (kills, last)
}

async fn undisturbed(stage: &ControlPlane, client: &Client) -> Alone {
    let namespace = "kills-alone";
    ControlPlane::namespace(client, namespace).await;
    ControlPlane::create(client, namespace, CLUSTER, &spec()).await;
    let operator = stage.operator(settings(namespace)).await;
    let mut ends = Vec::new();
    let mut writes = Vec::new();
    for phase in 0..2 {
        let mark = operator.requests.mark();
        begin(client, namespace, phase).await;
        until("a phase to end", async || ended(client, namespace, &operator).await).await;
        ends.push(ControlPlane::essence(client, namespace).await.expect("the objects"));
        writes.push(operator.requests.lines(mark, Sort::Write));
    }
    assert_eq!(ends[0].keys().filter(|key| key.starts_with("Deployment/")).count(), 2, "{:#?}", ends[0]);
    assert!(ends[1].contains_key("Deployment/first-more"), "{:#?}", ends[1].keys());
    assert!(!ends[1].contains_key("Deployment/first-auto"), "{:#?}", ends[1].keys());
    let [first, second] = <[Essence; 2]>::try_from(ends).expect("two phases");
    let [made, changed] = <[Vec<String>; 2]>::try_from(writes).expect("two phases");
    Alone { ends: [first, second], writes: [made, changed] }
}

/// The first phase begins with the operator.
async fn begin(client: &Client, namespace: &str, phase: usize) {
    if phase == 1 {
        ControlPlane::patch(client, namespace, "robeingclusters", CLUSTER, &change()).await;
    }
}

/// Returns `Ok` if the newest spec is in the status, and nothing has been written since.
async fn ended(client: &Client, namespace: &str, operator: &Operator) -> Result<(), String> {
    operator.resting(RENEWALS).map_err(|seen| format!("{seen:?}"))?;
    let cluster = ControlPlane::get(client, namespace, "robeingclusters", CLUSTER).await?;
    let reported = cluster.data["status"]["observedGeneration"].as_i64();
    if reported.is_some() && reported == cluster.metadata.generation { Ok(()) } else { Err(format!("{cluster:?}")) }
}

/// Returns in how many of the two phases there was a write at which to kill.
async fn killed_at(stage: &ControlPlane, client: &Client, nth: usize, when: When, alone: &Alone) -> usize {
    let namespace = format!("kills-{}-{nth:02}", if when == When::Before { "before" } else { "after" });
    let namespace = namespace.as_str();
    ControlPlane::namespace(client, namespace).await;
    ControlPlane::create(client, namespace, CLUSTER, &spec()).await;
    let mut operator = stage.operator(settings(namespace)).await;
    let mut kills = 0;
    for phase in 0..2 {
        operator.requests.stop_at(nth, when);
        begin(client, namespace, phase).await;
        let stopped = until("a write at which to kill, or the end of a phase", async || {
            if operator.requests.has_stopped() {
                return Ok(true);
            }
            operator.restart_if_lost();
            ended(client, namespace, &operator).await.map(|()| false)
        });
        if stopped.await {
            operator.kill();
            operator.requests.resume();
            operator.restart();
            kills += 1;
        }
        operator.requests.resume();
        let wanted = &alone.ends[phase];
        let same = until("the result of an operator that is not killed", async || {
            operator.restart_if_lost();
            ended(client, namespace, &operator).await?;
            let seen = ControlPlane::essence(client, namespace).await?;
            if seen == *wanted { Ok(()) } else { Err(difference(wanted, &seen)) }
        });
        same.await;
    }
    kills
}

/// Returns the objects that differ, by key.
pub fn difference(wanted: &Essence, seen: &Essence) -> String {
    let keys: std::collections::BTreeSet<&String> = wanted.keys().chain(seen.keys()).collect();
    let other = keys.into_iter().filter(|key| wanted.get(*key) != seen.get(*key));
    let line = |key: &String| format!("{key}\n  wanted {:?}\n  seen   {:?}", wanted.get(key), seen.get(key));
    other.map(line).collect::<Vec<_>>().join("\n")
}
