//! A cluster on which Robeing is installed, the namespace of one fleet, and the ways to observe that fleet.

use std::{collections::BTreeMap, time::Duration};

use devkube::{Cluster, TestCluster};
use robeing_crds::{RobeingCluster, RobeingClusterStatus, condition_types as types};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    charts::{self, SYSTEM},
    image::{self, FIRST, USERLAND},
};

/// The namespace of the fleet, which enforces the restricted pod security standard.
pub const NAMESPACE: &str = "fleets";
/// The name of the fleet.
pub const CLUSTER: &str = "robeing-agent-cluster";
/// The name of its pool.
pub const POOL: &str = "worker";
/// The time within which everything that a test waits for must happen, even on a machine that builds and tests other
/// things.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// The pause between two checks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Sleeps for the number of seconds in the first line of its input, then counts words, using only programs of the
/// userland image.
pub const COUNT: &str = r#"read -r seconds; sleep "$seconds"; echo "$ROBEING_TASK_ID $ROBEING_ATTEMPT" $(wc -w)"#;

/// A cluster of three nodes with both charts.
#[derive(Debug)]
pub struct Deployed {
    cluster: TestCluster,
}

/// Logs the beginning and the end of a step, and how long it took.
pub async fn step<T>(what: &str, work: impl Future<Output = T>) -> T {
    eprintln!("=== {what}");
    let began = Instant::now();
    let done = work.await;
    eprintln!("=== {what}: done after {:.1} s", began.elapsed().as_secs_f64());
    done
}

/// Returns an error that describes how a fleet of three coordinators is not healthy; see [`whole`].
pub fn settled(status: &RobeingClusterStatus, agents: u32) -> Result<(), String> {
    whole(status, 3, agents)
}

/// Returns an error that describes how a fleet is not healthy: it must have this many coordinators and agents, a
/// leader, and the conditions of a healthy fleet.
pub fn whole(status: &RobeingClusterStatus, coordinators: u32, agents: u32) -> Result<(), String> {
    let counts = (status.coordinators.ready, status.coordinators.voters, status.agents.ready, status.agents.desired);
    if counts != (coordinators, coordinators, agents, agents) || status.leader.is_none() {
        return Err(format!(
            "{counts:?} of {coordinators} coordinators and {agents} agents, leader {:?}",
            status.leader
        ));
    }
    states(
        status,
        &[
            (types::READY, "True", "FleetReady"),
            (types::PROGRESSING, "False", "AsSpecified"),
            (types::DEGRADED, "False", "AsExpected"),
            (types::QUORUM_HEALTHY, "True", "LeaderElected"),
            (types::SUSPENDED, "False", "NotSuspended"),
        ],
    )
}

/// Returns an error that names the first condition that does not have this status and reason.
pub fn states(status: &RobeingClusterStatus, expected: &[(&str, &str, &str)]) -> Result<(), String> {
    for (of, state, reason) in expected {
        let found = status.conditions.iter().find(|condition| condition.type_ == *of);
        if !found.is_some_and(|condition| condition.status == *state && condition.reason == *reason) {
            return Err(format!("{of} is not {state} with reason {reason}: {found:?}"));
        }
    }
    Ok(())
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn uids<'a>(objects: impl Iterator<Item = &'a Value>) -> BTreeMap<String, String> {
    objects.map(|object| (text(&object["metadata"]["name"]), text(&object["metadata"]["uid"]))).collect()
}

