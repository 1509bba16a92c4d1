//! The driver: observe, validate, build, apply, report, for one cluster at a time. It makes no decisions itself and
//! keeps no state that can't be rebuilt: a new process resumes where the previous one stopped.

pub mod apply;
pub(crate) mod asking;
pub mod build;
pub(crate) mod execute;
pub mod health;
pub mod identity;
pub mod kinds;
pub mod observe;
pub mod policies;
pub(crate) mod ports;
pub(crate) mod quantity;
pub mod release_replicas;
pub(crate) mod repair;
pub mod report;
pub(crate) mod requeue;
pub(crate) mod schedules;
pub(crate) mod status_writer;
pub(crate) mod teams;
pub(crate) mod transports;
pub mod validate;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use kube::{Client, ResourceExt};
use kube_runtime::controller::Action;
use robeing_client::coordinators;
use robeing_crds::{RobeingCluster, RobeingClusterStatus, condition_types};
use robeing_identity::LEAF_LIFETIME;
use robeing_proto::v1;
use tokio::time::Instant;

use self::{
    execute::{grow_disks, next_rollout_step, plan, rollout_step, scale_step, set_deletion_costs, size_pools},
    identity::{IdentityCache, issuers::Issuers, trust::Sent},
    observe::Observation,
    report::Outcome,
    requeue::Outlook,
    status_writer::{patch_status, publish},
    validate::{OperatorContext, Transport, ValidatedCluster},
};
use crate::{
    names,
    quorum::scale,
    runtime::{fleet_watch::FleetWatches, metrics::Metrics, retry::Refusals, stores::Caches},
};

/// How long the StatefulSet controller may take to create the coordinators' pods.
const CREATED_WITHIN: Duration = Duration::from_secs(10);
/// How long the coordinators may take to elect another leader.
const ELECTED_WITHIN: Duration = Duration::from_secs(1);
/// The first pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// How long two authorities of a fleet are trusted before and after the new one issues: as long as a certificate is
/// valid, and as long again for its holder to learn of the new authority.
const AUTHORITY_OVERLAP: Duration = Duration::from_secs(2 * LEAF_LIFETIME.as_secs());
/// Longest pause after a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Namespace and name of a cluster.
type Key = (String, String);

/// The dependencies of the driver.
pub struct Context {
    /// The client of the API server.
    pub client: Client,
    /// The watch caches of the reconciled clusters.
    pub caches: Caches,
    /// The client of the coordinators.
    pub coordinators: Arc<coordinators::CoordinatorClient>,
    /// The watches of the coordinators' updates.
    pub news: FleetWatches,
    /// The operator's metrics.
    pub metrics: Metrics,
    /// The settings of the operator that the built objects depend on.
    pub operator_context: OperatorContext,
    /// The pause before the next reconciliation of a cluster at rest whose coordinators can't report changes.
    pub poll: Duration,
    /// The name of this process in events.
    pub instance: String,
    /// The issuer of service-account tokens.
    pub issuers: Issuers,
    /// How long two authorities of a fleet are trusted before and after the new one issues.
    pub authority_overlap: Duration,
    cluster_caches: Mutex<HashMap<Key, ClusterCache>>,
}

/// What is remembered of a cluster from one reconciliation to the next. All of it may be lost.
#[derive(Debug, Default)]
pub(crate) struct ClusterCache {
    /// The cluster's uid; another cluster of its name starts with an empty cache.
    pub(crate) uid: Option<String>,
    pub(crate) records: apply::Records,
    pub(crate) refusals: Refusals,
    /// The last snapshot, which the events are derived from.
    pub(crate) seen: Option<report::Snapshot>,
    /// The status that was patched last, and when.
    pub(crate) patched: Option<(RobeingClusterStatus, Instant)>,
    /// The pool sizes that were sent to the coordinators last.
    pub(crate) pools: Option<Vec<v1::PoolSize>>,
    /// The policies that were sent to the coordinators last.
    pub(crate) policies: Option<Sent>,
    /// What kinds of tasks need, as it was sent to the coordinators last.
    pub(crate) kinds: Option<Sent>,
    /// The uid of the coordinator pod that was deleted last, while the watch cache still contains it.
    pub(crate) evicting: Option<String>,
    /// Since when coordinator pods have been missing.
    pub(crate) missing_since: Option<Instant>,
    /// The address of the coordinator that responded in the last reconciliation.
    pub(crate) asked: Option<String>,
    /// When activity was last observed.
    pub(crate) happened: Option<Instant>,
    /// What is known of the fleet's identity.
    pub(crate) identity: IdentityCache,
    /// Number of consecutive failed reconciliations.
    pub(crate) failures: u32,
}

