//! Turns what coordinators know of agents into signals, and decides who is flagged and quarantined. Pure: times are
//! passed in.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use robeing_policy::{
    anomaly::{Anomaly, Signal, WINDOW_MS, Watch},
    limits::MAX_WATCHED_AGENTS,
};
use robeing_proto::v1;

use super::{
    denied::{CALL_WINDOWS, Denied, OUTVOTED_WINDOWS, POLICY_WINDOWS, times},
    departed::Departed,
    outvoted::{Outvoted, Repeated},
    spared::{self, Spared},
};

/// Maximum number of windows over which what happened between two looks is spread.
const MAX_WINDOWS: u64 = 60;
/// How long after a flag of an agent no guardian flags it again, in milliseconds.
pub const FLAG_AGAIN_MS: u64 = 60_000;
/// Maximum number of agents that are flagged at a look, the most severe anomalies first.
pub const MAX_FLAGS: usize = 8;
/// The roles of agents, as in the names of actors.
const ROLES: [&str; 4] = ["worker", "specialist", "messenger", "guardian"];

/// What is known of the agents of a fleet.
#[derive(Debug, Default)]
pub struct Feed {
    watch: Watch,
    /// Attempts that succeeded and failed, by agent.
    counts: BTreeMap<String, (u64, u64)>,
    /// Messages that were sent, by agent, with the incarnation that has counted them.
    sent: BTreeMap<String, (String, u64)>,
    /// The denials that are still to be counted.
    denied: Denied,
    /// How often other agents outvoted them.
    outvoted: Outvoted,
    /// Agents that are not in the fleet, and are watched for a while.
    departed: Departed,
    /// When agents were flagged last.
    flagged: BTreeMap<String, u64>,
    /// When the agents were looked at last.
    looked_ms: Option<u64>,
    /// Agents that guardians have quarantined.
    quarantined: BTreeSet<String>,
    /// The number of the last audit record.
    after: u64,
}

/// What coordinators know of the agents at one time.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// All agents of the fleet.
    pub agents: Vec<v1::Agent>,
    /// How active they are; `None` if the leader could not tell.
    pub activity: Option<Vec<v1::AgentActivity>>,
    /// The audit records after those that were seen before.
    pub records: Vec<v1::AuditRecord>,
}

impl Feed {
    /// Returns a feed that knows nothing, and judges an agent after it was active for so long. `quarantines_provoked`: also
    /// what others can make an agent do quarantines it.
    pub fn new(warm_up: Duration, quarantines_provoked: bool) -> Self {
        let windows = warm_up.as_secs().saturating_mul(1_000) / WINDOW_MS;
        let watch = Watch::with_warm_up(windows).quarantining_provoked(quarantines_provoked);
        Self { watch, ..Self::default() }
    }

    /// Returns the number of agents that are judged.
    pub fn judged(&self) -> usize {
        self.watch.judged()
    }

    /// Returns the number of the last audit record that was taken in.
    pub fn after(&self) -> u64 {
        self.after
    }

    /// Takes in all agents of the fleet, and how many messages they have sent if that is known. What they did since the
    /// last look is spread over the time since then. An agent that the fleet does not list may still be denied
    /// something: whoever has its certificate can use it.
    pub fn agents(&mut self, agents: &[v1::Agent], activity: Option<&[v1::AgentActivity]>, now_ms: u64) {
        let since = self.looked_ms.replace(now_ms);
        let mut messages = self.messages(activity);
        let mut counts = BTreeMap::new();
        for agent in agents.iter().take(MAX_WATCHED_AGENTS) {
            let now = (agent.succeeded, agent.failed);
            if let Some(since) = since {
                let [ended, failed, sent] = self.counts.get(&agent.name).map_or([0; 3], |before| {
                    let failed = now.1.saturating_sub(before.1);
                    let ended = now.0.saturating_sub(before.0).saturating_add(failed);
                    [ended, failed, messages.remove(&*agent.name).unwrap_or(0)]
                });
                let [first, second, third] = self.denied.take(&agent.name, windows_of(since, now_ms));
                let signals =
                    [(Signal::Work, ended), (Signal::Failure, failed), (Signal::Message, sent), first, second, third];
                self.spread(&agent.name, signals, (since, now_ms));
            }
            counts.insert(agent.name.clone(), now);
        }
        let before = std::mem::replace(&mut self.counts, counts);
        if let Some(since) = since {
            self.watch_departed(before.into_keys(), (since, now_ms));
        }
        self.sent.retain(|name, _| self.counts.contains_key(name));
        self.denied.forget_counted();
        self.flagged.retain(|_, at| now_ms.saturating_sub(*at) < FLAG_AGAIN_MS);
    }

