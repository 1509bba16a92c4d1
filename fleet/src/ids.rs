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

/// Formats a wall time as a date and a time of day in UTC, in whole seconds.
pub(crate) fn utc(at: UnixMillis) -> String {
    let seconds = at / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Days since 0000-03-01. In years that begin with March, leap days are the last days of their years.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = year + era * 400 + next;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// A task's id: a UUID, drawn by the submitter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TaskId(pub u128);

impl TaskId {
    /// Returns the id of the ballot that approves this task, if one must: it is the same UUID, so that whoever knows the
    /// task finds the ballot.
    pub fn ballot(self) -> BallotId {
        BallotId(self.0)
    }
}

/// A letter's id: a UUID, drawn by its sender.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LetterId(pub u128);

/// A ballot's id: a UUID, drawn by whoever opens it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct BallotId(pub u128);

/// A team's id: a UUID, drawn by whoever forms it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct TeamId(pub u128);

/// An allocation's id: a UUID, drawn by whoever asks for the resources.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct AllocationId(pub u128);

/// The state machine's number of an agent: one number per name, for as long as the name is remembered.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct AgentId(pub u32);

/// One session of an agent in the fleet. Numbers are never reused, so a command from an earlier session is recognized
/// as stale.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct SessionId(pub u64);

/// Writes the hyphenated form of a UUID. Every answer about a task has one, so it does without formatting numbers.
fn write_uuid(v: u128, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'-'; 36];
    let mut place = 0;
    for (n, byte) in v.to_be_bytes().into_iter().enumerate() {
        if matches!(n, 4 | 6 | 8 | 10) {
            place += 1;
        }
        text[place] = DIGITS[usize::from(byte >> 4)];
        text[place + 1] = DIGITS[usize::from(byte & 0xf)];
        place += 2;
    }
    f.write_str(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
}

macro_rules! shown_as_uuid {
    ($id:ident) => {
        impl fmt::Display for $id {
            /// Writes the hyphenated form of a UUID.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_uuid(self.0, f)
            }
        }

        impl fmt::Debug for $id {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_uuid(self.0, f)
            }
        }
    };
}

shown_as_uuid!(TaskId);
shown_as_uuid!(LetterId);
shown_as_uuid!(BallotId);
shown_as_uuid!(TeamId);
shown_as_uuid!(AllocationId);

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

#[cfg(test)]
mod tests {
    use super::{super::limits::MAX_TIME_MS, *};

    #[test]
    fn ids_are_shown_as_uuids() {
        for (id, shown) in [
            (0, "00000000-0000-0000-0000-000000000000"),
            (0x0123_4567_89ab_cdef_fedc_ba98_7654_3210, "01234567-89ab-cdef-fedc-ba9876543210"),
            (u128::MAX, "ffffffff-ffff-ffff-ffff-ffffffffffff"),
        ] {
            assert_eq!(TaskId(id).to_string(), shown);
            assert_eq!(format!("{:?}", BallotId(id)), shown);
        }
    }

    #[test]
    fn wall_times_are_shown_as_dates() {
        for (at, shown) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (951_868_799_999, "2000-02-29T23:59:59Z"),
            (951_868_800_000, "2000-03-01T00:00:00Z"),
            (1_767_225_599_000, "2025-12-31T23:59:59Z"),
            (1_767_225_600_000, "2026-01-01T00:00:00Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
            (MAX_TIME_MS, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(utc(at), shown);
        }
        utc(u64::MAX);
    }
}
