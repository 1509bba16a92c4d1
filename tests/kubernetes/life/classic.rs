//! The classic Deployment of `examples/classic/`, next to a `RobeingCluster` with its cluster's name.

use std::{path::Path, process::Command};

use robeing_tests::{
    kubernetes::{Deployed, WORKER, pids_of},
    processes::Process,
    program::program,
};
use serde_json::{Value, json};

/// A namespace that enforces no pod security standard, because the manifest sets no security context.
const NAMESPACE: &str = "classic";
const CLUSTER: &str = "robeing-cluster-01";
const AGENTS: usize = 5;
const TASKS: usize = 100;

fn documents(file: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/classic").join(file);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let parsed: Value = serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    vec![parsed]
}

/// Returns the manifests, with requests that fit on nodes that share a machine, and for an image that is on the nodes
/// but in no registry.
fn manifests() -> Value {
    let mut items = [documents("robeingcluster.yaml"), documents("deployment.yaml")].concat();
    for item in &mut items {
        item["metadata"]["namespace"] = json!(NAMESPACE);
        if let Some(container) = item.pointer_mut("/spec/template/spec/containers/0") {
            container["resources"]["requests"] = json!({"cpu": "20m", "memory": "16Mi"});
            container["imagePullPolicy"] = json!("IfNotPresent");
        }
    }
    items.insert(0, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}));
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// Runs the command line against this fleet.
fn robeing(deployed: &Deployed, arguments: &[&str]) -> Result<String, String> {
    let kubeconfig = deployed.cluster().clients().kubeconfig().to_owned();
    let mut command = Command::new(program("robeing"));
    command.env("KUBECONFIG", kubeconfig).args(["--namespace", NAMESPACE, "--cluster", CLUSTER]).args(arguments);
    let output = command.output().map_err(|error| error.to_string())?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn agents(deployed: &Deployed) -> Result<Vec<Value>, String> {
    let text = robeing(deployed, &["agents", "--output", "json"])?;
    let lines = text.trim();
    let parsed: Value = serde_json::from_str(lines).map_err(|error| format!("{error}: {text}"))?;
    Ok(parsed.as_array().cloned().unwrap_or_else(|| vec![parsed]))
}

pub async fn the_classic_deployment_works(deployed: &Deployed) {
    deployed.apply(&manifests()).await;
    let seen = deployed
        .until("every declared agent, live", async || {
            let agents = agents(deployed)?;
            let live: Vec<Value> =
                agents.iter().filter(|agent| agent["state"] == "AGENT_STATE_LIVE").cloned().collect();
            if live.len() == AGENTS { Ok(live) } else { Err(format!("{agents:#?}")) }
        })
        .await;
    // The address must be an IP address: the name of such a pod can't be resolved.
    for agent in &seen {
        let host = agent["address"].as_str().and_then(|address| address.rsplit_once(':')).map(|(host, _)| host);
        assert!(host.is_some_and(|host| host.parse::<std::net::IpAddr>().is_ok()), "{agent:#}");
    }
    let pods = deployed.cluster().kubectl(&[
        "--namespace",
        NAMESPACE,
        "get",
        "pods",
        "--selector=app=robeing-agent",
        "-ojson",
    ]);
    let pods: Value = serde_json::from_str(&pods.await.unwrap_or_else(|error| panic!("{error}"))).expect("JSON");
    let uid = pods["items"][0]["metadata"]["uid"].as_str().expect("a pod");
    let [agent, ..] = pids_of(uid, "robeing-agent")[..] else { panic!("no agent runs in pod {uid}") };
    // What a container next to the agent would be: a process in the pod's network namespace.
    let line = [
        format!("--net=/proc/{agent}/ns/net"),
        "env".to_owned(),
        "ROBEING_WORKER_ADDRESS=127.0.0.1:8081".to_owned(),
        program(WORKER).display().to_string(),
        "cat".to_owned(),
    ];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut process = Process::start("worker", Path::new("nsenter"), &line, &folder.path().join("worker.log"));
    let inputs = folder.path().join("inputs");
    let lines: String = (0..TASKS).map(|n| format!("{}\n", json!({"input": n.to_string()}))).collect();
    std::fs::write(&inputs, lines).expect("a file");
    let inputs = inputs.display().to_string();
    let done = robeing(deployed, &["submit", "--kind", "work", "--inputs", &inputs, "--wait", "--output", "json"]);
    let done = done.unwrap_or_else(|error| panic!("{error}\n{}", process.log()));
    assert_eq!(done.matches("\"TASK_STATE_SUCCEEDED\"").count(), TASKS, "{done}");
    // While its process is attached; without it, an agent leaves the fleet. The operator polls only now and then.
    deployed
        .until("all agents in the resource's columns", async || {
            let shown = ["--namespace", NAMESPACE, "get", "rbc", CLUSTER];
            let shown = deployed.cluster().kubectl(&shown).await.map_err(|error| error.to_string())?;
            if shown.contains(&format!("0/0+{AGENTS}")) { Ok(()) } else { Err(shown) }
        })
        .await;
    process.kill();
    deployed.cluster().kubectl(&["delete", "namespace", NAMESPACE]).await.unwrap_or_else(|error| panic!("{error}"));
}
