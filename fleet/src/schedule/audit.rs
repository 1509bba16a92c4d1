//! Invariants of the schedule.

use std::sync::Arc;

use crate::{
    Agent, Fleet, Task, TaskResources,
    audit::{Check, ensure},
};

/// Checks that no ready task waits while an agent that fits it has a free slot, and the resources that it needs, unless a
/// limit holds it back.
pub(crate) fn check_work_conserving(fleet: &Fleet) -> Check {
    let free: Vec<&Arc<Agent>> = fleet.agents().filter(|a| a.free_slots() > 0).collect();
    // One that has expired is about to be ended.
    let waits =
        |task: &&Arc<Task>| task.is_ready() && !task.has_expired(fleet.state.now.fleet) && !fleet.is_held_back(task);
    for task in fleet.state.tasks.kept.values().filter(waits) {
        let needs = task.needs();
        let excluded = fleet.excluded(task);
        for agent in free.iter().filter(|agent| !excluded.contains(&agent.id)) {
            let is_of_team = |team| fleet.team_of(agent.id).is_some_and(|of_agent| of_agent.id == team);
            let fits = needs.can_go_to(agent)
                && task.team.is_none_or(is_of_team)
                && task.resources.as_ref().is_none_or(|claim| gives(fleet, agent, &claim.asked));
            ensure(!fits, || format!("task {} waits though agent {} is free", task.id, agent.name))?;
        }
    }
    Ok(())
}

/// Returns whether an agent has these resources free and a task may have them, unless it is about to be found out who
/// may.
fn gives(fleet: &Fleet, agent: &Agent, asked: &TaskResources) -> bool {
    let free = fleet.contribution(agent.id).map(|found| found.contributed.minus(found.used));
    fleet.state.resources.sweep.is_none()
        && free.is_some_and(|free| free.covers(asked.amounts))
        && fleet.has_turn(asked)
}
