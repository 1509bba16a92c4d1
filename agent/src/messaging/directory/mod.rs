//! The fleet's agents as a coordinator knows them: an agent watches the directory of one coordinator, and of the next
//! one when that fails. What it knows stays while no coordinator answers.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use robeing_net::limited;
use robeing_platform::{
    Random, jittered,
    sync::{Mutex, MutexGuard},
};
use robeing_proto::v1::{self, directory_client::DirectoryClient};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use tracing::{debug, warn};

use super::{
    packet::{MAX_ADDRESS, MAX_NAME},
    policy::PolicyHolder,
    routing::{Directory, Entry, Presence, Role, Snapshot},
    sealing::SealingKey,
};
use crate::upstream::SharedUpstream;

/// The highest performance in the directory.
const BEST: f64 = 20.0;
/// Maximum number of agents of a fleet that are known.
pub const MAX_ENTRIES: usize = 20_000;
/// Maximum number of changes that wait for the rest of those that belong together.
const MAX_PENDING: usize = 4 * MAX_ENTRIES;
/// The first pause after a failed watch.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// The longest pause after a failed watch.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// A watch that lasted less than this counts as failed: the pauses grow.
const STABLE_AFTER: Duration = Duration::from_secs(5);
/// How long a coordinator may take to accept a watch.
const OPEN_WITHIN: Duration = Duration::from_secs(5);
/// How long a coordinator may take until the next message, while the watcher lacks a part of what it must know. Longer
/// than a coordinator waits for what the watcher has seen elsewhere.
const NEXT_WITHIN: Duration = Duration::from_secs(20);

/// The fleet's directory, as an agent follows it.
pub struct FleetDirectory {
    current: Mutex<Arc<Snapshot>>,
    /// Number of published changes; until the first one, nothing is known.
    changes: watch::Sender<u64>,
    /// Takes the policies on messages, which come on the same way.
    policies: Option<Arc<PolicyHolder>>,
}

/// Why a watch ended.
#[derive(Debug, thiserror::Error)]
enum WatchError {
    #[error("no coordinator has a usable address; check --coordinators")]
    NoCoordinator,
    #[error("the coordinator did not answer in time; trying the next one")]
    Silent,
    #[error("the coordinator ended the watch")]
    Ended,
    #[error("the coordinator reports more than {MAX_ENTRIES} agents or {MAX_PENDING} changes at once")]
    TooMuch,
    #[error("{}", .0.message())]
    Refused(#[from] Status),
}

/// What a watch has received. Pure.
#[derive(Debug, Default)]
struct Received {
    /// Everything up to this revision is known; 0: nothing is.
    revision: u64,
    /// Whether what is pending replaces everything.
    reset: bool,
    /// Changes that belong together with those of messages to come.
    pending: Vec<Change>,
}

#[derive(Debug)]
enum Change {
    Is(Arc<Entry>),
    Gone(String),
}

/// Changes that belong together.
#[derive(Debug)]
struct Changes {
    reset: bool,
    changes: Vec<Change>,
}

impl Received {
    /// Forgets what is not complete, before a new watch.
    fn begin(&mut self) {
        (self.reset, self.pending) = (false, Vec::new());
    }

    /// Takes a message. Returns the changes, if it completes some.
    fn take(&mut self, message: v1::WatchAgentsResponse) -> Result<Option<Changes>, WatchError> {
        if message.reset {
            (self.reset, self.pending) = (true, Vec::new());
        }
        if self.pending.len() + message.gone.len() + message.agents.len() > MAX_PENDING {
            return Err(WatchError::TooMuch);
        }
        self.pending.extend(message.gone.into_iter().map(Change::Gone));
        self.pending.extend(message.agents.into_iter().map(|wire| {
            let name = wire.name.clone();
            // What was known of it before does not hold any more.
            entry(wire).map_or(Change::Gone(name), |entry| Change::Is(Arc::new(entry)))
        }));
        if message.revision == 0 {
            return Ok(None);
        }
        self.revision = message.revision;
        let changes = std::mem::take(&mut self.pending);
        Ok(Some(Changes { reset: std::mem::take(&mut self.reset), changes }))
    }
}

/// Converts an entry; `None` if it is of no agent that this version knows how to reach.
fn entry(wire: v1::DirectoryEntry) -> Option<Entry> {
    let role = match wire.role() {
        v1::Role::Worker => Role::Worker,
        v1::Role::Specialist => Role::Specialist,
        v1::Role::Messenger => Role::Messenger,
        v1::Role::Guardian => Role::Guardian,
        v1::Role::Coordinator => Role::Coordinator,
        v1::Role::Unspecified => return None,
    };
    let presence = match wire.state() {
        v1::AgentState::Live | v1::AgentState::Unhealthy => Presence::Active,
        v1::AgentState::Standby => Presence::Standby,
        v1::AgentState::Draining => Presence::Leaving,
        v1::AgentState::Lost | v1::AgentState::Unspecified => Presence::Away,
    };
    if wire.name.is_empty() || wire.name.len() > MAX_NAME || wire.address.len() > MAX_ADDRESS {
        return None;
    }
    Some(Entry {
        name: wire.name.into(),
        role,
        pool: wire.pool.into(),
        skills: wire.skills.into_iter().map(Arc::from).collect(),
        address: wire.address.into(),
        presence,
        score: f64::from(wire.performance).min(BEST) / BEST,
        spiffe_id: wire.spiffe_id.into(),
        sealing_key: SealingKey::from_bytes(&wire.sealing_key).ok(),
        team: wire.team.into(),
    })
}

impl Default for FleetDirectory {
    fn default() -> Self {
        Self { current: Mutex::default(), changes: watch::Sender::new(0), policies: None }
    }
}

impl Directory for FleetDirectory {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.lock())
    }

    fn changes(&self) -> Option<watch::Receiver<u64>> {
        Some(self.changes.subscribe())
    }
}