impl Deployed {
    /// Brings up a cluster, loads the images into it, and installs both charts as the README describes, with two
    /// operators.
    ///
    /// # Panics
    /// If anything that is needed is missing, or does not come up.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let archives = image::write_all(folder.path()).unwrap_or_else(|error| panic!("{error:#}"));
        let cluster = Cluster::for_tests().await.unwrap_or_else(|error| panic!("{error}"));
        for archive in archives {
            cluster.load_image(&archive).await.unwrap_or_else(|error| panic!("{error}"));
        }
        charts::install(&cluster, 2).await.unwrap_or_else(|error| panic!("{error}"));
        let deployed = Self { cluster };
        let enforce = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE, "labels": enforce}});
        deployed.apply(&namespace).await;
        deployed
    }

    /// Returns the cluster itself.
    pub fn cluster(&self) -> &TestCluster {
        &self.cluster
    }

    /// Returns the manifest that the test applies: the classic deployment, small enough for nodes that share a machine.
    pub fn fleet() -> Value {
        let resources = |cpu: &str, memory: &str| json!({"requests": {"cpu": "20m", "memory": "16Mi"}, "limits": {"cpu": cpu, "memory": memory}});
        json!({
            "apiVersion": "robeing.io/v1alpha1",
            "kind": "RobeingCluster",
            "metadata": {"name": CLUSTER, "namespace": NAMESPACE},
            "spec": {
                "image": FIRST,
                "coordinators": {"replicas": 3, "storage": {"size": "1Gi"}, "resources": resources("2", "256Mi")},
                "pools": [{
                    "name": POOL,
                    "role": "Worker",
                    "specializations": ["data_processing"],
                    "replicas": 5,
                    "slots": 4,
                    "executor": {"command": {"argv": ["/bin/sh", "-c", COUNT]}},
                    "container": {"image": USERLAND},
                    "resources": resources("500m", "64Mi"),
                }],
            },
        })
    }

    /// Runs `kubectl` in the fleet's namespace.
    ///
    /// # Panics
    /// If it fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Like [`Deployed::kubectl`], for times when the API server may not respond.
    ///
    /// # Errors
    /// The output of kubectl, if it fails.
    pub async fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let all = [&["--namespace", NAMESPACE], arguments].concat();
        self.cluster.kubectl(&all).await.map_err(|error| error.to_string())
    }

    /// Runs `kubectl` in the fleet's namespace and parses its output as JSON.
    ///
    /// # Errors
    /// If it fails, or its output is not JSON.
    pub async fn json(&self, arguments: &[&str]) -> Result<Value, String> {
        let text = self.try_kubectl(&[arguments, &["--output=json"]].concat()).await?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// Applies a manifest.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn apply(&self, manifest: &Value) {
        let applied = self.cluster.kubectl_with(&["apply", "-f", "-"], &manifest.to_string()).await;
        applied.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Replaces a field of the fleet, such as `/spec/image`.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn change(&self, path: &str, value: Value) {
        self.patch(json!([{"op": "replace", "path": path, "value": value}])).await;
    }

    /// Changes the fleet with a JSON patch.
    ///
    /// # Panics
    /// If it is refused.
    pub async fn patch(&self, patch: Value) {
        self.kubectl(&["patch", "rbc", CLUSTER, "--type=json", "--patch", &patch.to_string()]).await;
    }

    /// Returns the status of the fleet, if it is that of the newest spec.
    ///
    /// # Errors
    /// If it is not, or can't be read.
    pub async fn status(&self) -> Result<RobeingClusterStatus, String> {
        let found: RobeingCluster =
            serde_json::from_value(self.json(&["get", "rbc", CLUSTER]).await?).map_err(|error| error.to_string())?;
        let generation = found.metadata.generation;
        let status = found.status.ok_or("it has no status yet")?;
        if status.observed_generation == generation { Ok(status) } else { Err("its status is of an old spec".into()) }
    }

    /// Returns the pods of a component, `coordinator` or `agent`.
    ///
    /// # Errors
    /// If they can't be listed.
    pub async fn pods(&self, component: &str) -> Result<Vec<Value>, String> {
        let selector = format!("app.kubernetes.io/instance={CLUSTER},app.kubernetes.io/component={component}");
        let list = self.json(&["get", "pods", "--selector", &selector]).await?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Returns the UIDs of a component's pods that are not being deleted, by name.
    ///
    /// # Errors
    /// If they can't be listed.
    pub async fn staying(&self, component: &str) -> Result<BTreeMap<String, String>, String> {
        let pods = self.pods(component).await?;
        Ok(uids(pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())))
    }

    /// Returns the UIDs of the coordinators' PersistentVolumeClaims, by name.
    ///
    /// # Errors
    /// If they can't be listed.
    pub async fn claims(&self) -> Result<BTreeMap<String, String>, String> {
        let list = self.json(&["get", "persistentvolumeclaims"]).await?;
        Ok(uids(list["items"].as_array().into_iter().flatten()))
    }

    /// Returns a node with agents and a coordinator that is not the leader, that coordinator, and those agents.
    ///
    /// # Panics
    /// If there is none.
    pub async fn victim(&self) -> (String, String, Vec<String>) {
        let leader = self.status().await.expect("a status").leader.expect("a leader");
        let agents = self.pods("agent").await.expect("the agents' pods");
        for pod in self.pods("coordinator").await.expect("the coordinators' pods") {
            let (name, node) = (text(&pod["metadata"]["name"]), text(&pod["spec"]["nodeName"]));
            let on_it = agents.iter().filter(|agent| agent["spec"]["nodeName"] == node.as_str());
            let on_it: Vec<String> = on_it.map(|agent| text(&agent["metadata"]["name"])).collect();
            if name != leader && !on_it.is_empty() {
                return (node, name, on_it);
            }
        }
        panic!("no node has both agents and a coordinator that is not the leader")
    }

    /// Returns a pod.
    ///
    /// # Panics
    /// If there is no pod of this name.
    pub async fn pod(&self, name: &str) -> Value {
        self.json(&["get", "pod", name]).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Calls `look` repeatedly until it returns `Ok`, and returns that value.
    ///
    /// # Panics
    /// If it does not within [`PATIENCE`]; the message contains the last `Err`, and the state of the fleet is logged.
    pub async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            match look().await {
                Ok(value) => return value,
                Err(last) if Instant::now() >= end => {
                    eprintln!("{}", self.described().await);
                    panic!("{what}: not within {PATIENCE:?}; last seen: {last}");
                }
                Err(_) => sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Waits until `check` accepts the status, and returns it.
    ///
    /// # Panics
    /// As [`Deployed::until`].
    pub async fn until_status(
        &self,
        what: &str,
        check: impl Fn(&RobeingClusterStatus) -> Result<(), String>,
    ) -> RobeingClusterStatus {
        self.until(what, async || {
            let status = self.status().await?;
            check(&status).map(|()| status)
        })
        .await
    }

    /// Waits until the fleet is healthy and has this many agents.
    ///
    /// # Panics
    /// As [`Deployed::until`].
    pub async fn until_settled(&self, agents: u32) -> RobeingClusterStatus {
        self.until_whole(3, agents).await
    }

    /// Waits until the fleet is healthy and has this many coordinators and agents.
    ///
    /// # Panics
    /// As [`Deployed::until`].
    pub async fn until_whole(&self, coordinators: u32, agents: u32) -> RobeingClusterStatus {
        let what = format!("a healthy fleet of {coordinators} coordinators and {agents} agents");
        self.until_status(&what, |status| whole(status, coordinators, agents)).await
    }

    /// Returns the pod of the active operator, the one that holds the lease.
    ///
    /// # Errors
    /// If none does.
    pub async fn active_operator(&self) -> Result<String, String> {
        let lease = ["get", "lease", "robeing-operator", "--namespace", SYSTEM];
        let holder = [&lease[..], &["--output=jsonpath={.spec.holderIdentity}"]].concat();
        let holder = self.cluster.kubectl(&holder).await.map_err(|error| error.to_string())?;
        let pod = holder.split('_').next().unwrap_or_default();
        if pod.is_empty() { Err("no replica holds the lease".into()) } else { Ok(pod.to_owned()) }
    }

    /// Returns the node of the active operator's pod.
    ///
    /// # Panics
    /// If there is none.
    pub async fn node_of_active(&self) -> String {
        let pod = self.active_operator().await.unwrap_or_else(|error| panic!("{error}"));
        let node = ["get", "pod", &pod, "--namespace", SYSTEM, "--output=jsonpath={.spec.nodeName}"];
        self.cluster.kubectl(&node).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Returns the number of requests to the API server that the operator's replicas have counted, by verb and
    /// resource.
    ///
    /// # Errors
    /// If a replica does not answer.
    pub async fn requests(&self) -> Result<BTreeMap<String, u64>, String> {
        let cluster = &self.cluster;
        let said = |error: devkube::Error| error.to_string();
        let selector = "--selector=app.kubernetes.io/name=robeing-operator";
        let names = cluster.kubectl(&["get", "pods", "--namespace", SYSTEM, selector, "--output=name"]).await;
        let mut requests = BTreeMap::new();
        for name in names.map_err(said)?.lines().map(|name| name.trim_start_matches("pod/")) {
            let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{name}:9090/proxy/metrics");
            let metrics = cluster.kubectl(&["get", "--raw", &path]).await.map_err(said)?;
            for line in metrics.lines().filter_map(|line| line.strip_prefix("robeing_operator_api_requests_total")) {
                let (labels, count) = line.rsplit_once(' ').ok_or("a metric without a value")?;
                *requests.entry(labels.to_owned()).or_default() +=
                    count.parse::<u64>().map_err(|error| error.to_string())?;
            }
        }
        Ok(requests)
    }

    /// Returns everything that helps to find out why something did not happen.
    async fn described(&self) -> String {
        let mut said = String::new();
        let logs = ["logs", "--namespace", SYSTEM, "--selector=app.kubernetes.io/name=robeing-operator", "--tail=30"];
        let asked: [&[&str]; 4] = [
            &["get", "--namespace", NAMESPACE, "rbc,pods,pvc", "--output=wide"],
            &["get", "--namespace", NAMESPACE, "rbc", "--output=jsonpath={.items[*].status}"],
            &["get", "--namespace", NAMESPACE, "events", "--sort-by=.metadata.creationTimestamp"],
            &logs,
        ];
        for arguments in asked {
            let answer = self.cluster.kubectl(arguments).await.unwrap_or_else(|error| error.to_string());
            said.push_str(&format!("kubectl {}\n{answer}\n", arguments.join(" ")));
        }
        said
    }

    /// Uninstalls what was installed and removes the cluster, if it was created by [`Deployed::start`].
    ///
    /// # Panics
    /// If something can't be removed.
    pub async fn down(self) {
        self.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]).await;
        charts::uninstall(&self.cluster).await.unwrap_or_else(|error| panic!("{error}"));
        self.cluster.down().await.unwrap_or_else(|error| panic!("{error}"));
    }
}
