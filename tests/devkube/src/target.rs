//! The cluster that a test suite runs on: a given one, one that kind creates if Docker is running, or devkube's own.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;

use crate::{
    clients::Clients,
    cluster::{Cluster, NODES, Options},
    command::{program, run, which},
    error::{Error, Result},
    plan::CONTROL_PLANE,
    record::{Process, create_folder},
    tools::{Tools, Wanted},
};

/// The deadline of the check that Docker is running.
const DOCKER: Duration = Duration::from_secs(10);
/// The deadline for kind to create a cluster: it first downloads the node image.
const KIND: Duration = Duration::from_secs(15 * 60);
/// Environment variable with the shell command that loads an image into a given cluster; the archive's path is
/// appended.
pub const LOAD_VARIABLE: &str = "DEVKUBE_LOAD";
/// The deadline of that command.
const LOAD: Duration = Duration::from_secs(5 * 60);
/// The deadline for a kind node to become ready again, as an argument of kubectl.
const KIND_READY: &str = "--timeout=180s";
/// The deadline of a `docker` command on a kind node.
const INSIDE: Duration = Duration::from_secs(60);
/// The iptables chains and interface options that cut a kind node off: they drop all traffic through `eth0`, and none
/// inside the node.
const CABLE: [(&str, &str); 3] = [("INPUT", "-i"), ("OUTPUT", "-o"), ("FORWARD", "-i")];

/// A cluster for tests, of any kind. Dropping it removes a cluster that was created for the tests;
/// [`TestCluster::down`] also returns an error if that fails.
#[derive(Debug)]
pub struct TestCluster {
    target: Target,
    clients: Clients,
}

#[derive(Debug)]
enum Target {
    Given,
    Kind(Kind),
    // Boxed because it is large.
    Devkube(Box<Cluster>),
}

/// The kind of cluster to use; for devkube, also the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Choice {
    Given(PathBuf),
    Kind,
    Devkube { because: String },
}

impl Cluster {
    /// Returns the cluster for a test suite: the one of `KUBECONFIG` if that is set; else a new kind cluster if Docker
    /// is running and kind is installed; else a new devkube cluster. Prints to stderr which one it uses, and why.
    ///
    /// # Errors
    /// If the cluster can't be used or created.
    pub async fn for_tests() -> Result<TestCluster> {
        Self::for_tests_with(Options::default()).await
    }

    /// Like [`Cluster::for_tests`], with options for a devkube cluster; the number of nodes also applies to kind.
    ///
    /// # Errors
    /// The same as for [`Cluster::for_tests`].
    pub async fn for_tests_with(options: Options) -> Result<TestCluster> {
        let kubeconfig = std::env::var_os("KUBECONFIG").filter(|value| !value.is_empty()).map(PathBuf::from);
        let docker = if kubeconfig.is_none() { docker_runs().await } else { Err(String::new()) };
        let choice = choose(kubeconfig, docker, which("kind").is_some());
        match choice {
            Choice::Given(kubeconfig) => {
                say(&format!("using the cluster of KUBECONFIG={}", kubeconfig.display()));
                let clients = Clients::new(kubeconfig, Tools::ensure(Wanted::Clients, &say).await?);
                clients.kubectl(&["version"]).await?;
                Ok(TestCluster { target: Target::Given, clients })
            }
            Choice::Kind => {
                say("using a new kind cluster: KUBECONFIG is not set, and Docker is running");
                let tools = Tools::ensure(Wanted::Clients, &say).await?;
                let kind = Kind::up(options.nodes).await?;
                let clients = Clients::new(kind.kubeconfig(), tools);
                Ok(TestCluster { target: Target::Kind(kind), clients })
            }
            Choice::Devkube { because } => {
                say(&format!("using a new devkube cluster: KUBECONFIG is not set, and {because}"));
                let cluster = Self::up(options, &say).await?;
                let clients = cluster.clients();
                Ok(TestCluster { target: Target::Devkube(Box::new(cluster)), clients })
            }
        }
    }
}

