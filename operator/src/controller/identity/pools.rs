//! The Secrets with the join secrets of pools.

use kube::ResourceExt;

use super::{
    asked, fleet_time,
    join::{self, JoinState},
    secrets, store, unmade, wall,
};
use crate::{
    controller::{ClusterCache, Context, apply, observe::Observation, validate::Proof},
    names,
};

/// Makes, rotates and deletes the join secrets of the pools. They exist where agents prove themselves with them, and
/// until no agent does any more.
///
/// # Errors
/// If the API server refuses one, or is not reachable.
pub(super) async fn keep_secrets(
    observation: &Observation,
    context: &Context,
    cache: &mut ClusterCache,
    proof: Proof,
) -> Result<(), apply::Error> {
    let cluster = &observation.cluster;
    let secrets = secrets(cluster, context);
    let identity = &mut cache.identity;
    let Some((mut state, version)) = identity.authority.clone() else { return Ok(()) };
    let is_needed = proof == Proof::JoinSecret || (!state.join_pools.is_empty() && observation.has_join_secrets());
    let pools = cluster.spec.pools.iter().map(|pool| pool.name.clone());
    let wanted: Vec<String> = pools.filter(|_| is_needed).collect();
    let added: Vec<String> = wanted.iter().filter(|pool| !state.join_pools.contains(pool)).cloned().collect();
    if !added.is_empty() {
        // It is recorded first, so that a Secret of which nobody knows is never left.
        state.join_pools.extend(added);
        if !store(secrets, identity, state, version).await? {
            return Ok(());
        }
    } else if state.join_pools.iter().any(|pool| !wanted.contains(pool)) {
        for gone in state.join_pools.iter().filter(|pool| !wanted.contains(pool)) {
            secrets.delete(&names::join(secrets.cluster, gone)).await?;
            identity.joins.remove(gone);
        }
        state.join_pools.retain(|pool| wanted.contains(pool));
        if !store(secrets, identity, state, version).await? {
            return Ok(());
        }
    }
    let fleet = observation.fleet.as_ref().ok().and_then(|answer| fleet_time(&answer.status));
    let (now, asked) = (fleet.unwrap_or_else(wall), asked(cluster));
    for pool in &wanted {
        let name = names::join(secrets.cluster, pool);
        let (mut known, mut version) = match identity.joins.remove(pool) {
            Some((known, version)) => (Some(known), Some(version)),
            None => {
                let found = secrets.get_own(&name).await?;
                (found.as_ref().and_then(JoinState::from_secret), found.and_then(|found| found.resource_version()))
            }
        };
        let step = known.as_ref().map_or(join::Step::Stamp, |known| join::step(known, now, asked));
        if step != join::Step::Rest || version.is_none() {
            let next = match known {
                Some(known) => known.after(step, now, asked),
                None => JoinState::new(now, asked),
            };
            let next = next.map_err(unmade)?;
            version = secrets.write(&name, version.as_deref(), &next.to_secret()).await?;
            known = Some(next);
        }
        if let (Some(known), Some(version)) = (known, version) {
            identity.joins.insert(pool.clone(), (known, version));
        }
    }
    Ok(())
}
