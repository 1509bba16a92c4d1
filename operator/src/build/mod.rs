//! The objects of a fleet, as they should be. Pure: a validated fleet goes in, objects come out, one file for each kind of
//! object. Pod templates are golden-tested, because a change here restarts every fleet when the operator is upgraded.

mod access;
mod coordinators;
mod defaults;
mod pod;
mod pool;
mod pull;
mod services;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::{
    Resource,
    api::{ApiResource, DynamicObject},
};
use robeing_crds::{API_VERSION, KIND};
use serde::Serialize;

pub use coordinators::{EPHEMERAL_WARNING, first_membership};
pub use pod::AGENT_VOLUME;

use crate::{names, validate::Fleet};

/// An object as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// What it is.
    pub kind: ApiResource,
    /// The object, as it is applied.
    pub object: DynamicObject,
}

impl Desired {
    /// Its name.
    pub fn name(&self) -> &str {
        self.object.metadata.name.as_deref().unwrap_or_default()
    }
}

/// The object could not be written down.
#[derive(Debug, thiserror::Error)]
#[error("the desired {kind} {name} has no JSON form: {source}")]
pub struct Error {
    kind: String,
    name: String,
    source: serde_json::Error,
}

/// All objects of a fleet, in the order in which they are applied. `coordinators` is how many coordinator pods there should
/// be now; while a voter is being removed that is more than the spec says. `joined` is what [`crate::scale::Plan::joined`] is
/// about.
pub fn build(fleet: &Fleet, coordinators: u32, joined: u32) -> Result<Vec<Desired>, Error> {
    let mut objects = Vec::new();
    if fleet.coordinator_template.service_account_name.is_none() {
        objects.push(desired(&access::coordinators_account(fleet))?);
    }
    objects.extend([
        desired(&services::first_membership(fleet))?,
        desired(&services::headless(fleet))?,
        desired(&services::client(fleet))?,
        desired(&access::coordinators_policy(fleet))?,
        desired(&access::agents_policy(fleet))?,
        desired(&coordinators::stateful_set(fleet, coordinators, joined))?,
    ]);
    if let Some(budget) = coordinators::disruption_budget(fleet) {
        objects.push(desired(&budget)?);
    }
    for pool in &fleet.pools {
        if pool.template.service_account_name.is_none() {
            objects.push(desired(&access::pool_account(fleet, pool))?);
        }
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
    Ok(Desired { kind, object })
}

/// The metadata of an object of the fleet that is not of one component.
fn metadata(fleet: &Fleet, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(fleet.namespace.clone()),
        labels: Some(names::labels(&fleet.name)),
        owner_references: Some(vec![OwnerReference {
            api_version: API_VERSION.to_owned(),
            kind: KIND.to_owned(),
            name: fleet.name.clone(),
            uid: fleet.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }]),
        ..ObjectMeta::default()
    }
}
