//! The observed state: the objects of one cluster from the watch caches, and the response of its coordinators. It only
//! reads and makes no decisions.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{
        ContainerStatus, PersistentVolumeClaim, PersistentVolumeClaimSpec, PersistentVolumeClaimStatus, Pod, PodSpec,
        PodStatus, Volume,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
    jiff::Timestamp,
};
use kube::{ResourceExt, api::DynamicObject};
use robeing_client::coordinators;
use robeing_crds::RobeingCluster;
use robeing_proto::v1;

use crate::{
    controller::{
        apply,
        health::{self, Failure},
        transports::identity_of,
        validate::{Kept, Proof, Transport},
    },
    names::{self, Component},
    quorum::membership::{CoordinatorPod, Member, Membership, Pods},
};

/// An object of the cluster, as last received from the API server.
#[derive(Clone, Debug)]
pub struct Live {
    /// The object's kind.
    pub kind: Arc<str>,
    /// The object. In the caches it contains only what decisions read: see [`Live::reduced`].
    pub object: Arc<DynamicObject>,
    /// The fingerprint of the whole object; see [`apply::fingerprint`].
    pub fingerprint: u64,
    /// Whether the operator has applied the object before; see [`apply::is_applied`].
    pub applied: bool,
    /// How the pods of a workload connect, and what agents prove themselves with, by the template. `None` if it has no
    /// template.
    pub identity: Option<(Transport, Option<Proof>)>,
}

/// The fields of an object's spec that are kept.
const READ_OF_SPEC: [&str; 2] = ["replicas", "volumeClaimTemplates"];
/// The annotations that are read.
const READ_ANNOTATIONS: [&str; 2] = [names::ANNOTATION_JOINED, names::ANNOTATION_DEFAULT_IMAGE];

impl Live {
    /// Wraps a whole object.
    pub fn new(kind: &str, object: DynamicObject) -> Self {
        let (fingerprint, applied) = (apply::fingerprint(&object), apply::is_applied(&object));
        let identity = identity_of(&object);
        Self { kind: kind.into(), fingerprint, applied, identity, object: Arc::new(object) }
    }

    /// Wraps an object of this kind as the caches keep it: without the parts that no decision reads. The fingerprint
    /// shows whether those have changed.
    pub fn reduced(kind: &Arc<str>, mut object: DynamicObject) -> Self {
        let (fingerprint, applied) = (apply::fingerprint(&object), apply::is_applied(&object));
        let identity = identity_of(&object);
        object.types = None;
        object.metadata = reduced_meta(object.metadata, &READ_ANNOTATIONS);
        object.metadata.labels = None;
        let mut data = serde_json::Map::new();
        if let Some(status) = object.data.get_mut("status") {
            data.insert("status".into(), status.take());
        }
        if let Some(spec) = object.data.get_mut("spec") {
            let read = READ_OF_SPEC.iter().filter_map(|field| Some(((*field).to_owned(), spec.get_mut(field)?.take())));
            data.insert("spec".into(), read.collect());
        }
        object.data = data.into();
        Self { kind: Arc::clone(kind), object: Arc::new(object), fingerprint, applied, identity }
    }

    /// Returns the number at a JSON pointer.
    pub fn number(&self, pointer: &str) -> Option<u32> {
        self.object.data.pointer(pointer)?.as_u64()?.try_into().ok()
    }

    /// Returns the string at a JSON pointer.
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.object.data.pointer(pointer)?.as_str()
    }
}

/// The observed state of a cluster.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The resource.
    pub cluster: Arc<RobeingCluster>,
    /// The objects with the cluster's label, of the kinds that the operator creates.
    pub objects: Vec<Live>,
    /// The pods with the cluster's label.
    pub pods: Vec<Arc<Pod>>,
    /// The PersistentVolumeClaims with the cluster's label.
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
    /// The response of the coordinators.
    pub fleet: Result<coordinators::Answer, coordinators::Error>,
    /// The time of the observation.
    pub now: Timestamp,
}

impl Observation {
    /// Returns the cluster's name.
    pub fn name(&self) -> String {
        self.cluster.name_any()
    }

    /// Returns an object by kind and name.
    pub fn live(&self, kind: &str, name: &str) -> Option<&Live> {
        self.objects.iter().find(|live| *live.kind == *kind && live.object.name_any() == name)
    }

    /// Returns the coordinators' StatefulSet.
    pub fn stateful_set(&self) -> Option<&Live> {
        self.live("StatefulSet", &names::coordinators(&self.name()))
    }

