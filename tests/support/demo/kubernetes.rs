//! The demo on Kubernetes: helm installs the charts, kubectl applies the example, and pods are deleted instead of
//! processes being killed. The cluster is that of `KUBECONFIG`, or one that is created for the demo and removed
//! afterwards.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use devkube::{Cluster, TestCluster};
use robeing::kubernetes::{self as connection, Access, Location};
use robeing_client::Settings;
use robeing_crds::{RobeingCluster, condition_types};
use robeing_proto::v1::{Agent, FleetStatus};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::{
    narrator::Narrator,
    play::{self, Stage},
    work::Exercise,
};
use crate::kubernetes as suite;

/// Once there is a cluster, the demo ends within this time, whether it passes or not.
const TIME_LIMIT: Duration = Duration::from_secs(900);
/// The time within which pods must be ready, and be gone.
const PATIENCE: Duration = Duration::from_secs(240);
/// The pause between two checks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The timeout of a call to the fleet, retries included: longer than it takes to replace a coordinator.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// The namespace of the demo's fleet.
const NAMESPACE: &str = "robeing-demo";

/// A fleet on a cluster.
struct Fleet<'a> {
    cluster: &'a TestCluster,
    name: String,
    /// The numbers of coordinators and of agents, including standbys.
    wanted: (u32, u32),
}

impl Stage for Fleet<'_> {
    const STRUCK: &'static str = "deleted";
    const SUDDEN: bool = false;

    async fn strike_agent(&self, agent: &Agent) -> Result<String> {
        self.delete_pod(&agent.name).await
    }

    async fn strike_leader(&self, status: &FleetStatus) -> Result<String> {
        let done = self.delete_pod(&status.leader).await?;
        Ok(format!("{done}, the leader"))
    }
}

