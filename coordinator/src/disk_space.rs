//! Free space on the disks of the coordinators' data directories.
//!
//! A fleet with full disks can't finish accepted tasks, because every completion is a log entry. New tasks are
//! therefore refused while there is still space for the rest: for the next snapshot, which allows the log to be purged,
//! and for the log until then. Completions, losses, joins and ticks are still accepted. Each coordinator measures its
//! own disk and reports the result when the leader polls it.
//!
//! New tasks are refused when a voter is short of space and those that respond and have enough are not a majority. One
//! full disk must not stop a fleet that would survive the loss of that coordinator; but without a majority that has
//! space, the next full disk would stop it. It makes no difference whether the coordinator that is short of space is
//! the leader.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use robeing_fleet::Fleet;
use robeing_platform::{
    Disk,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::time::Instant;
use tracing::debug;

use crate::{member::Member, raft::log::SEGMENT_BYTES, read::StateReader, warnings::Warnings};

/// Interval between measurements of the free space.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Bytes reserved for the log while new tasks are refused: what is written until a snapshot allows the log to be
/// purged, and what was written between two measurements. The spare segments that the log keeps come on top.
pub const LOG_RESERVE: u64 = 4 * SEGMENT_BYTES as u64;
/// Approximate bytes of a snapshot per task, besides its input, output and failure texts.
const TASK_OVERHEAD: u64 = 512;
/// Bytes of a snapshot per archived task.
const ROW_BYTES: u64 = 80;
/// A disk that was short of space counts as having enough again only with `1 / AGAIN_SHARE` more than is needed, so
/// that the state does not flap.
const AGAIN_SHARE: u64 = 8;
/// How long the leader's last decision on new tasks is valid. The leader sends one every second.
const TOLD_FOR: Duration = Duration::from_secs(5);
/// The warning's reason.
pub const WARNING: &str = "DiskNearlyFull";

/// The free space on one coordinator's disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Room {
    /// Free bytes.
    pub free: u64,
    /// Bytes that must be free to finish the accepted tasks.
    pub needed: u64,
    /// Whether there is too little space.
    pub short: bool,
}

impl Room {
    /// Whether the space has been measured.
    pub fn is_known(self) -> bool {
        self.needed > 0
    }

    /// Returns the next measurement, with the hysteresis that follows from this one. `free` and `needed` are in bytes.
    fn next(self, free: u64, needed: u64) -> Self {
        let again = if self.short { needed / AGAIN_SHARE } else { 0 };
        Self { free, needed, short: free < needed.saturating_add(again) }
    }
}

/// Returns the approximate size of a snapshot of this fleet, in bytes.
pub fn snapshot_size(fleet: &Fleet) -> u64 {
    let archived = fleet.archived_count() as u64;
    let here = (fleet.kept_count() as u64).saturating_sub(archived);
    fleet.bytes_in_memory().saturating_add(here * TASK_OVERHEAD + archived * ROW_BYTES)
}

/// Returns the bytes that must be free to finish this fleet's accepted tasks. Before a snapshot is written, what is in
/// memory may have to be archived.
pub fn needed(fleet: &Fleet) -> u64 {
    let archives = fleet.config().recent_results > 0;
    let to_archive = if archives { fleet.bytes_in_memory() } else { 0 };
    snapshot_size(fleet).saturating_add(to_archive).saturating_add(LOG_RESERVE)
}

/// The leader's view of one voter's disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Voter {
    /// The voter's name.
    pub name: String,
    /// Whether its disk is short of space; `None` if it does not respond.
    pub short: Option<bool>,
}

/// Returns why new tasks are refused, if the voters' disks have too little space.
pub fn refusal(voters: &[Voter]) -> Option<String> {
    let with_room = voters.iter().filter(|voter| voter.short == Some(false)).count();
    let short: Vec<&str> = voters.iter().filter(|v| v.short == Some(true)).map(|v| v.name.as_str()).collect();
    // Unresponsive voters alone are no reason: without a majority nothing is accepted anyway.
    if short.is_empty() || with_room > voters.len() / 2 {
        return None;
    }
    let (disks, are) = if short.len() == 1 { ("disk", "is") } else { ("disks", "are") };
    Some(format!(
        "new tasks are refused because the {disks} of {} {are} nearly full; accepted tasks keep running. Free space \
         there, enlarge the volumes, or wait until results expire",
        short.join(" and ")
    ))
}

/// The free space on this coordinator's disk and, as leader, on the other voters' disks; as follower, the leader's
/// decision on new tasks.
#[derive(Default)]
pub struct Rooms {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    own: Room,
    /// On a leader: the voters' latest responses.
    voters: Vec<Voter>,
    /// On a follower: when the leader last sent its decision, and why new tasks are refused, if they are.
    told: Option<(Instant, Option<String>)>,
}

impl Rooms {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns this coordinator's own disk space.
    pub fn own(&self) -> Room {
        self.state().own
    }

    fn measured(&self, name: &str, free: u64, needed: u64) -> Room {
        let mut state = self.state();
        let room = state.own.next(free, needed);
        state.own = room;
        // The leader polls the voters less often than it measures its own disk.
        state.voters.iter_mut().filter(|voter| voter.name == name).for_each(|voter| voter.short = Some(room.short));
        room
    }

