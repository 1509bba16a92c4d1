//! What the pods of coordinators and agents have in common: security, probes, environment, spread.

use k8s_openapi::{
    api::core::v1::{
        Capabilities, ConfigMapKeySelector, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction,
        ObjectFieldSelector, PodSecurityContext, Probe, SeccompProfile, SecretKeySelector, SecurityContext,
        TopologySpreadConstraint,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use robeing_crds::SecretKey;

use crate::names::{GRPC_PORT, METRICS_PORT};

/// The volume that carries the agent's program into the user's image.
pub const AGENT_VOLUME: &str = "robeing-agent";
/// The user and group that pods run as, unless a template says otherwise: "nonroot" by the convention of distroless images.
const NONROOT: i64 = 65_532;

pub(super) fn env(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value.into()), value_from: None }
}

pub(super) fn env_from_field(name: &str, path: &str) -> EnvVar {
    let field = ObjectFieldSelector { api_version: Some("v1".into()), field_path: path.into() };
    let from = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    EnvVar { name: name.into(), value: None, value_from: Some(from) }
}

pub(super) fn env_from_config(name: &str, config_map: String, key: &str) -> EnvVar {
    let selector = ConfigMapKeySelector { name: config_map, key: key.into(), optional: None };
    let from = EnvVarSource { config_map_key_ref: Some(selector), ..EnvVarSource::default() };
    EnvVar { name: name.into(), value: None, value_from: Some(from) }
}

pub(super) fn env_from_secret(name: &str, key: &SecretKey) -> EnvVar {
    let selector = SecretKeySelector { name: key.name.clone(), key: key.key.clone(), optional: None };
    let from = EnvVarSource { secret_key_ref: Some(selector), ..EnvVarSource::default() };
    EnvVar { name: name.into(), value: None, value_from: Some(from) }
}

/// What both kinds of process are told about themselves.
pub(super) fn identity(role: &str, cluster: &str) -> Vec<EnvVar> {
    vec![
        env("AGENT_ROLE", role),
        env("CLUSTER_ID", cluster),
        env_from_field("ROBEING_NAME", "metadata.name"),
        env_from_field("POD_IP", "status.podIP"),
        env("ROBEING_METRICS_LISTEN", format!("0.0.0.0:{METRICS_PORT}")),
        env("ROBEING_LOG_FORMAT", "json"),
    ]
}

/// The ports and probes of a Robeing process in its container.
pub(super) fn observed(container: &mut Container) {
    let port = |name: &str, number| ContainerPort {
        name: Some(name.into()),
        container_port: number,
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    };
    let ports = container.ports.get_or_insert_default();
    ports.push(port("grpc", GRPC_PORT));
    ports.push(port("metrics", METRICS_PORT));
    container.readiness_probe.get_or_insert_with(|| probe("/readyz", 2, 2));
    container.liveness_probe.get_or_insert_with(|| probe("/healthz", 10, 6));
}

fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String("metrics".into()),
            scheme: Some("HTTP".into()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(2),
        failure_threshold: Some(failures),
        success_threshold: Some(1),
        ..Probe::default()
    }
}

/// The restricted pod security standard, for a pod.
pub(super) fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(NONROOT),
        run_as_group: Some(NONROOT),
        fs_group: Some(NONROOT),
        fs_group_change_policy: Some("OnRootMismatch".into()),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

/// The restricted pod security standard, for a container. `ours`: of the Robeing image, which writes nowhere.
pub(super) fn container_security(given: Option<SecurityContext>, ours: bool) -> SecurityContext {
    let mut security = given.unwrap_or_default();
    security.allow_privilege_escalation.get_or_insert(false);
    security.capabilities.get_or_insert_with(|| Capabilities { drop: Some(vec!["ALL".into()]), add: None });
    if ours {
        security.read_only_root_filesystem.get_or_insert(true);
    }
    security
}

/// Prefers to keep a component's pods on different nodes and in different zones; a cluster of one node will do, too.
pub(super) fn spread(
    selector: std::collections::BTreeMap<String, String>,
    match_label_keys: Option<Vec<String>>,
) -> Vec<TopologySpreadConstraint> {
    let over = |key: &str| TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.into(),
        when_unsatisfiable: "ScheduleAnyway".into(),
        label_selector: Some(LabelSelector { match_labels: Some(selector.clone()), ..LabelSelector::default() }),
        match_label_keys: match_label_keys.clone(),
        ..TopologySpreadConstraint::default()
    };
    vec![over("kubernetes.io/hostname"), over("topology.kubernetes.io/zone")]
}
