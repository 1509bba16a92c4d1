//! Tests a real cluster of three nodes as a test suite uses it: pods with volumes and Services, a lost node, and
//! nothing left at the end. Runs on the cluster that `Cluster::for_tests` chooses; prints which one that is, and which
//! parts a given cluster can't run.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use devkube::{Clients, Cluster, Error, Options, TestCluster, busybox, oci::Image};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// The deadline for what kubelets and controllers do within seconds; generous, because the machine may be busy.
const DEADLINE: Duration = Duration::from_secs(180);

const WORKLOAD: &str = include_str!("workload.yaml");
const NAMESPACE: &str = "--namespace=devkube-test";

/// Three pods, one on each node, each with a volume that contains its name, and one Service for them.
struct Workload<'a> {
    cluster: &'a TestCluster,
}

impl<'a> Workload<'a> {
    async fn start(cluster: &'a TestCluster) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let archive = folder.path().join("tools.tar");
        let image = Image::userland(busybox().expect("a static busybox")).user("65532:65532");
        fs::write(&archive, image.archive("devkube-tools:test").expect("an image")).expect("an archive");
        cluster.load_image(&archive).await.expect("an image on every node");
        let workload = Self { cluster };
        cluster.kubectl_with(&["apply", "-f", "-"], WORKLOAD).await.expect("a workload");
        workload.kubectl(&["rollout", "status", "statefulset/web", "--timeout=180s"]).await;
        workload
    }

