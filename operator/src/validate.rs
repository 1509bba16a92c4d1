//! From the resource to a validated fleet, the only input of `build`. The schema has refused most nonsense before; what is
//! left is what this version cannot run, and what only the whole pod can tell. Pure.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::core::v1::{Container, ResourceRequirements};
use kube::{Resource, ResourceExt};
use robeing_crds::{Executor, PodOverrides, Pool, Recovery, RobeingCluster, Role, SecretKey, Storage, Weights};

use crate::names;

/// How long an agent that is stopped has for its tasks, unless its template says otherwise.
pub const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// What a pod gets beyond its drain timeout, so that what was handed back is also said.
pub const DRAIN_MARGIN: Duration = Duration::from_secs(10);

/// The operator's own part in what is built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Surroundings {
    /// The image of a cluster whose spec names none.
    pub default_image: String,
    /// The operator's namespace, from which it must reach the coordinators.
    pub operator_namespace: String,
}

/// A cluster that can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct Fleet {
    /// Name of the cluster.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid, for owner references.
    pub uid: String,
    /// The Robeing image.
    pub image: String,
    /// The spec names no image: [`Fleet::image`] is kept for the cluster's life.
    pub image_is_default: bool,
    /// Coordinators there should be, 1..=7.
    pub coordinators: u32,
    /// Disk of each; `None`: the log is lost with the pod.
    pub storage: Option<Storage>,
    /// Of each coordinator.
    pub resources: Option<ResourceRequirements>,
    /// The pools that are built.
    pub pools: Vec<FleetPool>,
    /// The pools that are not, with the reason.
    pub refused: Vec<RefusedPool>,
    /// Of the score of an agent for a task.
    pub weights: Weights,
    /// How losses are noticed.
    pub recovery: Recovery,
    /// No agents for now.
    pub suspend: bool,
    /// See [`Surroundings::operator_namespace`].
    pub operator_namespace: String,
}

/// A pool that can be built.
#[derive(Clone, Debug, PartialEq)]
pub struct FleetPool {
    /// Its name.
    pub name: String,
    /// What its agents are for.
    pub role: Role,
    /// Their skills.
    pub specializations: Vec<String>,
    /// Agents that work; `None`: an autoscaler decides.
    pub replicas: Option<u32>,
    /// Agents that wait.
    pub standby: u32,
    /// Tasks an agent runs at once.
    pub slots: u32,
    /// What running a task means.
    pub work: Work,
    /// The executor in the form the agent reads.
    pub executor: String,
    /// The environment variables that it reads, and what is in them.
    pub secrets: Vec<(String, SecretKey)>,
    /// Of the container that tasks run in.
    pub resources: Option<ResourceRequirements>,
    /// What is different about its pods.
    pub template: PodOverrides,
    /// How long an agent that is stopped has for its tasks.
    pub drain_timeout: Duration,
    /// How long its pod has.
    pub grace: Duration,
}

impl FleetPool {
    /// Pods there should be; `None`: an autoscaler decides.
    pub fn pods(&self, suspend: bool) -> Option<u32> {
        if suspend { Some(0) } else { self.replicas.map(|replicas| replicas.saturating_add(self.standby)) }
    }
}

/// Where tasks run.
#[derive(Clone, Debug, PartialEq)]
pub enum Work {
    /// In the agent, of the Robeing image.
    InAgent,
    /// In the user's container, with the agent as its entrypoint.
    InUserContainer(Box<Container>),
    /// In the user's container beside the agent.
    BesideAgent {
        /// The user's container.
        container: Box<Container>,
        /// Where its process attaches to the agent, host:port; `None`: the agent calls it.
        attaches_at: Option<String>,
    },
}

/// A pool that is not built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedPool {
    /// Its name.
    pub name: String,
    /// Why, as a condition's reason.
    pub reason: &'static str,
    /// Why, and what to do, as a sentence.
    pub message: String,
}

/// A cluster of which nothing can be built.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unbuildable {
    /// The API server gives every object both.
    #[error("the RobeingCluster has no {0}, which the API server gives to every object")]
    NoIdentity(&'static str),
    /// Neither the spec nor the operator knows an image.
    #[error("no image: set spec.image, or start the operator with --image")]
    NoImage,
}