    /// Returns a pool's Deployment.
    pub fn deployment(&self, pool: &str) -> Option<&Live> {
        self.live("Deployment", &names::pool(&self.name(), pool))
    }

    /// Returns the pods of a component, of one pool or of all pools. The coordinators' pods are those that the
    /// StatefulSet controls, as long as it exists, since anyone can set labels.
    pub fn pods_of(&self, component: Component, pool: Option<&str>) -> impl Iterator<Item = &Pod> {
        let set = self.stateful_set().filter(|_| component == Component::Coordinator);
        let uid = set.map(|set| set.object.metadata.uid.as_deref().filter(|_| self.owns(set)));
        let of = move |pod: &Pod| {
            is_labelled(pod, names::LABEL_COMPONENT, component.label())
                && pool.is_none_or(|pool| is_labelled(pod, names::LABEL_POOL, pool))
                && uid.is_none_or(|uid| uid.is_some_and(|uid| is_controlled(pod, uid)))
        };
        self.pods.iter().map(Arc::as_ref).filter(move |pod| of(pod))
    }

    /// Returns whether an object belongs to this cluster; see [`apply::is_ours`].
    pub fn owns(&self, live: &Live) -> bool {
        owns(&self.cluster, live)
    }

    /// Returns what a running fleet keeps from its creation.
    pub fn kept(&self) -> Kept {
        let Some(set) = self.stateful_set().filter(|set| self.owns(set)) else { return Kept::default() };
        let size = set.text("/spec/volumeClaimTemplates/0/spec/resources/requests/storage");
        // Anyone with the right to change StatefulSets can change the annotation; it is restored from the status.
        let told = self.cluster.status.as_ref().and_then(|status| status.image.clone());
        Kept {
            image: told.or_else(|| set.object.annotations().get(names::ANNOTATION_DEFAULT_IMAGE).cloned()),
            claim_size: size.map(|size| Quantity(size.to_owned())),
            ..Kept::default()
        }
    }

    /// Returns the ordinal below which coordinators' disks are this cluster's own; see
    /// [`crate::quorum::scale::Plan::member_high_water`].
    pub fn member_high_water(&self) -> u32 {
        let set = self.stateful_set().filter(|set| self.owns(set));
        let said = set.and_then(|set| set.object.annotations().get(names::ANNOTATION_JOINED)?.parse().ok());
        said.unwrap_or(0)
    }

    /// Returns whether the StatefulSet controller has observed the newest template. Until then, the newest revision in
    /// its status is an older one.
    pub fn template_seen(&self) -> bool {
        self.stateful_set().is_some_and(|set| {
            let seen = set.object.data.pointer("/status/observedGeneration").and_then(serde_json::Value::as_i64);
            seen.is_some() && seen == set.object.metadata.generation
        })
    }

    /// Returns the coordinators' pods. A pod is outdated if its revision is not the newest one of the StatefulSet.
    pub fn coordinator_pods(&self) -> Pods {
        let cluster = self.name();
        let newest = self.stateful_set().filter(|_| self.template_seen());
        let newest = newest.and_then(|set| set.text("/status/updateRevision"));
        let pods = self.pods_of(Component::Coordinator, None);
        let pods = pods.filter_map(|pod| Some((names::ordinal(&cluster, &pod.name_any())?, pod)));
        pods.map(|(ordinal, pod)| (ordinal, coordinator_pod(pod, newest, self.now))).collect()
    }

    /// Returns the ordinals of the coordinators that have a PersistentVolumeClaim, even one that is being deleted.
    pub fn claim_ordinals(&self) -> BTreeSet<u32> {
        let cluster = self.name();
        let prefix = format!("{}-", names::DATA_VOLUME);
        let ordinal =
            |claim: &Arc<PersistentVolumeClaim>| names::ordinal(&cluster, claim.name_any().strip_prefix(&prefix)?);
        self.claims.iter().filter_map(ordinal).collect()
    }

    /// Returns the members, if a leader responded.
    pub fn membership(&self) -> Option<Membership> {
        self.fleet.as_ref().ok().map(|answer| membership(&answer.status))
    }

    /// Returns the agents of the fleet by name, including lost ones.
    pub fn agents(&self) -> BTreeMap<&str, &v1::Agent> {
        let agents = self.fleet.iter().flat_map(|answer| &answer.agents);
        agents.map(|agent| (agent.name.as_str(), agent)).collect()
    }

