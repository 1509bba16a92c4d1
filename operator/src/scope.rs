//! The watch caches: one set for every namespace that is watched, or one for all. Everything the operator knows of the API
//! server comes from here; what changes here says which cluster to look at.

use std::{
    collections::HashSet,
    fmt::Debug,
    hash::Hash,
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

use crate::{names, observe::Live, patience::Patience};

/// The kinds of object that the operator makes.
pub const OWNED: [fn() -> ApiResource; 7] = [
    || ApiResource::erase::<StatefulSet>(&()),
    || ApiResource::erase::<Deployment>(&()),
    || ApiResource::erase::<Service>(&()),
    || ApiResource::erase::<ConfigMap>(&()),
    || ApiResource::erase::<ServiceAccount>(&()),
    || ApiResource::erase::<PodDisruptionBudget>(&()),
    || ApiResource::erase::<NetworkPolicy>(&()),
];

/// Which clusters to look at.
pub type Triggers = Pin<Box<dyn Stream<Item = ObjectRef<RobeingCluster>> + Send>>;

/// The caches of one namespace, or of all.
#[derive(Clone)]
pub struct Caches {
    /// The clusters.
    pub clusters: Store<RobeingCluster>,
    owned: Vec<(String, Store<DynamicObject>)>,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
}

impl Debug for Caches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caches").field("clusters", &self.clusters.len()).finish_non_exhaustive()
    }
}

impl Caches {
    /// Caches of a namespace, or of all namespaces, and the stream that fills them; it must be polled.
    pub fn of(client: &Client, namespace: Option<&str>) -> (Self, Triggers) {
        let everything = watcher::Config::default().any_semantic();
        let ours = everything.clone().labels(&names::watched());
        let (clusters, cluster_changes) = watch::<RobeingCluster>(scoped(client, namespace), everything, (), itself);
        let (pods, pod_changes) = watch::<Pod>(scoped(client, namespace), ours.clone(), (), instance);
        let (claims, claim_changes) =
            watch::<PersistentVolumeClaim>(scoped(client, namespace), ours.clone(), (), instance);
        let mut changes = vec![cluster_changes, pod_changes, claim_changes];
        let mut owned = Vec::new();
        for kind in OWNED {
            let resource = kind();
            let api = match namespace {
                Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
                None => Api::all_with(client.clone(), &resource),
            };
            let (store, of_kind) = watch::<DynamicObject>(api, ours.clone(), resource.clone(), instance);
            owned.push((resource.kind, store));
            changes.push(of_kind);
        }
        (Self { clusters, owned, pods, claims }, Box::pin(stream::select_all(changes)))
    }

    /// Returns when every cache has been filled once.
    pub async fn filled(&self) -> Result<(), reflector::store::WriterDropped> {
        self.clusters.wait_until_ready().await?;
        self.pods.wait_until_ready().await?;
        self.claims.wait_until_ready().await?;
        future::try_join_all(self.owned.iter().map(|(_, store)| store.wait_until_ready())).await.map(drop)
    }

    /// The objects of a cluster of the kinds that the operator makes.
    pub fn objects(&self, cluster: &RobeingCluster) -> Vec<Live> {
        let of_kind = |(kind, store): &(String, Store<DynamicObject>)| {
            let objects = store.state_filter(|object| belongs(object, cluster));
            objects.into_iter().map(|object| Live { kind: kind.clone(), object }).collect::<Vec<_>>()
        };
        self.owned.iter().flat_map(of_kind).collect()
    }

    /// The StatefulSet of a cluster's coordinators, whoever owns it.
    pub fn stateful_set(&self, cluster: &RobeingCluster) -> Option<Arc<DynamicObject>> {
        let name = names::coordinators(&cluster.name_any());
        let (_, store) = self.owned.iter().find(|(kind, _)| kind == "StatefulSet")?;
        store.find(|object| object.name_any() == name && object.metadata.namespace == cluster.metadata.namespace)
    }

