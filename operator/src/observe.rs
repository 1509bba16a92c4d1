//! What there is: the objects of one cluster out of the watch caches, and what its coordinators say. Reads, no decisions.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, Pod},
    apimachinery::pkg::api::resource::Quantity,
    jiff::Timestamp,
};
use kube::{ResourceExt, api::DynamicObject};
use robeing_crds::RobeingCluster;
use robeing_proto::v1;

use crate::{
    apply, fleet,
    health::{self, Failure},
    names::{self, Component},
    quorum::{CoordinatorPod, Member, Membership, Pods},
    validate::Kept,
};

/// An object of the cluster as the API server last said it.
#[derive(Clone, Debug)]
pub struct Live {
    /// Its kind.
    pub kind: String,
    /// The object.
    pub object: Arc<DynamicObject>,
}

impl Live {
    /// A number in it, by its path.
    pub fn number(&self, pointer: &str) -> Option<u32> {
        self.object.data.pointer(pointer)?.as_u64()?.try_into().ok()
    }

    /// A text in it, by its path.
    pub fn text(&self, pointer: &str) -> Option<&str> {
        self.object.data.pointer(pointer)?.as_str()
    }
}

/// What there is.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The resource.
    pub cluster: Arc<RobeingCluster>,
    /// The objects with its label, of the kinds that the operator makes.
    pub objects: Vec<Live>,
    /// The pods with its label.
    pub pods: Vec<Arc<Pod>>,
    /// The claims with its label.
    pub claims: Vec<Arc<PersistentVolumeClaim>>,
    /// What the coordinators say.
    pub fleet: Result<fleet::Answer, fleet::Error>,
    /// When this was.
    pub now: Timestamp,
}

impl Observation {
    /// Name of the cluster.
    pub fn name(&self) -> String {
        self.cluster.name_any()
    }

    /// An object by kind and name.
    pub fn live(&self, kind: &str, name: &str) -> Option<&Live> {
        self.objects.iter().find(|live| live.kind == kind && live.object.name_any() == name)
    }

    /// The coordinators' StatefulSet.
    pub fn stateful_set(&self) -> Option<&Live> {
        self.live("StatefulSet", &names::coordinators(&self.name()))
    }

    /// A pool's Deployment.
    pub fn deployment(&self, pool: &str) -> Option<&Live> {
        self.live("Deployment", &names::pool(&self.name(), pool))
    }

    /// The pods of a component, of one pool or of all. Coordinators are those that the StatefulSet controls, as long as there
    /// is one: anybody can write labels.
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

    fn owns(&self, live: &Live) -> bool {
        self.cluster.metadata.uid.as_deref().is_some_and(|uid| apply::is_owned(&live.object, uid))
    }

    /// What a running fleet keeps of how it was made.
    pub fn kept(&self) -> Kept {
        let Some(set) = self.stateful_set().filter(|set| self.owns(set)) else { return Kept::default() };
        let size = set.text("/spec/volumeClaimTemplates/0/spec/resources/requests/storage");
        Kept {
            image: set.object.annotations().get(names::ANNOTATION_DEFAULT_IMAGE).cloned(),
            claim_size: size.map(|size| Quantity(size.to_owned())),
        }
    }

    /// How many coordinators' disks are this cluster's own; see [`crate::scale::Plan::joined`].
    pub fn joined(&self) -> u32 {
        let set = self.stateful_set().filter(|set| self.owns(set));
        let said = set.and_then(|set| set.object.annotations().get(names::ANNOTATION_JOINED)?.parse().ok());
        said.unwrap_or(0)
    }

    /// Whether the StatefulSet controller has seen the newest template. Until then its newest revision is an older one.
    pub fn template_seen(&self) -> bool {
        self.stateful_set().is_some_and(|set| {
            let seen = set.object.data.pointer("/status/observedGeneration").and_then(serde_json::Value::as_i64);
            seen.is_some() && seen == set.object.metadata.generation
        })
    }

    /// The coordinators' pods. A pod that was made from an older template is told by the StatefulSet's newest revision.
    pub fn coordinator_pods(&self) -> Pods {
        let cluster = self.name();
        let newest = self.stateful_set().filter(|_| self.template_seen());
        let newest = newest.and_then(|set| set.text("/status/updateRevision"));
        let pods = self.pods_of(Component::Coordinator, None);
        let pods = pods.filter_map(|pod| Some((names::ordinal(&cluster, &pod.name_any())?, pod)));
        pods.map(|(ordinal, pod)| (ordinal, coordinator_pod(pod, newest, self.now))).collect()
    }

    /// Ordinals of the coordinators that have a disk which is not being deleted.
    pub fn claim_ordinals(&self) -> BTreeSet<u32> {
        let cluster = self.name();
        let prefix = format!("{}-", names::DATA_VOLUME);
        let ordinal =
            |claim: &Arc<PersistentVolumeClaim>| names::ordinal(&cluster, claim.name_any().strip_prefix(&prefix)?);
        self.claims.iter().filter_map(ordinal).collect()
    }

    /// The voters, if a leader answered.
    pub fn membership(&self) -> Option<Membership> {
        self.fleet.as_ref().ok().map(|answer| membership(&answer.status))
    }

    /// The agents of the fleet by name, the lost ones included.
    pub fn agents(&self) -> BTreeMap<&str, &v1::Agent> {
        let agents = self.fleet.iter().flat_map(|answer| &answer.agents);
        agents.map(|agent| (agent.name.as_str(), agent)).collect()
    }

    /// What is wrong with the pods of a component.
    pub fn failures(&self, component: Component, pool: Option<&str>) -> Vec<Failure> {
        self.pods_of(component, pool).filter_map(|pod| health::failure(pod, self.now)).collect()
    }
}

/// The group of coordinators out of a leader's word.
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

/// Where the coordinators of a cluster can be asked, host:port, `first` before the others. Only pods of the cluster's own
/// StatefulSet are asked, within its number: what they answer decides about votes and disks.
pub fn addresses(
    cluster: &RobeingCluster,
    set: Option<&DynamicObject>,
    pods: &[Arc<Pod>],
    first: Option<&str>,
) -> Vec<String> {
    let owner = cluster.metadata.uid.as_deref().unwrap_or_default();
    let Some(set) = set.filter(|set| apply::is_owned(set, owner)) else { return Vec::new() };
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

/// How long a pod may be overdue in its deletion before its node counts as gone.
pub const NODE_GONE_AFTER: Duration = Duration::from_secs(30);
