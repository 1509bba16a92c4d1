//! A pool of agents: its Deployment. How many agents it has is in the Deployment and said to the coordinators, never in the
//! pod template, so that scaling restarts nothing.

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment},
        core::v1::{
            Container, EmptyDirVolumeSource, EnvVar, PodSecurityContext, PodSpec, PodTemplateSpec, Toleration, Volume,
            VolumeMount,
        },
    },
    apimachinery::pkg::{
        apis::meta::v1::{LabelSelector, ObjectMeta},
        util::intstr::IntOrString,
    },
};
use robeing_crds::{PodOverrides, Role};

use super::{
    metadata,
    pod::{self, AGENT_VOLUME, env, env_from_secret},
};
use crate::{
    names::{self, AGENT_DIRECTORY, AGENT_PROGRAM, Component, WORKER_ADDRESS},
    validate::{self, Fleet, FleetPool, Work},
};

/// How long a rollout may make no progress before it counts as stuck.
const PROGRESS_DEADLINE_SECONDS: i32 = 120;
/// How long an agent stays on a node that is not heard of. Its tasks run elsewhere by then.
const UNREACHABLE_SECONDS: i64 = 30;
/// The environment by which an agent is what its pool says; a template cannot change it.
const FIXED: [&str; 4] = ["AGENT_ROLE", "CLUSTER_ID", "ROBEING_NAME", "ROBEING_POOL"];

/// One pod more is made before one goes, so that a new image that does not work stops at its first pod.
pub(super) fn deployment(fleet: &Fleet, pool: &FleetPool) -> Deployment {
    let mut metadata = metadata(fleet, names::pool(&fleet.name, &pool.name));
    metadata.labels = Some(labels(fleet, pool));
    let one_at_a_time =
        RollingUpdateDeployment { max_surge: Some(IntOrString::Int(1)), max_unavailable: Some(IntOrString::Int(0)) };
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
            template: template(fleet, pool),
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn labels(fleet: &Fleet, pool: &FleetPool) -> std::collections::BTreeMap<String, String> {
    names::component_labels(&fleet.name, Component::Agent, Some(&pool.name))
}

fn selector(fleet: &Fleet, pool: &FleetPool) -> std::collections::BTreeMap<String, String> {
    names::selector(&fleet.name, Component::Agent, Some(&pool.name))
}

fn template(fleet: &Fleet, pool: &FleetPool) -> PodTemplateSpec {
    let overrides = &pool.template;
    let (init_containers, containers) = containers(fleet, pool);
    let mut volumes = Vec::new();
    if init_containers.iter().chain(&containers).any(mounts_the_agent) {
        let empty = EmptyDirVolumeSource::default();
        volumes.push(Volume { name: AGENT_VOLUME.into(), empty_dir: Some(empty), ..Volume::default() });
    }
    volumes.extend(overrides.volumes.iter().cloned());
    let mut pod_labels = overrides.labels.clone();
    pod_labels.extend(labels(fleet, pool));
    let spread = match &overrides.topology_spread_constraints[..] {
        [] => pod::spread(selector(fleet, pool), Some(vec!["pod-template-hash".into()])),
        given => given.to_vec(),
    };
    PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(pod_labels),
            annotations: some(overrides.annotations.clone(), |annotations| !annotations.is_empty()),
            ..ObjectMeta::default()
        }),
        spec: Some(PodSpec {
            init_containers: some(init_containers, |containers| !containers.is_empty()),
            containers,
            service_account_name: Some(validate::service_account(fleet, pool)),
            // Who brings an account of their own brings it for its token.
            automount_service_account_token: overrides.service_account_name.is_none().then_some(false),
            enable_service_links: Some(false),
            security_context: Some(security(overrides.security_context.clone())),
            termination_grace_period_seconds: i64::try_from(pool.grace.as_secs()).ok(),
            node_selector: some(overrides.node_selector.clone(), |labels| !labels.is_empty()),
            tolerations: Some(tolerations(overrides)),
            affinity: overrides.affinity.clone(),
            topology_spread_constraints: Some(spread),
            volumes: some(volumes, |volumes| !volumes.is_empty()),
            image_pull_secrets: some(overrides.image_pull_secrets.clone(), |secrets| !secrets.is_empty()),
            priority_class_name: overrides.priority_class_name.clone(),
            runtime_class_name: overrides.runtime_class_name.clone(),
            ..PodSpec::default()
        }),
    }
}

fn some<T>(value: T, keep: impl FnOnce(&T) -> bool) -> Option<T> {
    Some(value).filter(keep)
}

fn mounts_the_agent(container: &Container) -> bool {
    container.volume_mounts.iter().flatten().any(|mount| mount.name == AGENT_VOLUME)
}

/// The init containers and the containers of an agent's pod.
fn containers(fleet: &Fleet, pool: &FleetPool) -> (Vec<Container>, Vec<Container>) {
    match &pool.work {
        Work::InAgent => {
            let mut agent = agent(fleet, pool, true);
            agent.resources = pool.resources.clone();
            add_env(&mut agent, &pool.template.env);
            (vec![], vec![agent])
        }
        Work::InUserContainer(given) => {
            let own_image = given.image.as_deref().is_none_or(|image| image == fleet.image);
            let mut agent = entrypoint(fleet, pool, given, own_image);
            add_env(&mut agent, &pool.template.env);
            if own_image { (vec![], vec![agent]) } else { (vec![install(fleet)], vec![agent]) }
        }
        Work::BesideAgent { container, attaches_at } => {
            let mut beside = user_container(pool, container, false);
            beside.name = "executor".into();
            // A native sidecar: it starts before the agent takes tasks, and ends after the agent has drained.
            beside.restart_policy = Some("Always".into());
            add_env(&mut beside, &pool.template.env);
            let mut agent = agent(fleet, pool, true);
            if let Some(address) = attaches_at {
                add_env(&mut beside, &[env(WORKER_ADDRESS, address)]);
                add_env(&mut agent, &[env("ROBEING_WORKER_LISTEN", address)]);
            }
            (vec![beside], vec![agent])
        }
    }
}

