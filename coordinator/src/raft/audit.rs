//! Reports what was applied as tracing events with their own targets, so that the simulator can compare coordinators
//! and check the fleet's invariants after every log entry. Computes the checksum and the audit only if a subscriber
//! listens at level TRACE.

use std::collections::BTreeMap;

use robeing_fleet::{Effect, Fleet, LossReason, RecoveryEvent, Stamp, TaskState, limits::MAX_PAGE};
use tracing::Level;

use super::{NodeId, Vote};

/// Target of the events about applied entries.
pub const APPLIED: &str = "robeing::applied";
/// Target of the events about time: the stamps of batches, and the fleet time at which entries were applied.
pub const TIMES: &str = "robeing::times";
/// Message of the event for a stamped batch.
pub const STAMPED: &str = "a batch was stamped";

/// Message of the event for a snapshot that was written.
pub const SNAPSHOT_WRITTEN: &str = "a snapshot was written";
/// Message of the event for a state that was replaced by a snapshot from the leader.
pub const SNAPSHOT_INSTALLED: &str = "a snapshot was installed";

/// Target of the events about votes: those granted, and those found on disk at startup.
pub const VOTES: &str = "robeing::votes";
/// Message of the event for a granted vote.
pub const VOTE_GIVEN: &str = "a vote was given";
/// Message of the event for the newest vote on disk at startup.
pub const VOTE_FOUND: &str = "a vote was found";

/// Reports a node's newest vote.
pub(crate) fn tell_vote(message: &str, node: NodeId, vote: Option<Vote>) {
    let (term, candidate) = vote.map_or((0, 0), |vote| (vote.leader_id.term, vote.leader_id.node_id));
    tracing::trace!(target: VOTES, node, term, candidate, "{message}");
}

/// Reports the log entry `index` and its effects.
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
    // The session's number and, when it begins, its agent's name.
    let sessions: Vec<String> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::SessionStarted { agent, session } => Some(format!("{} {}", session.0, fleet.agent(*agent)?.name)),
            Effect::SessionEnded { session, .. } => Some(session.0.to_string()),
            _ => None,
        })
        .collect();
    // The agents that stopped sending heartbeats.
    let silent: Vec<&str> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Recovery { agent, step } if is_silence(&step.event) => Some(&*fleet.agent(*agent)?.name),
            _ => None,
        })
        .collect();
    let (checksum, broken) = (fleet.checksum(), fleet.audit().err().unwrap_or_default());
    let (finished, assigned, sessions) = (finished.join(" "), assigned.join(","), sessions.join(","));
    let (silent, granted, teams, schedules) = (silent.join(" "), granted(fleet), teams(fleet), schedules(fleet));
    let queued = queued(fleet);
    tracing::trace!(
        target: APPLIED,
        index, checksum, finished, assigned, sessions, silent, granted, teams, schedules, queued, broken
    );
}

/// Returns the running tasks, counted one by one: the queue of each group, the number of tasks, and the key if they have
/// one.
fn queued(fleet: &Fleet) -> String {
    let mut groups: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    for task in fleet.changed_tasks_since(0).filter(|task| task.state == TaskState::Assigned) {
        *groups.entry((task.queue(), task.limit_key())).or_default() += 1;
    }
    let words = groups.into_iter().map(|((queue, key), count)| format!("{queue} {count} {key}").trim_end().to_owned());
    words.collect::<Vec<_>>().join(",")
}

/// Returns the granted allocations: the id, the fencing token, the holder and the queue of each, and for each of its
/// parts the agent that gives it, the thousandths of a processor and the bytes of memory.
fn granted(fleet: &Fleet) -> String {
    let (mut granted, mut before) = (Vec::new(), None);
    loop {
        let (page, next) = fleet.allocations(before, MAX_PAGE, true);
        for allocation in page {
            let Some(token) = allocation.token() else { continue };
            let mut words = format!("{} {token} {} {}", allocation.id, allocation.holder, allocation.queue);
            for part in &allocation.parts {
                let agent = part.agent.and_then(|id| fleet.agent(id)).map_or("?", |agent| &*agent.name);
                words.push_str(&format!(" {agent} {} {}", part.amounts.cpu, part.amounts.memory));
            }
            granted.push(words);
        }
        if next.is_none() {
            return granted.join(",");
        }
        before = next;
    }
}

/// Returns the newest teams that are not disbanded: the id of each, and the names of its members.
fn teams(fleet: &Fleet) -> String {
    let open = fleet.teams(None, MAX_PAGE, true).into_iter().map(|team| {
        let names = team.members.iter().map(|member| &*member.name);
        [team.id.to_string()].into_iter().chain(names.map(str::to_owned)).collect::<Vec<_>>().join(" ")
    });
    open.collect::<Vec<_>>().join(",")
}

/// Returns the wall time, and the schedules: the name, the number and the generation of each, when it is due next (0 if it
/// is not), the newest moment that was decided, and how many of its runs have started, were missed, were skipped and were
/// refused; and of each run when it was due, its task, who has started it, and whether it has ended. Nothing if there are no
/// schedules.
fn schedules(fleet: &Fleet) -> String {
    let kept = fleet.schedules_after("", MAX_PAGE).into_iter().map(|schedule| {
        let (next, totals) = (schedule.next.unwrap_or_default(), schedule.totals);
        let runs = schedule.runs.iter().map(|run| {
            let by = if run.by_hand { "hand" } else { "time" };
            let state = if run.end.is_some() { "ended" } else { "runs" };
            format!(" {} {} {by} {state}", run.due, run.task)
        });
        format!(
            ",{} {} {} {next} {} {} {} {} {}{}",
            schedule.name,
            schedule.seq,
            schedule.generation,
            schedule.decided,
            totals.started,
            totals.missed,
            totals.busy,
            totals.refused,
            runs.collect::<String>()
        )
    });
    let kept: String = kept.collect();
    if kept.is_empty() { kept } else { format!("{}{kept}", fleet.now().wall) }
}

fn is_silence(event: &RecoveryEvent) -> bool {
    matches!(event, RecoveryEvent::Lost { reason: LossReason::Silent })
}

/// Reports the stamp of a batch that is about to be proposed.
pub(crate) fn tell_stamp(stamp: Stamp) {
    tracing::trace!(target: TIMES, stamped = stamp.fleet, "{STAMPED}");
}

/// Reports the stamp of the log entry `index`, the fleet time now, and when something is due next.
pub(super) fn tell_time(index: u64, stamp: Stamp, fleet: &Fleet) {
    let (now, due) = (fleet.now().fleet, fleet.next_due().unwrap_or(u64::MAX));
    tracing::trace!(target: TIMES, index, stamped = stamp.fleet, now, due);
}
