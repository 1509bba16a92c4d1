//! Counts refused calls, and records them in the audit log, in batches, so that a caller that is refused often can't
//! fill the log that the coordinators replicate.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use robeing_fleet::{AuditCommand, AuditEntry, AuditOutcome, BarKind, Command};
use robeing_net::gate::Caller;
use robeing_platform::sync::{Mutex, PoisonError};
use robeing_telemetry::Metrics;
use tonic::{Code, Status};
use tracing::debug;

use crate::propose::Proposer;

/// How often what was refused is recorded.
const RECORD_EVERY: Duration = Duration::from_secs(5);
/// Maximum number of different refusals that are recorded at once; further ones are only counted.
pub const MAX_RECORDED: usize = 32;
/// Maximum number of these that are of callers who have not proved who they are. They could come from ever more
/// addresses, and must not drive the records of others out of the audit log.
pub const MAX_ANONYMOUS_RECORDED: usize = 8;
/// The name of a caller that has not proved who it is. What such a caller claims to be is not recorded: it could be
/// anything.
pub const ANONYMOUS: &str = "anonymous";

/// The labels of the counter.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    method: String,
    code: String,
}

/// One kind of refusal that is to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pending {
    actor: String,
    method: String,
    code: Code,
    times: u64,
    is_anonymous: bool,
}

/// The refusals of one coordinator. Cheap to clone.
#[derive(Clone)]
pub struct Refusals {
    counter: Family<Labels, Counter>,
    failed: Family<Labels, Counter>,
    pending: Arc<Mutex<Vec<Pending>>>,
}

impl Refusals {
    /// Creates the counter.
    pub fn new(metrics: &Metrics) -> Self {
        let help = "Calls that were refused because of who made them, by method and gRPC code";
        let counter = metrics.counters("calls_refused", help);
        let help = "Calls that were admitted and failed before their first answer, by method and gRPC code";
        Self { counter, failed: metrics.counters("calls_failed", help), pending: Arc::default() }
    }

    /// Counts a refused call of the caller that has proved to be `name`, or of [`ANONYMOUS`], unless the code states
    /// that the fleet can't answer now. `method` is one that is served, so that the number of labels is bounded.
    pub fn count(&self, method: &str, code: Code, peer: Option<SocketAddr>, name: &str) {
        if is_passing(code) {
            return;
        }
        let labels = Labels { method: method.to_owned(), code: format!("{code:?}") };
        self.counter.get_or_create(&labels).inc();
        let address = peer.map(|peer| peer.ip().to_canonical().to_string()).unwrap_or_default();
        let actor = format!("{name} ({address})");
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let is_same = |known: &&mut Pending| known.actor == actor && known.method == method && known.code == code;
        let is_anonymous = name == ANONYMOUS;
        let anonymous = pending.iter().filter(|known| known.is_anonymous).count();
        let room = pending.len() < MAX_RECORDED && (!is_anonymous || anonymous < MAX_ANONYMOUS_RECORDED);
        match pending.iter_mut().find(is_same) {
            Some(known) => known.times += 1,
            None if room => pending.push(Pending { actor, method: method.to_owned(), code, times: 1, is_anonymous }),
            None => {}
        }
    }

    /// Takes the actors of the refusals that are to be recorded.
    #[cfg(test)]
    pub fn actors(&self) -> Vec<String> {
        let pending = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        pending.into_iter().map(|refused| refused.actor).collect()
    }

    /// Counts a stream that was admitted, and that its service has ended with this status: it is in the name of another
    /// than `caller`, or fails for any other reason.
    pub fn count_ended(&self, method: &str, status: &Status, peer: Option<SocketAddr>, caller: &Caller) {
        match status.code() {
            code @ (Code::PermissionDenied | Code::Unauthenticated) => self.count(method, code, peer, &caller.name()),
            code => self.count_failed(method, code),
        }
    }

    /// Counts a call that was admitted and failed before its first answer, whoever made it: also one whose message is too
    /// large or can't be read.
    pub fn count_failed(&self, method: &str, code: Code) {
        self.failed.get_or_create(&Labels { method: method.to_owned(), code: format!("{code:?}") }).inc();
    }

