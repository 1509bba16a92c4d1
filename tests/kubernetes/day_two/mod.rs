//! What the operator promises for an existing fleet, on a real Kubernetes of three nodes, while tasks run: changed
//! numbers of coordinators, suspension, pools that shrink while they are busy, a lost disk, a lost node, a pool that
//! does not run, and the end of the operator itself. Each step checks the results of its tasks and the output of
//! `kubectl`. `make e2e E2E=day_two` runs it.

mod kills;

use std::collections::{BTreeMap, BTreeSet};

use robeing_client::FleetClient;
use robeing_crds::{Phase, condition_types as types};
use robeing_proto::v1::Consistency;
use robeing_tests::kubernetes::{
    CLUSTER, COUNT, Deployed, Forwards, POOL, Running, SYSTEM, USERLAND, WORKER, WORKERLAND, exercises, exercises_of,
    kill_program_of, states, step, under_load,
};
use serde_json::json;

/// The number of agents in the pool.
const AGENTS: u32 = 4;
/// The largest number of coordinators.
const MOST: u32 = 5;
/// The number of tasks in a round of load, and the seconds that each takes: 16 run at once.
const ROUND: usize = 40;
const SECONDS: u32 = 2;
/// The agents' termination grace period, shorter than the default so that the loss of a node is reported earlier.
const GRACE_SECONDS: u32 = 10;
/// The pool that does not run at first, and its agents' specialization.
const BROKEN: &str = "letters";
const LETTERS: &str = "letter_writing";
/// Does the same as the command of the other pool, over HTTP.
const SERVER: &str = r#"mkdir -p /tmp/www/cgi-bin
cat > /tmp/www/cgi-bin/run <<'END'
#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
read -r seconds; sleep "$seconds"; echo "$HTTP_ROBEING_TASK_ID $HTTP_ROBEING_ATTEMPT" $(wc -w)
END
chmod 755 /tmp/www/cgi-bin/run
exec httpd -f -p 127.0.0.1:8000 -h /tmp/www"#;
/// Events that must never occur here, with the failure message.
const UNHARMED: [(&str, &str); 1] = [("QuorumLost", "a majority stays up")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_is_kept_through_what_happens_to_it() {
    let deployed = step("a cluster with both charts", Deployed::start()).await;
    let forwards = Forwards::start(deployed.cluster().clients(), MOST as usize);
    let client = step("a fleet of one coordinator", a_fleet_of_one(&deployed, &forwards)).await;
    step("coordinators 1, 3, 5, 3 under load", coordinators_come_and_go(&deployed, &client)).await;
    step("suspended and resumed under load", it_is_suspended_and_resumed(&deployed, &client)).await;
    step("a busy pool shrinks", a_busy_pool_shrinks(&deployed, &client)).await;
    step("a lost disk", a_disk_is_lost(&deployed, &client)).await;
    step("a lost node", a_node_is_lost(&deployed, &client)).await;
    step("a pool that does not run", a_pool_does_not_run(&deployed, &client)).await;
    step("a pool of processes that attach", processes_attach(&deployed, &client)).await;
    step("the operator's end", the_operator_ends(&deployed, &client)).await;
    step("the operator is killed in each of its steps", kills::killed_in_each_step(&deployed, &client)).await;
    step("a StatefulSet is deleted while it shrinks", a_set_is_deleted_while_it_shrinks(&deployed, &client)).await;
    step("removal", deployed.down()).await;
}

async fn a_fleet_of_one(deployed: &Deployed, forwards: &Forwards) -> FleetClient {
    let mut fleet = Deployed::fleet();
    fleet["spec"]["suspend"] = json!(false);
    fleet["spec"]["coordinators"]["replicas"] = json!(1);
    fleet["spec"]["pools"][0]["replicas"] = json!(AGENTS);
    fleet["spec"]["pools"][0]["template"] = json!({"terminationGracePeriodSeconds": GRACE_SECONDS});
    deployed.apply(&fleet).await;
    deployed.until_whole(1, AGENTS).await;
    forwards.client().await
}

fn coordinator(ordinal: u32) -> String {
    format!("{CLUSTER}-coordinators-{ordinal}")
}

fn claim(coordinator: &str) -> String {
    format!("data-{coordinator}")
}

/// Returns the name, node id and vote of each member.
async fn members(client: &FleetClient) -> Result<Vec<(String, String, bool)>, String> {
    let status = client.status(Consistency::Linearizable).await.map_err(|error| error.to_string())?;
    Ok(status.coordinators.into_iter().map(|member| (member.name, member.node_id, member.voter)).collect())
}

async fn coordinators_come_and_go(deployed: &Deployed, client: &FleetClient) {
    let since = deployed.mark().await;
    let first = deployed.claims().await.expect("the claims");
    let change = async {
        for replicas in [3, 5] {
            deployed.change("/spec/coordinators/replicas", json!(replicas)).await;
            deployed.until_whole(replicas, AGENTS).await;
        }
        let grown = deployed.claims().await.expect("the claims");
        assert_eq!(grown.len(), MOST as usize, "{grown:?}");
        deployed.change("/spec/coordinators/replicas", json!(3)).await;
        deployed.until("two coordinators fewer", async || votes_go_before_pods(deployed, client).await).await;
        deployed.until_whole(3, AGENTS).await;
        grown
    };
    let grown = under_load(client, ROUND, SECONDS, change).await;
    for ordinal in 1..MOST {
        let name = coordinator(ordinal);
        deployed.told(&since, "CoordinatorAdded", &format!("{name} is now a voter")).await;
        if ordinal >= 3 {
            deployed.told(&since, "CoordinatorRemoved", &format!("{name} is no longer a voter")).await;
        }
    }
    deployed.never_told(&since, &UNHARMED).await;
    // The disks of the removed coordinators are deleted, and no others.
    let kept: BTreeMap<_, _> =
        grown.into_iter().filter(|(name, _)| (0..3).any(|k| *name == claim(&coordinator(k)))).collect();
    assert!(first.iter().all(|(name, uid)| kept.get(name) == Some(uid)), "{first:?} was there, {kept:?} is");
    deployed
        .until("the disks of three coordinators", async || {
            let claims = deployed.claims().await?;
            if claims == kept { Ok(()) } else { Err(format!("{claims:?}")) }
        })
        .await;
}

/// Returns `Ok` if three members and three pods are left. Checks that no member has a vote whose pod is already gone.
async fn votes_go_before_pods(deployed: &Deployed, client: &FleetClient) -> Result<(), String> {
    let staying = deployed.staying("coordinator").await?;
    let members = members(client).await?;
    let early = members.iter().find(|(name, _, voter)| *voter && !staying.contains_key(name));
    assert!(early.is_none(), "{early:?} still has a vote, but only the pods {staying:?} are left");
    let numbers = (members.len(), deployed.pods("coordinator").await?.len());
    if numbers == (3, 3) { Ok(()) } else { Err(format!("{numbers:?} members and pods")) }
}

async fn until_ended(deployed: &Deployed, running: &Running, wanted: usize) {
    deployed
        .until(&format!("{wanted} tasks that ended"), async || {
            let ended = running.ended();
            assert!(ended >= wanted || !running.is_over(), "the submission failed when {ended} had ended");
            if ended >= wanted { Ok(()) } else { Err(format!("{ended}, of {} accepted", running.accepted())) }
        })
        .await;
}

async fn it_is_suspended_and_resumed(deployed: &Deployed, client: &FleetClient) {
    let since = deployed.mark().await;
    let coordinators = deployed.staying("coordinator").await.expect("pods");
    let begun = Running::start(client, exercises(4 * ROUND, SECONDS));
    until_ended(deployed, &begun, 10).await;
    deployed.change("/spec/suspend", json!(true)).await;
    deployed.told(&since, "Suspended", "The pools are scaled to zero").await;
    let suspended = deployed
        .until_status("a fleet that is suspended", |status| {
            let (agents, voters) = (&status.agents, status.coordinators.voters);
            if (agents.ready, agents.desired, voters) != (0, 0, 3) {
                return Err(format!("{agents:?}, {voters} voters"));
            }
            let expected = [
                (types::SUSPENDED, "True", "Suspended"),
                (types::READY, "False", "Suspended"),
                (types::PROGRESSING, "False", "AsSpecified"),
                (types::DEGRADED, "False", "AsExpected"),
                (types::QUORUM_HEALTHY, "True", "LeaderElected"),
            ];
            states(status, &expected)
        })
        .await;
    assert_eq!(suspended.phase, Some(Phase::Suspended));
    // Tasks that are submitted now are accepted, and wait with the others.
    let later = Running::start(client, exercises(ROUND, 0));
    deployed
        .until("tasks that all wait, and no agent's pod", async || {
            let waiting = 5 * ROUND as u64 - begun.ended() as u64;
            let tasks = deployed.status().await?.tasks;
            let (pods, accepted) = (deployed.pods("agent").await?.len(), later.accepted());
            let as_wanted = (tasks.running, tasks.queued, pods, accepted) == (0, waiting, 0, ROUND);
            if as_wanted { Ok(()) } else { Err(format!("{tasks:?}, {waiting} wait, {pods} pods, {accepted} accepted")) }
        })
        .await;
    assert!(!begun.is_over() && later.ended() == 0, "there was no agent to run them");
    assert_eq!(deployed.staying("coordinator").await.expect("pods"), coordinators, "the coordinators stay");

    deployed.change("/spec/suspend", json!(false)).await;
    deployed.told(&since, "Resumed", "The pools are scaled to the sizes in the spec").await;
    begun.soundly().await;
    later.soundly().await;
    deployed.until_whole(3, AGENTS).await;
    deployed.all_drained(&since).await;
    deployed.never_told(&since, &UNHARMED).await;
}

/// Returns the agents that have tasks.
async fn busy(client: &FleetClient) -> Result<BTreeSet<String>, String> {
    let agents = client.list_agents(false, Consistency::Linearizable).await.map_err(|error| error.to_string())?;
    Ok(agents.into_iter().filter(|agent| agent.used_slots > 0).map(|agent| agent.name).collect())
}

async fn a_busy_pool_shrinks(deployed: &Deployed, client: &FleetClient) {
    let size = async |agents: usize| deployed.change("/spec/pools/0/replicas", json!(agents)).await;
    size(6).await;
    deployed.until_whole(3, 6).await;
    let since = deployed.mark().await;
    // Longer than the termination grace period, so that the last agent to leave hands its task back.
    let long = Running::start(client, exercises(3, 2 * GRACE_SECONDS));
    deployed
        .until("three agents at work", async || {
            let busy = busy(client).await?;
            if busy.len() == 3 { Ok(()) } else { Err(format!("{busy:?}")) }
        })
        .await;
    for (from, to) in [(6, 3), (3, 2)] {
        size(to).await;
        deployed.told(&since, "PoolScaled", &format!("from {from} to {to} agents")).await;
        let left = deployed
            .until(&format!("{to} agents"), async || {
                let left: BTreeSet<String> = deployed.staying("agent").await?.into_keys().collect();
                if left.len() == to { Ok(left) } else { Err(format!("{left:?}")) }
            })
            .await;
        // A leaving agent hands back its task only after this check.
        let busy = busy(client).await.unwrap_or_else(|error| panic!("{error}"));
        assert!(left.is_subset(&busy), "{left:?} are left, but {busy:?} are busy");
    }
    assert_eq!(long.ended(), 0, "all were busy until now");
    long.soundly().await;
    deployed.until_whole(3, 2).await;
    deployed.all_drained(&since).await;
    deployed.never_told(&since, &UNHARMED).await;
    size(AGENTS as usize).await;
    deployed.until_whole(3, AGENTS).await;
}

/// Returns a coordinator that is not the leader.
async fn follower(deployed: &Deployed) -> String {
    let leader = deployed.status().await.expect("a status").leader.expect("a leader");
    (0..3).map(coordinator).find(|name| *name != leader).expect("two of three are followers")
}

async fn node_ids(client: &FleetClient) -> BTreeMap<String, String> {
    let members = members(client).await.unwrap_or_else(|error| panic!("{error}"));
    members.into_iter().map(|(name, id, _)| (name, id)).collect()
}

/// Deletes a coordinator's disk and its pod, as documented.
async fn delete_disk_and_pod(deployed: &Deployed, name: &str) {
    deployed.kubectl(&["delete", "pvc", &claim(name), "--wait=false"]).await;
    deployed.kubectl(&["delete", "pod", name]).await;
}

/// Waits until there are three voters, of which only this coordinator is new and has a new disk.
async fn until_replaced(
    deployed: &Deployed,
    client: &FleetClient,
    name: &str,
    ids: &BTreeMap<String, String>,
    disks: &BTreeMap<String, String>,
) {
    deployed
        .until(&format!("a new {name} that is a voter"), async || {
            let members = members(client).await?;
            let voters: BTreeMap<_, _> =
                members.iter().filter(|(.., voter)| *voter).map(|(name, id, _)| (name.clone(), id.clone())).collect();
            let changed: Vec<&String> = voters.keys().filter(|name| voters.get(*name) != ids.get(*name)).collect();
            let as_wanted = members.len() == 3 && voters.len() == 3 && changed == [name];
            if as_wanted { Ok(()) } else { Err(format!("{members:?} instead of {ids:?}")) }
        })
        .await;
    let now = deployed.claims().await.expect("the claims");
    let changed: Vec<&String> = now.keys().filter(|disk| now.get(*disk) != disks.get(*disk)).collect();
    assert_eq!(changed, [&claim(name)], "{now:?}, before {disks:?}");
    deployed.until_whole(3, AGENTS).await;
}

async fn a_disk_is_lost(deployed: &Deployed, client: &FleetClient) {
    let since = deployed.mark().await;
    let (name, ids) = (follower(deployed).await, node_ids(client).await);
    let disks = deployed.claims().await.expect("the claims");
    let lose = async {
        delete_disk_and_pod(deployed, &name).await;
        until_replaced(deployed, client, &name, &ids, &disks).await;
    };
    under_load(client, ROUND, SECONDS, lose).await;
    deployed.told(&since, "CoordinatorReplaced", &format!("{name} is a new coordinator")).await;
    deployed.never_told(&since, &UNHARMED).await;
}

/// Waits until the message of the condition `Degraded` contains all of these words.
async fn until_degraded(deployed: &Deployed, words: &[&str]) {
    deployed
        .until_status("a fleet that reports what is wrong", |status| {
            let degraded = status.conditions.iter().find(|condition| condition.type_ == types::DEGRADED);
            let message = degraded.map(|degraded| degraded.message.as_str()).unwrap_or_default();
            let missing: Vec<_> = words.iter().filter(|word| !message.contains(**word)).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} is not in {message:?}")) }
        })
        .await;
}

