//! Turns the resource into a validated fleet, the only input of `build`. The schema already rejects most invalid specs;
//! what remains is what this version can't run, and what depends on the whole pod. Pure.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::{
    api::core::v1::{Container, LocalObjectReference, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{Resource, ResourceExt};
use robeing_crds::{
    AgentPorts, Consensus, Enrolment, Executor, Gateway, ImagePullPolicy, Messages, ObjectStorage, PodOverrides, Pool,
    Recovery, RobeingCluster, Role, SecretKey, Storage, Weights,
};
use robeing_settings::{
    Contribute, ExecutorSpec, MessagesSpec,
    settings::{DRAIN_TIMEOUT, WORKER_ADDRESS},
};

pub use crate::quorum::transport::Transport;
use crate::{controller::ports, names};

/// How much longer a pod's grace period is than its drain timeout, so that the agent can report the tasks that it hands
/// back; at most half of the grace period.
pub const DRAIN_MARGIN: Duration = Duration::from_secs(10);

/// The settings of the operator that the built objects depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperatorContext {
    /// The image of a cluster whose spec names none.
    pub default_image: String,
    /// The operator's namespace, from which it must reach the coordinators.
    pub operator_namespace: String,
}

/// What agents prove themselves with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Proof {
    /// A token of their ServiceAccount.
    #[default]
    Token,
    /// The join secret of their pool, where the issuer of tokens is not known.
    JoinSecret,
}

/// What was decided about the identity of a fleet's members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetIdentity {
    /// How they connect.
    pub transport: Transport,
    /// What agents prove themselves with.
    pub proof: Proof,
    /// The trusted authorities, PEM; empty while they are not known.
    pub trust: String,
}

/// What a running fleet keeps from its creation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Kept {
    /// The image of a cluster whose spec names none.
    pub image: Option<String>,
    /// The size of the disks in the StatefulSet, which can't be changed there.
    pub claim_size: Option<Quantity>,
    /// What was decided about the identity of its members.
    pub identity: FleetIdentity,
}

/// A cluster that can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct ValidatedCluster {
    /// The cluster's name.
    pub name: String,
    /// The cluster's namespace.
    pub namespace: String,
    /// The cluster's uid, for owner references.
    pub uid: String,
    /// The Robeing image.
    pub image: String,
    /// Whether the spec names no image: then [`ValidatedCluster::image`] is kept for the cluster's lifetime.
    pub image_is_default: bool,
    /// When nodes pull the Robeing image; `None`: it depends on the tag.
    pub image_pull_policy: Option<ImagePullPolicy>,
    /// Secrets for pulling images, for all pods.
    pub image_pull_secrets: Vec<LocalObjectReference>,
    /// Desired number of coordinators, 1..=7.
    pub coordinators: u32,
    /// The disk of each coordinator; `None`: the log is lost with the pod.
    pub storage: Option<Storage>,
    /// Size of the disks in the StatefulSet, as it was created. Disks that should be larger are grown afterwards.
    pub claim_size: Quantity,
    /// The resources of each coordinator.
    pub resources: Option<ResourceRequirements>,
    /// The overrides of the coordinators' pods.
    pub coordinator_template: PodOverrides,
    /// The pools that are built.
    pub pools: Vec<FleetPool>,
    /// The pools that are not built, with the reasons.
    pub refused: Vec<RefusedPool>,
    /// The weights of an agent's score for a task.
    pub weights: Weights,
    /// The defaults of ballots.
    pub consensus: Consensus,
    /// The settings of failure detection and recovery.
    pub recovery: Recovery,
    /// What messengers call outside the fleet.
    pub gateway: Gateway,
    /// The object store for large inputs and outputs.
    pub object_storage: Option<ObjectStorage>,
    /// What agents need to join the fleet.
    pub enrolment: Enrolment,
    /// The trust domain in the names of the members.
    pub trust_domain: String,
    /// How the members connect, and what they prove themselves with.
    pub identity: FleetIdentity,
    /// Whether the fleet is suspended and runs no agents.
    pub suspend: bool,
    /// See [`OperatorContext::operator_namespace`].
    pub operator_namespace: String,
}

