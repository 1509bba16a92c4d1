//! The directory: who is in the fleet, and where. Every coordinator keeps one from its own state, for any number of
//! watchers.
//!
//! The state machine reports by an effect which agents have changed ([`changed`]). The [`keeper`] reads those agents,
//! and no others, at times that lie further apart the more watchers there are. What has changed is encoded once and
//! added to a bounded log ([`log`]), which all watchers read, each at its own pace; so a slow watcher holds up nobody,
//! and no memory is held for it. A watcher that falls behind the log gets everything anew.
//!
//! A watch is resumed at any coordinator, by a revision of the fleet. Coordinators look at different times and so see
//! different intermediate states, which is why each message in the log has two revisions. Up to the first one, which
//! watchers get, nothing is missing: its effects were known before the look. The second one is the state's own at the
//! look, so no change in the message is newer. A watcher that knows everything up to some revision is sent the messages
//! whose second revision is higher.

pub mod changed;
mod entries;
#[cfg(test)]
pub mod fixture;
pub mod keeper;
mod log;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use robeing_platform::sync::{Mutex, MutexGuard, PoisonError};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep_until},
};

use self::log::DirectoryLog;
pub use self::log::{Next, Position};

/// Maximum number of watchers of one coordinator.
pub const MAX_WATCHERS: usize = 20_000;
/// The number of groups in which watchers are notified one after another, so that many of them do not keep the
/// coordinator from its other work.
const GROUPS: usize = 64;
/// The shortest time between two looks at the state that notify watchers.
const MIN_PAUSE: Duration = Duration::from_millis(20);
/// How much longer that time is for each watcher: several times what it costs to send a message to one.
const PAUSE_PER_WATCHER: Duration = Duration::from_micros(200);
/// The longest time between two looks.
const MAX_PAUSE: Duration = Duration::from_secs(4);

/// The directory of one coordinator. Cheap to clone.
#[derive(Clone)]
pub struct Directory(Arc<Shared>);

struct Shared {
    log: Mutex<DirectoryLog>,
    /// The revision up to which nothing is missing; 0 until the state was first looked at.
    complete: watch::Sender<u64>,
    /// Notifies the watchers of each group that there is something new.
    groups: Vec<watch::Sender<()>>,
    room: Arc<Semaphore>,
    /// The number of watchers so far.
    watches: AtomicUsize,
}

/// The place of one watcher.
pub struct Seat {
    /// Changes when there is something new.
    pub news: watch::Receiver<()>,
    /// Keeps the place until it is dropped.
    pub permit: OwnedSemaphorePermit,
}

impl Default for Directory {
    fn default() -> Self {
        Self(Arc::new(Shared {
            log: Mutex::default(),
            complete: watch::Sender::new(0),
            groups: (0..GROUPS).map(|_| watch::Sender::new(())).collect(),
            room: Arc::new(Semaphore::new(MAX_WATCHERS)),
            watches: AtomicUsize::new(0),
        }))
    }
}

impl Directory {
    fn log(&self) -> MutexGuard<'_, DirectoryLog> {
        self.0.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a place for another watcher; `None` if [`MAX_WATCHERS`] have one.
    pub fn seat(&self) -> Option<Seat> {
        let permit = Arc::clone(&self.0.room).try_acquire_owned().ok()?;
        let group = self.0.watches.fetch_add(1, Ordering::Relaxed) % GROUPS;
        Some(Seat { news: self.0.groups[group].subscribe(), permit })
    }

    /// Returns a watch of the revision up to which nothing is missing; 0 until the state was first looked at.
    pub fn complete(&self) -> watch::Receiver<u64> {
        self.0.complete.subscribe()
    }

    /// Returns where a watcher continues that knows everything up to a revision; `None` if this coordinator does not
    /// know that yet.
    pub fn start(&self, from: u64) -> Option<Position> {
        self.log().start(from)
    }

    /// Returns where a watcher starts that must get everything.
    pub fn everything(&self) -> Position {
        self.log().everything()
    }

    /// Returns the next message for a watcher.
    pub fn next(&self, position: Position) -> Next {
        self.log().next(position)
    }

    fn watchers(&self) -> usize {
        MAX_WATCHERS - self.0.room.available_permits()
    }

    /// Notifies all watchers, and returns when it is time for the next look.
    async fn notify(&self) {
        let (begun, pause) = (Instant::now(), pause(self.watchers()));
        for (notified, group) in (1..).zip(&self.0.groups) {
            group.send_replace(());
            if pause > MIN_PAUSE {
                sleep_until(begun + pause * notified / GROUPS as u32).await;
            }
        }
        sleep_until(begun + pause).await;
    }
}

/// Returns the time between two looks for this number of watchers.
fn pause(watchers: usize) -> Duration {
    let watchers = u32::try_from(watchers).unwrap_or(u32::MAX);
    PAUSE_PER_WATCHER.saturating_mul(watchers).clamp(MIN_PAUSE, MAX_PAUSE)
}