    /// Counts what agents were denied that the fleet does not list, and forgets those that were silent for long.
    fn watch_departed(&mut self, before: impl Iterator<Item = String>, (since, now_ms): (u64, u64)) {
        self.counts.keys().for_each(|name| self.departed.is_back(name));
        for gone in before.filter(|name| !self.counts.contains_key(name)) {
            if !self.departed.note(&gone, now_ms) {
                self.watch.forget(&gone);
            }
        }
        let unlisted: Vec<String> =
            self.denied.agents().filter(|name| !self.counts.contains_key(*name)).map(str::to_owned).collect();
        for name in unlisted {
            let [first, second, third] = self.denied.take(&name, windows_of(since, now_ms));
            if self.departed.note(&name, now_ms) {
                let [work, failure, sent] = [Signal::Work, Signal::Failure, Signal::Message].map(|signal| (signal, 0));
                self.spread(&name, [work, failure, sent, first, second, third], (since, now_ms));
            }
        }
        self.departed.take_silent(now_ms).iter().for_each(|name| self.watch.forget(name));
    }

    /// Returns how many messages each agent has sent since the last look. The first count of an incarnation, and one that
    /// the leader did not know at the last look, is where the next ones begin.
    fn messages<'a>(&mut self, activity: Option<&'a [v1::AgentActivity]>) -> BTreeMap<&'a str, u64> {
        let mut since = BTreeMap::new();
        for of in activity.unwrap_or_default().iter().take(MAX_WATCHED_AGENTS) {
            let now = (of.incarnation.clone(), of.messages_sent);
            match self.sent.insert(of.agent.clone(), now) {
                Some((incarnation, before)) if incarnation == of.incarnation => {
                    since.insert(&*of.agent, of.messages_sent.saturating_sub(before));
                }
                _ => {}
            }
        }
        since
    }

    /// Returns whether a guardian flags an agent now that behaves unlike itself, and notes it.
    pub fn flags(&mut self, agent: &str, now_ms: u64) -> bool {
        let is_new = self.flagged.get(agent).is_none_or(|at| now_ms.saturating_sub(*at) >= FLAG_AGAIN_MS);
        if is_new {
            self.flagged.insert(agent.to_owned(), now_ms);
        }
        is_new
    }

    /// Counts signals in each window of a time span, evenly, window by window: the watch takes nothing of a window that is
    /// over.
    fn spread(&mut self, agent: &str, signals: [(Signal, u64); 6], (since, now): (u64, u64)) {
        let windows = windows_of(since, now);
        let first = now.saturating_sub((windows - 1) * WINDOW_MS);
        for window in 0..windows {
            for (signal, times) in signals {
                let share = times / windows + u64::from(window < times % windows);
                if share > 0 {
                    self.watch.observe_many(agent, signal, share, first + window * WINDOW_MS);
                }
            }
        }
    }

    /// Takes in a record of the audit log. What happened before this guardian began tells who is in quarantine, and is
    /// no signal.
    pub fn record(&mut self, record: &v1::AuditRecord, is_past: bool, now_ms: u64) {
        self.after = self.after.max(record.seq);
        match (&*record.action, &*record.outcome) {
            ("agent.quarantine", "done") if record.actor.starts_with("guardian/") => {
                self.quarantined.insert(record.subject.clone());
            }
            ("agent.release" | "agent.remove", "done") => {
                self.quarantined.remove(&record.subject);
                self.watch.release(&record.subject);
                self.denied.forget(&record.subject);
                self.outvoted.forget(&record.subject);
            }
            // Another guardian has flagged it.
            ("agent.flag", "done") if !is_past => drop(self.flags(&record.subject, now_ms)),
            ("call", "denied") => self.note_denied(record, Signal::FailedAuthentication, CALL_WINDOWS, is_past),
            // Other agents agree on another output than its own.
            ("result.outvoted", _) => {
                self.note_denied(record, Signal::Disagreement, OUTVOTED_WINDOWS, is_past);
                if let Some(agent) = agent_of(&record.actor).filter(|_| !is_past) {
                    self.outvoted.note(agent, times(&record.detail), ended(&self.counts, agent), now_ms);
                }
            }
            ("policy.denied" | "policy.failed_closed", _) if record.detail.starts_with("on Result") => {
                self.note_denied(record, Signal::Disagreement, POLICY_WINDOWS, is_past);
            }
            ("policy.denied" | "policy.failed_closed", _) => {
                self.note_denied(record, Signal::Overuse, POLICY_WINDOWS, is_past);
            }
            _ => {}
        }
    }

    /// Notes what a record tells of the windows before it. It is counted in as many windows from now on, because the watch
    /// takes nothing of those that are over.
    fn note_denied(&mut self, record: &v1::AuditRecord, signal: Signal, windows: u64, is_past: bool) {
        if let Some(agent) = agent_of(&record.actor).filter(|_| !is_past) {
            self.denied.add(agent, signal, times(&record.detail), windows);
        }
    }

    /// Returns the anomalies since the last call, the most severe first.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Anomaly> {
        self.watch.tick(now_ms)
    }

    /// Takes those of these agents that others outvote again and again.
    pub fn outvoted(&mut self, agents: &[v1::Agent], now_ms: u64) -> Vec<Repeated> {
        self.outvoted.take_of(agents, now_ms)
    }

    /// Returns whether an agent may be quarantined now by the guardian `own`.
    ///
    /// # Errors
    /// [`Spared`] if it may not.
    pub fn may_quarantine(&self, agents: &[v1::Agent], agent: &str, own: &str) -> Result<(), Spared> {
        spared::may_quarantine(agents, agent, own, self.quarantined.len())
    }

    /// Notes that this guardian has quarantined an agent, before a record tells so.
    pub fn note_quarantined(&mut self, agent: &str) {
        self.quarantined.insert(agent.to_owned());
    }

    /// Judges an agent anew that was spared.
    pub fn spare(&mut self, agent: &str) {
        self.watch.release(agent);
    }
}

