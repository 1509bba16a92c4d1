//! The driver: observe, validate, build, apply, report, for one cluster at a time. It decides nothing itself and keeps nothing
//! that could not be found out again: a new process begins where an old one ended.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::{
    api::{
        core::v1::{PersistentVolumeClaim, Pod},
        events::v1::Event,
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
    jiff::Timestamp,
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ApiResource, Patch, PatchParams, PostParams},
};
use kube_runtime::controller::Action;
use robeing_crds::{API_VERSION, KIND, RobeingCluster, RobeingClusterStatus};
use robeing_proto::v1;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    apply, build, fleet,
    metrics::Metrics,
    names::{self, Component},
    observe::{self, Observation},
    quorum::Membership,
    report::{self, Importance, Outcome},
    rollout, scale,
    scope::Caches,
    validate::{self, Fleet, Surroundings},
};

/// Pause until the next look at a cluster where something is under way.
const SOON: Duration = Duration::from_secs(1);
/// Longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Namespace and name of a cluster.
type Key = (String, String);

/// What the driver works with.
pub struct Context {
    /// To the API server.
    pub client: Client,
    /// The watch caches of the clusters that are handled.
    pub caches: Caches,
    /// To the coordinators.
    pub coordinators: fleet::Coordinators,
    /// What is counted.
    pub metrics: Metrics,
    /// The operator's own part in what is built.
    pub surroundings: Surroundings,
    /// Pause until the next look at a cluster where nothing is under way.
    pub poll: Duration,
    /// Name of this process in events.
    pub instance: String,
    memories: Mutex<HashMap<Key, Memory>>,
}

/// What is kept of a cluster from one round to the next. All of it may be lost.
#[derive(Debug, Default)]
struct Memory {
    /// Of the cluster; another one of its name begins anew.
    uid: Option<String>,
    records: apply::Records,
    seen: Option<report::Snapshot>,
    patched: Option<(RobeingClusterStatus, Instant)>,
    pools: Option<Vec<v1::PoolSize>>,
    told_to_go: Option<String>,
    asked: Option<String>,
    failures: u32,
}

/// A round came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object has no written form.
    #[error(transparent)]
    Build(#[from] build::Error),
    /// The API server is gone or refuses.
    #[error(transparent)]
    Apply(#[from] apply::Error),
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("caches", &self.caches).field("poll", &self.poll).finish_non_exhaustive()
    }
}

impl Context {
    /// A driver without memories.
    pub fn new(
        client: Client,
        caches: Caches,
        metrics: Metrics,
        surroundings: Surroundings,
        poll: Duration,
        instance: String,
    ) -> Self {
        let (coordinators, memories) = (fleet::Coordinators::default(), Mutex::default());
        Self { client, caches, coordinators, metrics, surroundings, poll, instance, memories }
    }

    fn recall(&self, cluster: &RobeingCluster) -> Memory {
        let known = self.memories.lock().unwrap_or_else(PoisonError::into_inner).remove(&key(cluster));
        let uid = cluster.uid();
        known.filter(|memory| memory.uid == uid).unwrap_or_else(|| Memory { uid, ..Memory::default() })
    }

    fn remember(&self, cluster: &RobeingCluster, memory: Memory) {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).insert(key(cluster), memory);
    }

    /// Forgets a cluster that is gone.
    pub fn forget(&self, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        self.memories.lock().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    /// The pause before the next try after a failure: doubled each time.
    pub fn pause(&self, cluster: &RobeingCluster) -> Duration {
        let mut memory = self.recall(cluster);
        memory.failures = memory.failures.saturating_add(1);
        let pause = SOON * 2_u32.saturating_pow(memory.failures.min(6) - 1);
        self.remember(cluster, memory);
        pause.min(LONGEST_PAUSE)
    }
}

fn key(cluster: &RobeingCluster) -> Key {
    (cluster.namespace().unwrap_or_default(), cluster.name_any())
}

/// One round for a cluster.
pub async fn reconcile(cluster: Arc<RobeingCluster>, context: Arc<Context>) -> Result<Action, Error> {
    if cluster.metadata.deletion_timestamp.is_some() {
        // Owner references clean up.
        let (namespace, name) = key(&cluster);
        context.forget(&namespace, &name);
        return Ok(Action::await_change());
    }
    let started = Instant::now();
    let mut memory = context.recall(&cluster);
    let result = round(&cluster, &context, &mut memory).await;
    if result.is_ok() {
        memory.failures = 0;
    }
    context.remember(&cluster, memory);
    context.metrics.reconciled(result.is_ok(), started.elapsed());
    result
}