async fn a_node_is_lost(deployed: &Deployed, client: &FleetClient) {
    if deployed.cluster().control_plane().is_none() {
        eprintln!(
            "NOT TESTED: the loss of a node, which is impossible in an existing cluster; unset KUBECONFIG to create one"
        );
        return;
    }
    let (node, name, agents) = deployed.victim().await;
    let (ids, disks) = (node_ids(client).await, deployed.claims().await.expect("the claims"));
    let since = deployed.mark().await;
    // Every slot is taken, so that every agent has something to lose.
    let running = Running::start(client, exercises(ROUND, 10));
    deployed
        .until_status("agents that are all at work", |status| {
            let running = status.tasks.running;
            if running == u64::from(4 * AGENTS) { Ok(()) } else { Err(format!("{running} tasks run")) }
        })
        .await;
    let operator_too = deployed.node_of_active().await == node;
    eprintln!("=== the active operator is on that node: {operator_too}");
    deployed.cluster().crash(&node).await.expect("a node can be crashed");
    step("losses are reported, and work continues", async {
        deployed.told_lost(&since, &agents, operator_too).await;
        let lost = format!("{name} (node {node}, disk {})", claim(&name));
        deployed.told(&since, "CoordinatorDown", &lost).await;
        running.soundly().await;
    })
    .await;
    under_load(client, ROUND, SECONDS, a_lost_node_is_given_up(deployed, &node, &name)).await;
    step("a new disk elsewhere", async {
        delete_disk_and_pod(deployed, &name).await;
        until_replaced(deployed, client, &name, &ids, &disks).await;
    })
    .await;
    deployed.told(&since, "CoordinatorReplaced", &format!("{name} is a new coordinator")).await;
    deployed.told(&since, "Recovered", "").await;
    deployed.never_told(&since, &UNHARMED).await;

    // The node returns after all, and nothing changes.
    let members = node_ids(client).await;
    deployed.cluster().heal(&node).await.expect("a node can be healed");
    deployed
        .until("the node", async || {
            let ready = "--output=jsonpath={.status.conditions[?(@.type=='Ready')].status}";
            let ready = deployed.try_kubectl(&["get", "node", &node, ready]).await?;
            if ready == "True" { Ok(()) } else { Err(ready) }
        })
        .await;
    deployed.until_whole(3, AGENTS).await;
    assert_eq!(node_ids(client).await, members);
}

