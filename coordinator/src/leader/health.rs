//! Health checks by the leader: over each session, once per health check interval, it asks the agent for its own health
//! and for the health of the executor that runs its tasks. [`Checks`] counts the answers and derives a verdict;
//! [`SessionHealth`] writes the verdict to the log.
//!
//! The verdict is compared with the fleet's state at every check. A verdict that could not be written is therefore
//! written later, and a new leader continues from the state; it readmits an agent only on answers that it received
//! itself.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use robeing_fleet::{
    AgentCommand, AgentId, AgentState, Command, SessionId,
    limits::MAX_REASON_BYTES,
    sabotage::{Mistake, planted},
};
use robeing_proto::internal::v1::{self as internal, HealthState};
use tokio::time::{Instant, Sleep};
use tracing::{info, warn};

use crate::{
    apply::observer::ApplyObserver,
    leader::{
        sessions::{SessionConnection, opening::Opened},
        written,
    },
    propose::Proposer,
    read::StateReader,
};

/// Number of consecutive checks without an answer, from the agent or from its executor, after which an agent is
/// unhealthy. A single answer is enough if the agent reports that it is unhealthy.
pub const UNHEALTHY_AFTER: u32 = 2;
/// Number of consecutive good answers after which an unhealthy agent is readmitted.
pub const HEALTHY_AFTER: u32 = 2;
/// Number of consecutive checks without any answer after which an agent has failed, even if its heartbeats arrive.
pub const FAILED_AFTER: u32 = 6;
/// The longest an agent may take to answer.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Number of parts into which the interval is divided to spread the first checks of agents that connect at the same
/// time.
const SPREAD: u32 = 1_024;

/// The change that an agent's answers call for.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Verdict {
    /// The agent is unhealthy, for this reason.
    Unhealthy(String),
    /// The agent was unhealthy and answers well, but has not been readmitted yet.
    Recovering,
    /// The agent was unhealthy and is healthy again.
    Healthy,
    /// The agent has failed. From this instant on it runs nothing, provided that none of its heartbeats is answered.
    Failed(Instant),
}

/// The checks of one session. Pure: the time and the answers are passed in.
#[derive(Debug)]
struct Checks {
    interval: Duration,
    /// How long an agent may keep running after its last heartbeat was answered.
    timeout: Duration,
    seq: u64,
    next: Instant,
    /// Whether the newest check is unanswered.
    open: bool,
    /// Consecutive checks without an answer.
    unanswered: u32,
    /// Consecutive checks without an answer from the agent or from its executor.
    silent: u32,
    /// Consecutive good answers.
    good: u32,
    /// Why the agent is unhealthy, until it has given enough good answers.
    unhealthy: Option<String>,
    /// Set if the agent has failed: the instant from which it runs nothing if its heartbeats are not answered. A failed
    /// agent is not checked again.
    failed: Option<Instant>,
}

impl Checks {
    fn new(interval: Duration, timeout: Duration, agent: AgentId, now: Instant) -> Self {
        // Spread consecutive ids far apart, and check no agent at the moment it connects.
        let part = agent.0.wrapping_mul(619) % SPREAD + 1;
        Self {
            interval,
            timeout,
            seq: 0,
            next: now + interval * part / SPREAD,
            open: false,
            unanswered: 0,
            silent: 0,
            good: 0,
            unhealthy: None,
            failed: None,
        }
    }

    /// Returns the next check if it is due. A previous check that is still unanswered counts as missed.
    fn ask(&mut self, now: Instant) -> Option<internal::HealthCheck> {
        if self.failed.is_some() || now < self.next {
            return None;
        }
        if self.open {
            self.unanswered += 1;
            let reason = format!("it has not answered {} health checks", self.unanswered);
            self.note_silence(reason);
            if self.unanswered >= FAILED_AFTER {
                self.failed = Some(now + self.timeout);
                return None;
            }
        }
        self.open = true;
        self.seq += 1;
        // If this coordinator stalled, it sends one check, not one for every interval that passed.
        self.next = now + self.interval;
        // Half the interval, so that a slow answer still arrives before the next check.
        let within = (self.interval / 2).min(ANSWER_WITHIN).as_millis();
        Some(internal::HealthCheck { seq: self.seq, within_ms: u32::try_from(within).unwrap_or(u32::MAX) })
    }

    fn note_silence(&mut self, reason: String) {
        self.good = 0;
        self.silent += 1;
        if self.silent >= UNHEALTHY_AFTER {
            self.unhealthy = Some(reason);
        }
    }

