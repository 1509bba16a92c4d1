//! The condition about tasks that no agent could run: they wait for an agent that is not there.

use std::time::Duration;

use robeing_crds::{RobeingClusterStatus, condition_types as types};
use robeing_proto::v1;

use super::{
    conditions::{Said, said},
    events::{EventRecord, normal, warning},
};
use crate::controller::observe::Observation;

/// How long a task waits for what no agent has before it is reported: an agent that has it may be starting.
pub(super) const GRACE: Duration = Duration::from_secs(30);

/// Maximum number of needs that one message names.
const MOST_NAMED: usize = 3;

/// Returns how long something has been waited for, by the clock of the fleet; zero if that is not known.
fn waited(status: &v1::FleetStatus, need: &v1::UnmetNeed) -> Duration {
    let (Some(now), Some(since)) = (&status.now, &need.since) else { return Duration::ZERO };
    let seconds = now.seconds.saturating_sub(since.seconds);
    let millis = i64::from(now.nanos.saturating_sub(since.nanos) / 1_000_000);
    let waited = seconds.saturating_mul(1_000).saturating_add(millis);
    Duration::from_millis(u64::try_from(waited).unwrap_or(0))
}

/// Returns when the next need is reported that has not been waited for long enough yet; `None` if there is none.
pub(crate) fn due(status: &v1::FleetStatus) -> Option<Duration> {
    let left = status.unmet_needs.iter().map(|need| GRACE.saturating_sub(waited(status, need)));
    left.filter(|left| !left.is_zero()).min()
}

/// Returns whether for each task that waits there is an agent that could run it.
pub(super) fn schedulable(observation: &Observation, previous: Option<&RobeingClusterStatus>) -> Said {
    let Ok(answer) = &observation.fleet else { return as_before(previous) };
    if observation.cluster.spec.suspend {
        return said("Unknown", "Suspended", "The fleet is suspended and runs no tasks.");
    }
    let status = &answer.status;
    let long: Vec<_> = status.unmet_needs.iter().filter(|need| waited(status, need) >= GRACE).collect();
    if long.is_empty() {
        return said("True", "AllTasksFit", "For each task that waits there is an agent that could run it.");
    }
    let tasks = long.iter().fold(0_u64, |tasks, need| tasks.saturating_add(need.tasks));
    let told = long.iter().take(MOST_NAMED).map(|need| {
        let one = if need.tasks == 1 { "" } else { "such as " };
        format!("{} of kind {:?} ({one}{}): {}", need.tasks, need.kind, need.task_id, need.problem)
    });
    let told: Vec<String> = told.collect();
    let more = if long.len() > MOST_NAMED { "; …" } else { "" };
    let wait = if tasks == 1 { "task waits" } else { "tasks wait" };
    said("False", "NoAgentFits", format!("{tasks} {wait} for what no agent has: {}{more}.", told.join("; ")))
}

/// Returns what the condition said before, which is still all that is known.
fn as_before(previous: Option<&RobeingClusterStatus>) -> Said {
    let mut conditions = previous.iter().flat_map(|previous| &previous.conditions);
    let Some(before) = conditions.find(|condition| condition.type_ == types::TASKS_SCHEDULABLE) else {
        return said("Unknown", "NotKnown", "No coordinator has told yet what tasks wait for.");
    };
    let state = ["True", "False"].into_iter().find(|state| before.status == *state).unwrap_or("Unknown");
    said(state, before.reason.clone(), before.message.clone())
}

/// Adds one event when tasks begin to wait for what no agent has, and one when none does any more.
pub(super) fn happened(
    before: Option<&RobeingClusterStatus>,
    after: &RobeingClusterStatus,
    events: &mut Vec<EventRecord>,
) {
    let find = |status: Option<&RobeingClusterStatus>| {
        let condition = status?.conditions.iter().find(|condition| condition.type_ == types::TASKS_SCHEDULABLE)?;
        Some((condition.status == "False", condition.message.clone()))
    };
    let waited = find(before).is_some_and(|(wait, _)| wait);
    match find(Some(after)) {
        Some((true, message)) if !waited => events.push(warning("TasksUnschedulable", "Schedule", message)),
        Some((false, message)) if waited => events.push(normal("TasksSchedulable", "Schedule", message)),
        _ => {}
    }
}
