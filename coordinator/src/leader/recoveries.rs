//! Durations of the steps of agent recoveries as the leader measures them: from when it detected the problem to when
//! the step was applied. Every coordinator applies every step, but only the leader records it, so that a sum over all
//! coordinators counts each step once.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, histogram::Histogram},
};
use robeing_fleet::{AgentId, RecoveryEvent, RecoveryStep};
use robeing_platform::sync::{Mutex, PoisonError};
use robeing_telemetry::Metrics;
use tokio::time::Instant;
use tracing::info;

use crate::{
    apply::observer::ApplyObserver,
    leader::{
        role::{until_leading, until_not_leading},
        standing::Standing,
    },
};

/// Upper bounds of a step's duration, seconds: from a commit on a fast disk to an agent that is repaired manually.
const BOUNDS: [f64; 14] = [0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0, 300.0, 3_600.0];
/// Maximum number of agents whose recovery is timed at once. For the others, the step's duration in fleet time is used,
/// which has a resolution of one millisecond.
const MAX_TIMED: usize = 4_096;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Step {
    step: &'static str,
}

/// The ongoing recoveries while this coordinator leads, and the durations of their steps.
pub struct Recoveries {
    /// When each agent's recovery began; `None` while this coordinator does not lead.
    began: Mutex<Option<BTreeMap<AgentId, Instant>>>,
    durations: Family<Step, Histogram, fn() -> Histogram>,
}

impl Default for Recoveries {
    fn default() -> Self {
        Self { began: Mutex::default(), durations: Family::new_with_constructor(|| Histogram::new(BOUNDS)) }
    }
}

fn word(event: &RecoveryEvent) -> &'static str {
    match event {
        RecoveryEvent::Unhealthy { .. } => "unhealthy",
        RecoveryEvent::Lost { .. } => "lost",
        RecoveryEvent::Redistributed { .. } => "redistribute",
        RecoveryEvent::StandbyActivated { .. } => "activate_standby",
        RecoveryEvent::Removed => "remove",
        RecoveryEvent::RecoveryAttempted => "attempt_recovery",
        RecoveryEvent::Readmitted { .. } => "readmit",
    }
}

impl Recoveries {
    /// Registers the durations with a process's metrics.
    pub fn register(&self, metrics: &Metrics) {
        let help =
            "Time from noticing that an agent is unhealthy or lost to a step of its recovery, as this leader saw it";
        metrics.register("recovery_step_seconds", help, self.durations.clone());
    }

    fn timed<T>(&self, change: impl FnOnce(&mut Option<BTreeMap<AgentId, Instant>>) -> T) -> T {
        change(&mut self.began.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records that an agent was found unhealthy or lost, before this is written to the log.
    pub fn began(&self, agent: AgentId, now: Instant) {
        self.timed(|began| {
            if let Some(began) = began
                && (began.len() < MAX_TIMED || began.contains_key(&agent))
            {
                began.insert(agent, now);
            }
        });
    }

    /// Records that a step in the recovery of the agent with this name was applied.
    pub fn done(&self, agent: AgentId, name: &str, step: &RecoveryStep) {
        let took = self.timed(|began| {
            let began = began.as_mut()?;
            let took = began.get(&agent).map_or(Duration::from_millis(step.took), Instant::elapsed);
            if matches!(step.event, RecoveryEvent::Readmitted { .. }) {
                began.remove(&agent);
            }
            Some(took)
        });
        let Some(took) = took else { return };
        let step_word = word(&step.event);
        self.durations.get_or_create(&Step { step: step_word }).observe(took.as_secs_f64());
        info!(agent = name, step = step_word, ?took, event = ?step.event, "recovery");
    }
}

/// Times recoveries while this coordinator leads. Runs until it stops.
pub async fn run(standing: Standing, observer: Arc<ApplyObserver>) {
    let mut raft_role = standing.roles();
    while let Some(term) = until_leading(&mut raft_role).await {
        observer.recoveries.timed(|began| *began = Some(BTreeMap::new()));
        until_not_leading(&mut raft_role, term).await;
        observer.recoveries.timed(|began| *began = None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(event: RecoveryEvent, took: u64) -> RecoveryStep {
        RecoveryStep { at: robeing_fleet::Stamp::at(1), took, event }
    }

    #[tokio::test(start_paused = true)]
    async fn steps_are_timed_from_when_this_leader_noticed_and_by_the_fleets_time_otherwise() {
        let (metrics, recoveries) = (Metrics::default(), Recoveries::default());
        recoveries.register(&metrics);
        let removed = || step(RecoveryEvent::Removed, 200);
        recoveries.began(AgentId(1), Instant::now());
        recoveries.done(AgentId(1), "a", &removed());
        assert!(!metrics.encode().contains("step=\"remove\""), "it does not lead");
        recoveries.timed(|began| *began = Some(BTreeMap::new()));
        recoveries.began(AgentId(1), Instant::now());
        tokio::time::advance(Duration::from_millis(4)).await;
        recoveries.done(AgentId(1), "a", &removed());
        recoveries.done(AgentId(2), "b", &removed());
        let text = metrics.encode();
        for line in [
            "robeing_recovery_step_seconds_bucket{le=\"0.0025\",step=\"remove\"} 0",
            "robeing_recovery_step_seconds_bucket{le=\"0.005\",step=\"remove\"} 1",
            "robeing_recovery_step_seconds_count{step=\"remove\"} 2",
        ] {
            assert!(text.contains(line), "{text}");
        }
        recoveries.done(AgentId(1), "a", &step(RecoveryEvent::Readmitted { standby: false }, 9));
        recoveries.timed(|began| assert!(began.as_ref().is_some_and(BTreeMap::is_empty)));
    }
}
