//! The events that a person wants to read, from two successive observations of a fleet. What the status contains
//! (leader, conditions) is compared with the previous status, so that a restart of the operator misses nothing; the
//! rest is compared with the last observation of this process. A process without one reports agents that were lost
//! recently, since the node that failed with them may have run the previous operator.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;
use robeing_crds::{RobeingClusterStatus, condition_types as types};
use robeing_proto::v1::{self, AgentState};

use super::{Outcome, audits, recoveries, schedules, teams, unmet};
use crate::{
    controller::{
        identity::report::{MOVING, WARNED},
        observe::Observation,
    },
    quorum::rollout::Step,
};

/// For how long after a loss an operator that has just started reports it, and for how long a record of the audit log is
/// reported: longer than a takeover by another replica takes.
pub(super) const NEWS_FOR: Duration = Duration::from_secs(300);

/// Maximum number of events of one reason that one reconciliation reports individually.
const MAX_OF_A_REASON: usize = 8;

/// The importance of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Importance {
    /// Normal operation.
    Normal,
    /// Something that may need attention.
    Warning,
}

/// An event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// The importance.
    pub importance: Importance,
    /// The machine-readable reason.
    pub reason: String,
    /// The action that was taken.
    pub action: &'static str,
    /// The human-readable description.
    pub note: String,
    /// Distinguishes the event from others of its reason if two operators may report it, so that it is published once.
    pub once: Option<String>,
}

pub(super) fn normal(reason: &str, action: &'static str, note: String) -> EventRecord {
    EventRecord { importance: Importance::Normal, reason: reason.to_owned(), action, note, once: None }
}

pub(super) fn warning(reason: &str, action: &'static str, note: String) -> EventRecord {
    EventRecord { importance: Importance::Warning, reason: reason.to_owned(), action, note, once: None }
}

/// What is remembered from one observation to the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    agents: BTreeMap<String, (AgentState, u64)>,
    /// Node ids of the voters, by name.
    voters: BTreeMap<String, BTreeSet<String>>,
    /// Number of the newest recovery step.
    recovered: u64,
    /// Number of the newest record of the audit log that was read; `None` until something of it was.
    audited: Option<u64>,
    pools: BTreeMap<String, u32>,
}

impl Snapshot {
    /// Returns the snapshot of an observation after that of `before`; `None` while no leader responds, so that the
    /// previous one remains valid.
    pub fn of(observation: &Observation, before: Option<&Self>) -> Option<Self> {
        let answer = observation.fleet.as_ref().ok()?;
        let agents = &answer.agents;
        let pools = &observation.cluster.spec.pools;
        let mut voters: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for voter in answer.status.coordinators.iter().filter(|coordinator| coordinator.voter) {
            voters.entry(voter.name.clone()).or_default().insert(voter.node_id.clone());
        }
        Some(Self {
            agents: agents.iter().map(|agent| (agent.name.clone(), (agent.state(), agent.session))).collect(),
            voters,
            recovered: recoveries::newest(observation),
            // What was read stays read if nothing can be read now, or a coordinator doesn't say how much there is.
            audited: audits::read(observation).or(before.and_then(Self::audited)),
            pools: pools
                .iter()
                .filter_map(|pool| Some((pool.name.clone(), scaled(observation, &pool.name)?)))
                .collect(),
        })
    }

    /// Returns the number of the newest record of the audit log that was read; `None` if that is not known.
    pub fn audited(&self) -> Option<u64> {
        self.audited
    }
}

fn scaled(observation: &Observation, pool: &str) -> Option<u32> {
    observation.deployment(pool)?.number("/spec/replicas")
}

/// Returns the events between two observations. `before` and `after` are the statuses of then and now.
pub fn happened(
    observation: &Observation,
    outcome: &Outcome,
    seen: Option<&Snapshot>,
    before: Option<&RobeingClusterStatus>,
    after: &RobeingClusterStatus,
) -> Vec<EventRecord> {
    let mut events = Vec::new();
    leadership(before, after, &mut events);
    if let (Some(seen), Some(now)) = (seen, Snapshot::of(observation, seen)) {
        membership(seen, &now, &mut events);
        agents(observation, seen, &now, &mut events);
        events.extend(recoveries::happened(observation, Some(seen.recovered)));
        events.extend(audits::happened(observation, seen.audited));
        pools(seen, &now, &mut events);
    } else {
        events
            .extend(observation.agents().values().filter(|agent| lost_lately(agent, observation.now)).map(|a| lost(a)));
        events.extend(recoveries::happened(observation, None));
        events.extend(audits::happened(observation, None));
    }
    rollout(outcome, before, &mut events);
    events.extend(outcome.identity.events.iter().map(|(reason, note)| normal(reason, "Rotate", (*note).to_owned())));
    teams::happened(before, after, &mut events);
    unmet::happened(before, after, &mut events);
    schedules::happened(before, after, &mut events);
    conditions(before, after, &mut events);
    bounded(events)
}

