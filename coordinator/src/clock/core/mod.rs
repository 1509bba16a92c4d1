//! The fleet's clock as a pure state machine: everything it knows about time is passed in.
//!
//! **Fleet time** is the time in which durations are measured. While this coordinator leads, it advances with the
//! monotonic clock, at 0.95 to 1.05 of its rate, towards the wall time. It starts at the highest fleet time that the
//! previous leader is known to have reached, so it never goes back, and it stops while no coordinator leads.
//!
//! **Wall time** is the time of day, for display and comparison: the median of the voters' wall clocks.
//!
//! Why a duration never ends early, whichever coordinator leads: let `F` be the current leader's fleet time at a
//! moment, over all leaders in the order of their terms. Each advances at 1.05 of real time at most. A new leader
//! starts with a value that its predecessor had reached by now: a stamp that the new leader applied, or a clock report
//! that it received. A report from an older leader could be ahead of the value that the leader in between started with,
//! so it is dropped as soon as an entry or a report of a newer leader is known; and a leader's clock runs only once it
//! has applied everything accepted before its term. Hence `F` itself rises by 1.05 of real time at most.
//!
//! A duration ends late only by the time that leaders' clocks lose: the time between a leader's last report that its
//! successor received and the end of its leadership; the part of each stall that exceeds [`MAX_STEP`]; and the time
//! without contact with a majority or without a leader.

use std::{collections::BTreeMap, time::Duration};

use robeing_fleet::{
    Stamp,
    sabotage::{Mistake, planted},
};
use tokio::time::Instant;

use super::super::raft::NodeId;

/// Largest deviation of fleet time's rate from the monotonic clock: one part in this many (5 %).
pub const SLEW_PART: u64 = 20;
/// Longest time between two updates that counts as elapsed. If more time passed, this process stalled and did not
/// lead meanwhile.
pub const MAX_STEP: Duration = Duration::from_secs(1);
/// Maximum age of a voter's wall clock reading. Until then the reading is extrapolated with the monotonic clock.
pub const READING_TTL: Duration = Duration::from_secs(60);
/// How long a leader's clock report is extrapolated for display.
pub const WORD_TTL: Duration = Duration::from_secs(3);

/// A leadership: its term and the leader's node id, in the consensus library's order.
pub type Leadership = (u64, NodeId);

/// The clock report of the newest leader.
#[derive(Clone, Copy, Debug)]
struct Word {
    stamp: Stamp,
    at: Instant,
}

/// A voter's reported wall clock.
#[derive(Clone, Copy, Debug)]
struct Reading {
    wall: u64,
    at: Instant,
}

/// The clock while this coordinator leads. It counts microseconds, so that nothing is lost between two updates.
#[derive(Clone, Debug)]
struct Running {
    leadership: Leadership,
    fleet_us: u64,
    /// The wall time at the last update, if there was one.
    wall_us: Option<u64>,
    at: Instant,
}

/// The clock of one coordinator.
#[derive(Debug)]
pub struct Core {
    own: NodeId,
    /// The highest stamp of the entries applied here.
    applied: Stamp,
    /// The newest leadership that has an entry applied here or that sent a clock report.
    newest: Leadership,
    word: Option<Word>,
    voters: Vec<NodeId>,
    readings: BTreeMap<NodeId, Reading>,
    in_touch: bool,
    running: Option<Running>,
}

fn millis(us: u64) -> u64 {
    us / 1_000
}

fn micros(ms: u64) -> u64 {
    ms.saturating_mul(1_000)
}

fn since(now: Instant, then: Instant) -> u64 {
    now.saturating_duration_since(then).as_micros() as u64
}

impl Core {
    /// Creates the clock of this coordinator, without any knowledge of the fleet's time.
    pub fn new(own: NodeId) -> Self {
        Self {
            own,
            applied: Stamp::default(),
            newest: (0, 0),
            word: None,
            voters: Vec::new(),
            readings: BTreeMap::new(),
            in_touch: false,
            running: None,
        }
    }

    /// Records that everything up to an entry of this leadership with this stamp is applied here.
    pub fn applied(&mut self, leadership: Leadership, stamp: Stamp) {
        self.applied = Stamp { fleet: stamp.fleet.max(self.applied.fleet), wall: stamp.wall };
        self.know(leadership);
        if let Some(running) = &mut self.running {
            running.fleet_us = running.fleet_us.max(micros(stamp.fleet));
        }
    }

    /// Records a leader's clock report. The caller must not pass a leadership that is known to be replaced.
    pub fn heard(&mut self, leadership: Leadership, stamp: Stamp, now: Instant) {
        self.know(leadership);
        let is_news = self.word.is_none_or(|known| known.stamp.fleet <= stamp.fleet);
        if leadership == self.newest && is_news {
            self.word = Some(Word { stamp, at: now });
        }
    }

    /// Drops the report of an older leadership: it does not bind a newer one.
    fn know(&mut self, leadership: Leadership) {
        if leadership > self.newest {
            self.newest = leadership;
            self.word = None;
        }
    }

    /// Records a coordinator's wall clock reading.
    pub fn read(&mut self, node: NodeId, wall: u64, now: Instant) {
        self.readings.insert(node, Reading { wall, at: now });
    }

    /// Updates the voters, and whether this leader is in contact with a majority of them.
    pub fn look(&mut self, voters: Vec<NodeId>, in_touch: bool, own_wall: u64, now: Instant) {
        self.advance(own_wall, now);
        self.readings.retain(|node, _| voters.contains(node));
        self.voters = voters;
        self.in_touch = in_touch;
    }