    async fn kubectl(&self, arguments: &[&str]) -> String {
        let all: Vec<_> = std::iter::once(NAMESPACE).chain(arguments.iter().copied()).collect();
        self.cluster.kubectl(&all).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs a shell script in a pod and returns its stdout.
    async fn shell(&self, pod: &str, script: &str) -> Result<String, String> {
        let arguments = [NAMESPACE, "exec", pod, "--", "sh", "-c", script];
        self.cluster.kubectl(&arguments).await.map_err(|error| error.to_string())
    }

    async fn field(&self, object: &str, path: &str) -> String {
        self.kubectl(&["get", object, &format!("--output=jsonpath={{{path}}}")]).await
    }

    /// Sends an HTTP request from a pod to an address, and returns the response body.
    async fn fetch(&self, pod: &str, address: &str) -> Result<String, String> {
        self.shell(pod, &format!("timeout 5 wget -q -O - http://{address}/")).await.map(|text| text.trim().to_owned())
    }
}

/// Checks a condition until it holds.
async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        match look().await {
            Ok(value) => return value,
            Err(last) => assert!(Instant::now() < end, "{what}: not within {DEADLINE:?}; last: {last}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Returns the status of a node's condition `Ready`: `True`, `False` or `Unknown`; or an error text.
async fn readiness(clients: &Clients, node: &str) -> String {
    let query = r#"--output=jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
    clients.kubectl(&["get", "node", node, query]).await.unwrap_or_else(|error| error.to_string())
}

async fn node_is(clients: &Clients, node: &str, wanted: &str) {
    eventually(&format!("{node} Ready={wanted}"), async || {
        let status = readiness(clients, node).await;
        if status == wanted { Ok(()) } else { Err(status) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_runs_pods_loses_a_node_and_leaves_nothing() {
    let cluster = Cluster::for_tests().await.unwrap_or_else(|error| panic!("{error}"));

    let workload = Workload::start(&cluster).await;
    each_pod_has_its_volume(&workload).await;
    pods_reach_each_other_by_address_service_and_name(&workload).await;
    let node = workload.field("pod/web-1", ".spec.nodeName").await;
    if cluster.control_plane().is_some() {
        a_partition_is_noticed_and_heals(&workload, &node).await;
        a_crashed_node_comes_back_with_its_volume(&workload, &node).await;
        the_api_server_goes_and_comes_back(&cluster).await;
    } else {
        eprintln!("NOT TESTED: the loss of a node and of the API server, since a given cluster can't do that");
    }
    cluster.kubectl(&["delete", "namespace", "devkube-test", "--wait=false"]).await.expect("the namespace is deleted");

    let traces = cluster.devkube().map(|own| Traces::of(own.run()));
    cluster.down().await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(traces.map(|traces| traces.found()).unwrap_or_default(), Vec::<String>::new(), "something is left");
}

async fn each_pod_has_its_volume(workload: &Workload<'_>) {
    for pod in ["web-0", "web-1", "web-2"] {
        assert_eq!(workload.shell(pod, "cat /data/index.html").await.as_deref().map(str::trim), Ok(pod));
        assert_eq!(workload.kubectl(&["logs", pod]).await.trim(), format!("{pod} is up"));
    }
    assert_eq!(workload.shell("web-0", "id -u").await.as_deref().map(str::trim), Ok("65532"));
}

async fn pods_reach_each_other_by_address_service_and_name(workload: &Workload<'_>) {
    let mut nodes = BTreeSet::new();
    for pod in ["web-0", "web-1", "web-2"] {
        let address = workload.field(&format!("pod/{pod}"), ".status.podIP").await;
        assert_eq!(workload.fetch("web-0", &format!("{address}:8080")).await.as_deref(), Ok(pod));
        nodes.insert(workload.field(&format!("pod/{pod}"), ".spec.nodeName").await);
    }
    assert_eq!(nodes.len(), 3, "the pods share nodes: {nodes:?}");
    let service = workload.field("service/web", ".spec.clusterIP").await;
    let mut answers = BTreeSet::new();
    eventually("all pods behind the Service", async || {
        answers.insert(workload.fetch("web-2", &format!("{service}:80")).await?);
        if answers.len() == 3 { Ok(()) } else { Err(format!("{answers:?}")) }
    })
    .await;
    let found = eventually("the name of the Service", async || {
        workload.shell("web-1", "nslookup web.devkube-test.svc.cluster.local").await
    })
    .await;
    assert!(found.contains(&service), "{found}");
}

async fn a_partition_is_noticed_and_heals(workload: &Workload<'_>, node: &str) {
    let cluster = workload.cluster;
    cluster.partition(node).await.expect("a partition");
    node_is(cluster.clients(), node, "Unknown").await;
    cluster.heal(node).await.expect("it heals");
    assert_eq!(readiness(cluster.clients(), node).await, "True", "a healed node is ready");
    reaches_the_others(workload).await;
}

async fn a_crashed_node_comes_back_with_its_volume(workload: &Workload<'_>, node: &str) {
    let cluster = workload.cluster;
    cluster.crash(node).await.expect("a crash");
    node_is(cluster.clients(), node, "Unknown").await;
    cluster.heal(node).await.expect("it heals");
    assert_eq!(readiness(cluster.clients(), node).await, "True", "a healed node is ready");
    reaches_the_others(workload).await;
    let starts = workload.shell("web-1", "wc -l < /data/starts").await;
    assert!(
        starts.as_deref().is_ok_and(|starts| starts.trim() >= "2"),
        "the volume forgot its first start: {starts:?}"
    );
}

async fn the_api_server_goes_and_comes_back(cluster: &TestCluster) {
    let machine = cluster.control_plane().expect("a cluster of our own has one");
    cluster.crash(&machine).await.expect("a crash");
    let refused = cluster.kubectl(&["get", "nodes", "--request-timeout=5s"]).await;
    assert!(refused.is_err(), "the API server still answers: {refused:?}");
    cluster.heal(&machine).await.expect("it heals");
    for node in cluster.nodes().await.expect("an answer") {
        node_is(cluster.clients(), &node, "True").await;
    }
}

/// Checks that the pod on the lost node runs again, and reaches a pod on another node.
async fn reaches_the_others(workload: &Workload<'_>) {
    eventually("web-1 after its node came back", async || {
        let address = workload.field("pod/web-0", ".status.podIP").await;
        workload.fetch("web-1", &format!("{address}:8080")).await
    })
    .await;
}

/// A cluster of one node, whose programs are killed, stopped and misconfigured.
struct Patient {
    cluster: Cluster,
}

impl Patient {
    async fn new(folder: &Path) -> Self {
        let options = Options { nodes: 1, run: Some(folder.join("run")), ..Options::default() };
        let cluster = Cluster::up(options, &|step| eprintln!("{step}")).await.unwrap_or_else(|error| panic!("{error}"));
        Self { cluster }
    }

    /// Returns the process of a program on a machine, given the first 15 characters of its name.
    fn program(&self, name: &str) -> Option<i32> {
        let processes = Traces::of(self.cluster.run()).processes();
        let mut pids = processes.into_iter().filter_map(|folder| folder.strip_prefix("/proc/")?.parse().ok());
        pids.find(|pid: &i32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name))
    }

    /// Sends a signal to programs of the node or of the control plane; after SIGKILL, waits until they have ended.
    async fn signal(&self, signal: Signal, programs: &[&str]) {
        let found = || programs.iter().map(|name| (name, self.program(name)));
        for (name, pid) in found() {
            kill(Pid::from_raw(pid.unwrap_or_else(|| panic!("{name} does not run"))), signal).expect("it runs");
        }
        eventually("the end of what was killed", async || match found().find(|(_, pid)| pid.is_some()) {
            Some((name, _)) if signal == Signal::SIGKILL => Err(format!("{name} runs")),
            _ => Ok(()),
        })
        .await;
    }

    /// Replaces a file on the node's disk, and returns its previous content.
    fn edit(&self, file: &str, text: &str) -> String {
        let path = self.cluster.run().join("machines/n1/lib/devkube").join(file);
        let before = fs::read_to_string(&path).expect("the node's own file");
        fs::write(path, text).expect("the node's disk");
        before
    }

    async fn heals(&self, machine: &str) {
        self.cluster.heal(machine).await.unwrap_or_else(|error| panic!("{machine} is not healed: {error}"));
        let clients = self.cluster.clients();
        if machine == "cp" {
            // Nodes that could not reach the control plane need a moment to reconnect.
            return node_is(&clients, "n1", "True").await;
        }
        assert_eq!(readiness(&clients, machine).await, "True", "a healed node is ready");
    }

    /// Expects that healing fails, and returns the error message.
    async fn stays_ill(&self, machine: &str) -> String {
        self.cluster.heal(machine).await.expect_err("a broken machine does not heal").to_string()
    }
}

#[tokio::test]
async fn a_node_is_healed_when_it_is_ready_and_not_before() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let patient = Patient::new(folder.path()).await;
    let cluster = &patient.cluster;

    let killed: [&[&str]; 4] = [&["containerd", "kubelet"], &["kubelet"], &["containerd"], &["kube-proxy"]];
    for programs in killed {
        patient.signal(Signal::SIGKILL, programs).await;
        patient.heals("n1").await;
        for program in ["containerd", "kubelet", "kube-proxy"] {
            assert!(patient.program(program).is_some(), "{programs:?} were killed, and {program} does not run");
        }
    }
    patient.signal(Signal::SIGSTOP, &["kubelet"]).await;
    node_is(&cluster.clients(), "n1", "Unknown").await;
    patient.heals("n1").await;
    patient.heals("n1").await;
    patient.signal(Signal::SIGSTOP, &["kubelet", "containerd"]).await;
    // At once, so that the API server's state of the node is still from before.
    cluster.crash("n1").await.expect("a crash");
    patient.heals("n1").await;

    // A containerd that never becomes ready, and one that exits; then a kubelet that exits.
    let config = patient.edit(
        "containerd.toml",
        "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
        [grpc]\n  address = \"/run/containerd/containerd.sock\"\n",
    );
    cluster.crash("n1").await.expect("a crash");
    let said = patient.stays_ill("n1").await;
    assert!(said.contains("the readiness of containerd on n1 did not happen within"), "{said}");
    assert!(said.contains("unknown service runtime.v1.RuntimeService"), "{said}");
    patient.edit("containerd.toml", "nonsense");
    cluster.crash("n1").await.expect("a crash");
    let said = patient.stays_ill("n1").await;
    assert!(said.contains("n1/containerd exited unexpectedly"), "{said}");
    patient.edit("containerd.toml", &config);
    let config = patient.edit("kubelet.json", "nonsense");
    let said = patient.stays_ill("n1").await;
    assert!(said.contains("n1/kubelet exited unexpectedly") && said.contains("kubelet.json"), "{said}");
    patient.edit("kubelet.json", &config);
    patient.heals("n1").await;

    for programs in [&["kube-apiserver", "etcd"][..], &["kube-scheduler", "kube-controller"]] {
        patient.signal(Signal::SIGKILL, programs).await;
        patient.heals("cp").await;
        for program in ["etcd", "kube-apiserver", "kube-controller", "kube-scheduler"] {
            assert!(patient.program(program).is_some(), "{programs:?} were killed, and {program} does not run");
        }
    }
    cluster.crash("cp").await.expect("a crash");
    let said = patient.stays_ill("n1").await;
    assert!(said.contains("machine cp is off"), "{said}");
    patient.heals("cp").await;
    patient.heals("n1").await;
}

#[tokio::test]
async fn two_clusters_run_side_by_side_and_one_outlives_the_other() {
    if std::env::var_os("KUBECONFIG").is_some_and(|value| !value.is_empty()) {
        eprintln!("KUBECONFIG is set: this test nevertheless uses new devkube clusters");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let up = async |name: &str| {
        let options = Options { nodes: 1, run: Some(folder.path().join(name)), ..Options::default() };
        Cluster::up(options, &|step| eprintln!("{name}: {step}")).await.unwrap_or_else(|error| panic!("{error}"))
    };
    let (one, other) = (up("one").await, up("other").await);
    let names = async |cluster: &Cluster| cluster.clients().kubectl(&["get", "nodes", "--output=name"]).await;
    assert_eq!(names(&one).await.expect("an answer"), "node/n1\n");
    // Any later process can remove a cluster by its run folder, whichever process holds it.
    Cluster::attach(&folder.path().join("one")).expect("its folder").down().await.expect("it is removed");
    assert!(!folder.path().join("one").exists());
    assert_eq!(names(&other).await.expect("the other cluster still runs"), "node/n1\n");
    assert!(matches!(other.crash("n2").await, Err(Error::NoMachine { .. })));
    other.crash("n1").await.expect("a crash");
    assert!(matches!(other.crash("n1").await, Err(Error::Off(_))));
    let run = other.run().to_owned();
    drop(other);
    assert!(!run.exists(), "a dropped cluster is left");
}

#[tokio::test]
async fn a_control_plane_alone_keeps_objects_and_cleans_up() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = Options { nodes: 0, run: Some(folder.path().join("run")), ..Options::default() };
    let cluster = Cluster::up(options, &|step| eprintln!("{step}")).await.unwrap_or_else(|error| panic!("{error}"));
    let clients = cluster.clients();
    let kubectl = async |arguments: &[&str]| clients.kubectl(arguments).await.map_err(|error| error.to_string());
    assert_eq!(kubectl(&["get", "nodes", "--output=name"]).await.as_deref(), Ok(""));
    kubectl(&["create", "configmap", "owner"]).await.expect("an object");
    let uid = kubectl(&["get", "configmap", "owner", "--output=jsonpath={.metadata.uid}"]).await.expect("its uid");
    let owned = format!(
        r#"{{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {{"name": "owned", "ownerReferences":
            [{{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": "{uid}"}}]}}}}"#
    );
    clients.kubectl_with(&["create", "-f", "-"], &owned).await.expect("an owned object");
    cluster.crash("cp").await.expect("a crash");
    assert!(kubectl(&["get", "nodes", "--request-timeout=5s"]).await.is_err(), "the API server still answers");
    cluster.heal("cp").await.expect("it heals");
    kubectl(&["delete", "configmap", "owner"]).await.expect("the owner is deleted");
    eventually("the deletion of the owned object", async || {
        let left = kubectl(&["get", "configmaps", "--output=name"]).await?;
        if left.contains("configmap/owned") { Err(left) } else { Ok(()) }
    })
    .await;
    let traces = Traces::of(cluster.run());
    cluster.down().await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(traces.found(), Vec::<String>::new(), "something is left");
}

#[tokio::test]
async fn a_killed_holder_leaves_nothing_that_down_does_not_remove() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let run = folder.path().join("run");
    let devkube = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_devkube"));
        let output = command.args(arguments).arg("--run").arg(&run).output().expect("devkube runs");
        let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {said}{errors}");
        said.into_owned()
    };
    devkube(&["up", "--nodes", "1"]);
    let shell = devkube(&["env"]);
    let script = format!("{shell}\nkubectl get --raw /readyz");
    let ready = Command::new("sh").args(["-ec", &script]).output().expect("a shell runs");
    assert_eq!(String::from_utf8_lossy(&ready.stdout), "ok", "{}", String::from_utf8_lossy(&ready.stderr));
    let traces = Traces::of(&run);
    assert!(traces.processes().len() > 8, "all the programs of a cluster are seen: {:?}", traces.processes());
    let description = fs::read(run.join("cluster.json")).expect("its description");
    let description: serde_json::Value = serde_json::from_slice(&description).expect("JSON");
    let owner = description["owner"]["pid"].to_string();
    let killed = Command::new("kill").args(["-KILL", &owner]).status().expect("kill runs");
    assert!(killed.success());
    devkube(&["down"]);
    assert_eq!(traces.found(), Vec::<String>::new(), "something is left");
}

/// Finds the traces of a cluster on this machine: namespaces and cgroups by name, processes by PID namespace and
/// cgroup.
struct Traces {
    run: PathBuf,
    prefix: String,
    machines: BTreeSet<PathBuf>,
}

impl Traces {
    /// Returns what identifies the traces of a cluster, which must be up.
    fn of(run: &Path) -> Self {
        let read = |path: PathBuf| -> serde_json::Value {
            serde_json::from_slice(&fs::read(path).expect("a record")).expect("JSON")
        };
        let id = read(run.join("cluster.json"))["id"].as_str().expect("an id").to_owned();
        let records = fs::read_dir(run.join("machines")).expect("its machines").flatten().map(|entry| entry.path());
        let records = records.filter(|path| path.extension().is_some_and(|end| end == "json"));
        let machines = records.map(|path| {
            let inside = read(path)["inside"]["pid"].as_i64().expect("a process");
            fs::read_link(format!("/proc/{inside}/ns/pid")).expect("a machine that runs")
        });
        Self { run: run.into(), prefix: format!("devkube-{id}-"), machines: machines.collect() }
    }

    /// Returns everything of the cluster that exists now.
    fn found(&self) -> Vec<String> {
        let mut found = self.processes();
        let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|entry| entry.path());
        for folder in hierarchies.chain(["/sys/fs/cgroup", "/run/netns"].map(PathBuf::from)) {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            let own = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(&self.prefix));
            found.extend(own.map(|entry| entry.path().display().to_string()));
        }
        let mounts = fs::read_to_string("/proc/self/mounts").expect("mounts");
        let run = self.run.display().to_string();
        found
            .extend(mounts.lines().filter(|line| line.contains(&run) || line.contains(&self.prefix)).map(String::from));
        found.extend(self.run.exists().then_some(run));
        found
    }

    /// Returns the processes in the machines' PID namespaces and in the cgroups of pods.
    fn processes(&self) -> Vec<String> {
        let folders = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
        let own = folders.filter(|folder| {
            let stat = fs::read_to_string(folder.join("stat")).unwrap_or_default();
            if stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" Z")) {
                // A zombie: it has ended, and will be reaped.
                return false;
            }
            let inside = fs::read_link(folder.join("ns/pid")).is_ok_and(|namespace| self.machines.contains(&namespace));
            inside || fs::read_to_string(folder.join("cgroup")).is_ok_and(|cgroups| cgroups.contains(&self.prefix))
        });
        own.map(|folder| folder.display().to_string()).collect()
    }
}
