//! The desired objects of a fleet. Pure: it takes a validated fleet and returns objects, with one file for each kind of
//! object. Pod templates have golden tests, because a change to them restarts every fleet when the operator is
//! upgraded.

mod access;
mod coordinators;
mod defaults;
mod identity;
mod journal;
mod pod;
mod pool;
mod pull;
mod rights;
mod services;
mod storage;
mod webhooks;

use std::collections::BTreeSet;

pub use coordinators::{EPHEMERAL_WARNING, first_membership};
pub use identity::{COORDINATOR_VOLUMES, SecretContent, secret};
use k8s_openapi::{
    api::core::v1::ServiceAccount,
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Resource,
    api::{ApiResource, DynamicObject},
};
pub use pod::AGENT_VOLUME;
use robeing_crds::{API_VERSION, KIND};
use serde::Serialize;

use crate::{controller::validate::ValidatedCluster, names};

/// A desired object.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// The object's kind.
    pub kind: ApiResource,
    /// The object, as it is applied.
    pub object: DynamicObject,
    /// Whether an existing object of that name that belongs to someone else is sufficient.
    pub yields: bool,
}

impl Desired {
    /// Returns the object's name.
    pub fn name(&self) -> &str {
        self.object.metadata.name.as_deref().unwrap_or_default()
    }
}

/// A desired object could not be serialized.
#[derive(Debug, thiserror::Error)]
#[error("the desired {kind} {name} can't be serialized to JSON: {source}")]
pub struct Error {
    kind: String,
    name: String,
    source: serde_json::Error,
}

/// Returns all objects of a fleet, in the order in which they are applied. `coordinators` is how many coordinator pods
/// there should be now; while a voter is being removed, that is more than in the spec. `member_high_water` is
/// [`crate::quorum::scale::Plan::member_high_water`].
pub fn build(fleet: &ValidatedCluster, coordinators: u32, member_high_water: u32) -> Result<Vec<Desired>, Error> {
    let mut objects = Vec::new();
    // The account that a template names may be one that is created here, or one that the user provides.
    let pools = fleet.pools.iter().map(|pool| &pool.template);
    let templates = pools.chain([&fleet.coordinator_template]).map(|template| &template.service_account_name);
    let accounts = templates.chain(fleet.refused.iter().map(|pool| &pool.account));
    let named: BTreeSet<&str> = accounts.filter_map(Option::as_deref).collect();
    let account = |own: Option<&String>, account: &ServiceAccount| -> Result<Option<Desired>, Error> {
        let is_named = account.metadata.name.as_deref().is_some_and(|name| named.contains(name));
        if own.is_some() && !is_named {
            return Ok(None);
        }
        Ok(Some(Desired { yields: own.is_some(), ..desired(account)? }))
    };
    let own = fleet.coordinator_template.service_account_name.as_ref();
    objects.extend(account(own, &access::coordinators_account(fleet))?);
    // Before the trusted authorities: a client that can read those expects that the accounts exist.
    objects.extend(rights::of_people(fleet)?);
    if let Some(trust) = identity::trust(fleet) {
        objects.push(desired(&trust)?);
    }
    objects.extend(rights::of_coordinators(fleet)?);
    objects.extend([
        desired(&services::first_membership(fleet))?,
        desired(&services::headless(fleet))?,
        desired(&services::client(fleet))?,
        desired(&access::coordinators_policy(fleet))?,
        desired(&access::agents_policy(fleet))?,
        desired(&coordinators::stateful_set(fleet, coordinators, member_high_water))?,
    ]);
    if let Some(gateway) = services::gateway(fleet) {
        objects.push(desired(&gateway)?);
    }
    if let Some(budget) = coordinators::disruption_budget(fleet) {
        objects.push(desired(&budget)?);
    }
    for pool in &fleet.pools {
        let own = pool.template.service_account_name.as_ref();
        objects.extend(account(own, &access::pool_account(fleet, pool))?);
        objects.push(desired(&pool::deployment(fleet, pool))?);
    }
    Ok(objects)
}

fn desired<K: Resource<DynamicType = ()> + Serialize>(typed: &K) -> Result<Desired, Error> {
    let kind = ApiResource::erase::<K>(&());
    let failed =
        |source| Error { kind: kind.kind.clone(), name: typed.meta().name.clone().unwrap_or_default(), source };
    let value = serde_json::to_value(typed).map_err(failed)?;
    let object = serde_json::from_value(value).map_err(failed)?;
    Ok(Desired { kind, object, yields: false })
}

/// Returns the metadata of an object of the fleet that does not belong to one component.
fn metadata(fleet: &ValidatedCluster, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(fleet.namespace.clone()),
        labels: Some(names::labels(&fleet.name)),
        owner_references: Some(vec![owner(&fleet.name, &fleet.uid)]),
        ..ObjectMeta::default()
    }
}

/// Returns the reference to a cluster with which the garbage collector deletes an object.
fn owner(cluster: &str, uid: &str) -> OwnerReference {
    OwnerReference {
        api_version: API_VERSION.to_owned(),
        kind: KIND.to_owned(),
        name: cluster.to_owned(),
        uid: uid.to_owned(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}
