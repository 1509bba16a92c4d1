//! Fleets on Kubernetes: finds the coordinator pods of a `RobeingCluster` with the user's kubeconfig, and creates a
//! client whose connections are port-forwards through the API server. No port is opened on this machine. Of what the
//! operator creates, this module only knows the labels of coordinators and their port, the ConfigMap with the trusted
//! authorities, and the names of the ServiceAccounts for people.

mod access;
mod api;
mod choice;
mod credentials;
mod error;
mod forward;

use std::{path::PathBuf, sync::Arc};

pub use api::{Condition, Resource};
pub use credentials::{Access, Credentials};
pub use error::KubernetesError;
use robeing_client::{FleetClient, Settings};

use self::{
    access::ApiServer,
    choice::Need,
    forward::{Coordinators, FORWARD_TIMEOUT},
};

/// Identifies a `RobeingCluster`, and the credentials to access it with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Location {
    /// The kubeconfig file. If unset, the ones that kubectl uses, or the service account of the pod that this runs in.
    pub kubeconfig: Option<PathBuf>,
    /// The context of the kubeconfig. If unset, its current context.
    pub context: Option<String>,
    /// The namespace. If unset, the context's.
    pub namespace: Option<String>,
    /// The name of the `RobeingCluster`. Can be unset if the namespace has only one.
    pub cluster: Option<String>,
    /// The ServiceAccount whose token is requested. If unset, the one that the operator made for the access.
    pub service_account: Option<String>,
}

/// A fleet that was found.
#[derive(Debug)]
pub struct Found {
    /// A client of the fleet.
    pub client: FleetClient,
    /// The `RobeingCluster`, as it was when it was found.
    pub resource: Resource,
}

/// Reads the selected `RobeingCluster`, without contacting its coordinators.
///
/// # Errors
/// Why it could not be read.
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

/// Obtains the credentials for the fleet, without contacting its coordinators.
///
/// # Errors
/// Why there are none. Later failures to renew them are reported by calls.
pub async fn credentials(
    place: &Location,
    access: Access,
    settings: &Settings,
) -> Result<Credentials, KubernetesError> {
    let (server, resource) = described(place, settings).await?;
    obtained(&Arc::new(server), &resource, place, access).await
}

async fn obtained(
    server: &Arc<ApiServer>,
    resource: &Resource,
    place: &Location,
    access: Access,
) -> Result<Credentials, KubernetesError> {
    let account = place.service_account.clone().unwrap_or_else(|| access.account(&resource.metadata.name));
    Credentials::obtain(server, resource, account).await
}

/// Finds the fleet and opens a first connection to one of its coordinators: the leader if it is known. With `any`, a
/// coordinator that is not ready is used if none is ready; its state may be stale. The security of the settings is
/// replaced by the credentials that the access requires.
///
/// # Errors
/// Why there is no connection. Later failures are retried by the client's calls.
pub async fn find(place: &Location, access: Access, any: bool, settings: Settings) -> Result<Found, KubernetesError> {
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
    let server = Arc::new(server);
    let credentials = obtained(&server, &resource, place, access).await?;
    let settings = Settings { security: credentials.security().clone(), ..settings };
    let coordinators = Arc::new(Coordinators::new(server, name, need, credentials));
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
