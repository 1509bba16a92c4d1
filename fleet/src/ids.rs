//! Identifiers and time in the state machine.

use std::fmt;

use bilrost::Message;

/// Fleet time in milliseconds, by which every duration is measured. The leader advances it by its monotonic clock, the
/// next leader continues from there, and it stands still while there is no leader. It starts as wall time and is slewed
/// slowly towards it, so only differences are meaningful, not the time of day.
pub type FleetMillis = u64;

/// Wall time, milliseconds since the Unix epoch: shows when something happened or will be due. It may jump either way.
pub type UnixMillis = u64;

/// A moment on both of the fleet's clocks, stamped on a log entry by the leader that proposed it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct Stamp {
    /// Fleet time. Never goes back.
    #[bilrost(1)]
    pub fleet: FleetMillis,
    /// The wall time that the coordinators agreed on.
    #[bilrost(2)]
    pub wall: UnixMillis,
}

impl Stamp {
    /// Returns a moment at which both clocks read `millis`.
    pub const fn at(millis: u64) -> Stamp {
        Stamp { fleet: millis, wall: millis }
    }

    /// Estimates the wall time of another moment, assuming that both clocks advance at the same rate.
    pub fn wall_at(self, moment: FleetMillis) -> UnixMillis {
        match moment.checked_sub(self.fleet) {
            Some(ahead) => self.wall.saturating_add(ahead),
            None => self.wall.saturating_sub(self.fleet - moment),
        }
    }
}

/// A task's id: a UUID, drawn by the submitter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TaskId(pub u128);

/// The state machine's number of an agent: one number per name, for as long as the name is remembered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AgentId(pub u32);

/// One session of an agent in the fleet. Numbers are never reused, so a command from an earlier session is recognized
/// as stale.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SessionId(pub u64);

impl fmt::Display for TaskId {
    /// Writes the hyphenated form of a UUID.
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