    /// Takes an answer. An answer to any check but the newest is ignored.
    fn answered(&mut self, report: internal::HealthReport, now: Instant) {
        if !self.open || report.seq != self.seq {
            return;
        }
        self.open = false;
        self.unanswered = 0;
        let state = report.state();
        // Don't write more of the reason to the log than is kept.
        let mut reason = report.reason;
        reason.truncate(reason.floor_char_boundary(MAX_REASON_BYTES));
        match state {
            HealthState::Silent => self.note_silence(reason),
            HealthState::Unhealthy | HealthState::Failed => {
                (self.good, self.silent) = (0, 0);
                self.unhealthy = Some(reason);
                // The agent reports `Failed` only once nothing runs any more.
                self.failed = (state == HealthState::Failed).then_some(now);
            }
            // `Unspecified` may be a state that only newer agents know. The agent answers, so it counts as healthy.
            HealthState::Healthy | HealthState::Unspecified => {
                self.good += 1;
                self.silent = 0;
                if self.good >= HEALTHY_AFTER {
                    self.unhealthy = None;
                }
            }
        }
    }

    /// Returns the verdict to write, given the agent's state in the fleet; `None` if there is nothing to write.
    fn verdict(&self, state: AgentState) -> Option<Verdict> {
        match (state, &self.unhealthy) {
            (AgentState::Lost, _) => None,
            _ if self.failed.is_some() => self.failed.map(Verdict::Failed),
            (AgentState::Live | AgentState::Standby, Some(reason)) if self.good == 0 => {
                Some(Verdict::Unhealthy(reason.clone()))
            }
            (AgentState::Unhealthy, None) if self.good >= HEALTHY_AFTER => Some(Verdict::Healthy),
            (AgentState::Unhealthy, _) if self.good > 0 => Some(Verdict::Recovering),
            _ => None,
        }
    }
}

/// The health checks of the agent of one session.
pub struct SessionHealth {
    state: StateReader,
    observer: Arc<ApplyObserver>,
    proposer: Proposer,
    agent: AgentId,
    session: SessionId,
    link: Arc<SessionConnection>,
    term: u64,
    /// `None` for an agent that does not answer health checks.
    checks: Option<Checks>,
    timer: Pin<Box<Sleep>>,
    /// The verdict that is being written; resolves to whether it was written.
    writing: Option<BoxFuture<'static, bool>>,
}

impl SessionHealth {
    /// Creates the health checks of an agent that has just connected to the leader of `term`.
    pub fn new(
        state: StateReader,
        observer: Arc<ApplyObserver>,
        proposer: Proposer,
        opened: &Opened,
        term: u64,
    ) -> Self {
        let Opened { agent, session, ref link, answers_health_checks, .. } = *opened;
        let (timing, now) = (observer.sessions.timing, Instant::now());
        let checks =
            answers_health_checks.then(|| Checks::new(timing.health_check_interval, timing.timeout, agent, now));
        let due = checks.as_ref().map_or(now, |checks| checks.next);
        let timer = Box::pin(tokio::time::sleep_until(due));
        let link = Arc::clone(link);
        let health = Self { state, observer, proposer, agent, session, link, term, checks, timer, writing: None };
        // The agent may have missed the request to hand back.
        if health.agent_state() == AgentState::Unhealthy {
            health.hand_back();
        }
        health
    }

    /// Waits for the next action that is due and performs it. Cancellation-safe; never returns for an agent that does
    /// not answer health checks.
    pub async fn act(&mut self) {
        let Self { checks: Some(checks), writing, timer, .. } = self else { return std::future::pending().await };
        tokio::select! {
            biased;
            written = written(writing) => {
                // A verdict that could not be written is derived again at the next check.
                self.writing = None;
                let is_bad = checks.good == 0;
                if written && is_bad && self.agent_state() == AgentState::Unhealthy {
                    self.hand_back();
                }
            }
            () = timer.as_mut() => {
                let now = Instant::now();
                if let Some(check) = checks.ask(now) {
                    self.link.put(|outbox| outbox.health_check = Some(check));
                }
                // A failed agent is not checked again.
                timer.as_mut().reset(if checks.next > now { checks.next } else { now + checks.interval });
                self.judge(now);
            }
        }
    }

    /// Takes an answer, and writes the verdict that follows from it.
    pub fn answered(&mut self, report: internal::HealthReport) {
        let now = Instant::now();
        if let Some(checks) = &mut self.checks {
            checks.answered(report, now);
            self.judge(now);
        }
    }

