//! What happened in a run: a checksum over every event, which must be the same when the seed is run again; what each
//! coordinator applied; what agents ran; what clients asked and were told. What must not happen is noted at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use robeing_agent::session::lease::MARGIN;

use crate::{
    checks::Check,
    clocks::Times,
    faults::Ill,
    history::{Answer, Call, Op},
    hosts::SESSION_TIMEOUT,
    lives::{Asked, Seen},
};

/// What a bound of a duration leaves for rounding.
pub const ROUNDING: Duration = Duration::from_millis(5);

/// Health checks after which it is known how an agent is that says so itself; the first may have just been answered.
const CHECKS_TO_HEAR: u32 = 2;
/// The same of one that says nothing, which is forgiven once.
const CHECKS_TO_NOTICE: u32 = 4;
/// What it takes, besides, to write it down and to hand back what was on its way.
const TO_WRITE_IT: Duration = Duration::from_secs(1);

/// What followed from one log entry.
#[derive(Clone, PartialEq, Debug)]
pub struct Applied {
    /// Of the state after it.
    pub checksum: u64,
    /// The tasks that ended with it.
    pub finished: Vec<String>,
    /// The attempts that began with it.
    pub assigned: Vec<Assigned>,
    /// The sessions that began, and whose they are, or ended with it.
    pub sessions: Vec<(u64, Option<String>)>,
    /// The agents that were taken for lost with it, for they were not heard from.
    pub silent: Vec<String>,
}

/// An attempt as it is given to an agent.
#[derive(Clone, PartialEq, Debug)]
pub struct Assigned {
    /// The agent's name.
    pub agent: String,
    /// Its slots.
    pub slots: usize,
    /// The task.
    pub task: String,
    /// The attempt's number.
    pub attempt: u32,
}

/// A task that a submitter was told is accepted.
#[derive(Clone, Debug, Default)]
pub struct Accepted {
    /// Whether somebody asked to cancel it.
    pub cancelled: bool,
    /// How it ended, as first read: everything that must never change.
    pub ended: Option<String>,
}

/// An attempt that an executor runs.
#[derive(Clone, Debug)]
pub struct Run {
    /// Where.
    pub agent: String,
    /// Which.
    pub attempt: u32,
    /// It has a limit of its own, after which the coordinators go on without waiting for its end.
    pub limited: bool,
    /// The coordinators asked for its end.
    pub cancelled: bool,
    number: u64,
}

/// An attempt that an executor has ended.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Where.
    pub agent: String,
    /// When.
    pub at: Duration,
}

/// What is known of one agent's process.
#[derive(Default)]
pub struct AgentNotes {
    /// Until when its guard lets run what it runs.
    lease: Option<Duration>,
    /// When it was started again.
    pub started: Vec<Duration>,
    /// When a session of it began in the log, which it may not know of yet.
    pub joined: Vec<Duration>,
    /// When it opened a session or went on with one.
    pub opened: Vec<Duration>,
    /// When it lost the connection to its leader, was paused, or went on.
    pub disturbed: Vec<Duration>,
}