/// The agent in a container of the Robeing image.
fn agent(fleet: &Fleet, pool: &FleetPool, ours: bool) -> Container {
    let mut container = Container {
        name: "agent".into(),
        image: Some(fleet.image.clone()),
        command: Some(vec![AGENT_PROGRAM.into()]),
        env: Some(environment(fleet, pool)),
        security_context: Some(pod::container_security(None, ours)),
        termination_message_policy: Some("FallbackToLogsOnError".into()),
        ..Container::default()
    };
    pod::observed(&mut container);
    container
}

/// The user's container with the agent as what it runs.
fn entrypoint(fleet: &Fleet, pool: &FleetPool, given: &Container, own_image: bool) -> Container {
    let mut container = user_container(pool, given, own_image);
    container.name = "agent".into();
    container.image.get_or_insert_with(|| fleet.image.clone());
    container.args = None;
    container.command = Some(vec![if own_image {
        AGENT_PROGRAM.to_owned()
    } else {
        container.volume_mounts.get_or_insert_default().push(agent_mount(true));
        format!("{AGENT_DIRECTORY}{AGENT_PROGRAM}")
    }]);
    let own = container.env.take().unwrap_or_default();
    container.env = Some(environment(fleet, pool));
    add_env(&mut container, &own);
    pod::observed(&mut container);
    container
}

fn user_container(pool: &FleetPool, given: &Container, own_image: bool) -> Container {
    let mut container = given.clone();
    container.resources = container.resources.or_else(|| pool.resources.clone());
    container.security_context = Some(pod::container_security(container.security_context.take(), own_image));
    container.termination_message_policy.get_or_insert_with(|| "FallbackToLogsOnError".into());
    container
}

/// Copies the agent's program to where the user's image finds it.
fn install(fleet: &Fleet) -> Container {
    Container {
        name: "install-agent".into(),
        image: Some(fleet.image.clone()),
        command: Some(vec![AGENT_PROGRAM.into(), "install".into(), format!("{AGENT_DIRECTORY}{AGENT_PROGRAM}")]),
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

fn environment(fleet: &Fleet, pool: &FleetPool) -> Vec<EnvVar> {
    let role = match pool.role {
        Role::Worker => "WORKER",
        Role::Specialist => "SPECIALIST",
        Role::Messenger => "MESSENGER",
        Role::Guardian => "GUARDIAN",
    };
    let mut environment = pod::identity(role, &fleet.name);
    environment.extend([
        env("ROBEING_COORDINATORS", names::service_address(&fleet.name, &fleet.namespace)),
        env("ROBEING_POOL", &pool.name),
        env("ROBEING_SLOTS", pool.slots.to_string()),
        env("ROBEING_DRAIN_TIMEOUT", format!("{}s", pool.drain_timeout.as_secs().max(1))),
        // "$(" would be replaced with a variable's value before the agent sees it.
        env("ROBEING_EXECUTOR", pool.executor.replace("$(", "$$(")),
    ]);
    if !pool.specializations.is_empty() {
        environment.push(env("ROBEING_SPECIALIZATIONS", pool.specializations.join(",")));
    }
    environment.extend(pool.secrets.iter().map(|(variable, key)| env_from_secret(variable, key)));
    environment
}

/// A variable of the same name replaces the one there is, unless it says what the agent is.
fn add_env(container: &mut Container, more: &[EnvVar]) {
    let env = container.env.get_or_insert_default();
    let ours = |name: &str| FIXED.contains(&name);
    for variable in more {
        match env.iter_mut().find(|known| known.name == variable.name) {
            Some(known) if !ours(&known.name) => known.clone_from(variable),
            Some(_) => {}
            None => env.push(variable.clone()),
        }
    }
}

/// The pool's own settings, and the restricted standard where they are silent.
fn security(given: Option<PodSecurityContext>) -> PodSecurityContext {
    let (mut security, default) = (given.unwrap_or_default(), pod::pod_security());
    security.run_as_non_root = security.run_as_non_root.or(default.run_as_non_root);
    security.run_as_user = security.run_as_user.or(default.run_as_user);
    security.run_as_group = security.run_as_group.or(default.run_as_group);
    security.fs_group = security.fs_group.or(default.fs_group);
    security.fs_group_change_policy = security.fs_group_change_policy.or(default.fs_group_change_policy);
    security.seccomp_profile = security.seccomp_profile.or(default.seccomp_profile);
    security
}

/// The pool's own, and a short stay on nodes that are gone unless they say how long.
fn tolerations(overrides: &PodOverrides) -> Vec<Toleration> {
    let mut tolerations = overrides.tolerations.clone();
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let said = |toleration: &Toleration| toleration.key.as_deref().is_none_or(|said| said == key);
        if !overrides.tolerations.iter().any(said) {
            tolerations.push(Toleration {
                key: Some(key.into()),
                operator: Some("Exists".into()),
                effect: Some("NoExecute".into()),
                toleration_seconds: Some(UNREACHABLE_SECONDS),
                value: None,
            });
        }
    }
    tolerations
}
