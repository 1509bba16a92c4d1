//! The record of a run: a checksum over every event, which must be the same when the seed is run again; what each
//! coordinator applied; what agents ran; the calls of clients and their responses. Violations are recorded as they
//! happen.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use robeing_agent::session::lease::MARGIN;

use crate::{
    allocations::{AllocationLedger, NeedsLedger},
    ballots::BallotLedger,
    checks::{Check, Wrong},
    clocks::Times,
    faults::Ill,
    graphs::GraphLedger,
    history::{Answer, Call, Op},
    hosts::SESSION_TIMEOUT,
    lives::{Asked, Seen},
    mail::Ledger,
    queued::QueueLedger,
    schedules::ScheduleLedger,
    state::State,
    teams::TeamLedger,
    timed::TimedLedger,
    verified::VerifiedLedger,
};

/// The tolerance of the bounds of durations for rounding.
pub const ROUNDING: Duration = Duration::from_millis(5);

/// The number of health check intervals after which the state of an agent that reports it is known; the first check may
/// have just been answered.
const CHECKS_TO_HEAR: u32 = 2;
/// The same for other illnesses: a missing answer is tolerated once.
const CHECKS_TO_NOTICE: u32 = 4;
/// The additional time to write it to the log and to hand back attempts in transit.
const TO_WRITE_IT: Duration = Duration::from_secs(1);

/// The effects of one log entry.
#[derive(Clone, PartialEq, Debug)]
pub struct Applied {
    /// The checksum of the state after it.
    pub checksum: u64,
    /// The tasks that ended with it.
    pub finished: Vec<String>,
    /// The attempts that it assigned.
    pub assigned: Vec<Assigned>,
    /// The sessions that began with it, with their agents, or ended with it.
    pub sessions: Vec<(u64, Option<String>)>,
    /// The agents that it counted as lost because of their silence.
    pub silent: Vec<String>,
}

/// An attempt as it is assigned to an agent.
#[derive(Clone, PartialEq, Debug)]
pub struct Assigned {
    /// The agent's name.
    pub agent: String,
    /// The number of its slots.
    pub slots: usize,
    /// The task.
    pub task: String,
    /// The number of the attempt.
    pub attempt: u32,
}

/// A task whose submitter was notified of its acceptance.
#[derive(Clone, Debug, Default)]
pub struct Accepted {
    /// Whether a client asked to cancel it.
    pub cancelled: bool,
    /// Its end, as first read: everything that must never change.
    pub ended: Option<String>,
    /// How many times it had been tried again as a dead letter then.
    pub epoch: u32,
}

/// An attempt that an executor runs.
#[derive(Clone, Debug)]
pub struct Run {
    /// The agent.
    pub agent: String,
    /// The number of the attempt.
    pub attempt: u32,
    /// Whether it has a time limit or a progress timeout, after which the coordinators continue without waiting for its
    /// end.
    pub limited: bool,
    /// Whether the coordinators asked it to stop.
    pub cancelled: bool,
    /// The number of the run.
    pub number: u64,
}

/// An attempt that has ended in its executor.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The agent.
    pub agent: String,
    /// When it ended.
    pub at: Duration,
}

/// What is known about the process of an agent.
#[derive(Default)]
pub struct AgentNotes {
    /// Until when its guard lets its attempts run.
    lease: Option<Duration>,
    /// When it was restarted.
    pub started: Vec<Duration>,
    /// When a session of it began in the log, which it may not know yet.
    pub joined: Vec<Duration>,
    /// When it opened or resumed a session.
    pub opened: Vec<Duration>,
    /// When it lost the connection to its leader, was paused, or resumed.
    pub disturbed: Vec<Duration>,
}

