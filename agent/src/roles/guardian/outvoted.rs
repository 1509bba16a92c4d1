//! Agents whose answers others outvote again and again. They are not compared with what they did before: one that lies
//! from the beginning is found, too. Pure: times are passed in.

use std::{collections::BTreeMap, fmt};

use robeing_policy::limits::MAX_WATCHED_AGENTS;
use robeing_proto::v1;

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
    /// The attempts that the agent had ended by then; `None`: nothing was known of it yet.
    ended: Option<u64>,
}

impl Outvotes {
    /// Returns the attempts that the agent has ended since the first one, by those that it has ended so far.
    fn ended_since(&self, ended: u64) -> u64 {
        // An agent that was forgotten and came back counts from zero.
        self.ended.and_then(|before| ended.checked_sub(before)).unwrap_or(ended)
    }
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
    /// Notes a record that tells that an agent was outvoted so often since the record before, and how many attempts it
    /// has ended so far, if that is known. Of the first record only the latest time counts: the others were before it,
    /// nobody knows how long, among attempts that are not counted.
    pub fn note(&mut self, agent: &str, times: u64, ended: Option<u64>, now_ms: u64) {
        if let Some(of) = self.0.get_mut(agent) {
            of.times = of.times.saturating_add(times);
        } else if times > 0 && self.0.len() < MAX_WATCHED_AGENTS {
            self.0.insert(agent.to_owned(), Outvotes { times: 1, since_ms: now_ms, ended });
        }
    }

    /// Forgets how often an agent was outvoted.
    pub fn forget(&mut self, agent: &str) {
        self.0.remove(agent);
    }

    /// Takes those of these agents that were outvoted too often and are live, and forgets what was long ago.
    pub fn take_of(&mut self, agents: &[v1::Agent], now_ms: u64) -> Vec<Repeated> {
        let live = agents.iter().filter(|agent| agent.state() == v1::AgentState::Live);
        let of_these = live.filter(|agent| self.0.contains_key(&agent.name));
        let ended: BTreeMap<&str, u64> =
            of_these.map(|agent| (&*agent.name, agent.succeeded.saturating_add(agent.failed))).collect();
        self.take_repeated(|agent| ended.get(agent).copied(), now_ms)
    }

    /// Takes the agents that were outvoted too often, given how many attempts each has ended so far, and forgets what
    /// was long ago. One for which there is `None` is judged later: to leave for a while does not save it.
    fn take_repeated(&mut self, ended: impl Fn(&str) -> Option<u64>, now_ms: u64) -> Vec<Repeated> {
        let mut found = Vec::new();
        self.0.retain(|agent, of| {
            let within_ms = now_ms.saturating_sub(of.since_ms);
            if within_ms >= SPAN_MS {
                return false;
            }
            let is_repeated = of.times >= LEAST
                && ended(agent).is_some_and(|ended| of.times.saturating_mul(ONE_OF) >= of.ended_since(ended));
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

    /// Notes that an agent was outvoted so often, one record for each time.
    fn note_each(outvoted: &mut Outvoted, agent: &str, times: u64, ended: u64, now_ms: u64) {
        (0..times).for_each(|_| outvoted.note(agent, 1, Some(ended), now_ms));
    }

    #[test]
    fn an_agent_is_found_once_when_it_was_outvoted_so_often() {
        let mut outvoted = Outvoted::default();
        outvoted.note("a", 1, Some(0), 0);
        outvoted.note("a", LEAST - 2, Some(0), 5_000);
        assert_eq!(outvoted.take_repeated(|_| Some(0), 5_000), []);
        outvoted.note("a", 1, Some(0), 14_500);
        let found = outvoted.take_repeated(|_| Some(0), 14_500);
        assert_eq!(found, [Repeated { agent: "a".to_owned(), times: LEAST, within_ms: 14_500 }]);
        assert_eq!(found[0].to_string(), "outvoted 10 times within 15 s");
        assert_eq!(outvoted.take_repeated(|_| Some(0), 14_500), []);
        assert!(outvoted.0.is_empty());
    }

    #[test]
    fn one_that_is_seldom_wrong_among_much_that_it_does_is_not_found() {
        let mut outvoted = Outvoted::default();
        note_each(&mut outvoted, "a", LEAST, 1_000, 0);
        let most = 1_000 + LEAST * ONE_OF;
        assert_eq!(outvoted.take_repeated(|_| Some(most + 1), 0), []);
        assert_eq!(outvoted.take_repeated(|_| Some(most), 0).len(), 1);
    }

    #[test]
    fn what_the_first_record_tells_of_the_time_before_it_does_not_count() {
        let mut outvoted = Outvoted::default();
        outvoted.note("a", 0, Some(1_000_000), 0);
        assert!(outvoted.0.is_empty());
        // As often since its record of an hour ago, among as many attempts.
        outvoted.note("a", 100 * LEAST, Some(1_000_000), 0);
        assert_eq!(outvoted.take_repeated(|_| Some(1_000_000), 0), []);
        outvoted.note("a", LEAST - 2, Some(1_000_000), 10_000);
        assert_eq!(outvoted.take_repeated(|_| Some(1_000_009), 10_000), []);
        outvoted.note("a", 1, Some(1_000_000), 20_000);
        assert_eq!(outvoted.take_repeated(|_| Some(1_000_010), 20_000).len(), 1);
    }

    #[test]
    fn one_that_is_away_is_judged_once_it_is_back_and_its_count_may_begin_anew() {
        let mut outvoted = Outvoted::default();
        note_each(&mut outvoted, "a", LEAST, 5_000, 0);
        assert_eq!(outvoted.take_repeated(|_| None, 1_000), []);
        let most = LEAST * ONE_OF;
        assert_eq!(outvoted.take_repeated(|_| Some(most + 1), 1_000), [], "it was forgotten, and did much since");
        assert_eq!(outvoted.take_repeated(|_| Some(most), 1_000).len(), 1);
        (0..LEAST).for_each(|_| outvoted.note("b", 1, None, 0));
        assert_eq!(outvoted.take_repeated(|_| Some(most + 1), 1_000), [], "nothing was known of it before");
        assert_eq!(outvoted.take_repeated(|_| None, SPAN_MS), []);
        assert!(outvoted.0.is_empty(), "it is bounded");
    }

    #[test]
    fn what_was_long_ago_does_not_count() {
        let mut outvoted = Outvoted::default();
        note_each(&mut outvoted, "a", LEAST - 1, 0, 0);
        note_each(&mut outvoted, "b", LEAST, 0, 0);
        outvoted.forget("b");
        assert_eq!(outvoted.take_repeated(|_| Some(0), SPAN_MS), []);
        outvoted.note("a", 1, Some(0), SPAN_MS);
        assert_eq!(outvoted.take_repeated(|_| Some(0), SPAN_MS), []);
        outvoted.note("a", LEAST - 1, Some(0), SPAN_MS);
        assert_eq!(outvoted.take_repeated(|_| Some(0), 2 * SPAN_MS - 1).len(), 1);
    }

    #[test]
    fn so_many_agents_are_remembered() {
        let mut outvoted = Outvoted::default();
        (0..=MAX_WATCHED_AGENTS).for_each(|agent| outvoted.note(&agent.to_string(), 1, Some(0), 0));
        (0..=MAX_WATCHED_AGENTS).for_each(|agent| outvoted.note(&agent.to_string(), LEAST, Some(0), 0));
        let found = outvoted.take_repeated(|_| Some(0), 0);
        assert_eq!((found.len(), found[0].times), (MAX_WATCHED_AGENTS, LEAST + 1));
    }
}