    /// Returns what is wrong with the pods of a component.
    pub fn failures(&self, component: Component, pool: Option<&str>) -> Vec<Failure> {
        self.pods_of(component, pool).filter_map(|pod| health::failure(pod, self.now)).collect()
    }
}

fn owns(cluster: &RobeingCluster, live: &Live) -> bool {
    let storage = cluster.spec.coordinators.storage.as_ref();
    let disks = storage.map(|storage| storage.storage_class_name.as_deref()).filter(|_| *live.kind == *"StatefulSet");
    cluster.metadata.uid.as_deref().is_some_and(|uid| apply::is_ours(live, uid, disks))
}

/// Returns the members of the coordinators' Raft group, from the status that the leader reports.
pub fn membership(status: &v1::FleetStatus) -> Membership {
    let member = |coordinator: &v1::Coordinator| Member {
        name: coordinator.name.clone(),
        voter: coordinator.voter,
        reachable: !matches!(
            coordinator.state(),
            v1::CoordinatorState::Unreachable | v1::CoordinatorState::Unspecified
        ),
        matched: coordinator.matched_index,
        score: coordinator.leader_score.as_ref().map_or(0.0, |score| score.total),
    };
    Membership {
        members: status.coordinators.iter().map(member).collect(),
        leader: status.leader.clone(),
        applied: status.log_applied_index,
    }
}

fn coordinator_pod(pod: &Pod, newest: Option<&str>, now: Timestamp) -> CoordinatorPod {
    let revision = pod.labels().get(names::LABEL_REVISION).map(String::as_str);
    CoordinatorPod {
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        updated: newest.is_none() || revision == newest,
        ready: health::ready(pod),
        terminating: pod.metadata.deletion_timestamp.is_some(),
        failure: health::failure(pod, now).filter(|failure| failure.at_fault()).map(|failure| failure.text()),
        has_run: health::has_run(pod),
    }
}

fn is_labelled(pod: &Pod, key: &str, value: &str) -> bool {
    pod.labels().get(key).is_some_and(|said| said == value)
}

fn is_controlled(pod: &Pod, uid: &str) -> bool {
    pod.owner_references().iter().any(|reference| reference.controller == Some(true) && reference.uid == uid)
}

/// Returns the part of an object's metadata that is read.
fn reduced_meta(meta: ObjectMeta, annotations: &[&str]) -> ObjectMeta {
    let annotations = meta.annotations.map(|mut all| {
        all.retain(|key, _| annotations.contains(&key.as_str()));
        all
    });
    ObjectMeta {
        name: meta.name,
        namespace: meta.namespace,
        uid: meta.uid,
        resource_version: meta.resource_version,
        generation: meta.generation,
        deletion_timestamp: meta.deletion_timestamp,
        labels: meta.labels,
        annotations: annotations.filter(|annotations| !annotations.is_empty()),
        owner_references: meta.owner_references,
        ..ObjectMeta::default()
    }
}

/// Returns the part of a pod that is read: its owner, its location and its state.
pub fn reduced_pod(pod: Pod) -> Pod {
    let spec = pod.spec.map(|spec| {
        let volumes = spec.volumes.unwrap_or_default().into_iter().filter_map(|volume| {
            let claim = volume.persistent_volume_claim?;
            Some(Volume { name: volume.name, persistent_volume_claim: Some(claim), ..Volume::default() })
        });
        let volumes: Vec<Volume> = volumes.collect();
        PodSpec {
            node_name: spec.node_name,
            volumes: Some(volumes).filter(|some| !some.is_empty()),
            ..PodSpec::default()
        }
    });
    let status = pod.status.map(|status| PodStatus {
        pod_ip: status.pod_ip,
        conditions: status.conditions.map(|mut conditions| {
            conditions.retain(|condition| health::READ_CONDITIONS.contains(&condition.type_.as_str()));
            conditions
        }),
        container_statuses: status.container_statuses.map(reduced_statuses),
        init_container_statuses: status.init_container_statuses.map(reduced_statuses),
        ..PodStatus::default()
    });
    let metadata = reduced_meta(pod.metadata, &[names::ANNOTATION_DELETION_COST]);
    Pod { metadata, spec, status }
}

fn reduced_statuses(statuses: Vec<ContainerStatus>) -> Vec<ContainerStatus> {
    let reduced = |status: ContainerStatus| ContainerStatus {
        name: status.name,
        image: status.image,
        restart_count: status.restart_count,
        state: status.state,
        last_state: status.last_state,
        ..ContainerStatus::default()
    };
    statuses.into_iter().map(reduced).collect()
}

