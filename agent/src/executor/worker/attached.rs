//! The processes that are attached, and what each of them runs. Knows channels; the gRPC stream at their other end is the
//! service's.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::metrics::gauge::Gauge;
use robeing_proto::worker::v1::{Health as Said, HealthCheck, Stop, TaskResult, ToProcess, task_result, to_process};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::executor::{Attempt, Health};

/// Processes attached at once.
pub const MAX_PROCESSES: usize = 64;
/// Messages to a process that it has not read; an attempt waits for room, and one that is dropped meanwhile detaches the
/// process.
pub const MAX_UNREAD: usize = 64;
/// Bytes that are kept of why a process is unhealthy.
pub const MAX_UNHEALTHY: usize = 256;
/// Health checks in a row that a process may leave unanswered before others are preferred.
const MISSES_ALLOWED: u32 = 1;

/// What a process says of an attempt.
pub(super) enum Answer {
    /// An outcome; `None`: nothing.
    Said(Option<task_result::Outcome>),
    /// More than a message may have, with which its stream has ended. It may be of any attempt that it has not answered.
    TooLarge {
        /// There is no other.
        is_only: bool,
    },
}

/// A task's id and the attempt's number.
type Key = (String, u32);

/// See the module.
pub(super) struct Attached {
    state: Mutex<State>,
    present: watch::Sender<bool>,
    gauge: Gauge,
}

#[derive(Default)]
struct State {
    /// How many have attached so far, which is also the number of the last.
    number: u64,
    /// How many times the processes were asked how they are.
    checks: u64,
    processes: BTreeMap<u64, Process>,
}

struct Process {
    name: Arc<str>,
    outgoing: mpsc::Sender<ToProcess>,
    detached: CancellationToken,
    running: BTreeMap<Key, oneshot::Sender<Answer>>,
    /// Attempts that nobody waits for any more, and that it has not answered.
    unanswered: usize,
    health: ProcessHealth,
}

/// What is known of a process's health.
#[derive(Default)]
struct ProcessHealth {
    /// It said that it answers checks.
    answers: bool,
    /// The newest check, and who waits for the answer.
    asked: Option<(u64, oneshot::Sender<String>)>,
    /// Why it is unhealthy, by its own word.
    unhealthy: Option<String>,
    /// Checks in a row that it did not answer.
    missed: u32,
}

impl ProcessHealth {
    fn is_well(&self) -> bool {
        self.unhealthy.is_none() && self.missed <= MISSES_ALLOWED
    }
}

/// A process that was asked how it is.
struct Asked {
    process: u64,
    name: Arc<str>,
    answer: oneshot::Receiver<String>,
}

/// A process's side of being attached. When it is dropped, the process is not attached any more.
pub(super) struct Member {
    attached: Arc<Attached>,
    pub number: u64,
    /// What to tell the process.
    pub outgoing: mpsc::Receiver<ToProcess>,
    /// Cancelled when the agent has detached it.
    pub detached: CancellationToken,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.attached.leave(self.number);
    }
}

impl Attached {
    pub fn new(gauge: Gauge) -> Self {
        Self { state: Mutex::default(), present: watch::Sender::new(false), gauge }
    }

    /// Whether any process is attached, as it changes.
    pub fn presence(&self) -> watch::Receiver<bool> {
        self.present.subscribe()
    }

    /// Lets a process attach. `None`: there are too many.
    pub fn join(self: &Arc<Self>, name: &str, answers_health_checks: bool) -> Option<Member> {
        let mut state = self.lock();
        if state.processes.len() >= MAX_PROCESSES {
            return None;
        }
        state.number += 1;
        let number = state.number;
        let name: Arc<str> = if name.is_empty() { format!("process {number}").into() } else { name.into() };
        info!(process = %name, "a process has attached");
        let (outgoing, unread) = mpsc::channel(MAX_UNREAD);
        let detached = CancellationToken::new();
        let health = ProcessHealth { answers: answers_health_checks, ..ProcessHealth::default() };
        let process =
            Process { name, outgoing, detached: detached.clone(), running: BTreeMap::new(), unanswered: 0, health };
        state.processes.insert(number, process);
        self.changed(&state);
        Some(Member { attached: Arc::clone(self), number, outgoing: unread, detached })
    }