    /// Starts the clock: this coordinator leads and has applied everything accepted before its term. Nothing may be
    /// stamped earlier.
    pub fn begin(&mut self, leadership: Leadership, voters: Vec<NodeId>, own_wall: u64, now: Instant) {
        let known = self.latest(now);
        self.look(voters, true, own_wall, now);
        // A fleet that has no time yet starts at the wall time.
        let (fleet, wall) = match known.fleet {
            0 => (own_wall, None),
            fleet => (fleet, Some(micros(known.wall))),
        };
        self.running = Some(Running { leadership, fleet_us: micros(fleet), wall_us: wall, at: now });
    }

    /// Stops the clock: this coordinator no longer leads. Its own last stamp counts like any leader's clock report.
    pub fn end(&mut self, own_wall: u64, now: Instant) {
        let stamp = self.stamp(own_wall, now);
        if let Some(running) = self.running.take() {
            self.heard(running.leadership, stamp, now);
        }
    }

    /// Returns the highest fleet time known, with the wall time extrapolated to now from the leader's clock report.
    fn latest(&self, now: Instant) -> Stamp {
        match self.word {
            Some(word) if word.stamp.fleet >= self.applied.fleet => {
                Stamp { fleet: word.stamp.fleet, wall: word.stamp.wall.saturating_add(millis(since(now, word.at))) }
            }
            _ => self.applied,
        }
    }

    fn advance(&mut self, own_wall: u64, now: Instant) {
        let Some(mut running) = self.running.take() else { return };
        let passed = since(now, running.at);
        running.at += Duration::from_micros(passed);
        let carried = running.wall_us.map(|wall| wall.saturating_add(passed));
        let wall = self.median(carried, micros(own_wall), now);
        running.wall_us = Some(wall);
        if self.in_touch {
            let gains = if planted(Mistake::FleetTimeFast) { passed / 10 * 3 } else { 0 };
            let loses = if planted(Mistake::FleetTimeSlow) { passed / 10 * 4 } else { 0 };
            let passed = (passed - loses).min(MAX_STEP.as_micros() as u64) + gains;
            let slew = passed / SLEW_PART;
            let at_least = running.fleet_us.saturating_add(passed - slew);
            running.fleet_us = wall.clamp(at_least, at_least.saturating_add(2 * slew));
        }
        self.running = Some(running);
    }

    /// Returns the median of the voters' wall clocks. A voter without a recent reading counts with the previous median,
    /// carried forward. If the number of voters is even, the previous median also counts once more: of two clocks, one
    /// that is wrong by hours must not decide.
    fn median(&self, carried: Option<u64>, own: u64, now: Instant) -> u64 {
        let reading = |node: &NodeId| {
            if *node == self.own {
                return Some(own);
            }
            let reading = self.readings.get(node)?;
            let age = since(now, reading.at);
            (age <= READING_TTL.as_micros() as u64).then(|| micros(reading.wall).saturating_add(age))
        };
        let mut walls: Vec<u64> = self.voters.iter().filter_map(|node| reading(node).or(carried)).collect();
        if walls.len().is_multiple_of(2) {
            walls.push(carried.unwrap_or(own));
        }
        walls.sort_unstable();
        walls[walls.len() / 2]
    }

    /// Returns the stamp for a log entry. The clock runs between [`Core::begin`] and [`Core::end`] only; otherwise it
    /// stands still.
    pub fn stamp(&mut self, own_wall: u64, now: Instant) -> Stamp {
        self.advance(own_wall, now);
        match &self.running {
            Some(Running { fleet_us, wall_us, .. }) => {
                Stamp { fleet: millis(*fleet_us), wall: wall_us.map_or(own_wall, millis) }
            }
            None => self.latest(now),
        }
    }

    /// Returns the clock report to send under this leadership, if this coordinator holds it.
    pub fn word(&mut self, leadership: Leadership, own_wall: u64, now: Instant) -> Option<Stamp> {
        self.running.as_ref().filter(|running| running.leadership == leadership)?;
        Some(self.stamp(own_wall, now))
    }

    /// Returns the best estimate of the fleet's clock for display: at most [`WORD_TTL`] ahead of what is known.
    pub fn estimate(&mut self, own_wall: u64, now: Instant) -> Stamp {
        if self.running.is_some() {
            return self.stamp(own_wall, now);
        }
        let known = self.latest(now);
        let Some(word) = self.word else {
            return Stamp { wall: own_wall, ..known };
        };
        let ahead = since(now, word.at).min(WORD_TTL.as_micros() as u64);
        Stamp { fleet: known.fleet.max(word.stamp.fleet.saturating_add(millis(ahead))), ..known }
    }

    /// Returns by how many milliseconds this coordinator's wall clock is ahead of the fleet's; `None` while no leader
    /// reports the fleet's wall time.
    pub fn offset(&mut self, own_wall: u64, now: Instant) -> Option<i64> {
        let wall = match (&self.running, self.word) {
            (Some(_), _) => self.stamp(own_wall, now).wall,
            (None, Some(word)) if since(now, word.at) <= WORD_TTL.as_micros() as u64 => self.latest(now).wall,
            _ => return None,
        };
        Some(own_wall.cast_signed().saturating_sub(wall.cast_signed()))
    }
}

#[cfg(test)]
mod tests;
