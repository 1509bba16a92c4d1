//! The watches of the coordinators' updates. Each fleet is watched at one of its coordinators, so that it need not be
//! polled for changes. When a coordinator's stream ends, its fleet is reconciled, and watched at the coordinator that
//! responds then.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kube::ResourceExt;
use kube_runtime::reflector::ObjectRef;
use robeing_client::{Security, coordinators::CoordinatorClient};
use robeing_crds::RobeingCluster;
use tokio::time::{Instant, sleep};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};

use crate::runtime::{index::Key, stores::Pending};

/// The first pause before a coordinator whose stream ended is watched again; each pause is twice the previous one.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// If a stream lasted this long before it ended, its coordinator is watched again at once, and the pauses start over.
const RELIABLE_AFTER: Duration = Duration::from_secs(60);
/// The range that coordinators accept for the minimum time between two updates.
const APART: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3_600));

/// The watches of all fleets.
pub struct FleetWatches {
    pending: Arc<Pending>,
    followed: Mutex<HashMap<Key, Followed>>,
}

/// The watch of a fleet.
struct Followed {
    address: String,
    apart: Duration,
    state: Arc<Mutex<State>>,
    failures: u32,
    _listening: AbortOnDropHandle<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The coordinator reports changes.
    Told,
    /// The coordinator's version can't report changes.
    Untold,
    /// The stream ended; the coordinator may be watched again later.
    Silent {
        /// When the coordinator may be watched again.
        until: Instant,
        /// Whether the stream lasted for [`RELIABLE_AFTER`].
        reliable: bool,
    },
}

impl FleetWatches {
    /// Creates an empty set of watches, whose updates add their fleets to `pending`.
    pub fn new(pending: Arc<Pending>) -> Self {
        Self { pending, followed: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, Followed>> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Watches a fleet at this coordinator, which has just responded. Returns whether changes are reported from now on.
    pub(crate) fn follow(
        &self,
        cluster: &RobeingCluster,
        coordinators: &Arc<CoordinatorClient>,
        (address, security): (&str, &Security),
        apart: Duration,
    ) -> bool {
        let apart = apart.clamp(APART.0, APART.1);
        let key = (cluster.namespace().unwrap_or_default(), cluster.name_any());
        let mut followed = self.lock();
        let same = followed.get(&key).filter(|known| known.address == address && known.apart == apart);
        let failures = match same.map(|known| (*locked(&known.state), known.failures)) {
            Some((State::Told, _)) => return true,
            Some((State::Untold, _)) => return false,
            Some((State::Silent { until, .. }, _)) if Instant::now() < until => return false,
            Some((State::Silent { reliable: false, .. }, failures)) => failures,
            Some((State::Silent { reliable: true, .. }, _)) | None => 0,
        };
        let state = Arc::new(Mutex::new(State::Told));
        let listening = Listening {
            coordinators: Arc::clone(coordinators),
            address: address.to_owned(),
            security: security.clone(),
            apart,
            state: Arc::clone(&state),
            pending: Arc::clone(&self.pending),
            cluster: ObjectRef::from_obj(cluster),
            pause: FIRST_PAUSE.saturating_mul(2_u32.saturating_pow(failures)).min(LONGEST_PAUSE),
        };
        let task = AbortOnDropHandle::new(tokio::spawn(listening.run()));
        let address = address.to_owned();
        followed
            .insert(key, Followed { address, apart, state, failures: failures.saturating_add(1), _listening: task });
        true
    }

    /// Stops watching a fleet, unless it is watched at one of these addresses.
    pub(crate) fn keep(&self, namespace: &str, name: &str, addresses: &[String]) {
        let key = (namespace.to_owned(), name.to_owned());
        let mut followed = self.lock();
        if followed.get(&key).is_some_and(|known| !addresses.contains(&known.address)) {
            followed.remove(&key);
            if followed.is_empty() {
                followed.shrink_to_fit();
            }
        }
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Listening {
    coordinators: Arc<CoordinatorClient>,
    address: String,
    security: Security,
    apart: Duration,
    state: Arc<Mutex<State>>,
    pending: Arc<Pending>,
    cluster: ObjectRef<RobeingCluster>,
    pause: Duration,
}

impl Listening {
    async fn run(self) {
        let began = Instant::now();
        let silent = self.listen().await;
        if silent.as_ref().is_err_and(|status| status.code() == Code::Unimplemented) {
            tracing::info!(cluster = %self.cluster, address = self.address, "the coordinator can't report changes; polling it");
            *locked(&self.state) = State::Untold;
        } else {
            let reliable = began.elapsed() >= RELIABLE_AFTER;
            let pause = if reliable { Duration::ZERO } else { self.pause };
            *locked(&self.state) = State::Silent { until: Instant::now() + pause, reliable };
            sleep(pause).await;
        }
        self.pending.add(self.cluster);
    }

    /// Triggers the fleet with each update; the first one covers the changes from before the watch started.
    async fn listen(&self) -> Result<(), Status> {
        let mut changes = self.coordinators.watch(&self.address, &self.security, self.apart).await?;
        while changes.message().await?.is_some() {
            self.pending.add(self.cluster.clone());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
