//! Watches what each agent does, and compares it with what the same agent did before.
//!
//! Signals of an agent are counted in windows of a second. A window in which an agent gave no signal at all is skipped,
//! so that an agent that was idle may start to work again. All times are passed in, as milliseconds of any monotonic
//! clock; equal calls give equal anomalies.

mod meter;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use self::meter::Meter;
use crate::limits::{MAX_AGENT_NAME_BYTES, MAX_ANOMALIES, MAX_WATCHED_AGENTS};

/// The length of a window, in milliseconds.
pub const WINDOW_MS: u64 = 1_000;
/// Number of windows with signals before an agent is judged, unless a watch has another one.
pub const WARM_UP_WINDOWS: u64 = 60;
/// An agent is quarantined when this many of its windows were severe anomalies within [`QUARANTINE_SPAN_MS`].
pub const QUARANTINE_AFTER: u32 = 3;
/// Time after the last severe anomaly after which earlier ones no longer count, in milliseconds.
pub const QUARANTINE_SPAN_MS: u64 = 60_000;

/// Something that an agent does, and that is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Signal {
    /// It sends a message.
    Message,
    /// It submits a task.
    Submission,
    /// An attempt fails on it.
    Failure,
    /// A certificate, token or signature of it is refused.
    FailedAuthentication,
    /// Its result or vote differs from what the others agree on.
    Disagreement,
    /// It uses more than it was given: slots, resources, or a rate limit.
    Overuse,
    /// An attempt ends on it. That is its work: no number of them is an anomaly, but it shows that the agent is active,
    /// so that its other signals can be compared with what is usual.
    Work,
}

impl Signal {
    /// All signals.
    pub const ALL: [Self; 7] = [
        Self::Message,
        Self::Submission,
        Self::Failure,
        Self::FailedAuthentication,
        Self::Disagreement,
        Self::Overuse,
        Self::Work,
    ];

    /// Returns the name, as in events.
    pub fn name(self) -> &'static str {
        match self {
            Self::Message => "messages",
            Self::Submission => "submissions",
            Self::Work => "attempts",
            Self::Failure => "failures",
            Self::FailedAuthentication => "failed authentications",
            Self::Disagreement => "disagreements",
            Self::Overuse => "overuse",
        }
    }

    /// Returns the number in a window below which nothing is an anomaly.
    pub fn floor(self) -> u64 {
        match self {
            Self::Work => u64::MAX,
            Self::Message | Self::Submission => 20,
            Self::Failure | Self::Overuse => 10,
            Self::FailedAuthentication | Self::Disagreement => 5,
        }
    }

    /// Returns whether the signal is a sign of an attack or a defect, not of work, so that each of its anomalies is
    /// severe.
    pub fn is_suspicious(self) -> bool {
        matches!(self, Self::FailedAuthentication | Self::Disagreement | Self::Overuse)
    }

    /// Returns whether others can make an agent give the signal: who sends it messages can have it send as many in answer.
    /// Such a signal quarantines nobody unless the watch is told so.
    pub fn can_be_provoked(self) -> bool {
        matches!(self, Self::Message)
    }

    fn index(self) -> usize {
        self as usize
    }
}

/// How far an anomaly is from what is usual.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Beyond the limit of what is usual.
    Unusual,
    /// Far beyond it, or of a suspicious signal.
    Severe,
}

/// What to do about an anomaly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Response {
    /// Raise an event.
    Event,
    /// Quarantine the agent: severe anomalies were repeated. Returned once for an agent, until it is
    /// [released](Watch::release).
    Quarantine,
}

/// A window of an agent that is unlike its earlier ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Anomaly {
    /// The name of the agent.
    pub agent: String,
    /// What it did.
    pub what: Signal,
    /// How often it did it, per second.
    pub observed: f64,
    /// How often it usually does it, per second.
    pub expected: f64,
    /// How far this is from what is usual.
    pub severity: Severity,
    /// What to do about it.
    pub response: Response,
}

