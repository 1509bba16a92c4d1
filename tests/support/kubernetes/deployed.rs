//! A cluster with Robeing installed and one fleet's namespace, and what can be seen of that fleet.

use std::{collections::BTreeMap, time::Duration};

use devkube::{Cluster, TestCluster};
use robeing_crds::{RobeingCluster, RobeingClusterStatus, condition_types as types};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::{
    charts::{self, SYSTEM},
    image::{self, FIRST, USERLAND},
};

/// Namespace of the fleet, which enforces the restricted pod security standard.
pub const NAMESPACE: &str = "fleets";
/// Name of the fleet.
pub const CLUSTER: &str = "robeing-agent-cluster";
/// Name of its pool.
pub const POOL: &str = "worker";
/// Time within which anything that is waited for must happen, on a machine that builds and tests other things, too.
pub const PATIENCE: Duration = Duration::from_secs(300);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Waits for as many seconds as the first line of its input says, then counts words, with what a userland has.
pub const COUNT: &str = r#"read -r seconds; sleep "$seconds"; echo "$ROBEING_TASK_ID $ROBEING_ATTEMPT" $(wc -w)"#;

/// A cluster of three nodes with both charts.
#[derive(Debug)]
pub struct Deployed {
    cluster: TestCluster,
}

/// Says what is done and how long it took.
pub async fn step<T>(what: &str, work: impl Future<Output = T>) -> T {
    eprintln!("=== {what}");
    let began = Instant::now();
    let done = work.await;
    eprintln!("=== {what}: done after {:.1} s", began.elapsed().as_secs_f64());
    done
}

/// What is not as in a fleet of three coordinators that is well; see [`whole`].
pub fn settled(status: &RobeingClusterStatus, agents: u32) -> Result<(), String> {
    whole(status, 3, agents)
}