/// Why a reconciliation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An object can't be serialized.
    #[error(transparent)]
    Build(#[from] build::Error),
    /// The API server did not respond, or refused a request.
    #[error(transparent)]
    Apply(#[from] apply::Error),
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("caches", &self.caches).field("poll", &self.poll).finish_non_exhaustive()
    }
}

impl Context {
    /// Creates a context that remembers no cluster yet.
    pub fn new(
        client: Client,
        caches: Caches,
        news: FleetWatches,
        metrics: Metrics,
        operator_context: OperatorContext,
        poll: Duration,
        instance: String,
    ) -> Self {
        let (coordinators, cluster_caches) = (Arc::default(), Mutex::default());
        let (issuers, authority_overlap) = (Issuers::default(), AUTHORITY_OVERLAP);
        Self {
            client,
            caches,
            coordinators,
            news,
            metrics,
            operator_context,
            poll,
            instance,
            issuers,
            authority_overlap,
            cluster_caches,
        }
    }

    /// Sets how long two authorities of a fleet are trusted before and after the new one issues.
    #[must_use]
    pub fn with_authority_overlap(self, authority_overlap: Duration) -> Self {
        Self { authority_overlap, ..self }
    }

    fn recall(&self, cluster: &RobeingCluster) -> ClusterCache {
        let known = self.cluster_caches.lock().unwrap_or_else(PoisonError::into_inner).remove(&key(cluster));
        let uid = cluster.uid();
        known.filter(|cache| cache.uid == uid).unwrap_or_else(|| ClusterCache { uid, ..ClusterCache::default() })
    }

    fn remember(&self, cluster: &RobeingCluster, cache: ClusterCache) {
        self.cluster_caches.lock().unwrap_or_else(PoisonError::into_inner).insert(key(cluster), cache);
    }

    /// Forgets a cluster that no longer exists.
    pub fn forget(&self, namespace: &str, name: &str) {
        self.news.keep(namespace, name, &[]);
        let key = (namespace.to_owned(), name.to_owned());
        let mut caches = self.cluster_caches.lock().unwrap_or_else(PoisonError::into_inner);
        caches.remove(&key);
        if caches.is_empty() {
            caches.shrink_to_fit();
        }
    }

    /// Counts a failure, and returns the pause before the next attempt, which doubles with each failure.
    pub fn pause(&self, cluster: &RobeingCluster) -> Duration {
        let mut cache = self.recall(cluster);
        cache.failures = cache.failures.saturating_add(1);
        let pause = pause_after(cache.failures, requeue::chance());
        self.remember(cluster, cache);
        pause
    }
}

/// Returns the pause after this many failures, shortened by `chance` so that fleets that failed together are not
/// retried together.
fn pause_after(failures: u32, chance: f64) -> Duration {
    let pause = FIRST_PAUSE * 2_u32.saturating_pow(failures.clamp(1, 7) - 1);
    requeue::shortened(pause.min(LONGEST_PAUSE), chance)
}

fn key(cluster: &RobeingCluster) -> Key {
    (cluster.namespace().unwrap_or_default(), cluster.name_any())
}