/// A pool that can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetPool {
    /// The pool's name.
    pub name: String,
    /// The role of its agents.
    pub role: Role,
    /// The specializations of its agents.
    pub specializations: Vec<String>,
    /// Desired number of live agents; `None`: an autoscaler decides.
    pub replicas: Option<u32>,
    /// Desired number of standby agents.
    pub standby: u32,
    /// How many tasks an agent runs at once.
    pub slots: u32,
    /// What an agent contributes to the fleet's resource pool.
    pub contribution: Contribute,
    /// The port at which the coordinators reach its agents.
    pub grpc_port: i32,
    /// The port at which its agents serve metrics and probes.
    pub metrics_port: i32,
    /// Where tasks run.
    pub work: Work,
    /// The executor, in the form that agents accept.
    pub executor: ExecutorSpec,
    /// What its agents do with messages, in the form that agents accept; `None`: what they do by default.
    pub messages: Option<MessagesSpec>,
    /// The environment variables that the executor reads, and the Secret keys that they contain.
    pub secrets: Vec<(String, SecretKey)>,
    /// The resources of the container that tasks run in.
    pub resources: Option<ResourceRequirements>,
    /// The overrides of its pods.
    pub template: PodOverrides,
    /// How long a stopped agent has to finish its tasks.
    pub drain_timeout: Duration,
    /// The termination grace period of its pods.
    pub grace: Duration,
}

impl FleetPool {
    /// Returns the desired number of pods; `None`: an autoscaler decides.
    pub fn pods(&self, suspend: bool) -> Option<u32> {
        if suspend { Some(0) } else { self.replicas.map(|replicas| replicas.saturating_add(self.standby)) }
    }
}

/// Where tasks run.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// In the agent's own container, with the Robeing image.
    InAgent,
    /// In the user's container, with the agent as its entrypoint.
    InUserContainer(Box<Container>),
    /// In the user's container beside the agent.
    BesideAgent {
        /// The user's container.
        container: Box<Container>,
        /// The address at which its process attaches to the agent, host:port; `None`: the agent calls the process.
        attaches_at: Option<String>,
    },
}

/// A pool that is not built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedPool {
    /// The pool's name.
    pub name: String,
    /// The reason for a condition.
    pub reason: &'static str,
    /// The cause and the remedy, as a sentence.
    pub message: String,
    /// The ServiceAccount that its template names, which its remaining agents still need.
    pub account: Option<String>,
}

/// Why nothing of a cluster can be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unbuildable {
    /// The uid or the namespace is missing; the API server sets both for every object.
    #[error("the RobeingCluster has no {0}, which the API server gives to every object")]
    NoIdentity(&'static str),
    /// Neither the spec nor the operator's settings name an image.
    #[error("no image: set spec.image, or start the operator with --image")]
    NoImage,
    /// The coordinators' template is contradictory.
    #[error("{0}")]
    Coordinators(String),
}

/// Returns the fleet that a cluster describes.
pub fn validate(
    cluster: &RobeingCluster,
    operator_context: &OperatorContext,
    kept: &Kept,
) -> Result<ValidatedCluster, Unbuildable> {
    let uid = cluster.meta().uid.clone().ok_or(Unbuildable::NoIdentity("uid"))?;
    let namespace = cluster.namespace().ok_or(Unbuildable::NoIdentity("namespace"))?;
    let spec = &cluster.spec;
    let default_image = kept.image.as_deref().unwrap_or(&operator_context.default_image);
    let image = spec.image.as_deref().unwrap_or(default_image);
    if image.is_empty() {
        return Err(Unbuildable::NoImage);
    }
    let coordinator_template = spec.coordinators.template.clone().unwrap_or_default();
    let [identity, api] = crate::controller::build::COORDINATOR_VOLUMES;
    if let Some(name) = taken_volume(&coordinator_template, &[names::DATA_VOLUME, identity, api]) {
        return Err(Unbuildable::Coordinators(format!(
            "the template of the coordinators has two volumes named {name:?}, or the operator uses the name itself; rename one"
        )));
    }
    let storage = spec.coordinators.storage.clone();
    let claim_size = kept.claim_size.clone().or_else(|| storage.as_ref().map(|storage| storage.size.clone()));
    let (mut pools, mut refused) = (Vec::new(), Vec::new());
    for pool in &spec.pools {
        match fleet_pool(pool, &spec.gateway, spec.replicas_of(pool), image) {
            Ok(pool) => pools.push(pool),
            Err((reason, message)) => {
                let account = pool.template.as_ref().and_then(|template| template.service_account_name.clone());
                refused.push(RefusedPool { name: pool.name.clone(), reason, message, account });
            }
        }
    }
    Ok(ValidatedCluster {
        name: cluster.name_any(),
        namespace,
        uid,
        image: image.to_owned(),
        image_is_default: spec.image.is_none(),
        image_pull_policy: spec.image_pull_policy,
        image_pull_secrets: spec.image_pull_secrets.clone(),
        gateway: spec.gateway.clone(),
        object_storage: spec.storage.clone(),
        coordinators: spec.coordinators.replicas,
        storage,
        claim_size: claim_size.unwrap_or_default(),
        coordinator_template,
        resources: spec.coordinators.resources.clone(),
        pools,
        refused,
        weights: spec.scheduling.weights.clone(),
        consensus: spec.consensus.clone(),
        recovery: spec.recovery.clone(),
        enrolment: spec.identity.enrolment,
        trust_domain: spec.identity.trust_domain.clone(),
        identity: kept.identity.clone(),
        suspend: spec.suspend,
        operator_namespace: operator_context.operator_namespace.clone(),
    })
}

