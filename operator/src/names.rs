//! The names, labels and ports of everything that is created for a cluster. Pure. The selectors of running fleets
//! already contain these values, so a change would orphan their objects.

use std::collections::BTreeMap;

/// `app.kubernetes.io/name` of everything that the operator creates.
pub const APP: &str = "robeing";
/// `app.kubernetes.io/managed-by` of everything that the operator creates, and its field manager.
pub const OPERATOR: &str = "robeing-operator";
/// The field manager that keeps the replicas of a pool whose size the operator leaves to others.
pub const HANDOVER: &str = "robeing-operator-handover";
/// The field manager of repairs that a server-side apply alone can't make. It owns nothing for long.
pub const REPAIR: &str = "robeing-operator-repair";
/// The label with the application's name.
pub const LABEL_NAME: &str = "app.kubernetes.io/name";
/// The label with the cluster's name.
pub const LABEL_INSTANCE: &str = "app.kubernetes.io/instance";
/// The label that distinguishes coordinators from agents.
pub const LABEL_COMPONENT: &str = "app.kubernetes.io/component";
/// The label with the name of the tool that manages an object.
pub const LABEL_MANAGED_BY: &str = "app.kubernetes.io/managed-by";
/// The label with a pool's name.
pub const LABEL_POOL: &str = "robeing.io/pool";
/// The label of the pods that serve a gateway.
pub const LABEL_GATEWAY: &str = "robeing.io/gateway";
/// On the StatefulSet: the ordinal below which disks belong to coordinators that were members.
pub const ANNOTATION_JOINED: &str = "robeing.io/joined-coordinators";
/// On the StatefulSet of a cluster whose spec names no image: the image that it was created with, which it keeps.
pub const ANNOTATION_DEFAULT_IMAGE: &str = "robeing.io/default-image";
/// On the RobeingCluster: any new value rotates the authority and the join secrets.
pub const ANNOTATION_ROTATE: &str = "robeing.io/rotate-authority";
/// On a Secret: the value of [`ANNOTATION_ROTATE`] that it was last rotated for.
pub const ANNOTATION_ROTATED_FOR: &str = "robeing.io/rotated-for";
/// On the Secret of a join secret: when it was rotated, Unix milliseconds.
pub const ANNOTATION_ROTATED_AT: &str = "robeing.io/rotated-at";
/// On the authority's Secret: the phase of its rotation.
pub const ANNOTATION_PHASE: &str = "robeing.io/authority-phase";
/// On the authority's Secret: since when the phase lasts, Unix milliseconds of the fleet's time.
pub const ANNOTATION_PHASE_SINCE: &str = "robeing.io/authority-phase-since";
/// On the authority's Secret: the user's Secret that the newest authority comes from.
pub const ANNOTATION_SOURCE: &str = "robeing.io/authority-source";
/// On the authority's Secret: the pools that have a Secret with a join secret.
pub const ANNOTATION_JOIN_POOLS: &str = "robeing.io/join-pools";
/// Kubernetes' annotation that determines which pods of a set are deleted first: those with the lowest number.
pub const ANNOTATION_DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// The label of a StatefulSet's pod with the revision of the template that it was created from.
pub const LABEL_REVISION: &str = "controller-revision-hash";

/// The port at which coordinators serve gRPC. Agents have the ports of their pool.
pub const GRPC_PORT: i32 = robeing_settings::DEFAULT_PORT as i32;
/// The port at which coordinators serve `/metrics`, `/healthz` and `/readyz`.
pub const METRICS_PORT: i32 = 9090;
/// Name of an agent's gRPC port in its pod; a user's container is unlikely to use it.
pub const AGENT_GRPC: &str = "robeing-grpc";
/// Name of an agent's port for metrics and probes in its pod.
pub const AGENT_METRICS: &str = "robeing-metrics";
/// The annotation of messengers' pods with the list of webhooks that they call.
pub const ANNOTATION_WEBHOOKS: &str = "robeing.io/webhooks";
/// The volume with the list of webhooks.
pub const WEBHOOKS_VOLUME: &str = "robeing-webhooks";
/// Where the volume with the list of webhooks is mounted.
pub const WEBHOOKS_DIRECTORY: &str = "/etc/robeing/webhooks";
/// The file of the list of webhooks in its volume.
pub const WEBHOOKS_FILE: &str = "webhooks.json";
/// The port at which messengers serve their gateway for HTTP clients.
pub const GATEWAY_PORT: i32 = 8082;
/// Name of a messenger's port for its gateway in its pod.
pub const AGENT_GATEWAY: &str = "robeing-gateway";
/// The agent's program in the Robeing image.
pub const AGENT_PROGRAM: &str = "/robeing-agent";
/// Directory of the agent's program in a container that does not use the Robeing image. In the Robeing image,
/// `/robeing` is the command-line program, a file, so that nothing can be mounted there.
pub const AGENT_DIRECTORY: &str = "/opt/robeing";
/// Name of the volume with what a process proves itself with.
pub const IDENTITY_VOLUME: &str = "robeing-identity";
/// Directory of the fleet's authority in a coordinator.
pub const AUTHORITY_DIRECTORY: &str = "/etc/robeing/authority";
/// Directory of the trusted authorities and the proof in an agent.
pub const IDENTITY_DIRECTORY: &str = "/var/run/secrets/robeing.io/identity";
/// The audience of the tokens that coordinators accept.
pub const TOKEN_AUDIENCE: &str = "robeing";
/// Directory of a coordinator's log.
pub const DATA_DIRECTORY: &str = robeing_settings::DEFAULT_DATA;
/// Name of the volume of a coordinator's log, and of its claim template.
pub const DATA_VOLUME: &str = "data";
/// Directory of an agent's journal of messages.
pub const JOURNAL_DIRECTORY: &str = robeing_settings::DEFAULT_DATA;
/// Name of the volume of an agent's journal of messages; a user's volume is unlikely to have it.
pub const JOURNAL_VOLUME: &str = "robeing-journal";
/// The key of the ConfigMap that contains the initial membership.
pub const INITIAL_COORDINATORS: &str = "initial-coordinators";