/// The agents are recreated on other nodes; the coordinator and its disk wait for an administrator.
async fn a_lost_node_is_given_up(deployed: &Deployed, node: &str, name: &str) {
    let down = format!("{name} (node {node}, disk {})", claim(name));
    let unended = format!("node {node} does not confirm that the pod has terminated");
    step("the loss of the node is reported", until_degraded(deployed, &[&down, &unended])).await;
    deployed
        .until_status("all agents without that node", |status| {
            states(status, &[(types::QUORUM_HEALTHY, "True", "LeaderElected"), (types::READY, "True", "FleetReady")])?;
            let agents = &status.agents;
            if (agents.ready, agents.desired) == (AGENTS, AGENTS) { Ok(()) } else { Err(format!("{agents:?}")) }
        })
        .await;
    deployed.kubectl(&["delete", "node", node]).await;
    let unschedulable = format!("its disk is PersistentVolumeClaim {}", claim(name));
    step("its coordinator waits for its disk", until_degraded(deployed, &[&unschedulable])).await;
}

async fn a_pool_does_not_run(deployed: &Deployed, client: &FleetClient) {
    let since = deployed.mark().await;
    let container = |command: &str| json!({"image": USERLAND, "command": ["/bin/sh", "-ec", command]});
    let pool = json!({
        "name": BROKEN, "role": "Specialist", "specializations": [LETTERS], "replicas": 1,
        "executor": {"http": {"url": "http://127.0.0.1:8000/cgi-bin/run"}},
        "container": container("echo the licence is missing >&2; exit 3"),
        "template": {"terminationGracePeriodSeconds": GRACE_SECONDS},
        "resources": {"requests": {"cpu": "20m", "memory": "16Mi"}},
    });
    deployed.patch(json!([{"op": "add", "path": "/spec/pools/-", "value": pool}])).await;
    let note = deployed.told(&since, "CrashLooping", &format!("Pool \"{BROKEN}\" fails")).await;
    assert!(note.contains("\"executor\"") && note.contains("exit code 3"), "{note}");
    assert!(note.contains("the licence is missing"), "{note}");
    let degraded = [(types::DEGRADED, "True", "CrashLooping"), (types::QUORUM_HEALTHY, "True", "LeaderElected")];
    deployed.until_status("a fleet that reports what fails", |status| states(status, &degraded)).await;
    // The other pool works as before.
    Running::start(client, exercises(ROUND, 0)).soundly().await;

    let since = deployed.mark().await;
    deployed.change("/spec/pools/1/container", container(SERVER)).await;
    deployed.told(&since, "Recovered", "").await;
    deployed.until_whole(3, AGENTS + 1).await;
    Running::start(client, exercises_of(LETTERS, 10, 1)).soundly().await;
    deployed.patch(json!([{"op": "remove", "path": "/spec/pools/1"}])).await;
    deployed.until_whole(3, AGENTS).await;
}

