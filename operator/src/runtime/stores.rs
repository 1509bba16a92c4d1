//! The watch caches: one set for each watched namespace, or one for all namespaces. The operator observes the API
//! server through them, and their changes determine which clusters to reconcile. Of each object they keep only the
//! fields that are read.

use std::{
    collections::HashSet,
    fmt::Debug,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
};

use futures::{Stream, StreamExt, future, stream};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{Deployment, StatefulSet},
        core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Service, ServiceAccount},
        networking::v1::NetworkPolicy,
        policy::v1::PodDisruptionBudget,
        rbac::v1::{Role, RoleBinding},
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, DynamicObject},
};
use kube_runtime::{
    WatchStreamExt,
    reflector::{self, ObjectRef, Store},
    watcher,
};
use robeing_crds::RobeingCluster;
use serde::de::DeserializeOwned;
use tokio::sync::Notify;

use crate::{
    controller::observe::{self, Live},
    names,
    runtime::{backoff::WatchBackoff, index::Index},
};

/// The kinds of objects that the operator creates.
pub const OWNED: [fn() -> ApiResource; 9] = [
    || ApiResource::erase::<StatefulSet>(&()),
    || ApiResource::erase::<Deployment>(&()),
    || ApiResource::erase::<Service>(&()),
    || ApiResource::erase::<ConfigMap>(&()),
    || ApiResource::erase::<ServiceAccount>(&()),
    || ApiResource::erase::<PodDisruptionBudget>(&()),
    || ApiResource::erase::<NetworkPolicy>(&()),
    || ApiResource::erase::<Role>(&()),
    || ApiResource::erase::<RoleBinding>(&()),
];

/// A stream of clusters to reconcile.
pub type Triggers = Pin<Box<dyn Stream<Item = ObjectRef<RobeingCluster>> + Send>>;

/// Page size of list requests, in objects. A larger page takes more memory while the caches are filled.
const PAGE: u32 = 100;

/// The annotation in which `kubectl apply` stores the configuration that it applied last.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The caches of one namespace, or of all namespaces.
#[derive(Clone)]
pub struct Caches {
    /// The clusters.
    pub clusters: Store<RobeingCluster>,
    owned: Vec<(Arc<str>, Index<Live>)>,
    pods: Index<Arc<Pod>>,
    claims: Index<Arc<PersistentVolumeClaim>>,
}

impl Debug for Caches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caches").field("clusters", &self.clusters.len()).finish_non_exhaustive()
    }
}

impl Caches {
    /// Creates the caches of a namespace, or of all namespaces, and the stream that fills them; the stream must be
    /// polled.
    pub fn of(client: &Client, namespace: Option<&str>) -> (Self, Triggers) {
        let everything = watcher::Config::default().any_semantic().page_size(PAGE);
        let ours = everything.clone().labels(&names::watched());
        let (clusters, cluster_changes) = watch_clusters(scoped(client, namespace), everything);
        let (pods, claims) = (Index::default(), Index::default());
        let pod = |pod: Pod| Arc::new(observe::reduced_pod(pod));
        let claim = |claim: PersistentVolumeClaim| Arc::new(observe::reduced_claim(claim));
        let mut changes = vec![
            cluster_changes,
            watch(scoped(client, namespace), ours.clone(), "Pod", &pods, pod),
            watch(scoped(client, namespace), ours.clone(), "PersistentVolumeClaim", &claims, claim),
        ];
        let mut owned = Vec::new();
        for kind in OWNED {
            let resource = kind();
            let api: Api<DynamicObject> = match namespace {
                Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
                None => Api::all_with(client.clone(), &resource),
            };
            let (kind, index) = (Arc::<str>::from(resource.kind.as_str()), Index::default());
            let reduced = {
                let kind = Arc::clone(&kind);
                move |object| Live::reduced(&kind, object)
            };
            changes.push(watch(api, ours.clone(), &resource.kind, &index, reduced));
            owned.push((kind, index));
        }
        (Self { clusters, owned, pods, claims }, Box::pin(stream::select_all(changes)))
    }

    /// Waits until every cache has been filled for the first time. Fails if the stream that fills them is dropped
    /// before the clusters are listed.
    pub async fn filled(&self) -> Result<(), reflector::store::WriterDropped> {
        self.clusters.wait_until_ready().await?;
        self.pods.filled().await;
        self.claims.filled().await;
        future::join_all(self.owned.iter().map(|(_, index)| index.filled())).await;
        Ok(())
    }

    /// Returns a cluster's objects of the kinds that the operator creates.
    pub fn objects(&self, cluster: &RobeingCluster) -> Vec<Live> {
        self.owned.iter().flat_map(|(_, index)| of(index, cluster)).collect()
    }

