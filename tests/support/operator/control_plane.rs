//! The control plane, and operators before it.

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

/// How long anything that is waited for may take, on a machine that is busy with other tests, too.
const PATIENCE: Duration = Duration::from_secs(240);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Exit code of an operator that lost its lease.
const LEASE_LOST: i32 = 3;
/// The kinds that the operator makes: group, version, kind, plural.
pub(super) const OWNED: [(&str, &str, &str, &str); 7] = [
    ("apps", "v1", "StatefulSet", "statefulsets"),
    ("apps", "v1", "Deployment", "deployments"),
    ("", "v1", "Service", "services"),
    ("", "v1", "ConfigMap", "configmaps"),
    ("", "v1", "ServiceAccount", "serviceaccounts"),
    ("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
];
const CLUSTERS: (&str, &str, &str, &str) = ("robeing.io", "v1alpha1", "RobeingCluster", "robeingclusters");
const DEFINITION: &str = include_str!("../../../crds/robeingclusters.yaml");

/// Looks again and again until there is an answer.
///
/// # Panics
/// When there is none in time, with what was seen last.
pub async fn until<T, S: Debug>(expected: &str, mut look: impl AsyncFnMut() -> Result<T, S>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        match look().await {
            Ok(found) => return found,
            Err(seen) if Instant::now() >= end => {
                panic!("within {PATIENCE:?} not seen: {expected}; instead: {seen:#?}")
            }
            Err(_) => sleep(LOOK_EVERY).await,
        }
    }
}

/// A control plane with the definition of `RobeingCluster`s.
#[derive(Debug)]
pub struct ControlPlane {
    cluster: Cluster,
    folder: TempDir,
}

/// How an operator is started.
#[derive(Clone, Debug)]
pub struct OperatorSettings {
    /// A name for its log, and its identity.
    pub name: String,
    /// The namespaces it watches; all with none.
    pub namespaces: Vec<String>,
    /// Its lease's name, in the namespace `default`.
    pub lease: String,
    /// The image of fleets that name none.
    pub image: String,
    /// How long the lease lasts, how long it may go without a renewal, and how often it is renewed.
    pub timings: [&'static str; 3],
    /// How often it looks at a fleet without being told of a change.
    pub poll: &'static str,
}

/// An operator that runs, with a way to the API server of its own.
#[derive(Debug)]
pub struct Operator {
    /// Its way to the API server.
    pub requests: Requests,
    settings: OperatorSettings,
    process: Process,
    /// Where it serves its metrics.
    ports: Ports,
    /// Which request was this process's first.
    first: usize,
    folder: PathBuf,
}

impl OperatorSettings {
    /// One for a namespace, with a lease of that name.
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
    /// Brings it up.
    ///
    /// # Panics
    /// When it doesn't come up.
    pub async fn up() -> Self {
        // Only fails when one is installed already, and then there is one.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let options = Options { nodes: 0, ..Options::default() };
        let cluster = Cluster::up(options, &|step| eprintln!("devkube: {step}")).await;
        let cluster = cluster.unwrap_or_else(|error| panic!("{error}"));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let stage = Self { cluster, folder };
        let clients = stage.cluster.clients();
        clients.kubectl_with(&["create", "-f", "-"], DEFINITION).await.unwrap_or_else(|error| panic!("{error}"));
        let clusters = Self::api(&stage.client().await, "default", "robeingclusters");
        until("RobeingClusters are known", async || clusters.list(&ListParams::default()).await.map(drop)).await;
        stage
    }

    /// Removes it.
    pub async fn down(self) {
        self.cluster.down().await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// SIGKILLs the API server, etcd and the controllers.
    pub async fn crash(&self) {
        self.cluster.crash("cp").await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// Starts them again.
    pub async fn heal(&self) {
        self.cluster.heal("cp").await.unwrap_or_else(|error| panic!("{error}"));
    }

    /// The test's own way to the API server, as somebody who may do everything.
    pub async fn client(&self) -> Client {
        let kubeconfig = Kubeconfig::read_from(self.kubeconfig()).expect("a kubeconfig");
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
        Client::try_from(config.expect("a configuration")).expect("a client")
    }

    /// The kubeconfig of somebody who may do everything.
    pub fn kubeconfig(&self) -> PathBuf {
        self.cluster.run().join("kubeconfig")
    }

    /// A folder that is removed with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Makes a namespace.
    pub async fn namespace(client: &Client, name: &str) {
        let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("", "v1", "Namespace"));
        let api: Api<DynamicObject> = Api::all_with(client.clone(), &kind);
        let made = api.create(&PostParams::default(), &DynamicObject::new(name, &kind)).await;
        made.unwrap_or_else(|error| panic!("namespace {name}: {error}"));
    }

    /// Makes a RobeingCluster.
    pub async fn create(client: &Client, namespace: &str, name: &str, spec: &Value) {
        let object = json!({
            "apiVersion": "robeing.io/v1alpha1", "kind": "RobeingCluster", "metadata": {"name": name}, "spec": spec,
        });
        let object = serde_json::from_value(object).expect("an object");
        let made = Self::api(client, namespace, "robeingclusters").create(&PostParams::default(), &object).await;
        made.unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Changes an object by a merge patch, as a user called `hand`.
    pub async fn patch(client: &Client, namespace: &str, plural: &str, name: &str, patch: &Value) -> DynamicObject {
        let parameters = PatchParams { field_manager: Some("hand".into()), ..PatchParams::default() };
        let patched = Self::api(client, namespace, plural).patch(name, &parameters, &Patch::Merge(patch)).await;
        patched.unwrap_or_else(|error| panic!("{plural}/{name}: {error}"))
    }

    /// An object as it is.
    pub async fn get(client: &Client, namespace: &str, plural: &str, name: &str) -> Result<DynamicObject, String> {
        let got = Self::api(client, namespace, plural).get(name).await;
        got.map_err(|error| format!("{plural}/{name}: {error}"))
    }

    /// Objects of a plural name, such as `services`; of a kind that the operator makes, or `robeingclusters`.
    ///
    /// # Panics
    /// When there is no such kind.
    pub fn api(client: &Client, namespace: &str, plural: &str) -> Api<DynamicObject> {
        let known = OWNED.iter().chain([&CLUSTERS]).find(|kind| kind.3 == plural);
        let (group, version, kind, plural) = known.unwrap_or_else(|| panic!("{plural} are not known"));
        let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), plural);
        Api::namespaced_with(client.clone(), namespace, &resource)
    }