/// What is not as in a fleet that is well: so many coordinators and agents, a leader, and conditions that say so.
pub fn whole(status: &RobeingClusterStatus, coordinators: u32, agents: u32) -> Result<(), String> {
    let counts = (status.coordinators.ready, status.coordinators.voters, status.agents.ready, status.agents.desired);
    if counts != (coordinators, coordinators, agents, agents) || status.leader.is_none() {
        return Err(format!(
            "{counts:?} of {coordinators} coordinators and {agents} agents, led by {:?}",
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

/// The first condition that is not in this state for this reason.
pub fn states(status: &RobeingClusterStatus, expected: &[(&str, &str, &str)]) -> Result<(), String> {
    for (of, state, reason) in expected {
        let found = status.conditions.iter().find(|condition| condition.type_ == *of);
        if !found.is_some_and(|condition| condition.status == *state && condition.reason == *reason) {
            return Err(format!("{of} is not {state} for {reason}: {found:?}"));
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
    /// Brings up a cluster, gives it the images, and installs both charts as the README says, with two operators.
    ///
    /// # Panics
    /// When anything that is needed is missing, or does not come up.
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

    /// The cluster itself.
    pub fn cluster(&self) -> &TestCluster {
        &self.cluster
    }

    /// The fleet as the test applies it: the classic deployment, small enough for nodes that share a machine.
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
    /// When it fails.
    pub async fn kubectl(&self, arguments: &[&str]) -> String {
        self.try_kubectl(arguments).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// As [`Deployed::kubectl`], for where the API server may be busy.
    ///
    /// # Errors
    /// What it said when it failed.
    pub async fn try_kubectl(&self, arguments: &[&str]) -> Result<String, String> {
        let all = [&["--namespace", NAMESPACE], arguments].concat();
        self.cluster.kubectl(&all).await.map_err(|error| error.to_string())
    }

    /// Runs `kubectl` in the fleet's namespace and reads its answer.
    ///
    /// # Errors
    /// When it fails, or does not answer JSON.
    pub async fn json(&self, arguments: &[&str]) -> Result<Value, String> {
        let text = self.try_kubectl(&[arguments, &["--output=json"]].concat()).await?;
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    /// Applies a manifest.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn apply(&self, manifest: &Value) {
        let applied = self.cluster.kubectl_with(&["apply", "-f", "-"], &manifest.to_string()).await;
        applied.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Replaces a field of the fleet's spec, such as `/spec/image`.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn change(&self, path: &str, value: Value) {
        self.patch(json!([{"op": "replace", "path": path, "value": value}])).await;
    }

    /// Changes the fleet by a JSON patch.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn patch(&self, patch: Value) {
        self.kubectl(&["patch", "rbc", CLUSTER, "--type=json", "--patch", &patch.to_string()]).await;
    }

    /// The status of the fleet, once it is about the newest spec.
    ///
    /// # Errors
    /// When it is not, or can't be had.
    pub async fn status(&self) -> Result<RobeingClusterStatus, String> {
        let found: RobeingCluster =
            serde_json::from_value(self.json(&["get", "rbc", CLUSTER]).await?).map_err(|error| error.to_string())?;
        let generation = found.metadata.generation;
        let status = found.status.ok_or("it has no status yet")?;
        if status.observed_generation == generation { Ok(status) } else { Err("its status is of an older spec".into()) }
    }

    /// Pods of a component, `coordinator` or `agent`.
    ///
    /// # Errors
    /// When they can't be listed.
    pub async fn pods(&self, component: &str) -> Result<Vec<Value>, String> {
        let selector = format!("app.kubernetes.io/instance={CLUSTER},app.kubernetes.io/component={component}");
        let list = self.json(&["get", "pods", "--selector", &selector]).await?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// Uids of a component's pods that are not being deleted, by name.
    ///
    /// # Errors
    /// When they can't be listed.
    pub async fn staying(&self, component: &str) -> Result<BTreeMap<String, String>, String> {
        let pods = self.pods(component).await?;
        Ok(uids(pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())))
    }

    /// Uids of the coordinators' disks, by the names of their claims.
    ///
    /// # Errors
    /// When they can't be listed.
    pub async fn claims(&self) -> Result<BTreeMap<String, String>, String> {
        let list = self.json(&["get", "persistentvolumeclaims"]).await?;
        Ok(uids(list["items"].as_array().into_iter().flatten()))
    }

    /// A node with a coordinator that does not lead, that coordinator, and the agents on it.
    ///
    /// # Panics
    /// When there is none.
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
        panic!("no node has both agents and a coordinator that does not lead")
    }

    /// One pod.
    ///
    /// # Panics
    /// When there is none of this name.
    pub async fn pod(&self, name: &str) -> Value {
        self.json(&["get", "pod", name]).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Looks until something is as wanted.
    ///
    /// # Panics
    /// When it is not within [`PATIENCE`]; with what is there instead.
    pub async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            match look().await {
                Ok(value) => return value,
                Err(last) if Instant::now() >= end => {
                    eprintln!("{}", self.described().await);
                    panic!("{what}: not within {PATIENCE:?}; last: {last}");
                }
                Err(_) => sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Waits for a status.
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

    /// Waits until the fleet is well and has so many agents.
    ///
    /// # Panics
    /// As [`Deployed::until`].
    pub async fn until_settled(&self, agents: u32) -> RobeingClusterStatus {
        self.until_whole(3, agents).await
    }

    /// Waits until the fleet is well and has so many coordinators and agents.
    ///
    /// # Panics
    /// As [`Deployed::until`].
    pub async fn until_whole(&self, coordinators: u32, agents: u32) -> RobeingClusterStatus {
        let what = format!("a fleet of {coordinators} coordinators and {agents} agents that is well");
        self.until_status(&what, |status| whole(status, coordinators, agents)).await
    }

    /// The operator's pod that is active.
    ///
    /// # Errors
    /// When there is none.
    pub async fn active_operator(&self) -> Result<String, String> {
        let lease = ["get", "lease", "robeing-operator", "--namespace", SYSTEM];
        let holder = [&lease[..], &["--output=jsonpath={.spec.holderIdentity}"]].concat();
        let holder = self.cluster.kubectl(&holder).await.map_err(|error| error.to_string())?;
        let pod = holder.split('_').next().unwrap_or_default();
        if pod.is_empty() { Err("nobody holds the lease".into()) } else { Ok(pod.to_owned()) }
    }

    /// The node of that pod.
    ///
    /// # Panics
    /// When there is none.
    pub async fn node_of_active(&self) -> String {
        let pod = self.active_operator().await.unwrap_or_else(|error| panic!("{error}"));
        let node = ["get", "pod", &pod, "--namespace", SYSTEM, "--output=jsonpath={.spec.nodeName}"];
        self.cluster.kubectl(&node).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Requests to the API server that the operator's replicas counted, by verb and resource.
    ///
    /// # Errors
    /// When a replica does not answer.
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

    /// Everything that helps to see why something did not happen.
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

    /// Uninstalls what was installed and removes the cluster, if it was made for this.
    ///
    /// # Panics
    /// When something is left.
    pub async fn down(self) {
        self.kubectl(&["delete", "namespace", NAMESPACE, "--wait=false"]).await;
        charts::uninstall(&self.cluster).await.unwrap_or_else(|error| panic!("{error}"));
        self.cluster.down().await.unwrap_or_else(|error| panic!("{error}"));
    }
}
