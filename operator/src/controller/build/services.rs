//! The Services of the coordinators, and the ConfigMap with their initial membership.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{ConfigMap, Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{coordinators, metadata};
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
