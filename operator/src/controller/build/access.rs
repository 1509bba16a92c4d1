//! Access control: ServiceAccounts, and NetworkPolicies.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        core::v1::ServiceAccount,
        networking::v1::{
            NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
        },
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{metadata, pool};
use crate::{
    controller::validate::{FleetPool, ValidatedCluster},
    names::{self, Component, LABEL_COMPONENT, LABEL_INSTANCE, LABEL_NAME},
};

/// The label that every namespace has, with its name.
const NAMESPACE_NAME: &str = "kubernetes.io/metadata.name";

pub(super) fn coordinators_account(fleet: &ValidatedCluster) -> ServiceAccount {
    account(fleet, names::coordinators(&fleet.name))
}

pub(super) fn pool_account(fleet: &ValidatedCluster, pool: &FleetPool) -> ServiceAccount {
    account(fleet, names::pool(&fleet.name, &pool.name))
}

/// Returns a ServiceAccount whose token is not mounted: the volumes of pods contain the tokens that their processes
/// need.
pub(super) fn account(fleet: &ValidatedCluster, name: String) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(fleet, name),
        automount_service_account_token: Some(false),
        ..ServiceAccount::default()
    }
}

/// The labels of the operator's pods, as the chart sets them, whatever the name of its release.
const OPERATOR: [(&str, &str); 2] = [(LABEL_NAME, "robeing-operator"), (LABEL_COMPONENT, "operator")];

/// Coordinators accept calls from the cluster's namespace, which contains agents and users, and from the operator.
pub(super) fn coordinators_policy(fleet: &ValidatedCluster) -> NetworkPolicy {
    let operator = LabelSelector {
        match_labels: Some(BTreeMap::from([(NAMESPACE_NAME.to_owned(), fleet.operator_namespace.clone())])),
        ..LabelSelector::default()
    };
    let ports = [names::GRPC_PORT, names::METRICS_PORT].map(IntOrString::Int);
    let from = vec![
        NetworkPolicyPeer { pod_selector: Some(LabelSelector::default()), ..NetworkPolicyPeer::default() },
        NetworkPolicyPeer {
            namespace_selector: Some(operator),
            pod_selector: Some(labelled(OPERATOR)),
            ..NetworkPolicyPeer::default()
        },
    ];
    policy(fleet, names::coordinators(&fleet.name), Component::Coordinator, from, ports)
}

/// Agents accept calls only from their coordinators, which probe whether a process is gone, and from the agents of the
/// same fleet, which send messages. The gateways of messengers accept clients from the cluster's namespace; for others,
/// such as an ingress controller, the user adds a policy. The policy has the names of the ports, since each pool may have its own port
/// numbers, at which something else may listen in the pods of another pool.
pub(super) fn agents_policy(fleet: &ValidatedCluster) -> NetworkPolicy {
    let ports = [names::AGENT_GRPC, names::AGENT_METRICS].map(|name| IntOrString::String(name.into()));
    let from = [Component::Coordinator, Component::Agent]
        .map(|of| NetworkPolicyPeer { pod_selector: Some(component(fleet, of)), ..NetworkPolicyPeer::default() });
    let mut policy = policy(fleet, names::agents(&fleet.name), Component::Agent, from.into(), ports);
    if fleet.pools.iter().any(|of| pool::has_gateway(fleet, of)) {
        let namespace = NetworkPolicyPeer { pod_selector: Some(LabelSelector::default()), ..Default::default() };
        let port = IntOrString::String(names::AGENT_GATEWAY.into());
        let rules = policy.spec.get_or_insert_default().ingress.get_or_insert_default();
        rules.push(rule(port, Some(vec![namespace])));
    }
    policy
}

fn component(fleet: &ValidatedCluster, component: Component) -> LabelSelector {
    labelled([(LABEL_NAME, names::APP), (LABEL_INSTANCE, &fleet.name), (LABEL_COMPONENT, component.label())])
}

fn labelled<const N: usize>(pairs: [(&str, &str); N]) -> LabelSelector {
    let labels = pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    LabelSelector { match_labels: Some(labels), ..LabelSelector::default() }
}

fn policy(
    fleet: &ValidatedCluster,
    name: String,
    of: Component,
    from: Vec<NetworkPolicyPeer>,
    [grpc, metrics]: [IntOrString; 2],
) -> NetworkPolicy {
    NetworkPolicy {
        metadata: metadata(fleet, name),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(component(fleet, of)),
            policy_types: Some(vec!["Ingress".into()]),
            // Metrics contain no secrets, and it is not known here who scrapes them.
            ingress: Some(vec![rule(grpc, Some(from)), rule(metrics, None)]),
            egress: None,
        }),
    }
}

fn rule(port: IntOrString, from: Option<Vec<NetworkPolicyPeer>>) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule {
        from,
        ports: Some(vec![NetworkPolicyPort { port: Some(port), protocol: Some("TCP".into()), end_port: None }]),
    }
}
