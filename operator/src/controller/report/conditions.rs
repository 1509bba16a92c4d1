//! The seven conditions, each with a machine-readable reason and a human-readable message. A condition's transition time
//! changes only with its status.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use robeing_crds::{RobeingClusterStatus, condition_types as types};
use robeing_proto::v1;
use serde_json::Value;

use super::{Outcome, PoolView, others, unmet};
use crate::{
    controller::{
        build::EPHEMERAL_WARNING,
        health::{self, Failure},
        observe::{Live, Observation},
        quantity,
    },
    names::{self, Component},
    quorum::{rollout::Step as Rollout, scale::Step as Scale},
};

/// Maximum length of a condition's message, in characters; the API server accepts 32,768.
pub const MAX_MESSAGE: usize = 1_024;

/// Maximum length of a reason that is taken from a coordinator, in bytes; the API server accepts 1,024.
const MAX_REASON: usize = 64;

/// The conditions that the operator sets.
pub(super) const TYPES: [&str; 7] = [
    types::READY,
    types::PROGRESSING,
    types::DEGRADED,
    types::QUORUM_HEALTHY,
    types::SUSPENDED,
    types::IDENTITY,
    types::TASKS_SCHEDULABLE,
];

/// The message if the spec asks for smaller disks than exist.
const LARGER_DISKS: &str =
    "Disks of coordinators are larger than spec.coordinators.storage.size and remain so, since no disk can shrink.";

/// Maximum number of agents that one message names.
const MOST_NAMED: usize = 3;

/// The content of a condition.
pub(super) struct Said {
    state: &'static str,
    reason: Cow<'static, str>,
    message: String,
}

pub(super) fn said(state: &'static str, reason: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Said {
    Said { state, reason: reason.into(), message: message.into() }
}

/// Returns the status of a condition: `True`, `False` or `Unknown`; `None` if there is no such condition.
pub fn state<'a>(status: &'a RobeingClusterStatus, of: &str) -> Option<&'a str> {
    status.conditions.iter().find(|condition| condition.type_ == of).map(|condition| condition.status.as_str())
}

pub(super) fn conditions(
    observation: &Observation,
    outcome: &Outcome,
    pools: &[PoolView],
    previous: Option<&RobeingClusterStatus>,
) -> Vec<Condition> {
    let quorum = quorum_healthy(observation, previous);
    let degraded = degraded(observation, outcome, previous);
    let progressing = progressing(observation, outcome, pools, previous);
    let suspended = suspended(observation, pools);
    let ready = ready(observation, outcome, pools, &quorum);
    let (state, reason, message) = outcome.identity.condition(&observation.cluster);
    let identity = said(state, reason, message);
    let told = [
        (types::READY, ready),
        (types::PROGRESSING, progressing),
        (types::DEGRADED, degraded),
        (types::QUORUM_HEALTHY, quorum),
        (types::SUSPENDED, suspended),
        (types::IDENTITY, identity),
        (types::TASKS_SCHEDULABLE, unmet::schedulable(observation, previous)),
    ];
    let condition = |(of, said): (&str, Said)| {
        let before = previous.and_then(|previous| previous.conditions.iter().find(|condition| condition.type_ == of));
        let since =
            before.filter(|before| before.status == said.state).map(|before| before.last_transition_time.clone());
        Condition {
            type_: of.to_owned(),
            status: said.state.to_owned(),
            reason: said.reason.into_owned(),
            message: said.message.chars().take(MAX_MESSAGE).collect(),
            observed_generation: observation.cluster.metadata.generation,
            last_transition_time: since.unwrap_or_else(|| Time(whole_second(observation.now))),
        }
    };
    told.into_iter().map(condition).collect()
}

/// Truncates a time to whole seconds, as the API server does; otherwise it would differ from what is read back.
fn whole_second(at: k8s_openapi::jiff::Timestamp) -> k8s_openapi::jiff::Timestamp {
    k8s_openapi::jiff::Timestamp::from_second(at.as_second()).unwrap_or(at)
}

