//! The metrics of queues of tasks, from what the log counts: every coordinator exports the same. Only so many queues have
//! metrics of their own, and what is gone is removed without the others being missed meanwhile.

use std::collections::BTreeSet;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{family::Family, gauge::Gauge},
};
use robeing_fleet::QueueFigures;
use robeing_platform::sync::{Mutex, PoisonError};
use robeing_telemetry::Metrics;

use crate::read::StateReader;

/// Most queues that have metrics of their own: the first ones by name.
const MAX_SHOWN: usize = 100;

#[derive(Clone, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, EncodeLabelSet)]
struct OfQueue {
    queue: String,
}

/// The metrics of the queues that are set or have tasks, and of the one that is always there.
#[derive(Default)]
pub struct QueueGauges {
    waiting: Family<OfQueue, Gauge>,
    running: Family<OfQueue, Gauge>,
    started: Family<OfQueue, Gauge>,
    held: Family<OfQueue, Gauge>,
    left_out: Gauge,
    shown: Mutex<BTreeSet<OfQueue>>,
}

impl QueueGauges {
    /// Registers the metrics with those of a process.
    pub fn register(metrics: &Metrics) -> Self {
        let gauges = Self::default();
        let help = "Unfinished tasks of a queue that are not assigned to an agent";
        metrics.register("queue_tasks_waiting", help, gauges.waiting.clone());
        metrics.register(
            "queue_tasks_running",
            "Tasks of a queue that are assigned to an agent",
            gauges.running.clone(),
        );
        let help = "Attempts at tasks of a queue that have begun since the queue was set";
        metrics.register("queue_attempts_started", help, gauges.started.clone());
        let help = "1 while a limit on all tasks of a queue keeps the next one from being started";
        metrics.register("queue_held", help, gauges.held.clone());
        let help = "Queues of tasks that have no metrics of their own, because there are too many";
        metrics.register("queues_left_out", help, gauges.left_out.clone());
        gauges
    }

    /// Brings the metrics up to date.
    pub fn refresh(&self, state: &StateReader) {
        let (queues, count) = state.look(|fleet| fleet.queue_figures(MAX_SHOWN));
        self.show(queues, count);
    }

    /// Shows these queues of so many.
    fn show(&self, queues: Vec<QueueFigures>, count: usize) {
        self.left_out.set(count.saturating_sub(queues.len()) as i64);
        let mut now = BTreeSet::new();
        for QueueFigures { name, waiting, running, started, is_held } in queues {
            let of_queue = OfQueue { queue: name };
            self.waiting.get_or_create(&of_queue).set(waiting.into());
            self.running.get_or_create(&of_queue).set(running.into());
            self.started.get_or_create(&of_queue).set(i64::try_from(started).unwrap_or(i64::MAX));
            self.held.get_or_create(&of_queue).set(is_held.into());
            now.insert(of_queue);
        }
        let mut before = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        for gone in before.difference(&now) {
            for family in [&self.waiting, &self.running, &self.started, &self.held] {
                family.remove(gone);
            }
        }
        *before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queues(count: usize) -> Vec<QueueFigures> {
        let of = |n: usize| QueueFigures {
            name: format!("queue-{n}"),
            waiting: 7,
            running: 2,
            started: 30,
            is_held: n.is_multiple_of(2),
        };
        (0..count).map(of).collect()
    }

    #[test]
    fn queues_have_metrics_until_they_are_gone_and_those_that_are_left_out_are_counted() {
        let metrics = Metrics::default();
        let gauges = QueueGauges::register(&metrics);
        let has = |text: &str| metrics.encode().contains(text);
        gauges.show(queues(2), 5);
        for line in [
            "robeing_queue_tasks_waiting{queue=\"queue-0\"} 7\n",
            "robeing_queue_tasks_running{queue=\"queue-1\"} 2\n",
            "robeing_queue_attempts_started{queue=\"queue-1\"} 30\n",
            "robeing_queue_held{queue=\"queue-0\"} 1\n",
            "robeing_queue_held{queue=\"queue-1\"} 0\n",
            "robeing_queues_left_out 3\n",
        ] {
            assert!(has(line), "{line}");
        }
        gauges.show(queues(1), 1);
        assert!(has("queue-0") && !has("queue-1") && has("robeing_queues_left_out 0\n"));
    }
}