    /// As leader: stores the voters' responses.
    pub fn note(&self, voters: Vec<Voter>) {
        self.state().voters = voters;
    }

    /// Stores the leader's decision on new tasks: why they are refused, if they are.
    pub fn note_told(&self, refusal: Option<String>, now: Instant) {
        let mut state = self.state();
        state.voters.clear();
        state.told = Some((now, refusal));
    }

    /// Clears everything but this coordinator's own disk space, when it starts or stops leading.
    pub fn clear(&self) {
        let mut state = self.state();
        state.voters.clear();
        state.told = None;
    }

    /// As leader: returns why new tasks are refused, if they are.
    pub fn verdict(&self) -> Option<String> {
        refusal(&self.state().voters)
    }

    /// Returns why new tasks are refused on this coordinator, if they are.
    pub fn refusal(&self, now: Instant) -> Option<String> {
        let state = self.state();
        let told = state.told.as_ref().filter(|(at, _)| now.duration_since(*at) < TOLD_FOR);
        told.and_then(|(_, refusal)| refusal.clone()).or_else(|| refusal(&state.voters))
    }
}

/// Measures the free space on this coordinator's disk.
pub struct RoomWatch {
    pub member: Member,
    pub state: StateReader,
    pub rooms: Arc<Rooms>,
    pub warnings: Arc<Warnings>,
    pub disk: Arc<dyn Disk>,
    /// The data directory.
    pub dir: PathBuf,
}

impl RoomWatch {
    /// Measures the free space until the coordinator stops.
    pub async fn run(self) {
        let name = self.member.name();
        loop {
            match self.disk.free(&self.dir).await {
                Ok(free) => {
                    let room = self.rooms.measured(name, free, self.state.look(needed));
                    self.warnings.set(WARNING, room.short.then(|| warning(name, &self.dir)));
                }
                // Not every file system reports its free space. There, a full disk shows only when a write fails.
                Err(error) => debug!(%error, "the free space of the data directory is unknown"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn warning(name: &str, dir: &Path) -> String {
    format!(
        "the disk of {name} is nearly full: the free space at {} is only enough to finish accepted tasks. Free space \
         there, or enlarge the volume (spec.coordinators.storage.size); new tasks are refused while no majority of the \
         coordinators has enough space",
        dir.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Option<bool> = Some(true);
    const ROOM: Option<bool> = Some(false);

    fn refused(voters: &[Option<bool>]) -> Option<String> {
        let voter = |(n, short): (usize, &Option<bool>)| Voter { name: format!("c-{n}"), short: *short };
        refusal(&voters.iter().enumerate().map(voter).collect::<Vec<_>>())
    }

    #[test]
    fn new_work_is_refused_when_no_majority_answers_and_has_room() {
        for (voters, is_refused) in [
            (&[][..], false),
            (&[ROOM], false),
            (&[SHORT], true),
            (&[ROOM, ROOM, SHORT], false),
            (&[ROOM, SHORT, SHORT], true),
            // The next full disk would stop the fleet.
            (&[ROOM, None, SHORT], true),
            // No voter is short of space.
            (&[ROOM, None, None], false),
            (&[ROOM, SHORT], true),
            (&[ROOM, ROOM, ROOM, SHORT, None], false),
            (&[ROOM, ROOM, SHORT, SHORT, None], true),
        ] {
            assert_eq!(refused(voters).is_some(), is_refused, "{voters:?}");
        }
        let said = refused(&[SHORT, ROOM, SHORT]).unwrap();
        assert!(said.contains("the disks of c-0 and c-2 are nearly full"), "{said}");
        let said = refused(&[SHORT, ROOM, None]).unwrap();
        assert!(said.contains("the disk of c-0 is nearly full"), "{said}");
    }

    #[test]
    fn a_disk_is_short_below_what_is_needed_and_until_there_is_clearly_more() {
        let needed = 800;
        let mut room = Room::default();
        for (free, short) in [(800, false), (799, true), (800, true), (899, true), (900, false), (800, false)] {
            room = room.next(free, needed);
            assert_eq!((room.short, room.free, room.needed), (short, free, needed));
        }
        assert!(!room.next(u64::MAX, u64::MAX).short, "a disk without a bound has space");
    }

    #[test]
    fn what_a_leader_said_counts_for_a_while_and_not_once_this_one_leads() {
        let (rooms, start) = (Rooms::default(), Instant::now());
        let short = || vec![Voter { name: "c-0".into(), short: SHORT }];
        rooms.note_told(Some("full".into()), start);
        assert_eq!(rooms.refusal(start + TOLD_FOR - Duration::from_millis(1)).as_deref(), Some("full"));
        assert_eq!(rooms.refusal(start + TOLD_FOR), None);
        rooms.note_told(None, start);
        assert_eq!(rooms.refusal(start), None);
        rooms.clear();
        rooms.note(short());
        assert!(rooms.refusal(start).is_some() && rooms.verdict().is_some());
        rooms.note_told(None, start);
        assert_eq!((rooms.refusal(start), rooms.verdict()), (None, None), "another coordinator leads");
    }
}
