//! A pool of agents: its Deployment. The number of agents is set in the Deployment and sent to the coordinators, but
//! not part of the pod template, so that scaling restarts nothing.

use std::time::Duration;

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Container, ContainerPort, EmptyDirVolumeSource, EnvVar, PodTemplateSpec, ResourceRequirements, Toleration,
            Volume, VolumeMount,
        },
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};
use robeing_crds::{PodOverrides, Role};
use robeing_settings::{
    Contribute, OBJECT_STORE_VARIABLES, WEBHOOK_SECRET_VARIABLES,
    settings::{self, WORKER_ADDRESS},
    text,
};

use super::{
    identity, journal, metadata,
    pod::{self, AGENT_VOLUME, add_env, env, env_as_is, env_from_secret},
    pull, storage, webhooks,
};
use crate::{
    controller::validate::{self, FleetPool, ValidatedCluster, Work},
    names::{self, AGENT_DIRECTORY, AGENT_PROGRAM, Component},
};

/// How long a rollout may make no progress before it counts as stuck.
const PROGRESS_DEADLINE_SECONDS: i32 = 120;
/// How long an agent's pod remains on an unreachable node, in seconds. Its tasks run elsewhere by then.
const UNREACHABLE_SECONDS: i64 = 30;
/// Memory limit of an agent beside the user's container, in MiB, and how much each of its slots adds.
const BESIDE_MEMORY: u32 = 256;
const BESIDE_MEMORY_OF_SLOT: u32 = 4;
/// How much more each slot adds if there is an object store: the largest input and output.
const STORED_MEMORY_OF_SLOT: u32 = 128;
/// The environment variables that define an agent of its pool; a template can't change them, see [`is_fixed`].
const FIXED: [&str; 14] = [
    settings::ROLE.variable(),
    settings::CLUSTER_ID.variable(),
    settings::NAME.variable(),
    settings::POOL.variable(),
    settings::LISTEN.variable(),
    settings::METRICS_LISTEN.variable(),
    settings::DATA.variable(),
    settings::GATEWAY_LISTEN.variable(),
    settings::WEBHOOKS.variable(),
    settings::OBJECT_STORE.variable(),
    settings::TLS.variable(),
    settings::TRUST.variable(),
    settings::SERVICE_ACCOUNT_TOKEN.variable(),
    settings::JOIN_SECRET.variable(),
];

/// Returns whether a template can't change an agent's environment variable of this name: one of [`FIXED`], the secret of a
/// webhook, or a setting of the object store.
fn is_fixed(name: &str) -> bool {
    let of_agents = [WEBHOOK_SECRET_VARIABLES, OBJECT_STORE_VARIABLES];
    FIXED.contains(&name) || of_agents.into_iter().any(|beginning| name.starts_with(beginning))
}

