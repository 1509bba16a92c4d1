//! Invariants of the schedule.

use std::sync::Arc;

use crate::{
    Agent, Fleet,
    audit::{Check, ensure},
};

/// Checks that no ready task waits while an agent that fits it has a free slot.
pub(crate) fn check_work_conserving(fleet: &Fleet) -> Check {
    let free: Vec<&Arc<Agent>> = fleet.agents().filter(|a| a.free_slots() > 0).collect();
    for task in fleet.state.tasks.kept.values().filter(|t| t.is_ready()) {
        let needs = task.needs();
        let excluded = fleet.excluded(task);
        for agent in free.iter().filter(|agent| !excluded.contains(&agent.id)) {
            let is_of_team = |team| fleet.team_of(agent.id).is_some_and(|of_agent| of_agent.id == team);
            let fits =
                needs.fit(agent.role, agent.has_specialization(needs.domain)) && task.team.is_none_or(is_of_team);
            ensure(!fits, || format!("task {} waits though agent {} is free", task.id, agent.name))?;
        }
    }
    Ok(())
}