/// Returns the part of a PersistentVolumeClaim that is read.
pub fn reduced_claim(claim: PersistentVolumeClaim) -> PersistentVolumeClaim {
    let spec = claim.spec.map(|spec| PersistentVolumeClaimSpec { resources: spec.resources, ..Default::default() });
    let status = claim.status.map(|status| PersistentVolumeClaimStatus { phase: status.phase, ..Default::default() });
    PersistentVolumeClaim { metadata: reduced_meta(claim.metadata, &[]), spec, status }
}

/// Returns the addresses of a cluster's coordinators, host:port, `first` before the others. They include only pods of
/// the cluster's own StatefulSet with ordinals below its size, since their responses decide about votes and disks.
pub fn addresses(cluster: &RobeingCluster, set: Option<&Live>, pods: &[Arc<Pod>], first: Option<&str>) -> Vec<String> {
    let Some(set) = set.filter(|set| owns(cluster, set)).map(|set| &set.object) else { return Vec::new() };
    let (name, uid) = (cluster.name_any(), set.metadata.uid.as_deref().unwrap_or_default());
    let replicas = set.data.pointer("/spec/replicas").and_then(serde_json::Value::as_u64).unwrap_or(1);
    let address = |pod: &Arc<Pod>| {
        let ordinal = names::ordinal(&name, &pod.name_any())?;
        let one_of_them = is_labelled(pod, names::LABEL_COMPONENT, Component::Coordinator.label())
            && is_controlled(pod, uid)
            && u64::from(ordinal) < replicas;
        if !one_of_them || pod.metadata.deletion_timestamp.is_some() {
            return None;
        }
        let ip = pod.status.as_ref()?.pod_ip.clone().filter(|ip| !ip.is_empty())?;
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip };
        Some(format!("{host}:{}", names::GRPC_PORT))
    };
    let mut addresses: Vec<String> = pods.iter().filter_map(address).collect();
    addresses.sort_by_key(|address| Some(address.as_str()) != first);
    addresses
}

