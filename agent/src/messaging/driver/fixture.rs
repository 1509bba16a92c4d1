//! The shared parts of an agent without tasks, for tests of single parts of the driver.

use std::sync::Arc;

use robeing_net::Transport;
use robeing_platform::{
    Platform,
    simulated::{MemoryNetwork, SeededRandom},
};
use robeing_telemetry::Metrics;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    connect::Plaintext,
    metrics::MessagingMetrics,
    shared::{Parts, Shared},
};
use crate::messaging::{
    inbox::{Inbox, MAX_HANDLING},
    memory::Memory,
    policy::NoPolicies,
    routing::{Directory, Role, Snapshot},
};

/// A directory that does not change.
struct Fixed(Arc<Snapshot>);

impl Directory for Fixed {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0)
    }
}

/// Returns the shared parts of the agent `b`, which knows no other one and has no dispatcher.
pub(super) fn shared() -> Arc<Shared> {
    shared_of(Role::Worker, Snapshot::default())
}

/// Returns the shared parts of the agent `b` of this role, which knows these agents and has no dispatcher.
pub(super) fn shared_of(role: Role, known: Snapshot) -> Arc<Shared> {
    Arc::new(Shared::new(parts(role, known)))
}

/// Returns what the shared parts of this agent are made of.
pub(super) fn parts(role: Role, known: Snapshot) -> Parts {
    Parts {
        me: "b".into(),
        role,
        journal: 1,
        directory: Arc::new(Fixed(Arc::new(known))),
        connect: Arc::new(Plaintext(Transport::new(Arc::new(MemoryNetwork::default())))),
        clock: Platform::real().clock,
        random: Arc::new(SeededRandom::new(1)),
        metrics: MessagingMetrics::new(&Metrics::default()),
        stop: CancellationToken::new(),
        started: Instant::now(),
        policy: Arc::new(NoPolicies),
        keys: Vec::new(),
        inbox: Inbox::new(Memory::default(), MAX_HANDLING),
    }
}
