//! A whole cluster: creates, uses, partitions, crashes, heals and removes it.

use std::{
    collections::BTreeSet,
    fs::File,
    hash::{BuildHasher as _, Hasher as _, RandomState},
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::future::try_join_all;
use serde_json::Value;

use crate::{
    cgroup,
    clients::Clients,
    command::eventually,
    config, control_plane,
    error::{Error, Result},
    machine::{HIDDEN, Machine, Service, eventually_served},
    network, node,
    plan::{Place, Plan},
    proxy::Proxy,
    record::{Description, Process, Run, create_folder},
    requirements,
    teardown::{self, RUN_PREFIX},
    tools::{CACHE_VARIABLE, Tools, Wanted},
};

/// The default number of nodes of a cluster.
pub const NODES: usize = 3;
/// The default number of local volumes on each node.
pub const VOLUMES_PER_NODE: usize = 4;
/// The deadline for all nodes and DNS to become ready, and for a single node.
const READY: Duration = Duration::from_secs(180);
/// The deadline for the kernel to release the cgroups of killed processes.
const GONE: Duration = Duration::from_secs(20);

/// Called with a short description of each step.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

/// Options for a new cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The number of nodes, at most [`crate::MAX_NODES`]. With 0 there is only a control plane: the API server, etcd,
    /// and the controllers that delete owned objects and the contents of namespaces; no controller creates pods, and
    /// none run.
    pub nodes: usize,
    /// The number of local PersistentVolumes on each node. Each can be bound only once, because nothing wipes them.
    pub volumes_per_node: usize,
    /// The cluster's folder, which must be empty or not exist. The default is a new one in the system's temporary
    /// folder.
    pub run: Option<PathBuf>,
    /// Whether this process exists only for the cluster, so that `down` may kill it.
    pub supervised: bool,
    /// Whether a cluster that didn't come up is kept, so that its logs can be read; otherwise it is removed.
    pub keep_failed: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: NODES, volumes_per_node: VOLUMES_PER_NODE, run: None, supervised: false, keep_failed: false }
    }
}

/// A cluster of several nodes on this machine. The value that [`Cluster::up`] returned holds the cluster: dropping it
/// removes the cluster.
#[derive(Debug)]
pub struct Cluster {
    run: Run,
    plan: Plan,
    tools: Tools,
    /// Set only in the value that holds the cluster.
    proxy: Option<Proxy>,
    held: bool,
}

impl Cluster {
    /// Creates a cluster; it is ready for pods when this returns. First removes clusters in the temporary folder whose
    /// holding processes are gone.
    ///
    /// # Errors
    /// If something is missing on this machine, or the cluster doesn't come up; it is then removed, unless
    /// [`Options::keep_failed`] is set.
    pub async fn up(options: Options, progress: Progress<'_>) -> Result<Self> {
        requirements::check_run(options.nodes > 0)?;
        let id = format!("{:08x}", RandomState::new().build_hasher().finish() as u32);
        let plan = Plan::new(&id, options.nodes)?;
        // A cluster that can't be removed does no harm, and has been reported through `progress`.
        let _ = Self::remove_abandoned(progress).await;
        let tools = Tools::ensure(Wanted::Cluster, progress).await?;
        visible(tools.folder(), CACHE_VARIABLE)?;
        let run = run_folder(&id, options.run.as_deref())?;
        let owner = Process::myself().ok_or(Error::NoCluster)?;
        let tools_folder = tools.folder().to_owned();
        run.describe(&Description {
            id,
            nodes: options.nodes,
            owner,
            supervised: options.supervised,
            tools: tools_folder,
        })?;
        // From here on, leaving this function early removes what has been created.
        let mut cluster = Self { run, plan, tools, proxy: None, held: true };
        if let Err(error) = cluster.start(options.volumes_per_node, progress).await {
            cluster.held = !options.keep_failed;
            return Err(error);
        }
        Ok(cluster)
    }

    /// Returns the cluster of a run folder, which another process holds.
    ///
    /// # Errors
    /// If this folder contains no cluster.
    pub fn attach(run: &Path) -> Result<Self> {
        let run = Run::new(absolute(run)?);
        let description = run.description()?;
        let plan = Plan::new(&description.id, description.nodes)?;
        Ok(Self { run, plan, tools: Tools::at(description.tools), proxy: None, held: false })
    }

