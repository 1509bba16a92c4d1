//! A whole cluster: made, used, hurt, healed and removed.

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

/// How many nodes a cluster has unless told otherwise.
pub const NODES: usize = 3;
/// How many local volumes a node has unless told otherwise.
pub const VOLUMES_PER_NODE: usize = 4;
/// How long the nodes may take until all are ready, and DNS with them; and one node alone.
const READY: Duration = Duration::from_secs(180);
/// How long the kernel may take to let go of what ended.
const GONE: Duration = Duration::from_secs(20);

/// Is told what is being done, in a few words.
pub type Progress<'a> = &'a (dyn Fn(&str) + Sync);

/// What kind of cluster to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How many nodes, up to [`crate::MAX_NODES`]. With none there is a control plane alone: the API server, etcd, and of the
    /// controllers those that clean up, so that owned objects and namespaces go; no pod is made, let alone run.
    pub nodes: usize,
    /// How many local PersistentVolumes each node has. Each is bound once: nothing wipes them.
    pub volumes_per_node: usize,
    /// The cluster's folder, which must be empty or not exist. By default a new one in the system's temporary folder.
    pub run: Option<PathBuf>,
    /// Whether this process is there for the cluster alone, so that `down` may end it.
    pub supervised: bool,
    /// Whether a cluster that didn't come up is left as it is, for a look at its logs; otherwise it is removed.
    pub keep_failed: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { nodes: NODES, volumes_per_node: VOLUMES_PER_NODE, run: None, supervised: false, keep_failed: false }
    }
}

/// A cluster of several nodes on this machine. The one that made it holds it: it is removed when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    run: Run,
    plan: Plan,
    tools: Tools,
    /// Of the holder alone.
    proxy: Option<Proxy>,
    held: bool,
}

impl Cluster {
    /// Brings up a cluster; it is ready for pods when this returns. Removes clusters in the temporary folder whose
    /// holders are gone, first.
    ///
    /// # Errors
    /// When something is missing on this machine, or the cluster doesn't come up; nothing is left of it then, unless
    /// [`Options::keep_failed`].
    pub async fn up(options: Options, progress: Progress<'_>) -> Result<Self> {
        requirements::check_run(options.nodes > 0)?;
        let id = format!("{:08x}", RandomState::new().build_hasher().finish() as u32);
        let plan = Plan::new(&id, options.nodes)?;
        // One that can't be removed is in nobody's way, and was told.
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
        // From here on, whatever ends this function early removes what was made.
        let mut cluster = Self { run, plan, tools, proxy: None, held: true };
        if let Err(error) = cluster.start(options.volumes_per_node, progress).await {
            cluster.held = !options.keep_failed;
            return Err(error);
        }
        Ok(cluster)
    }

    /// A cluster that another process holds.
    ///
    /// # Errors
    /// When there is none in this folder.
    pub fn attach(run: &Path) -> Result<Self> {
        let run = Run::new(absolute(run)?);
        let description = run.description()?;
        let plan = Plan::new(&description.id, description.nodes)?;
        Ok(Self { run, plan, tools: Tools::at(description.tools), proxy: None, held: false })
    }

    /// The run folders of the clusters in the system's temporary folder.
    pub fn list() -> Vec<PathBuf> {
        teardown::runs_in(&std::env::temp_dir()).into_iter().map(|run| run.path().to_owned()).collect()
    }

    /// Removes the clusters in the system's temporary folder whose holders are gone: nobody can reach them any more.
    ///
    /// # Errors
    /// The last of those that came up; the others are removed nevertheless.
    pub async fn remove_abandoned(progress: Progress<'_>) -> Result<()> {
        let mut result = Ok(());
        for run in teardown::runs_in(&std::env::temp_dir()) {
            if run.description().is_ok_and(|description| !description.owner.is_alive()) {
                progress(&format!("removing {}, whose holder is gone", run.path().display()));
                if let Err(error) = blocking(move || teardown::remove(&run)).await {
                    progress(&error.to_string());
                    result = Err(error);
                }
            }
        }
        result
    }