/// Reconciles a cluster once.
pub async fn reconcile(cluster: Arc<RobeingCluster>, context: Arc<Context>) -> Result<Action, Error> {
    if cluster.metadata.deletion_timestamp.is_some() {
        // The garbage collector deletes the objects by their owner references.
        let (namespace, name) = key(&cluster);
        context.forget(&namespace, &name);
        return Ok(Action::await_change());
    }
    let started = Instant::now();
    let mut cache = context.recall(&cluster);
    let result = round(&cluster, &context, &mut cache).await;
    if result.is_ok() {
        cache.failures = 0;
    }
    context.remember(&cluster, cache);
    context.metrics.reconciled(result.is_ok(), started.elapsed());
    result
}

async fn round(cluster: &Arc<RobeingCluster>, context: &Context, cache: &mut ClusterCache) -> Result<Action, Error> {
    let set = context.caches.stateful_set(cluster);
    let speaks_both = set.is_some_and(|set| set.transport() != Transport::Strict);
    identity::prepare(cluster, context, cache, speaks_both).await?;
    let observation = look(cluster, context, cache).await;
    let mut kept = observation.kept();
    kept.identity = identity::decide(&observation, context, cache).await;
    let mut outcome = match validate::validate(cluster, &context.operator_context, &kept) {
        Ok(fleet) => act(&observation, fleet, context, cache).await?,
        Err(why) => Outcome::unbuildable(why.to_string(), cache.identity.report().clone()),
    };
    let last = last_status(cluster, cache);
    outcome.teams = teams::keep(&observation, last.as_ref(), context, cache).await;
    outcome.schedules = schedules::keep(&observation, last.as_ref(), context, cache).await;
    let status = report(&observation, &outcome, context, cache).await?;
    let outlook = outlook(&observation, &outcome, &status, context, cache);
    let poll = poll(cluster, context);
    Ok(Action::requeue(requeue::next_look(&outlook, poll, requeue::chance())))
}

/// Returns how often a fleet is polled whose coordinators can't report changes: at the interval of the operator or of
/// the fleet's health checks, whichever is shorter. It is also the minimum time between the updates of other fleets.
fn poll(cluster: &RobeingCluster, context: &Context) -> Duration {
    context.poll.min(cluster.spec.recovery.health_check_interval.into())
}

fn outlook(
    observation: &Observation,
    outcome: &Outcome,
    status: &RobeingClusterStatus,
    context: &Context,
    cache: &mut ClusterCache,
) -> Outlook {
    let cluster = &observation.cluster;
    let is = |of: &str| report::state(status, of) == Some("True");
    let told = observation.fleet.as_ref().is_ok_and(|answer| {
        let coordinator = (answer.from.as_str(), &cache.identity.security());
        context.news.follow(cluster, &context.coordinators, coordinator, poll(cluster, context))
    });
    Outlook {
        reachable: !matches!(observation.fleet, Err(coordinators::Error::NoAddress)),
        applying: outcome.changing,
        moving: is(condition_types::PROGRESSING),
        well: !is(condition_types::DEGRADED)
            && is(condition_types::QUORUM_HEALTHY)
            && outcome.declined.is_empty()
            && teams::are_settled(outcome.teams.as_deref())
            && schedules::are_settled(outcome.schedules.as_deref()),
        told,
        quiet: cache.happened.get_or_insert_with(Instant::now).elapsed(),
        due: due(observation, cache),
    }
}

/// Returns the time until something changes merely because time passes: what is reported about pods, existing or
/// missing, whether a refused request to the API server may be retried, or how long tasks have waited in vain.
fn due(observation: &Observation, cache: &ClusterCache) -> Option<Duration> {
    let pods = observation.pods.iter().filter_map(|pod| health::changes_at(pod, observation.now)).min();
    let of_pods = pods.map(|at| at.duration_since(observation.now).unsigned_abs());
    let now = Instant::now();
    let missing = cache.missing_since.map(|since| since + CREATED_WITHIN);
    let later = missing.into_iter().chain(cache.refusals.next(now)).filter(|at| *at > now).min();
    let of_tasks = observation.fleet.as_ref().ok().and_then(|answer| report::unmet_due(&answer.status));
    of_pods.into_iter().chain(later.map(|at| at - now)).chain(cache.identity.due()).chain(of_tasks).min()
}