impl TestCluster {
    /// The path of a kubeconfig with administrator credentials; its server can be reached from this process.
    pub fn kubeconfig(&self) -> &Path {
        self.clients.kubeconfig()
    }

    /// `kubectl` and `helm` for this cluster.
    pub fn clients(&self) -> &Clients {
        &self.clients
    }

    /// Runs `kubectl` and returns its stdout.
    ///
    /// # Errors
    /// The same as for [`Clients::kubectl`].
    pub async fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.clients.kubectl(arguments).await
    }

    /// Runs `kubectl` with `input` on its stdin, and returns its stdout.
    ///
    /// # Errors
    /// The same as for [`Clients::kubectl`].
    pub async fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        self.clients.kubectl_with(arguments, input).await
    }

    /// Runs `helm` and returns its stdout.
    ///
    /// # Errors
    /// The same as for [`Clients::kubectl`].
    pub async fn helm(&self, arguments: &[&str]) -> Result<String> {
        self.clients.helm(arguments).await
    }

    /// Returns the names of the worker nodes, whether or not they are ready.
    ///
    /// # Errors
    /// The same as for [`Clients::kubectl`]; and [`Error::Damaged`] if its output can't be parsed.
    pub async fn nodes(&self) -> Result<Vec<String>> {
        let list = self.kubectl(&["get", "nodes", "--output=json"]).await?;
        let damaged = |error: serde_json::Error| Error::Damaged {
            path: "the output of kubectl get nodes".into(),
            problem: error.to_string(),
        };
        Ok(workers(&serde_json::from_str(&list).map_err(damaged)?))
    }

    /// Returns the name of the machine that runs the API server, for [`TestCluster::crash`] and similar calls; `None`
    /// for a given cluster.
    pub fn control_plane(&self) -> Option<String> {
        match &self.target {
            Target::Given => None,
            Target::Kind(kind) => Some(format!("{}-control-plane", kind.name)),
            Target::Devkube(_) => Some(CONTROL_PLANE.into()),
        }
    }

    /// Returns the underlying devkube cluster, if it is one.
    pub fn devkube(&self) -> Option<&Cluster> {
        match &self.target {
            Target::Devkube(cluster) => Some(cluster),
            Target::Given | Target::Kind(_) => None,
        }
    }

    /// Loads an image from an OCI archive on every node; for a given cluster, with the command in [`LOAD_VARIABLE`].
    ///
    /// # Errors
    /// [`Error::NotPossible`] for a given cluster without that command; otherwise if loading fails.
    pub async fn load_image(&self, archive: &Path) -> Result<()> {
        match &self.target {
            Target::Given => match std::env::var(LOAD_VARIABLE) {
                Ok(loader) => load_by(&loader, archive).await,
                Err(_) => Err(self.not_possible(
                    "loading an image",
                    "set DEVKUBE_LOAD to a command that loads an archive appended to it, such as `minikube image load`",
                )),
            },
            Target::Kind(kind) => kind.load(archive).await,
            Target::Devkube(cluster) => cluster.load(archive).await,
        }
    }

    /// Cuts a node off from the others, until [`TestCluster::heal`].
    ///
    /// # Errors
    /// [`Error::NotPossible`] for a given cluster; otherwise if there is no such node.
    pub async fn partition(&self, node: &str) -> Result<()> {
        match &self.target {
            Target::Given => Err(self.not_possible("partitioning a node", "unset KUBECONFIG to create another one")),
            Target::Kind(kind) => kind.partition(node).await,
            Target::Devkube(cluster) => cluster.partition(node).await,
        }
    }

    /// Kills everything on a node at once; it stays off until [`TestCluster::heal`].
    ///
    /// # Errors
    /// The same as for [`TestCluster::partition`].
    pub async fn crash(&self, node: &str) -> Result<()> {
        match &self.target {
            Target::Given => Err(self.not_possible("crashing a node", "unset KUBECONFIG to create another one")),
            Target::Kind(_) => docker(&["kill", node]).await,
            Target::Devkube(cluster) => cluster.crash(node).await,
        }
    }

    /// Ends a partition or a crash; the node is `Ready` when this returns.
    ///
    /// # Errors
    /// The same as for [`TestCluster::partition`]; and if the node does not become ready.
    pub async fn heal(&self, node: &str) -> Result<()> {
        match &self.target {
            Target::Given => Err(self.not_possible("healing a node", "unset KUBECONFIG to create another one")),
            Target::Kind(kind) => {
                kind.heal(node).await?;
                let node = format!("node/{node}");
                self.kubectl(&["wait", "--for=condition=Ready", KIND_READY, &node]).await.map(drop)
            }
            Target::Devkube(cluster) => cluster.heal(node).await,
        }
    }

    /// Removes the cluster if it was created for the tests; a given cluster is kept.
    ///
    /// # Errors
    /// If something is left of it.
    pub async fn down(self) -> Result<()> {
        match self.target {
            Target::Given => Ok(()),
            Target::Kind(kind) => kind.down().await,
            Target::Devkube(cluster) => cluster.down().await,
        }
    }

    fn not_possible(&self, what: &'static str, instead: &'static str) -> Error {
        Error::NotPossible { what, cluster: format!("the given cluster ({})", self.kubeconfig().display()), instead }
    }
}

