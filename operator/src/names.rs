//! The names, labels and ports of everything that is made for a cluster. Pure; what is here is what selectors of running
//! fleets already say, so that a change would orphan them.

use std::collections::BTreeMap;

/// `app.kubernetes.io/name` of everything the operator makes.
pub const APP: &str = "robeing";
/// `app.kubernetes.io/managed-by` of everything the operator makes, and its field manager.
pub const OPERATOR: &str = "robeing-operator";
/// The field manager under which the size of a pool is said that is left to others from now on.
pub const HANDOVER: &str = "robeing-operator-handover";
/// The field manager of what a server-side apply alone can't put back. It owns nothing for long.
pub const REPAIR: &str = "robeing-operator-repair";
/// The label with the application's name.
pub const LABEL_NAME: &str = "app.kubernetes.io/name";
/// The label with the cluster's name.
pub const LABEL_INSTANCE: &str = "app.kubernetes.io/instance";
/// The label that tells coordinators from agents.
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// The label that says who keeps an object.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The label with a pool's name.
pub const LABEL_POOL: &str = "robeing.io/pool";
/// On the StatefulSet: below which ordinal disks are those of coordinators that were members.
pub const ANNOTATION_JOINED: &str = "robeing.io/joined-coordinators";
/// On the StatefulSet of a cluster whose spec names no image: the image it was made with, which it keeps.
pub const ANNOTATION_DEFAULT_IMAGE: &str = "robeing.io/default-image";
/// Kubernetes' annotation that says which pods of a set to remove first: those with the lowest number.
pub const ANNOTATION_DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// The label of a StatefulSet's pod that says which template it was made from.
pub const LABEL_REVISION: &str = "controller-revision-hash";

/// Where coordinators speak gRPC. Agents have the ports of their pool.
pub const GRPC_PORT: i32 = robeing_settings::DEFAULT_PORT as i32;
/// Where coordinators serve `/metrics`, `/healthz` and `/readyz`.
pub const METRICS_PORT: i32 = 9090;
/// Name of an agent's gRPC port in its pod, unlike any that a user's container would choose.
pub const AGENT_GRPC: &str = "robeing-grpc";
/// Name of an agent's port for metrics and probes in its pod.
pub const AGENT_METRICS: &str = "robeing-metrics";
/// The agent's program in the Robeing image.
pub const AGENT_PROGRAM: &str = "/robeing-agent";
/// Directory of the agent's program in a container that is not of the Robeing image. In that image `/robeing` is the command
/// line, a file, so that nothing can be mounted there.
pub const AGENT_DIRECTORY: &str = "/opt/robeing";
/// Directory of a coordinator's log.
pub const DATA_DIRECTORY: &str = robeing_settings::DEFAULT_DATA;
/// Name of the volume, and of the template of the claim, of a coordinator's log.
pub const DATA_VOLUME: &str = "data";
/// The key of the ConfigMap that holds the first membership.
pub const INITIAL_COORDINATORS: &str = "initial-coordinators";

/// What a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// A coordinator.
    Coordinator,
    /// An agent of a pool.
    Agent,
}

impl Component {
    /// As the label says it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Agent => "agent",
        }
    }
}

/// Name of the coordinators' StatefulSet, headless Service, ConfigMap, ServiceAccount, budget and NetworkPolicy.
pub fn coordinators(cluster: &str) -> String {
    format!("{cluster}-coordinators")
}

/// Name of a pool's Deployment and ServiceAccount.
pub fn pool(cluster: &str, pool: &str) -> String {
    format!("{cluster}-{pool}")
}

/// Name of the agents' NetworkPolicy. Never that of a pool's: a pool's objects of this kind do not exist.
pub fn agents(cluster: &str) -> String {
    format!("{cluster}-agents")
}

/// Name of a coordinator and of its pod.
pub fn coordinator(cluster: &str, ordinal: u32) -> String {
    format!("{}-{ordinal}", coordinators(cluster))
}

/// Which coordinator of the cluster has this name.
pub fn ordinal(cluster: &str, name: &str) -> Option<u32> {
    let text = name.strip_prefix(cluster)?.strip_prefix("-coordinators-")?;
    let ordinal: u32 = text.parse().ok()?;
    (ordinal.to_string() == text).then_some(ordinal)
}

/// Name of the claim of a coordinator's disk, as the StatefulSet controller makes it.
pub fn claim(cluster: &str, ordinal: u32) -> String {
    format!("{DATA_VOLUME}-{}", coordinator(cluster, ordinal))
}

/// Where a coordinator is reached, host:port.
pub fn coordinator_address(cluster: &str, namespace: &str, ordinal: u32) -> String {
    format!("{}.{}.{namespace}.svc:{GRPC_PORT}", coordinator(cluster, ordinal), coordinators(cluster))
}

/// Where any coordinator that is ready is reached, host:port.
pub fn service_address(cluster: &str, namespace: &str) -> String {
    format!("{cluster}.{namespace}.svc:{GRPC_PORT}")
}

/// Labels of every object of a cluster.
pub fn labels(cluster: &str) -> BTreeMap<String, String> {
    let pairs = [(LABEL_NAME, APP), (LABEL_INSTANCE, cluster), (LABEL_MANAGED_BY, OPERATOR)];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Labels of a component's objects; for agents also the pool's.
pub fn component_labels(cluster: &str, component: Component, pool: Option<&str>) -> BTreeMap<String, String> {
    let mut labels = labels(cluster);
    labels.extend(selector(cluster, component, pool));
    labels
}

/// What selects a component's pods. It can never change: a StatefulSet's and a Deployment's selectors are immutable.
pub fn selector(cluster: &str, component: Component, pool: Option<&str>) -> BTreeMap<String, String> {
    let pairs = [(LABEL_NAME, APP), (LABEL_INSTANCE, cluster), (LABEL_COMPONENT, component.label())];
    let pool = pool.map(|pool| (LABEL_POOL, pool));
    pairs.into_iter().chain(pool).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// A selector in the form of a query.
pub fn selector_text(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// What selects everything the operator watches but the clusters.
pub fn watched() -> String {
    format!("{LABEL_NAME}={APP},{LABEL_INSTANCE}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinal_is_read_from_exactly_the_names_that_are_given() {
        assert_eq!(ordinal("a", &coordinator("a", 6)), Some(6));
        for other in
            ["a-coordinators-06", "a-coordinators-", "a-coordinators-x", "b-coordinators-1", "a-coordinators-+1"]
        {
            assert_eq!(ordinal("a", other), None, "{other}");
        }
    }
}