/// Everything noted of a run.
#[derive(Default)]
pub struct Notes {
    /// Log entries by index.
    pub applied: BTreeMap<u64, Applied>,
    /// When each log entry was first applied anywhere.
    pub applied_at: BTreeMap<u64, Duration>,
    /// Accepted tasks by id.
    pub accepted: BTreeMap<String, Accepted>,
    /// Tasks that are forgotten soon after their end, and whose ids are used again.
    pub fleeting: BTreeSet<String>,
    /// When each delayed task may be begun at the earliest.
    pub not_before: BTreeMap<String, Duration>,
    /// For how long the results of those are kept.
    pub ttl: BTreeMap<String, Duration>,
    /// When each task came to its end, the last that had this id.
    pub finished_at: BTreeMap<String, Duration>,
    /// When the leader stamped the batch with which it did.
    ended_at: BTreeMap<String, Duration>,
    /// What submitters asked for, by task.
    pub asked: BTreeMap<String, Asked>,
    /// When log entries were stamped.
    pub times: Times,
    /// What was seen of each attempt.
    pub seen: BTreeMap<(String, u32), Seen>,
    /// From when on nothing is wrong with the fleet any more but its clocks, and which processes faults have ended for good.
    pub calm_from: Duration,
    pub retired: BTreeSet<String>,
    /// How often each attempt was begun by an executor.
    pub begun: BTreeMap<(String, u32), u32>,
    /// Attempts that executors have ended by themselves, but for failures that are tried again.
    pub ran: BTreeMap<(String, u32), Ran>,
    /// What runs now, by task.
    pub runs: BTreeMap<String, Vec<Run>>,
    /// By name.
    pub agents: BTreeMap<String, AgentNotes>,
    /// Sessions that have begun and not ended, and whose they are.
    pub sessions: BTreeMap<u64, String>,
    /// Processes that are paused.
    pub paused: BTreeSet<String>,
    /// When processes went on that were paused: they have done nothing yet at that very moment.
    pub went_on: BTreeMap<String, Duration>,
    /// Agents whose executors are not well, and since when.
    pub ill: BTreeMap<String, (Ill, Duration)>,
    /// Agents that are to be asked how they are so often.
    pub health_checks: Duration,
    /// When any coordinator's place changed last.
    pub leadership_changed: Duration,
    /// The terms of the coordinators that believe to lead.
    pub leading: BTreeMap<String, u64>,
    /// The newest vote that each node has given: its term and for whom.
    pub votes: BTreeMap<u64, (u64, u64)>,
    /// Every call of clients.
    pub history: Vec<Call>,
    /// Groups of calls of which it could not be decided whether they are explained.
    pub undecided: u32,
    /// Begins and ends of calls so far.
    moments: u64,
    /// Faults injected, by kind.
    pub faults: BTreeMap<&'static str, u32>,
    /// Snapshots that coordinators wrote.
    pub snapshots_written: u32,
    /// Snapshots that they got from their leader.
    pub snapshots_installed: u32,
    /// What must not have happened.
    pub violations: Vec<String>,
    /// Simulated time at the beginning of this step.
    pub now: Duration,
    /// The process that runs now.
    pub running: String,
    /// Events that went into the checksum.
    pub events: u64,
    /// The checksum over all events so far.
    pub trace: u32,
    next_run: u64,
}

/// The notes of a run, shared by all hosts.
#[derive(Clone, Default)]
pub struct Record(Arc<Mutex<Notes>>);

impl Record {
    /// The notes.
    pub fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes something that must not happen.
    pub fn violation(&self, check: Check, what: String) {
        tracing::error!(target: "robeing_sim", what, "violation");
        self.notes().violation(check, what);
    }

    /// Notes that a call begins: its number.
    pub fn asked(&self, op: Op) -> usize {
        let mut notes = self.notes();
        let began = notes.moment();
        notes.history.push(Call { op, began, ended: None, answer: Answer::Unknown });
        notes.history.len() - 1
    }

    /// Notes how a call was answered. One that never is may take effect at any time, or not at all.
    pub fn answered(&self, call: usize, answer: Answer) {
        let mut notes = self.notes();
        let ended = notes.moment();
        if let Some(call) = notes.history.get_mut(call) {
            (call.ended, call.answer) = (Some(ended), answer);
        }
    }

    /// Notes that an executor begins an attempt. It ends when what is given is dropped.
    pub fn runs(&self, agent: &str, task: &str, attempt: u32, limited: bool) -> Running {
        let mut notes = self.notes();
        *notes.begun.entry((task.to_owned(), attempt)).or_default() += 1;
        let number = notes.next_run;
        notes.next_run += 1;
        let now = notes.now;
        notes.seen.entry((task.to_owned(), attempt)).or_default().begun.get_or_insert(now);
        let run = Run { agent: agent.to_owned(), attempt, limited, cancelled: false, number };
        notes.runs.entry(task.to_owned()).or_default().push(run);
        notes.check_alone(task);
        notes.check_delay(task);
        notes.check_health(agent, "begins", task);
        drop(notes);
        Running { record: self.clone(), task: task.to_owned(), attempt, number }
    }
}

/// An attempt that runs.
pub struct Running {
    record: Record,
    task: String,
    attempt: u32,
    number: u64,
}