    /// The cluster's own folder: kubeconfig, logs, keys and disks.
    pub fn run(&self) -> &Path {
        self.run.path()
    }

    /// `kubectl` and `helm` for this cluster.
    pub fn clients(&self) -> Clients {
        Clients::new(self.run.kubeconfig(), self.tools.clone())
    }

    /// The names of its nodes.
    pub fn nodes(&self) -> Vec<String> {
        self.plan.nodes().into_iter().map(|node| node.name).collect()
    }

    /// Gives every node an image, from an OCI archive as [`crate::oci::Image::archive`] makes it.
    ///
    /// # Errors
    /// When a node refuses it, or is down.
    pub async fn load(&self, archive: &Path) -> Result<()> {
        let imports = self.plan.nodes().into_iter().map(async |place| {
            let machine = Machine::find(&place, &self.run)?;
            node::import(&machine, archive).await
        });
        try_join_all(imports).await.map(drop)
    }

    /// Cuts a node off all others, as if its cable was pulled. `cp` cuts off the control plane, which the host still reaches.
    ///
    /// # Errors
    /// When there is no such machine.
    pub async fn partition(&self, machine: &str) -> Result<()> {
        network::plug(&self.plan, &self.plan.machine(machine)?, false).await
    }

    /// Cuts a node's power: it falls silent, and all its processes are gone. Its disk stays. `cp` takes the control plane away.
    ///
    /// # Errors
    /// When there is no such machine, or it is off already.
    pub async fn crash(&self, machine: &str) -> Result<()> {
        let place = self.plan.machine(machine)?;
        let machine = Machine::find(&place, &self.run)?;
        network::plug(&self.plan, &place, false).await?;
        machine.stop().await?;
        // A computer that starts again has no cgroups; the kubelet would take seconds over each that it finds.
        eventually(&format!("the end of the cgroups of {}", place.name), GONE, async || {
            let left = cgroup::remove(|name| name == place.namespace);
            left.first().map_or(Ok(()), |left| Err(left.display().to_string()))
        })
        .await
    }

    /// Connects a node again, switches it on if it is off, lets go on what a signal stopped, and starts what of its programs does not
    /// run; the node is `Ready` when this returns. Or `cp`, the control plane, all of which answers then.
    ///
    /// # Errors
    /// When there is no such machine, or it doesn't start; when one of its programs ends, or the node is not ready in time;
    /// and [`Error::Off`] when the control plane has no power, without which no node is ready.
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

    /// Removes the cluster, whoever holds it.
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
        // Another process may have removed it meanwhile.
        if self.held && self.run.path().exists() {
            self.proxy.take();
            if let Err(error) = teardown::remove(&self.run) {
                eprintln!("devkube: {error}");
            }
        }
    }
}

/// What of a list of nodes and deployments is not ready yet.
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

/// Whether a node's kubelet has said that it is ready after the first look. What the API server knows at that look may be from
/// before the node was lost: it is remembered in `first`, by the time at which the kubelet said it.
fn heard(node: &Value, first: &mut Option<Value>) -> Result<(), String> {
    let conditions = node["status"]["conditions"].as_array().into_iter().flatten();
    let ready = conditions.into_iter().find(|condition| condition["type"] == "Ready");
    let ready = ready.ok_or_else(|| String::from("its kubelet has not said how it is"))?;
    if first.get_or_insert_with(|| ready["lastHeartbeatTime"].clone()) == &ready["lastHeartbeatTime"] {
        return Err("its kubelet has said nothing since".into());
    }
    if ready["status"] == "True" { Ok(()) } else { Err(ready["message"].as_str().unwrap_or_default().to_owned()) }
}

/// Makes a folder that is this cluster's alone, and for this user alone.
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

/// Refuses a folder that the nodes would not see.
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
        assert!(heard(&json!({}), &mut first).unwrap_err().contains("has not said"));
        assert!(heard(&node("10:00", "True"), &mut first).unwrap_err().contains("nothing since"), "from before");
        assert!(heard(&node("10:00", "Unknown"), &mut first).unwrap_err().contains("nothing since"));
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