    /// A process is gone. What it ran fails.
    pub fn leave(&self, number: u64) {
        let mut state = self.lock();
        if let Some(process) = state.processes.remove(&number) {
            info!(process = %process.name, running = process.running.len(), "a process is not attached any more");
            self.changed(&state);
        }
    }

    /// A process has sent a message that is too large to be read. Which attempt it is of can't be seen.
    pub fn overwhelmed(&self, number: u64) {
        let mut state = self.lock();
        let Some(process) = state.processes.get_mut(&number) else { return };
        let running = std::mem::take(&mut process.running);
        let is_only = running.len() + process.unanswered == 1;
        warn!(
            process = %process.name, running = running.len(), limit = robeing_net::message_limit(),
            "a process has sent a message over the limit, in bytes: its stream ends; it should answer with less, or with a reference"
        );
        for waiting in running.into_values() {
            // It may be given up by now.
            let _ = waiting.send(Answer::TooLarge { is_only });
        }
    }

    /// Gives an attempt to the process that runs the fewest, of those that are healthy if any is. `None`: there is none.
    pub fn begin(self: &Arc<Self>, attempt: &Attempt) -> Option<Begun> {
        let key = (attempt.task_id.clone(), attempt.attempt);
        let mut state = self.lock();
        let (number, process) =
            state.processes.iter_mut().min_by_key(|(_, process)| (!process.health.is_well(), process.running.len()))?;
        let (answered, answer) = oneshot::channel();
        process.running.insert(key.clone(), answered);
        Some(Begun {
            attached: Arc::clone(self),
            process: *number,
            name: Arc::clone(&process.name),
            key,
            outgoing: process.outgoing.clone(),
            answer,
            told: false,
        })
    }

    /// Takes what a process says. Of an attempt that it does not run, or runs no more, nothing is wanted.
    pub fn answered(&self, number: u64, result: TaskResult) {
        let TaskResult { task_id, attempt, outcome } = result;
        let key = (task_id, attempt);
        let mut state = self.lock();
        let Some(process) = state.processes.get_mut(&number) else { return };
        let waiting = process.running.remove(&key);
        if waiting.is_none() {
            process.unanswered = process.unanswered.saturating_sub(1);
        }
        drop(state);
        if waiting.is_none_or(|waiting| waiting.send(Answer::Said(outcome)).is_err()) {
            debug!(task = key.0, attempt = key.1, "a result that nobody waits for");
        }
    }

    /// Asks the processes how they are. The agent is as well as the best of them; one to which nothing is attached is well:
    /// it has no slots.
    pub async fn health(&self, within: Duration) -> Health {
        let until = Instant::now() + within;
        let (mut well, asked) = self.ask();
        let (mut unhealthy, mut silent) = (None, None);
        for Asked { process, name, answer } in asked {
            let answer = tokio::time::timeout_at(until, answer).await;
            let said = answer.ok().and_then(Result::ok);
            if !self.heard_of(process, said.clone()) {
                // It has detached meanwhile, and with it went what it ran.
                continue;
            }
            match said {
                Some(said) if said.is_empty() => well = true,
                Some(said) => unhealthy = Some(format!("{name} is unhealthy: {said}")),
                None => silent = Some(format!("{name} did not answer within {}", humantime::format_duration(within))),
            }
        }
        match (unhealthy, silent) {
            _ if well => Health::Healthy,
            (Some(unhealthy), _) => Health::Unhealthy(unhealthy),
            (None, Some(silent)) => Health::Silent(silent),
            (None, None) => Health::Healthy,
        }
    }