/// The task of a process that dies is run by the other one; its pod becomes ready again once a new process has
/// attached.
async fn processes_attach(deployed: &Deployed, client: &FleetClient) {
    let pool = json!({
        "name": BROKEN, "role": "Specialist", "specializations": [LETTERS], "replicas": 2, "slots": 2,
        "executor": {"worker": {}},
        "container": {"image": WORKERLAND, "command": [format!("/{WORKER}"), "/bin/sh", "-c", COUNT]},
        "template": {"terminationGracePeriodSeconds": GRACE_SECONDS},
        "resources": {"requests": {"cpu": "20m", "memory": "16Mi"}},
    });
    deployed.patch(json!([{"op": "add", "path": "/spec/pools/-", "value": pool}])).await;
    deployed.until_whole(3, AGENTS + 2).await;
    let load = Running::start(client, exercises_of(LETTERS, 20, 2));
    let victim = deployed
        .until("a process that runs a task", async || {
            let agents = client.list_agents(false, Consistency::Local).await.map_err(|error| error.to_string())?;
            let busy = agents.iter().find(|agent| agent.pool == BROKEN && agent.used_slots > 0);
            busy.map(|agent| agent.name.clone()).ok_or_else(|| format!("{agents:?}"))
        })
        .await;
    let uid = deployed.staying("agent").await.expect("pods").remove(&victim).expect("its pod");
    assert_eq!(kill_program_of(&uid, WORKER), 1);
    load.soundly().await;
    deployed.until_whole(3, AGENTS + 2).await;
    let restarted = deployed.json(&["get", "pod", &victim]).await.expect("its pod");
    assert_eq!(restarted["metadata"]["uid"], uid.as_str());
    let status = &restarted["status"];
    assert_eq!(status["initContainerStatuses"][0]["restartCount"], 1, "{status:#}");
    assert_eq!(status["containerStatuses"][0]["restartCount"], 0, "its agent was not restarted: {status:#}");
    deployed.patch(json!([{"op": "remove", "path": "/spec/pools/1"}])).await;
    deployed.until_whole(3, AGENTS).await;
}