/// Queries the coordinators first and then reads the caches, so that the cached state is newer than the response,
/// however slow that was.
async fn look(cluster: &Arc<RobeingCluster>, context: &Context, cache: &mut ClusterCache) -> Observation {
    let name = cluster.name_any();
    let set = context.caches.stateful_set(cluster);
    let pods = context.caches.pods(cluster);
    let addresses = observe::addresses(cluster, set.as_ref(), &pods, cache.asked.as_deref());
    context.news.keep(cluster.metadata.namespace.as_deref().unwrap_or_default(), &name, &addresses);
    let security = cache.identity.security();
    let mut fleet = context.coordinators.ask(&addresses, &security).await;
    if fleet.is_err() && cache.asked.is_some() {
        // The leader may have died. A new one is elected within a second; a retry after that finds only a new leader,
        // and no loss of the quorum is reported.
        tokio::time::sleep(ELECTED_WITHIN).await;
        fleet = context.coordinators.ask(&addresses, &security).await;
    }
    let fleet = fleet.and_then(|answer| {
        // The address may belong to another pod by now.
        if answer.status.cluster_id == name {
            Ok(answer)
        } else {
            Err(coordinators::Error::Stranger { address: answer.from })
        }
    });
    cache.asked = fleet.as_ref().ok().map(|answer| answer.from.clone());
    let fleet = match fleet {
        Ok(answer) => {
            let newest = answer.status.audit_seq;
            let after = report::audit_after(cache.seen.as_ref().and_then(report::Snapshot::audited), newest);
            let audit = context.coordinators.audit(&answer.from, &security, after, newest).await;
            Ok(coordinators::Answer { audit, ..answer })
        }
        Err(error) => Err(error),
    };
    Observation {
        cluster: cluster.clone(),
        objects: context.caches.objects(cluster),
        pods: context.caches.pods(cluster),
        claims: context.caches.claims(cluster),
        fleet,
        now: Timestamp::now(),
    }
}

/// Returns the names of the objects that stay as they are, though nothing was built for them.
fn staying(fleet: &ValidatedCluster) -> HashSet<String> {
    let mut stay: HashSet<String> = fleet.refused.iter().map(|pool| names::pool(&fleet.name, &pool.name)).collect();
    if fleet.identity.trust.is_empty() {
        // It is not known now whom members trust, but they still do.
        stay.insert(names::trust(&fleet.name));
    }
    stay
}

/// Builds and applies the objects, and takes at most one step with the coordinators.
async fn act(
    observation: &Observation,
    fleet: ValidatedCluster,
    context: &Context,
    cache: &mut ClusterCache,
) -> Result<Outcome, Error> {
    let membership = observation.membership();
    let scale = plan(observation, &fleet, membership.as_ref());
    let desired = build::build(&fleet, scale.replicas, scale.member_high_water)?;
    let mut declined = Vec::new();
    if let Err(error) = size_pools(observation, &fleet, context, cache).await {
        declined.push(error.to_string());
    }
    let policies = policies::set(observation, context, cache).await;
    let kinds = kinds::set(observation, context, cache).await;
    let mut errors = set_deletion_costs(observation, &fleet, context, cache).await?;
    let target = apply::Target { client: &context.client, namespace: &fleet.namespace, owner: &fleet.uid };
    let stay = staying(&fleet);
    let (records, refusals) = (&mut cache.records, &mut cache.refusals);
    let applied = target.apply(&desired, &observation.objects, &stay, records, refusals).await;
    let unapplied = !applied.errors.is_empty();
    errors.extend(applied.errors);
    errors.extend(grow_disks(observation, &fleet, context, cache).await?);
    identity::advance(observation, context, cache).await?;
    declined.extend(cache.identity.report().declined.clone());
    let rollout = next_rollout_step(observation, &fleet, membership.as_ref(), &scale, cache);
    match scale_step(observation, &fleet, &scale.step, context, cache).await {
        Ok(Err(error)) => declined.push(error.to_string()),
        Err(error) => errors.push(error),
        Ok(Ok(())) => match rollout_step(observation, &fleet, &rollout, context, cache).await {
            Ok(Err(error)) => declined.push(error.to_string()),
            Err(error) => errors.push(error),
            Ok(Ok(())) => {}
        },
    }
    // A refusal is reported, and does not prevent anything else.
    let mut refused = Vec::new();
    for error in errors {
        if error.is_unreachable() {
            return Err(error.into());
        }
        if !error.is_known() {
            tracing::warn!(cluster = fleet.name, namespace = fleet.namespace, %error, "refused");
        }
        refused.push(error.to_string());
    }
    let uncreated = uncreated(observation, &scale, cache);
    let (fleet, identity) = (Some(fleet), cache.identity.report().clone());
    Ok(Outcome {
        fleet,
        unbuildable: None,
        refused,
        changing: applied.changing,
        scale,
        rollout,
        declined,
        unapplied,
        uncreated,
        policies,
        kinds,
        teams: None,
        schedules: None,
        identity,
    })
}