/// How agents are judged.
#[derive(Clone, Copy, Debug)]
struct Rules {
    /// Number of windows with signals before an agent is judged.
    warm_up: u64,
    /// Whether signals that others can provoke quarantine.
    quarantines_provoked: bool,
}

impl Rules {
    /// Returns whether an anomaly is one of those that quarantine an agent if they are repeated.
    fn is_held_against(self, signal: Signal, severity: Severity) -> bool {
        severity == Severity::Severe && (self.quarantines_provoked || !signal.can_be_provoked())
    }
}

/// What is known about an agent.
#[derive(Debug, Default)]
struct History {
    /// The number of the current window.
    window: u64,
    /// Number of closed windows with signals, up to the warm-up or [`WARM_UP_WINDOWS`].
    windows: u64,
    /// Signals in the current window.
    counts: [u64; Signal::ALL.len()],
    meters: [Meter; Signal::ALL.len()],
    /// Recent windows with severe anomalies that are held against it, and the number of the last one.
    severe: u32,
    last_severe: u64,
    is_quarantined: bool,
}

/// Watches the agents of a fleet. Holds [`MAX_WATCHED_AGENTS`] at most.
#[derive(Debug)]
pub struct Watch {
    rules: Rules,
    agents: BTreeMap<Arc<str>, History>,
    /// All agents by the number of their current window: those that were silent for longest are first.
    by_window: BTreeSet<(u64, Arc<str>)>,
    found: Vec<Anomaly>,
    dropped: u64,
}

impl Default for Watch {
    fn default() -> Self {
        Self::new()
    }
}

impl Watch {
    /// Returns a watch that knows no agent.
    pub fn new() -> Self {
        Self::with_warm_up(WARM_UP_WINDOWS)
    }

    /// Returns a watch that knows no agent, and judges each after so many windows with signals, 1 or more.
    pub fn with_warm_up(windows: u64) -> Self {
        let (agents, by_window, found) = (BTreeMap::new(), BTreeSet::new(), Vec::new());
        let rules = Rules { warm_up: windows.max(1), quarantines_provoked: false };
        Self { rules, agents, by_window, found, dropped: 0 }
    }

    /// Sets whether repeated severe anomalies also quarantine an agent if they are of a signal that others
    /// [can provoke](Signal::can_be_provoked). Otherwise each of them raises an event alone.
    #[must_use]
    pub fn quarantining_provoked(self, quarantines_provoked: bool) -> Self {
        Self { rules: Rules { quarantines_provoked, ..self.rules }, ..self }
    }

    /// Counts a signal of an agent.
    pub fn observe(&mut self, agent: &str, signal: Signal, now_ms: u64) {
        self.observe_many(agent, signal, 1, now_ms);
    }

    /// Counts a signal of an agent that it has given several times.
    pub fn observe_many(&mut self, agent: &str, signal: Signal, times: u64, now_ms: u64) {
        if agent.len() > MAX_AGENT_NAME_BYTES {
            return;
        }
        let window = now_ms / WINDOW_MS;
        let (name, history) = match self.agents.get_key_value(agent) {
            Some((name, history)) => (name.clone(), history.window),
            None => (self.admit(agent, window), window),
        };
        if window > history {
            self.by_window.remove(&(history, name.clone()));
            self.by_window.insert((window, name.clone()));
        }
        if let Some(known) = self.agents.get_mut(&name) {
            if window > known.window {
                known.close(&name, self.rules, &mut self.found, &mut self.dropped);
                known.window = window;
            }
            let count = &mut known.counts[signal.index()];
            *count = count.saturating_add(times);
        }
    }

