//! The messages of a run: agents message each other, and correspondents message agents through the coordinators.

mod chatter;
mod correspondent;
mod handler;
mod ledger;

use std::time::Duration;

use bytes::Bytes;
use robeing_platform::Random;
use robeing_proto::v1::{MessageCode, MessageStatus};

pub use self::{
    chatter::Chatter,
    correspondent::Correspondent,
    handler::SimulatedHandler,
    ledger::{Fate, Handled, Ledger, Posted, Way},
};
use crate::{checks::Wrong, clients::below, faults::Host, hosts::SIZE, profile::between, record::Record};

/// The type of a message that is accepted.
const GOOD: &str = "note";
/// The type of a message that is refused.
const BAD: &str = "refused";
/// One of this many messages is refused.
const BAD_ONE_OF: u64 = 8;
/// One of this many handlers takes its time.
const SLOW_ONE_OF: u64 = 4;
/// How long a slow handler takes at most, in milliseconds.
const SLOW_TO: u64 = 400;
/// The priorities of messages.
const PRIORITIES: [u32; 3] = [2, 5, 8];
/// How long after the fleet is calm each agent must have reached each other one, and each letter its receiver.
pub const ARRIVES_WITHIN: Duration = Duration::from_secs(25);

/// The messages that are sent in a run.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// The number of letters of each correspondent.
    pub letters: u64,
    /// The average time from one message of an agent to the next, in milliseconds.
    pub apart: u64,
    /// The most time that a letter may wait, in milliseconds.
    pub ttl: u64,
}

impl Traffic {
    /// Draws the traffic of a run.
    pub fn draw(random: &dyn Random) -> Self {
        Self {
            letters: between(random, (8, 30)),
            apart: between(random, (150, 1_500)),
            ttl: between(random, (4_000, 16_000)),
        }
    }
}

/// What a payload contains.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Note {
    writer: String,
    number: u64,
    /// How long its handler takes, in milliseconds.
    lasts: u64,
}

impl Note {
    fn payload(&self) -> Bytes {
        format!("{} {} {}", self.writer, self.number, self.lasts).into_bytes().into()
    }

    fn read(payload: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(payload).ok()?.split(' ');
        let (writer, number, lasts) = (words.next()?, words.next()?, words.next()?);
        Some(Self { writer: writer.to_owned(), number: number.parse().ok()?, lasts: lasts.parse().ok()? })
    }
}

/// A message to be sent.
struct Draft {
    posted: Posted,
    payload: Bytes,
}

impl Draft {
    /// Draws a message to this agent.
    fn draw(random: &dyn Random, (writer, number): (&str, u64), to: String, way: Way, ttl: Duration) -> Self {
        let lasts = if below(random, SLOW_ONE_OF) == 0 { below(random, SLOW_TO) } else { 0 };
        let note = Note { writer: writer.to_owned(), number, lasts };
        let posted = Posted {
            writer: note.writer.clone(),
            number,
            to,
            priority: PRIORITIES[below(random, PRIORITIES.len() as u64) as usize],
            way,
            is_ordered: true,
            is_bad: below(random, BAD_ONE_OF) == 0,
            ttl,
        };
        Self { posted, payload: note.payload() }
    }

    fn kind(&self) -> &'static str {
        if self.posted.is_bad { BAD } else { GOOD }
    }
}

/// Returns the names of all agents.
pub fn agents() -> Vec<String> {
    (0..SIZE.agents).map(|n| Host::Agent(n).name()).collect()
}

/// Returns whether an agent has a data folder, in which it keeps what it has handled.
pub fn keeps(number: usize) -> bool {
    number.is_multiple_of(2)
}

/// Records what a coordinator reports of a message. `is_ambiguous`: an earlier attempt to send it may still have an
/// effect, so that it may be handled although it was not posted by this one.
fn status_ends(
    ledger: &mut Ledger,
    now: Duration,
    id: &str,
    status: &MessageStatus,
    is_ambiguous: bool,
) -> Result<(), Wrong> {
    match status.code() {
        MessageCode::Accepted => ledger.ends(now, id, Fate::Accepted),
        MessageCode::Refused => ledger.ends(now, id, Fate::Refused),
        MessageCode::DeadlinePassed => ledger.ends(now, id, Fate::Expired),
        MessageCode::Kept => {
            ledger.is_kept(id);
            Ok(())
        }
        _ if is_ambiguous => Ok(()),
        MessageCode::NoSuchAgent
        | MessageCode::Away
        | MessageCode::Overloaded
        | MessageCode::Unsealable
        | MessageCode::Unspecified => ledger.ends(now, id, Fate::NotHandled),
    }
}

impl Record {
    /// Records what happens to a message, and the violation if there is one.
    fn message(&self, happens: impl FnOnce(&mut Ledger, Duration) -> Result<(), Wrong>) {
        self.check(|notes| happens(&mut notes.ledger, notes.now));
    }
}