/// How long the deletion of a pod may be overdue before its node counts as gone.
pub const NODE_GONE_AFTER: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn from<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).expect("well-formed")
    }

    fn set() -> DynamicObject {
        from(json!({
            "apiVersion": "apps/v1", "kind": "StatefulSet",
            "metadata": {
                "name": "fleet-coordinators", "namespace": "apps", "uid": "s", "generation": 4, "resourceVersion": "9",
                "labels": {"app.kubernetes.io/instance": "fleet"},
                "annotations": {
                    names::ANNOTATION_JOINED: "3", names::ANNOTATION_DEFAULT_IMAGE: "robeing:1", "another": "x".repeat(1_000),
                },
                "managedFields": [{"manager": "robeing-operator", "operation": "Apply"}],
                "ownerReferences": [{"apiVersion": "v", "kind": "k", "name": "fleet", "uid": "u", "controller": true}],
            },
            "spec": {
                "replicas": 3,
                "template": {"spec": {"containers": [{"name": "coordinator", "image": "robeing:1", "args": ["x".repeat(1_000)]}]}},
                "volumeClaimTemplates": [{"spec": {"resources": {"requests": {"storage": "1Gi"}}}}],
            },
            "status": {"observedGeneration": 4, "updateRevision": "new"},
        }))
    }

    fn pod() -> Pod {
        from(json!({
            "metadata": {
                "name": "fleet-coordinators-0", "namespace": "apps", "uid": "p",
                "labels": {
                    "app.kubernetes.io/instance": "fleet", "app.kubernetes.io/component": "coordinator",
                    "controller-revision-hash": "new",
                },
                "annotations": {names::ANNOTATION_DELETION_COST: "2", "another": "x".repeat(1_000)},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "s", "uid": "s", "controller": true}],
            },
            "spec": {
                "nodeName": "n", "containers": [{"name": "coordinator", "args": ["x".repeat(1_000)]}],
                "volumes": [
                    {"name": "data", "persistentVolumeClaim": {"claimName": "data-fleet-coordinators-0"}},
                    {"name": "config", "configMap": {"name": "config"}},
                ],
            },
            "status": {
                "podIP": "10.0.0.7",
                "conditions": [{"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "True"}],
                "containerStatuses": [{
                    "name": "coordinator", "image": "robeing:1", "imageID": "x".repeat(1_000), "ready": true,
                    "restartCount": 0, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
                }],
            },
        }))
    }

    fn observation(objects: Vec<Live>, pods: Vec<Arc<Pod>>) -> Observation {
        let mut cluster = RobeingCluster::new("fleet", Default::default());
        (cluster.metadata.uid, cluster.metadata.namespace) = (Some("u".into()), Some("apps".into()));
        let now = "2026-11-23T12:00:00Z".parse().expect("a time");
        let fleet = Err(coordinators::Error::NoAddress);
        Observation { cluster: Arc::new(cluster), objects, pods, claims: Vec::new(), fleet, now }
    }

    #[test]
    fn what_is_kept_of_an_object_says_all_that_is_read_of_it() {
        let whole = observation(vec![Live::new("StatefulSet", set())], vec![Arc::new(pod())]);
        let kept = observation(vec![Live::reduced(&"StatefulSet".into(), set())], vec![Arc::new(reduced_pod(pod()))]);
        let read = |of: &Observation| {
            let set = of.stateful_set().expect("a set");
            let addresses = addresses(&of.cluster, Some(set), &of.pods, None);
            let cost = of.pods[0].annotations().get(names::ANNOTATION_DELETION_COST).cloned();
            let version = set.object.metadata.resource_version.clone();
            let rest = (set.fingerprint, version, health::claims(&of.pods[0]), cost);
            (of.kept(), of.member_high_water(), of.template_seen(), of.coordinator_pods(), addresses, rest, set.applied)
        };
        assert_eq!(read(&kept), read(&whole));
        let set = whole.stateful_set();
        assert_eq!((whole.member_high_water(), addresses(&whole.cluster, set, &whole.pods, None).len()), (3, 1));
        let length = |of: &Observation| format!("{:?}", (&of.objects, &of.pods)).len();
        assert!(length(&kept) + 4_000 < length(&whole), "{} of {}: {kept:?}", length(&kept), length(&whole));
    }

    #[test]
    fn the_image_is_kept_that_the_status_says_whatever_a_hand_writes_on_the_set() {
        let mut whole = observation(vec![Live::new("StatefulSet", set())], Vec::new());
        assert_eq!(whole.kept().image.as_deref(), Some("robeing:1"), "an older operator did not report it");
        let mut cluster = (*whole.cluster).clone();
        cluster.status = Some(from(json!({"image": "robeing:0"})));
        whole.cluster = Arc::new(cluster);
        assert_eq!(whole.kept().image.as_deref(), Some("robeing:0"));
    }

    #[test]
    fn coordinators_whose_set_lost_its_owner_by_hand_are_still_asked() {
        let found = |change: &dyn Fn(&mut DynamicObject), class: Option<&str>| {
            let mut set = set();
            change(&mut set);
            let mut whole = observation(vec![Live::new("StatefulSet", set)], vec![Arc::new(pod())]);
            let mut cluster = (*whole.cluster).clone();
            let storage = json!({"size": "1Gi", "storageClassName": class});
            cluster.spec.coordinators.storage = from(storage);
            whole.cluster = Arc::new(cluster);
            let addresses = addresses(&whole.cluster, whole.stateful_set(), &whole.pods, None);
            (addresses.len(), whole.member_high_water(), whole.coordinator_pods().len())
        };
        let removed = |set: &mut DynamicObject| set.metadata.owner_references = None;
        let no_controller = |set: &mut DynamicObject| {
            set.metadata.owner_references.as_mut().expect("owners")[0].controller = Some(false);
        };
        assert_eq!((found(&removed, None), found(&no_controller, None)), ((1, 3, 1), (1, 3, 1)));
        assert_eq!(found(&removed, Some("fast")), (0, 0, 0), "it has other disks");
        let of_nobody_known = |set: &mut DynamicObject| {
            (set.metadata.owner_references, set.metadata.managed_fields) = (None, None);
        };
        assert_eq!(found(&of_nobody_known, None), (0, 0, 0));
    }

    #[test]
    fn a_claim_keeps_its_size_and_whether_it_is_lost() {
        let claim: PersistentVolumeClaim = from(json!({
            "metadata": {"name": "data-fleet-coordinators-0", "namespace": "apps", "uid": "c"},
            "spec": {"volumeName": "v", "resources": {"requests": {"storage": "1Gi"}}},
            "status": {"phase": "Lost", "capacity": {"storage": "1Gi"}},
        }));
        let kept = reduced_claim(claim.clone());
        assert!(health::disk_lost(&kept));
        let size = |claim: &PersistentVolumeClaim| claim.spec.clone().and_then(|spec| spec.resources?.requests);
        assert_eq!((size(&kept), kept.metadata.uid), (size(&claim), claim.metadata.uid));
    }
}
