//! Background work of the coordinator: it lets time pass in the state machine, writes snapshots when the log has grown,
//! and aligns the fleet's configuration with its own.

use std::{
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use robeing_fleet::{Command, ControlCommand, Feature, Fleet, FleetConfig, FleetMillis, Reply};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    apply::observer::ApplyObserver,
    clock::{FleetClock, SLEW_PART},
    data_dir::Identity,
    disk_space::{self, Rooms},
    leader::{
        role::{until_leading, until_not_leading},
        standing::Standing,
    },
    outside::Outside,
    propose::Proposer,
    raft::{
        RaftHandle, SnapshotStats,
        log::{Log, SEGMENT_BYTES},
    },
    read::StateReader,
};

/// How often the coordinator checks whether a snapshot is due.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bytes of log after which a snapshot is written, if the state is smaller than that.
pub const SNAPSHOT_AFTER_BYTES: u64 = 32 * 1024 * 1024;
/// Bytes of log after which a snapshot is written while the fleet is quiet, so that a restart then replays little. They are
/// also at least this part of the last snapshot, so that a load with pauses does not write snapshots most of the time.
const QUIET_AFTER_BYTES: u64 = 4 * 1024 * 1024;
const QUIET_PART: u64 = 8;
/// The fleet is quiet after so many looks in a row between which the log grew by at most so many bytes.
const QUIET_LOOKS: u32 = 2;
const QUIET_BYTES: u64 = 16 * 1024;
/// Pause after a snapshot was skipped for lack of room.
const SKIPPED_RETRY: Duration = Duration::from_secs(10);
/// Pause after a tick could not be written.
const TICK_RETRY: Duration = Duration::from_millis(200);
/// Minimum time between two ticks.
const TICK_APART: Duration = Duration::from_millis(5);

/// While a timer is pending, fleet time is written to the log at intervals of the time left until the timer is due,
/// divided by this number. If all coordinators stop at the same time, the fleet time since the last write is lost.
const TICK_PART: u64 = 32;
/// The shortest such interval. The longest is [`TICK_LONGEST`].
const TICK_SHORTEST: Duration = Duration::from_secs(1);
/// Longest time without a tick while something is pending.
const TICK_LONGEST: Duration = Duration::from_secs(10);

/// Pause before the part of the configuration is set that not every coordinator knows yet, or that could not be written.
const CONFIGURE_AGAIN: Duration = Duration::from_secs(1);
/// Pause before recording that the log has begun is retried.
const NOTE_RETRY: Duration = Duration::from_secs(5);

/// Records in the data directory that the log has begun, once an entry after the first one, which has index 0, is
/// applied and therefore durable.
pub async fn note_log_begun(observer: Arc<ApplyObserver>, identity: Arc<Identity>, outside: Outside, dir: PathBuf) {
    let mut applied = observer.applied_indexes();
    if applied.wait_for(|applied| *applied > 1).await.is_err() {
        return;
    }
    // The disk may be full for a while. Until the record is written, a lost log would look like one that never existed.
    while let Err(error) = identity.note_log_begun(&outside.platform, &dir).await {
        warn!(%error, "could not record that the log has begun; retrying");
        tokio::time::sleep(NOTE_RETRY).await;
    }
}

/// Returns how long to wait before checking again whether a tick is due; zero if one is. `due` is when the next timer
/// is due, `stamped` the newest time in the log, and `now` the fleet's clock.
fn until_tick(due: FleetMillis, stamped: FleetMillis, now: FleetMillis) -> Duration {
    let left = Duration::from_millis(due.saturating_sub(now));
    let apart = (left / TICK_PART as u32).clamp(TICK_SHORTEST, TICK_LONGEST);
    let unwritten = Duration::from_millis(now.saturating_sub(stamped));
    let wait = left.min(apart.saturating_sub(unwritten));
    if wait.is_zero() {
        return wait;
    }
    // Fleet time may run faster than the timer that waits.
    let part = SLEW_PART as u32;
    (wait * part / (part + 1)).max(TICK_APART)
}

/// While this coordinator leads: proposes a tick when a timer is due, and from time to time while one is pending. Runs
/// until the coordinator stops.
pub async fn timers(
    standing: Standing,
    state: StateReader,
    proposer: Proposer,
    clock: FleetClock,
    observer: Arc<ApplyObserver>,
) {
    let mut raft_role = standing.roles();
    loop {
        let Some(term) = until_leading(&mut raft_role).await else { return };
        loop {
            let (due, stamped) = state.look(|fleet| (fleet.next_due(), fleet.now().fleet));
            let now = clock.stamp().fleet;
            let wait = due.map(|due| until_tick(due, stamped, now));
            if wait.is_some_and(|wait| wait.is_zero()) {
                let pause = match proposer.propose_one(Command::Control(ControlCommand::Tick)).await {
                    Ok(_) => TICK_APART,
                    Err(_) => TICK_RETRY,
                };
                tokio::select! {
                    () = until_not_leading(&mut raft_role, term) => break,
                    () = tokio::time::sleep(pause) => continue,
                }
            }
            tokio::select! {
                () = until_not_leading(&mut raft_role, term) => break,
                // A timer may be due earlier now.
                () = observer.timers.notified() => {}
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            }
        }
    }
}