impl Fleet<'_> {
    async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        Ok(self.cluster.kubectl(&[&["--namespace", NAMESPACE], arguments].concat()).await?)
    }

    async fn delete_pod(&self, name: &str) -> Result<String> {
        self.kubectl(&["delete", "pod", name, "--wait=false"]).await?;
        Ok(format!("kubectl delete pod {name}"))
    }

    /// Waits until the status of the resource reports that everything in the spec exists and is ready.
    async fn ready(&self) -> Result<()> {
        let (coordinators, agents) = self.wanted;
        let end = Instant::now() + PATIENCE;
        loop {
            let text = self.kubectl(&["get", "rbc", &self.name, "--output=json"]).await?;
            let found: RobeingCluster = serde_json::from_str(&text).context("kubectl returned no RobeingCluster")?;
            let status = found.status.unwrap_or_default();
            let up = (status.coordinators.ready, status.coordinators.voters);
            let working = status.agents.ready + status.agents.standby;
            let ready = suite::states(&status, &[(condition_types::READY, "True", "FleetReady")]);
            if ready.is_ok() && up == (coordinators, coordinators) && working >= agents {
                return Ok(());
            }
            if Instant::now() >= end {
                let pods = self.kubectl(&["get", "rbc,pods", "--output=wide"]).await.unwrap_or_default();
                bail!("the fleet does not match its spec after {PATIENCE:?}: {status:?}\n{pods}");
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

/// Runs the demo. `stop` ends it early, with cleanup.
///
/// # Errors
/// If any check fails, the time is up, or the demo was stopped.
pub(super) async fn run(manifest: &str, exercises: &[Exercise], stop: impl Future<Output = ()>) -> Result<()> {
    let fleet = robeing_crds::parse_manifest(manifest)?;
    let folder = tempfile::tempdir().context("could not create a temporary directory")?;
    let archives = [suite::archive()?, suite::write_userland(folder.path())?];
    let mut narrator = Narrator::new();
    narrator.say("starting a Kubernetes of three nodes");
    let cluster = Cluster::for_tests().await?;
    let played = tokio::select! {
        played = timeout(TIME_LIMIT, perform(&cluster, &fleet, &archives, exercises, &mut narrator)) => {
            played.unwrap_or_else(|_| bail!("not done after {TIME_LIMIT:?}"))
        }
        () = stop => Err(anyhow!("stopped by a signal before the demo was done")),
    };
    narrator.say("uninstalling, and removing the cluster if the demo created it");
    let removed = remove(&cluster).await;
    let down = cluster.down().await;
    let summary = played?;
    removed?;
    down?;
    narrator.summary(&summary);
    Ok(())
}

async fn perform(
    cluster: &TestCluster,
    resource: &RobeingCluster,
    archives: &[impl AsRef<Path>],
    exercises: &[Exercise],
    narrator: &mut Narrator,
) -> Result<Vec<String>> {
    for archive in archives {
        cluster.load_image(archive.as_ref()).await?;
    }
    narrator.say("helm install robeing-crds, helm install robeing");
    suite::install(cluster, 2).await?;
    let fleet = apply(cluster, resource, narrator).await?;
    fleet.ready().await?;
    let table = fleet.kubectl(&["get", "robeingclusters"]).await?;
    narrator.say("kubectl get robeingclusters");
    narrator.plain(table.trim_end());
    let place = Location {
        kubeconfig: Some(cluster.kubeconfig().to_owned()),
        namespace: Some(NAMESPACE.into()),
        cluster: Some(fleet.name.clone()),
        ..Location::default()
    };
    let settings = Settings { request_timeout: REQUEST_TIMEOUT, ..Settings::default() };
    let found = connection::find(&place, Access::Use, false, settings).await?;
    let summary = play::play(&fleet, found.client, exercises, narrator).await?;
    fleet.ready().await.context("the deleted pods were not replaced")?;
    narrator.say("both pods were replaced; kubectl get robeingclusters");
    let table = fleet.kubectl(&["get", "robeingclusters"]).await?;
    narrator.plain(table.trim_end());
    narrator.say("kubectl delete robeingcluster");
    let wait = format!("--timeout={}s", PATIENCE.as_secs());
    fleet.kubectl(&["delete", "robeingcluster", &fleet.name, "--wait=true", &wait]).await?;
    fleet.kubectl(&["wait", "--for=delete", "pods", "--all", &wait]).await?;
    narrator.say("all its pods are gone");
    Ok(summary)
}

/// Applies the example. Its tasks run in an image that was loaded into the nodes, because the nodes may have no
/// registry.
async fn apply<'a>(cluster: &'a TestCluster, resource: &RobeingCluster, narrator: &mut Narrator) -> Result<Fleet<'a>> {
    let namespace = json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": NAMESPACE, "labels": {"pod-security.kubernetes.io/enforce": "restricted"}},
    });
    cluster.kubectl_with(&["apply", "-f", "-"], &namespace.to_string()).await?;
    let name = resource.metadata.name.clone().context("the manifest has no name")?;
    let mut manifest = serde_json::to_value(resource).context("the resource can't be written as JSON")?;
    manifest["metadata"]["namespace"] = json!(NAMESPACE);
    let mut agents = 0;
    for pool in manifest["spec"]["pools"].as_array_mut().into_iter().flatten() {
        pool["container"] = json!({"image": suite::USERLAND});
        agents += pool["replicas"].as_u64().unwrap_or(0) + pool["standby"].as_u64().unwrap_or(0);
    }
    narrator.say(&format!(
        "kubectl apply {name}: {} coordinators, {agents} agents; tasks run in the image {}",
        resource.spec.coordinators.replicas,
        suite::USERLAND
    ));
    cluster.kubectl_with(&["apply", "-f", "-"], &manifest.to_string()).await?;
    let agents = u32::try_from(agents).context("too many agents")?;
    Ok(Fleet { cluster, name, wanted: (resource.spec.coordinators.replicas, agents) })
}

/// Removes what [`perform`] created, however far it got.
async fn remove(cluster: &TestCluster) -> Result<()> {
    // Before the operator is removed, because the operator must finalize the fleets of the namespace.
    cluster.kubectl(&["delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=true", "--timeout=120s"]).await?;
    let installed = cluster.helm(&["list", "--namespace", suite::SYSTEM, "--short"]).await?;
    if installed.lines().any(|release| release == "robeing") {
        suite::uninstall(cluster).await?;
    }
    Ok(())
}
