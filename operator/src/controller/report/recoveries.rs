//! The events of recoveries, from the newest steps in the recovery of agents that the coordinators keep. The fleet
//! numbers the steps, so each is published once, regardless of which operator sees it and how often.

use std::time::Duration;

use robeing_proto::v1::{self, RecoveryAction};

use super::events::{EventRecord, NEWS_FOR, normal, warning};
use crate::controller::observe::Observation;

/// Returns the number of the newest step that the coordinators keep; 0 if there is none.
pub(super) fn newest(observation: &Observation) -> u64 {
    steps(observation).last().map_or(0, |step| step.number)
}

fn steps(observation: &Observation) -> &[v1::FleetRecoveryStep] {
    observation.fleet.as_ref().map_or(&[], |answer| &answer.status.recovery_steps)
}

/// Returns the events of the steps after number `seen`. An operator that has not seen any yet reports the recent ones.
pub(super) fn happened(observation: &Observation, seen: Option<u64>) -> Vec<EventRecord> {
    let steps = steps(observation);
    // A recreated fleet numbers its steps from one again.
    let seen = seen.filter(|seen| *seen <= newest(observation));
    let is_new = |step: &&v1::FleetRecoveryStep| match seen {
        Some(seen) => step.number > seen,
        None => happened_lately(step, observation),
    };
    let mut events: Vec<EventRecord> = steps.iter().filter(is_new).filter_map(event).collect();
    let missed = match (seen, steps.first()) {
        (Some(seen), Some(first)) => first.number.saturating_sub(seen + 1),
        _ => 0,
    };
    if missed > 0 {
        let note = format!(
            "{missed} further steps in the recovery of agents are not listed: there were more at once than the fleet keeps. \
             `robeing agents --why NAME` shows those of an agent."
        );
        events.push(normal("RecoveryStepsOmitted", "Recover", note));
    }
    events
}

fn happened_lately(step: &v1::FleetRecoveryStep, observation: &Observation) -> bool {
    let at = step.step.as_ref().and_then(|step| step.at);
    at.is_some_and(|at| observation.now.as_second().saturating_sub(at.seconds).unsigned_abs() <= NEWS_FOR.as_secs())
}

/// Returns the names of the standby agents whose activation the steps after number `seen` report.
pub(super) fn activated(observation: &Observation, seen: u64) -> impl Iterator<Item = &str> {
    let new = steps(observation).iter().filter(move |step| step.number > seen);
    new.filter_map(|step| step.step.as_ref()).map(|step| step.standby.as_str()).filter(|name| !name.is_empty())
}

/// Returns the event of a step. The loss of an agent is reported from the agent's state instead, which is kept for
/// longer.
fn event(kept: &v1::FleetRecoveryStep) -> Option<EventRecord> {
    let step = kept.step.as_ref()?;
    let agent = &kept.agent;
    let who = match kept.pool.as_str() {
        "" => format!("Agent {agent}"),
        pool => format!("Agent {agent} of pool {pool:?}"),
    };
    let after = after(step);
    let happened = match step.action() {
        RecoveryAction::Unhealthy => {
            let why = if step.reason.is_empty() { "no reason was given" } else { step.reason.as_str() };
            warning("AgentUnhealthy", "Check", format!("{who} is unhealthy and gets no new tasks: {why}."))
        }
        RecoveryAction::Redistribute => {
            let tasks = if step.tasks == 1 { "1 task was".to_owned() } else { format!("{} tasks were", step.tasks) };
            normal(
                "TasksRedistributed",
                "Redistribute",
                format!("{tasks} taken from agent {agent} and redistributed, {after}."),
            )
        }
        RecoveryAction::ActivateStandby => {
            let standby = &step.standby;
            normal(
                "StandbyActivated",
                "Activate",
                format!("Standby agent {standby} was activated in place of {agent}, {after}."),
            )
        }
        RecoveryAction::Remove => {
            normal("AgentRemoved", "Remove", format!("{who} is no longer part of the fleet: its session has ended."))
        }
        RecoveryAction::AttemptRecovery => {
            normal("RecoveryAttempted", "Recover", format!("{who} is recovering, {after}."))
        }
        RecoveryAction::Readmit => {
            let place = if step.waits { "is on standby" } else { "can get tasks again" };
            normal("AgentReadmitted", "Readmit", format!("{who} is back and {place}, {after}."))
        }
        RecoveryAction::Lost | RecoveryAction::Unspecified => return None,
    };
    Some(EventRecord { once: Some(kept.number.to_string()), ..happened })
}

fn after(step: &v1::RecoveryStep) -> String {
    let took = step.took.and_then(|took| Duration::try_from(took).ok()).unwrap_or_default();
    match took {
        Duration::ZERO => "at once".to_owned(),
        took => format!("{took:?} after it failed"),
    }
}
