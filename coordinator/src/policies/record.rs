//! Counts what policies do, and records it in the audit log, in batches, so that a flood of refusals can't fill the log
//! that the coordinators replicate.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use robeing_fleet::{AuditCommand, AuditEntry, AuditOutcome, Command};
use robeing_platform::sync::{Mutex, PoisonError};
use robeing_policy::{Deed, Event};
use robeing_telemetry::Metrics;
use tracing::debug;

use crate::propose::Proposer;

/// How often what policies did is recorded.
const RECORD_EVERY: Duration = Duration::from_secs(10);
/// Maximum number of different deeds that are recorded at once; further ones are counted in one record.
pub const MAX_RECORDED: usize = 16;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    policy: String,
    event: &'static str,
    outcome: &'static str,
}

/// A deed that is to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pending {
    actor: String,
    event: Event,
    deed: Deed,
    times: u64,
}

#[derive(Default)]
struct Waiting {
    deeds: Vec<Pending>,
    further: u64,
}

/// What the policies of one coordinator did. Cheap to clone.
#[derive(Clone)]
pub struct Deeds {
    counter: Family<Labels, Counter>,
    waiting: Arc<Mutex<Waiting>>,
}

impl Deeds {
    /// Creates the counter.
    pub fn new(metrics: &Metrics) -> Self {
        let help = "What policies did to submissions, results and messages, by policy, event and outcome";
        Self { counter: metrics.counters("policy_verdicts", help), waiting: Arc::default() }
    }

    /// Counts what policies did about something that `actor` asked for.
    pub fn count(&self, actor: &str, event: Event, deeds: Vec<Deed>) {
        if deeds.is_empty() {
            return;
        }
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for deed in deeds {
            let labels = Labels { policy: deed.policy.clone(), event: event.name(), outcome: deed.outcome };
            self.counter.get_or_create(&labels).inc();
            let is_same = |known: &&mut Pending| {
                known.actor == actor
                    && known.event == event
                    && (&known.deed.policy, known.deed.outcome) == (&deed.policy, deed.outcome)
            };
            if let Some(known) = waiting.deeds.iter_mut().find(is_same) {
                known.times += 1;
            } else if waiting.deeds.len() < MAX_RECORDED {
                waiting.deeds.push(Pending { actor: actor.to_owned(), event, deed, times: 1 });
            } else {
                waiting.further += 1;
            }
        }
    }

    /// Forgets the counts of earlier policies, so that the number of labels stays bounded.
    pub fn policies_changed(&self) {
        self.counter.clear();
    }

    fn take(&self) -> Vec<AuditEntry> {
        let Waiting { deeds, further } =
            std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        let mut entries: Vec<AuditEntry> = deeds.into_iter().map(entry).collect();
        if further > 0 {
            entries.push(AuditEntry {
                actor: "coordinator".to_owned(),
                action: "policy.further".to_owned(),
                subject: "policies".to_owned(),
                outcome: AuditOutcome::Done,
                detail: format!("{further} further verdicts, counted by robeing_policy_verdicts_total"),
            });
        }
        entries.into_iter().map(AuditEntry::within_limits).collect()
    }

    /// Records what policies did in the audit log. Runs until the coordinator stops.
    pub async fn run(self, proposer: Proposer) {
        loop {
            tokio::time::sleep(RECORD_EVERY).await;
            let entries = self.take();
            if entries.is_empty() {
                continue;
            }
            // What can't be recorded was counted.
            if let Err(error) = proposer.propose_one(Command::Audit(AuditCommand::Record(entries))).await {
                debug!(%error, "what policies did was not recorded");
            }
        }
    }
}

fn entry(Pending { actor, event, deed, times }: Pending) -> AuditEntry {
    let Deed { policy, outcome, detail } = deed;
    let times = if times == 1 { "once".to_owned() } else { format!("{times} times") };
    let colon = if detail.is_empty() { "" } else { ": " };
    AuditEntry {
        actor: if actor.is_empty() { "anonymous".to_owned() } else { actor },
        action: format!("policy.{outcome}"),
        subject: policy,
        outcome: match outcome {
            "redacted" | "failed_open" => AuditOutcome::Allowed,
            _ => AuditOutcome::Denied,
        },
        detail: format!("on {}, {times}{colon}{detail}", event.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(policy: &str) -> Vec<Deed> {
        vec![Deed { policy: policy.to_owned(), outcome: "denied", detail: "why".to_owned() }]
    }

    #[test]
    fn a_flood_of_refusals_becomes_so_many_records() {
        let metrics = Metrics::default();
        let deeds = Deeds::new(&metrics);
        for n in 0..1_000 {
            deeds.count("ann", Event::Submission, denied("same"));
            deeds.count(&format!("user-{n}"), Event::Submission, denied("same"));
        }
        let entries = deeds.take();
        assert_eq!(entries.len(), MAX_RECORDED + 1);
        assert_eq!((&*entries[0].actor, &*entries[0].action, &*entries[0].subject), ("ann", "policy.denied", "same"));
        assert_eq!(entries[0].detail, "on Submission, 1000 times: why");
        assert_eq!(entries[1].detail, "on Submission, once: why");
        let further = 1_000 - (MAX_RECORDED - 1);
        assert!(entries[MAX_RECORDED].detail.starts_with(&format!("{further} further")), "{:?}", entries[MAX_RECORDED]);
        assert!(deeds.take().is_empty());
        let text = metrics.encode();
        let counted = r#"robeing_policy_verdicts_total{policy="same",event="Submission",outcome="denied"} 2000"#;
        assert!(text.contains(counted), "{text}");
        deeds.policies_changed();
        assert!(!metrics.encode().contains(counted));
    }
}