/// The component that a pod belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// A coordinator.
    Coordinator,
    /// An agent of a pool.
    Agent,
}

impl Component {
    /// Returns the value of the component's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Coordinator => "coordinator",
            Self::Agent => "agent",
        }
    }
}

/// Returns the name of the coordinators' StatefulSet, headless Service, ConfigMap, ServiceAccount, Role, RoleBinding,
/// budget and NetworkPolicy.
pub fn coordinators(cluster: &str) -> String {
    format!("{cluster}-coordinators")
}

/// Returns the name of a pool's Deployment and ServiceAccount.
pub fn pool(cluster: &str, pool: &str) -> String {
    format!("{cluster}-{pool}")
}

/// Returns the name of the Service of the messengers' gateways. It can't conflict with a pool's name, since pools have no
/// Service.
pub fn gateway(cluster: &str) -> String {
    format!("{cluster}-gateway")
}

/// Returns the name of the agents' NetworkPolicy. It can't conflict with a pool's name, since pools have no
/// NetworkPolicy.
pub fn agents(cluster: &str) -> String {
    format!("{cluster}-agents")
}

/// Returns the name of the Secret with the fleet's authority.
pub fn authority(cluster: &str) -> String {
    format!("{cluster}-authority")
}

/// Returns the name of the ConfigMap with the trusted authorities.
pub fn trust(cluster: &str) -> String {
    format!("{cluster}-trust")
}

/// Returns the name of the ServiceAccount, Role and RoleBinding of people who use the fleet. Names of clusters and
/// pools contain no dot, so that no pool of any fleet has an account of this name.
pub fn user(cluster: &str) -> String {
    format!("{cluster}.user")
}

/// Returns the name of the ServiceAccount, Role and RoleBinding of people who administer the fleet; see [`user`].
pub fn administrator(cluster: &str) -> String {
    format!("{cluster}.admin")
}

/// Returns the name of the Secret with a pool's join secret.
pub fn join(cluster: &str, pool: &str) -> String {
    format!("{}-join", self::pool(cluster, pool))
}

/// Returns the name of a coordinator and of its pod.
pub fn coordinator(cluster: &str, ordinal: u32) -> String {
    format!("{}-{ordinal}", coordinators(cluster))
}

/// Returns the ordinal of the cluster's coordinator of this name; `None` if it is not a coordinator's name.
pub fn ordinal(cluster: &str, name: &str) -> Option<u32> {
    let text = name.strip_prefix(cluster)?.strip_prefix("-coordinators-")?;
    let ordinal: u32 = text.parse().ok()?;
    (ordinal.to_string() == text).then_some(ordinal)
}

/// Returns the name of a coordinator's PersistentVolumeClaim, as the StatefulSet controller creates it.
pub fn claim(cluster: &str, ordinal: u32) -> String {
    format!("{DATA_VOLUME}-{}", coordinator(cluster, ordinal))
}

/// Returns the address of a coordinator, host:port.
pub fn coordinator_address(cluster: &str, namespace: &str, ordinal: u32) -> String {
    format!("{}.{}.{namespace}.svc:{GRPC_PORT}", coordinator(cluster, ordinal), coordinators(cluster))
}

/// Returns the address at which any ready coordinator is reached, host:port.
pub fn service_address(cluster: &str, namespace: &str) -> String {
    format!("{cluster}.{namespace}.svc:{GRPC_PORT}")
}

/// Returns the labels of every object of a cluster.
pub fn labels(cluster: &str) -> BTreeMap<String, String> {
    let pairs = [(LABEL_NAME, APP), (LABEL_INSTANCE, cluster), (LABEL_MANAGED_BY, OPERATOR)];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Returns the labels of a component's objects; for agents, they include the pool's.
pub fn component_labels(cluster: &str, component: Component, pool: Option<&str>) -> BTreeMap<String, String> {
    let mut labels = labels(cluster);
    labels.extend(selector(cluster, component, pool));
    labels
}

/// Returns the labels that select a component's pods. They can never change: the selectors of StatefulSets and
/// Deployments are immutable.
pub fn selector(cluster: &str, component: Component, pool: Option<&str>) -> BTreeMap<String, String> {
    let pairs = [(LABEL_NAME, APP), (LABEL_INSTANCE, cluster), (LABEL_COMPONENT, component.label())];
    let pool = pool.map(|pool| (LABEL_POOL, pool));
    pairs.into_iter().chain(pool).map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Returns a selector in the form of a query.
pub fn selector_text(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// Returns the selector of everything that the operator watches, except for the clusters.
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
