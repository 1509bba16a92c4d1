//! The stages of draining an agent. Pure: the caller passes in the time and what is held, and gets the next action.

use std::time::Duration;

use tokio::time::Instant;

/// How long the coordinator has to acknowledge what was handed back at the end of the drain.
pub const HAND_BACK_WITHIN: Duration = Duration::from_secs(2);
/// How long an agent that holds nothing waits for the coordinator's Drained message.
pub const DRAINED_WITHIN: Duration = Duration::from_secs(1);
/// How long the stream may take to end after Leave.
pub const LEAVE_WITHIN: Duration = Duration::from_millis(500);

/// The agent's lifecycle phase.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The agent accepts work.
    Working,
    /// The agent finishes what it holds.
    Draining(Drain),
    /// The agent has sent Leave; the stream has until this time to end.
    Leaving(Instant),
}

/// The state of [`Phase::Draining`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Drain {
    /// When running attempts are stopped and handed back.
    pub stop_running: Instant,
    /// Since when the agent has held nothing.
    pub idle_since: Option<Instant>,
    /// Running attempts were stopped and handed back.
    pub handed_back: bool,
    /// The coordinator has no work assigned to this agent.
    pub drained: bool,
}

/// What a draining agent has to do now.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Nothing until this time, unless an event arrives.
    Wait(Instant),
    /// Stop running attempts and hand them back.
    HandBack,
    /// Send Leave.
    Leave,
    /// Exit without Leave: no coordinator is reachable, or none acknowledged in time.
    GiveUp,
}

impl Drain {
    pub fn begin(now: Instant, within: Duration) -> Self {
        Self { stop_running: after(now, within), idle_since: None, handed_back: false, drained: false }
    }

    /// Limits the time for running attempts to `within` from `now`; never extends it.
    pub fn end_within(&mut self, now: Instant, within: Duration) {
        self.stop_running = self.stop_running.min(after(now, within));
    }

    /// Returns what is due at `now`, with or without a stream to the leader, while `held` attempts are held.
    pub fn due(&mut self, now: Instant, connected: bool, held: usize) -> Due {
        if held > 0 {
            self.idle_since = None;
            return self.due_while_holding(now, connected);
        }
        let idle_since = *self.idle_since.get_or_insert(now);
        let leave = (idle_since + DRAINED_WITHIN).min(self.give_up());
        match (self.drained || now >= leave, connected) {
            (true, true) => Due::Leave,
            (false, _) => Due::Wait(leave),
            (true, false) => Due::GiveUp,
        }
    }

    fn due_while_holding(&self, now: Instant, connected: bool) -> Due {
        if now < self.stop_running {
            Due::Wait(self.stop_running)
        } else if now >= self.give_up() || !connected {
            Due::GiveUp
        } else if !self.handed_back {
            Due::HandBack
        } else {
            Due::Wait(self.give_up())
        }
    }

    fn give_up(&self) -> Instant {
        self.stop_running + HAND_BACK_WITHIN
    }
}

/// Returns `now + within`. A timeout that the clock can't represent is capped at 30 years, which is as good as never.
fn after(now: Instant, within: Duration) -> Instant {
    let never = Duration::from_secs(30 * 365 * 24 * 3600);
    now + within.min(never)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[test]
    fn what_runs_has_until_the_limit_and_is_then_handed_back() {
        let now = Instant::now();
        let mut drain = Drain::begin(now, LIMIT);
        assert_eq!(drain.due(now, true, 1), Due::Wait(now + LIMIT));
        assert_eq!(drain.due(now + LIMIT, true, 1), Due::HandBack);
        drain.handed_back = true;
        assert_eq!(drain.due(now + LIMIT, true, 1), Due::Wait(now + LIMIT + HAND_BACK_WITHIN));
        assert_eq!(drain.due(now + LIMIT + HAND_BACK_WITHIN, true, 1), Due::GiveUp);
    }

    #[test]
    fn without_a_coordinator_the_limit_is_the_end() {
        let now = Instant::now();
        let mut drain = Drain::begin(now, LIMIT);
        assert_eq!(drain.due(now, false, 1), Due::Wait(now + LIMIT));
        assert_eq!(drain.due(now + LIMIT, false, 1), Due::GiveUp);
    }

    #[test]
    fn an_idle_agent_leaves_when_the_coordinator_counts_on_nothing_or_does_not_say() {
        let now = Instant::now();
        let mut drain = Drain::begin(now, LIMIT);
        assert_eq!(drain.due(now, true, 0), Due::Wait(now + DRAINED_WITHIN));
        assert_eq!(drain.due(now + DRAINED_WITHIN, true, 0), Due::Leave);
        drain.drained = true;
        assert_eq!(drain.due(now, true, 0), Due::Leave);
        assert_eq!(drain.due(now, true, 1), Due::Wait(now + LIMIT), "unless it was given something meanwhile");
    }

    #[test]
    fn a_limit_too_long_to_count_is_no_panic() {
        let drain = Drain::begin(Instant::now(), Duration::MAX);
        assert!(drain.stop_running > Instant::now() + LIMIT);
    }
}