/// Keeps the first [`MAX_OF_A_REASON`] events of each reason and aggregates the rest into one, so that the loss of a
/// node or a whole zone does not flood the readers.
fn bounded(events: Vec<EventRecord>) -> Vec<EventRecord> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut told = Vec::with_capacity(events.len().min(MAX_OF_A_REASON));
    let mut rest: BTreeMap<String, Vec<EventRecord>> = BTreeMap::new();
    for event in events {
        let count = counts.entry(event.reason.clone()).or_default();
        *count += 1;
        if *count <= MAX_OF_A_REASON {
            told.push(event);
        } else {
            rest.entry(event.reason.clone()).or_default().push(event);
        }
    }
    told.extend(rest.into_values().filter_map(combined));
    told
}

/// Returns the words of a message but those with figures, such as counts and ids: these may change with every look, and
/// the message is no other one for that.
pub(super) fn without_figures(message: Option<&str>) -> Option<Vec<&str>> {
    message.map(|message| message.split(' ').filter(|word| !word.bytes().any(|byte| byte.is_ascii_digit())).collect())
}

/// Returns one event for these of one reason; the last one itself if it is the only one. If each of them is published
/// once, so is the event for all of them.
fn combined(mut events: Vec<EventRecord>) -> Option<EventRecord> {
    let more = events.len();
    let parts: Option<Vec<&str>> = events.iter().map(|event| event.once.as_deref()).collect();
    let once = parts.map(|parts| {
        // All processes of the same build compute the same hash.
        let mut hasher = DefaultHasher::new();
        parts.hash(&mut hasher);
        format!("{more} {:016x}", hasher.finish())
    });
    let last = events.pop()?;
    if more == 1 {
        return Some(last);
    }
    let note = format!("{more} more at once, the last of them: {}", last.note);
    Some(EventRecord { note, once, ..last })
}

fn leadership(before: Option<&RobeingClusterStatus>, after: &RobeingClusterStatus, events: &mut Vec<EventRecord>) {
    let (Some(leader), Some(term)) = (&after.leader, after.term) else { return };
    let earlier = before.and_then(|before| before.term);
    if earlier == Some(term) {
        return;
    }
    let instead = match before.and_then(|before| before.leader.as_ref()) {
        Some(other) if other != leader => format!(", after {other}"),
        _ => String::new(),
    };
    events.push(normal("LeaderChanged", "Elect", format!("{leader} is the leader in term {term}{instead}.")));
}

fn membership(seen: &Snapshot, now: &Snapshot, events: &mut Vec<EventRecord>) {
    let voters: usize = now.voters.values().map(BTreeSet::len).sum();
    for (name, ids) in &now.voters {
        match seen.voters.get(name) {
            None => {
                let note = format!("{name} is now a voter; the number of voters is {voters}.");
                events.push(normal("CoordinatorAdded", "AddVoter", note));
            }
            Some(before) if !before.is_subset(ids) => {
                let note = format!("{name} is a new coordinator with an empty disk; it has the vote of the old one.");
                events.push(normal("CoordinatorReplaced", "ReplaceVoter", note));
            }
            Some(_) => {}
        }
    }
    for name in seen.voters.keys().filter(|name| !now.voters.contains_key(*name)) {
        events.push(normal(
            "CoordinatorRemoved",
            "RemoveVoter",
            format!("{name} is no longer a voter; the number of voters is {voters}."),
        ));
    }
}

fn agents(observation: &Observation, seen: &Snapshot, now: &Snapshot, events: &mut Vec<EventRecord>) {
    let known = observation.agents();
    let told: BTreeSet<&str> = recoveries::activated(observation, seen.recovered).collect();
    for (name, &(state, session)) in &now.agents {
        let Some(agent) = known.get(name.as_str()) else { continue };
        let before = seen.agents.get(name).copied();
        match before {
            _ if state == AgentState::Lost && before != Some((state, session)) => events.push(lost(agent)),
            Some((earlier, stay)) if earlier != AgentState::Lost && stay != session => {
                events.push(lost_meanwhile(agent, stay));
            }
            _ => {}
        }
        let waited = before.is_some_and(|(earlier, _)| earlier == AgentState::Standby);
        if state == AgentState::Live && waited && !told.contains(name.as_str()) {
            let note = format!("Standby agent {name} of pool {:?} was activated.", agent.pool);
            events.push(normal("StandbyActivated", "Activate", note));
        }
    }
}

fn lost(agent: &v1::Agent) -> EventRecord {
    let why = if agent.lost_reason.is_empty() { "for an unknown reason" } else { &agent.lost_reason };
    let note = format!("Agent {} of pool {:?} was lost: {why}.", agent.name, agent.pool);
    EventRecord { once: Some(stay(agent, agent.session)), ..warning("AgentLost", "Lose", note) }
}

/// Returns the key that identifies a session of an agent.
fn stay(agent: &v1::Agent, session: u64) -> String {
    format!("{} {session}", agent.name)
}

/// Returns the event for an agent that started another session between two observations.
fn lost_meanwhile(agent: &v1::Agent, session: u64) -> EventRecord {
    let note = format!("Agent {} of pool {:?} was lost briefly and is back.", agent.name, agent.pool);
    EventRecord { once: Some(stay(agent, session)), ..warning("AgentLost", "Lose", note) }
}

