//! The attached processes and what each of them runs. This module knows channels; the gRPC streams at the other end
//! belong to the service.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prometheus_client::metrics::gauge::Gauge;
use robeing_proto::worker::v1::{
    Health as Said, HealthCheck, Progress, Stop, TaskLog, TaskProgress, TaskResult, ToProcess, task_result, to_process,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::executor::{Attempt, AttemptLog, Health};

/// The maximum number of attached processes.
pub const MAX_PROCESSES: usize = 64;
/// The maximum number of unread messages to a process. A new attempt waits for room; if an attempt is dropped when
/// there is none, its process is detached.
pub const MAX_UNREAD: usize = 64;
/// The maximum length of the reason why a process is unhealthy, in bytes; the rest is cut.
pub const MAX_UNHEALTHY: usize = 256;
/// The number of consecutive health checks that a process may miss before others are preferred.
const MISSES_ALLOWED: u32 = 1;

/// A process's answer to an attempt.
pub(super) enum Answer {
    /// The reported outcome; `None`: the result had none.
    Said(Option<task_result::Outcome>),
    /// A message over the size limit, which ended its stream. It may belong to any attempt that the process has not
    /// answered.
    TooLarge {
        /// There is no other unanswered attempt.
        is_only: bool,
    },
}

/// A task's id and the attempt's number.
type Key = (String, u32);

/// The attached processes of one executor.
pub(super) struct Attached {
    state: Mutex<State>,
    present: watch::Sender<bool>,
    gauge: Gauge,
}

#[derive(Default)]
struct State {
    /// The number of processes that have attached so far, which is also the number of the last one.
    number: u64,
    /// The number of health checks so far.
    checks: u64,
    processes: BTreeMap<u64, Process>,
}

struct Process {
    name: Arc<str>,
    outgoing: mpsc::Sender<ToProcess>,
    detached: CancellationToken,
    running: BTreeMap<Key, Running>,
    /// The number of abandoned attempts that the process has not answered.
    unanswered: usize,
    health: ProcessHealth,
}

/// An attempt that a process runs.
struct Running {
    answer: oneshot::Sender<Answer>,
    log: AttemptLog,
}

/// The health of a process.
#[derive(Default)]
struct ProcessHealth {
    /// The process answers health checks.
    answers: bool,
    /// The sequence number of the newest check, and the sender for its answer.
    asked: Option<(u64, oneshot::Sender<String>)>,
    /// The reason the process gave for being unhealthy.
    unhealthy: Option<String>,
    /// The number of consecutive checks that it did not answer.
    missed: u32,
}

impl ProcessHealth {
    fn is_well(&self) -> bool {
        self.unhealthy.is_none() && self.missed <= MISSES_ALLOWED
    }
}

/// A health check sent to a process.
struct Asked {
    process: u64,
    name: Arc<str>,
    answer: oneshot::Receiver<String>,
}

/// A process's membership. Dropping it detaches the process.
pub(super) struct Member {
    attached: Arc<Attached>,
    pub number: u64,
    /// Messages for the process.
    pub outgoing: mpsc::Receiver<ToProcess>,
    /// Passes messages to `outgoing`.
    pub sender: mpsc::Sender<ToProcess>,
    /// Cancelled when the agent has detached the process.
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

    /// Watches whether any process is attached.
    pub fn presence(&self) -> watch::Receiver<bool> {
        self.present.subscribe()
    }

    /// Attaches a process. `None`: too many are attached.
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
        let sender = process.outgoing.clone();
        state.processes.insert(number, process);
        self.changed(&state);
        Some(Member { attached: Arc::clone(self), number, outgoing: unread, sender, detached })
    }

    /// Detaches a process. The attempts it ran fail.
    pub fn leave(&self, number: u64) {
        let mut state = self.lock();
        if let Some(process) = state.processes.remove(&number) {
            info!(process = %process.name, running = process.running.len(), "a process has detached");
            self.changed(&state);
        }
    }

    /// Records that a process sent a message too large to be read, so the attempt it belongs to is unknown.
    pub fn overwhelmed(&self, number: u64) {
        let mut state = self.lock();
        let Some(process) = state.processes.get_mut(&number) else { return };
        let running = std::mem::take(&mut process.running);
        let is_only = running.len() + process.unanswered == 1;
        warn!(
            process = %process.name, running = running.len(), limit = robeing_net::message_limit(),
            "a process sent a message over the limit, in bytes, and is detached; answer with less, or with a reference"
        );
        for attempt in running.into_values() {
            // The receiver may have given up.
            let _ = attempt.answer.send(Answer::TooLarge { is_only });
        }
    }

    /// Assigns an attempt to the process that runs the fewest, preferring healthy ones. `None`: no process is attached.
    pub fn begin(self: &Arc<Self>, attempt: &Attempt) -> Option<Begun> {
        let key = (attempt.task_id.clone(), attempt.attempt);
        let mut state = self.lock();
        let (number, process) =
            state.processes.iter_mut().min_by_key(|(_, process)| (!process.health.is_well(), process.running.len()))?;
        let (answered, answer) = oneshot::channel();
        process.running.insert(key.clone(), Running { answer: answered, log: attempt.log.clone() });
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

    /// Delivers a process's result. A result for an attempt that it does not run, or no longer runs, is ignored.
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
        if waiting.is_none_or(|waiting| waiting.answer.send(Answer::Said(outcome)).is_err()) {
            debug!(task = key.0, attempt = key.1, "ignored a result that nothing waits for");
        }
    }

    /// Takes note of how far an attempt of a process is. It is ignored if the process does not run that attempt.
    pub fn progressed(&self, number: u64, progress: TaskProgress) {
        let TaskProgress { task_id, attempt, progress } = progress;
        let Progress { fraction, text } = progress.unwrap_or_default();
        if let Some(log) = self.log_of(number, &(task_id, attempt)) {
            log.progress(fraction, &text);
        }
    }

    /// Takes lines of an attempt of a process. They are ignored if the process does not run that attempt.
    pub fn logged(&self, number: u64, lines: TaskLog) {
        let TaskLog { task_id, attempt, lines } = lines;
        if let Some(log) = self.log_of(number, &(task_id, attempt)) {
            lines.iter().for_each(|line| log.line(line));
        }
    }

    fn log_of(&self, number: u64, key: &Key) -> Option<AttemptLog> {
        Some(self.lock().processes.get(&number)?.running.get(key)?.log.clone())
    }

    /// Checks the health of the processes. The agent is as healthy as the healthiest of them; without any process it is
    /// healthy, as it has no slots.
    pub async fn health(&self, within: Duration) -> Health {
        let until = Instant::now() + within;
        let (mut well, asked) = self.ask();
        let (mut unhealthy, mut silent) = (None, None);
        for Asked { process, name, answer } in asked {
            let answer = tokio::time::timeout_at(until, answer).await;
            let said = answer.ok().and_then(Result::ok);
            if !self.heard_of(process, said.clone()) {
                // It has detached in the meantime, and the attempts it ran have failed.
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

    /// Sends a check to the processes that answer checks; also returns whether there is one that does not, which counts
    /// as healthy while attached.
    fn ask(&self) -> (bool, Vec<Asked>) {
        let mut state = self.lock();
        state.checks += 1;
        let seq = state.checks;
        let (answering, mute): (Vec<_>, Vec<_>) = state.processes.iter_mut().partition(|(_, p)| p.health.answers);
        let ask = |(number, process): (&u64, &mut Process)| {
            let (answered, answer) = oneshot::channel();
            process.health.asked = Some((seq, answered));
            let check = ToProcess { message: Some(to_process::Message::HealthCheck(HealthCheck { seq })) };
            // A process whose queue is full does not answer this either.
            let _ = process.outgoing.try_send(check);
            Asked { process: *number, name: Arc::clone(&process.name), answer }
        };
        (!mute.is_empty(), answering.into_iter().map(ask).collect())
    }

    /// Delivers a process's answer to a health check. An answer to an earlier check is ignored.
    pub fn said_health(&self, number: u64, said: Said) {
        let Said { seq, mut unhealthy } = said;
        unhealthy.truncate(unhealthy.floor_char_boundary(MAX_UNHEALTHY));
        let mut state = self.lock();
        let Some(process) = state.processes.get_mut(&number) else { return };
        if let Some((_, answered)) = process.health.asked.take_if(|(asked, _)| *asked == seq) {
            // The check may have timed out.
            let _ = answered.send(unhealthy);
        }
    }

    /// Records a process's answer, or a missing answer; returns whether it is still attached.
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

    /// Gives up an attempt. If the process may still run it and was not asked to stop, it is asked now, without
    /// waiting.
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
            warn!(process = %process.name, "detaching a process that reads no messages: it can't be asked to stop");
            process.detached.cancel();
            self.changed(&state);
        }
    }

    /// Publishes the number of processes and whether there is one. Must be called with the lock held, so that updates
    /// are in order.
    fn changed(&self, state: &State) {
        self.gauge.set(i64::try_from(state.processes.len()).unwrap_or(i64::MAX));
        let present = !state.processes.is_empty();
        self.present.send_if_modified(|was| std::mem::replace(was, present) != present);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No operation under the lock leaves the state inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt assigned to a process, until dropped.
pub(super) struct Begun {
    attached: Arc<Attached>,
    process: u64,
    name: Arc<str>,
    key: Key,
    outgoing: mpsc::Sender<ToProcess>,
    answer: oneshot::Receiver<Answer>,
    /// The process was asked to stop.
    told: bool,
}

impl Begun {
    /// The name of the process.
    pub fn process_name(&self) -> &str {
        &self.name
    }

    /// Sends a message to the process. `None`: the process was gone before that.
    pub async fn send(&mut self, message: to_process::Message) -> Option<()> {
        let message = ToProcess { message: Some(message) };
        tokio::select! {
            biased;
            sent = self.outgoing.send(message) => sent.ok(),
            // There is no answer before the message is sent, so this means that the process is gone.
            _ = &mut self.answer => None,
        }
    }

    /// Returns the answer of the process. `None`: the process is gone.
    pub async fn answer(&mut self) -> Option<Answer> {
        (&mut self.answer).await.ok()
    }

    /// Asks the process to stop, and waits until it has answered or is gone.
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