async fn round(cluster: &Arc<RobeingCluster>, context: &Context, memory: &mut Memory) -> Result<Action, Error> {
    let observation = look(cluster, context, memory).await;
    let kept = observation
        .stateful_set()
        .and_then(|set| set.object.annotations().get(names::ANNOTATION_DEFAULT_IMAGE).cloned());
    let outcome = match validate::validate(cluster, &context.surroundings, kept.as_deref()) {
        Ok(fleet) => act(&observation, fleet, context, memory).await?,
        Err(why) => Outcome {
            fleet: None,
            unbuildable: Some(why.to_string()),
            refused: vec![],
            changing: false,
            scale: scale::Plan { replicas: 0, step: scale::Step::Settled },
            rollout: rollout::Step::Done,
            declined: vec![],
        },
    };
    let calm = report(&observation, &outcome, context, memory).await?;
    Ok(Action::requeue(if calm { context.poll } else { SOON.min(context.poll) }))
}

/// Asks the coordinators first, then reads the caches, which are always newer than an answer that took its time.
async fn look(cluster: &Arc<RobeingCluster>, context: &Context, memory: &mut Memory) -> Observation {
    let name = cluster.name_any();
    let addresses = observe::addresses(&name, &context.caches.pods(cluster), memory.asked.as_deref());
    let mut fleet = context.coordinators.ask(&addresses).await;
    if fleet.is_err() && memory.asked.is_some() {
        // A new leader is found within a second; that is no news but the leader's name.
        tokio::time::sleep(SOON).await;
        fleet = context.coordinators.ask(&addresses).await;
    }
    let fleet = fleet.and_then(|answer| {
        // An address may be another pod's by now.
        if answer.status.cluster_id == name { Ok(answer) } else { Err(fleet::Error::NoAddress) }
    });
    memory.asked = fleet.as_ref().ok().map(|answer| answer.from.clone());
    Observation {
        cluster: cluster.clone(),
        objects: context.caches.objects(cluster),
        pods: context.caches.pods(cluster),
        claims: context.caches.claims(cluster),
        fleet,
        now: Timestamp::now(),
    }
}

/// Builds and applies, and takes at most one step with the coordinators.
async fn act(
    observation: &Observation,
    fleet: Fleet,
    context: &Context,
    memory: &mut Memory,
) -> Result<Outcome, Error> {
    let membership = observation.membership();
    let scale = plan(observation, &fleet, membership.as_ref());
    let desired = build::build(&fleet, scale.replicas)?;
    let mut declined = Vec::new();
    if let Err(error) = size_pools(observation, &fleet, context, memory).await {
        declined.push(error.to_string());
    }
    spare_the_busy(observation, &fleet, context).await?;
    let applied = apply::apply(
        &context.client,
        &fleet.namespace,
        &fleet.uid,
        &desired,
        &observation.objects,
        &mut memory.records,
    );
    let mut refused = Vec::new();
    let applied = applied.await;
    for error in applied.errors {
        if error.is_unreachable() {
            return Err(error.into());
        }
        tracing::warn!(cluster = fleet.name, namespace = fleet.namespace, %error, "not applied");
        refused.push(error.to_string());
    }
    let rollout = next_rollout_step(observation, &fleet, membership.as_ref(), &scale, memory);
    if let Err(error) = scale_step(observation, &fleet, &scale.step, context).await? {
        declined.push(error.to_string());
    } else if let Err(error) = rollout_step(observation, &fleet, &rollout, context, memory).await? {
        declined.push(error.to_string());
    }
    Ok(Outcome { fleet: Some(fleet), unbuildable: None, refused, changing: applied.changing, scale, rollout, declined })
}

fn plan(observation: &Observation, fleet: &Fleet, membership: Option<&Membership>) -> scale::Plan {
    let pods = observation.coordinator_pods();
    let has_address = |name: &str| {
        let pod = observation.pods.iter().find(|pod| pod.name_any() == name);
        pod.and_then(|pod| pod.status.as_ref()?.pod_ip.as_ref()).is_some()
    };
    let runs = |pod: &crate::quorum::CoordinatorPod| {
        !pod.terminating && pod.failure.is_none() && pod.has_run && has_address(&pod.name)
    };
    scale::plan(&scale::View {
        cluster: &fleet.name,
        wanted: fleet.coordinators,
        current: observation.stateful_set().map(|set| set.number("/spec/replicas").unwrap_or(1)),
        membership,
        pods: &pods.keys().copied().collect(),
        running: &pods.iter().filter(|(_, pod)| runs(pod)).map(|(ordinal, _)| *ordinal).collect(),
        claims: &observation.claim_ordinals(),
    })
}

