//! The Services of the coordinators and of the messengers' gateways, and the ConfigMap with their initial membership.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{ConfigMap, Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{coordinators, metadata, pool};
use crate::{
    controller::validate::ValidatedCluster,
    names::{self, Component, GRPC_PORT, METRICS_PORT},
};

/// Returns the Service that gives every coordinator a DNS name, even before it is ready: they find each other by these
/// names at the first start.
pub(super) fn headless(fleet: &ValidatedCluster) -> Service {
    let mut service = service(fleet, names::coordinators(&fleet.name));
    if let Some(spec) = &mut service.spec {
        spec.cluster_ip = Some("None".into());
        spec.publish_not_ready_addresses = Some(true);
        spec.ports.get_or_insert_default().push(port("metrics", METRICS_PORT));
    }
    service
}

/// Returns the Service that users and agents connect to: any ready coordinator.
pub(super) fn client(fleet: &ValidatedCluster) -> Service {
    service(fleet, fleet.name.clone())
}

/// Returns the Service that HTTP clients connect to: the gateway of any ready messenger. `None` if no pool serves one.
pub(super) fn gateway(fleet: &ValidatedCluster) -> Option<Service> {
    fleet.pools.iter().find(|pool| pool::has_gateway(fleet, pool))?;
    let mut metadata = metadata(fleet, names::gateway(&fleet.name));
    metadata.labels = Some(names::component_labels(&fleet.name, Component::Agent, None));
    let port = ServicePort {
        name: Some("gateway".into()),
        port: names::GATEWAY_PORT,
        protocol: Some("TCP".into()),
        target_port: Some(IntOrString::String(names::AGENT_GATEWAY.into())),
        app_protocol: Some("https".into()),
        ..ServicePort::default()
    };
    let mut selector = names::selector(&fleet.name, Component::Agent, None);
    selector.insert(names::LABEL_GATEWAY.to_owned(), "true".to_owned());
    let spec = ServiceSpec {
        type_: Some("ClusterIP".into()),
        selector: Some(selector),
        ports: Some(vec![port]),
        ..ServiceSpec::default()
    };
    Some(Service { metadata, spec: Some(spec), status: None })
}

fn service(fleet: &ValidatedCluster, name: String) -> Service {
    let mut metadata = metadata(fleet, name);
    metadata.labels = Some(names::component_labels(&fleet.name, Component::Coordinator, None));
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".into()),
            selector: Some(names::selector(&fleet.name, Component::Coordinator, None)),
            ports: Some(vec![port("grpc", GRPC_PORT)]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn port(name: &str, number: i32) -> ServicePort {
    ServicePort {
        name: Some(name.into()),
        port: number,
        protocol: Some("TCP".into()),
        target_port: Some(IntOrString::String(name.into())),
        app_protocol: (number == GRPC_PORT).then(|| "kubernetes.io/h2c".into()),
        ..ServicePort::default()
    }
}

/// Returns the ConfigMap with the initial membership. It is separate from the pod template, so that changing the number
/// of coordinators restarts none of them.
pub(super) fn first_membership(fleet: &ValidatedCluster) -> ConfigMap {
    let data = BTreeMap::from([(names::INITIAL_COORDINATORS.to_owned(), coordinators::first_membership(fleet))]);
    ConfigMap { metadata: metadata(fleet, names::coordinators(&fleet.name)), data: Some(data), ..ConfigMap::default() }
}