impl Running {
    /// The coordinators want it to end.
    pub fn cancelled(&self) {
        let mut notes = self.record.notes();
        let runs = notes.runs.get_mut(&self.task).into_iter().flatten();
        runs.filter(|run| run.number == self.number).for_each(|run| run.cancelled = true);
    }

    /// It fails, and may be tried again.
    pub fn fails(&self) {
        let mut notes = self.record.notes();
        let now = notes.now;
        notes.seen.entry((self.task.clone(), self.attempt)).or_default().failed = Some(now);
    }

    /// It comes to its end by itself.
    pub fn ends(&self, agent: &str) {
        let mut notes = self.record.notes();
        let at = notes.now;
        notes.ran.insert((self.task.clone(), self.attempt), Ran { agent: agent.to_owned(), at });
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut notes = self.record.notes();
        if let Some(runs) = notes.runs.get_mut(&self.task) {
            runs.retain(|run| run.number != self.number);
            if runs.is_empty() {
                notes.runs.remove(&self.task);
            }
        }
    }
}

impl Notes {
    /// Notes something that must not happen.
    pub fn violation(&mut self, check: Check, what: String) {
        self.violations.push(format!("{}: {what}", check.name()));
    }

    fn moment(&mut self) -> u64 {
        self.moments += 1;
        self.moments
    }

    /// Notes for how much longer an agent's guard lets run what it runs.
    pub fn lease(&mut self, agent: &str, left: Option<Duration>) {
        let lease = &mut self.agents.entry(agent.to_owned()).or_default().lease;
        let until = left.map(|left| self.now + left);
        // An agent that was paused learns late that its lease is over, and not since when.
        let known = lease.filter(|_| left == Some(Duration::ZERO));
        *lease = until.map(|until| known.map_or(until, |known| known.min(until)));
    }

    /// Agents that run something that was not stopped, each as often as it runs something.
    pub fn busy(&self) -> Vec<&str> {
        let runs = self.runs.values().flatten().filter(|run| !run.cancelled && !self.paused.contains(&run.agent));
        runs.map(|run| run.agent.as_str()).collect()
    }

    /// The coordinator that leads, if it is known: the one of the highest term.
    pub fn leader(&self) -> Option<&str> {
        self.leading.iter().max_by_key(|(_, term)| **term).map(|(name, _)| name.as_str())
    }

    /// Whether what an agent runs really runs: of one that is paused its guard has stopped it by the end of its lease.
    fn is_alive(&self, agent: &str) -> bool {
        let lease = self.agents.get(agent).and_then(|agent| agent.lease);
        let is_paused = self.paused.contains(agent) || self.went_on.get(agent) == Some(&self.now);
        !is_paused || lease.is_none_or(|until| self.now < until)
    }

    /// No two agents run one task at once, but when the coordinators gave up waiting for the end of an attempt.
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

    /// An agent's executor is not well from now on.
    pub fn sicken(&mut self, agent: String, ill: Ill) {
        self.ill.insert(agent, (ill, self.now));
    }

    /// An agent's executor is well again, unless it has failed: then only another process is.
    pub fn cure(&mut self, agent: &str) {
        if self.ill(agent).is_some_and(|ill| ill != Ill::Failed) {
            self.ill.remove(agent);
        }
    }

    /// A process starts again.
    pub fn started(&mut self, host: &str) {
        self.ill.remove(host);
        self.agents.entry(host.to_owned()).or_default().started.push(self.now);
    }

    /// What ails an agent's executor.
    pub fn ill(&self, agent: &str) -> Option<Ill> {
        self.ill.get(agent).map(|(ill, _)| *ill)
    }

    /// An agent that has not been well for a while, undisturbed and while one coordinator led, is given nothing.
    fn check_health(&mut self, agent: &str, does: &str, task: &str) {
        let Some((ill, since)) = self.ill.get(agent).copied() else { return };
        let seen = self.agents.get(agent).map(|agent| agent.opened.iter().chain(&agent.joined).chain(&agent.disturbed));
        let since = seen.into_iter().flatten().copied().fold(since.max(self.leadership_changed), Duration::max);
        let checks = if ill == Ill::Unhealthy { CHECKS_TO_HEAR } else { CHECKS_TO_NOTICE };
        let known_by = since + self.health_checks * checks + TO_WRITE_IT;
        // Entries are applied again and again, so that one that says so would have been.
        let writes = self.applied_at.values().rev().any(|at| (known_by - TO_WRITE_IT / 2..known_by).contains(at));
        if writes && known_by < self.now {
            let what =
                format!("{agent} has been {ill:?} and in order otherwise since {since:?}, and {does} task {task}");
            self.violation(Check::Health, what);
        }
    }