fn next_rollout_step(
    observation: &Observation,
    fleet: &Fleet,
    membership: Option<&Membership>,
    scale: &scale::Plan,
    memory: &mut Memory,
) -> rollout::Step {
    if !observation.template_seen() {
        return rollout::Step::Settling("the StatefulSet controller has not seen the newest template yet".into());
    }
    let pods = observation.coordinator_pods();
    // A pod that is gone from the cache need not be remembered.
    memory.told_to_go = memory.told_to_go.take().filter(|uid| pods.values().any(|pod| pod.uid == *uid));
    rollout::next(&rollout::View {
        replicas: scale.replicas,
        pods: &pods,
        membership,
        durable: fleet.storage.is_some(),
        members_settled: scale.step == scale::Step::Settled,
        told_to_go: memory.told_to_go.as_deref(),
    })
}

/// Tells the coordinators how large the pools should be, when they do not know.
async fn size_pools(
    observation: &Observation,
    fleet: &Fleet,
    context: &Context,
    memory: &mut Memory,
) -> Result<(), fleet::Error> {
    let Ok(answer) = &observation.fleet else { return Ok(()) };
    let size = |pool: &validate::FleetPool| v1::PoolSize {
        name: pool.name.clone(),
        replicas: if fleet.suspend { Some(0) } else { pool.replicas },
        standby: if fleet.suspend { 0 } else { pool.standby },
    };
    let wanted: Vec<v1::PoolSize> = fleet.pools.iter().map(size).collect();
    let known = |pool: &v1::PoolSize| {
        let known = answer.status.pools.iter().find(|known| known.name == pool.name);
        known.is_some_and(|known| pool.replicas.is_none_or(|replicas| known.desired == replicas))
    };
    if memory.pools.as_ref() == Some(&wanted) && wanted.iter().all(known) {
        return Ok(());
    }
    context.coordinators.set_pools(&answer.from, wanted.clone()).await?;
    memory.pools = Some(wanted);
    Ok(())
}

/// Before a pool shrinks, says of each of its pods how much work its end would disturb, so that the idle ones go.
async fn spare_the_busy(observation: &Observation, fleet: &Fleet, context: &Context) -> Result<(), Error> {
    let agents = observation.agents();
    for pool in &fleet.pools {
        let shrinks = pool.pods(fleet.suspend).is_some_and(|pods| {
            let live = observation.deployment(&pool.name).and_then(|live| live.number("/spec/replicas"));
            pods > 0 && live.is_some_and(|live| pods < live)
        });
        if !shrinks || observation.fleet.is_err() {
            continue;
        }
        let api: Api<Pod> = Api::namespaced(context.client.clone(), &fleet.namespace);
        for pod in observation.pods_of(Component::Agent, Some(&pool.name)) {
            let name = pod.name_any();
            let cost = agents.get(name.as_str()).map_or(0, |agent| agent.used_slots).to_string();
            let known = pod.annotations().get(names::ANNOTATION_DELETION_COST).map_or("0", String::as_str);
            if known == cost {
                continue;
            }
            let patch = json!({"metadata": {"annotations": {names::ANNOTATION_DELETION_COST: cost}}});
            let patched = api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await;
            match patched {
                Err(error) if !apply::is_gone(&error) => Err(apply::Error::of("annotate", "Pod", &name, error))?,
                _ => {}
            }
        }
    }
    Ok(())
}

type Asked = Result<Result<(), fleet::Error>, Error>;

/// Adds or removes a voter, or deletes the disk of one that is gone.
async fn scale_step(observation: &Observation, fleet: &Fleet, step: &scale::Step, context: &Context) -> Asked {
    let name = |ordinal: u32| names::coordinator(&fleet.name, ordinal);
    let from = observation.fleet.as_ref().map(|answer| answer.from.clone()).unwrap_or_default();
    match *step {
        scale::Step::Settled | scale::Step::Wait(_) => Ok(Ok(())),
        scale::Step::Add(ordinal) => {
            tracing::info!(cluster = fleet.name, name = name(ordinal), "adding a coordinator");
            let address = names::coordinator_address(&fleet.name, &fleet.namespace, ordinal);
            Ok(context.coordinators.add(&from, name(ordinal), address).await)
        }
        scale::Step::Remove(ordinal) => {
            tracing::info!(cluster = fleet.name, name = name(ordinal), "removing a coordinator");
            Ok(context.coordinators.remove(&from, name(ordinal)).await)
        }
        scale::Step::DeleteClaim(ordinal) => {
            let claim = names::claim(&fleet.name, ordinal);
            let seen = observation.claims.iter().find(|seen| seen.name_any() == claim);
            if let Some(seen) = seen.filter(|seen| seen.metadata.deletion_timestamp.is_none()) {
                tracing::info!(cluster = fleet.name, claim, "deleting the disk of a coordinator that was removed");
                let kind = ApiResource::erase::<PersistentVolumeClaim>(&());
                apply::delete_exactly(&context.client, &fleet.namespace, &kind, &claim, seen.uid()).await?;
            }
            Ok(Ok(()))
        }
    }
}

