//! The status of the fleet for people: its agents, its state, and both together as the live view of `robeing dev`.

use std::fmt::Write;

use jiff::Timestamp;
use robeing_proto::v1::{
    Agent, AgentState, Coordinator, CoordinatorState, FleetStatus, KindPerformance, Quarantine, RecoveryAction,
    RecoveryStep, TaskCounts,
};

use super::{
    table::table,
    words::{age, agent_word, coordinator_word, moment, plural, printable, role_word, short_duration},
};
use crate::kubernetes::Resource;

/// Formats the list of `robeing agents`.
pub fn agents_table(agents: &[Agent], now: Timestamp) -> String {
    if agents.is_empty() {
        return "no agents\n".into();
    }
    table(
        [
            "NAME",
            "ROLE",
            "STATE",
            "POOL",
            "SLOTS",
            "SUCCEEDED",
            "FAILED",
            "PERFORMANCE",
            "PID",
            "ADDRESS",
            "JOINED",
            "SPECIALIZATIONS",
        ],
        agents.iter().map(|agent| {
            [
                agent.name.clone(),
                role_word(agent.role()),
                agent_state(agent),
                agent.pool.clone(),
                format!("{}/{}", agent.used_slots, agent.slots),
                agent.succeeded.to_string(),
                agent.failed.to_string(),
                format!("{:.2}", agent.performance),
                pid(agent.pid),
                agent.address.clone(),
                joined(agent, now),
                agent.specializations.join(","),
            ]
        }),
    )
}

/// Formats when the agent's session began. That is not when its process started: an agent that was lost starts a new
/// session.
fn joined(agent: &Agent, now: Timestamp) -> String {
    match age(agent.joined_at.as_ref(), now) {
        age if age.is_empty() => age,
        age => format!("{age} ago"),
    }
}

fn agent_state(agent: &Agent) -> String {
    let word = agent_word(agent.state());
    match agent.state() {
        _ if agent.quarantine.is_some() => format!("{word} (in quarantine)"),
        AgentState::Lost if !agent.lost_reason.is_empty() => format!("{word} ({})", agent.lost_reason),
        AgentState::Unhealthy if !agent.unhealthy_reason.is_empty() => format!("{word} ({})", agent.unhealthy_reason),
        _ => word,
    }
}

/// Formats since when an agent is in quarantine, by whom and why.
fn quarantine_text(quarantine: &Quarantine, now: Timestamp) -> String {
    let Quarantine { since, by, reason } = quarantine;
    let since = moment(since.as_ref(), now);
    if reason.is_empty() { format!("since {since}, by {by}") } else { format!("since {since}, by {by}: {reason}") }
}

/// Formats the `RobeingCluster` of a fleet on Kubernetes, which `robeing status` prints first.
pub fn resource_text(resource: &Resource) -> String {
    let mut text = String::new();
    // Writing to a string can't fail.
    let _ = writeln!(text, "RobeingCluster: {}/{}", resource.metadata.namespace, resource.metadata.name);
    let _ = writeln!(text, "Phase:          {}", resource.phase());
    text.push('\n');
    if !resource.status.conditions.is_empty() {
        text.push_str(&table(
            ["CONDITION", "STATUS", "REASON", "MESSAGE"],
            resource.status.conditions.iter().map(|condition| {
                [&condition.kind, &condition.status, &condition.reason, &condition.message].map(String::clone)
            }),
        ));
        text.push('\n');
    }
    text
}