/// Returns whether a snapshot is due: the log has grown by `grown` bytes since the last one, and the state has `state`
/// bytes.
fn is_due(grown: u64, state: u64) -> bool {
    grown > SNAPSHOT_AFTER_BYTES.max(state)
}

/// Returns whether a snapshot is due while the fleet is quiet: the log has grown by `grown` bytes since the last one, which
/// has `on_disk` bytes.
fn is_due_when_quiet(grown: u64, on_disk: u64) -> bool {
    grown > QUIET_AFTER_BYTES.max(on_disk / QUIET_PART)
}

/// Tells whether the log grows.
#[derive(Default)]
struct Pace {
    /// How far the log had grown at the last look, bytes.
    bytes: u64,
    /// The number of looks in a row that found it quiet.
    quiet: u32,
}

impl Pace {
    /// Takes note of how far the log has grown, and returns whether it is quiet.
    fn is_quiet(&mut self, bytes: u64) -> bool {
        let grew = bytes.saturating_sub(self.bytes) > QUIET_BYTES;
        self.bytes = bytes;
        self.quiet = if grew { 0 } else { self.quiet.saturating_add(1) };
        self.quiet >= QUIET_LOOKS
    }
}

/// Returns whether a snapshot is due on a disk that is short of space; the log has grown by `grown` bytes since the
/// last one. It is due earlier than usual, because a snapshot lets the log be purged. It is also due once the next one,
/// of `size` bytes, would be clearly smaller than the last one, which has `on_disk` bytes. Without the second rule a
/// disk could stay full forever: while it is full, new tasks are refused, so the log hardly grows, and a snapshot that
/// contains expired results would never be replaced.
fn is_due_when_short(grown: u64, size: u64, on_disk: u64) -> bool {
    let segment = SEGMENT_BYTES as u64;
    grown > segment || grown > 0 && on_disk > size.saturating_mul(2).saturating_add(segment)
}

/// Writes snapshots when they are due.
pub struct SnapshotKeeper {
    pub raft: RaftHandle,
    pub log: Log,
    pub state: StateReader,
    pub rooms: Arc<Rooms>,
    pub stats: Arc<SnapshotStats>,
    /// Number of log entries after which a snapshot is written.
    pub after_entries: u32,
}

impl SnapshotKeeper {
    /// Writes a snapshot when the log has `after_entries` entries, or has grown by [`SNAPSHOT_AFTER_BYTES`] or the size
    /// of the state, whichever is more; earlier while the fleet is quiet. A snapshot that the disk has no space for is
    /// retried. Runs until the coordinator stops.
    pub async fn run(self) {
        let (mut written_at, mut skipped, mut purged) = (0, 0, 0);
        let mut pace = Pace::default();
        let mut retry_at = None;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let bytes = self.log.stats().entry_bytes.load(Ordering::Relaxed);
            let (state, size) = self.state.look(|fleet| (fleet.bytes_in_memory(), disk_space::snapshot_size(fleet)));
            let is_quiet = pace.is_quiet(bytes);
            let room = self.rooms.own();
            if room.short {
                self.purge(&mut purged).await;
            }
            let now_skipped = self.stats.skipped.load(Ordering::Relaxed);
            if skipped != now_skipped {
                skipped = now_skipped;
                retry_at = Some(Instant::now() + SKIPPED_RETRY);
            }
            let retry = retry_at.is_some_and(|at| at <= Instant::now());
            let grown = bytes.saturating_sub(written_at);
            let on_disk = self.stats.bytes.load(Ordering::Relaxed);
            let due = is_due(grown, state)
                || room.short && is_due_when_short(grown, size, on_disk)
                || is_quiet && is_due_when_quiet(grown, on_disk);
            if !retry && (retry_at.is_some() || !due && self.log.entries() < self.after_entries as usize) {
                continue;
            }
            if room.is_known() && room.free < size {
                warn!(
                    size,
                    free = room.free,
                    "a snapshot was skipped: the disk has no room for it. It is retried later"
                );
                self.stats.skipped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            retry_at = None;
            let started = Instant::now();
            match self.raft.snapshot().await {
                Ok(()) => info!(bytes, state, took = ?started.elapsed(), "snapshot requested"),
                Err(error) => warn!(%error, "no snapshot could be written"),
            }
            written_at = bytes;
        }
    }

    /// Purges the entries that the newest snapshot covers, including those kept for followers that lag a little: they
    /// get the snapshot.
    async fn purge(&self, purged: &mut u64) {
        let covered = self.raft.progress().snapshot;
        if covered <= *purged {
            return;
        }
        match self.raft.purge(covered).await {
            Ok(()) => *purged = covered,
            Err(error) => warn!(%error, "the log could not be purged"),
        }
    }
}

