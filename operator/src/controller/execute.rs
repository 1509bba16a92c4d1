//! Executes the steps other than applying objects: the calls to the coordinators, and the changes to pods and claims,
//! that `scale`, `rollout` and the sizes of pools and disks require. A coordinator's refusal is reported; only the next
//! reconciliation tries again.

use std::collections::BTreeSet;

use k8s_openapi::{
    api::core::v1::{PersistentVolumeClaim, Pod},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api, ResourceExt,
    api::{ApiResource, Patch, PatchParams},
};
use robeing_client::coordinators;
use robeing_crds::Pool;
use robeing_proto::v1;
use serde_json::json;

use crate::{
    controller::{ClusterCache, Context, Error, apply, observe::Observation, quantity, validate::ValidatedCluster},
    names::{self, Component},
    quorum::{
        membership::{CoordinatorPod, Membership},
        rollout, scale,
    },
};

pub(crate) fn plan(
    observation: &Observation,
    fleet: &ValidatedCluster,
    membership: Option<&Membership>,
) -> scale::Plan {
    if let Some(set) = observation.stateful_set().filter(|set| !observation.owns(set)) {
        // Its voters and disks don't belong to this cluster, which must not remove them.
        let why = if apply::is_left_by(&set.object, robeing_crds::KIND, &fleet.name) {
            "objects of an earlier cluster of this name are being deleted".to_owned()
        } else {
            format!("StatefulSet {} belongs to someone else; see Degraded", set.object.name_any())
        };
        return scale::Plan::new(fleet.coordinators, scale::Step::Wait(why));
    }
    let pods = observation.coordinator_pods();
    // A fleet without storage ignores the disks that an earlier one with storage has left.
    let claims = if fleet.storage.is_some() { observation.claim_ordinals() } else { BTreeSet::new() };
    let has_address = |name: &str| {
        let pod = observation.pods.iter().find(|pod| pod.name_any() == name);
        pod.and_then(|pod| pod.status.as_ref()?.pod_ip.as_ref()).is_some()
    };
    let runs =
        |pod: &CoordinatorPod| !pod.terminating && pod.failure.is_none() && pod.has_run && has_address(&pod.name);
    scale::plan(&scale::View {
        cluster: &fleet.name,
        wanted: fleet.coordinators,
        current: observation.stateful_set().map(|set| set.number("/spec/replicas").unwrap_or(1)),
        membership,
        pods: &pods.keys().copied().collect(),
        running: &pods.iter().filter(|(_, pod)| runs(pod)).map(|(ordinal, _)| *ordinal).collect(),
        claims: &claims,
        member_high_water: observation.member_high_water(),
    })
}

pub(crate) fn next_rollout_step(
    observation: &Observation,
    fleet: &ValidatedCluster,
    membership: Option<&Membership>,
    scale: &scale::Plan,
    cache: &mut ClusterCache,
) -> rollout::Step {
    if !observation.template_seen() {
        return rollout::Step::Settling("the StatefulSet controller has not seen the newest template yet".into());
    }
    let pods = observation.coordinator_pods();
    // A pod that is no longer in the cache need not be remembered.
    cache.evicting = cache.evicting.take().filter(|uid| pods.values().any(|pod| pod.uid == *uid));
    rollout::next(&rollout::View {
        replicas: scale.replicas,
        pods: &pods,
        membership,
        durable: fleet.storage.is_some(),
        members_settled: scale.step == scale::Step::Settled,
        evicting: cache.evicting.as_deref(),
    })
}

/// Sends the desired sizes of the pools to the coordinators, if they don't have them.
pub(crate) async fn size_pools(
    observation: &Observation,
    fleet: &ValidatedCluster,
    context: &Context,
    cache: &mut ClusterCache,
) -> Result<(), coordinators::Error> {
    let Ok(answer) = &observation.fleet else { return Ok(()) };
    // This includes pools that are not built: their existing agents keep running.
    let size = |pool: &Pool| v1::PoolSize {
        name: pool.name.clone(),
        replicas: if fleet.suspend { Some(0) } else { observation.cluster.spec.replicas_of(pool) },
        standby: if fleet.suspend { 0 } else { pool.standby },
    };
    let wanted: Vec<v1::PoolSize> = observation.cluster.spec.pools.iter().map(size).collect();
    let known = |pool: &v1::PoolSize| {
        let known = answer.status.pools.iter().find(|known| known.name == pool.name);
        known.is_some_and(|known| pool.replicas.is_none_or(|replicas| known.desired == replicas))
    };
    if cache.pools.as_ref() == Some(&wanted) && wanted.iter().all(known) {
        return Ok(());
    }
    context.coordinators.set_pools(&answer.from, &cache.identity.security(), wanted.clone()).await?;
    cache.pools = Some(wanted);
    Ok(())
}