fn fleet_pool(
    pool: &Pool,
    gateway: &Gateway,
    replicas: Option<u32>,
    image: &str,
) -> Result<FleetPool, (&'static str, String)> {
    let agent_ports = pool.agent_ports.unwrap_or_default();
    if let Some((field, problem)) = pool.executor.problem() {
        return Err(("InvalidPool", format!("Pool {:?} is not built: executor.{field}: {problem}", pool.name)));
    }
    if let Some((field, problem)) = gateway.problem().filter(|_| pool.role == Role::Messenger) {
        return Err(("InvalidGateway", format!("Pool {:?} is not built: gateway.{field}: {problem}", pool.name)));
    }
    if let Some((field, problem)) = pool.messages.as_ref().and_then(Messages::problem) {
        return Err(("InvalidPool", format!("Pool {:?} is not built: messages.{field}: {problem}", pool.name)));
    }
    let work = work(pool, agent_ports)?;
    let template = pool.template.clone().unwrap_or_default();
    volumes_are_free(pool, &template)?;
    mounts_are_free(pool, &work, image)?;
    ports::are_free(pool, agent_ports, &work)?;
    let (drain_timeout, grace) = match template.termination_grace_period_seconds {
        None => (DRAIN_TIMEOUT.default, DRAIN_TIMEOUT.default + DRAIN_MARGIN),
        Some(seconds) => {
            let grace = Duration::from_secs(seconds.unsigned_abs());
            (grace.saturating_sub(DRAIN_MARGIN).max(grace / 2), grace)
        }
    };
    Ok(FleetPool {
        name: pool.name.clone(),
        role: pool.role,
        specializations: pool.specializations.clone(),
        replicas,
        standby: pool.standby,
        slots: pool.slots,
        contribution: pool.contribution(),
        grpc_port: number(agent_ports.grpc),
        metrics_port: number(agent_ports.metrics),
        work,
        executor: pool.executor.for_agents(),
        messages: pool.messages.as_ref().map(Messages::for_agents),
        secrets: pool.executor.secrets().into_iter().map(|(variable, key)| (variable, key.clone())).collect(),
        resources: pool.resources.clone(),
        template,
        drain_timeout,
        grace,
    })
}

/// Converts a port, which the schema keeps in range.
fn number(port: u32) -> i32 {
    i32::try_from(port).unwrap_or(i32::MAX)
}

fn work(pool: &Pool, agent_ports: AgentPorts) -> Result<Work, (&'static str, String)> {
    let container = pool.container.clone().map(Box::new);
    match (&pool.executor, container) {
        (Executor::Worker {}, None) => Err((
            "NoContainer",
            format!(
                "Pool {:?} is not built: with the worker executor your own process runs the tasks; set container to \
                 the container of that process.",
                pool.name
            ),
        )),
        (Executor::Command(_), Some(container)) if container.command.is_some() || container.args.is_some() => Err((
            "ContainerCommandIgnored",
            format!(
                "Pool {:?} is not built: with the command executor the agent is the container's entrypoint, so \
                 container.command and container.args would be ignored; remove them and put the program in \
                 executor.command.argv.",
                pool.name
            ),
        )),
        (Executor::Echo {}, Some(container)) if container.command.is_some() || container.args.is_some() => Err((
            "ContainerCommandIgnored",
            format!(
                "Pool {:?} is not built: with the echo executor the agent is the container's entrypoint, so container.command \
                 and container.args would be ignored; remove them, or choose the executor that runs your program.",
                pool.name
            ),
        )),
        (Executor::Http(_) | Executor::Worker {}, Some(container)) if container.image.is_none() => Err((
            "NoImage",
            format!(
                "Pool {:?} is not built: the container beside the agent needs an image; set container.image.",
                pool.name
            ),
        )),
        (Executor::Http(_), Some(container)) => Ok(Work::BesideAgent { container, attaches_at: None }),
        (Executor::Worker {}, Some(container)) => {
            let attaches_at = Some(worker_address(pool, &container, agent_ports)?);
            Ok(Work::BesideAgent { container, attaches_at })
        }
        (Executor::Command(_), Some(container)) => Ok(Work::InUserContainer(container)),
        // The echo executor runs no program: `container` configures the agent's own container.
        (Executor::Echo {}, Some(container)) => Ok(Work::InUserContainer(container)),
        (Executor::Command(_) | Executor::Http(_) | Executor::Echo {}, None) => Ok(Work::InAgent),
    }
}