    /// Returns the run folders of the clusters in the system's temporary folder.
    pub fn list() -> Vec<PathBuf> {
        teardown::runs_in(&std::env::temp_dir()).into_iter().map(|run| run.path().to_owned()).collect()
    }

    /// Removes the clusters in the system's temporary folder whose holding processes are gone: they can't be reached
    /// any more.
    ///
    /// # Errors
    /// The last error, if some clusters can't be removed; the others are removed nevertheless.
    pub async fn remove_abandoned(progress: Progress<'_>) -> Result<()> {
        let mut result = Ok(());
        for run in teardown::runs_in(&std::env::temp_dir()) {
            if run.description().is_ok_and(|description| !description.owner.is_alive()) {
                progress(&format!("removing {}: its holding process is gone", run.path().display()));
                if let Err(error) = blocking(move || teardown::remove(&run)).await {
                    progress(&error.to_string());
                    result = Err(error);
                }
            }
        }
        result
    }

    /// The cluster's run folder, with kubeconfig, logs, keys and the machines' disks.
    pub fn run(&self) -> &Path {
        self.run.path()
    }

    /// `kubectl` and `helm` for this cluster.
    pub fn clients(&self) -> Clients {
        Clients::new(self.run.kubeconfig(), self.tools.clone())
    }

    /// The names of the nodes.
    pub fn nodes(&self) -> Vec<String> {
        self.plan.nodes().into_iter().map(|node| node.name).collect()
    }

    /// Loads an image on every node, from an OCI archive such as [`crate::oci::Image::archive`] returns.
    ///
    /// # Errors
    /// If a node is off, or its containerd refuses the image.
    pub async fn load(&self, archive: &Path) -> Result<()> {
        let imports = self.plan.nodes().into_iter().map(async |place| {
            let machine = Machine::find(&place, &self.run)?;
            node::import(&machine, archive).await
        });
        try_join_all(imports).await.map(drop)
    }

    /// Cuts a node off from all others, as if its network cable were unplugged. `cp` cuts off the control plane, which
    /// the host can still reach.
    ///
    /// # Errors
    /// If there is no such machine.
    pub async fn partition(&self, machine: &str) -> Result<()> {
        network::plug(&self.plan, &self.plan.machine(machine)?, false).await
    }

    /// Powers a node off abruptly: it is disconnected, and all its processes are killed. Its disk is kept. `cp` powers
    /// off the control plane.
    ///
    /// # Errors
    /// If there is no such machine, or it is already off.
    pub async fn crash(&self, machine: &str) -> Result<()> {
        let place = self.plan.machine(machine)?;
        let machine = Machine::find(&place, &self.run)?;
        network::plug(&self.plan, &place, false).await?;
        machine.stop().await?;
        // A real machine boots without cgroups; the kubelet would need seconds to clean up each one that it finds.
        eventually(&format!("the end of the cgroups of {}", place.name), GONE, async || {
            let left = cgroup::remove(|name| name == place.namespace);
            left.first().map_or(Ok(()), |left| Err(left.display().to_string()))
        })
        .await
    }

    /// Reconnects a node, powers it on if it is off, resumes processes that a signal stopped, and starts those of its
    /// programs that are not running; the node is `Ready` when this returns. With `cp`, does the same for the control
    /// plane, whose components are healthy when this returns.
    ///
    /// # Errors
    /// If there is no such machine, or it doesn't start; if one of its programs exits, or the node does not become
    /// ready in time; and [`Error::Off`] if the control plane is off, because no node can become ready without it.
    pub async fn heal(&self, machine: &str) -> Result<()> {
        let place = self.plan.machine(machine)?;
        network::plug(&self.plan, &place, true).await?;
        if let Ok(machine) = Machine::find(&place, &self.run) {
            machine.wake();
        }
        if place.pods.is_none() {
            return control_plane::start(&self.run, &self.plan, &self.tools).await.map(drop);
        }
        let (machine, containerd) = node::boot(&place, &self.run, &self.tools).await?;
        let mut services = node::join(&machine, &place, &self.run, &self.tools).await?;
        services.push(containerd);
        Machine::find(&self.plan.control_plane(), &self.run)?;
        let (clients, name, mut first) = (self.clients(), &place.name, None);
        eventually_served(&mut services, &format!("the readiness of node {name}"), READY, async || {
            let node = clients.kubectl(&["get", "node", name, "--output=json"]).await;
            let node = node.map_err(|error| error.to_string())?;
            heard(&serde_json::from_str(&node).map_err(|error| error.to_string())?, &mut first)
        })
        .await
    }