/// Returns the names of the nodes in a list, except those with the taint of the control plane.
fn workers(list: &Value) -> Vec<String> {
    let kept = |node: &Value| {
        let taints = node["spec"]["taints"].as_array().into_iter().flatten();
        taints.into_iter().any(|taint| taint["key"] == "node-role.kubernetes.io/control-plane")
    };
    let nodes = list["items"].as_array().into_iter().flatten().filter(|node| !kept(node));
    nodes.filter_map(|node| node["metadata"]["name"].as_str()).map(String::from).collect()
}

fn choose(kubeconfig: Option<PathBuf>, docker: Result<(), String>, kind: bool) -> Choice {
    match (kubeconfig, docker) {
        (Some(kubeconfig), _) => Choice::Given(kubeconfig),
        (None, Ok(())) if kind => Choice::Kind,
        (None, Ok(())) => Choice::Devkube { because: "kind is not installed".into() },
        (None, Err(why)) => Choice::Devkube { because: why },
    }
}

async fn docker_runs() -> Result<(), String> {
    if which("docker").is_none() {
        return Err("docker is not installed".into());
    }
    let mut command = program("docker");
    command.args(["info", "--format", "{{.ServerVersion}}"]);
    run(command, None, DOCKER).await.map(drop).map_err(|_| "the Docker engine does not respond".into())
}

async fn load_by(loader: &str, archive: &Path) -> Result<()> {
    let mut command = program("sh");
    command.args(["-ec", &format!("{loader} \"$0\"")]).arg(archive);
    run(command, None, LOAD).await.map(drop)
}

fn say(text: &str) {
    eprintln!("devkube: {text}");
}

/// A cluster that kind created.
#[derive(Debug)]
struct Kind {
    name: String,
    folder: PathBuf,
    held: bool,
}

impl Kind {
    async fn up(nodes: usize) -> Result<Self> {
        let process = Process::myself().map_or(0, |process| process.started);
        let name = format!("devkube-{}-{process}", std::process::id());
        let kind = Self { folder: std::env::temp_dir().join(format!("kind-{name}")), name, held: true };
        create_folder(&kind.folder)?;
        let mut description = String::from("kind: Cluster\napiVersion: kind.x-k8s.io/v1alpha4\nnodes:\n");
        description.push_str("- role: control-plane\n");
        description.push_str(&"- role: worker\n".repeat(if nodes == 0 { NODES } else { nodes }));
        let mut command = program("kind");
        command.args(["create", "cluster", "--config=-", "--wait=5m", "--name", &kind.name]);
        command.arg("--kubeconfig").arg(kind.kubeconfig());
        run(command, Some(description.as_bytes()), KIND).await?;
        Ok(kind)
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.join("kubeconfig")
    }