/// Before a pool shrinks, annotates each of its pods with the number of tasks that its deletion would disturb, so that
/// idle pods are deleted first. Returns the refusals, which do not prevent a pool from shrinking.
pub(crate) async fn set_deletion_costs(
    observation: &Observation,
    fleet: &ValidatedCluster,
    context: &Context,
    cache: &mut ClusterCache,
) -> Result<Vec<apply::Error>, Error> {
    let mut refused = Vec::new();
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
            let work = async {
                match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
                    Err(error) if !apply::is_gone(&error) => Err(apply::Error::of("annotate", "Pod", &name, error)),
                    _ => Ok(()),
                }
            };
            match apply::unless_refused(&mut cache.refusals, ("Pod", &name, || ANNOTATING), work).await {
                Err(error) if error.is_unreachable() => Err(error)?,
                Err(error) => refused.push(error),
                Ok(()) => {}
            }
        }
    }
    Ok(refused)
}

/// Numbers that identify the requests about pods and claims, which may be refused.
const ANNOTATING: u64 = 1;
const DELETING: u64 = 2;
const GROWING: u64 = 3;

/// Deletes the object of that name if it still has this uid, unless that was refused recently.
async fn delete_seen<K: kube::Resource<DynamicType = ()>>(
    context: &Context,
    fleet: &ValidatedCluster,
    (name, uid): (&str, Option<String>),
    cache: &mut ClusterCache,
) -> Result<(), apply::Error> {
    let kind = ApiResource::erase::<K>(&());
    let work = apply::delete_exactly(&context.client, &fleet.namespace, &kind, name, uid);
    apply::unless_refused(&mut cache.refusals, (&kind.kind, name, || DELETING), work).await
}

/// Enlarges the coordinators' claims if the spec asks for larger disks, since the claim templates of a StatefulSet
/// can't be changed. Returns the refusals.
pub(crate) async fn grow_disks(
    observation: &Observation,
    fleet: &ValidatedCluster,
    context: &Context,
    cache: &mut ClusterCache,
) -> Result<Vec<apply::Error>, Error> {
    let mut refused = Vec::new();
    let Some(wanted) = fleet.storage.as_ref().map(|storage| &storage.size) else { return Ok(refused) };
    let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), &fleet.namespace);
    for claim in &observation.claims {
        let name = claim.name_any();
        if !is_to_grow(claim, &fleet.name, wanted) {
            continue;
        }
        let patch = json!({"spec": {"resources": {"requests": {"storage": wanted}}}});
        let parameters = PatchParams { field_manager: Some(names::OPERATOR.into()), ..PatchParams::default() };
        let work = async {
            tracing::info!(cluster = fleet.name, name, size = wanted.0, "requesting a larger disk");
            match api.patch(&name, &parameters, &Patch::Merge(patch)).await {
                Err(error) if !apply::is_gone(&error) => {
                    Err(apply::Error::of("enlarge", "PersistentVolumeClaim", &name, error))
                }
                _ => Ok(()),
            }
        };
        let wish = || apply::fingerprint_of(&(GROWING, wanted));
        match apply::unless_refused(&mut cache.refusals, ("PersistentVolumeClaim", &name, wish), work).await {
            Err(error) if error.is_unreachable() => Err(error)?,
            Err(error) => refused.push(error),
            Ok(()) => {}
        }
    }
    Ok(refused)
}

/// Returns whether a claim belongs to a coordinator, is bound, and requests less than desired. The API server does not
/// enlarge a claim that is not bound yet.
fn is_to_grow(claim: &PersistentVolumeClaim, cluster: &str, wanted: &Quantity) -> bool {
    let name = claim.name_any();
    let ordinal = name.strip_prefix(names::DATA_VOLUME).and_then(|rest| rest.strip_prefix('-'));
    let is_ours = ordinal.and_then(|name| names::ordinal(cluster, name)).is_some();
    let is_bound = claim.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Bound");
    let grows = quantity::requested(claim).is_some_and(|known| quantity::is_less(known, wanted));
    is_ours && is_bound && grows && claim.metadata.deletion_timestamp.is_none()
}

