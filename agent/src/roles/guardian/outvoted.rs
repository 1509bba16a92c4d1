//! Agents whose answers others outvote again and again. They are not compared with what they did before: one that lies
//! from the beginning is found, too. Pure: times are passed in.

use std::{collections::BTreeMap, fmt};

use robeing_policy::limits::MAX_WATCHED_AGENTS;

/// An agent is to be quarantined if it was outvoted so often, within [`SPAN_MS`] of the first time.
pub const LEAST: u64 = 10;
/// And in one of so many of the attempts that it ended since then: an agent that does much may be wrong now and then.
pub const ONE_OF: u64 = 10;
/// How long after the first time further ones count together with it, in milliseconds.
pub const SPAN_MS: u64 = 600_000;

/// How often an agent was outvoted.
#[derive(Clone, Copy, Debug)]
struct Outvotes {
    times: u64,
    /// When the guardian learnt of the first one.
    since_ms: u64,
    /// The attempts that the agent had ended by then.
    ended: u64,
}

/// An agent that is outvoted again and again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repeated {
    /// Its name.
    pub agent: String,
    /// How often it was outvoted.
    pub times: u64,
    /// Within how long, in milliseconds.
    pub within_ms: u64,
}

impl fmt::Display for Repeated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "outvoted {} times within {} s", self.times, self.within_ms.div_ceil(1_000))
    }
}

/// How often agents were outvoted lately: [`MAX_WATCHED_AGENTS`] at most.
#[derive(Debug, Default)]
pub struct Outvoted(BTreeMap<String, Outvotes>);

impl Outvoted {
    /// Notes that an agent was outvoted so often, which has ended so many attempts so far.
    pub fn note(&mut self, agent: &str, times: u64, ended: u64, now_ms: u64) {
        if self.0.len() >= MAX_WATCHED_AGENTS && !self.0.contains_key(agent) {
            return;
        }
        let of = self.0.entry(agent.to_owned()).or_insert(Outvotes { times: 0, since_ms: now_ms, ended });
        of.times = of.times.saturating_add(times);
    }

    /// Forgets how often an agent was outvoted.
    pub fn forget(&mut self, agent: &str) {
        self.0.remove(agent);
    }

    /// Takes the agents that were outvoted too often, given how many attempts each has ended so far, and forgets what
    /// was long ago.
    pub fn take_repeated(&mut self, ended: impl Fn(&str) -> u64, now_ms: u64) -> Vec<Repeated> {
        let mut found = Vec::new();
        self.0.retain(|agent, of| {
            let within_ms = now_ms.saturating_sub(of.since_ms);
            if within_ms >= SPAN_MS {
                return false;
            }
            let since = ended(agent).saturating_sub(of.ended);
            let is_repeated = of.times >= LEAST && of.times.saturating_mul(ONE_OF) >= since;
            if is_repeated {
                found.push(Repeated { agent: agent.clone(), times: of.times, within_ms });
            }
            !is_repeated
        });
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_is_found_once_when_it_was_outvoted_so_often() {
        let mut outvoted = Outvoted::default();
        outvoted.note("a", 1, 0, 0);
        outvoted.note("a", LEAST - 2, 0, 5_000);
        assert_eq!(outvoted.take_repeated(|_| 0, 5_000), []);
        outvoted.note("a", 1, 0, 14_500);
        let found = outvoted.take_repeated(|_| 0, 14_500);
        assert_eq!(found, [Repeated { agent: "a".to_owned(), times: LEAST, within_ms: 14_500 }]);
        assert_eq!(found[0].to_string(), "outvoted 10 times within 15 s");
        assert_eq!(outvoted.take_repeated(|_| 0, 14_500), []);
    }

    #[test]
    fn one_that_is_seldom_wrong_among_much_that_it_does_is_not_found() {
        let mut outvoted = Outvoted::default();
        outvoted.note("a", LEAST, 1_000, 0);
        let most = 1_000 + LEAST * ONE_OF;
        assert_eq!(outvoted.take_repeated(|_| most + 1, 0), []);
        assert_eq!(outvoted.take_repeated(|_| most, 0).len(), 1);
    }

    #[test]
    fn what_was_long_ago_does_not_count() {
        let mut outvoted = Outvoted::default();
        outvoted.note("a", LEAST - 1, 0, 0);
        outvoted.note("b", LEAST, 0, 0);
        outvoted.forget("b");
        assert_eq!(outvoted.take_repeated(|_| 0, SPAN_MS), []);
        outvoted.note("a", 1, 0, SPAN_MS);
        assert_eq!(outvoted.take_repeated(|_| 0, SPAN_MS), []);
        outvoted.note("a", LEAST - 1, 0, SPAN_MS);
        assert_eq!(outvoted.take_repeated(|_| 0, 2 * SPAN_MS - 1).len(), 1);
    }

    #[test]
    fn so_many_agents_are_remembered() {
        let mut outvoted = Outvoted::default();
        (0..=MAX_WATCHED_AGENTS).for_each(|agent| outvoted.note(&agent.to_string(), LEAST, 0, 0));
        outvoted.note("0", 1, 0, 0);
        let found = outvoted.take_repeated(|_| 0, 0);
        assert_eq!((found.len(), found[0].times), (MAX_WATCHED_AGENTS, LEAST + 1));
    }
}
