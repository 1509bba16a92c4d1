//! The control plane, and operators that use it.

use std::{
    fmt::Debug,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use devkube::{Cluster, Options};
use futures::future::join_all;
use kube::{
    Api, Client, Config, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use super::{Call, Essence, Requests, Sort, essence, status_essence};
use crate::{
    ports::Ports,
    processes::{self, Process},
    program::program,
};

/// The time within which everything that a test waits for must happen, even on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(240);
/// The pause between two checks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The exit code of an operator that lost its lease.
const LEASE_LOST: i32 = 3;
/// The kinds of objects that the operator creates: group, version, kind, plural.
pub(super) const OWNED: [(&str, &str, &str, &str); 10] = [
    ("apps", "v1", "StatefulSet", "statefulsets"),
    ("apps", "v1", "Deployment", "deployments"),
    ("", "v1", "Service", "services"),
    ("", "v1", "ConfigMap", "configmaps"),
    ("", "v1", "ServiceAccount", "serviceaccounts"),
    ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
    ("", "v1", "Secret", "secrets"),
    ("rbac.authorization.k8s.io", "v1", "Role", "roles"),
    ("rbac.authorization.k8s.io", "v1", "RoleBinding", "rolebindings"),
];
const CLUSTERS: (&str, &str, &str, &str) = ("robeing.io", "v1alpha1", "RobeingCluster", "robeingclusters");
const DEFINITION: &str = include_str!("../../../crds/robeingclusters.yaml");

/// Calls `look` repeatedly until it returns `Ok`, and returns that value.
///
/// # Panics
/// If it does not in time; the message contains the last `Err`.
pub async fn until<T, S: Debug>(expected: &str, mut look: impl AsyncFnMut() -> Result<T, S>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) if Instant::now() >= end => {
                panic!("waited {PATIENCE:?} for {expected}; last seen: {seen:#?}")
            }
            Err(_) => sleep(LOOK_EVERY).await,
        }
    }
}

/// A control plane with the CustomResourceDefinition of `RobeingCluster`.
#[derive(Debug)]
pub struct ControlPlane {
    cluster: Cluster,
    folder: TempDir,
}

/// How an operator is started.
#[derive(Clone, Debug)]
pub struct OperatorSettings {
    /// The name of its log, and its identity.
    pub name: String,
    /// The namespaces that it watches; if empty, all.
    pub namespaces: Vec<String>,
    /// The name of its lease, in the namespace `default`.
    pub lease: String,
    /// The image of fleets that set none.
    pub image: String,
    /// The lease's duration, renew deadline and retry period.
    pub timings: [&'static str; 3],
    /// The interval at which it polls fleets without notifications of changes.
    pub poll: &'static str,
}

/// A running operator, with its own proxy to the API server.
#[derive(Debug)]
pub struct Operator {
    /// Its proxy to the API server.
    pub requests: Requests,
    settings: OperatorSettings,
    process: Process,
    /// The port at which it serves its metrics.
    ports: Ports,
    /// The number of this process's first request.
    first: usize,
    folder: PathBuf,
}

impl OperatorSettings {
    /// Returns settings for one namespace, which is also the name of the operator and of the lease.
    pub fn of(namespace: &str) -> Self {
        Self {
            name: namespace.to_owned(),
            namespaces: vec![namespace.to_owned()],
            lease: namespace.to_owned(),
            image: "robeing:one".to_owned(),
            timings: ["15s", "10s", "250ms"],
            poll: "1s",
        }
    }
}

impl ControlPlane {
    /// Brings up a control plane.
    ///
    /// # Panics
    /// If it does not come up.
    pub async fn up() -> Self {
        // Fails only if one is already installed, which is fine as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let options = Options { nodes: 0, ..Options::default() };
        let cluster = Cluster::up(options, &|step| eprintln!("devkube: {step}")).await;
        let cluster = cluster.unwrap_or_else(|error| panic!("{error}"));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let stage = Self { cluster, folder };
        let clients = stage.cluster.clients();
        clients.kubectl_with(&["create", "-f", "-"], DEFINITION).await.unwrap_or_else(|error| panic!("{error}"));
        let clusters = Self::api(&stage.client().await, "default", "robeingclusters");
        until("list of RobeingClusters", async || clusters.list(&ListParams::default()).await.map(drop)).await;
        stage
    }