/// Formats one agent in full, as `robeing agents --why NAME` prints it: its state, and its recent recovery steps.
pub fn agent_text(agent: &Agent, now: Timestamp) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        if !value.is_empty() {
            // Writing to a string can't fail.
            let _ = writeln!(text, "{:<16}{}", format!("{name}:"), printable(&value));
        }
    };
    line("Agent", agent.name.clone());
    line("State", agent_state(agent));
    line("Since", moment(agent.unhealthy_since.as_ref().or(agent.lost_at.as_ref()), now));
    line("Quarantine", agent.quarantine.as_ref().map(|found| quarantine_text(found, now)).unwrap_or_default());
    line("Role", role_word(agent.role()));
    line("Pool", agent.pool.clone());
    line("Skills", agent.specializations.join(","));
    line("Slots", format!("{}/{}", agent.used_slots, agent.slots));
    line("Joined", moment(agent.joined_at.as_ref(), now));
    line("Process", pid(agent.pid));
    line("Address", agent.address.clone());
    line("Performance", format!("{:.2}", agent.performance));
    text.push_str(&kinds_table(agent));
    if agent.recovery.is_empty() {
        text.push_str("\nIt has been neither unhealthy nor lost since it joined.\n");
        return text;
    }
    text.push('\n');
    text.push_str(&table(
        ["WHEN", "STEP", "AFTER"],
        agent.recovery.iter().map(|step| {
            let when = match age(step.at.as_ref(), now) {
                age if age.is_empty() => age,
                age => format!("{age} ago"),
            };
            [when, recovery_words(step), recovery_took(step)]
        }),
    ));
    text.push_str("\nAFTER is the time since the agent was found unhealthy or lost.\n");
    text
}

/// Formats how well an agent does the kinds of tasks that it had lately; nothing if none of them has a figure of its own.
fn kinds_table(agent: &Agent) -> String {
    if agent.kinds.is_empty() {
        return String::new();
    }
    let rows = agent.kinds.iter().map(|kind| {
        let KindPerformance { kind, performance, success_rate, relative_speed } = kind;
        [kind.clone(), format!("{performance:.2}"), format!("{success_rate:.2}"), format!("{relative_speed:.2}")]
    });
    format!("\n{}", table(["KIND", "PERFORMANCE", "SUCCESS", "SPEED"], rows))
}

fn begins(step: &RecoveryStep) -> bool {
    matches!(step.action(), RecoveryAction::Unhealthy | RecoveryAction::Lost)
}

fn recovery_took(step: &RecoveryStep) -> String {
    let took = step.took.filter(|_| !begins(step)).and_then(|took| std::time::Duration::try_from(took).ok());
    took.map(short_duration).unwrap_or_default()
}

fn recovery_words(step: &RecoveryStep) -> String {
    let because = |word: &str| match step.reason.as_str() {
        "" => word.to_owned(),
        reason => format!("{word}: {}", printable(reason)),
    };
    match step.action() {
        RecoveryAction::Unhealthy => because("unhealthy"),
        RecoveryAction::Lost => because("lost"),
        RecoveryAction::Redistribute => format!("{} redistributed", plural(step.tasks as usize, "task")),
        RecoveryAction::ActivateStandby => format!("standby {} activated", step.standby),
        RecoveryAction::Remove => "removed".to_owned(),
        RecoveryAction::AttemptRecovery => "recovery attempted".to_owned(),
        RecoveryAction::Readmit if step.waits => "readmitted, as standby".to_owned(),
        RecoveryAction::Readmit => "readmitted".to_owned(),
        RecoveryAction::Unspecified => "a step that this program does not know".to_owned(),
    }
}

/// Formats a process id; empty if it is not known.
fn pid(pid: u32) -> String {
    if pid == 0 { String::new() } else { pid.to_string() }
}

/// Describes the unreachable voters if they are at least half of all, because then there is no majority to commit
/// anything.
fn without_majority(status: &FleetStatus) -> Option<String> {
    let voters: Vec<_> = status.coordinators.iter().filter(|coordinator| coordinator.voter).collect();
    let mute = voters.iter().filter(|voter| voter.state() == CoordinatorState::Unreachable).count();
    (mute * 2 >= voters.len() && mute > 0)
        .then(|| format!("{mute} of {} voters do not answer: without a majority nothing is decided", voters.len()))
}

