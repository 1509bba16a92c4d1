//! Agents that the fleet does not list any more, and for how long they are watched. Pure.

use std::{collections::BTreeMap, time::Duration};

use robeing_identity::LEAF_LIFETIME;
use robeing_policy::limits::MAX_WATCHED_AGENTS;

/// How long an agent is watched that is not in the fleet, in milliseconds: whoever has its certificate can use it for as
/// long.
pub const WATCHED_FOR_MS: u64 = millis(LEAF_LIFETIME);

const fn millis(time: Duration) -> u64 {
    time.as_secs() * 1_000
}

/// When agents that the fleet does not list were last in it, or were last denied something.
#[derive(Debug, Default)]
pub struct Departed(BTreeMap<String, u64>);

impl Departed {
    /// Notes that the fleet lists an agent.
    pub fn is_back(&mut self, agent: &str) {
        self.0.remove(agent);
    }

    /// Notes that an agent that the fleet does not list was in it, or was denied something. Returns false if there are too
    /// many to remember it.
    pub fn note(&mut self, agent: &str, now_ms: u64) -> bool {
        if let Some(at) = self.0.get_mut(agent) {
            *at = now_ms;
            return true;
        }
        let has_room = self.0.len() < MAX_WATCHED_AGENTS;
        if has_room {
            self.0.insert(agent.to_owned(), now_ms);
        }
        has_room
    }

    /// Takes the agents of which nothing was heard for [`WATCHED_FOR_MS`].
    pub fn take_silent(&mut self, now_ms: u64) -> Vec<String> {
        let is_silent = |at: u64| now_ms.saturating_sub(at) >= WATCHED_FOR_MS;
        let silent: Vec<String> =
            self.0.iter().filter(|(_, at)| is_silent(**at)).map(|(agent, _)| agent.clone()).collect();
        self.0.retain(|_, at| !is_silent(*at));
        silent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_remembered_for_as_long_as_its_certificate_may_be_used() {
        let mut departed = Departed::default();
        assert!(departed.note("a", 0) && departed.note("b", 0) && departed.note("c", 0));
        assert!(departed.note("b", 1), "it was denied something");
        departed.is_back("c");
        assert_eq!(departed.take_silent(WATCHED_FOR_MS - 1), [""; 0]);
        assert_eq!(departed.take_silent(WATCHED_FOR_MS), ["a"]);
        assert_eq!(departed.take_silent(WATCHED_FOR_MS + 1), ["b"]);
        assert_eq!(departed.take_silent(u64::MAX), [""; 0]);
    }

    #[test]
    fn so_many_are_remembered() {
        let mut departed = Departed::default();
        assert!((0..MAX_WATCHED_AGENTS).all(|agent| departed.note(&agent.to_string(), 0)));
        assert!(!departed.note("one more", 0) && departed.note("0", 1));
    }
}