fn quorum_healthy(observation: &Observation, previous: Option<&RobeingClusterStatus>) -> Said {
    match (&observation.fleet, observation.membership()) {
        (Ok(answer), Some(membership)) => {
            let (voters, healthy) = (membership.voter_count(), membership.healthy_count());
            let leads = format!("{} leads in term {}", membership.leader, answer.status.term);
            if healthy >= membership.majority() {
                said("True", "LeaderElected", format!("{leads}; {healthy} of {voters} voters are up and caught up."))
            } else {
                said("False", "VotersBehind", format!("{leads}, but only {healthy} of {voters} voters are caught up."))
            }
        }
        _ if previous.is_none_or(|previous| previous.term.is_none()) => {
            said("False", "Starting", "The coordinators have not elected a leader yet.")
        }
        _ => {
            let ready = observation.coordinator_pods().values().filter(|pod| pod.ready).count();
            let wanted = observation.cluster.spec.coordinators.replicas;
            said(
                "False",
                "NoLeader",
                format!(
                    "No coordinator leads a majority, so no tasks are accepted; {ready} of {wanted} coordinator pods \
                     are ready. Tasks that were accepted are kept."
                ),
            )
        }
    }
}

/// Reports agents that are in the fleet but can't work.
fn unhealthy(observation: &Observation) -> Option<Said> {
    let agents = observation.agents();
    let unhealthy: Vec<_> =
        agents.values().filter(|agent| agent.state() == v1::AgentState::Unhealthy).copied().collect();
    let count = match unhealthy.len() {
        0 => return None,
        1 => "1 agent is".to_owned(),
        count => format!("{count} agents are"),
    };
    let told = unhealthy.iter().take(MOST_NAMED).map(|agent| format!("{} ({})", agent.name, agent.unhealthy_reason));
    let told: Vec<String> = told.collect();
    let more = if unhealthy.len() > MOST_NAMED { ", …" } else { "" };
    let message = format!("{count} unhealthy and given no tasks: {}{more}.", told.join(", "));
    Some(said("True", "AgentsUnhealthy", message))
}

/// Reports everything that is wrong, the most severe problem first; the condition has the reason of the first one.
fn degraded(observation: &Observation, outcome: &Outcome, previous: Option<&RobeingClusterStatus>) -> Said {
    let mut wrong = Vec::new();
    if let Some(why) = &outcome.unbuildable {
        wrong.push(said("True", "SpecRefused", format!("Nothing is built: {why}.")));
    }
    let refused = outcome.fleet.iter().flat_map(|fleet| &fleet.refused);
    wrong.extend(refused.map(|pool| said("True", pool.reason, pool.message.clone())));
    wrong.extend(outcome.identity.problems.iter().map(|found| said("True", found.reason, found.message.clone())));
    wrong.extend(outcome.policies.iter().map(|why| said("True", "PoliciesNotInForce", why.clone())));
    wrong.extend(outcome.kinds.iter().map(|why| said("True", "TaskKindsNotInForce", why.clone())));
    wrong.extend(outcome.refused.iter().map(|why| said("True", "ApplyFailed", format!("{why}."))));
    wrong.extend(outcome.uncreated.map(|made| uncreated(observation, made)));
    if let Rollout::Paused { reason, message } = &outcome.rollout {
        wrong.push(said("True", *reason, message.clone()));
    } else {
        wrong.extend(worst(observation.failures(Component::Coordinator, None), "A coordinator fails"));
    }
    wrong.extend(coordinator_down(observation).map(|down| said("True", "CoordinatorDown", down)));
    wrong.extend(disks_lost(observation));
    for pool in &observation.cluster.spec.pools {
        let failures = observation.failures(Component::Agent, Some(&pool.name));
        let stuck = || observation.deployment(&pool.name).and_then(stuck);
        if let Some(failed) = worst(failures, &format!("Pool {:?} fails", pool.name)) {
            wrong.push(failed);
        } else if let Some(stuck) = stuck() {
            let message = format!("Pool {:?} makes no progress: {stuck}", pool.name);
            wrong.push(said("True", "PoolNotProgressing", message));
        }
    }
    if observation.fleet.is_err() && previous.is_some_and(|previous| previous.term.is_some()) {
        let message = "No coordinator leads a majority; see QuorumHealthy.";
        wrong.push(said("True", "NoLeader", message));
    }
    wrong.extend(observation.fleet.iter().flat_map(|answer| &answer.status.warnings).map(warning));
    wrong.extend(unhealthy(observation));
    if wrong.is_empty() {
        wrong.extend(still_down(observation, previous).map(|down| said("True", "CoordinatorDown", down)));
    }
    let messages: Vec<String> = wrong.iter().map(|said| said.message.clone()).collect();
    match wrong.into_iter().next() {
        Some(first) => Said { message: messages.join(" Also: "), ..first },
        None if observation.cluster.spec.coordinators.storage.is_none() => {
            said("False", "EphemeralStorage", EPHEMERAL_WARNING)
        }
        None if has_larger_disks(observation) => {
            said("False", "AsExpected", format!("Nothing is wrong. {LARGER_DISKS}"))
        }
        None => said("False", "AsExpected", "Nothing is wrong."),
    }
}