/// Returns a pool's Deployment. A rollout creates one more pod before it deletes one, so that a new image that does not
/// work stops at its first pod. If pods need ports of their nodes, it deletes one before it creates another.
pub(super) fn deployment(fleet: &ValidatedCluster, pool: &FleetPool) -> Deployment {
    let mut metadata = metadata(fleet, names::pool(&fleet.name, &pool.name));
    metadata.labels = Some(labels(fleet, pool));
    let template = template(fleet, pool);
    let (more, fewer) = if needs_ports_of_node(&template) { (0, 1) } else { (1, 0) };
    let one_at_a_time = RollingUpdateDeployment {
        max_surge: Some(IntOrString::Int(more)),
        max_unavailable: Some(IntOrString::Int(fewer)),
    };
    Deployment {
        metadata,
        spec: Some(DeploymentSpec {
            replicas: pool.pods(fleet.suspend).and_then(|pods| i32::try_from(pods).ok()),
            selector: LabelSelector { match_labels: Some(selector(fleet, pool)), ..LabelSelector::default() },
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(one_at_a_time),
            }),
            progress_deadline_seconds: Some(PROGRESS_DEADLINE_SECONDS),
            revision_history_limit: Some(5),
            template,
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn labels(fleet: &ValidatedCluster, pool: &FleetPool) -> std::collections::BTreeMap<String, String> {
    names::component_labels(&fleet.name, Component::Agent, Some(&pool.name))
}

fn selector(fleet: &ValidatedCluster, pool: &FleetPool) -> std::collections::BTreeMap<String, String> {
    names::selector(&fleet.name, Component::Agent, Some(&pool.name))
}

fn template(fleet: &ValidatedCluster, pool: &FleetPool) -> PodTemplateSpec {
    let (init_containers, containers) = containers(fleet, pool);
    let mut volumes = Vec::new();
    if init_containers.iter().chain(&containers).any(mounts_the_agent) {
        let empty = EmptyDirVolumeSource::default();
        volumes.push(Volume { name: AGENT_VOLUME.into(), empty_dir: Some(empty), ..Volume::default() });
    }
    volumes.extend(identity::agent_volumes(fleet, pool));
    volumes.extend(journal::volume(fleet));
    volumes.extend(webhooks::volume(fleet, pool));
    let mut labels = labels(fleet, pool);
    if has_gateway(fleet, pool) {
        labels.insert(names::LABEL_GATEWAY.to_owned(), "true".to_owned());
    }
    let parts = pod::Parts {
        labels,
        account: validate::service_account(fleet, pool),
        init_containers,
        containers,
        volumes,
        tolerations: short_stays(&pool.template),
        spread: pod::spread(selector(fleet, pool), Some(vec!["pod-template-hash".into()])),
        grace_seconds: i64::try_from(pool.grace.as_secs()).ok(),
    };
    pod::template(fleet, parts, &webhooks::overrides(fleet, pool))
}

/// Returns whether no two of these pods can run on one node. If every node has one, there is no room for one more.
fn needs_ports_of_node(template: &PodTemplateSpec) -> bool {
    let Some(spec) = &template.spec else { return false };
    let containers = spec.init_containers.iter().flatten().chain(&spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    ports.any(|port| port.host_port.is_some_and(|port| port > 0))
}

fn ports(pool: &FleetPool) -> pod::Ports {
    pod::Ports { grpc: (names::AGENT_GRPC, pool.grpc_port), metrics: (names::AGENT_METRICS, pool.metrics_port) }
}

/// Returns whether the agents of a pool serve a gateway: messengers do, unless the fleet has no TLS.
pub(super) fn has_gateway(fleet: &ValidatedCluster, pool: &FleetPool) -> bool {
    pool.role == Role::Messenger && identity::agents_have_tls(fleet)
}

/// Adds the ports and probes of an agent to its container.
fn observed(fleet: &ValidatedCluster, pool: &FleetPool, container: &mut Container) {
    pod::observed(container, ports(pool));
    if has_gateway(fleet, pool) {
        container.ports.get_or_insert_default().push(ContainerPort {
            name: Some(names::AGENT_GATEWAY.into()),
            container_port: names::GATEWAY_PORT,
            protocol: Some("TCP".into()),
            ..ContainerPort::default()
        });
    }
}

fn mounts_the_agent(container: &Container) -> bool {
    container.volume_mounts.iter().flatten().any(|mount| mount.name == AGENT_VOLUME)
}

/// Returns the init containers and the containers of an agent's pod.
fn containers(fleet: &ValidatedCluster, pool: &FleetPool) -> (Vec<Container>, Vec<Container>) {
    match &pool.work {
        Work::InAgent => {
            let mut agent = agent(fleet, pool, true);
            agent.resources = pool.resources.clone();
            add_env(&mut agent, &pool.template.env, is_fixed);
            identity::keep_own(fleet, &mut agent);
            (vec![], vec![agent])
        }
        Work::InUserContainer(given) => {
            let own_image = !validate::is_copied(given, &fleet.image);
            let mut agent = entrypoint(fleet, pool, given, own_image);
            add_env(&mut agent, &pool.template.env, is_fixed);
            identity::keep_own(fleet, &mut agent);
            if own_image { (vec![], vec![agent]) } else { (vec![install(fleet)], vec![agent]) }
        }
        Work::BesideAgent { container, attaches_at } => {
            let mut beside = user_container(pool, container, false);
            beside.name = "executor".into();
            // A native sidecar: it starts before the agent accepts tasks, and terminates after the agent has drained.
            beside.restart_policy = Some("Always".into());
            add_env(&mut beside, &pool.template.env, is_fixed);
            let mut agent = agent(fleet, pool, true);
            agent.resources = Some(beside_resources(fleet, pool));
            if let Some(address) = attaches_at {
                add_env(&mut beside, &[pod::variable(WORKER_ADDRESS, address)], is_fixed);
                add_env(&mut agent, &[env(&settings::WORKER_LISTEN, address)], is_fixed);
            }
            (vec![beside], vec![agent])
        }
    }
}

/// Returns the agent's container, with the Robeing image.
fn agent(fleet: &ValidatedCluster, pool: &FleetPool, ours: bool) -> Container {
    let mut container = Container {
        name: "agent".into(),
        image: Some(fleet.image.clone()),
        image_pull_policy: Some(pull::of_fleet(fleet)),
        command: Some(vec![AGENT_PROGRAM.into()]),
        env: Some(environment(fleet, pool)),
        security_context: Some(pod::container_security(None, ours)),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        ..Container::default()
    };
    identity::mount_agent(fleet, &mut container);
    journal::mount(fleet, &mut container);
    webhooks::mount(fleet, pool, &mut container);
    observed(fleet, pool, &mut container);
    container
}

/// Returns the user's container, with the agent as its entrypoint.
fn entrypoint(fleet: &ValidatedCluster, pool: &FleetPool, given: &Container, own_image: bool) -> Container {
    let mut container = user_container(pool, given, own_image);
    container.name = "agent".into();
    if own_image {
        container.image = Some(fleet.image.clone());
        container.image_pull_policy = given.image_pull_policy.clone().or_else(|| Some(pull::of_fleet(fleet)));
    }
    container.args = None;
    container.command = Some(vec![if own_image {
        AGENT_PROGRAM.to_owned()
    } else {
        container.volume_mounts.get_or_insert_default().push(agent_mount(true));
        format!("{AGENT_DIRECTORY}{AGENT_PROGRAM}")
    }]);
    let own = container.env.take().unwrap_or_default();
    container.env = Some(environment(fleet, pool));
    add_env(&mut container, &own, is_fixed);
    identity::mount_agent(fleet, &mut container);
    journal::mount(fleet, &mut container);
    webhooks::mount(fleet, pool, &mut container);
    observed(fleet, pool, &mut container);
    container
}

fn user_container(pool: &FleetPool, given: &Container, own_image: bool) -> Container {
    let mut container = given.clone();
    container.resources = container.resources.or_else(|| pool.resources.clone());
    let mut security = pod::container_security(container.security_context.take(), own_image);
    pod::allow_root(&mut security, pool.template.security_context.as_ref());
    container.security_context = Some(security);
    container.termination_message_policy.get_or_insert_with(|| "FallbackToLogsOnError".into());
    if let Some(image) = &container.image {
        container.image_pull_policy.get_or_insert_with(|| pull::default_policy(image).to_owned());
    }
    // The API server accepts each only once; if a manifest repeats one, the last one counts, as in a pod.
    container.env = container.env.map(|env| last_of_each(env, |variable| variable.name.clone()));
    container.ports = container.ports.map(|ports| last_of_each(ports, port_key));
    container
}

fn port_key(port: &ContainerPort) -> (i32, String) {
    (port.container_port, port.protocol.clone().unwrap_or_else(|| "TCP".into()))
}

/// Returns the items with each key once: its last item, at the position of its first.
fn last_of_each<T, K: PartialEq>(items: Vec<T>, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut kept: Vec<T> = Vec::with_capacity(items.len());
    for item in items {
        match kept.iter_mut().find(|known| key(known) == key(&item)) {
            Some(known) => *known = item,
            None => kept.push(item),
        }
    }
    kept
}

/// Returns the resources of an agent that runs no task itself but holds the inputs and outputs of tasks. In a namespace
/// with a quota, a pod can be created only if every container sets its resources.
fn beside_resources(fleet: &ValidatedCluster, pool: &FleetPool) -> ResourceRequirements {
    let stored = fleet.object_storage.as_ref().map_or(0, |_| STORED_MEMORY_OF_SLOT);
    let memory = BESIDE_MEMORY.saturating_add((BESIDE_MEMORY_OF_SLOT + stored).saturating_mul(pool.slots));
    pod::resources(["20m", "32Mi"], ["1", &format!("{memory}Mi")])
}

/// Returns the container that copies the agent's program to where the user's container finds it.
fn install(fleet: &ValidatedCluster) -> Container {
    Container {
        name: "install-agent".into(),
        image: Some(fleet.image.clone()),
        image_pull_policy: Some(pull::of_fleet(fleet)),
        command: Some(vec![AGENT_PROGRAM.into(), "install".into(), format!("{AGENT_DIRECTORY}{AGENT_PROGRAM}")]),
        resources: Some(pod::resources(["10m", "16Mi"], ["500m", "128Mi"])),
        security_context: Some(pod::container_security(None, true)),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        volume_mounts: Some(vec![agent_mount(false)]),
        ..Container::default()
    }
}

fn agent_mount(read_only: bool) -> VolumeMount {
    VolumeMount {
        name: AGENT_VOLUME.into(),
        mount_path: AGENT_DIRECTORY.into(),
        read_only: read_only.then_some(true),
        ..VolumeMount::default()
    }
}

fn environment(fleet: &ValidatedCluster, pool: &FleetPool) -> Vec<EnvVar> {
    let mut environment = pod::identity(pool.role.into(), &fleet.name, ports(pool));
    environment.extend([
        env(&settings::LISTEN, format!("0.0.0.0:{}", pool.grpc_port)),
        env(&settings::COORDINATORS, names::service_address(&fleet.name, &fleet.namespace)),
        env(&settings::POOL, &pool.name),
        env(&settings::SLOTS, pool.slots.to_string()),
        env(&settings::DRAIN_TIMEOUT, text::seconds(pool.drain_timeout.max(Duration::from_secs(1)))),
        env_as_is(&settings::EXECUTOR, &pool.executor.to_json()),
    ]);
    // What a container is given is what its agent contributes, also where the agent itself runs beside it.
    if pool.contribution != Contribute::default() {
        environment.push(env(&settings::CONTRIBUTE, pool.contribution.to_text()));
    }
    environment.extend(pool.messages.as_ref().map(|messages| env_as_is(&settings::MESSAGES, &messages.to_json())));
    environment.extend(journal::environment(fleet));
    if has_gateway(fleet, pool) {
        environment.push(env(&settings::GATEWAY_LISTEN, format!("0.0.0.0:{}", names::GATEWAY_PORT)));
    }
    if !pool.specializations.is_empty() {
        environment.push(env(&settings::SPECIALIZATIONS, text::list(&pool.specializations)));
    }
    environment.extend(identity::agent_environment(fleet));
    environment.extend(webhooks::environment(fleet, pool));
    environment.extend(storage::environment(fleet));
    environment.extend(pool.secrets.iter().map(|(variable, key)| env_from_secret(variable, key)));
    environment
}

/// Returns tolerations that keep agents only briefly on unreachable nodes, unless the template sets how long.
fn short_stays(overrides: &PodOverrides) -> Vec<Toleration> {
    let keys = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
    // An empty key or effect matches all.
    let means = |said: Option<&str>, one: &str| said.is_none_or(|said| said.is_empty() || said == one);
    let said = |key: &str, toleration: &Toleration| {
        means(toleration.key.as_deref(), key) && means(toleration.effect.as_deref(), "NoExecute")
    };
    let unsaid = keys.into_iter().filter(|key| !overrides.tolerations.iter().any(|toleration| said(key, toleration)));
    let stay = |key: &str| Toleration {
        key: Some(key.into()),
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        toleration_seconds: Some(UNREACHABLE_SECONDS),
        value: None,
    };
    unsaid.map(stay).collect()
}