/// Formats the output of `robeing status`.
pub fn status_text(status: &FleetStatus) -> String {
    let mut text = String::new();
    let leader = match status.leader.as_str() {
        "" => "none (no majority of coordinators agrees on one now)".to_owned(),
        leader => format!("{leader} at {}, term {}", status.leader_address, status.term),
    };
    let agents = status.agents.unwrap_or_default();
    // Writing to a string can't fail.
    let _ = writeln!(text, "Fleet:          {}", status.cluster_id);
    let _ = writeln!(text, "Leader:         {leader}");
    if let Some(problem) = without_majority(status) {
        let _ = writeln!(text, "Problem:        {problem}; the following is the last known state");
    }
    for warning in &status.warnings {
        let _ = writeln!(text, "Warning:        {}: {}", warning.reason, printable(&warning.message));
    }
    let _ = writeln!(
        text,
        "Agents:         {} live, {} standby, {} unhealthy, {} draining, {} lost",
        agents.live, agents.standby, agents.unhealthy, agents.draining, agents.lost
    );
    let _ = writeln!(text, "Tasks:          {}", counts_text(&status.tasks.unwrap_or_default()));
    for need in &status.unmet_needs {
        let tasks = plural(need.tasks as usize, "task");
        let words = format!("{tasks} of kind {:?} (such as {}): {}", need.kind, need.task_id, need.problem);
        let _ = writeln!(text, "Unschedulable:  {}", printable(&words));
    }
    let _ = writeln!(text, "Finished:       {} since the fleet began", finished_text(status));
    let _ = writeln!(
        text,
        "Takeovers:      {} ({} stale answers refused)",
        status.redistributed_total, status.stale_refused_total
    );
    let _ = writeln!(
        text,
        "Log:            applied {}, snapshot {}, revision {}",
        status.log_applied_index, status.log_snapshot_index, status.revision
    );
    if !status.coordinators.is_empty() {
        text.push('\n');
        text.push_str(&coordinators_table(&status.coordinators));
    }
    if !status.pools.is_empty() {
        text.push('\n');
        text.push_str(&table(
            ["POOL", "LIVE", "STANDBY", "DESIRED"],
            status.pools.iter().map(|pool| {
                [pool.name.clone(), pool.live.to_string(), pool.standby.to_string(), pool.desired.to_string()]
            }),
        ));
    }
    text
}

fn counts_text(tasks: &TaskCounts) -> String {
    format!(
        "{} queued, {} assigned, {} succeeded, {} failed, {} cancelled, {} dead-lettered",
        tasks.queued, tasks.running, tasks.succeeded, tasks.failed, tasks.cancelled, tasks.dead_lettered
    )
}

fn finished_text(status: &FleetStatus) -> String {
    let total = status.finished_total.unwrap_or_default();
    format!(
        "{} succeeded, {} failed, {} cancelled, {} dead-lettered",
        total.succeeded, total.failed, total.cancelled, total.dead_lettered
    )
}

fn coordinators_table(coordinators: &[Coordinator]) -> String {
    table(
        ["COORDINATOR", "STATE", "VOTER", "MATCHED", "LEADER SCORE", "PID", "ADDRESS", "VERSION"],
        coordinators.iter().map(|coordinator| {
            [
                coordinator.name.clone(),
                coordinator_word(coordinator.state()),
                if coordinator.voter { "yes" } else { "no" }.into(),
                coordinator.matched_index.to_string(),
                coordinator.leader_score.map(|score| format!("{:.2}", score.total)).unwrap_or_default(),
                pid(coordinator.pid),
                coordinator.address.clone(),
                coordinator.version.clone(),
            ]
        }),
    )
}

/// Formats the view that `robeing dev` shows in a terminal: coordinators, tasks and agents.
pub fn live_view(status: &FleetStatus, agents: &[Agent], now: Timestamp) -> String {
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{}   leader {}   term {}   takeovers {}",
        status.cluster_id,
        if status.leader.is_empty() { "none" } else { &status.leader },
        status.term,
        status.redistributed_total
    );
    let _ = writeln!(text, "tasks   {}\n", counts_text(&status.tasks.unwrap_or_default()));
    text.push_str(&coordinators_table(&status.coordinators));
    text.push('\n');
    text.push_str(&agents_table(agents, now));
    text
}
