//! What was refused in a shortage or a conflict, so that roles of higher priority are served: counted, and recorded in
//! the log and the audit log, together for each minute, so that a shortage doesn't fill what records it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use robeing_fleet::{
    AuditCommand, AuditEntry, AuditOutcome, Command, Places, Refusal, Role, SubmitTask, limits::MAX_AGENTS,
};
use robeing_platform::sync::{Mutex, PoisonError};
use robeing_telemetry::Metrics;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::pressure::{Admission, CpuGate};
use crate::{api::convert, identity::conflicts::Conflict, propose::Proposer};

/// How often what was refused is recorded.
const RECORD_EVERY: Duration = Duration::from_secs(60);
/// The actor of the records.
const ACTOR: &str = "coordinators";
/// The agents with sessions.
pub const SESSIONS: Places = Places { most: MAX_AGENTS, kept: 100 };

/// Maximum number of names whose conflicts are recorded at once; those of further ones are only counted.
pub const MAX_CONFLICTS: usize = 32;

/// Of what there is too little.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Scarce {
    /// Sessions of agents; see [`SESSIONS`].
    Sessions,
    /// Enrolments in progress at one coordinator.
    Enrolments,
    /// Places in the queue of tasks.
    Queue,
    /// Processor time of one coordinator; see [`CpuGate`].
    Cpu,
}

impl Scarce {
    /// Returns the value of the metric's label, which is also the subject of the records.
    fn as_str(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::Enrolments => "enrolments",
            Self::Queue => "queue",
            Self::Cpu => "cpu",
        }
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    scarce: &'static str,
    role: &'static str,
}

/// Conflicts by name and by the role that asked, and how often each was decided.
type Decided = BTreeMap<(String, Role), (Conflict, u64)>;

/// The refusals of one coordinator. Cheap to clone.
#[derive(Clone, Default)]
pub struct Shortages {
    counter: Family<Labels, Counter>,
    /// What is to be recorded: at most one number for each role and scarce thing.
    pending: Arc<Mutex<BTreeMap<(Scarce, Role), u64>>>,
    conflicts: Counter,
    /// Conflicts that are to be recorded.
    decided: Arc<Mutex<Decided>>,
    level: Gauge,
    /// Admits agents by the lag of this coordinator.
    pub cpu: CpuGate,
}

impl Shortages {
    /// Registers the counter with a process's metrics.
    pub fn register(&self, metrics: &Metrics) {
        let help = "What was refused in a shortage to a role, by what was scarce; the last places are kept for roles of \
                    higher priority";
        metrics.register("shortage_refusals", help, self.counter.clone());
        let help = "Names that agents of two roles asked for at the same time";
        metrics.register("name_conflicts", help, self.conflicts.clone());
        let help = "Of how many priorities agents have to wait because this coordinator has too little processor time";
        metrics.register("cpu_shortage_level", help, self.level.clone());
    }

    /// Records that something was refused to an agent of this role, or to a task for it.
    pub fn count(&self, scarce: Scarce, role: Role) {
        let labels = Labels { scarce: scarce.as_str(), role: convert::peer_role(role).as_str() };
        self.counter.get_or_create(&labels).inc();
        *self.pending.lock().unwrap_or_else(PoisonError::into_inner).entry((scarce, role)).or_default() += 1;
    }

    /// Returns whether one more agent of this role is admitted in spite of the lag of this coordinator, and records if not.
    pub fn admits(&self, to: Admission, role: Role) -> bool {
        let is_admitted = self.cpu.admits(to, role, Instant::now());
        if !is_admitted {
            self.count(Scarce::Cpu, role);
        }
        is_admitted
    }

    /// Records what was decided about a name that an agent of another role asked for.
    pub fn decided(&self, name: &str, asks: Role, conflict: Conflict) {
        self.conflicts.inc();
        let mut decided = self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (name.to_owned(), asks);
        if decided.len() < MAX_CONFLICTS || decided.contains_key(&key) {
            let (last, times) = decided.entry(key).or_insert((conflict, 0));
            (*last, *times) = (conflict, times.saturating_add(1));
        }
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
        let decided = std::mem::take(&mut *self.decided.lock().unwrap_or_else(PoisonError::into_inner));
        let conflict = |((name, asks), (conflict, times)): ((String, Role), (Conflict, u64))| {
            let [asked, holds] = [asks, conflict.holder]
                .map(|role| format!("a {} (priority {})", convert::peer_role(role).as_str(), role.traits().priority));
            let (outcome, became) = match conflict.is_granted {
                true => (AuditOutcome::Allowed, "gets it"),
                false => (AuditOutcome::Denied, "does not get it"),
            };
            AuditEntry {
                actor: ACTOR.to_owned(),
                action: "conflict".to_owned(),
                subject: name,
                outcome,
                detail: format!("{asked} that asked for the name of {holds} {became}, {times} times"),
            }
            .within_limits()
        };
        pending.into_iter().map(entry).chain(decided.into_iter().map(conflict)).collect()
    }

    /// Records what was refused. Runs until the coordinator stops.
    pub async fn run(self, proposer: Proposer) {
        let sampling = self.cpu.sample(|level| {
            self.level.set(level.into());
        });
        tokio::join!(sampling, self.record(proposer));
    }

    async fn record(&self, proposer: Proposer) {
        loop {
            tokio::time::sleep(RECORD_EVERY).await;
            let entries = self.take();
            for entry in &entries {
                warn!(action = entry.action, of = entry.subject, "{} in the last minute", entry.detail);
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
    fn so_many_conflicts_are_recorded_each_with_what_was_decided() {
        let shortages = Shortages::default();
        let refused = Conflict { holder: Role::Guardian, is_granted: false };
        for n in 0..2 * MAX_CONFLICTS {
            shortages.decided(&format!("name-{n:03}"), Role::Worker, refused);
            shortages.decided("name-000", Role::Worker, refused);
        }
        let entries = shortages.take();
        assert_eq!(entries.len(), MAX_CONFLICTS);
        assert_eq!(
            (&*entries[0].action, &*entries[0].subject, entries[0].outcome),
            ("conflict", "name-000", AuditOutcome::Denied)
        );
        let times = 2 * MAX_CONFLICTS + 1;
        let expected = format!(
            "a worker (priority 3) that asked for the name of a guardian (priority 2) does not get it, {times} times"
        );
        assert_eq!(entries[0].detail, expected);
        assert_eq!(shortages.conflicts.get(), 4 * MAX_CONFLICTS as u64);
        const { assert!(4 * 4 + MAX_CONFLICTS <= MAX_AUDIT_BATCH) };
        assert_eq!(shortages.take(), [], "each is recorded once");
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
