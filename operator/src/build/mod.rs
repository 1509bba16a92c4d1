//! The objects of a fleet, as they should be. Pure: a validated fleet goes in, objects come out, one file for each kind of
//! object. Pod templates are golden-tested, because a change here restarts every fleet when the operator is upgraded.

mod access;
mod coordinators;
mod defaults;
mod pod;
mod pool;
mod pull;
mod services;

use std::collections::BTreeSet;

pub use coordinators::{EPHEMERAL_WARNING, first_membership};
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

use crate::{names, validate::ValidatedCluster};

/// An object as it should be.
#[derive(Clone, Debug, PartialEq)]
pub struct Desired {
    /// What it is.
    pub kind: ApiResource,
    /// The object, as it is applied.
    pub object: DynamicObject,
    /// Where somebody else has an object of the name, theirs will do.
    pub yields: bool,
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
/// be now; while a voter is being removed that is more than the spec says. `member_high_water` is what [`crate::scale::Plan::member_high_water`] is
/// about.
pub fn build(fleet: &ValidatedCluster, coordinators: u32, member_high_water: u32) -> Result<Vec<Desired>, Error> {
    let mut objects = Vec::new();
    // Whose name a template has may be an account that is made here, or one that somebody brings.
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
    objects.extend([
        desired(&services::first_membership(fleet))?,
        desired(&services::headless(fleet))?,
        desired(&services::client(fleet))?,
        desired(&access::coordinators_policy(fleet))?,
        desired(&access::agents_policy(fleet))?,
        desired(&coordinators::stateful_set(fleet, coordinators, member_high_water))?,
    ]);
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

/// The metadata of an object of the fleet that is not of one component.
fn metadata(fleet: &ValidatedCluster, name: String) -> ObjectMeta {
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
