//! Shared by the tests of the directory.

use std::collections::BTreeMap;

use prost::Message;
use robeing_proto::v1;

use super::log::{DirectoryLog, Next, Position};

/// What a watcher knows, by the messages that it gets.
#[derive(Default)]
pub struct Watcher {
    pub known: BTreeMap<String, v1::DirectoryEntry>,
    pub revision: u64,
    /// The messages since the last revision.
    pub pending: Vec<v1::WatchAgentsResponse>,
}

impl Watcher {
    /// Takes a message.
    pub fn receive(&mut self, message: &[u8]) {
        let message = v1::WatchAgentsResponse::decode(message).expect("it is well-formed");
        let revision = message.revision;
        self.pending.push(message);
        if revision == 0 {
            return;
        }
        for message in self.pending.drain(..) {
            if message.reset {
                self.known.clear();
            }
            message.gone.iter().for_each(|name| drop(self.known.remove(name)));
            self.known.extend(message.agents.into_iter().map(|entry| (entry.name.clone(), entry)));
        }
        self.revision = revision;
    }

    /// Reads everything that there is, from a position on, and returns how many times it fell behind.
    pub fn drain(&mut self, log: &mut DirectoryLog, mut position: Position) -> (Position, usize) {
        let mut behind = 0;
        loop {
            match log.next(position) {
                Next::Message(message, then) => {
                    self.receive(&message);
                    position = then;
                }
                Next::Behind => {
                    behind += 1;
                    self.pending.clear();
                    position = log.everything();
                }
                Next::Nothing => return (position, behind),
            }
        }
    }

    /// Returns the names of the agents that it knows.
    pub fn names(&self) -> Vec<&str> {
        self.known.keys().map(String::as_str).collect()
    }
}
