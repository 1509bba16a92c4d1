//! The metrics of messages.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use robeing_telemetry::Metrics;

use crate::messaging::outcome::{OUTCOMES, Outcome};

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Ended {
    outcome: &'static str,
}

/// Why a peer's packet or stream was not accepted.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Rejected {
    reason: &'static str,
}

/// Counters by outcome, each of which is looked up once.
#[derive(Clone)]
struct ByOutcome {
    family: Family<Ended, Counter>,
    known: Arc<[OnceLock<Counter>; OUTCOMES]>,
}

impl ByOutcome {
    fn new(family: Family<Ended, Counter>) -> Self {
        Self { family, known: Arc::default() }
    }

    fn inc(&self, outcome: &Outcome) {
        let label = Ended { outcome: outcome.name() };
        self.known[outcome.index()].get_or_init(|| self.family.get_or_create(&label).clone()).inc();
    }
}

/// The number of messages that this agent has sent to others of its own accord, however they were sent: not those that it
/// passes on, and not those that reply to one. A broadcast is one. Cheap to clone; clones are one number.
#[derive(Clone, Debug, Default)]
pub struct SentCount(Arc<AtomicU64>);

impl SentCount {
    /// Counts a message.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The metrics of an agent's messages.
#[derive(Clone)]
pub struct MessagingMetrics {
    pub(super) streams: Gauge,
    pub(super) queued_bytes: Gauge,
    pub(super) repeated: Counter,
    pub(in crate::messaging) detours: Counter,
    pub(super) journal_failures: Counter,
    sent_count: SentCount,
    sent: ByOutcome,
    received: ByOutcome,
    rejected: Family<Rejected, Counter>,
}

impl MessagingMetrics {
    /// Registers the metrics, all zero.
    pub fn new(metrics: &Metrics) -> Self {
        Self {
            streams: metrics.gauge("agent_message_streams", "Open streams to other agents"),
            queued_bytes: metrics.gauge("agent_message_queued_bytes", "Bytes of messages that have no outcome yet"),
            detours: metrics.counter(
                "agent_message_detours",
                "Messages that a messenger passed on because their receiver could not be reached",
            ),
            repeated: metrics.counter("agent_message_repetitions", "Received packets that had arrived before"),
            journal_failures: metrics
                .counter("agent_message_journal_failures", "Writes to the journal of messages that failed"),
            sent_count: SentCount::default(),
            sent: ByOutcome::new(metrics.counters("agent_messages_sent", "Messages that were sent, by outcome")),
            received: ByOutcome::new(
                metrics.counters("agent_messages_received", "Messages that were received, by outcome"),
            ),
            rejected: metrics
                .counters("agent_message_rejections", "Packets and streams of peers that were rejected, by reason"),
        }
    }

    /// Returns the number of messages of its own that this agent has sent, to which whoever has it may add.
    pub fn sent_count(&self) -> SentCount {
        self.sent_count.clone()
    }

    /// Counts a message that this agent sends of its own accord.
    pub(super) fn sends(&self) {
        self.sent_count.add();
    }

    pub(super) fn sent(&self, outcome: &Outcome) {
        self.sent.inc(outcome);
    }

    pub(super) fn received(&self, outcome: &Outcome) {
        self.received.inc(outcome);
    }

    /// Counts a rejection: `spoofed_sender`, `malformed`, `violation`, `wrong_agent`, `unauthenticated`, `version`,
    /// `overloaded`, `late_hello`, `not_a_messenger`, `policy`.
    pub(super) fn rejected(&self, reason: &'static str) {
        self.rejected.get_or_create(&Rejected { reason }).inc();
    }

    /// Returns how many packets had arrived before.
    pub fn repetitions(&self) -> u64 {
        self.repeated.get()
    }

    /// Returns the number of open streams.
    pub fn open_streams(&self) -> i64 {
        self.streams.get()
    }

    /// Returns how many packets and streams were rejected for this reason.
    pub fn rejections(&self, reason: &'static str) -> u64 {
        self.rejected.get_or_create(&Rejected { reason }).get()
    }
}