    /// Removes the cluster, whichever process holds it.
    ///
    /// # Errors
    /// [`Error::Left`], with what could not be removed.
    pub async fn down(mut self) -> Result<()> {
        self.held = false;
        self.proxy.take();
        let run = self.run.clone();
        blocking(move || teardown::remove(&run)).await
    }

    async fn start(&mut self, volumes: usize, progress: Progress<'_>) -> Result<()> {
        progress(&format!("making the network of {} nodes", self.plan.nodes().len()));
        network::create(&self.plan).await?;
        let control_plane = self.plan.control_plane();
        let namespace = network::namespace_path(&control_plane.namespace);
        let opened = File::open(&namespace);
        let opened = opened.map_err(|source| Error::File { action: "opened", path: namespace, source })?;
        let target = SocketAddr::from((control_plane.address, Plan::API_PORT));
        let proxy = Proxy::start(opened, target)?;
        control_plane::credentials(&self.run, &self.plan, proxy.address())?;
        self.proxy = Some(proxy);
        progress("starting the control plane, and containerd on the nodes");
        let nodes = self.plan.nodes();
        let boots = nodes.iter().map(|place| self.boot(place, volumes));
        let control_plane = control_plane::start(&self.run, &self.plan, &self.tools);
        let (mut services, machines) = tokio::try_join!(control_plane, try_join_all(boots))?;
        if self.plan.is_bare() {
            return Ok(());
        }
        progress("starting the kubelets");
        for (place, (machine, containerd)) in nodes.iter().zip(machines) {
            services.push(containerd);
            services.extend(node::join(&machine, place, &self.run, &self.tools).await?);
        }
        let objects = config::objects(&self.plan, volumes);
        self.clients().kubectl_with(&["apply", "--server-side", "-f", "-"], &objects).await?;
        progress("waiting for the nodes and DNS");
        self.ready(&mut services).await
    }

    async fn boot(&self, place: &Place, volumes: usize) -> Result<(Machine, Service)> {
        node::prepare(place, &self.run, volumes)?;
        let (machine, containerd) = node::boot(place, &self.run, &self.tools).await?;
        for image in self.tools.images() {
            node::import(&machine, &image).await?;
        }
        Ok((machine, containerd))
    }

    async fn ready(&self, services: &mut [Service]) -> Result<()> {
        let clients = self.clients();
        let wanted = self.nodes().into_iter().collect();
        eventually_served(services, "the readiness of all nodes and DNS", READY, async || {
            let seen = clients.kubectl(&["get", "nodes,deployments", "--namespace=kube-system", "--output=json"]).await;
            let seen = seen.map_err(|error| error.to_string())?;
            let seen = serde_json::from_str(&seen).map_err(|error| error.to_string())?;
            unready(&seen, &wanted)
        })
        .await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Another process may have removed it in the meantime.
        if self.held && self.run.path().exists() {
            self.proxy.take();
            if let Err(error) = teardown::remove(&self.run) {
                eprintln!("devkube: {error}");
            }
        }
    }
}

/// Fails with a description of what is not ready yet in a list of nodes and deployments.
fn unready(list: &Value, wanted: &BTreeSet<String>) -> Result<(), String> {
    let mut waiting = wanted.clone();
    let mut dns = false;
    for item in list["items"].as_array().into_iter().flatten() {
        match item["kind"].as_str() {
            Some("Node") => {
                let conditions = item["status"]["conditions"].as_array().into_iter().flatten();
                if conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "True") {
                    waiting.remove(item["metadata"]["name"].as_str().unwrap_or_default());
                }
            }
            Some("Deployment") => {
                dns |= item["status"]["availableReplicas"].as_u64() == item["spec"]["replicas"].as_u64();
            }
            _ => {}
        }
    }
    match (waiting.is_empty(), dns) {
        (true, true) => Ok(()),
        (true, false) => Err("DNS is not available".into()),
        (false, _) => Err(format!("not ready: {}", waiting.into_iter().collect::<Vec<_>>().join(", "))),
    }
}

