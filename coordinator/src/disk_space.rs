//! Room on the disks of the coordinators' data directories.
//!
//! A fleet whose disks are full can't finish what it has accepted: every completion is a log entry. So new work is refused
//! while there is still room for the rest: for the next snapshot, which lets the log be purged, and for the log until then.
//! Completions, losses, joins and ticks go on. Each coordinator measures its own disk and says so when the leader asks.
//!
//! New work is refused when fewer than a majority of the voters answer and have room. One full disk must not stop a fleet
//! that would outlive that coordinator's death; but as soon as the others with room are no majority, the next full disk
//! would. A coordinator that is short itself and leads does not matter for this: it is one of them.

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

/// How often the disk is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Room for the log while new work is refused, bytes: what is written until a snapshot lets it be purged, and what came
/// between two looks. The segments that the log keeps in reserve come on top.
pub const LOG_RESERVE: u64 = 4 * SEGMENT_BYTES as u64;
/// Bytes of a snapshot for each task, besides its input, output and failure texts, about.
const TASK_OVERHEAD: u64 = 512;
/// A disk that was short has room again only with this share of what is needed on top, so that the answer does not flap.
const AGAIN_SHARE: u64 = 8;
/// How long what the leader said of new tasks counts: it says so every second.
const TOLD_FOR: Duration = Duration::from_secs(5);
/// Reason of the warning.
pub const WARNING: &str = "DiskNearlyFull";

/// The room on one coordinator's disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Room {
    /// Bytes free.
    pub free: u64,
    /// Bytes that must be free to finish what is accepted.
    pub needed: u64,
    /// Whether there is too little.
    pub short: bool,
}

impl Room {
    /// Whether it was measured.
    pub fn is_known(self) -> bool {
        self.needed > 0
    }

    /// After this one was measured, with so much free and needed now.
    fn next(self, free: u64, needed: u64) -> Self {
        let again = if self.short { needed / AGAIN_SHARE } else { 0 };
        Self { free, needed, short: free < needed.saturating_add(again) }
    }
}

/// Bytes that a snapshot of this fleet takes, about.
pub fn snapshot_size(fleet: &Fleet) -> u64 {
    let counts = fleet.counts();
    let ended = [counts.succeeded, counts.failed, counts.cancelled, counts.dead_lettered];
    let kept: u64 = ended.into_iter().chain([counts.queued, counts.assigned]).map(u64::from).sum();
    fleet.stored_bytes().saturating_add(kept * TASK_OVERHEAD)
}

/// Bytes that must be free to finish what this fleet has accepted.
pub fn needed(fleet: &Fleet) -> u64 {
    snapshot_size(fleet).saturating_add(LOG_RESERVE)
}

/// What the leader knows of one voter's disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Voter {
    /// Its name.
    pub name: String,
    /// Whether it is short of room; `None` when it does not answer.
    pub short: Option<bool>,
}

/// Why no new task can be taken, if there is too little room on the voters' disks.
pub fn refusal(voters: &[Voter]) -> Option<String> {
    let with_room = voters.iter().filter(|voter| voter.short == Some(false)).count();
    let short: Vec<&str> = voters.iter().filter(|v| v.short == Some(true)).map(|v| v.name.as_str()).collect();
    // Those who don't answer alone are no reason: without a majority nothing is accepted anyhow.
    if short.is_empty() || with_room > voters.len() / 2 {
        return None;
    }
    let (disks, are) = if short.len() == 1 { ("disk", "is") } else { ("disks", "are") };
    Some(format!(
        "no new task is taken, since the {disks} of {} {are} nearly full; what was accepted goes on. Make room there, enlarge the \
         volumes, or wait until results expire",
        short.join(" and ")
    ))
}

/// The room on this coordinator's disk, and, as far as it leads or was told by the leader, on the others'.
#[derive(Default)]
pub struct Rooms {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    own: Room,
    /// Of a leader: the voters, as they answered last.
    voters: Vec<Voter>,
    /// Of a follower: what the leader said last, and when.
    told: Option<(Instant, Option<String>)>,
}

impl Rooms {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This coordinator's own.
    pub fn own(&self) -> Room {
        self.state().own
    }

    fn measured(&self, name: &str, free: u64, needed: u64) -> Room {
        let mut state = self.state();
        let room = state.own.next(free, needed);
        state.own = room;
        // The others are asked less often.
        state.voters.iter_mut().filter(|voter| voter.name == name).for_each(|voter| voter.short = Some(room.short));
        room
    }

    /// As leader: what the voters answered.
    pub fn note(&self, voters: Vec<Voter>) {
        self.state().voters = voters;
    }

    /// What the leader says of new tasks.
    pub fn note_told(&self, refusal: Option<String>, now: Instant) {
        let mut state = self.state();
        state.voters.clear();
        state.told = Some((now, refusal));
    }

    /// This coordinator does not lead any more.
    pub fn clear(&self) {
        let mut state = self.state();
        state.voters.clear();
        state.told = None;
    }

    /// As leader: why no new task can be taken.
    pub fn verdict(&self) -> Option<String> {
        refusal(&self.state().voters)
    }

    /// Why no new task can be taken here.
    pub fn refusal(&self, now: Instant) -> Option<String> {
        let state = self.state();
        let told = state.told.as_ref().filter(|(at, _)| now.duration_since(*at) < TOLD_FOR);
        told.and_then(|(_, refusal)| refusal.clone()).or_else(|| refusal(&state.voters))
    }
}

/// Measures the room on this coordinator's disk.
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
    /// Measures the room until the coordinator stops.
    pub async fn run(self) {
        let name = self.member.name();
        loop {
            match self.disk.free(&self.dir).await {
                Ok(free) => {
                    let room = self.rooms.measured(name, free, self.state.look(needed));
                    self.warnings.set(WARNING, room.short.then(|| warning(name, &self.dir)));
                }
                // Not every file system can tell; what can't be written shows in the end.
                Err(error) => debug!(%error, "the free room of the data directory is not known"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn warning(name: &str, dir: &Path) -> String {
    format!(
        "the disk of {name} is nearly full: what is free at {} is only enough to finish what was accepted. Make room there, or \
         enlarge the volume (spec.coordinators.storage.size); while a majority of the coordinators is short of room, no new task is \
         taken",
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
            // The next full disk would stop them.
            (&[ROOM, None, SHORT], true),
            // Nobody is short.
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
        assert!(!room.next(u64::MAX, u64::MAX).short, "a disk that knows no bound has room");
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
        assert_eq!((rooms.refusal(start), rooms.verdict()), (None, None), "another one leads");
    }
}
