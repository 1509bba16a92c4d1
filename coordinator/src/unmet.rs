//! Finds what tasks need that wait and that no agent has, for the status and a metric. The agents are read in slices, between
//! which commands are applied.

use std::time::Duration;

use robeing_fleet::{UnmetNeed, UnmetNeeds};
use robeing_telemetry::Metrics;

use crate::{metrics::gauged, read::StateReader};

/// How often the metric is refreshed.
const REFRESH: Duration = Duration::from_secs(10);

/// Returns what tasks need that wait and that no agent has.
pub async fn unmet_needs(state: &StateReader) -> Vec<UnmetNeed> {
    let mut needs = state.look(UnmetNeeds::of);
    let mut after = None;
    while !needs.is_empty()
        && let Some(slice) = state.agents_after(after).await
    {
        after = slice.last().map(|agent| agent.id);
        state.look(|fleet| slice.iter().for_each(|agent| needs.look(fleet, agent)));
    }
    needs.told()
}

/// Keeps the metric up to date until the coordinator stops.
pub async fn run(state: StateReader, metrics: Metrics) {
    let help = "Tasks that wait and that no agent could ever run, because none has what they need";
    let unschedulable = metrics.gauge("tasks_unschedulable", help);
    loop {
        let tasks: u64 = unmet_needs(&state).await.iter().map(|need| need.tasks).sum();
        unschedulable.set(gauged(tasks));
        tokio::time::sleep(REFRESH).await;
    }
}