    /// Returns the StatefulSet of a cluster's coordinators, regardless of its owner.
    pub fn stateful_set(&self, cluster: &RobeingCluster) -> Option<Live> {
        let name = names::coordinators(&cluster.name_any());
        let (_, index) = self.owned.iter().find(|(kind, _)| **kind == *"StatefulSet")?;
        of(index, cluster).into_iter().find(|set| set.object.name_any() == name)
    }

    /// Returns the pods of a cluster.
    pub fn pods(&self, cluster: &RobeingCluster) -> Vec<Arc<Pod>> {
        of(&self.pods, cluster)
    }

    /// Returns the PersistentVolumeClaims of a cluster.
    pub fn claims(&self, cluster: &RobeingCluster) -> Vec<Arc<PersistentVolumeClaim>> {
        of(&self.claims, cluster)
    }
}

fn of<V: Clone>(index: &Index<V>, cluster: &RobeingCluster) -> Vec<V> {
    let namespace = cluster.metadata.namespace.as_deref().unwrap_or_default();
    index.of(namespace, cluster.metadata.name.as_deref().unwrap_or_default())
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// Returns the store of clusters, and the stream of their changes.
fn watch_clusters(api: Api<RobeingCluster>, config: watcher::Config) -> (Store<RobeingCluster>, Triggers) {
    let (store, writer) = reflector::store();
    let slim = |cluster: &mut RobeingCluster| {
        cluster.metadata.managed_fields = None;
        cluster.annotations_mut().remove(LAST_APPLIED);
    };
    let changes = events(api, config).modify(slim).reflect(writer).touched_objects();
    let changes = changes.filter_map(|change| {
        let change = change.map_err(|error| broken(robeing_crds::KIND, &error)).ok();
        future::ready(change.map(|cluster| ObjectRef::from_obj(&cluster)))
    });
    (store, Box::pin(changes))
}

/// Fills a cache with the value that `keep` returns for each object. Returns the stream of clusters that its changes
/// affect.
fn watch<K, V>(
    api: Api<K>,
    config: watcher::Config,
    kind: &str,
    index: &Index<V>,
    keep: impl Fn(K) -> V + Send + 'static,
) -> Triggers
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
    V: Clone + Send + 'static,
{
    let (kind, index) = (kind.to_owned(), index.clone());
    let changes = events(api, config).map(move |event| {
        let changed = match event {
            Ok(event) => index.apply(event, &keep),
            Err(error) => {
                broken(&kind, &error);
                HashSet::new()
            }
        };
        stream::iter(changed.into_iter().map(|fleet| ObjectRef::new(&fleet.1).within(&fleet.0)))
    });
    Box::pin(changes.flatten())
}

/// Returns the events of a watch. A watch that fails is restarted with backoff; the cache keeps its content meanwhile.
fn events<K>(api: Api<K>, config: watcher::Config) -> impl Stream<Item = watcher::Result<watcher::Event<K>>> + Send
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    watcher(api, config).backoff(WatchBackoff::default())
}

fn broken(kind: &str, error: &watcher::Error) {
    if is_undefined(error) {
        tracing::warn!(kind, "the API server does not know this kind; install the chart robeing-crds");
    } else {
        tracing::warn!(kind, %error, "a watch failed; restarting it");
    }
}

/// Returns whether the API server does not know the kind of resource. It responds with 404 to lists and watches alike.
fn is_undefined(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(cause)
    | watcher::Error::WatchStartFailed(cause)
    | watcher::Error::WatchFailed(cause)) = error
    else {
        return false;
    };
    matches!(cause, kube::Error::Api(status) if status.code == 404)
}

/// The clusters to reconcile, each once regardless of how often it has changed. A separate task fills it, so that the
/// caches stay up to date while all reconcilers are busy.
#[derive(Debug, Default)]
pub struct Pending {
    clusters: Mutex<HashSet<ObjectRef<RobeingCluster>>>,
    more: Notify,
}

impl Pending {
    /// Adds a cluster.
    pub fn add(&self, cluster: ObjectRef<RobeingCluster>) {
        self.clusters.lock().unwrap_or_else(PoisonError::into_inner).insert(cluster);
        self.more.notify_one();
    }

    async fn take(&self) -> Vec<ObjectRef<RobeingCluster>> {
        loop {
            let taken = std::mem::take(&mut *self.clusters.lock().unwrap_or_else(PoisonError::into_inner));
            if !taken.is_empty() {
                return taken.into_iter().collect();
            }
            self.more.notified().await;
        }
    }

    /// Adds the clusters from `changes` until dropped.
    pub async fn fill(self: Arc<Self>, mut changes: Triggers) {
        while let Some(cluster) = changes.next().await {
            self.add(cluster);
        }
    }

    /// Returns the stream of clusters to reconcile. It never ends.
    pub fn clusters(self: Arc<Self>) -> Triggers {
        let taken = stream::unfold(self, |pending| async move {
            let taken = pending.take().await;
            Some((stream::iter(taken), pending))
        });
        Box::pin(taken.flatten())
    }
}
