//! What was applied, told as a tracing event of its own target, so that the simulator can compare coordinators and hold the
//! fleet to its invariants after every log entry. Costs nothing unless somebody listens at level TRACE.

use robeing_fleet::{Effect, Fleet, LossReason, RecoveryEvent, Stamp};
use tracing::Level;

use super::{NodeId, Vote};

/// Target of the events.
pub const APPLIED: &str = "robeing::applied";
/// Target of the events about time: what batches were stamped with, and what was applied at which fleet time.
pub const TIMES: &str = "robeing::times";
/// What is said when a batch was stamped.
pub const STAMPED: &str = "a batch was stamped";

/// What is said when a snapshot was written.
pub const SNAPSHOT_WRITTEN: &str = "a snapshot was written";
/// What is said when the state was replaced by a snapshot from the leader.
pub const SNAPSHOT_INSTALLED: &str = "a snapshot was installed";

/// Target of the events about votes: what was answered, and what was found on disk at a start.
pub const VOTES: &str = "robeing::votes";
/// What is said when a vote was given.
pub const VOTE_GIVEN: &str = "a vote was given";
/// What is said at a start of the newest vote on disk.
pub const VOTE_FOUND: &str = "a vote was found";

/// Tells of the newest vote of a node.
pub(crate) fn tell_vote(message: &str, node: NodeId, vote: Option<Vote>) {
    let (term, candidate) = vote.map_or((0, 0), |vote| (vote.leader_id.term, vote.leader_id.node_id));
    tracing::trace!(target: VOTES, node, term, candidate, "{message}");
}

/// Tells of the log entry `index`, which had these effects.
pub(super) fn tell(index: u64, fleet: &Fleet, effects: &[Effect]) {
    if !tracing::enabled!(target: APPLIED, Level::TRACE) {
        return;
    }
    let finished: Vec<String> = effects
        .iter()
        .filter_map(|effect| if let Effect::Finished { task } = effect { Some(task.to_string()) } else { None })
        .collect();
    // The agent, its slots, the task and the attempt.
    let assigned: Vec<String> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Assign { agent, task, attempt, .. } => {
                let agent = fleet.agent(*agent)?;
                Some(format!("{} {} {task} {attempt}", agent.name, agent.slots))
            }
            _ => None,
        })
        .collect();
    // The number of a session, and whose it is when it begins.
    let sessions: Vec<String> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::SessionStarted { agent, session } => Some(format!("{} {}", session.0, fleet.agent(*agent)?.name)),
            Effect::SessionEnded { session, .. } => Some(session.0.to_string()),
            _ => None,
        })
        .collect();
    // The agents that were not heard from any more.
    let silent: Vec<&str> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Recovery { agent, step } if is_silence(&step.event) => Some(&*fleet.agent(*agent)?.name),
            _ => None,
        })
        .collect();
    let (checksum, broken) = (fleet.checksum(), fleet.audit().err().unwrap_or_default());
    let (finished, assigned, sessions) = (finished.join(" "), assigned.join(","), sessions.join(","));
    let silent = silent.join(" ");
    tracing::trace!(target: APPLIED, index, checksum, finished, assigned, sessions, silent, broken);
}

fn is_silence(event: &RecoveryEvent) -> bool {
    matches!(event, RecoveryEvent::Lost { reason: LossReason::Silent })
}

/// Tells of a batch that is about to be proposed.
pub(crate) fn tell_stamp(stamp: Stamp) {
    tracing::trace!(target: TIMES, stamped = stamp.fleet, "{STAMPED}");
}

/// Tells of the log entry `index`, which was stamped so: the fleet time now, and when something is due next.
pub(super) fn tell_time(index: u64, stamp: Stamp, fleet: &Fleet) {
    let (now, due) = (fleet.now().fleet, fleet.next_due().unwrap_or(u64::MAX));
    tracing::trace!(target: TIMES, index, stamped = stamp.fleet, now, due);
}