async fn until_another(deployed: &Deployed, than: &str) -> String {
    deployed
        .until(&format!("another operator than {than}"), async || match deployed.active_operator().await? {
            same if same == than => Err(same),
            other => Ok(other),
        })
        .await
}

/// Returns the UIDs and restart counts of all pods of the fleet that are not being deleted.
async fn lives(deployed: &Deployed) -> BTreeMap<String, (String, u64)> {
    let mut lives = BTreeMap::new();
    for component in ["coordinator", "agent"] {
        let pods = deployed.pods(component).await.expect("pods").into_iter();
        for pod in pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()) {
            let text = |field: &str| pod["metadata"][field].as_str().unwrap_or_default().to_owned();
            let containers = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
            let restarts = containers.filter_map(|container| container["restartCount"].as_u64()).sum();
            lives.insert(text("name"), (text("uid"), restarts));
        }
    }
    lives
}

async fn the_operator_ends(deployed: &Deployed, client: &FleetClient) {
    let since = deployed.mark().await;
    let before = lives(deployed).await;
    let within = ["--namespace", SYSTEM];
    let delete = async |arguments: &[&str]| {
        let deleted = deployed.cluster().kubectl(&[&["delete"], &within[..], arguments].concat()).await;
        deleted.unwrap_or_else(|error| panic!("{error}"));
    };
    let ends = async {
        let first = deployed.active_operator().await.unwrap_or_else(|error| panic!("{error}"));
        // Deleted without grace, so that it can't release the lease.
        delete(&["pod", &first, "--grace-period=0", "--force"]).await;
        let second = step("the other replica takes over", until_another(deployed, &first)).await;
        delete(&["pods", "--selector=app.kubernetes.io/name=robeing-operator"]).await;
        step("two new replicas take over", until_another(deployed, &second)).await;
        deployed.until_whole(3, AGENTS).await;
    };
    under_load(client, ROUND, SECONDS, ends).await;
    assert_eq!(lives(deployed).await, before, "no pod of the fleet was touched");
    deployed.never_told(&since, &[UNHARMED[0], ("RolloutStarted", "nothing changed")]).await;
    // The new operator acts on changes.
    deployed.change("/spec/pools/0/replicas", json!(2)).await;
    deployed.told(&since, "PoolScaled", &format!("Pool {POOL:?} was scaled from {AGENTS} to 2 agents")).await;
    deployed.until_whole(3, 2).await;
}

/// The pods are orphaned, and have votes: none may be deleted before its vote is removed, and the fleet keeps its
/// state.
async fn a_set_is_deleted_while_it_shrinks(deployed: &Deployed, client: &FleetClient) {
    let since = deployed.mark().await;
    let set = format!("{CLUSTER}-coordinators");
    let before = deployed.json(&["get", "statefulset", &set]).await.expect("a StatefulSet");
    let shrink = async {
        deployed.kubectl(&["delete", "statefulset", &set, "--cascade=orphan", "--wait=false"]).await;
        deployed.change("/spec/coordinators/replicas", json!(1)).await;
        deployed.until_whole(1, 2).await;
        let after = deployed.json(&["get", "statefulset", &set]).await.expect("a StatefulSet");
        assert_ne!(after["metadata"]["uid"], before["metadata"]["uid"], "it was recreated");
        deployed.change("/spec/coordinators/replicas", json!(3)).await;
        deployed.until_whole(3, 2).await;
    };
    under_load(client, ROUND, SECONDS, shrink).await;
    for ordinal in [1, 2] {
        let gone = format!("{} is no longer a voter", coordinator(ordinal));
        deployed.told(&since, "CoordinatorRemoved", &gone).await;
    }
}