/// Returns the address at which the process attaches: the one in its environment, if any, so that the agent can avoid a
/// port that the process needs itself.
fn worker_address(
    pool: &Pool,
    container: &Container,
    agent_ports: AgentPorts,
) -> Result<String, (&'static str, String)> {
    let of_template = pool.template.iter().flat_map(|template| &template.env);
    let said = of_template.chain(container.env.iter().flatten()).find(|variable| variable.name == WORKER_ADDRESS);
    let said = said.and_then(|variable| variable.value.clone()).filter(|address| !address.is_empty());
    match said {
        None => Ok(format!("127.0.0.1:{}", agent_ports.attach)),
        Some(address) if ports::of_local_address(&address).is_some() => Ok(address),
        Some(address) => Err((
            "InvalidPool",
            format!(
                "Pool {:?} is not built: {} is {address:?}, which is not a host:port of the loopback interface; set it to one \
                 such as 127.0.0.1:9000, or remove it and set agentPorts.attach.",
                pool.name, WORKER_ADDRESS
            ),
        )),
    }
}

fn volumes_are_free(pool: &Pool, template: &PodOverrides) -> Result<(), (&'static str, String)> {
    let own =
        [crate::controller::build::AGENT_VOLUME, names::IDENTITY_VOLUME, names::JOURNAL_VOLUME, names::WEBHOOKS_VOLUME];
    match taken_volume(template, &own) {
        None => Ok(()),
        Some(name) => Err((
            "VolumeNameTaken",
            format!(
                "Pool {:?} is not built: its template has two volumes named {name:?}, or the operator uses the name itself; \
                 rename one.",
                pool.name
            ),
        )),
    }
}

/// Returns whether the agent's program is copied into the pool's container, since that does not use the Robeing image.
pub(crate) fn is_copied(container: &Container, image: &str) -> bool {
    container.image.as_deref().is_some_and(|own| own != image)
}

fn mounts_are_free(pool: &Pool, work: &Work, image: &str) -> Result<(), (&'static str, String)> {
    let Work::InUserContainer(container) = work else { return Ok(()) };
    let is_taken = |path: &str| match path.trim_end_matches('/') {
        names::AGENT_DIRECTORY => is_copied(container, image),
        path => [names::IDENTITY_DIRECTORY, names::JOURNAL_DIRECTORY, names::WEBHOOKS_DIRECTORY].contains(&path),
    };
    let mut mounts = container.volume_mounts.iter().flatten();
    match mounts.find(|mount| is_taken(&mount.mount_path)) {
        None => Ok(()),
        Some(mount) => Err((
            "MountPathTaken",
            format!(
                "Pool {:?} is not built: its container mounts volume {:?} at {}, where the agent's own files are; mount it \
                 somewhere else.",
                pool.name, mount.name, mount.mount_path
            ),
        )),
    }
}

/// Returns a name that two volumes of a template have, or that the operator uses itself.
fn taken_volume<'a>(template: &'a PodOverrides, own: &[&'a str]) -> Option<&'a str> {
    let mut names: BTreeSet<&str> = own.iter().copied().collect();
    template.volumes.iter().map(|volume| volume.name.as_str()).find(|name| !names.insert(name))
}

/// Returns the name of the coordinators' ServiceAccount.
pub fn coordinators_account(fleet: &ValidatedCluster) -> String {
    let own = || names::coordinators(&fleet.name);
    fleet.coordinator_template.service_account_name.clone().unwrap_or_else(own)
}

/// Returns the name of the ServiceAccount of a pool's agents.
pub fn service_account(fleet: &ValidatedCluster, pool: &FleetPool) -> String {
    pool.template.service_account_name.clone().unwrap_or_else(|| names::pool(&fleet.name, &pool.name))
}