/// Fails unless a node's kubelet has reported that it is ready since the first check. The API server's state at the
/// first check may be from before the node was lost, so the kubelet's heartbeat time at that check is kept in `first`,
/// and only a later heartbeat counts.
fn heard(node: &Value, first: &mut Option<Value>) -> Result<(), String> {
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready");
    let ready = ready.ok_or_else(|| String::from("its kubelet has not reported its status"))?;
    if first.get_or_insert_with(|| ready["lastHeartbeatTime"].clone()) == &ready["lastHeartbeatTime"] {
        return Err("its kubelet has not reported its status since the first check".into());
    }
    if ready["status"] == "True" { Ok(()) } else { Err(ready["message"].as_str().unwrap_or_default().to_owned()) }
}

/// Creates a run folder for this cluster only, which only this user can access.
fn run_folder(id: &str, asked: Option<&Path>) -> Result<Run> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    let path = match asked {
        Some(path) => absolute(path)?,
        None => std::env::temp_dir().join(format!("{RUN_PREFIX}{id}")),
    };
    visible(&path, "--run")?;
    let unusable = |source| Error::File { action: "used as a run folder", path: path.clone(), source };
    if asked.is_none() {
        std::fs::DirBuilder::new().mode(0o700).create(&path).map_err(unusable)?;
        return Ok(Run::new(path));
    }
    create_folder(&path)?;
    if std::fs::read_dir(&path).map_err(unusable)?.next().is_some() {
        return Err(unusable(std::io::ErrorKind::DirectoryNotEmpty.into()));
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).map_err(unusable)?;
    Ok(Run::new(path))
}

/// Refuses a folder that would not be visible on the nodes.
fn visible(path: &Path, setting: &'static str) -> Result<()> {
    let hidden = HIDDEN.into_iter().find(|hidden| path.starts_with(hidden));
    hidden.map_or(Ok(()), |hidden| Err(Error::Hidden { path: path.into(), hidden, setting }))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    std::path::absolute(path).map_err(|source| Error::File { action: "found", path: path.into(), source })
}

async fn blocking(work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_cluster_is_ready_when_every_node_and_dns_is() {
        let node = |name: &str, ready: &str| {
            json!({"kind": "Node", "metadata": {"name": name},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}})
        };
        let dns = |available: u64| json!({"kind": "Deployment", "spec": {"replicas": 2}, "status": {"availableReplicas": available}});
        let wanted = BTreeSet::from(["n1".to_owned(), "n2".to_owned()]);
        let check = |items: Vec<Value>| unready(&json!({ "items": items }), &wanted);
        assert_eq!(check(vec![node("n1", "True"), node("n2", "True"), dns(2)]), Ok(()));
        assert_eq!(check(vec![node("n1", "True"), node("n2", "Unknown"), dns(2)]), Err("not ready: n2".into()));
        assert_eq!(check(vec![node("n1", "True"), node("n2", "True"), dns(1)]), Err("DNS is not available".into()));
        assert_eq!(check(vec![]), Err("not ready: n1, n2".into()));
    }

    #[test]
    fn a_node_is_ready_when_it_says_so_again() {
        let node = |heartbeat: &str, status: &str| {
            let ready =
                json!({"type": "Ready", "status": status, "lastHeartbeatTime": heartbeat, "message": "no network"});
            json!({"status": {"conditions": [{"type": "MemoryPressure", "status": "False"}, ready]}})
        };
        let mut first = None;
        assert!(heard(&json!({}), &mut first).unwrap_err().contains("has not reported"));
        assert!(heard(&node("10:00", "True"), &mut first).unwrap_err().contains("since the"), "from before");
        assert!(heard(&node("10:00", "Unknown"), &mut first).unwrap_err().contains("since the"));
        assert_eq!(heard(&node("10:01", "False"), &mut first), Err("no network".into()));
        assert_eq!(heard(&node("10:02", "True"), &mut first), Ok(()));
    }

    #[test]
    fn a_run_folder_must_be_empty_and_seen_by_the_nodes() {
        let folder = tempfile::tempdir().unwrap();
        run_folder("a", Some(&folder.path().join("new"))).unwrap();
        std::fs::write(folder.path().join("file"), "x").unwrap();
        assert!(matches!(run_folder("a", Some(folder.path())), Err(Error::File { .. })));
        let error = run_folder("a", Some(Path::new("/var/lib/x"))).unwrap_err().to_string();
        assert!(error.contains("/var/lib") && error.ends_with("--run"), "{error}");
    }
}