    /// All objects of a namespace that are of the kinds that the operator makes.
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn objects(client: &Client, namespace: &str) -> Result<Vec<(&'static str, DynamicObject)>, String> {
        let lists = OWNED.iter().map(async |(_, _, kind, plural)| {
            let api = Self::api(client, namespace, plural);
            let list = api.list(&ListParams::default()).await.map_err(|error| format!("{plural}: {error}"))?;
            Ok::<_, String>(list.items.into_iter().map(|object| (*kind, object)).collect::<Vec<_>>())
        });
        let lists: Result<Vec<_>, _> = join_all(lists).await.into_iter().collect();
        // What every namespace has.
        let theirs = |name: &str| matches!(name, "default" | "kube-root-ca.crt");
        Ok(lists?.into_iter().flatten().filter(|(_, object)| !theirs(&object.name_any())).collect())
    }

    /// Their essence, and the status of each `RobeingCluster`.
    ///
    /// # Errors
    /// When the API server does not answer.
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
        // Enough to see what it did, and not so much that writing it costs time.
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
    // `env` becomes the operator: the process keeps its id.
    Process::start(name, Path::new("/usr/bin/env"), &arguments, &folder.join(format!("{name}.log")))
}

impl Operator {
    /// SIGKILLs it.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again, as a kubelet would.
    pub fn restart(&mut self) {
        self.kill();
        self.first = self.requests.mark();
        self.process = start(&self.folder, &self.settings, &self.requests, self.ports.numbers()[0]);
    }

    /// Starts it again if it has ended because it lost its lease, which it may on a machine that is too busy.
    ///
    /// # Panics
    /// When it ended otherwise.
    pub fn restart_if_lost(&mut self) {
        if let Some(status) = self.process.ended() {
            assert_eq!(status.code(), Some(LEASE_LOST), "{}", self.log());
            self.restart();
        }
    }

    /// Waits until it ended because it lost its lease.
    pub async fn loses_its_lease(&mut self) {
        let status = until("the end of an operator without a lease", async || self.process.ended().ok_or("it runs"));
        let status = status.await;
        assert_eq!(status.code(), Some(LEASE_LOST), "{}", self.log());
    }

    /// Asks it to end, and waits until it has.
    pub async fn ends_when_asked(&mut self) {
        self.process.signal(Signal::SIGTERM);
        let status = until("the end of an operator that was asked to", async || self.process.ended().ok_or("it runs"));
        assert_eq!(status.await.code(), Some(0), "{}", self.log());
    }

    /// Whether it runs.
    pub fn runs(&mut self) -> bool {
        self.process.ended().is_none()
    }

    /// What it said.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Waits until it wrote nothing but its lease, so often in a row; gives the mark since when.
    pub async fn rests(&mut self, renewals: usize) -> usize {
        self.rests_after(0, renewals).await
    }

    /// The same, with nothing counted that was before a mark.
    pub async fn rests_after(&mut self, mark: usize, renewals: usize) -> usize {
        until("an operator at rest", async || {
            self.restart_if_lost();
            self.resting_after(mark, renewals)
        })
        .await
    }

    /// Since which mark it only renewed its lease, if it did so often enough; else how often it did, and the last requests.
    ///
    /// # Errors
    /// When it is not at rest.
    pub fn resting(&self, renewals: usize) -> Result<usize, (usize, Vec<String>)> {
        self.resting_after(0, renewals)
    }

    fn resting_after(&self, mark: usize, renewals: usize) -> Result<usize, (usize, Vec<String>)> {
        let calls = self.requests.since(0);
        let busy = |call: &Call| matches!(call.sort, Sort::Write | Sort::Read);
        // One that has not filled its caches does not rest.
        let last = calls.iter().rposition(busy).filter(|last| *last >= self.first);
        let since = last.map_or(calls.len(), |last| last + 1).max(mark);
        let is_renewal = |call: &&Call| call.is_renewal();
        let seen = calls[since..].iter().filter(is_renewal).count();
        let last = calls[since.saturating_sub(5)..].iter().map(Call::line).collect();
        if seen >= renewals { Ok(since) } else { Err((seen, last)) }
    }

    /// Memory that it holds, and the most it ever held, bytes.
    pub fn memory(&self) -> (u64, u64) {
        (processes::memory(self.process.pid()), self.process.peak_memory())
    }

    /// Rounds for a fleet so far.
    ///
    /// # Panics
    /// When it does not say.
    pub async fn rounds(&self) -> u64 {
        let rounds = super::bench::rounds(self.ports.numbers()[0]).await;
        rounds.unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Processor time it used, in clock ticks, of which there are 100 a second.
    pub fn ticks(&self) -> u64 {
        processes::cpu_ticks(self.process.pid())
    }
}