/// Returns the existing and the desired number of coordinator pods if some have been missing for [`CREATED_WITHIN`]:
/// then something prevents the StatefulSet controller from creating them, which it reports only in events.
fn uncreated(observation: &Observation, scale: &scale::Plan, cache: &mut ClusterCache) -> Option<(u32, u32)> {
    let there = u32::try_from(observation.coordinator_pods().len()).unwrap_or(u32::MAX);
    let made = observation.stateful_set().is_some() && observation.template_seen();
    if !made || there >= scale.replicas {
        cache.missing_since = None;
        return None;
    }
    let since = *cache.missing_since.get_or_insert_with(Instant::now);
    (since.elapsed() >= CREATED_WITHIN).then_some((there, scale.replicas))
}

/// Returns the status that was written last. The watch cache may lag behind what this process has written itself.
fn last_status(cluster: &RobeingCluster, cache: &ClusterCache) -> Option<RobeingClusterStatus> {
    let own =
        cache.patched.as_ref().filter(|(_, at)| at.elapsed() < apply::CACHE_LAG).map(|(status, _)| status.clone());
    own.or_else(|| cluster.status.clone())
}

/// Patches the status if it changed, and publishes the events.
async fn report(
    observation: &Observation,
    outcome: &Outcome,
    context: &Context,
    cache: &mut ClusterCache,
) -> Result<RobeingClusterStatus, Error> {
    let cluster = &observation.cluster;
    let before = last_status(cluster, cache);
    let status = report::status(observation, outcome, before.as_ref());
    let events = report::happened(observation, outcome, cache.seen.as_ref(), before.as_ref(), &status);
    // Conditions that others have set are ignored in the comparison.
    if before.as_ref().map(report::own) != Some(report::own(&status)) {
        patch_status(context, cluster, &status).await?;
        cache.patched = Some((status.clone(), Instant::now()));
        cache.happened = Some(Instant::now());
    }
    if outcome.changing {
        cache.happened = Some(Instant::now());
    }
    if let Some(seen) = report::Snapshot::of(observation, cache.seen.as_ref()) {
        cache.seen = Some(seen);
    }
    for event in events {
        tracing::info!(cluster = cluster.name_any(), reason = event.reason, note = event.note, "event");
        publish(context, cluster, event).await;
    }
    Ok(status)
}

/// Returns the addresses of all known coordinators, to which connections are kept.
pub fn coordinators_in(caches: &Caches) -> BTreeSet<String> {
    let clusters = caches.clusters.state();
    let of = |cluster: &Arc<RobeingCluster>| {
        observe::addresses(cluster, caches.stateful_set(cluster).as_ref(), &caches.pods(cluster), None)
    };
    clusters.iter().flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_after_failures_grow_to_the_longest_and_differ_by_chance() {
        assert_eq!([1, 2, 6].map(|failures| pause_after(failures, 0.0).as_secs()), [1, 2, 32]);
        assert_eq!(pause_after(u32::MAX, 0.0), LONGEST_PAUSE);
        assert!(pause_after(u32::MAX, 0.5) < LONGEST_PAUSE && pause_after(1, 0.5) < FIRST_PAUSE);
    }
}
