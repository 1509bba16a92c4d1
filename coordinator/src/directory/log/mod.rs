//! The present directory, and the log of its newest changes. Pure.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use robeing_proto::budget::MessageBudget;

/// Maximum number of messages in the log.
const MAX_MESSAGES: usize = 4_096;
/// Maximum size of all messages in the log, bytes.
const MAX_LOG_BYTES: usize = 8 * 1024 * 1024;
/// Maximum number of agents in one message.
const MAX_IN_MESSAGE: usize = 500;
/// A message sequence with everything is sent to new watchers, followed by the log, until the log has grown by this
/// many messages since; then a new one is made.
const MAX_AFTER_FULL: u64 = 64;
/// The number of sequences with everything that are kept: a watcher that takes longer to read one starts over.
const MAX_FULLS: usize = 2;

/// The field numbers of `WatchAgentsResponse`.
const RESET: u32 = 1;
const AGENTS: u32 = 2;
const GONE: u32 = 3;
const REVISION: u32 = 4;

/// Where a watcher is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// It gets everything: this sequence, from this message on.
    Full {
        /// The number of the sequence.
        number: u64,
        /// The index of the message in it.
        index: usize,
    },
    /// It gets changes, from the message with this number on.
    Log(u64),
}

/// What a watcher gets next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// This message; then it is at that position.
    Message(Bytes, Position),
    /// Nothing yet.
    Nothing,
    /// It has fallen behind and must start over with everything.
    Behind,
}

/// The present directory and its newest changes.
#[derive(Default)]
pub struct DirectoryLog {
    /// The encoded entries of all agents, by name.
    present: BTreeMap<Arc<str>, Bytes>,
    messages: VecDeque<Logged>,
    bytes: usize,
    /// The number of the first message in the log.
    first: u64,
    /// No change up to this revision is missing.
    complete: u64,
    /// All changes after this revision are in the log.
    floor: u64,
    /// The newest sequences with everything.
    fulls: VecDeque<Full>,
    made: u64,
}

struct Logged {
    message: Bytes,
    /// No change in the message is newer than this revision.
    up_to: u64,
}

struct Full {
    number: u64,
    messages: Vec<Bytes>,
    /// The number of the message in the log that follows.
    then: u64,
}

/// The revisions of a look at the state.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// All changes up to this revision were noted before the look.
    pub complete: u64,
    /// The state's revision after the look: what was seen is not newer.
    pub up_to: u64,
}

impl DirectoryLog {
    /// Returns the revision up to which nothing is missing; 0 until the state was first looked at.
    pub fn complete(&self) -> u64 {
        self.complete
    }

    fn end(&self) -> u64 {
        self.first + self.messages.len() as u64
    }

    /// Records what a look has found of the agents that had changed: their entries, or that they are gone. Agents are
    /// recorded even if they look as before, because a watcher may know what they were in between from another
    /// coordinator. Returns whether there is anything new for watchers.
    pub fn change(&mut self, changes: Vec<(Arc<str>, Option<Bytes>)>, look: Look) -> bool {
        let is_new = !changes.is_empty();
        if is_new {
            self.push(&changes, look);
        }
        for (name, entry) in changes {
            match entry {
                Some(entry) => self.present.insert(name, entry),
                None => self.present.remove(&name),
            };
        }
        self.complete = self.complete.max(look.complete);
        is_new
    }

    /// Replaces everything by what a look at all agents has found. What agents were in between is not known, and a watcher
    /// may know an agent from another coordinator that this one never saw, so all watchers start over.
    pub fn replace(&mut self, present: BTreeMap<Arc<str>, Bytes>, look: Look) {
        if self.complete > 0 {
            self.first = self.end() + 1;
        }
        self.messages.clear();
        self.bytes = 0;
        self.present = present;
        self.complete = self.complete.max(look.complete);
        self.floor = self.floor.max(look.up_to);
    }