    /// Removes the control plane.
    pub async fn down(self) {
        self.cluster.down().await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Kills the API server, etcd and the controllers with SIGKILL.
    pub async fn crash(&self) {
        self.cluster.crash("cp").await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Restarts them.
    pub async fn heal(&self) {
        self.cluster.heal("cp").await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Creates the test's own client of the API server, with all rights.
    pub async fn client(&self) -> Client {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig()).expect("a kubeconfig");
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        Client::try_from(config.expect("a configuration")).expect("a client")
    }

    /// Returns a kubeconfig with all rights.
    pub fn kubeconfig(&self) -> PathBuf {
        self.cluster.run().join("kubeconfig")
    }

    /// Returns a folder that is removed when this is dropped.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Creates a namespace.
    pub async fn namespace(client: &Client, name: &str) {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Namespace"));
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
        let made = api.create(&PostParams::default(), &DynamicObject::new(name, &kind)).await;
        made.unwrap_or_else(|error| panic!("namespace {name}: {error}"));
    }

    /// Creates a RobeingCluster.
    pub async fn create(client: &Client, namespace: &str, name: &str, spec: &Value) {
        let object = json!({
            "apiVersion": "robeing.io/v1alpha1", "kind": "RobeingCluster", "metadata": {"name": name}, "spec": spec,
        });
        let object = serde_json::from_value(object).expect("an object");
        let made = Self::api(client, namespace, "robeingclusters").create(&PostParams::default(), &object).await;
        made.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Changes an object with a merge patch, with the field manager `hand`.
    pub async fn patch(client: &Client, namespace: &str, plural: &str, name: &str, patch: &Value) -> DynamicObject {
        let parameters = PatchParams { field_manager: Some("hand".into()), ..PatchParams::default() };
        let patched = Self::api(client, namespace, plural).patch(name, &parameters, &Patch::Merge(patch)).await;
        patched.unwrap_or_else(|error| panic!("{plural}/{name}: {error}"))
    }

    /// Returns an object.
    pub async fn get(client: &Client, namespace: &str, plural: &str, name: &str) -> Result<DynamicObject, String> {
        let got = Self::api(client, namespace, plural).get(name).await;
        got.map_err(|error| format!("{plural}/{name}: {error}"))
    }

    /// Returns the API for objects by plural name, such as `services`: of the kinds that the operator creates, or
    /// `robeingclusters`.
    ///
    /// # Panics
    /// If there is no such kind.
    pub fn api(client: &Client, namespace: &str, plural: &str) -> Api<DynamicObject> {
        let known = OWNED.iter().chain([&CLUSTERS]).find(|kind| kind.3 == plural);
        let (group, version, kind, plural) = known.unwrap_or_else(|| panic!("unknown kind {plural}"));
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        Api::namespaced_with(client.clone(), namespace, &resource)
    }

    /// Returns all objects in a namespace of the kinds that the operator creates.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn objects(client: &Client, namespace: &str) -> Result<Vec<(&'static str, DynamicObject)>, String> {
        let lists = OWNED.iter().map(async |(_, _, kind, plural)| {
            let api = Self::api(client, namespace, plural);
            let list = api.list(&ListParams::default()).await.map_err(|error| format!("{plural}: {error}"))?;
            Ok::<_, String>(list.items.into_iter().map(|object| (*kind, object)).collect::<Vec<_>>())
        });
        let lists: Result<Vec<_>, _> = join_all(lists).await.into_iter().collect();
        // Objects that every namespace has.
        let theirs = |name: &str| matches!(name, "default" | "kube-root-ca.crt");
        Ok(lists?.into_iter().flatten().filter(|(_, object)| !theirs(&object.name_any())).collect())
    }

    /// Returns the essence of all these objects, and the status of each `RobeingCluster`.
    ///
    /// # Errors
    /// If the API server does not answer.
    pub async fn essence(client: &Client, namespace: &str) -> Result<Essence, String> {
        let objects = Self::objects(client, namespace).await?;
        let clusters = Self::api(client, namespace, "robeingclusters").list(&ListParams::default()).await;
        let clusters = clusters.map_err(|error| error.to_string())?;
        let status = |object: &DynamicObject| (format!("status/{}", object.name_any()), status_essence(object));
        Ok(objects.iter().map(|(kind, object)| essence(kind, object)).chain(clusters.iter().map(status)).collect())
    }

    /// Starts an operator.
    pub async fn operator(&self, settings: OperatorSettings) -> Operator {
        let requests = Requests::to(self.client().await).await;
        let ports = Ports::take(1);
        let process = start(self.folder.path(), &settings, &requests, ports.numbers()[0]);
        Operator { requests, settings, process, ports, first: 0, folder: self.folder.path().to_owned() }
    }
}

fn start(folder: &Path, settings: &OperatorSettings, requests: &Requests, metrics: u16) -> Process {
    let name = &settings.name;
    let kubeconfig = folder.join(format!("{name}.kubeconfig"));
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "proxy", "cluster": {"server": requests.url()}}],
        "users": [{"name": "proxy", "user": {}}],
        "contexts": [{"name": "proxy", "context": {"cluster": "proxy", "user": "proxy"}}],
        "current-context": "proxy",
    });
    fs::write(&kubeconfig, config.to_string()).expect("a kubeconfig in the test's folder");
    let [duration, deadline, retry] = settings.timings;
    let listen = format!("127.0.0.1:{metrics}");
    let mut arguments = vec![
        format!("KUBECONFIG={}", kubeconfig.display()),
        // Enough to show what it did, and little enough that writing it costs no time.
        "RUST_LOG=info".to_owned(),
        program("robeing-operator").display().to_string(),
    ];
    let flags = [
        ("--image", settings.image.as_str()),
        ("--identity", name),
        ("--lease-name", &settings.lease),
        ("--lease-duration", duration),
        ("--lease-renew-deadline", deadline),
        ("--lease-retry-period", retry),
        ("--poll-interval", settings.poll),
        ("--listen", &listen),
        ("--log-format", "text"),
    ];
    arguments.extend(flags.iter().flat_map(|(flag, value)| [(*flag).to_owned(), (*value).to_owned()]));
    if !settings.namespaces.is_empty() {
        arguments.extend(["--watch-namespaces".to_owned(), settings.namespaces.join(",")]);
    }
    // `env` execs the operator, so the process id is the operator's.
    Process::start(name, Path::new("/usr/bin/env"), &arguments, &folder.join(format!("{name}.log")))
}

