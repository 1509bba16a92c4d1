//! Fleets on Kubernetes: finds the coordinators' pods of a `RobeingCluster` with what kubectl knows of the API server,
//! and makes a client whose connections are port-forwards through it. No port is opened on this machine. It knows the
//! labels of coordinators and their port, and nothing else of how the operator builds them.

mod access;
mod api;
mod choice;
mod error;
mod forward;

use std::{path::PathBuf, sync::Arc};

pub use api::{Condition, Resource};
pub use error::KubernetesError;
use robeing_client::{FleetClient, Settings};

use self::{
    access::ApiServer,
    choice::Need,
    forward::{Coordinators, FORWARD_TIMEOUT},
};

/// Which `RobeingCluster`, and by whose rights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// The kubeconfig; without it kubectl's, or the service account's of the pod this runs in.
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig; its current one unless given.
    pub context: Option<String>,
    /// The namespace; the context's unless given.
    pub namespace: Option<String>,
    /// The name of the resource; may be left out where the namespace has one alone.
    pub cluster: Option<String>,
}

/// A fleet that was found.
#[derive(Debug)]
pub struct Found {
    /// A client of it.
    pub client: FleetClient,
    /// The resource that describes it, as it was when it was found.
    pub resource: Resource,
}

/// The resource that is meant, without a word from its coordinators.
///
/// # Errors
/// Why it is not found.
pub async fn resource(place: &Location, settings: &Settings) -> Result<Resource, KubernetesError> {
    Ok(described(place, settings).await?.1)
}

async fn described(place: &Location, settings: &Settings) -> Result<(ApiServer, Resource), KubernetesError> {
    let server = ApiServer::new(place, settings.request_timeout).await?;
    let name = match &place.cluster {
        Some(name) => name.clone(),
        None => server.only_cluster().await?,
    };
    let resource = server.cluster(&name).await?;
    Ok((server, resource))
}

/// Finds the fleet and forwards a first connection to one of its coordinators: to the leader where that is known. With
/// `any` a coordinator that is not ready will do, too, where none is: what it knows may be old.
///
/// # Errors
/// Why there is no connection. Later failures are retried with the calls of the client.
pub async fn find(place: &Location, any: bool, settings: Settings) -> Result<Found, KubernetesError> {
    let (server, resource) = described(place, &settings).await?;
    let name = resource.metadata.name.clone();
    let need = if any { Need::Running } else { Need::Ready };
    let pods = server.coordinators(&name).await?;
    let slots = choice::slots(&pods, resource.spec.coordinators.replicas);
    let first = choice::first(&pods, resource.status.leader.as_deref());
    if choice::pick(&pods, first, need).is_none() {
        return Err(KubernetesError::NoCoordinator {
            namespace: server.namespace().into(),
            name,
            why: choice::why_none(&pods, &resource),
        });
    }
    let coordinators = Arc::new(Coordinators::new(server, name, need));
    let mut slot = first;
    let opened = loop {
        match coordinators.forward(slot, FORWARD_TIMEOUT).await {
            Ok(opened) => break opened,
            Err(error) if error.is_final() || (slot + 1) % slots == first % slots => return Err(error),
            Err(_) => slot = (slot + 1) % slots,
        }
    };
    coordinators.keep(opened);
    let client = FleetClient::over(&coordinators.to_string(), coordinators, slots, slot % slots, settings);
    Ok(Found { client, resource })
}

#[cfg(test)]
mod tests;
