//! Conversion of the status of a fleet.

use std::sync::Arc;

use robeing_fleet::{AgentCounts, Counts, Fleet, FleetRecoveryStep, PoolView, ScheduleCounts, Totals};
use robeing_proto::v1;

use super::recoveries::fleet_recovery_step;

/// The part of the status that only the state knows.
pub struct Figures {
    revision: u64,
    version: u32,
    counts: Counts,
    totals: Totals,
    agents: AgentCounts,
    pools: Vec<PoolView>,
    recovery_steps: Vec<Arc<FleetRecoveryStep>>,
    audit_seq: u64,
    schedules: ScheduleCounts,
}

impl Figures {
    /// Reads the figures from the state.
    pub fn of(fleet: &Fleet) -> Self {
        Self {
            revision: fleet.revision(),
            version: fleet.version(),
            counts: fleet.counts(),
            totals: *fleet.totals(),
            agents: fleet.agent_counts(),
            pools: fleet.pools(),
            recovery_steps: fleet.recovery_steps().cloned().collect(),
            audit_seq: fleet.audit_last(),
            schedules: fleet.schedule_counts(),
        }
    }
}

/// Converts the state's part of the status to its API form.
pub fn status(figures: Figures) -> v1::FleetStatus {
    let Figures { revision, version, counts, totals, agents, pools, recovery_steps, audit_seq, schedules } = figures;
    let pools = pools.into_iter().map(|pool| v1::PoolStatus {
        name: pool.name,
        live: pool.live,
        standby: pool.standby,
        desired: pool.desired,
    });
    v1::FleetStatus {
        revision,
        audit_seq,
        schedules: schedules.kept,
        managed_schedules: schedules.managed,
        agents: Some(v1::AgentCounts {
            live: agents.live,
            standby: agents.standby,
            draining: agents.draining,
            lost: agents.lost,
            unhealthy: agents.unhealthy,
        }),
        tasks: Some(v1::TaskCounts {
            queued: counts.queued.into(),
            running: counts.assigned.into(),
            succeeded: counts.succeeded.into(),
            failed: counts.failed.into(),
            cancelled: counts.cancelled.into(),
            dead_lettered: counts.dead_lettered.into(),
        }),
        finished_total: Some(v1::TaskCounts {
            queued: 0,
            running: 0,
            succeeded: totals.succeeded,
            failed: totals.failed,
            cancelled: totals.cancelled,
            dead_lettered: totals.dead_lettered,
        }),
        pools: pools.collect(),
        fleet_version: version,
        redistributed_total: totals.redistributed,
        stale_refused_total: totals.stale_refused,
        recovery_steps: recovery_steps.iter().map(|step| fleet_recovery_step(step)).collect(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use robeing_fleet::Outcome;

    use super::*;
    use crate::fixture::fleet_with_ended;

    #[test]
    fn the_status_has_the_figures_of_the_state() {
        let fleet = fleet_with_ended(3, &Outcome::Succeeded("output".into()));
        let told = status(Figures::of(&fleet));
        assert_eq!((told.revision, told.fleet_version), (fleet.revision(), fleet.version()));
        assert_eq!(told.tasks.map(|tasks| (tasks.succeeded, tasks.queued)), Some((3, 0)));
        assert_eq!(told.finished_total.map(|total| total.succeeded), Some(3));
        assert_eq!(told.agents.map(|agents| agents.live), Some(1));
    }
}