    /// Closes all windows that are over, and returns the anomalies since the last tick, the most severe first.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Anomaly> {
        let window = now_ms / WINDOW_MS;
        for (name, history) in &mut self.agents {
            if window > history.window {
                history.close(name, self.rules, &mut self.found, &mut self.dropped);
            }
        }
        let mut found = mem::take(&mut self.found);
        found.sort_by(|one, other| {
            let key = |anomaly: &Anomaly| (anomaly.response, anomaly.severity);
            key(other).cmp(&key(one)).then_with(|| (&one.agent, one.what).cmp(&(&other.agent, other.what)))
        });
        found
    }

    /// Forgets what a quarantined agent did, so that it is judged only after a warm-up, and can be quarantined again.
    pub fn release(&mut self, agent: &str) {
        if let Some(history) = self.agents.get_mut(agent) {
            *history = History { window: history.window, ..History::default() };
        }
    }

    /// Forgets an agent that left the fleet.
    pub fn forget(&mut self, agent: &str) {
        if let Some((name, history)) = self.agents.remove_entry(agent) {
            self.by_window.remove(&(history.window, name));
        }
    }

    /// Returns the number of agents that are known.
    pub fn agents(&self) -> usize {
        self.agents.len()
    }

    /// Returns the number of agents that were active for long enough to be judged.
    pub fn judged(&self) -> usize {
        self.agents.values().filter(|history| history.windows >= self.rules.warm_up).count()
    }

    /// Returns the number of anomalies that were dropped, since too many waited for a tick.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Adds an agent, in place of the one that was silent for longest if there is no room.
    fn admit(&mut self, agent: &str, window: u64) -> Arc<str> {
        if self.agents.len() >= MAX_WATCHED_AGENTS
            && let Some((_, silent)) = self.by_window.pop_first()
        {
            self.agents.remove(&silent);
        }
        let name: Arc<str> = agent.into();
        self.agents.insert(name.clone(), History { window, ..History::default() });
        self.by_window.insert((window, name.clone()));
        name
    }
}

impl History {
    /// Judges the current window, learns from it, and begins an empty one.
    fn close(&mut self, name: &str, rules: Rules, found: &mut Vec<Anomaly>, dropped: &mut u64) {
        let counts = mem::take(&mut self.counts);
        if counts == [0; Signal::ALL.len()] {
            return;
        }
        let is_warm = self.windows >= rules.warm_up;
        let mut anomalies = Vec::new();
        for signal in Signal::ALL {
            let (count, meter) = (counts[signal.index()], &mut self.meters[signal.index()]);
            let judged = meter.judge(count, signal.floor()).filter(|_| is_warm);
            let expected = meter.mean();
            meter.learn(count, self.windows, is_warm.then_some(signal.floor()));
            if let Some(times) = judged {
                let is_severe = signal.is_suspicious() || times >= meter::SEVERE_TIMES;
                let severity = if is_severe { Severity::Severe } else { Severity::Unusual };
                anomalies.push((signal, count, expected, severity));
            }
        }
        self.windows = rules.warm_up.max(WARM_UP_WINDOWS).min(self.windows + 1);
        let is_held = anomalies.iter().any(|(what, .., severity)| rules.is_held_against(*what, *severity));
        let response = self.respond(is_held);
        for (what, count, expected, severity) in anomalies {
            let per_second = |count: f64| count * 1_000.0 / WINDOW_MS as f64;
            let response = if rules.is_held_against(what, severity) { response } else { Response::Event };
            let (observed, expected) = (per_second(count as f64), per_second(expected));
            if found.len() < MAX_ANOMALIES || response == Response::Quarantine {
                found.push(Anomaly { agent: name.to_owned(), what, observed, expected, severity, response });
            } else {
                *dropped = dropped.saturating_add(1);
            }
        }
    }

    /// Counts a window with a severe anomaly that is held against the agent, and returns what to do about it.
    fn respond(&mut self, is_held_against: bool) -> Response {
        if !is_held_against {
            return Response::Event;
        }
        let is_recent = (self.window - self.last_severe) * WINDOW_MS <= QUARANTINE_SPAN_MS;
        self.severe = if is_recent { self.severe.saturating_add(1) } else { 1 };
        self.last_severe = self.window;
        if self.severe < QUARANTINE_AFTER || self.is_quarantined {
            return Response::Event;
        }
        self.is_quarantined = true;
        Response::Quarantine
    }
}
