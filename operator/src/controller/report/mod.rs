//! The status and the events: what was observed and done, in the terms of the resource. Pure; the caller patches the
//! status and publishes the events.

mod audits;
mod conditions;
mod events;
mod recoveries;
mod schedules;
mod teams;
#[cfg(test)]
mod tests;
mod unmet;

use std::collections::BTreeSet;

pub(crate) use audits::audit_after;
pub use conditions::state;
pub use events::{EventRecord, Importance, Snapshot, happened};
use kube::ResourceExt;
use robeing_crds::{
    AgentCounts, CoordinatorCounts, Phase, PoolStatus, RobeingClusterStatus, ScheduleStatus, TaskCounts, TeamStatus,
    condition_types,
};
use robeing_proto::v1;
pub(crate) use unmet::due as unmet_due;

use crate::{
    controller::{identity::report::Report, observe::Observation, validate::ValidatedCluster},
    names::{self, Component},
    quorum::{rollout, scale},
};

/// What was decided and done in a reconciliation.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The fleet that was built; `None` if [`Outcome::unbuildable`] is set.
    pub fleet: Option<ValidatedCluster>,
    /// Why nothing was built.
    pub unbuildable: Option<String>,
    /// What could not be applied, as sentences.
    pub refused: Vec<String>,
    /// Whether something was applied in this reconciliation, or so recently that the cache does not show it yet.
    pub changing: bool,
    /// The plan for the number of coordinators.
    pub scale: scale::Plan,
    /// The step of the coordinators' rollout.
    pub rollout: rollout::Step,
    /// What the coordinators did not do when requested, as sentences.
    pub declined: Vec<String>,
    /// Whether an object of the fleet is not in its desired state, because the API server refuses it or someone else's
    /// object has its name.
    pub unapplied: bool,
    /// The existing and the desired number of coordinator pods, if pods have been missing for long.
    pub uncreated: Option<(u32, u32)>,
    /// Why the policies of the spec are not in force, as sentences.
    pub policies: Option<String>,
    /// Why what the spec says of kinds of tasks is not in force, as sentences.
    pub kinds: Option<String>,
    /// The teams of the fleet; `None` if nothing could be found out about them.
    pub teams: Option<Vec<TeamStatus>>,
    /// The schedules of the fleet; `None` if nothing could be found out about them.
    pub schedules: Option<Vec<ScheduleStatus>>,
    /// What was found of the fleet's identity.
    pub identity: Report,
}

impl Outcome {
    /// Returns the outcome if nothing is built, for this reason.
    pub(crate) fn unbuildable(why: String, identity: Report) -> Self {
        Self {
            fleet: None,
            unbuildable: Some(why),
            refused: vec![],
            changing: false,
            scale: scale::Plan::new(0, scale::Step::Settled),
            rollout: rollout::Step::Done,
            declined: vec![],
            unapplied: false,
            uncreated: None,
            policies: None,
            kinds: None,
            teams: None,
            schedules: None,
            identity,
        }
    }
}

/// How many agents a pool has and should have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolView {
    /// The pool's name.
    pub name: String,
    /// Number of live agents.
    pub live: u32,
    /// Number of standby agents.
    pub standby: u32,
    /// Desired number of agents, including standby agents.
    pub desired: u32,
    /// Number of ready pods of its Deployment.
    pub ready_pods: u32,
}

impl PoolView {
    /// Returns the number of agents that are in the fleet and have a ready pod.
    pub fn ready(&self) -> u32 {
        (self.live + self.standby).min(self.ready_pods)
    }
}

/// Returns the pools of the spec with their counts, including refused pools.
pub fn pools(observation: &Observation) -> Vec<PoolView> {
    let spec = &observation.cluster.spec;
    let agents = observation.agents();
    let count = |pool: &str, state: v1::AgentState| {
        let of = |agent: &&&v1::Agent| agent.pool == pool && agent.state() == state;
        u32::try_from(agents.values().filter(of).count()).unwrap_or(u32::MAX)
    };
    let view = |pool: &robeing_crds::Pool| {
        // The desired size of an autoscaled pool is the one that its Deployment was scaled to.
        let scaled = || observation.deployment(&pool.name).and_then(|live| live.number("/spec/replicas"));
        let ready_pods = observation.deployment(&pool.name).and_then(|live| live.number("/status/readyReplicas"));
        let desired = match spec.replicas_of(pool) {
            _ if spec.suspend => 0,
            Some(replicas) => replicas + pool.standby,
            None => scaled().unwrap_or(1),
        };
        PoolView {
            name: pool.name.clone(),
            live: count(&pool.name, v1::AgentState::Live),
            standby: count(&pool.name, v1::AgentState::Standby),
            desired,
            ready_pods: ready_pods.unwrap_or(0),
        }
    };
    spec.pools.iter().map(view).collect()
}