    /// Asks those that answer; whether there is one that does not, and counts as well while it is attached.
    fn ask(&self) -> (bool, Vec<Asked>) {
        let mut state = self.lock();
        state.checks += 1;
        let seq = state.checks;
        let (answering, mute): (Vec<_>, Vec<_>) = state.processes.iter_mut().partition(|(_, p)| p.health.answers);
        let ask = |(number, process): (&u64, &mut Process)| {
            let (answered, answer) = oneshot::channel();
            process.health.asked = Some((seq, answered));
            let check = ToProcess { message: Some(to_process::Message::HealthCheck(HealthCheck { seq })) };
            // One that has not read what it was sent does not answer this either.
            let _ = process.outgoing.try_send(check);
            Asked { process: *number, name: Arc::clone(&process.name), answer }
        };
        (!mute.is_empty(), answering.into_iter().map(ask).collect())
    }

    /// Takes a process's answer to a check. One to an earlier check is of no interest.
    pub fn said_health(&self, number: u64, said: Said) {
        let Said { seq, mut unhealthy } = said;
        unhealthy.truncate(unhealthy.floor_char_boundary(MAX_UNHEALTHY));
        let mut state = self.lock();
        let Some(process) = state.processes.get_mut(&number) else { return };
        if let Some((_, answered)) = process.health.asked.take_if(|(asked, _)| *asked == seq) {
            // The check may be given up by now.
            let _ = answered.send(unhealthy);
        }
    }

    /// Notes what a process said, or that it said nothing; whether it is still attached.
    fn heard_of(&self, number: u64, said: Option<String>) -> bool {
        let mut state = self.lock();
        let Some(process) = state.processes.get_mut(&number) else { return false };
        match said {
            Some(said) => {
                process.health.missed = 0;
                process.health.unhealthy = Some(said).filter(|said| !said.is_empty());
            }
            None => process.health.missed = process.health.missed.saturating_add(1),
        }
        true
    }

    /// Nobody waits for an attempt any more. If the process may still run it and was not told, it is, without waiting.
    fn abandon(&self, number: u64, key: &Key, told: bool) {
        let mut state = self.lock();
        let Some(process) = state.processes.get_mut(&number) else { return };
        if process.running.remove(key).is_none() {
            return;
        }
        process.unanswered += 1;
        if told {
            return;
        }
        let full = matches!(process.outgoing.try_send(stop(key)), Err(mpsc::error::TrySendError::Full(_)));
        if full && let Some(process) = state.processes.remove(&number) {
            warn!(process = %process.name, "a process that reads nothing is detached: it is not to be told what to stop");
            process.detached.cancel();
            self.changed(&state);
        }
    }

    /// Called under the lock, so that the last word is the latest.
    fn changed(&self, state: &State) {
        self.gauge.set(i64::try_from(state.processes.len()).unwrap_or(i64::MAX));
        let present = !state.processes.is_empty();
        self.present.send_if_modified(|was| std::mem::replace(was, present) != present);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that is done under it leaves it half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt that a process runs, until it is dropped.
pub(super) struct Begun {
    attached: Arc<Attached>,
    process: u64,
    name: Arc<str>,
    key: Key,
    outgoing: mpsc::Sender<ToProcess>,
    answer: oneshot::Receiver<Answer>,
    /// The process was told to stop.
    told: bool,
}

impl Begun {
    /// The process.
    pub fn process_name(&self) -> &str {
        &self.name
    }

    /// Tells the process. `None`: it was gone before it could be told.
    pub async fn send(&mut self, message: to_process::Message) -> Option<()> {
        let message = ToProcess { message: Some(message) };
        tokio::select! {
            biased;
            sent = self.outgoing.send(message) => sent.ok(),
            // Nothing is answered before it is asked, so this is the process's end.
            _ = &mut self.answer => None,
        }
    }

    /// What the process says. `None`: it is gone.
    pub async fn answer(&mut self) -> Option<Answer> {
        (&mut self.answer).await.ok()
    }

    /// Tells the process to stop, and waits until it has answered or is gone.
    pub async fn stop(&mut self) {
        self.told = self.outgoing.send(stop(&self.key)).await.is_ok();
        if self.told {
            let _ = (&mut self.answer).await;
        }
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.attached.abandon(self.process, &self.key, self.told);
    }
}

fn stop((task_id, attempt): &Key) -> ToProcess {
    let stop = Stop { task_id: task_id.clone(), attempt: *attempt };
    ToProcess { message: Some(to_process::Message::Stop(stop)) }
}