/// Returns whether a coordinator's claim requests a larger disk than the spec.
fn has_larger_disks(observation: &Observation) -> bool {
    let Some(storage) = &observation.cluster.spec.coordinators.storage else { return false };
    let mut asked = observation.claims.iter().filter_map(|claim| quantity::requested(claim));
    asked.any(|known| quantity::is_less(&storage.size, known))
}

/// Reports missing coordinator pods. The StatefulSet controller reports the cause only in events, unlike the Deployment
/// controller.
fn uncreated(observation: &Observation, (made, wanted): (u32, u32)) -> Said {
    let set = names::coordinators(&observation.name());
    let message = format!(
        "Only {made} of {wanted} coordinator pods exist. `kubectl describe statefulset {set}` shows why; often a quota \
         or an admission policy refuses the others."
    );
    said("True", "CoordinatorsNotCreated", message)
}

/// Reports a coordinator's warning. A reason that the API server might refuse is replaced.
fn warning(warning: &v1::Warning) -> Said {
    let reason = Some(warning.reason.clone()).filter(|reason| is_reason(reason));
    let reason = reason.map_or(Cow::Borrowed("CoordinatorWarning"), Cow::Owned);
    said("True", reason, format!("{}.", warning.message.trim_end_matches('.')))
}

/// Returns whether a condition can have this reason: CamelCase, and not longer than [`MAX_REASON`].
fn is_reason(reason: &str) -> bool {
    (1..=MAX_REASON).contains(&reason.len())
        && reason.starts_with(|first: char| first.is_ascii_uppercase())
        && reason.chars().all(|c| c.is_ascii_alphanumeric())
}

fn disks_lost(observation: &Observation) -> Option<Said> {
    let lost = observation.claims.iter().find(|claim| health::disk_lost(claim))?;
    let message = format!(
        "PersistentVolumeClaim {} lost its volume. Delete it and the coordinator's pod: the coordinator then starts \
         with an empty disk and copies the state from the others.",
        lost.name_any()
    );
    Some(said("True", "DiskLost", message))
}

/// Describes a voter that is not healthy and whose pod has been unready for longer than a restart takes or, for a new
/// pod, for longer than a start takes, including the image pull.
fn coordinator_down(observation: &Observation) -> Option<String> {
    let membership = observation.membership()?;
    let down = observation.pods_of(Component::Coordinator, None).find(|pod| {
        let name = pod.name_any();
        membership.votes(&name) && !membership.healthy(&name) && health::away_for_long(pod, observation.now)
    })?;
    if !health::has_run(down) {
        let name = down.name_any();
        return Some(format!(
            "{name} does not answer the leader: its container has not been started yet. `kubectl describe pod {name}` \
             shows what it is waiting for."
        ));
    }
    let node = down.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or("none");
    let disk = match &health::claims(down)[..] {
        [] => String::new(),
        disks => format!(", disk {}", disks.join(", ")),
    };
    Some(format!(
        "{} (node {node}{disk}) does not answer the leader. If the node is gone for good, delete its Node object, and the \
         disk's PersistentVolumeClaim if that was on it.",
        down.name_any()
    ))
}

