//! The common parts of the pods of coordinators and agents: their template, security, probes, environment, spread.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::{
    api::core::v1::{
        Capabilities, ConfigMapKeySelector, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction,
        LocalObjectReference, ObjectFieldSelector, PodSecurityContext, PodSpec, PodTemplateSpec, Probe,
        ResourceRequirements, SeccompProfile, SecretKeySelector, SecurityContext, Toleration, TopologySpreadConstraint,
        Volume,
    },
    apimachinery::pkg::{
        api::resource::Quantity,
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use robeing_crds::{PodOverrides, SecretKey};
use robeing_settings::{
    Defined, LogFormat, ProcessRole,
    settings::{self, CLUSTER_ID, LOG_FORMAT, METRICS_LISTEN, NAME, ROLE},
};

use super::defaults;
use crate::controller::validate::ValidatedCluster;

/// The volume that carries the agent's program into the user's container.
pub const AGENT_VOLUME: &str = "robeing-agent";
/// The user and group that pods run as, unless a template sets others: "nonroot" by the convention of distroless
/// images.
const NONROOT: i64 = 65_532;
const ROOT: i64 = 0;
/// Capabilities that the API server accepts only for a container that allows privilege escalation.
const ADMIN: [&str; 2] = ["CAP_SYS_ADMIN", "SYS_ADMIN"];

/// Returns the environment variable of a setting.
pub(super) fn env(setting: &dyn Defined, value: impl Into<String>) -> EnvVar {
    variable(setting.setting().variable(), value)
}

/// Returns the environment variable of a setting with a value in which Kubernetes expands nothing: it replaces `$$` by
/// `$`, and `$(NAME)` by the value of a variable.
pub(super) fn env_as_is(setting: &dyn Defined, value: &str) -> EnvVar {
    env(setting, value.replace('$', "$$"))
}

/// Returns an environment variable that is not a setting.
pub(super) fn variable(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar { name: name.into(), value: Some(value.into()), value_from: None }
}

fn env_from_field(name: &str, path: &str) -> EnvVar {
    let field = ObjectFieldSelector { api_version: Some("v1".into()), field_path: path.into() };
    let from = EnvVarSource { field_ref: Some(field), ..EnvVarSource::default() };
    EnvVar { name: name.into(), value: None, value_from: Some(from) }
}

pub(super) fn env_from_config(setting: &dyn Defined, config_map: String, key: &str) -> EnvVar {
    let name = setting.setting().variable();
    let selector = ConfigMapKeySelector { name: config_map, key: key.into(), optional: None };
    let from = EnvVarSource { config_map_key_ref: Some(selector), ..EnvVarSource::default() };
    EnvVar { name: name.into(), value: None, value_from: Some(from) }
}

pub(super) fn env_from_secret(name: &str, key: &SecretKey) -> EnvVar {
    let selector = SecretKeySelector { name: key.name.clone(), key: key.key.clone(), optional: None };
    let from = EnvVarSource { secret_key_ref: Some(selector), ..EnvVarSource::default() };
    EnvVar { name: name.into(), value: None, value_from: Some(from) }
}

/// The ports of a process in its pod, each with its name.
#[derive(Clone, Copy)]
pub(super) struct Ports {
    pub grpc: (&'static str, i32),
    pub metrics: (&'static str, i32),
}

/// The parts of a pod besides its overrides.
pub(super) struct Parts {
    pub labels: BTreeMap<String, String>,
    pub account: String,
    pub init_containers: Vec<Container>,
    pub containers: Vec<Container>,
    pub volumes: Vec<Volume>,
    pub tolerations: Vec<Toleration>,
    /// Used unless the overrides have their own constraints.
    pub spread: Vec<TopologySpreadConstraint>,
    pub grace_seconds: Option<i64>,
}

/// Returns a pod template from the parts and the overrides.
pub(super) fn template(fleet: &ValidatedCluster, parts: Parts, overrides: &PodOverrides) -> PodTemplateSpec {
    let mut labels = overrides.labels.clone();
    labels.extend(parts.labels);
    let mut tolerations = overrides.tolerations.clone();
    tolerations.extend(parts.tolerations);
    let mut volumes = parts.volumes;
    volumes.extend(overrides.volumes.iter().cloned());
    let spread = match &overrides.topology_spread_constraints[..] {
        [] => parts.spread,
        given => given.to_vec(),
    };
    let mut spec = PodSpec {
        init_containers: some(parts.init_containers, |containers| !containers.is_empty()),
        containers: parts.containers,
        service_account_name: Some(parts.account),
        // A user who sets their own account needs its token.
        automount_service_account_token: overrides.service_account_name.is_none().then_some(false),
        enable_service_links: Some(false),
        security_context: Some(security(overrides.security_context.clone())),
        termination_grace_period_seconds: parts.grace_seconds,
        node_selector: some(overrides.node_selector.clone(), |labels| !labels.is_empty()),
        tolerations: some(tolerations, |tolerations| !tolerations.is_empty()),
        affinity: overrides.affinity.clone(),
        topology_spread_constraints: Some(spread),
        volumes: some(volumes, |volumes| !volumes.is_empty()),
        image_pull_secrets: some(pull_secrets(fleet, overrides), |secrets| !secrets.is_empty()),
        priority_class_name: overrides.priority_class_name.clone(),
        runtime_class_name: overrides.runtime_class_name.clone(),
        ..PodSpec::default()
    };
    defaults::own(&mut spec);
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(labels),
            annotations: some(overrides.annotations.clone(), |annotations| !annotations.is_empty()),
            ..ObjectMeta::default()
        }),
        spec: Some(spec),
    }
}

fn some<T>(value: T, keep: impl FnOnce(&T) -> bool) -> Option<T> {
    Some(value).filter(keep)
}