/// Returns what is unlike an agent, with the figures.
pub fn figures(anomaly: &Anomaly) -> String {
    format!("{} of {:.1} per second, and usually {:.1}", anomaly.what.name(), anomaly.observed, anomaly.expected)
}

/// Returns the reason for a quarantine, with the figures.
pub fn reason(anomaly: &Anomaly) -> String {
    format!("{}: severe anomalies in several seconds within a minute", figures(anomaly))
}

/// Returns how many attempts an agent has ended, by those that succeeded and failed; `None`: it is not known.
fn ended(counts: &BTreeMap<String, (u64, u64)>, agent: &str) -> Option<u64> {
    counts.get(agent).map(|(succeeded, failed)| succeeded.saturating_add(*failed))
}

/// Returns the number of windows between two times.
fn windows_of(since: u64, now: u64) -> u64 {
    (now.saturating_sub(since) / WINDOW_MS).clamp(1, MAX_WINDOWS)
}

/// Returns the name of the agent that has proved to be an actor.
fn agent_of(actor: &str) -> Option<&str> {
    let (role, name) = actor.split_once('/')?;
    ROLES.contains(&role).then(|| name.split(' ').next().unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use robeing_policy::anomaly::{QUARANTINE_AFTER, Response, Severity, WARM_UP_WINDOWS};

    use super::*;
    use crate::roles::guardian::{departed::WATCHED_FOR_MS, outvoted::LEAST, spared::ONE_OF};

    fn agent(name: &str, succeeded: u64, failed: u64) -> v1::Agent {
        let state = v1::AgentState::Live.into();
        v1::Agent { name: name.into(), pool: "data".into(), state, succeeded, failed, ..v1::Agent::default() }
    }

    fn record(seq: u64, [actor, action, subject, outcome, detail]: [&str; 5]) -> v1::AuditRecord {
        let [actor, action, subject, outcome, detail] = [actor, action, subject, outcome, detail].map(str::to_owned);
        v1::AuditRecord { seq, actor, action, subject, outcome, detail, at: None }
    }

    /// A feed of two agents that have worked for long enough to be judged, and the time.
    fn warm() -> (Feed, u64, u64) {
        let (mut feed, mut now, mut done) = (Feed::default(), 0, 0);
        for _ in 0..=WARM_UP_WINDOWS + 1 {
            feed.agents(&[agent("a", done, 0), agent("b", done, 0)], None, now);
            assert_eq!(feed.tick(now), []);
            (now, done) = (now + WINDOW_MS, done + 10);
        }
        (feed, now, done)
    }

    #[test]
    fn an_agent_that_begins_to_fail_is_to_be_quarantined_and_one_that_works_more_is_not() {
        let (mut feed, mut now, mut done) = warm();
        let mut found = Vec::new();
        for n in 1..=u64::from(QUARANTINE_AFTER) + 1 {
            feed.agents(&[agent("a", done, 50 * n), agent("b", done * 1_000, 0)], None, now);
            found.extend(feed.tick(now));
            (now, done) = (now + WINDOW_MS, done + 10);
        }
        let worst = found.iter().find(|anomaly| anomaly.response == Response::Quarantine).expect("it is severe");
        assert_eq!((&*worst.agent, worst.what), ("a", Signal::Failure));
        assert!(found.iter().all(|anomaly| anomaly.agent == "a"), "{found:?}");
        assert!(reason(worst).starts_with("failures of 50.0 per second, and usually "), "{}", reason(worst));
    }

    fn activity(agent: &str, incarnation: &str, messages_sent: u64) -> v1::AgentActivity {
        v1::AgentActivity { agent: agent.into(), incarnation: incarnation.into(), messages_sent }
    }

    /// Returns what is found of an agent that begins to send many messages.
    fn found_of_a_busy_sender(mut feed: Feed) -> Vec<Anomaly> {
        let (mut now, mut sent) = (0, 0);
        let mut look = |feed: &mut Feed, more: u64| {
            (now, sent) = (now + WINDOW_MS, sent + more);
            let counts = [activity("a", "1", sent), activity("b", "1", now / WINDOW_MS), activity("gone", "1", sent)];
            feed.agents(&[agent("a", 0, 0), agent("b", 0, 0)], Some(&counts), now);
            feed.tick(now)
        };
        for _ in 0..WARM_UP_WINDOWS + 3 {
            assert_eq!(look(&mut feed, 5), []);
        }
        assert_eq!(feed.judged(), 2);
        let found: Vec<_> = (0..2 * QUARANTINE_AFTER).flat_map(|n| look(&mut feed, 500 << n)).collect();
        assert!(found.iter().all(|anomaly| anomaly.agent == "a" && anomaly.what == Signal::Message), "{found:?}");
        assert_eq!(feed.sent.len(), 2, "who is not in the fleet is forgotten");
        found
    }

    #[test]
    fn an_agent_that_begins_to_send_many_messages_is_quarantined_only_where_guardians_are_told_so() {
        for quarantines in [false, true] {
            let feed = Feed::new(Duration::from_secs(WARM_UP_WINDOWS), quarantines);
            let found = found_of_a_busy_sender(feed);
            let is_severe = |anomaly: &Anomaly| anomaly.severity == Severity::Severe;
            assert!(found.iter().filter(|of| is_severe(of)).count() >= QUARANTINE_AFTER as usize, "{found:?}");
            assert_eq!(found.iter().any(|of| of.response == Response::Quarantine), quarantines, "{found:?}");
        }
    }

    #[test]
    fn what_was_counted_before_a_guardian_a_leader_or_a_process_began_is_no_burst() {
        let (mut feed, mut now, _) = warm();
        let agents = [agent("a", 0, 0), agent("b", 0, 0)];
        let counts = [Some([activity("a", "1", 1 << 40)]), None, Some([activity("a", "1", 1 << 40)])];
        let restarted = [Some([activity("a", "2", 9_000)]), Some([activity("a", "2", 5)])];
        for activity in counts.into_iter().chain(restarted) {
            feed.agents(&agents, activity.as_ref().map(|list| &list[..]), now);
            now += WINDOW_MS;
            assert_eq!(feed.tick(now), []);
        }
    }

    #[test]
    fn an_agent_is_flagged_by_one_guardian_and_again_after_a_while() {
        let mut feed = Feed::default();
        assert!(feed.flags("a", 0) && !feed.flags("a", FLAG_AGAIN_MS - 1) && feed.flags("b", 0));
        assert!(feed.flags("a", FLAG_AGAIN_MS));
        let by_another = record(1, ["guardian/h", "agent.flag", "c", "done", "messages"]);
        feed.record(&by_another, false, 5);
        assert!(!feed.flags("c", 6) && feed.flags("c", 5 + FLAG_AGAIN_MS));
        feed.agents(&[agent("c", 0, 0)], None, 5 + 2 * FLAG_AGAIN_MS);
        assert!(feed.flagged.is_empty(), "it is bounded");
    }

    #[test]
    fn what_happened_in_a_long_pause_is_no_burst() {
        let (mut feed, now, done) = warm();
        let later = now + 30 * WINDOW_MS;
        feed.agents(&[agent("a", done, 90), agent("b", done, 0)], None, later);
        assert_eq!(feed.tick(later + WINDOW_MS), [], "three failures a second");
    }

    #[test]
    fn refused_calls_of_a_certificate_count_and_what_others_claim_does_not() {
        let (mut feed, now, done) = warm();
        let agents = [agent("a", done, 0), agent("b", done, 0)];
        let refused =
            |actor| record(1, [actor, "call", "robeing.v1.Admin/SetTrust", "denied", "PermissionDenied, 45 times"]);
        feed.record(&refused("anonymous (10.0.0.1)"), false, now);
        feed.record(&refused("client/a (10.0.0.1)"), false, now);
        feed.record(&refused("client/x through worker/a (10.0.0.1)"), false, now);
        feed.record(&refused("client/worker/a (10.0.0.1)"), false, now);
        feed.record(&refused("worker/b (10.0.0.1)"), true, now);
        feed.record(&record(2, ["a", "agent.enrol", "a", "denied", "x, 50 times"]), false, now);
        feed.agents(&agents, None, now);
        assert_eq!(feed.tick(now + WINDOW_MS), []);
        feed.record(&refused("worker/a (10.0.0.1)"), false, now + WINDOW_MS);
        feed.agents(&agents, None, now + WINDOW_MS);
        let found = feed.tick(now + 2 * WINDOW_MS);
        assert_eq!(found.len(), 1);
        assert_eq!((&*found[0].agent, found[0].what, found[0].observed), ("a", Signal::FailedAuthentication, 9.0));
        assert_eq!(feed.after(), 2);
    }

    #[test]
    fn what_the_certificate_of_an_agent_is_refused_counts_also_while_the_agent_is_lost() {
        let (mut feed, mut now, done) = warm();
        let mut look = |feed: &mut Feed, agents: &[v1::Agent]| {
            feed.agents(agents, None, now);
            now += WINDOW_MS;
            feed.tick(now)
        };
        assert_eq!(look(&mut feed, &[agent("b", done, 0)]), []);
        let detail = "PermissionDenied, 200 times";
        let refused = record(1, ["worker/a (10.0.0.9)", "call", "robeing.v1.Admin/SetTrust", "denied", detail]);
        feed.record(&refused, false, 0);
        let found: Vec<_> = (0..=CALL_WINDOWS).flat_map(|_| look(&mut feed, &[agent("b", done, 0)])).collect();
        let is_of_a = |of: &Anomaly| of.agent == "a" && of.what == Signal::FailedAuthentication;
        assert!(found.iter().all(is_of_a), "{found:?}");
        assert!(found.iter().any(|of| of.response == Response::Quarantine), "{found:?}");
        assert!(feed.denied.is_empty(), "all are counted");
        assert_eq!(feed.judged(), 2, "it is judged by what it did before");
        assert_eq!(feed.may_quarantine(&[agent("b", done, 0)], "a", "g"), Err(Spared::NotLive));
        now += WATCHED_FOR_MS;
        feed.agents(&[agent("b", done, 0)], None, now);
        assert_eq!(feed.judged(), 1, "its certificate can't be used any more");
    }

    #[test]
    fn an_agent_that_is_outvoted_disagrees() {
        let (mut feed, now, done) = warm();
        let detail = "on Result, 500 times: other agents agree on another output";
        feed.record(&record(1, ["worker/a", "result.outvoted", "t", "denied", detail]), false, now);
        feed.agents(&[agent("a", done, 0), agent("b", done, 0)], None, now);
        let found = feed.tick(now + WINDOW_MS);
        assert!(found.iter().any(|of| of.agent == "a" && of.what == Signal::Disagreement), "{found:?}");
    }

    #[test]
    fn an_agent_that_is_outvoted_again_and_again_is_found_from_the_beginning() {
        let mut feed = Feed::default();
        let often = format!("on Result, {} times: other agents agree on another output", LEAST - 1);
        let outvoted = |detail: &str| record(1, ["worker/a", "result.outvoted", "t", "denied", detail]);
        feed.record(&outvoted(&often), true, 0);
        feed.agents(&[agent("a", 500, 0)], None, 0);
        feed.record(&outvoted("on Result, once: other agents agree on another output"), false, 0);
        assert_eq!(feed.outvoted(&[agent("a", 500, 1)], 0), [], "what was before this guardian began does not count");
        feed.record(&outvoted(&often), false, WINDOW_MS);
        let lost = v1::Agent { state: v1::AgentState::Lost.into(), ..agent("a", 500, LEAST) };
        assert_eq!(feed.outvoted(&[lost], WINDOW_MS), [], "it is judged when it is back");
        let found = feed.outvoted(&[agent("a", 500, LEAST)], WINDOW_MS);
        assert_eq!(found, [Repeated { agent: "a".to_owned(), times: LEAST, within_ms: WINDOW_MS }]);
        assert_eq!(feed.outvoted(&[agent("a", 500, LEAST)], WINDOW_MS), [], "it is found once");
    }

    #[test]
    fn denials_count_over_the_time_of_which_their_record_tells() {
        let looks = |times: u64, apart: u64| {
            let (mut feed, mut now, done) = warm();
            let detail = format!("on Result, {times} times: why");
            feed.record(&record(1, ["worker/a", "policy.denied", "p", "denied", &detail]), false, now);
            let mut found = Vec::new();
            for _ in 0..=POLICY_WINDOWS {
                feed.agents(&[agent("a", done, 0), agent("b", done, 0)], None, now);
                found.extend(feed.tick(now));
                now += apart * WINDOW_MS;
            }
            assert!(feed.denied.is_empty(), "all are counted");
            found
        };
        assert_eq!(looks(4 * POLICY_WINDOWS, 1), [], "four a second");
        assert_eq!(looks(4 * POLICY_WINDOWS, 4), [], "also if the guardian looks seldom");
        let found = looks(40 * POLICY_WINDOWS, 1);
        assert!(found.iter().any(|of| of.response == Response::Quarantine && of.what == Signal::Disagreement));
    }

    #[test]
    fn so_many_agents_are_quarantined_at_a_time_and_never_the_last_of_a_pool() {
        let mut feed = Feed::default();
        let mut agents: Vec<v1::Agent> = (0..2 * ONE_OF).map(|n| agent(&format!("a-{n}"), 0, 0)).collect();
        agents.push(v1::Agent { pool: "single".into(), ..agent("s", 0, 0) });
        assert_eq!(feed.may_quarantine(&agents, "a-0", "g"), Ok(()));
        assert_eq!(feed.may_quarantine(&agents, "a-0", "a-0"), Err(Spared::Own));
        assert_eq!(feed.may_quarantine(&agents, "s", "g"), Err(Spared::LastOfPool));
        assert_eq!(feed.may_quarantine(&agents, "unknown", "g"), Err(Spared::NotLive));
        let bar = |name: &str, by: &str| record(1, [by, "agent.quarantine", name, "done", "why"]);
        feed.record(&bar("x", "client/ann"), true, 0);
        feed.record(&bar("a-1", "guardian/g"), true, 0);
        assert_eq!(feed.may_quarantine(&agents, "a-0", "g"), Ok(()), "people may quarantine more");
        feed.record(&bar("a-2", "guardian/h"), false, 0);
        assert_eq!(feed.may_quarantine(&agents, "a-0", "g"), Err(Spared::Enough(2)));
        feed.record(&record(3, ["client/ann", "agent.release", "a-1", "done", ""]), false, 0);
        assert_eq!(feed.may_quarantine(&agents, "a-0", "g"), Ok(()));
        let few = [agent("a", 0, 0), agent("b", 0, 0)];
        assert_eq!(Feed::default().may_quarantine(&few, "a", "g"), Ok(()), "one in any case");
        let none: Vec<v1::Agent> = few.into_iter().map(|agent| v1::Agent { pool: String::new(), ..agent }).collect();
        assert_eq!(Feed::default().may_quarantine(&none, "a", "g"), Ok(()));
        assert_eq!(Feed::default().may_quarantine(&none[..1], "a", "g"), Err(Spared::LastOfPool));
    }
}