    /// The pods of a cluster.
    pub fn pods(&self, cluster: &RobeingCluster) -> Vec<Arc<Pod>> {
        sorted(self.pods.state_filter(|pod| belongs(pod, cluster)))
    }

    /// The claims of a cluster.
    pub fn claims(&self, cluster: &RobeingCluster) -> Vec<Arc<PersistentVolumeClaim>> {
        sorted(self.claims.state_filter(|claim| belongs(claim, cluster)))
    }
}

/// The cache has an order of its own; sentences that list objects must not change with it.
fn sorted<K: ResourceExt>(mut objects: Vec<Arc<K>>) -> Vec<Arc<K>> {
    objects.sort_by_key(|object| object.name_any());
    objects
}

fn belongs<K: ResourceExt>(object: &K, cluster: &RobeingCluster) -> bool {
    object.meta().namespace == cluster.metadata.namespace
        && object.labels().get(names::LABEL_INSTANCE).map(String::as_str) == cluster.metadata.name.as_deref()
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

fn itself(cluster: &RobeingCluster) -> Option<ObjectRef<RobeingCluster>> {
    Some(ObjectRef::from_obj(cluster))
}

fn instance<K: ResourceExt>(object: &K) -> Option<ObjectRef<RobeingCluster>> {
    let cluster = object.labels().get(names::LABEL_INSTANCE)?;
    Some(ObjectRef::new(cluster).within(&object.namespace()?))
}

/// A cache, and the clusters that its changes are about. A watch that fails is begun again, ever more slowly; the cache keeps
/// what it had.
fn watch<K>(
    api: Api<K>,
    config: watcher::Config,
    resource: K::DynamicType,
    cluster: fn(&K) -> Option<ObjectRef<RobeingCluster>>,
) -> (Store<K>, Triggers)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
    K::DynamicType: Clone + Eq + Hash + Debug + Send + Sync + Unpin,
{
    let kind = K::kind(&resource).into_owned();
    let writer = reflector::store::Writer::new(resource);
    let store = writer.as_reader();
    let events =
        watcher(api, config).modify(|object| object.meta_mut().managed_fields = None).backoff(Patience::default());
    let changes = events.reflect(writer).touched_objects().filter_map(move |change| {
        let change = match change {
            Ok(object) => cluster(&object),
            Err(error) if is_undefined(&error) => {
                tracing::warn!(kind, "the API server does not know this kind; install the chart robeing-crds");
                None
            }
            Err(error) => {
                tracing::warn!(kind, %error, "a watch broke; it is begun again");
                None
            }
        };
        future::ready(change)
    });
    (store, Box::pin(changes))
}

/// Whether the API server has no such kind of resource. It answers so to lists and watches alike.
fn is_undefined(error: &watcher::Error) -> bool {
    let (watcher::Error::InitialListFailed(cause)
    | watcher::Error::WatchStartFailed(cause)
    | watcher::Error::WatchFailed(cause)) = error
    else {
        return false;
    };
    matches!(cause, kube::Error::Api(status) if status.code == 404)
}

/// The clusters that are to be looked at, each once however often it changed meanwhile. It is filled by a task of its own, so
/// that the caches stay fresh while all hands are busy.
#[derive(Debug, Default)]
pub struct Pending {
    clusters: Mutex<HashSet<ObjectRef<RobeingCluster>>>,
    more: Notify,
}

impl Pending {
    fn add(&self, cluster: ObjectRef<RobeingCluster>) {
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

    /// Fills it, until dropped.
    pub async fn fill(self: Arc<Self>, mut changes: Triggers) {
        while let Some(cluster) = changes.next().await {
            self.add(cluster);
        }
    }

    /// The clusters as they come. Never ends.
    pub fn clusters(self: Arc<Self>) -> Triggers {
        let taken = stream::unfold(self, |pending| async move {
            let taken = pending.take().await;
            Some((stream::iter(taken), pending))
        });
        Box::pin(taken.flatten())
    }
}