/// Everything that is recorded about a run.
#[derive(Default)]
pub struct Notes {
    /// Log entries by index.
    pub applied: BTreeMap<u64, Applied>,
    /// When each log entry was first applied by any coordinator.
    pub applied_at: BTreeMap<u64, Duration>,
    /// Accepted tasks by id.
    pub accepted: BTreeMap<String, Accepted>,
    /// Tasks that are forgotten soon after their end, and whose ids are used again.
    pub fleeting: BTreeSet<String>,
    /// Tasks of other clients than the submitters.
    pub others: BTreeSet<String>,
    /// When each delayed task may start at the earliest.
    pub not_before: BTreeMap<String, Duration>,
    /// How long the results of short-lived tasks are kept.
    pub ttl: BTreeMap<String, Duration>,
    /// When each task ended; for an id that is used again, the last one.
    pub finished_at: BTreeMap<String, Duration>,
    /// When the leader stamped the batch with which it ended.
    ended_at: BTreeMap<String, Duration>,
    /// What submitters asked for, by task.
    pub asked: BTreeMap<String, Asked>,
    /// When log entries were stamped.
    pub times: Times,
    /// What was seen of each attempt.
    pub seen: BTreeMap<(String, u32), Seen>,
    /// From when on nothing but clocks is wrong with the fleet, and the processes that faults have ended for good.
    pub calm_from: Duration,
    pub retired: BTreeSet<String>,
    /// How often executors started each attempt.
    pub begun: BTreeMap<(String, u32), u32>,
    /// Attempts that ended in their executors on their own, except for failures that are retried.
    pub ran: BTreeMap<(String, u32), Ran>,
    /// What runs now, by task.
    pub runs: BTreeMap<String, Vec<Run>>,
    /// Agents by name.
    pub agents: BTreeMap<String, AgentNotes>,
    /// The sessions that have begun and not ended, with their agents.
    pub sessions: BTreeMap<u64, String>,
    /// Processes that are paused.
    pub paused: BTreeSet<String>,
    /// When paused processes resumed: at that very moment they have not yet done anything.
    pub went_on: BTreeMap<String, Duration>,
    /// Agents whose executors are ill, and since when.
    pub ill: BTreeMap<String, (Ill, Duration)>,
    /// The interval of health checks.
    pub health_checks: Duration,
    /// When the role of any coordinator last changed.
    pub leadership_changed: Duration,
    /// The terms of the coordinators that consider themselves the leader.
    pub leading: BTreeMap<String, u64>,
    /// The newest vote that each node has granted: its term and its candidate.
    pub votes: BTreeMap<u64, (u64, u64)>,
    /// All calls of clients.
    pub history: Vec<Call>,
    /// The number of groups of calls that are undecided.
    pub undecided: u32,
    /// The number of starts and ends of calls so far.
    moments: u64,
    /// All messages.
    pub ledger: Ledger,
    /// All ballots.
    pub ballots: BallotLedger,
    /// All tasks whose results are verified.
    pub verified: VerifiedLedger,
    /// All tasks with rules about their time and their retries.
    pub timed: TimedLedger,
    /// All graphs of tasks.
    pub graphs: GraphLedger,
    /// All tasks in queues of their own.
    pub queues: QueueLedger,
    /// All teams.
    pub teams: TeamLedger,
    /// All allocations.
    pub allocations: AllocationLedger,
    /// All tasks that need resources.
    pub needs: NeedsLedger,
    /// All schedules.
    pub schedules: ScheduleLedger,
    /// The number of injected faults, by kind.
    pub faults: BTreeMap<&'static str, u32>,
    /// The number of snapshots that coordinators wrote.
    pub snapshots_written: u32,
    /// The number of snapshots that they received from their leader.
    pub snapshots_installed: u32,
    /// The violations.
    pub violations: Vec<String>,
    /// The simulated time at the beginning of this step.
    pub now: Duration,
    /// The process that runs now.
    pub running: String,
    /// The number of events in the checksum.
    pub events: u64,
    /// The checksum over all events so far.
    pub trace: u32,
    /// The number of the next run of an executor.
    pub next_run: u64,
}

/// The notes of a run, shared by all hosts.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<Notes>>);

impl Record {
    /// Locks and returns the notes.
    pub fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a violation.
    pub fn violation(&self, check: Check, what: String) {
        tracing::error!(target: "robeing_sim", what, "violation");
        self.notes().violation(check, what);
    }

    /// Records what happens, and the violation if there is one.
    pub fn check(&self, happens: impl FnOnce(&mut Notes) -> Result<(), Wrong>) {
        let wrong = happens(&mut self.notes()).err();
        if let Some((check, what)) = wrong {
            self.violation(check, what);
        }
    }

    /// Records that a call begins; returns its number.
    pub fn asked(&self, op: Op) -> usize {
        let mut notes = self.notes();
        let began = notes.moment();
        notes.history.push(Call { op, began, ended: None, answer: Answer::Unknown });
        notes.history.len() - 1
    }

    /// Records the response to a call. A call without a response may take effect at any time, or not at all.
    pub fn answered(&self, call: usize, answer: Answer) {
        let mut notes = self.notes();
        let ended = notes.moment();
        if let Some(call) = notes.history.get_mut(call) {
            (call.ended, call.answer) = (Some(ended), answer);
        }
    }
}

impl Notes {
    /// Records a violation.
    pub fn violation(&mut self, check: Check, what: String) {
        self.violations.push(format!("{}: {what}", check.name()));
    }

    fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }

    /// Records how much longer an agent's guard lets its attempts run.
    pub fn lease(&mut self, agent: &str, left: Option<Duration>) {
        let lease = &mut self.agents.entry(agent.to_owned()).or_default().lease;
        let until = left.map(|left| self.now + left);
        // An agent that was paused learns too late that its lease has ended, and does not know when.
        let known = lease.filter(|_| left == Some(Duration::ZERO));
        *lease = until.map(|until| known.map_or(until, |known| known.min(until)));
    }

    /// Returns the agents that run attempts which were not asked to stop, once for each attempt.
    pub fn busy(&self) -> Vec<&str> {
        let runs = self.runs.values().flatten().filter(|run| !run.cancelled && !self.paused.contains(&run.agent));
        runs.map(|run| run.agent.as_str()).collect()
    }

    /// Returns the leader, if it is known: the one with the highest term.
    pub fn leader(&self) -> Option<&str> {
        self.leading.iter().max_by_key(|(_, term)| **term).map(|(name, _)| name.as_str())
    }

    /// Returns whether an agent's attempts really run: those of a paused agent have been stopped by its guard at the
    /// end of its lease.
    fn is_alive(&self, agent: &str) -> bool {
        let lease = self.agents.get(agent).and_then(|agent| agent.lease);
        let is_paused = self.paused.contains(agent) || self.went_on.get(agent) == Some(&self.now);
        !is_paused || lease.is_none_or(|until| self.now < until)
    }

    /// Checks that no two agents run one task at the same time, except when the coordinators gave up waiting for the
    /// end of an attempt.
    pub fn check_alone(&mut self, task: &str) {
        if self.fleeting.contains(task) {
            return;
        }
        let runs = self.runs.get(task).into_iter().flatten();
        let live: Vec<Run> =
            runs.filter(|run| !run.limited && !run.cancelled && self.is_alive(&run.agent)).cloned().collect();
        if let [first, .., last] = &live[..]
            && first.agent != last.agent
        {
            let what = format!(
                "task {task} runs on {} (attempt {}) and on {} (attempt {}) at once",
                first.agent, first.attempt, last.agent, last.attempt
            );
            self.violation(Check::Alone, what);
        }
    }

    /// Records that an agent's executor is ill from now on.
    pub fn sicken(&mut self, agent: String, ill: Ill) {
        self.ill.insert(agent, (ill, self.now));
    }

    /// Records that an agent's executor is healthy again, unless it has failed: then only a new process is.
    pub fn cure(&mut self, agent: &str) {
        if self.ill(agent).is_some_and(|ill| ill != Ill::Failed) {
            self.ill.remove(agent);
        }
    }

    /// Records that a process starts again.
    pub fn started(&mut self, host: &str) {
        self.ill.remove(host);
        self.agents.entry(host.to_owned()).or_default().started.push(self.now);
    }

    /// Returns the illness of an agent's executor.
    pub fn ill(&self, agent: &str) -> Option<Ill> {
        self.ill.get(agent).map(|(ill, _)| *ill)
    }

    /// Checks that an agent which has been ill for a while, undisturbed and with one leader, gets no tasks.
    pub fn check_health(&mut self, agent: &str, does: &str, task: &str) {
        let Some((ill, since)) = self.ill.get(agent).copied() else { return };
        let seen = self.agents.get(agent).map(|agent| agent.opened.iter().chain(&agent.joined).chain(&agent.disturbed));
        let since = seen.into_iter().flatten().copied().fold(since.max(self.leadership_changed), Duration::max);
        let checks = if ill == Ill::Unhealthy { CHECKS_TO_HEAR } else { CHECKS_TO_NOTICE };
        let known_by = since + self.health_checks * checks + TO_WRITE_IT;
        // Entries were applied around that time, so one about the illness would have been applied as well.
        let writes = self.applied_at.values().rev().any(|at| (known_by - TO_WRITE_IT / 2..known_by).contains(at));
        if writes && known_by < self.now {
            let what =
                format!("{agent} has been {ill:?} and otherwise undisturbed since {since:?}, but {does} task {task}");
            self.violation(Check::Health, what);
        }
    }

    /// Makes the check of [`Notes::check_alone`] for all tasks.
    pub fn check_all_alone(&mut self) {
        let several: Vec<String> =
            self.runs.iter().filter(|(_, runs)| runs.len() > 1).map(|(task, _)| task.clone()).collect();
        several.iter().for_each(|task| self.check_alone(task));
    }

    /// Checks that a task does not start before its delay has passed.
    pub fn check_delay(&mut self, task: &str) {
        if let Some(not_before) = self.not_before.get(task).filter(|not_before| self.now + ROUNDING < **not_before) {
            let what = format!("task {task} starts at {:?}, but was delayed until {not_before:?}", self.now);
            self.violation(Check::Time, what);
        }
    }

    /// Checks that a task that no longer exists was kept for its TTL after its end. The read that did not find it began
    /// at `since`.
    pub fn check_forgotten(&mut self, task: &str, since: Duration) {
        let Some(ttl) = self.ttl.get(task).copied() else { return };
        let ended = self.finished_at.get(task).copied();
        // A delayed submission may recreate a task that was already forgotten.
        if ended.is_some_and(|ended| ended >= since) {
            return;
        }
        let ended = self.ended_at.get(task).copied();
        if ended.is_none_or(|ended| self.now + ROUNDING < ended + ttl.mul_f64(0.95)) {
            let what =
                format!("task {task} ended at {ended:?}, is kept for {ttl:?}, but does not exist at {:?}", self.now);
            self.violation(Check::Time, what);
        }
    }

    /// Records the effects of a log entry on any coordinator, and what its state has after it.
    pub fn applied(&mut self, index: u64, applied: Applied, state: State, broken: &str) {
        if !broken.is_empty() {
            self.violation(Check::Audit, format!("after entry {index} the state is inconsistent: {broken}"));
        }
        match self.applied.get(&index) {
            Some(known) if *known != applied => {
                let what = format!("coordinators differ after entry {index}: {known:?} and {applied:?}");
                self.violation(Check::Agreement, what);
            }
            Some(_) => {}
            None => {
                self.check_slots(index, &applied);
                self.check_leases(index, &applied);
                let stamped = self.times.stamped_at(index);
                for agent in applied.sessions.iter().filter_map(|(_, agent)| agent.as_ref()) {
                    self.agents.entry(agent.clone()).or_default().joined.push(self.now);
                }
                for Assigned { agent, task, attempt, .. } in &applied.assigned {
                    self.seen.entry((task.clone(), *attempt)).or_default().assigned = stamped;
                    self.check_health(agent, "gets", task);
                }
                self.check_kept(&applied);
                let lost = self.follow_sessions(&applied);
                self.check_state(index, &applied, state, &lost);
                self.applied_at.insert(index, self.now);
                self.finished_at.extend(applied.finished.iter().map(|id| (id.clone(), self.now)));
                let ended = stamped.unwrap_or(self.now);
                self.ended_at.extend(applied.finished.iter().map(|id| (id.clone(), ended)));
                self.applied.insert(index, applied);
            }
        }
    }

    /// Records the sessions that begin and end with a log entry. Returns the agents of which one ends.
    fn follow_sessions(&mut self, applied: &Applied) -> BTreeSet<String> {
        let mut lost = BTreeSet::new();
        for (session, agent) in &applied.sessions {
            let ended = match agent {
                Some(agent) => self.sessions.insert(*session, agent.clone()),
                None => self.sessions.remove(session),
            };
            if let Some(agent) = ended {
                self.allocations.leaves(&agent, self.now);
                lost.insert(agent);
            }
        }
        lost
    }

    /// Checks that an agent that is assigned an attempt has as many free slots as it takes, in fact and not only in the state.
    fn check_slots(&mut self, index: u64, applied: &Applied) {
        for Assigned { agent, slots, task, attempt } in &applied.assigned {
            let takes = |task: &str| self.asked.get(task).map_or(1, |asked| asked.slots);
            let running = self.runs.iter().map(|(task, runs)| {
                let here = runs.iter().filter(|run| run.agent == *agent).count();
                here * takes(task)
            });
            let (busy, needed) = (running.sum::<usize>(), takes(task));
            if busy + needed > *slots && self.is_alive(agent) {
                let what = format!(
                    "entry {index} assigns {agent} attempt {attempt} of task {task}, which takes {needed}, but {busy} of its \
                     {slots} slots are taken"
                );
                self.violation(Check::Slots, what);
            }
        }
    }

    /// Checks that a silent agent that counts as lost has had time to stop its attempts: a quarter of the session
    /// timeout since the end of its lease.
    fn check_leases(&mut self, index: u64, applied: &Applied) {
        for name in &applied.silent {
            let lease = self.agents.get(name).and_then(|agent| agent.lease);
            let Some(until) = lease.filter(|until| *until + SESSION_TIMEOUT / MARGIN > self.now + ROUNDING) else {
                continue;
            };
            let what =
                format!("entry {index} counts {name} as lost at {:?}, but its lease lasts until {until:?}", self.now);
            self.violation(Check::Lease, what);
        }
    }

    /// Records that a coordinator leads.
    pub fn leads(&mut self, name: String, term: u64) {
        self.leading.insert(name, term);
    }

    /// Records that a node granted a vote, or checks one that was found on its disk.
    pub fn vote(&mut self, node: u64, vote: (u64, u64), given: bool) {
        let known = self.votes.entry(node).or_default();
        if given {
            *known = (*known).max(vote);
        } else if vote < *known {
            let what = format!("node {node:016x} has vote {vote:?} on disk but had granted {known:?}");
            self.violation(Check::Votes, what);
        }
    }
}