/// Replaces a coordinator's pod, or has another one lead.
async fn rollout_step(
    observation: &Observation,
    fleet: &Fleet,
    step: &rollout::Step,
    context: &Context,
    memory: &mut Memory,
) -> Asked {
    match step {
        rollout::Step::Replace { pod, uid } => {
            tracing::info!(cluster = fleet.name, pod, "replacing a coordinator");
            let kind = ApiResource::erase::<Pod>(&());
            apply::delete_exactly(&context.client, &fleet.namespace, &kind, pod, Some(uid.clone())).await?;
            memory.told_to_go = Some(uid.clone());
            Ok(Ok(()))
        }
        rollout::Step::Transfer { to } => {
            tracing::info!(cluster = fleet.name, to, "transferring leadership");
            let from = observation.fleet.as_ref().map(|answer| answer.from.clone()).unwrap_or_default();
            Ok(context.coordinators.transfer(&from, to.clone()).await)
        }
        rollout::Step::Done | rollout::Step::Settling(_) | rollout::Step::Wait(_) | rollout::Step::Paused { .. } => {
            Ok(Ok(()))
        }
    }
}

/// Patches the status if it changed, and publishes what happened. Whether nothing is under way.
async fn report(
    observation: &Observation,
    outcome: &Outcome,
    context: &Context,
    memory: &mut Memory,
) -> Result<bool, Error> {
    let cluster = &observation.cluster;
    // The cache may be behind what this process wrote itself.
    let own =
        memory.patched.as_ref().filter(|(_, at)| at.elapsed() < apply::CACHE_LAG).map(|(status, _)| status.clone());
    let before = own.or_else(|| cluster.status.clone());
    let status = report::status(observation, outcome, before.as_ref());
    let events = report::happened(observation, outcome, memory.seen.as_ref(), before.as_ref(), &status);
    if before.as_ref() != Some(&status) {
        patch_status(context, cluster, &status).await?;
        memory.patched = Some((status.clone(), Instant::now()));
    }
    if let Some(seen) = report::Snapshot::of(observation) {
        memory.seen = Some(seen);
    }
    for event in events {
        tracing::info!(cluster = cluster.name_any(), reason = event.reason, note = event.note, "event");
        publish(context, cluster, event).await;
    }
    let under_way = report::state(&status, robeing_crds::condition_types::PROGRESSING) == Some("True");
    Ok(!under_way)
}

async fn patch_status(context: &Context, cluster: &RobeingCluster, status: &RobeingClusterStatus) -> Result<(), Error> {
    let (name, namespace) = (cluster.name_any(), cluster.namespace().unwrap_or_default());
    let api: Api<RobeingCluster> = Api::namespaced(context.client.clone(), &namespace);
    let patch = json!({"apiVersion": API_VERSION, "kind": KIND, "status": status});
    let patched = api.patch_status(&name, &apply::field_manager(), &Patch::Apply(patch)).await;
    match patched {
        Err(error) if !apply::is_gone(&error) => Err(apply::Error::of("report the status of", KIND, &name, error))?,
        _ => Ok(()),
    }
}

/// An event that is lost is a pity and no more.
async fn publish(context: &Context, cluster: &RobeingCluster, happened: report::Happened) {
    let now = Timestamp::now();
    let namespace = cluster.namespace().unwrap_or_default();
    let api: Api<Event> = Api::namespaced(context.client.clone(), &namespace);
    let type_ = match happened.importance {
        Importance::Normal => "Normal",
        Importance::Warning => "Warning",
    };
    let event = Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{:x}", cluster.name_any(), rand_suffix(now))),
            namespace: Some(namespace),
            ..ObjectMeta::default()
        },
        action: Some(happened.action.to_owned()),
        reason: Some(happened.reason),
        note: Some(happened.note.chars().take(MAX_NOTE).collect()),
        event_time: Some(MicroTime(now)),
        regarding: Some(cluster.object_ref(&())),
        reporting_controller: Some(names::OPERATOR.to_owned()),
        reporting_instance: Some(context.instance.clone()),
        type_: Some(type_.to_owned()),
        ..Event::default()
    };
    if let Err(error) = api.create(&PostParams::default(), &event).await {
        tracing::warn!(%error, "an event could not be published");
    }
}

/// Longest note of an event, characters; the API server takes 1,024 bytes.
const MAX_NOTE: usize = 250;

/// Two events of one nanosecond must not have one name.
fn rand_suffix(now: Timestamp) -> u128 {
    uuid::Uuid::new_v4().as_u128() >> 64 ^ now.as_nanosecond().unsigned_abs()
}

/// The addresses of all coordinators that are known, to which connections are kept.
pub fn coordinators_in(caches: &Caches) -> BTreeSet<String> {
    let clusters = caches.clusters.state();
    let of = |cluster: &Arc<RobeingCluster>| observe::addresses(&cluster.name_any(), &caches.pods(cluster), None);
    clusters.iter().flat_map(of).collect()
}