    async fn load(&self, archive: &Path) -> Result<()> {
        let mut command = program("kind");
        command.args(["load", "image-archive", "--name", &self.name]).arg(archive);
        run(command, None, KIND).await.map(drop)
    }

    async fn partition(&self, node: &str) -> Result<()> {
        for (chain, direction) in CABLE {
            docker(&["exec", node, "iptables", "-I", chain, direction, "eth0", "-j", "DROP"]).await?;
        }
        Ok(())
    }

    /// Starts a node and deletes the rules of a partition. Errors of the deletion are ignored, because a killed node
    /// has lost these rules.
    async fn heal(&self, node: &str) -> Result<()> {
        docker(&["start", node]).await?;
        for (chain, direction) in CABLE {
            let _ = docker(&["exec", node, "iptables", "-D", chain, direction, "eth0", "-j", "DROP"]).await;
        }
        Ok(())
    }

    async fn down(mut self) -> Result<()> {
        self.held = false;
        let mut command = program("kind");
        command.args(["delete", "cluster", "--name", &self.name]).arg("--kubeconfig").arg(self.kubeconfig());
        run(command, None, KIND).await?;
        let removed = std::fs::remove_dir_all(&self.folder);
        removed.map_err(|source| Error::File { action: "removed", path: self.folder.clone(), source })
    }
}

impl Drop for Kind {
    fn drop(&mut self) {
        if self.held {
            let mut command = std::process::Command::new("kind");
            command.args(["delete", "cluster", "--name", &self.name]).arg("--kubeconfig").arg(self.kubeconfig());
            if !command.status().is_ok_and(|status| status.success()) {
                say(&format!("kind cluster {} could not be deleted: try `kind delete cluster --name {0}`", self.name));
            }
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

async fn docker(arguments: &[&str]) -> Result<()> {
    let mut command = program("docker");
    command.args(arguments);
    run(command, None, INSIDE).await.map(drop)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_lost_node_is_one_for_pods_and_the_control_planes_is_not() {
        let node = |name: &str, taint: &str| json!({"metadata": {"name": name}, "spec": {"taints": [{"key": taint}]}});
        let list = json!({"items": [
            {"metadata": {"name": "n1"}, "spec": {}},
            node("n2", "node.kubernetes.io/unreachable"),
            node("cp", "node-role.kubernetes.io/control-plane"),
        ]});
        assert_eq!(workers(&list), ["n1", "n2"]);
    }

    #[tokio::test]
    async fn a_given_clusters_loader_gets_the_archive() {
        let archive = Path::new("/tmp/an image.tar");
        load_by("test '/tmp/an image.tar' =", archive).await.unwrap();
        assert!(matches!(load_by("test other =", archive).await, Err(Error::Command { .. })));
    }

    #[test]
    fn a_given_cluster_comes_before_kind_and_kind_before_devkube() {
        let given = Some(PathBuf::from("/k"));
        let no_docker = || Err("the Docker engine does not respond".to_owned());
        let devkube = |because: &str| Choice::Devkube { because: because.into() };
        assert_eq!(choose(given.clone(), Ok(()), true), Choice::Given("/k".into()));
        assert_eq!(choose(given, no_docker(), false), Choice::Given("/k".into()));
        assert_eq!(choose(None, Ok(()), true), Choice::Kind);
        assert_eq!(choose(None, Ok(()), false), devkube("kind is not installed"));
        assert_eq!(choose(None, no_docker(), true), devkube("the Docker engine does not respond"));
    }
}
