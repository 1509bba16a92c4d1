//! Conversion of agents' recoveries, step by step.

use prost_types::Duration as WireDuration;
use robeing_fleet::{FleetRecoveryStep, LossReason, RecoveryEvent, RecoveryStep};
use robeing_proto::v1;

use super::timestamp;

/// Converts a step in the recovery of an agent to its API form.
pub fn recovery_step(step: &RecoveryStep) -> v1::RecoveryStep {
    use v1::RecoveryAction as Action;
    let mut told = v1::RecoveryStep {
        at: Some(timestamp(step.at.wall)),
        took: Some(WireDuration { seconds: (step.took / 1000) as i64, nanos: (step.took % 1000) as i32 * 1_000_000 }),
        ..v1::RecoveryStep::default()
    };
    let action = match &step.event {
        RecoveryEvent::Unhealthy { reason } => {
            told.reason.clone_from(reason);
            Action::Unhealthy
        }
        RecoveryEvent::Lost { reason } => {
            loss_reason(*reason).clone_into(&mut told.reason);
            Action::Lost
        }
        RecoveryEvent::Redistributed { tasks } => {
            told.tasks = *tasks;
            Action::Redistribute
        }
        RecoveryEvent::StandbyActivated { agent } => {
            told.standby = agent.to_string();
            Action::ActivateStandby
        }
        RecoveryEvent::Removed => Action::Remove,
        RecoveryEvent::RecoveryAttempted => Action::AttemptRecovery,
        RecoveryEvent::Readmitted { standby } => {
            told.waits = *standby;
            Action::Readmit
        }
    };
    told.action = action.into();
    told
}

/// Converts such a step in the form that the whole fleet keeps.
pub fn fleet_recovery_step(kept: &FleetRecoveryStep) -> v1::FleetRecoveryStep {
    v1::FleetRecoveryStep {
        number: kept.number,
        agent: kept.agent.to_string(),
        pool: kept.pool.clone().unwrap_or_default(),
        step: Some(recovery_step(&kept.step)),
    }
}

/// Returns why an agent was lost, as text. Of a dropped connection, the failures of its tasks say the same.
pub fn loss_reason(reason: LossReason) -> &'static str {
    match reason {
        LossReason::Disconnected => "its connection dropped",
        LossReason::Silent => "no heartbeat for the session timeout",
        LossReason::Replaced => "another process of its name joined",
        LossReason::Failed => "it failed its health checks",
        LossReason::Barred => "it was barred from the fleet",
    }
}
