//! 200 agents in 27 pods on three nodes, which send messages to each other while a node is cut off and the leader's pod
//! is deleted. `make e2e E2E=crowd` runs it.
//!
//! The operator's pools have one agent per pod. These pods, made like those of a pool, have eight each, which enrol with
//! join tokens of their own.

mod talk;

use std::{collections::BTreeMap, process::Command, sync::Arc};

use robeing_client::{FleetClient, new_message_id};
use robeing_proto::v1::{AgentState, Consistency, MessageCode, SendMessageRequest};
use robeing_tests::{
    kubernetes::{CLUSTER, Deployed, Forwards, NAMESPACE, pids_of, step},
    program::program,
};
use serde_json::{Value, json};
use talk::{Member, Talk};

/// The number of pods, and of agents in each.
const PODS: usize = 25;
const AGENTS: usize = 8;
/// The number of agents of the pool, in pods of their own.
const OF_POOL: u32 = 2;
/// The ports of the first agent of a pod: for other agents, and for its process.
const LISTEN: usize = 17_180;
const WORKER_LISTEN: usize = 18_080;
/// The name of the Secret with the join tokens, and where pods have their own.
const TOKENS: &str = "crowd-tokens";
const TOKENS_DIRECTORY: &str = "/var/run/crowd";
/// How many further messages of each agent must be accepted before the next step.
const BETWEEN_STEPS: usize = 3;
/// How many tokens are made at once.
const TOKENS_AT_ONCE: usize = 4;
/// Variables of a pool's agent that these agents must not have.
const NOT_OF_CROWD: [&str; 8] = [
    "ROBEING_NAME",
    "ROBEING_POOL",
    "ROBEING_SPECIALIZATIONS",
    "ROBEING_METRICS_LISTEN",
    "ROBEING_LISTEN",
    "ROBEING_SERVICE_ACCOUNT_TOKEN",
    "ROBEING_EXECUTOR",
    "ROBEING_DATA",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_agents_talk_while_a_node_is_cut_off_and_the_leader_is_deleted() {
    let deployed = step("a cluster with both charts", Deployed::start()).await;
    let mut fleet = Deployed::fleet();
    fleet["spec"]["pools"][0]["replicas"] = json!(OF_POOL);
    fleet["spec"]["coordinators"]["resources"]["limits"]["memory"] = json!("512Mi");
    deployed.apply(&fleet).await;
    deployed.until_settled(OF_POOL).await;
    let forwards = Forwards::start(deployed.cluster().clients(), 3);
    let client = forwards.client().await;
    let pods: Vec<String> = (0..PODS).map(|pod| format!("crowd-{pod}")).collect();
    step("200 tokens", make_tokens(&deployed, &pods)).await;
    step("200 agents in 25 pods", start_pods(&deployed, &client, &pods)).await;
    let (talk, threads) = attach(&deployed, &pods).await;
    step("everybody talks", go_on(&deployed, &talk, |_| true)).await;
    step("a node is cut off and the leader's pod deleted", it_is_hurt(&deployed, &talk, &pods)).await;
    step("a broadcast", broadcast(&deployed, &client)).await;
    talk.end();
    let ended = tokio::task::spawn_blocking(move || threads.into_iter().map(|thread| thread.join()).collect());
    let ended: Result<Vec<()>, _> = ended.await.expect("no panic");
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    talk.check();
    eprintln!("=== outcomes: {:?}", talk.outcomes());
    step("removal", deployed.down()).await;
}

fn agents_of(pod: &str) -> Vec<String> {
    (0..AGENTS).map(|agent| format!("{pod}-{agent}")).collect()
}

/// Makes a join token as a user does.
fn token(kubeconfig: &std::path::Path, name: &str) -> String {
    let mut command = Command::new(program("robeing"));
    command.env("KUBECONFIG", kubeconfig).args(["--namespace", NAMESPACE, "--cluster", CLUSTER]);
    let output = command.args(["token", "create", "--quiet", "--name", name]).output().expect("the command runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

async fn make_tokens(deployed: &Deployed, pods: &[String]) {
    let names: Vec<String> = pods.iter().flat_map(|pod| agents_of(pod)).collect();
    let kubeconfig = deployed.cluster().clients().kubeconfig().to_owned();
    let makers: Vec<_> = names
        .chunks(names.len().div_ceil(TOKENS_AT_ONCE))
        .map(|names| {
            let (names, kubeconfig) = (names.to_vec(), kubeconfig.clone());
            tokio::task::spawn_blocking(move || {
                names.into_iter().map(|name| (name.clone(), token(&kubeconfig, &name))).collect::<Vec<_>>()
            })
        })
        .collect();
    let mut tokens = BTreeMap::new();
    for maker in makers {
        tokens.extend(maker.await.expect("no panic"));
    }
    let secret = json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": TOKENS, "namespace": NAMESPACE},
        "stringData": tokens,
    });
    deployed.apply(&secret).await;
}

/// Starts one agent per token, each with ports and a journal of its own.
fn script() -> String {
    let numbers: Vec<String> = (0..AGENTS).map(|agent| agent.to_string()).collect();
    format!(
        r#"for i in {numbers}; do
ROBEING_NAME=$CROWD_POD-$i ROBEING_JOIN_TOKEN=$(cat {TOKENS_DIRECTORY}/$CROWD_POD-$i) \
ROBEING_LISTEN=0.0.0.0:$(({LISTEN} + i)) ROBEING_WORKER_LISTEN=127.0.0.1:$(({WORKER_LISTEN} + i)) \
ROBEING_DATA=/var/lib/robeing/$i "$0" &
done
wait"#,
        numbers = numbers.join(" ")
    )
}

/// Returns a pod of the crowd, which is like one of the pool.
fn crowd_pod(of_pool: &Value, name: &str) -> Value {
    let mut spec = of_pool["spec"].clone();
    let fields = spec.as_object_mut().expect("a pod has a spec");
    for chosen in ["nodeName", "topologySpreadConstraints", "priority", "preemptionPolicy"] {
        fields.remove(chosen);
    }
    spec["tolerations"] = json!([{"operator": "Exists", "effect": "NoExecute"}]);
    spec["terminationGracePeriodSeconds"] = json!(1);
    spec["topologySpreadConstraints"] = json!([{
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"crowd": "true"}},
    }]);
    let items: Vec<Value> = agents_of(name).iter().map(|agent| json!({"key": agent, "path": agent})).collect();
    let tokens = json!({"name": "tokens", "secret": {"secretName": TOKENS, "items": items, "defaultMode": 288}});
    spec["volumes"].as_array_mut().expect("it has volumes").push(tokens);
    let container = &mut spec["containers"][0];
    let agent = container["command"][0].clone();
    container["command"] = json!(["/bin/sh", "-c", script(), agent]);
    container["resources"] = json!({"requests": {"cpu": "20m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}});
    let parts = container.as_object_mut().expect("a container");
    for part in ["ports", "livenessProbe", "readinessProbe", "startupProbe", "args"] {
        parts.remove(part);
    }
    let environment = container["env"].as_array_mut().expect("it has variables");
    environment.retain(|variable| !NOT_OF_CROWD.iter().any(|name| variable["name"] == **name));
    environment.push(json!({"name": "CROWD_POD", "value": name}));
    environment.push(json!({"name": "ROBEING_EXECUTOR", "value": r#"{"worker":{}}"#}));
    let mounts = container["volumeMounts"].as_array_mut().expect("it has volumes");
    mounts.push(json!({"name": "tokens", "mountPath": TOKENS_DIRECTORY, "readOnly": true}));
    let metadata = json!({"name": name, "namespace": NAMESPACE, "labels": {"crowd": "true"}});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
}

async fn start_pods(deployed: &Deployed, client: &FleetClient, pods: &[String]) {
    let of_pool = deployed.pods("agent").await.expect("the pool's pods").swap_remove(0);
    let items: Vec<Value> = pods.iter().map(|name| crowd_pod(&of_pool, name)).collect();
    deployed.apply(&json!({"apiVersion": "v1", "kind": "List", "items": items})).await;
    deployed
        .until("200 more agents", async || {
            let agents =
                client.list_agents(false, Consistency::Linearizable).await.map_err(|error| error.to_string())?;
            let live = agents.iter().filter(|agent| agent.state() == AgentState::Live).count();
            let wanted = PODS * AGENTS + OF_POOL as usize;
            if live == wanted { Ok(()) } else { Err(format!("{live} of {wanted} live")) }
        })
        .await;
}

/// Attaches a process to each agent of the crowd.
async fn attach(deployed: &Deployed, pods: &[String]) -> (Arc<Talk>, Vec<std::thread::JoinHandle<()>>) {
    let members = pods.iter().flat_map(|pod| {
        let names = agents_of(pod).into_iter().enumerate();
        names.map(|(at, name)| Member { name, attaches_at: format!("127.0.0.1:{}", WORKER_LISTEN + at) })
    });
    let talk = Talk::of(members.collect());
    let mut threads = Vec::new();
    for (at, pod) in pods.iter().enumerate() {
        let pod = deployed.pod(pod).await;
        let uid = pod["metadata"]["uid"].as_str().expect("a pod has a uid");
        let found = pids_of(uid, "robeing-agent");
        let first = *found.first().unwrap_or_else(|| panic!("no agent runs in pod {uid}"));
        threads.push(talk.attach(first, (at * AGENTS..(at + 1) * AGENTS).collect()));
    }
    (talk, threads)
}

/// Waits until further messages of each of these agents are accepted.
async fn go_on(deployed: &Deployed, talk: &Talk, of: impl Fn(usize) -> bool) {
    let before = talk.accepted();
    deployed
        .until("further messages of all agents are accepted", async || {
            let accepted = talk.accepted();
            let behind = (0..accepted.len()).filter(|at| of(*at) && accepted[*at] < before[*at] + BETWEEN_STEPS);
            let behind: Vec<usize> = behind.collect();
            if behind.is_empty() { Ok(()) } else { Err(format!("agents {behind:?}; outcomes {:?}", talk.outcomes())) }
        })
        .await;
}

/// Cuts off a node with a follower, and deletes the leader's pod: for a while there is no majority, and agents that can
/// reach each other go on.
async fn it_is_hurt(deployed: &Deployed, talk: &Talk, pods: &[String]) {
    let (node, coordinator, _) = deployed.victim().await;
    let before = deployed.status().await.expect("a status");
    let (leader, term) = (before.leader.expect("a leader"), before.term.expect("a term"));
    let mut cut_off = Vec::new();
    for pod in pods {
        cut_off.push(deployed.pod(pod).await["spec"]["nodeName"] == node.as_str());
    }
    let agents = cut_off.iter().filter(|cut_off| **cut_off).count() * AGENTS;
    assert!(agents > 0, "no agent of the crowd is on {node}");
    eprintln!("=== {node} is cut off, with {coordinator} and {agents} agents; the pod of {leader} is deleted");
    deployed.cluster().partition(&node).await.expect("a node can be partitioned");
    deployed.kubectl(&["delete", "pod", &leader, "--wait=false"]).await;
    go_on(deployed, talk, |agent| !cut_off[agent / AGENTS]).await;
    deployed
        .until_status("another leader", |status| match (&status.leader, status.term) {
            (Some(_), Some(later)) if later > term => Ok(()),
            now => Err(format!("{now:?}")),
        })
        .await;
    go_on(deployed, talk, |agent| !cut_off[agent / AGENTS]).await;
    deployed.cluster().heal(&node).await.expect("a node can be healed");
    let handled = talk.handled();
    go_on(deployed, talk, |_| true).await;
    deployed
        .until("the agents that were cut off handle messages again", async || {
            let now = talk.handled();
            let of_node = |at: &usize| cut_off[at / AGENTS];
            let behind: Vec<usize> = (0..now.len()).filter(of_node).filter(|at| now[*at] <= handled[*at]).collect();
            if behind.is_empty() { Ok(()) } else { Err(format!("{behind:?}")) }
        })
        .await;
}

/// Sends a message to all agents, until all have accepted one.
async fn broadcast(deployed: &Deployed, client: &FleetClient) {
    let wanted = PODS * AGENTS + OF_POOL as usize;
    deployed
        .until("all agents accept a message", async || {
            let request = SendMessageRequest {
                id: new_message_id(),
                to: "everyone".into(),
                r#type: "test".into(),
                payload: "to all".into(),
                deadline: Some(prost_types::Duration { seconds: 20, nanos: 0 }),
                broadcast: true,
                ..SendMessageRequest::default()
            };
            let sent = client.send_message(request).await.map_err(|error| error.to_string())?;
            let accepted = sent.outcomes.iter().filter(|status| status.code() == MessageCode::Accepted).count();
            let others = || sent.outcomes.iter().find(|status| status.code() != MessageCode::Accepted);
            if accepted == wanted { Ok(()) } else { Err(format!("{accepted} of {wanted}; e.g. {:?}", others())) }
        })
        .await;
}