    fn agent_state(&self) -> AgentState {
        self.state.look(|fleet| {
            let agent = fleet.agent(self.agent).filter(|agent| agent.session == self.session);
            agent.map_or(AgentState::Lost, |agent| agent.state)
        })
    }

    fn name(&self) -> String {
        self.state.look(|fleet| fleet.agent(self.agent).map(|agent| agent.name.to_string())).unwrap_or_default()
    }

    /// Returns whether the agent has active attempts.
    fn holds(&self) -> bool {
        self.state.look(|fleet| fleet.active_attempts(self.agent) > 0)
    }

    fn hand_back(&self) {
        self.link.put(|outbox| outbox.hand_back = true);
    }

    /// Writes the verdict if the fleet's state differs from it.
    fn judge(&mut self, now: Instant) {
        let state = self.agent_state();
        let Some(checks) = &self.checks else { return };
        let verdict = checks.verdict(state);
        if let Some(Verdict::Failed(at)) = verdict {
            warn!(agent = self.name(), reason = checks.unhealthy, "agent failed");
            // This loss goes through the session table like all others, so that no connection of the agent is accepted
            // meanwhile.
            return self.observer.sessions.failed(self.agent, &self.link, at);
        }
        if self.writing.is_some() {
            return;
        }
        let Some(verdict) = verdict else {
            // Nothing to write. The agent may not have received the request to hand back, for example from a leader
            // that was replaced. A draining agent hands back as well.
            let is_bad = checks.unhealthy.is_some() && checks.good == 0;
            if is_bad && matches!(state, AgentState::Unhealthy | AgentState::Draining) && self.holds() {
                self.hand_back();
            }
            return;
        };
        let (agent, session) = (self.agent, self.session);
        let command = match verdict {
            Verdict::Unhealthy(_) if planted(Mistake::IllnessNotWritten) => return,
            Verdict::Unhealthy(reason) => {
                warn!(agent = self.name(), reason, "agent unhealthy");
                self.observer.recoveries.began(agent, now);
                Command::Agent(AgentCommand::Unhealthy { agent, session, reason })
            }
            Verdict::Recovering => Command::Agent(AgentCommand::Healthy { agent, session, readmit: false }),
            Verdict::Healthy => {
                info!(agent = self.name(), "agent healthy again");
                Command::Agent(AgentCommand::Healthy { agent, session, readmit: true })
            }
            Verdict::Failed(_) => return,
        };
        let (proposer, term) = (self.proposer.clone(), self.term);
        // The verdict relies on answers received here; another leader performs its own checks.
        self.writing = Some(Box::pin(async move { proposer.propose_in(term, command).await.is_ok() }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(10);
    const TIMEOUT: Duration = Duration::from_secs(2);

    /// Checks, and the time of the newest.
    struct Trial {
        checks: Checks,
        now: Instant,
    }

    impl Trial {
        fn new() -> Self {
            let now = Instant::now();
            let checks = Checks::new(INTERVAL, TIMEOUT, AgentId(1), now);
            Self { checks, now }
        }

        /// Sends the next check when it is due, and answers it with `answer`, if given.
        fn round(&mut self, answer: Option<(HealthState, &str)>) {
            self.now = self.checks.next;
            let check = self.checks.ask(self.now);
            if let (Some(check), Some((state, reason))) = (check, answer) {
                let report = internal::HealthReport { seq: check.seq, state: state.into(), reason: reason.into() };
                self.checks.answered(report, self.now);
            }
        }

        fn verdict(&self, state: AgentState) -> Option<Verdict> {
            self.checks.verdict(state)
        }
    }

    const WELL: Option<(HealthState, &str)> = Some((HealthState::Healthy, ""));

    #[test]
    fn an_agents_own_word_is_enough_and_two_good_answers_take_it_back() {
        let mut trial = Trial::new();
        trial.round(WELL);
        assert_eq!(trial.verdict(AgentState::Live), None);
        trial.round(Some((HealthState::Unhealthy, "503")));
        assert_eq!(trial.verdict(AgentState::Live), Some(Verdict::Unhealthy("503".into())));
        assert_eq!(trial.verdict(AgentState::Standby), Some(Verdict::Unhealthy("503".into())));
        assert_eq!(trial.verdict(AgentState::Unhealthy), None, "it is known");
        assert_eq!(trial.verdict(AgentState::Draining), None);
        trial.round(WELL);
        assert_eq!(trial.verdict(AgentState::Unhealthy), Some(Verdict::Recovering));
        trial.round(Some((HealthState::Silent, "no answer")));
        assert_eq!(trial.verdict(AgentState::Unhealthy), None);
        trial.round(WELL);
        trial.round(WELL);
        assert_eq!(trial.verdict(AgentState::Unhealthy), Some(Verdict::Healthy));
        assert_eq!(trial.verdict(AgentState::Live), None);
    }

    #[test]
    fn one_silence_is_forgiven_and_two_in_a_row_are_not() {
        let silent = Some((HealthState::Silent, "it can't be reached"));
        let mut trial = Trial::new();
        for _ in 0..3 {
            trial.round(silent);
            assert_eq!(trial.verdict(AgentState::Live), None);
            trial.round(WELL);
        }
        trial.round(silent);
        trial.round(silent);
        assert_eq!(trial.verdict(AgentState::Live), Some(Verdict::Unhealthy("it can't be reached".into())));
    }

    #[test]
    fn one_that_is_well_every_other_time_stays_unhealthy() {
        let mut trial = Trial::new();
        for _ in 0..5 {
            trial.round(Some((HealthState::Unhealthy, "503")));
            assert_eq!(trial.verdict(AgentState::Live), Some(Verdict::Unhealthy("503".into())));
            trial.round(WELL);
            assert_eq!(trial.verdict(AgentState::Unhealthy), Some(Verdict::Recovering));
        }
    }

    #[test]
    fn an_agent_that_answers_nothing_is_unhealthy_and_then_left_to_stop_before_it_is_lost() {
        let mut trial = Trial::new();
        trial.round(None);
        for missed in 1..FAILED_AFTER {
            trial.round(None);
            let unhealthy = (missed >= UNHEALTHY_AFTER)
                .then(|| Verdict::Unhealthy(format!("it has not answered {missed} health checks")));
            assert_eq!(trial.verdict(AgentState::Live), unhealthy, "after {missed}");
        }
        trial.round(None);
        let failed = Some(Verdict::Failed(trial.now + TIMEOUT));
        assert_eq!(trial.verdict(AgentState::Unhealthy), failed, "it may still run something");
        trial.round(WELL);
        assert_eq!(trial.verdict(AgentState::Unhealthy), failed, "it is not asked again");
        assert_eq!(trial.verdict(AgentState::Lost), None);
    }

    #[test]
    fn an_agent_that_says_it_has_failed_is_lost_at_once() {
        let mut trial = Trial::new();
        trial.round(Some((HealthState::Failed, "no thread")));
        assert_eq!(trial.verdict(AgentState::Live), Some(Verdict::Failed(trial.now)));
    }

    #[test]
    fn a_long_reason_is_cut_before_it_goes_into_the_log() {
        let mut trial = Trial::new();
        trial.round(Some((HealthState::Unhealthy, &"é".repeat(MAX_REASON_BYTES))));
        assert_eq!(trial.verdict(AgentState::Live), Some(Verdict::Unhealthy("é".repeat(MAX_REASON_BYTES / 2))));
    }

    #[test]
    fn an_answer_to_another_check_says_nothing() {
        let mut trial = Trial::new();
        trial.round(None);
        let seq = trial.checks.seq;
        for seq in [seq - 1, seq + 1] {
            let report = internal::HealthReport { seq, state: HealthState::Unhealthy.into(), reason: String::new() };
            trial.checks.answered(report, trial.now);
        }
        assert_eq!(trial.verdict(AgentState::Live), None);
        let report = internal::HealthReport { seq, state: HealthState::Unhealthy.into(), reason: String::new() };
        trial.checks.answered(report.clone(), trial.now);
        trial.checks.answered(internal::HealthReport { state: HealthState::Healthy.into(), ..report }, trial.now);
        assert!(trial.verdict(AgentState::Live).is_some(), "the first answer counts");
    }

    #[test]
    fn a_new_leader_readmits_by_its_own_answers_alone() {
        let mut trial = Trial::new();
        assert_eq!(trial.verdict(AgentState::Unhealthy), None);
        trial.round(WELL);
        assert_eq!(trial.verdict(AgentState::Unhealthy), Some(Verdict::Recovering));
        trial.round(WELL);
        assert_eq!(trial.verdict(AgentState::Unhealthy), Some(Verdict::Healthy));
    }

    #[test]
    fn first_checks_are_spread_over_the_interval() {
        let now = Instant::now();
        let due = |n| Checks::new(INTERVAL, TIMEOUT, AgentId(n), now).next;
        let mut times: Vec<Instant> = (0..SPREAD).map(due).collect();
        assert!(times.iter().all(|time| *time > now && *time <= now + INTERVAL));
        times.sort();
        times.dedup();
        assert_eq!(times.len(), SPREAD as usize);
    }
}