fn lost_lately(agent: &v1::Agent, now: Timestamp) -> bool {
    let at = agent.lost_at.filter(|_| agent.state() == AgentState::Lost);
    let since = at.map(|at| now.as_second().saturating_sub(at.seconds).unsigned_abs());
    since.is_some_and(|since| since <= NEWS_FOR.as_secs())
}

fn pools(seen: &Snapshot, now: &Snapshot, events: &mut Vec<EventRecord>) {
    for (name, size) in &now.pools {
        match seen.pools.get(name) {
            Some(before) if before != size => {
                let note = format!("Pool {name:?} was scaled from {before} to {size} agents.");
                events.push(normal("PoolScaled", "Scale", note));
            }
            _ => {}
        }
    }
}

fn reason<'a>(status: Option<&'a RobeingClusterStatus>, of: &str) -> Option<&'a str> {
    let condition = status?.conditions.iter().find(|condition| condition.type_ == of)?;
    Some(condition.reason.as_str())
}

/// Returns the reason if the status reports a rollout of the coordinators that is in progress or paused.
fn rolled(status: Option<&RobeingClusterStatus>) -> Option<&str> {
    reason(status, types::PROGRESSING)
        .filter(|reason| ["RollingCoordinators", "UpdatedPodFails", "WouldLoseTasks"].contains(reason))
}

fn rollout(outcome: &Outcome, before: Option<&RobeingClusterStatus>, events: &mut Vec<EventRecord>) {
    let earlier = rolled(before);
    match (&outcome.rollout, earlier) {
        (Step::Replace { pod, .. }, None) => {
            let note = format!("The coordinators are being replaced one by one, beginning with {pod}.");
            events.push(normal("RolloutStarted", "Rollout", note));
        }
        (Step::Paused { reason, message }, earlier) if earlier != Some(reason) => {
            events.push(warning("RolloutPaused", "Rollout", message.clone()));
        }
        (Step::Done, Some(_)) if outcome.fleet.is_some() => {
            let note = "Every coordinator matches the spec.".to_owned();
            events.push(normal("RolloutCompleted", "Rollout", note));
        }
        _ => {}
    }
    if let Step::Transfer { to } = &outcome.rollout {
        let note = format!("{to} is asked to lead, so that the leader can be replaced last.");
        events.push(normal("LeadershipTransfer", "Rollout", note));
    }
}

/// Adds one event for each change of the conditions Degraded (or its reason), QuorumHealthy and Suspended.
fn conditions(before: Option<&RobeingClusterStatus>, after: &RobeingClusterStatus, events: &mut Vec<EventRecord>) {
    let find = |status: Option<&RobeingClusterStatus>, of: &str| {
        let condition = status?.conditions.iter().find(|condition| condition.type_ == of)?;
        Some((condition.status == "True", condition.reason.clone(), condition.message.clone()))
    };
    let was = find(before, types::DEGRADED);
    if let Some((true, reason, message)) = find(Some(after), types::DEGRADED) {
        let told = was.as_ref().is_some_and(|(degraded, earlier, _)| *degraded && *earlier == reason);
        let paused = events.iter().any(|event| event.reason == "RolloutPaused");
        // The loss of the quorum has an event of its own.
        if !told && !paused && reason != "NoLeader" {
            events.push(warning(&reason, "Check", message));
        }
    } else if was.is_some_and(|(degraded, ..)| degraded) {
        events.push(normal("Recovered", "Check", "The fleet has recovered.".into()));
    }
    if let (None, Some("EphemeralStorage")) = (before, reason(Some(after), types::DEGRADED)) {
        events.push(warning("EphemeralStorage", "Check", crate::controller::build::EPHEMERAL_WARNING.into()));
    }
    let quorum = |status| find(status, types::QUORUM_HEALTHY).map(|(healthy, ..)| healthy);
    match (quorum(before), quorum(Some(after))) {
        (Some(true), Some(false)) => {
            let message = find(Some(after), types::QUORUM_HEALTHY).map(|found| found.2).unwrap_or_default();
            events.push(warning("QuorumLost", "Check", message));
        }
        (Some(false), Some(true)) => {
            events.push(normal("QuorumReached", "Check", "A majority of the coordinators agrees on a leader.".into()));
        }
        _ => {}
    }
    let identity =
        find(Some(after), types::IDENTITY).filter(|(_, now, _)| reason(before, types::IDENTITY) != Some(now));
    match identity {
        Some((true, now, message)) if WARNED.contains(&now.as_str()) => events.push(warning(&now, "Check", message)),
        Some((false, now, message)) if now == MOVING => events.push(normal(MOVING, "Secure", message)),
        _ => {}
    }
    let suspended = |status| find(status, types::SUSPENDED).map(|(suspended, ..)| suspended);
    match (suspended(before).unwrap_or(false), suspended(Some(after)).unwrap_or(false)) {
        (false, true) => events.push(normal("Suspended", "Suspend", "The pools are scaled to zero.".into())),
        (true, false) => {
            events.push(normal("Resumed", "Suspend", "The pools are scaled to the sizes in the spec.".into()))
        }
        _ => {}
    }
}