/// Describes a voter that is not healthy yet, if the fleet was degraded before: its pod's problem may be solved, but
/// the fleet has recovered only when the voter responds to the leader.
fn still_down(observation: &Observation, previous: Option<&RobeingClusterStatus>) -> Option<String> {
    previous.filter(|previous| state(previous, types::DEGRADED) == Some("True"))?;
    let membership = observation.membership()?;
    let down = membership.voters().find(|member| !membership.healthy(&member.name))?;
    Some(format!("{} does not answer the leader yet.", down.name))
}

fn worst(mut failures: Vec<Failure>, what: &str) -> Option<Said> {
    failures.sort_by(|a, b| (a.kind, &a.pod).cmp(&(b.kind, &b.pod)));
    let first = failures.first()?;
    let more = match failures.len() {
        1 => String::new(),
        number => format!(" {} more pods fail, too.", number - 1),
    };
    Some(said("True", first.kind.reason(), format!("{what}: {}.{more}", first.text().trim_end_matches('.'))))
}

/// Returns why a Deployment is stuck, as reported by the Deployment controller.
fn stuck(deployment: &Live) -> Option<String> {
    let conditions = deployment.object.data.pointer("/status/conditions")?.as_array()?;
    let field = |condition: &Value, name: &str| condition.get(name)?.as_str().map(ToOwned::to_owned);
    let is = |condition: &Value, of: &str, state: &str| {
        field(condition, "type").as_deref() == Some(of) && field(condition, "status").as_deref() == Some(state)
    };
    // Refused pods, for example by a quota, are reported at once; a lack of progress after the Deployment's deadline.
    let refused = conditions.iter().find(|condition| is(condition, "ReplicaFailure", "True"));
    let is_paused = |condition: &Value| field(condition, "reason").as_deref() == Some("DeploymentPaused");
    if refused.is_none() && conditions.iter().any(is_paused) {
        let name = deployment.object.name_any();
        return Some(format!("its Deployment is paused; `kubectl rollout resume deployment/{name}` resumes it."));
    }
    let stuck = refused.or_else(|| conditions.iter().find(|condition| is(condition, "Progressing", "False")))?;
    field(stuck, "message")
}

fn rolling(previous: Option<&RobeingClusterStatus>) -> bool {
    let told = previous.iter().flat_map(|previous| &previous.conditions);
    told.filter(|condition| condition.type_ == types::PROGRESSING)
        .any(|condition| condition.reason == "RollingCoordinators")
}

fn progressing(
    observation: &Observation,
    outcome: &Outcome,
    pools: &[PoolView],
    previous: Option<&RobeingClusterStatus>,
) -> Said {
    if outcome.fleet.is_none()
        && let Some(refused) = unlike_the_spec(outcome)
    {
        return refused;
    }
    let declined = outcome.declined.first().map(|why| format!(" ({why})")).unwrap_or_default();
    match &outcome.scale.step {
        Scale::Settled => {}
        Scale::Add(ordinal) => {
            return said("True", "AddingCoordinator", format!("Coordinator {ordinal} is becoming a voter{declined}."));
        }
        Scale::Remove(ordinal) => {
            return said(
                "True",
                "RemovingCoordinator",
                format!("Coordinator {ordinal} is being removed as a voter{declined}."),
            );
        }
        Scale::DeleteClaim(ordinal) => {
            return said("True", "RemovingCoordinator", format!("The disk of coordinator {ordinal} is being deleted."));
        }
        Scale::Wait(why) => return said("True", "ScalingCoordinators", format!("Waiting: {why}.")),
    }
    match &outcome.rollout {
        Rollout::Done => {}
        Rollout::Settling(why) if rolling(previous) => {
            return said("True", "RollingCoordinators", format!("Waiting: {why}."));
        }
        Rollout::Settling(why) => return said("True", "StartingCoordinators", format!("Waiting: {why}.")),
        Rollout::Paused { reason, message } => return said("False", *reason, message.clone()),
        Rollout::Replace { pod, .. } => {
            return said("True", "RollingCoordinators", format!("{pod} is being replaced{declined}."));
        }
        Rollout::Transfer { to } => {
            return said("True", "RollingCoordinators", format!("Leadership is being transferred to {to}{declined}."));
        }
        Rollout::Wait(why) => return said("True", "RollingCoordinators", format!("Waiting: {why}.")),
    }
    if let Some(pool) = observation.cluster.spec.pools.iter().find(|pool| rolls(observation, &pool.name)) {
        return said("True", "UpdatingPool", format!("Pool {:?} is being updated to match the spec.", pool.name));
    }
    let built = pools.iter().filter(|pool| !refused(outcome).any(|refused| refused == pool.name));
    if let Some(missing) = missing_agents(built) {
        return said("True", "StartingAgents", missing);
    }
    if outcome.changing {
        return said("True", "Applying", "The spec was just applied.");
    }
    if observation.fleet.is_err() {
        return said("True", "Starting", "The coordinators are electing a leader.");
    }
    unlike_the_spec(outcome).unwrap_or_else(|| said("False", "AsSpecified", "The fleet matches the spec."))
}

