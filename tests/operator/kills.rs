//! Killed right before and right after each write, a new process ends where the old one would have.

use futures::{StreamExt, stream};
use kube::Client;
use robeing_tests::operator::{ControlPlane, Essence, Operator, OperatorSettings, Sort, When, until};
use serde_json::{Value, json};

use crate::{CLUSTER, spec};

/// How many are killed at the same time, each in its namespace.
const AT_ONCE: usize = 6;
/// Renewals of the lease after which an operator that wrote nothing else has nothing else to write.
const RENEWALS: usize = 6;

/// What one operator did: the objects after a fleet was made and after it was changed, and the writes that each took.
pub struct Alone {
    /// After each phase.
    pub ends: [Essence; 2],
    /// In each phase.
    pub writes: [Vec<String>; 2],
}

/// A change that makes, changes and deletes objects.
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
    // Short, since each new process waits for the end of the lease of the one that was killed.
    OperatorSettings { timings: ["2s", "1500ms", "200ms"], ..OperatorSettings::of(namespace) }
}

/// Gives what an operator does that is not killed.
pub async fn killed_in_each_step(stage: &ControlPlane, client: &Client) -> Alone {
    let undisturbed = undisturbed(stage, client).await;
    let alone = &undisturbed;
    let [made, changed] = [&alone.writes[0], &alone.writes[1]];
    eprintln!("{} writes make a fleet of 3 coordinators and 2 pools: {made:#?}", made.len());
    eprintln!("{} writes change it: {changed:#?}", changed.len());
    let (kills, last) = kill_at_every_write(stage, client, alone).await;
    eprintln!("killed {kills} times, at up to {last} writes");
    assert!(last >= made.len().max(changed.len()) - 1, "killed at {last} writes only, of {made:?} and {changed:?}");
    undisturbed
}

/// How often there was a write at which to kill, and the last of them.
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

/// Whether the newest spec was reported on, and nothing was written since.
async fn ended(client: &Client, namespace: &str, operator: &Operator) -> Result<(), String> {
    operator.resting(RENEWALS).map_err(|seen| format!("{seen:?}"))?;
    let cluster = ControlPlane::get(client, namespace, "robeingclusters", CLUSTER).await?;
    let reported = cluster.data["status"]["observedGeneration"].as_i64();
    if reported.is_some() && reported == cluster.metadata.generation { Ok(()) } else { Err(format!("{cluster:?}")) }
}

/// In how many of the two phases there was a write at which to kill.
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
        let same = until("what an operator does that is not killed", async || {
            operator.restart_if_lost();
            ended(client, namespace, &operator).await?;
            let seen = ControlPlane::essence(client, namespace).await?;
            if seen == *wanted { Ok(()) } else { Err(difference(wanted, &seen)) }
        });
        same.await;
    }
    kills
}

/// What of the wanted objects is otherwise, by key.
pub fn difference(wanted: &Essence, seen: &Essence) -> String {
    let keys: std::collections::BTreeSet<&String> = wanted.keys().chain(seen.keys()).collect();
    let other = keys.into_iter().filter(|key| wanted.get(*key) != seen.get(*key));
    let line = |key: &String| format!("{key}\n  wanted {:?}\n  seen   {:?}", wanted.get(key), seen.get(key));
    other.map(line).collect::<Vec<_>>().join("\n")
}