/// Returns the pull secrets of the fleet and of the overrides, each once, since the API server would refuse duplicates.
fn pull_secrets(fleet: &ValidatedCluster, overrides: &PodOverrides) -> Vec<LocalObjectReference> {
    let mut names = BTreeSet::new();
    let all = fleet.image_pull_secrets.iter().chain(&overrides.image_pull_secrets);
    all.filter(|secret| names.insert(secret.name.as_str())).cloned().collect()
}

/// Returns the environment variables that identify both kinds of process.
pub(super) fn identity(role: ProcessRole, cluster: &str, ports: Ports) -> Vec<EnvVar> {
    vec![
        env(&ROLE, role.as_variable()),
        env(&CLUSTER_ID, cluster),
        env_from_field(NAME.variable(), "metadata.name"),
        env_from_field(settings::POD_IP, "status.podIP"),
        env(&METRICS_LISTEN, format!("0.0.0.0:{}", ports.metrics.1)),
        env(&LOG_FORMAT, LogFormat::Json.as_str()),
    ]
}

/// Adds the ports and probes of a Robeing process to its container.
pub(super) fn observed(container: &mut Container, ports: Ports) {
    let port = |(name, number): (&str, i32)| ContainerPort {
        name: Some(name.into()),
        container_port: number,
        protocol: Some("TCP".into()),
        ..ContainerPort::default()
    };
    container.ports.get_or_insert_default().extend([port(ports.grpc), port(ports.metrics)]);
    let metrics = ports.metrics.0;
    container.readiness_probe.get_or_insert_with(|| probe(metrics, "/readyz", 2, 2));
    container.liveness_probe.get_or_insert_with(|| probe(metrics, "/healthz", 10, 6));
}

fn probe(port: &str, path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String(port.into()),
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

/// Returns the security context of a pod by the restricted Pod Security Standard.
fn pod_security() -> PodSecurityContext {
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

/// Returns the given settings, completed by the restricted standard.
fn security(given: Option<PodSecurityContext>) -> PodSecurityContext {
    let (mut security, default) = (given.unwrap_or_default(), pod_security());
    // The two exclude each other, and a user who sets root means it.
    if security.run_as_user != Some(ROOT) {
        security.run_as_non_root = security.run_as_non_root.or(default.run_as_non_root);
    }
    security.run_as_user = security.run_as_user.or(default.run_as_user);
    security.run_as_group = security.run_as_group.or(default.run_as_group);
    security.fs_group = security.fs_group.or(default.fs_group);
    security.fs_group_change_policy = security.fs_group_change_policy.or(default.fs_group_change_policy);
    security.seccomp_profile = security.seccomp_profile.or(default.seccomp_profile);
    security
}

/// Returns the given settings of a container, completed by the restricted standard. `ours` means that the container
/// uses the Robeing image, which writes nowhere.
pub(super) fn container_security(given: Option<SecurityContext>, ours: bool) -> SecurityContext {
    let mut security = given.unwrap_or_default();
    let mut added = security.capabilities.iter().flat_map(|capabilities| capabilities.add.iter().flatten());
    if security.privileged != Some(true) && !added.any(|capability| ADMIN.contains(&capability.as_str())) {
        security.allow_privilege_escalation.get_or_insert(false);
    }
    security.capabilities.get_or_insert_with(|| Capabilities { drop: Some(vec!["ALL".into()]), add: None });
    if ours {
        security.read_only_root_filesystem.get_or_insert(true);
    }
    security
}

/// Allows a container to run as root that asks for it, unless its pod sets `runAsNonRoot`.
pub(super) fn allow_root(security: &mut SecurityContext, pod: Option<&PodSecurityContext>) {
    let is_said = pod.is_some_and(|pod| pod.run_as_non_root.is_some());
    if security.run_as_user == Some(ROOT) && !is_said {
        security.run_as_non_root.get_or_insert(false);
    }
}

/// Returns a container's requests and limits, each of CPU and memory.
pub(super) fn resources([cpu, memory]: [&str; 2], [most_cpu, most_memory]: [&str; 2]) -> ResourceRequirements {
    let amounts = |cpu: &str, memory: &str| {
        let amounts = [("cpu", cpu), ("memory", memory)];
        amounts.map(|(name, amount)| (name.to_owned(), Quantity(amount.to_owned()))).into()
    };
    ResourceRequirements {
        requests: Some(amounts(cpu, memory)),
        limits: Some(amounts(most_cpu, most_memory)),
        claims: None,
    }
}

/// Returns constraints that prefer different nodes and zones for a component's pods; a cluster of one node is
/// sufficient.
pub(super) fn spread(
    selector: BTreeMap<String, String>,
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

/// Adds environment variables. A variable replaces an existing one of the same name, unless it is `fixed`, as those which
/// define the process are. A variable whose value references another one, `$(NAME)`, is placed after that: Kubernetes
/// expands only references to earlier variables.
pub(super) fn add_env(container: &mut Container, more: &[EnvVar], fixed: impl Fn(&str) -> bool) {
    let env = container.env.get_or_insert_default();
    for variable in more {
        match env.iter().position(|known| known.name == variable.name) {
            Some(_) if fixed(&variable.name) => {}
            Some(place) if env[place + 1..].iter().any(|later| names(variable, &later.name)) => {
                env.remove(place);
                env.push(variable.clone());
            }
            Some(place) => env[place].clone_from(variable),
            None => env.push(variable.clone()),
        }
    }
}

/// Returns whether a variable's value references another variable.
fn names(variable: &EnvVar, other: &str) -> bool {
    variable.value.as_ref().is_some_and(|value| value.contains(&format!("$({other})")))
}
