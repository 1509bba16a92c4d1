//! Identities and time as the state machine knows them.

use std::fmt;

use bilrost::Message;

/// Fleet time, milliseconds: what every duration is judged by. It advances by the leader's monotonic clock, is carried on by the
/// next leader and stands still while nobody leads. It begins as wall time and is led back to it slowly, so a difference of
/// two is meant, never a time of day.
pub type FleetMillis = u64;

/// Wall time, milliseconds since the Unix epoch: what moments of the day are shown and judged by. It may jump either way.
pub type UnixMillis = u64;

/// A moment by both of the fleet's clocks, as stamped on a log entry by the leader that proposed it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct Stamp {
    /// By fleet time. Never goes back.
    #[bilrost(1)]
    pub fleet: FleetMillis,
    /// By the wall time that the coordinators agreed on.
    #[bilrost(2)]
    pub wall: UnixMillis,
}

impl Stamp {
    /// A moment at which both clocks say the same.
    pub const fn at(millis: u64) -> Stamp {
        Stamp { fleet: millis, wall: millis }
    }

    /// The wall time of another moment, as far as can be told now: both clocks are taken to go on alike.
    pub fn wall_at(self, moment: FleetMillis) -> UnixMillis {
        match moment.checked_sub(self.fleet) {
            Some(ahead) => self.wall.saturating_add(ahead),
            None => self.wall.saturating_sub(self.fleet - moment),
        }
    }
}

/// A task: a UUID, drawn by whoever submits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TaskId(pub u128);

/// An agent as the state machine numbers it: one number for one name, for as long as the name is remembered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AgentId(pub u32);

/// One stay of an agent in the fleet. Never used twice, so that whatever is said in an earlier session's name is
/// recognised as stale.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SessionId(pub u64);

impl fmt::Display for TaskId {
    /// The hyphenated form of a UUID.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let v = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            (v >> 96) as u32,
            (v >> 80) as u16,
            (v >> 64) as u16,
            (v >> 48) as u16,
            v & 0xffff_ffff_ffff
        )
    }
}

impl fmt::Debug for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for AgentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