/// The fleet that a cluster describes. `kept_image` is what a running fleet without an image in its spec was made with.
pub fn validate(
    cluster: &RobeingCluster,
    surroundings: &Surroundings,
    kept_image: Option<&str>,
) -> Result<Fleet, Unbuildable> {
    let uid = cluster.meta().uid.clone().ok_or(Unbuildable::NoIdentity("uid"))?;
    let namespace = cluster.namespace().ok_or(Unbuildable::NoIdentity("namespace"))?;
    let spec = &cluster.spec;
    let default_image = kept_image.unwrap_or(&surroundings.default_image);
    let image = spec.image.as_deref().unwrap_or(default_image);
    if image.is_empty() {
        return Err(Unbuildable::NoImage);
    }
    let (mut pools, mut refused) = (Vec::new(), Vec::new());
    for pool in &spec.pools {
        match fleet_pool(pool) {
            Ok(pool) => pools.push(pool),
            Err((reason, message)) => refused.push(RefusedPool { name: pool.name.clone(), reason, message }),
        }
    }
    Ok(Fleet {
        name: cluster.name_any(),
        namespace,
        uid,
        image: image.to_owned(),
        image_is_default: spec.image.is_none(),
        coordinators: spec.coordinators.replicas,
        storage: spec.coordinators.storage.clone(),
        resources: spec.coordinators.resources.clone(),
        pools,
        refused,
        weights: spec.scheduling.weights.clone(),
        recovery: spec.recovery.clone(),
        suspend: spec.suspend,
        operator_namespace: surroundings.operator_namespace.clone(),
    })
}

fn fleet_pool(pool: &Pool) -> Result<FleetPool, (&'static str, String)> {
    let work = work(pool)?;
    let template = pool.template.clone().unwrap_or_default();
    volumes_are_free(pool, &template)?;
    let (drain_timeout, grace) = match template.termination_grace_period_seconds {
        None => (DRAIN_TIMEOUT, DRAIN_TIMEOUT + DRAIN_MARGIN),
        Some(seconds) => {
            let grace = Duration::from_secs(seconds.unsigned_abs());
            (grace.saturating_sub(DRAIN_MARGIN).max(grace / 2), grace)
        }
    };
    let executor = pool
        .executor
        .to_agent_json()
        .map_err(|error| ("InvalidPool", format!("The executor of pool {:?} has no JSON form: {error}.", pool.name)))?;
    Ok(FleetPool {
        name: pool.name.clone(),
        role: pool.role,
        specializations: pool.specializations.clone(),
        replicas: pool.replicas,
        standby: pool.standby,
        slots: pool.slots,
        work,
        executor,
        secrets: pool.executor.secrets().into_iter().map(|(variable, key)| (variable, key.clone())).collect(),
        resources: pool.resources.clone(),
        template,
        drain_timeout,
        grace,
    })
}

fn work(pool: &Pool) -> Result<Work, (&'static str, String)> {
    let container = pool.container.clone().map(Box::new);
    match (&pool.executor, container) {
        (Executor::Worker {}, None) => Err((
            "NoContainer",
            format!(
                "Pool {:?} is not built: with the worker executor a process of yours runs the tasks; set container to what \
                 it runs in.",
                pool.name
            ),
        )),
        (Executor::Command(_), Some(container)) if container.command.is_some() || container.args.is_some() => Err((
            "ContainerCommandIgnored",
            format!(
                "Pool {:?} is not built: with the command executor the agent is the container's entrypoint, so \
                 container.command and container.args cannot count; remove them and put the program in \
                 executor.command.argv.",
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
            let attaches_at = Some(worker_address(pool, &container));
            Ok(Work::BesideAgent { container, attaches_at })
        }
        (Executor::Command(_), Some(container)) => Ok(Work::InUserContainer(container)),
        // Something about the container but no other image: it is the agent's own container.
        (Executor::Echo {}, Some(container)) => Ok(Work::InUserContainer(container)),
        (Executor::Command(_) | Executor::Http(_) | Executor::Echo {}, None) => Ok(Work::InAgent),
    }
}

/// Where the process attaches: where its environment says, so that a port that it needs itself can be left to it.
fn worker_address(pool: &Pool, container: &Container) -> String {
    let of_template = pool.template.iter().flat_map(|template| &template.env);
    let said =
        of_template.chain(container.env.iter().flatten()).find(|variable| variable.name == names::WORKER_ADDRESS);
    let said = said.and_then(|variable| variable.value.clone()).filter(|address| !address.is_empty());
    said.unwrap_or_else(|| names::DEFAULT_WORKER_ADDRESS.to_owned())
}

fn volumes_are_free(pool: &Pool, template: &PodOverrides) -> Result<(), (&'static str, String)> {
    let mut names = BTreeSet::from([crate::build::AGENT_VOLUME]);
    match template.volumes.iter().find(|volume| !names.insert(volume.name.as_str())) {
        None => Ok(()),
        Some(volume) => Err((
            "VolumeNameTaken",
            format!(
                "Pool {:?} is not built: its template has two volumes of the name {:?}, or the name is the operator's own; \
                 rename one.",
                pool.name, volume.name
            ),
        )),
    }
}

/// The agents' ServiceAccount of a pool.
pub fn service_account(fleet: &Fleet, pool: &FleetPool) -> String {
    pool.template.service_account_name.clone().unwrap_or_else(|| names::pool(&fleet.name, &pool.name))
}