/// Returns the status of a cluster. Conditions whose status has not changed keep their times from `previous`.
pub fn status(
    observation: &Observation,
    outcome: &Outcome,
    previous: Option<&RobeingClusterStatus>,
) -> RobeingClusterStatus {
    let pools = pools(observation);
    let conditions = conditions::conditions(observation, outcome, &pools, previous);
    let answer = observation.fleet.as_ref().ok().map(|answer| &answer.status);
    let membership = observation.membership();
    let scaled = observation.cluster.spec.scaled_pool.as_deref();
    let selector = names::selector(&observation.name(), Component::Agent, scaled);
    let ready = count(observation.coordinator_pods().values().filter(|pod| pod.ready).count());
    let desired = observation.cluster.spec.coordinators.replicas;
    let mut status = RobeingClusterStatus {
        observed_generation: observation.cluster.metadata.generation,
        phase: None,
        leader: answer.map(|answer| answer.leader.clone()),
        // Terms only grow, so the last known one is still useful.
        term: answer.map(|answer| answer.term).or_else(|| previous?.term),
        agents: agents(&pools, others(observation)),
        coordinators: CoordinatorCounts {
            ready,
            desired,
            voters: membership.map_or_else(
                || previous.map_or(0, |previous| previous.coordinators.voters),
                |membership| count(membership.voter_count()),
            ),
            summary: of(ready, desired),
        },
        tasks: answer.map_or_else(|| previous.map(|previous| previous.tasks.clone()).unwrap_or_default(), tasks),
        pools: pools
            .iter()
            .map(|pool| PoolStatus { name: pool.name.clone(), ready: pool.live + pool.standby, desired: pool.desired })
            .collect(),
        teams: outcome.teams.clone().or_else(|| previous.map(|previous| previous.teams.clone())).unwrap_or_default(),
        schedules: outcome.schedules.clone().or_else(|| Some(previous?.schedules.clone())).unwrap_or_default(),
        replicas: scaled.map_or(0, |name| scaled_replicas(observation, name)),
        selector: Some(names::selector_text(&selector)),
        image: match &outcome.fleet {
            Some(fleet) => fleet.image_is_default.then(|| fleet.image.clone()),
            None => previous.and_then(|previous| previous.image.clone()),
        },
        conditions,
    };
    status.phase = Some(phase(&status, previous));
    status
}

/// Returns the part of a status that the operator owns. Others may add conditions of their own to a status.
pub fn own(status: &RobeingClusterStatus) -> RobeingClusterStatus {
    let said = |of: &&str| status.conditions.iter().find(|condition| condition.type_ == *of).cloned();
    let conditions = conditions::TYPES.iter().filter_map(said).collect();
    RobeingClusterStatus { conditions, ..status.clone() }
}

/// Formats how many of something are ready, for `kubectl get`.
fn of(ready: u32, desired: u32) -> String {
    format!("{ready}/{desired}")
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Returns the size of a pool without its standby agents, as autoscalers count it: by pods, whether ready or not.
fn scaled_replicas(observation: &Observation, name: &str) -> u32 {
    let standby = observation.cluster.spec.pools.iter().find(|pool| pool.name == name).map_or(0, |pool| pool.standby);
    let pods = observation.deployment(name).and_then(|live| live.number("/status/replicas"));
    pods.unwrap_or(0).saturating_sub(standby)
}

/// Returns the number of agents in a session that belong to none of the pools. Agents whose pods belong to a pool don't
/// count: they join it once a process attaches to them.
fn others(observation: &Observation) -> u32 {
    let pools: BTreeSet<&str> = observation.cluster.spec.pools.iter().map(|pool| pool.name.as_str()).collect();
    let pods: BTreeSet<String> = observation.pods_of(Component::Agent, None).map(|pod| pod.name_any()).collect();
    let other = |agent: &&&v1::Agent| {
        let here = !matches!(agent.state(), v1::AgentState::Lost | v1::AgentState::Unspecified);
        here && !pools.contains(agent.pool.as_str()) && !pods.contains(&agent.name)
    };
    count(observation.agents().values().filter(other).count())
}

fn agents(pools: &[PoolView], other: u32) -> AgentCounts {
    let mut counts = AgentCounts { other, ..AgentCounts::default() };
    for pool in pools {
        counts.ready += pool.live + pool.standby;
        counts.standby += pool.standby;
        counts.desired += pool.desired;
    }
    counts.summary = of(counts.ready, counts.desired);
    if other > 0 {
        counts.summary = format!("{}+{other}", counts.summary);
    }
    counts
}

fn tasks(status: &v1::FleetStatus) -> TaskCounts {
    let (kept, total) = (status.tasks.unwrap_or_default(), status.finished_total.unwrap_or_default());
    TaskCounts {
        queued: kept.queued,
        running: kept.running,
        succeeded: total.succeeded,
        // Both ended without a result.
        failed: total.failed + total.dead_lettered,
    }
}

fn phase(status: &RobeingClusterStatus, previous: Option<&RobeingClusterStatus>) -> Phase {
    let is = |of: &str| state(status, of) == Some("True");
    let had_leader = previous.is_some_and(|previous| previous.term.is_some());
    if is(condition_types::SUSPENDED) {
        Phase::Suspended
    } else if is(condition_types::DEGRADED) {
        Phase::Degraded
    } else if !is(condition_types::QUORUM_HEALTHY) {
        if had_leader { Phase::Degraded } else { Phase::Pending }
    } else if is(condition_types::PROGRESSING) || !is(condition_types::READY) {
        Phase::Progressing
    } else {
        Phase::Running
    }
}
