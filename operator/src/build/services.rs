//! The Services of the coordinators, and the ConfigMap with their first membership.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::core::v1::{ConfigMap, Service, ServicePort, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::{coordinators, metadata};
use crate::{
    names::{self, Component, GRPC_PORT, METRICS_PORT},
    validate::ValidatedCluster,
};

/// Gives every coordinator a DNS name, also before it is ready: they find each other by it at the first start.
pub(super) fn headless(fleet: &ValidatedCluster) -> Service {
    let mut service = service(fleet, names::coordinators(&fleet.name));
    if let Some(spec) = &mut service.spec {
        spec.cluster_ip = Some("None".into());
        spec.publish_not_ready_addresses = Some(true);
        spec.ports.get_or_insert_default().push(port("metrics", METRICS_PORT));
    }
    service
}

/// What users and agents connect to: any coordinator that is ready.
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

/// Apart from the pod template, so that another number of coordinators restarts none of them.
pub(super) fn first_membership(fleet: &ValidatedCluster) -> ConfigMap {
    let data = BTreeMap::from([(names::INITIAL_COORDINATORS.to_owned(), coordinators::first_membership(fleet))]);
    ConfigMap { metadata: metadata(fleet, names::coordinators(&fleet.name)), data: Some(data), ..ConfigMap::default() }
}