    /// The same of all tasks.
    pub fn check_all_alone(&mut self) {
        let several: Vec<String> =
            self.runs.iter().filter(|(_, runs)| runs.len() > 1).map(|(task, _)| task.clone()).collect();
        several.iter().for_each(|task| self.check_alone(task));
    }

    /// A task is not begun before its delay has passed.
    fn check_delay(&mut self, task: &str) {
        if let Some(not_before) = self.not_before.get(task).filter(|not_before| self.now + ROUNDING < **not_before) {
            let what = format!("task {task} begins at {:?}, and not before {not_before:?} was asked for", self.now);
            self.violation(Check::Time, what);
        }
    }

    /// A task that is not there any more was kept for its TTL after its end.
    /// Whoever looked began to at `since`.
    pub fn check_forgotten(&mut self, task: &str, since: Duration) {
        let Some(ttl) = self.ttl.get(task).copied() else { return };
        let ended = self.finished_at.get(task).copied();
        // A submission that was late on its way brings back a task that is forgotten already.
        if ended.is_some_and(|ended| ended >= since) {
            return;
        }
        let ended = self.ended_at.get(task).copied();
        if ended.is_none_or(|ended| self.now + ROUNDING < ended + ttl.mul_f64(0.95)) {
            let what =
                format!("task {task} ended at {ended:?}, is kept for {ttl:?}, and is not there at {:?}", self.now);
            self.violation(Check::Time, what);
        }
    }

    /// Notes what followed from a log entry, on any coordinator.
    pub fn applied(&mut self, index: u64, applied: Applied, broken: &str) {
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
                    self.check_health(agent, "is given", task);
                }
                self.check_kept(&applied);
                for (session, agent) in &applied.sessions {
                    match agent {
                        Some(agent) => self.sessions.insert(*session, agent.clone()),
                        None => self.sessions.remove(session),
                    };
                }
                self.applied_at.insert(index, self.now);
                self.finished_at.extend(applied.finished.iter().map(|id| (id.clone(), self.now)));
                let ended = stamped.unwrap_or(self.now);
                self.ended_at.extend(applied.finished.iter().map(|id| (id.clone(), ended)));
                self.applied.insert(index, applied);
            }
        }
    }

    /// Who is given an attempt has a slot for it, in fact and not only in the books.
    fn check_slots(&mut self, index: u64, applied: &Applied) {
        for Assigned { agent, slots, task, attempt } in &applied.assigned {
            let busy = self.runs.values().flatten().filter(|run| run.agent == *agent).count();
            if busy >= *slots && self.is_alive(agent) {
                let what = format!(
                    "entry {index} gives {agent} attempt {attempt} of task {task}, and all of its {slots} slots are taken"
                );
                self.violation(Check::Slots, what);
            }
        }
    }

    /// Who is not heard from has had time to stop what it ran: a quarter of the session timeout since its lease ended.
    fn check_leases(&mut self, index: u64, applied: &Applied) {
        for name in &applied.silent {
            let lease = self.agents.get(name).and_then(|agent| agent.lease);
            let Some(until) = lease.filter(|until| *until + SESSION_TIMEOUT / MARGIN > self.now + ROUNDING) else {
                continue;
            };
            let what =
                format!("entry {index} takes {name} for lost at {:?}, and its lease lasts until {until:?}", self.now);
            self.violation(Check::Lease, what);
        }
    }

    /// A coordinator leads.
    pub fn leads(&mut self, name: String, term: u64) {
        self.leading.insert(name, term);
    }

    /// A vote was given by a node, or found on its disk.
    pub fn vote(&mut self, node: u64, vote: (u64, u64), given: bool) {
        let known = self.votes.entry(node).or_default();
        if given {
            *known = (*known).max(vote);
        } else if vote < *known {
            let what = format!("node {node:016x} has vote {vote:?} on disk and had given {known:?}");
            self.violation(Check::Votes, what);
        }
    }
}