impl FleetDirectory {
    /// Creates a directory that passes on the policies on messages.
    pub fn with_policies(policies: Arc<PolicyHolder>) -> Self {
        Self { policies: Some(policies), ..Self::default() }
    }

    /// Waits until the fleet's agents were known once. Cancellation-safe.
    pub async fn known(&self) {
        // `self` owns the sender, so an error is impossible.
        let _ = self.changes.subscribe().wait_for(|changes| *changes > 0).await;
    }

    /// Watches the directory until `stop` is cancelled: at the coordinator that `upstream` has chosen, and at the next
    /// one whenever a watch fails.
    pub async fn run(&self, upstream: SharedUpstream, random: Arc<dyn Random>, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.follow(&upstream, &*random) => {}
        }
    }

    async fn follow(&self, upstream: &SharedUpstream, random: &dyn Random) {
        let (mut received, mut pause, mut complaint) = (Received::default(), FIRST_PAUSE, String::new());
        loop {
            let begun = Instant::now();
            let (generation, error) = match upstream.channel() {
                None => (None, WatchError::NoCoordinator),
                Some((generation, channel)) => {
                    let mut client = limited!(DirectoryClient::new(channel));
                    let request = v1::WatchAgentsRequest { from_revision: received.revision };
                    received.begin();
                    let watched = match timeout(OPEN_WITHIN, client.watch_agents(request)).await {
                        Err(_) => Err(WatchError::Silent),
                        Ok(Err(status)) => Err(status.into()),
                        Ok(Ok(stream)) => self.receive(&mut received, stream.into_inner()).await,
                    };
                    (Some(generation), watched.err().unwrap_or(WatchError::Ended))
                }
            };
            generation.inspect(|generation| upstream.failed(*generation));
            let text = error.to_string();
            if text == complaint {
                debug!(%error, "the directory is not known anew");
            } else {
                warn!(%error, "the fleet's agents are known as they were until a coordinator answers; retrying");
                complaint = text;
            }
            if begun.elapsed() >= STABLE_AFTER {
                (pause, complaint) = (FIRST_PAUSE, String::new());
            }
            tokio::time::sleep(jittered(random, pause)).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    /// Receives changes until the stream ends.
    async fn receive(
        &self,
        received: &mut Received,
        mut stream: Streaming<v1::WatchAgentsResponse>,
    ) -> Result<(), WatchError> {
        loop {
            let lacks_some = received.revision == 0 || received.reset || !received.pending.is_empty();
            let message = match lacks_some {
                true => timeout(NEXT_WITHIN, stream.message()).await.map_err(|_| WatchError::Silent)?,
                false => stream.message().await,
            };
            let Some(message) = message? else { return Ok(()) };
            if let (Some(holder), Some(policies)) = (&self.policies, &message.policies) {
                holder.update(policies);
            }
            if let Some(changes) = received.take(message)? {
                self.publish(changes)?;
            }
        }
    }

    /// Makes changes visible, all at once. Nothing is copied unless somebody uses the present snapshot right now.
    fn publish(&self, changes: Changes) -> Result<(), WatchError> {
        let apply = |snapshot: &mut Snapshot| {
            for change in changes.changes {
                match change {
                    Change::Is(entry) => snapshot.insert(entry),
                    Change::Gone(name) => snapshot.remove(&name),
                }
            }
            snapshot.len()
        };
        let agents = if changes.reset {
            let mut all = Snapshot::default();
            let agents = apply(&mut all);
            let old = std::mem::replace(&mut *self.lock(), Arc::new(all));
            drop(old);
            agents
        } else {
            apply(Arc::make_mut(&mut *self.lock()))
        };
        if agents > MAX_ENTRIES {
            return Err(WatchError::TooMuch);
        }
        self.changes.send_modify(|changes| *changes += 1);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Snapshot>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