/// Returns the names of the pools that are not built.
fn refused(outcome: &Outcome) -> impl Iterator<Item = &str> {
    outcome.fleet.iter().flat_map(|fleet| &fleet.refused).map(|pool| pool.name.as_str())
}

/// Reports what does not match the spec and will not without intervention.
fn unlike_the_spec(outcome: &Outcome) -> Option<Said> {
    if outcome.fleet.is_none() {
        return Some(said("False", "SpecRefused", "The spec is refused; see Degraded."));
    }
    if outcome.unapplied {
        let message = "Some of the fleet's objects are not in their desired state; see Degraded.";
        return Some(said("False", "ApplyFailed", message));
    }
    let pool = refused(outcome).next()?;
    Some(said("False", "PoolRefused", format!("Pool {pool:?} does not match the spec; see Degraded.")))
}

/// Returns a sentence for each pool that has too few agents or too few ready pods; `None` if there is no such pool.
fn missing_agents<'a>(pools: impl IntoIterator<Item = &'a PoolView>) -> Option<String> {
    let short = pools.into_iter().filter(|pool| pool.ready() < pool.desired);
    let sentence = |pool: &PoolView| match (pool.live + pool.standby, pool.desired) {
        (agents, desired) if agents < desired => format!("Pool {:?} has {agents} of {desired} agents.", pool.name),
        (_, desired) => format!("Pool {:?}: {} of {desired} pods are ready.", pool.name, pool.ready_pods),
    };
    let sentences: Vec<String> = short.map(sentence).collect();
    if sentences.is_empty() { None } else { Some(sentences.join(" ")) }
}

fn rolls(observation: &Observation, pool: &str) -> bool {
    observation.deployment(pool).is_some_and(Live::rolls)
}

fn suspended(observation: &Observation, pools: &[PoolView]) -> Said {
    if !observation.cluster.spec.suspend {
        return said("False", "NotSuspended", "The fleet is not suspended.");
    }
    let left: u32 = pools.iter().map(|pool| pool.live + pool.standby).sum();
    let coordinators = "the coordinators keep their state; set spec.suspend to false to resume";
    match left {
        0 => said("True", "Suspended", format!("No agents run; {coordinators}.")),
        left => said("True", "Suspending", format!("{left} agents finish or hand back their tasks; {coordinators}.")),
    }
}

fn ready(observation: &Observation, outcome: &Outcome, pools: &[PoolView], quorum: &Said) -> Said {
    if quorum.state != "True" {
        return said("False", quorum.reason.clone(), quorum.message.clone());
    }
    if observation.cluster.spec.suspend {
        return said("False", "Suspended", "The fleet is suspended by its spec.");
    }
    if let Some(unlike) = unlike_the_spec(outcome) {
        return unlike;
    }
    if let Some(missing) = missing_agents(pools) {
        return said("False", "AgentsMissing", missing);
    }
    let agents: u32 = pools.iter().map(|pool| pool.live + pool.standby).sum();
    let others = match others(observation) {
        0 => String::new(),
        others => format!(", and {others} of no pool"),
    };
    said("True", "FleetReady", format!("The fleet has a leader and all its agents: {agents}{others}."))
}