    /// Records refusals in the audit log. Runs until the coordinator stops.
    pub async fn run(self, proposer: Proposer) {
        loop {
            tokio::time::sleep(RECORD_EVERY).await;
            let pending = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
            if pending.is_empty() {
                continue;
            }
            let entries = pending.into_iter().map(|refused| {
                let detail = match refused.times {
                    1 => format!("{:?}", refused.code),
                    times => format!("{:?}, {times} times", refused.code),
                };
                let outcome = AuditOutcome::Denied;
                let Pending { actor, method, .. } = refused;
                AuditEntry { actor, action: "call".to_owned(), subject: method, outcome, detail }.within_limits()
            });
            let command = Command::Audit(AuditCommand::Record(entries.collect()));
            // What can't be recorded was counted.
            if let Err(error) = proposer.propose_one(command).await {
                debug!(%error, "refused calls were not recorded");
            }
        }
    }
}

/// Returns whether a call was not refused because of who made it, but because the fleet can't answer now.
fn is_passing(code: Code) -> bool {
    use Code::{DeadlineExceeded, FailedPrecondition, Internal, ResourceExhausted, Unavailable};
    matches!(code, Unavailable | ResourceExhausted | Internal | DeadlineExceeded | FailedPrecondition)
}

/// Describes what was done to a barred agent, for messages.
pub fn done_to(kind: BarKind) -> &'static str {
    match kind {
        BarKind::Removed => "removed from the fleet",
        BarKind::Quarantined => "quarantined",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_counted_and_so_many_kinds_are_kept_to_be_recorded() {
        let metrics = Metrics::default();
        let refusals = Refusals::new(&metrics);
        for name in 0..MAX_RECORDED + 5 {
            refusals.count("Submit", Code::PermissionDenied, None, &name.to_string());
            refusals.count("Submit", Code::PermissionDenied, "10.0.0.1:7".parse().ok(), "again");
            refusals.count("Submit", Code::Unavailable, None, "not because of who it is");
        }
        let pending = refusals.pending.lock().unwrap();
        assert_eq!(pending.len(), MAX_RECORDED);
        assert_eq!(pending[1].actor, "again (10.0.0.1)");
        assert_eq!(pending[1].times, MAX_RECORDED as u64 + 5);
        drop(pending);
        let text = metrics.encode();
        assert!(text.contains(r#"robeing_calls_refused_total{method="Submit",code="PermissionDenied"} 74"#), "{text}");
    }

    #[test]
    fn calls_in_the_name_of_another_and_other_failures_are_counted_apart() {
        let metrics = Metrics::default();
        let refusals = Refusals::new(&metrics);
        for status in [Status::permission_denied("x"), Status::invalid_argument("x"), Status::deadline_exceeded("x")] {
            refusals.count_ended("Open", &status, None, &Caller::Anonymous);
        }
        refusals.count_failed("Submit", Code::OutOfRange);
        let text = metrics.encode();
        assert!(text.contains(r#"robeing_calls_refused_total{method="Open",code="PermissionDenied"} 1"#), "{text}");
        assert!(text.contains(r#"robeing_calls_failed_total{method="Open",code="InvalidArgument"} 1"#), "{text}");
        assert!(text.contains(r#"robeing_calls_failed_total{method="Submit",code="OutOfRange"} 1"#), "{text}");
    }

    #[test]
    fn strangers_leave_room_for_the_records_of_others() {
        let refusals = Refusals::new(&Metrics::default());
        for host in 0..=255 {
            refusals.count("Enrol", Code::Unauthenticated, Some(([10, 0, 0, host], 7).into()), ANONYMOUS);
        }
        refusals.count("Submit", Code::PermissionDenied, Some(([10, 0, 1, 0], 7).into()), "worker/w-0");
        let pending = refusals.pending.lock().unwrap();
        assert_eq!(pending.len(), MAX_ANONYMOUS_RECORDED + 1);
        assert_eq!(pending[0].actor, "anonymous (10.0.0.0)");
        assert_eq!(pending[MAX_ANONYMOUS_RECORDED].actor, "worker/w-0 (10.0.1.0)");
    }
}