impl Operator {
    /// Kills it with SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Restarts it, as a kubelet would.
    pub fn restart(&mut self) {
        self.kill();
        self.first = self.requests.mark();
        self.process = start(&self.folder, &self.settings, &self.requests, self.ports.numbers()[0]);
    }

    /// Restarts it if it has ended because it lost its lease, which may happen on a busy machine.
    ///
    /// # Panics
    /// If it ended for another reason.
    pub fn restart_if_lost(&mut self) {
        if let Some(status) = self.process.ended() {
            assert_eq!(status.code(), Some(LEASE_LOST), "{}", self.log());
            self.restart();
        }
    }

    /// Waits until it has ended because it lost its lease.
    pub async fn loses_its_lease(&mut self) {
        let status = until("the end of an operator without a lease", async || self.process.ended().ok_or("it runs"));
        let status = status.await;
        assert_eq!(status.code(), Some(LEASE_LOST), "{}", self.log());
    }

    /// Sends SIGTERM, and waits until it has ended.
    pub async fn ends_when_asked(&mut self) {
        self.process.signal(Signal::SIGTERM);
        let status = until("the end of an operator after SIGTERM", async || self.process.ended().ok_or("it runs"));
        assert_eq!(status.await.code(), Some(0), "{}", self.log());
    }

    /// Returns whether it runs.
    pub fn runs(&mut self) -> bool {
        self.process.ended().is_none()
    }

    /// Returns its log.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until its last requests are only lease renewals, at least this many; returns the mark at which they began.
    pub async fn rests(&mut self, renewals: usize) -> usize {
        self.rests_after(0, renewals).await
    }

    /// Like [`Operator::rests`], but counts only requests after a mark.
    pub async fn rests_after(&mut self, mark: usize, renewals: usize) -> usize {
        until("an operator at rest", async || {
            self.restart_if_lost();
            self.resting_after(mark, renewals)
        })
        .await
    }

    /// Returns the mark after which it only renewed its lease, if it did so at least this often; otherwise the number
    /// of renewals and the last requests.
    ///
    /// # Errors
    /// If it is not at rest.
    pub fn resting(&self, renewals: usize) -> Result<usize, (usize, Vec<String>)> {
        self.resting_after(0, renewals)
    }

    fn resting_after(&self, mark: usize, renewals: usize) -> Result<usize, (usize, Vec<String>)> {
        let calls = self.requests.since(0);
        let busy = |call: &Call| matches!(call.sort, Sort::Write | Sort::Read);
        // A process that has not yet filled its caches is not at rest.
        let last = calls.iter().rposition(busy).filter(|last| *last >= self.first);
        let since = last.map_or(calls.len(), |last| last + 1).max(mark);
        let is_renewal = |call: &&Call| call.is_renewal();
        let seen = calls[since..].iter().filter(is_renewal).count();
        let last = calls[since.saturating_sub(5)..].iter().map(Call::line).collect();
        if seen >= renewals { Ok(since) } else { Err((seen, last)) }
    }

    /// Returns its resident memory and its peak memory, in bytes.
    pub fn memory(&self) -> (u64, u64) {
        (processes::memory(self.process.pid()), self.process.peak_memory())
    }

    /// Returns the number of reconciles so far.
    ///
    /// # Panics
    /// If its metrics can't be read.
    pub async fn rounds(&self) -> u64 {
        let rounds = super::bench::rounds(self.ports.numbers()[0]).await;
        rounds.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Returns its processor time in clock ticks, 100 per second.
    pub fn ticks(&self) -> u64 {
        processes::cpu_ticks(self.process.pid())
    }
}