/// Returns the part of a configuration that every coordinator of the fleet knows.
fn in_force(config: &FleetConfig, fleet: &Fleet) -> FleetConfig {
    let idempotency_window = if fleet.has(Feature::KeyWindow) { config.idempotency_window } else { 0 };
    let recent_results = if fleet.has(Feature::Archive) { config.recent_results } else { 0 };
    FleetConfig { idempotency_window, recent_results, ..config.clone() }
}

/// Aligns the fleet's configuration with this coordinator's whenever it begins to lead. Runs until the coordinator
/// stops.
pub async fn configuration(standing: Standing, state: StateReader, proposer: Proposer, config: FleetConfig) {
    let mut raft_role = standing.roles();
    loop {
        let Some(term) = until_leading(&mut raft_role).await else { return };
        loop {
            let (wanted, is_set) = state.look(|fleet| {
                let wanted = in_force(&config, fleet);
                let is_set = *fleet.config() == wanted;
                (wanted, is_set)
            });
            let mut is_done = wanted == config;
            if !is_set {
                match proposer.propose_one(Command::Control(ControlCommand::Configure(wanted))).await {
                    Ok(Reply::Refused(refusal)) => {
                        warn!(%refusal, "the fleet's configuration was refused");
                        // Nor would it be taken with the rest.
                        is_done = true;
                    }
                    Ok(_) => info!("the fleet's configuration was changed"),
                    Err(error) => {
                        warn!(%error, "the fleet's configuration could not be changed; retrying");
                        is_done = false;
                    }
                }
            }
            tokio::select! {
                () = until_not_leading(&mut raft_role, term) => break,
                () = tokio::time::sleep(CONFIGURE_AGAIN), if !is_done => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_due_after_so_much_log() {
        let usual = SNAPSHOT_AFTER_BYTES;
        for (grown, state, due) in
            [(usual, 0, false), (usual + 1, 0, true), (usual + 1, usual + 1, false), (usual + 2, usual + 1, true)]
        {
            assert_eq!(is_due(grown, state), due, "{grown} {state}");
        }
    }

    #[test]
    fn on_a_disk_that_is_short_of_room_a_snapshot_is_due_earlier_and_once_it_would_be_smaller() {
        let segment = SEGMENT_BYTES as u64;
        for (grown, size, on_disk, due) in [
            (segment, 100, 100, false),
            (segment + 1, 100, 100, true),
            (1, 100, segment + 200, false),
            (1, 100, segment + 201, true),
            // Nothing was written since the last one, so it has the same content.
            (0, 100, segment + 201, false),
            (1, u64::MAX, u64::MAX, false),
        ] {
            assert_eq!(is_due_when_short(grown, size, on_disk), due, "{grown} {size} {on_disk}");
        }
    }

    #[test]
    fn while_the_fleet_is_quiet_a_snapshot_is_due_after_less_log() {
        let least = QUIET_AFTER_BYTES;
        for (grown, on_disk, due) in [
            (least, 0, false),
            (least + 1, 0, true),
            (least + 1, least * QUIET_PART, true),
            (least + 1, (least + 1) * QUIET_PART, false),
            (least + 2, (least + 1) * QUIET_PART, true),
        ] {
            assert_eq!(is_due_when_quiet(grown, on_disk), due, "{grown} {on_disk}");
        }
    }

    #[test]
    fn a_fleet_is_quiet_once_its_log_has_hardly_grown_for_some_looks() {
        let mut pace = Pace::default();
        let mut bytes = 0;
        let mut looks = |grows: &[u64]| {
            let look = |by: &u64| {
                bytes += by;
                pace.is_quiet(bytes)
            };
            grows.iter().map(look).collect::<Vec<_>>()
        };
        assert_eq!(looks(&[QUIET_BYTES + 1, QUIET_BYTES, QUIET_BYTES, 0]), [false, false, true, true]);
        assert_eq!(looks(&[QUIET_BYTES + 1, 0, QUIET_BYTES + 1, 0, 0]), [false, false, false, false, true]);
    }

    const HOUR: u64 = 3_600_000;

    #[test]
    fn a_tick_comes_when_something_is_due() {
        assert_eq!(until_tick(1_000, 1_000, 1_000), Duration::ZERO);
        assert_eq!(until_tick(900, 1_000, 1_000), Duration::ZERO);
        // Never so late that a fast clock has passed it, and never immediately again.
        assert_eq!(until_tick(1_420, 1_000, 1_000), Duration::from_millis(400));
        assert_eq!(until_tick(1_001, 1_000, 1_000), TICK_APART);
    }

    #[test]
    fn while_something_is_pending_time_is_written_in_parts_of_what_is_left() {
        for (left, apart) in [(10_000, 1_000), (64_000, 2_000), (HOUR, 10_000), (365 * 24 * HOUR, 10_000)] {
            let wait = until_tick(left, 0, 0);
            assert!(
                wait <= Duration::from_millis(apart) && wait * 21 >= Duration::from_millis(apart * 20 - 20),
                "{wait:?}"
            );
            // Any other entry that was written counts as well.
            assert_eq!(until_tick(left + apart, 0, apart), Duration::ZERO, "{left}");
            assert!(!until_tick(left + apart, 1, apart).is_zero(), "{left}");
        }
    }
}
