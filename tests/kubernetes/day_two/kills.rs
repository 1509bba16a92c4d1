//! The operator is killed with SIGKILL after each of its visible steps, while coordinators are added, replaced and
//! removed under load. Its successor continues from that point, and never makes two voters unavailable at once,
//! whatever it finds half done.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
};

use robeing_client::FleetClient;
use robeing_tests::kubernetes::{Deployed, SYSTEM, kill_program_of, reconfigure, step, under_load};
use serde_json::json;
use tokio::time::{Duration, sleep};
use tokio_util::sync::CancellationToken;

use super::{MOST, ROUND, SECONDS, UNHARMED, claim, coordinator, members, node_ids, until_another};

/// The number of agents in the pool at this point.
const AGENTS: u32 = 2;
/// The minimum number of kills. The visible steps: two pods, disks and votes are added; five pods are replaced; two
/// votes, pods and disks are removed. Several of them may be seen at once.
const LEAST: u32 = 8;
/// The maximum number of kills, so that the test ends.
const MOST_KILLS: u32 = 60;
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Short, so that a successor need not wait long.
const LEASE: &str = "lease.duration=6s,lease.renewDeadline=4s,lease.retryPeriod=1s";

/// What is visible of the operator's steps: the members by node id with their votes, and the UIDs of pods and disks.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    members: BTreeMap<String, (String, bool)>,
    pods: BTreeMap<String, String>,
    disks: BTreeMap<String, String>,
}

async fn look(deployed: &Deployed, client: &FleetClient) -> Result<Seen, String> {
    let members = members(client).await?.into_iter().map(|(name, id, voter)| (id, (name, voter))).collect();
    Ok(Seen { members, pods: deployed.staying("coordinator").await?, disks: deployed.claims().await? })
}

impl Seen {
    /// Returns the voters that have no pod.
    fn away(&self) -> BTreeSet<&str> {
        let voters = self.members.values().filter(|(_, voter)| *voter).map(|(name, _)| name.as_str());
        voters.filter(|name| !self.pods.contains_key(*name)).collect()
    }
}

/// Kills the active operator after each visible change, until `stop` is cancelled.
async fn kill_at_each_change(deployed: &Deployed, client: &FleetClient, kills: &Cell<u32>, stop: &CancellationToken) {
    let mut last = look(deployed, client).await.unwrap_or_else(|error| panic!("{error}"));
    while !stop.is_cancelled() {
        // Nothing can be read while there is no leader.
        if let Ok(now) = look(deployed, client).await
            && now != last
        {
            assert!(now.away().len() <= 1, "{:?} are unavailable at once: {now:?}, before {last:?}", now.away());
            last = now;
            kill_active(deployed).await;
            kills.set(kills.get() + 1);
            assert!(kills.get() <= MOST_KILLS, "the changes never end: {last:?}");
        }
        sleep(LOOK_EVERY).await;
    }
}

async fn kill_active(deployed: &Deployed) {
    let active = deployed.active_operator().await.unwrap_or_else(|error| panic!("{error}"));
    let within = ["--namespace", SYSTEM];
    let uid = [&["get", "pod", &active, "--output=jsonpath={.metadata.uid}"], &within[..]].concat();
    let uid = deployed.cluster().kubectl(&uid).await.unwrap_or_else(|error| panic!("{error}"));
    if deployed.cluster().devkube().is_some() {
        kill_program_of(&uid, "robeing-operator");
    }
    // A new pod starts at once, whereas a restarted container would be delayed longer each time.
    let delete = [&["delete", "pod", &active, "--grace-period=0", "--force"], &within[..]].concat();
    deployed.cluster().kubectl(&delete).await.unwrap_or_else(|error| panic!("{error}"));
    until_another(deployed, &active).await;
}

pub async fn killed_in_each_step(deployed: &Deployed, client: &FleetClient) {
    let since = deployed.mark().await;
    let before = super::lives(deployed).await;
    let upgraded = reconfigure(deployed.cluster(), LEASE).await;
    upgraded.unwrap_or_else(|error| panic!("{error:#}"));
    deployed.until_whole(3, AGENTS).await;
    assert_eq!(super::lives(deployed).await, before, "another operator restarts no fleet");

    let (ids, disks) = (node_ids(client).await, deployed.claims().await.expect("the claims"));
    let (kills, stop) = (Cell::new(0), CancellationToken::new());
    let work = async {
        deployed.change("/spec/coordinators/replicas", json!(MOST)).await;
        step("five coordinators", deployed.until_whole(MOST, AGENTS)).await;
        deployed.change("/spec/coordinators/resources/requests/cpu", json!("21m")).await;
        step("all replaced", until_replaced(deployed)).await;
        deployed.change("/spec/coordinators/replicas", json!(3)).await;
        step("three coordinators", deployed.until_whole(3, AGENTS)).await;
        step("the disks of three", until_disks(deployed, &disks)).await;
        stop.cancel();
    };
    let hurt = async { tokio::join!(work, kill_at_each_change(deployed, client, &kills, &stop)) };
    under_load(client, ROUND, SECONDS, hurt).await;
    eprintln!("=== the operator was killed {} times", kills.get());
    assert!(kills.get() >= LEAST, "{} kills", kills.get());
    assert_eq!(node_ids(client).await, ids, "no coordinator lost its disk");
    deployed.until_whole(3, AGENTS).await;
    deployed.never_told(&since, &UNHARMED).await;
}

/// Waits until every coordinator has the requests of the spec, and the fleet is healthy.
async fn until_replaced(deployed: &Deployed) {
    deployed
        .until("new requests in every coordinator", async || {
            let pods = deployed.pods("coordinator").await?;
            let asks = |pod: &serde_json::Value| pod["spec"]["containers"][0]["resources"]["requests"]["cpu"].clone();
            let asked: Vec<_> = pods.iter().map(asks).collect();
            if asked.len() == MOST as usize && asked.iter().all(|cpu| cpu == "21m") {
                Ok(())
            } else {
                Err(format!("{asked:?}"))
            }
        })
        .await;
    deployed.until_whole(MOST, AGENTS).await;
}

async fn until_disks(deployed: &Deployed, disks: &BTreeMap<String, String>) {
    assert!((0..3).all(|ordinal| disks.contains_key(&claim(&coordinator(ordinal)))), "{disks:?}");
    deployed
        .until("the disks of the remaining coordinators", async || {
            let now = deployed.claims().await?;
            if now == *disks { Ok(()) } else { Err(format!("{now:?} instead of {disks:?}")) }
        })
        .await;
}