    fn push(&mut self, changes: &[(Arc<str>, Option<Bytes>)], look: Look) {
        let fields = changes.iter().map(|(name, entry)| match entry {
            Some(entry) => (AGENTS, entry.as_ref()),
            None => (GONE, name.as_bytes()),
        });
        let up_to = self.messages.back().map_or(self.floor, |last| last.up_to).max(look.up_to);
        for message in messages(false, fields, look.complete) {
            self.bytes += message.len();
            self.messages.push_back(Logged { message, up_to });
        }
        while self.messages.len() > MAX_MESSAGES || self.bytes > MAX_LOG_BYTES {
            let Some(oldest) = self.messages.pop_front() else { break };
            self.first += 1;
            self.bytes -= oldest.message.len();
            self.floor = self.floor.max(oldest.up_to);
        }
    }

    /// Returns where a watcher continues that knows everything up to the revision `from`; 0 is nothing. `None` if that
    /// revision is not complete here yet.
    pub fn start(&mut self, from: u64) -> Option<Position> {
        if self.complete == 0 || from > self.complete {
            return None;
        }
        if from == 0 || from < self.floor {
            return Some(self.everything());
        }
        let known = self.messages.partition_point(|logged| logged.up_to <= from);
        Some(Position::Log(self.first + known as u64))
    }

    /// Returns where a watcher starts that must get everything.
    pub fn everything(&mut self) -> Position {
        let end = self.end();
        let is_fresh = |full: &&Full| full.then >= self.first && full.then + MAX_AFTER_FULL >= end;
        let number = match self.fulls.back().filter(is_fresh) {
            Some(full) => full.number,
            None => {
                self.made += 1;
                let fields = self.present.values().map(|entry| (AGENTS, entry.as_ref()));
                let messages = messages(true, fields, self.complete);
                self.fulls.push_back(Full { number: self.made, messages, then: end });
                if self.fulls.len() > MAX_FULLS {
                    self.fulls.pop_front();
                }
                self.made
            }
        };
        Position::Full { number, index: 0 }
    }

    /// Returns what a watcher gets next.
    pub fn next(&self, position: Position) -> Next {
        match position {
            Position::Full { number, index } => {
                let full = self.fulls.iter().find(|full| full.number == number);
                let Some((full, message)) = full.and_then(|full| Some((full, full.messages.get(index)?))) else {
                    return Next::Behind;
                };
                let is_last = index + 1 == full.messages.len();
                let then = if is_last { Position::Log(full.then) } else { Position::Full { number, index: index + 1 } };
                Next::Message(message.clone(), then)
            }
            Position::Log(at) => match at.checked_sub(self.first) {
                None => Next::Behind,
                Some(index) => match self.messages.get(usize::try_from(index).unwrap_or(usize::MAX)) {
                    Some(logged) => Next::Message(logged.message.clone(), Position::Log(at + 1)),
                    None => Next::Nothing,
                },
            },
        }
    }
}

/// Encodes a sequence of `WatchAgentsResponse`: fields that are already encoded, of which only the first message has
/// `reset`, and only the last one has the revision.
fn messages<'a>(reset: bool, fields: impl Iterator<Item = (u32, &'a [u8])>, revision: u64) -> Vec<Bytes> {
    let (mut done, mut message) = (Vec::new(), BytesMut::new());
    let (mut budget, mut count) = (MessageBudget::default(), 0);
    if reset {
        encode_key(RESET, WireType::Varint, &mut message);
        encode_varint(1, &mut message);
    }
    for (number, field) in fields {
        let length = field.len() as u64;
        let size = key_len(number) + encoded_len_varint(length) + field.len();
        if !budget.take(size) || count == MAX_IN_MESSAGE {
            done.push(message.split().freeze());
            (budget, count) = (MessageBudget::default(), 0);
            // The first field always fits.
            let _ = budget.take(size);
        }
        encode_key(number, WireType::LengthDelimited, &mut message);
        encode_varint(length, &mut message);
        message.put_slice(field);
        count += 1;
    }
    encode_key(REVISION, WireType::Varint, &mut message);
    encode_varint(revision, &mut message);
    done.push(message.freeze());
    done
}

#[cfg(test)]
mod tests;
