//! The fleet's clock as a pure machine: everything it knows of time is passed in.
//!
//! **Fleet time** is what durations are judged by. While this coordinator leads, it advances by the monotonic clock, at 0.95 to
//! 1.05 of its rate, towards the wall time. It begins with the highest fleet time that the leader before was known to have
//! reached, so it never goes back, and stands still while nobody leads.
//!
//! **Wall time** is what moments of the day are shown and judged by: the median of the voters' wall clocks.
//!
//! Why a duration never ends early, whoever leads: let `F` be the fleet time of the leader at a moment, over all leaders in the
//! order of their terms. Each advances at 1.05 of real time at most. A new leader begins with a value that the one before had
//! reached, at the latest now: a stamp that it applied, or a word of it. A word of an older leader could be ahead of what the
//! one between them began with, so it is dropped as soon as an entry or a word of a newer leader is known; and a leader's
//! clock runs only once it has applied everything accepted before its term. Hence `F` itself rises by 1.05 of real time at
//! most. Why none ends late: what a leader's clock loses is what passed between its last word that the next leader heard and
//! its end; [`MAX_STEP`] of each stall; and the time in which it had no contact with a majority, when nobody led.

use std::{collections::BTreeMap, time::Duration};

use robeing_fleet::{
    Stamp,
    sabotage::{Mistake, planted},
};
use tokio::time::Instant;

use super::super::raft::NodeId;

/// Most that fleet time is slower or faster than the monotonic clock: one part in so many, 5 %.
pub const SLEW_PART: u64 = 20;
/// Most that passes between two looks at the clock: this process was stalled for what is more, and nobody led.
pub const MAX_STEP: Duration = Duration::from_secs(1);
/// How old a voter's wall time may be. It is carried on by the monotonic clock.
pub const READING_TTL: Duration = Duration::from_secs(60);
/// How long a leader's word is carried on where it is only shown.
pub const WORD_TTL: Duration = Duration::from_secs(3);

/// A leadership: its term and the leader's node id, ordered as the consensus library orders them.
pub type Leadership = (u64, NodeId);

/// What the newest leader said of its clock.
#[derive(Clone, Copy, Debug)]
struct Word {
    stamp: Stamp,
    at: Instant,
}

/// A voter's wall clock.
#[derive(Clone, Copy, Debug)]
struct Reading {
    wall: u64,
    at: Instant,
}

/// The clock while this coordinator leads. Microseconds, so that nothing is lost between two looks.
#[derive(Clone, Debug)]
struct Running {
    leadership: Leadership,
    fleet_us: u64,
    /// The wall time of the last look, if there was one.
    wall_us: Option<u64>,
    at: Instant,
}

/// The clock of one coordinator.
#[derive(Debug)]
pub struct Core {
    own: NodeId,
    /// The highest stamp of the entries that are applied here.
    applied: Stamp,
    /// The newest leadership of which an entry is applied, or a word was heard.
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
    /// Of this coordinator, which knows nothing yet.
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

    /// Everything up to this stamp, of an entry of this leadership, is applied here.
    pub fn applied(&mut self, leadership: Leadership, stamp: Stamp) {
        self.applied = Stamp { fleet: stamp.fleet.max(self.applied.fleet), wall: stamp.wall };
        self.know(leadership);
        if let Some(running) = &mut self.running {
            running.fleet_us = running.fleet_us.max(micros(stamp.fleet));
        }
    }

    /// A leader said what its clock says. It must not be one that is known to be replaced.
    pub fn heard(&mut self, leadership: Leadership, stamp: Stamp, now: Instant) {
        self.know(leadership);
        let is_news = self.word.is_none_or(|known| known.stamp.fleet <= stamp.fleet);
        if leadership == self.newest && is_news {
            self.word = Some(Word { stamp, at: now });
        }
    }

    /// What older leaders said does not bind a newer one.
    fn know(&mut self, leadership: Leadership) {
        if leadership > self.newest {
            self.newest = leadership;
            self.word = None;
        }
    }

    /// A coordinator said what its wall clock says.
    pub fn read(&mut self, node: NodeId, wall: u64, now: Instant) {
        self.readings.insert(node, Reading { wall, at: now });
    }

    /// Who votes, and whether this leader has contact with a majority of them.
    pub fn look(&mut self, voters: Vec<NodeId>, in_touch: bool, own_wall: u64, now: Instant) {
        self.advance(own_wall, now);
        self.readings.retain(|node, _| voters.contains(node));
        self.voters = voters;
        self.in_touch = in_touch;
    }

    /// This coordinator leads, and has applied everything accepted before it did. Nothing may be stamped before.
    pub fn begin(&mut self, leadership: Leadership, voters: Vec<NodeId>, own_wall: u64, now: Instant) {
        let known = self.latest(now);
        self.look(voters, true, own_wall, now);
        // A fleet that has no time yet begins with the wall time.
        let (fleet, wall) = match known.fleet {
            0 => (own_wall, None),
            fleet => (fleet, Some(micros(known.wall))),
        };
        self.running = Some(Running { leadership, fleet_us: micros(fleet), wall_us: wall, at: now });
    }

    /// It does not lead any more. Its own last word counts like that of any leader.
    pub fn end(&mut self, own_wall: u64, now: Instant) {
        let stamp = self.stamp(own_wall, now);
        if let Some(running) = self.running.take() {
            self.heard(running.leadership, stamp, now);
        }
    }

    /// The highest fleet time known, with the wall time of now: what a leader's word said is carried on.
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

    /// The median of the voters' wall clocks. Whoever is not heard of is taken to say what was agreed on before, and so is one
    /// more where the number is even: among two clocks, the one that is wrong by hours must not win.
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

    /// What a log entry is stamped with now, between [`Core::begin`] and [`Core::end`]; otherwise time stands still.
    pub fn stamp(&mut self, own_wall: u64, now: Instant) -> Stamp {
        self.advance(own_wall, now);
        match &self.running {
            Some(Running { fleet_us, wall_us, .. }) => {
                Stamp { fleet: millis(*fleet_us), wall: wall_us.map_or(own_wall, millis) }
            }
            None => self.latest(now),
        }
    }

    /// What is said to the others, in this leadership.
    pub fn word(&mut self, leadership: Leadership, own_wall: u64, now: Instant) -> Option<Stamp> {
        self.running.as_ref().filter(|running| running.leadership == leadership)?;
        Some(self.stamp(own_wall, now))
    }

    /// The fleet's clock as well as it is known here, to be shown: at most [`WORD_TTL`] ahead of what is known.
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

    /// By how much this coordinator's wall clock is ahead of the fleet's, milliseconds; `None` while no leader says what that
    /// is.
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
