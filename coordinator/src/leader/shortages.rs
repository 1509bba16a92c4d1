//! What was refused in a shortage, so that roles of higher priority are served: counted, and recorded in the log and
//! the audit log, together for each minute, so that a shortage doesn't fill what records it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use robeing_fleet::{
    AuditCommand, AuditEntry, AuditOutcome, Command, Places, Refusal, Role, SubmitTask, limits::MAX_AGENTS,
};
use robeing_platform::sync::{Mutex, PoisonError};
use robeing_telemetry::Metrics;
use tracing::{debug, warn};

use crate::{api::convert, propose::Proposer};

/// How often what was refused is recorded.
const RECORD_EVERY: Duration = Duration::from_secs(60);
/// The actor of the records.
const ACTOR: &str = "coordinators";
/// The agents with sessions.
pub const SESSIONS: Places = Places { most: MAX_AGENTS, kept: 100 };

/// Of what there is too little.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scarce {
    /// Sessions of agents; see [`SESSIONS`].
    Sessions,
    /// Enrolments in progress at one coordinator.
    Enrolments,
    /// Places in the queue of tasks.
    Queue,
}

impl Scarce {
    /// Returns the value of the metric's label, which is also the subject of the records.
    fn as_str(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Enrolments => "enrolments",
            Self::Queue => "queue",
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    scarce: &'static str,
    role: &'static str,
}

/// The refusals of one coordinator. Cheap to clone.
#[derive(Clone, Default)]
pub struct Shortages {
    counter: Family<Labels, Counter>,
    /// What is to be recorded: at most one number for each role and scarce thing.
    pending: Arc<Mutex<BTreeMap<(Scarce, Role), u64>>>,
}

impl Shortages {
    /// Registers the counter with a process's metrics.
    pub fn register(&self, metrics: &Metrics) {
        let help = "What was refused in a shortage to a role, by what was scarce; the last places are kept for roles of \
                    higher priority";
        metrics.register("shortage_refusals", help, self.counter.clone());
    }

    /// Records that something was refused to an agent of this role, or to a task for it.
    pub fn count(&self, scarce: Scarce, role: Role) {
        let labels = Labels { scarce: scarce.as_str(), role: convert::peer_role(role).as_str() };
        self.counter.get_or_create(&labels).inc();
        *self.pending.lock().unwrap_or_else(PoisonError::into_inner).entry((scarce, role)).or_default() += 1;
    }

    /// Records which submissions were refused because the queue is full for their role, and returns `refused`, whose keys
    /// are indexes into `submissions`.
    pub fn counted(&self, submissions: &[SubmitTask], refused: BTreeMap<usize, Refusal>) -> BTreeMap<usize, Refusal> {
        let full = refused.iter().filter(|(_, refusal)| matches!(refusal, Refusal::QueueFull { .. }));
        for submission in full.filter_map(|(n, _)| submissions.get(*n)) {
            self.count(Scarce::Queue, submission.required_role.unwrap_or(Role::Worker));
        }
        refused
    }

    /// Returns what was refused since the last call, as records.
    fn take(&self) -> Vec<AuditEntry> {
        let pending = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        let entry = |((scarce, role), times): ((Scarce, Role), u64)| AuditEntry {
            actor: ACTOR.to_owned(),
            action: "shortage".to_owned(),
            subject: scarce.as_str().to_owned(),
            outcome: AuditOutcome::Denied,
            detail: format!(
                "refused {times} for the role {}, of priority {}",
                convert::peer_role(role).as_str(),
                role.traits().priority
            ),
        };
        pending.into_iter().map(entry).collect()
    }

    /// Records what was refused. Runs until the coordinator stops.
    pub async fn run(self, proposer: Proposer) {
        loop {
            tokio::time::sleep(RECORD_EVERY).await;
            let entries = self.take();
            for entry in &entries {
                warn!(scarce = entry.subject, "{} in the last minute", entry.detail);
            }
            if entries.is_empty() {
                continue;
            }
            // What can't be recorded was counted.
            if let Err(error) = proposer.propose_one(Command::Audit(AuditCommand::Record(entries))).await {
                debug!(%error, "what was refused in a shortage was not recorded");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use robeing_fleet::{TaskId, limits::MAX_AUDIT_BATCH};

    use super::*;

    #[test]
    fn only_submissions_for_which_the_queue_is_full_are_counted() {
        let shortages = Shortages::default();
        let task = |n: u128| SubmitTask::new(TaskId(n), "a", Bytes::new());
        let guarding = SubmitTask { required_role: Some(Role::Guardian), ..task(2) };
        let full = || Refusal::QueueFull { limit: 1 };
        let refused = BTreeMap::from([(0, Refusal::TooManyTasks { limit: 1 }), (1, full()), (2, full()), (9, full())]);
        assert_eq!(shortages.counted(&[task(1), guarding, task(3)], refused.clone()), refused);
        let found: Vec<_> = shortages.take().into_iter().map(|entry| entry.detail).collect();
        assert_eq!(
            found,
            ["refused 1 for the role worker, of priority 3", "refused 1 for the role guardian, of priority 2"]
        );
    }

    #[test]
    fn refusals_are_counted_by_role_and_recorded_together() {
        let (metrics, shortages) = (Metrics::default(), Shortages::default());
        shortages.register(&metrics);
        for _ in 0..1_000 {
            for scarce in [Scarce::Queue, Scarce::Sessions, Scarce::Enrolments] {
                Role::ALL.into_iter().for_each(|role| shortages.count(scarce, role));
            }
        }
        let text = metrics.encode();
        let line = r#"robeing_shortage_refusals_total{scarce="queue",role="messenger"} 1000"#;
        assert!(text.contains(line), "{text}");
        let entries = shortages.take();
        assert_eq!(entries.len(), 3 * Role::ALL.len());
        assert!(entries.len() <= MAX_AUDIT_BATCH);
        assert_eq!(entries[0].subject, "sessions");
        assert_eq!(entries[0].detail, "refused 1000 for the role worker, of priority 3");
        assert_eq!(shortages.take(), [], "each is recorded once");
    }
}