/// The result of a step. The inner error is that of a call to a coordinator, the outer one that of a request to the API
/// server.
pub(crate) type Asked = Result<Result<(), coordinators::Error>, apply::Error>;

/// Adds or removes a voter, or deletes the disk of a removed one.
pub(crate) async fn scale_step(
    observation: &Observation,
    fleet: &ValidatedCluster,
    step: &scale::Step,
    context: &Context,
    cache: &mut ClusterCache,
) -> Asked {
    let name = |ordinal: u32| names::coordinator(&fleet.name, ordinal);
    let from = observation.fleet.as_ref().map(|answer| answer.from.clone()).unwrap_or_default();
    match *step {
        scale::Step::Settled | scale::Step::Wait(_) => Ok(Ok(())),
        scale::Step::Add(ordinal) => {
            tracing::info!(cluster = fleet.name, name = name(ordinal), "adding a coordinator");
            let address = names::coordinator_address(&fleet.name, &fleet.namespace, ordinal);
            Ok(context.coordinators.add(&from, &cache.identity.security(), name(ordinal), address).await)
        }
        scale::Step::Remove(ordinal) => {
            tracing::info!(cluster = fleet.name, name = name(ordinal), "removing a coordinator");
            Ok(context.coordinators.remove(&from, &cache.identity.security(), name(ordinal)).await)
        }
        scale::Step::DeleteClaim(ordinal) => {
            let claim = names::claim(&fleet.name, ordinal);
            let seen = observation.claims.iter().find(|seen| seen.name_any() == claim);
            if let Some(seen) = seen.filter(|seen| seen.metadata.deletion_timestamp.is_none()) {
                tracing::info!(cluster = fleet.name, claim, "deleting the disk of a coordinator that was removed");
                delete_seen::<PersistentVolumeClaim>(context, fleet, (&claim, seen.uid()), cache).await?;
            }
            Ok(Ok(()))
        }
    }
}

/// Replaces a coordinator's pod, or transfers leadership to another coordinator.
pub(crate) async fn rollout_step(
    observation: &Observation,
    fleet: &ValidatedCluster,
    step: &rollout::Step,
    context: &Context,
    cache: &mut ClusterCache,
) -> Asked {
    match step {
        rollout::Step::Replace { pod, uid } => {
            tracing::info!(cluster = fleet.name, pod, "replacing a coordinator");
            delete_seen::<Pod>(context, fleet, (pod, Some(uid.clone())), cache).await?;
            cache.evicting = Some(uid.clone());
            Ok(Ok(()))
        }
        rollout::Step::Transfer { to } => {
            tracing::info!(cluster = fleet.name, to, "transferring leadership");
            let from = observation.fleet.as_ref().map(|answer| answer.from.clone()).unwrap_or_default();
            Ok(context.coordinators.transfer(&from, &cache.identity.security(), to.clone()).await)
        }
        rollout::Step::Done | rollout::Step::Settling(_) | rollout::Step::Wait(_) | rollout::Step::Paused { .. } => {
            Ok(Ok(()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_disk_that_is_there_and_too_small_is_enlarged() {
        let grows = |name: &str, phase: &str, size: &str| {
            let claim = json!({
                "metadata": {"name": name}, "spec": {"resources": {"requests": {"storage": size}}}, "status": {"phase": phase},
            });
            is_to_grow(&serde_json::from_value(claim).expect("a claim"), "fleet", &Quantity("2Gi".into()))
        };
        assert!(grows("data-fleet-coordinators-0", "Bound", "1Gi"));
        assert!(!grows("data-fleet-coordinators-0", "Pending", "1Gi"), "the API server would refuse it");
        assert!(
            !grows("data-fleet-coordinators-0", "Bound", "2Gi") && !grows("data-fleet-coordinators-0", "Bound", "3Gi")
        );
        assert!(!grows("data-other-coordinators-0", "Bound", "1Gi"));
    }
}
