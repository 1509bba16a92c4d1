//! The agent's event loop: it waits for the next event, checks the lease, and acts. It never blocks: sending is an
//! event too, so timers fire whatever the coordinator does. Attempts are polled here as well, without a task each.

mod messages;
mod reconnect;

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use robeing_fleet::sabotage::{Mistake, planted};
use robeing_net::incarnation::Secret;
use robeing_proto::internal::v1::{AgentMessage, CoordinatorMessage, completion};
use tokio::{
    sync::mpsc::OwnedPermit,
    time::{Instant, Sleep},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{Instrument, debug_span, error, info, warn};

use super::{
    Deps, SessionError,
    drain::{Drain, Due, LEAVE_WITHIN, Phase},
    health::HealthChecks,
    held::{Held, Key},
    lease::Lease,
    link::{Greeting, Link, LinkError},
    logs::AttemptLogs,
    progress::AttemptProgress,
    search::Search,
    stored::{self, Store},
    wire,
};
use crate::executor::Health;

/// The maximum number of ended attempts recorded before other events are handled.
const DONE_AT_ONCE: usize = 1_024;
/// How long completions may stay unacknowledged on a working stream before they are sent again. A leader that can't
/// write them ends the stream; a slow leader would only have more to write.
pub const SEND_AGAIN_AFTER: Duration = Duration::from_secs(15);
/// How long a failed agent waits for the coordinator to end its session.
pub const END_WITHIN: Duration = Duration::from_secs(2);
/// A process that did nothing for this long may have been stopped; it then checks whether its guard has revoked its
/// session. This is far shorter than the time a guard waits before it revokes one.
const MAY_HAVE_BEEN_STOPPED: Duration = Duration::from_millis(50);
/// How long it repeats that check: the guard may be about to revoke the session.
const LOOK_FOR: Duration = Duration::from_secs(1);
/// How far ahead the timer is set when nothing is due.
const IDLE: Duration = Duration::from_secs(3_600);

/// An ended attempt: its key, its outcome and how long it ran.
type Done = (Key, completion::Outcome, Duration);

/// The state of the connection to the leader.
enum LeaderLink {
    /// No coordinator is contacted before this time.
    Pausing(Instant),
    /// A Hello is on its way to this coordinator.
    Greeting(String, BoxFuture<'static, Result<Greeting, LinkError>>),
    /// A session is open.
    Open(Box<Link>),
}

struct Session {
    id: u64,
    lease: Lease,
    /// The lease has expired and running attempts were stopped; nothing may run until the lease is renewed.
    is_fenced: bool,
}

/// What the loop waits for.
enum Event {
    /// The timer set by [`Driver::keep_time`] fired, or a shutdown was requested: both are checked in every iteration.
    Time,
    Done(Done),
    Checked(Health),
    Greeted(Result<Greeting, LinkError>),
    Heard(Option<Result<CoordinatorMessage, Status>>),
    MaySay(Option<OwnedPermit<AgentMessage>>),
}

pub(super) struct Driver {
    deps: Deps,
    secret: Secret,
    search: Search,
    leader_link: LeaderLink,
    /// A stream that went silent. It is kept until another is open, because a coordinator takes its end as a sign that
    /// this process has ended.
    suspect_link: Option<Box<Link>>,
    session: Option<Session>,
    held: Held,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    health: HealthChecks,
    logs: AttemptLogs,
    attempt_progress: AttemptProgress,
    /// Why the executor can never run attempts again, and the latest time at which the agent exits.
    failed: Option<(String, Instant)>,
    phase: Phase,
    /// The process is to exit, not just the session to end.
    asked_to_stop: bool,
    /// The coordinator has not been informed yet that the agent drains.
    drain_unsaid: bool,
    leave_unsaid: bool,
    /// The coordinator takes references to outputs.
    takes_refs: bool,
    welcomed_before: bool,
    complaint: String,
    /// When completions were last sent or acknowledged.
    progress: Instant,
    /// When this process last ran its loop.
    at_work: Instant,
    /// Until when the driver checks whether the guard has revoked the session.
    look_until: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Driver {
    pub fn new(deps: Deps) -> Self {
        let now = Instant::now();
        Self {
            secret: Secret::draw(&*deps.platform.random),
            search: Search::new(deps.config.coordinators.clone(), now, &*deps.platform.random),
            leader_link: LeaderLink::Pausing(now),
            suspect_link: None,
            session: None,
            held: Held::new(deps.config.slots),
            running: FuturesUnordered::new(),
            health: HealthChecks::default(),
            logs: AttemptLogs::new(Arc::clone(&deps.platform.clock), deps.config.slots, now),
            attempt_progress: AttemptProgress::new(now),
            failed: None,
            phase: Phase::Working,
            asked_to_stop: false,
            drain_unsaid: false,
            leave_unsaid: false,
            takes_refs: false,
            welcomed_before: false,
            complaint: String::new(),
            progress: now,
            at_work: now,
            look_until: now,
            timer: Box::pin(tokio::time::sleep(IDLE)),
            deps,
        }
    }

    /// Runs until `shutdown` or `idle` is cancelled and the agent has drained: for `shutdown` within the drain timeout,
    /// for `idle` once the running attempts have ended.
    pub async fn run(mut self, shutdown: CancellationToken, idle: CancellationToken) -> Result<(), SessionError> {
        loop {
            let now = Instant::now();
            if !self.asked_to_stop && shutdown.is_cancelled() {
                self.asked_to_stop = true;
                self.begin_drain(now, self.deps.config.drain_timeout);
            } else if self.phase == Phase::Working && idle.is_cancelled() {
                self.begin_drain(now, Duration::MAX);
            }
            if let Some(end) = self.keep_time(now) {
                self.deps.readiness.set(false);
                if end.is_ok() {
                    self.deps.executor.set_session(None);
                }
                return end;
            }
            self.start_waiting(now);
            let event = self.next_event(&shutdown, &idle).await;
            // The wait may have outlasted the lease: a stopped process resumes here.
            if !self.fence_if_over(Instant::now()) {
                self.act(event);
            }
        }
    }

    async fn next_event(&mut self, shutdown: &CancellationToken, idle: &CancellationToken) -> Event {
        let wants_to_say = self.wants_to_say();
        let (asked_to_stop, working) = (self.asked_to_stop, self.phase == Phase::Working);
        let Self { leader_link, running, timer, health, logs, .. } = self;
        let is_clean = !logs.is_dirty();
        tokio::select! {
            biased;
            () = timer.as_mut() => Event::Time,
            () = shutdown.cancelled(), if !asked_to_stop => Event::Time,
            () = idle.cancelled(), if working => Event::Time,
            Some(done) = running.next() => Event::Done(done),
            checked = health.answered() => Event::Checked(checked),
            () = logs.changed(), if is_clean => Event::Time,
            event = Self::link_event(leader_link, wants_to_say) => event,
        }
    }

    async fn link_event(leader_link: &mut LeaderLink, wants_to_say: bool) -> Event {
        match leader_link {
            LeaderLink::Pausing(_) => std::future::pending().await,
            LeaderLink::Greeting(_, greeting) => Event::Greeted(greeting.await),
            LeaderLink::Open(link) => {
                let outgoing = link.outgoing.clone().filter(|_| wants_to_say);
                let may_say = async {
                    match outgoing {
                        Some(outgoing) => outgoing.reserve_owned().await.ok(),
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    heard = link.incoming.next() => Event::Heard(heard),
                    permit = may_say => Event::MaySay(permit),
                }
            }
        }
    }

    fn act(&mut self, event: Event) {
        match event {
            Event::Time => {}
            Event::Done(done) => self.done(done),
            Event::Checked(Health::Failed(reason)) => self.fail(reason),
            // A rollout, or anything else that depends on readiness, need not wait for the leader's verdict.
            Event::Checked(Health::Unhealthy(_)) => self.deps.readiness.set(false),
            Event::Checked(Health::Healthy) => {
                let has_session = matches!(self.leader_link, LeaderLink::Open(_))
                    && self.session.as_ref().is_some_and(|s| !s.is_fenced);
                self.deps.readiness.set(has_session && self.phase == Phase::Working && self.failed.is_none());
            }
            Event::Checked(Health::Silent(_)) => {}
            Event::Greeted(Ok(Greeting::Welcome(link, welcome, sent))) => self.welcomed(link, &welcome, sent),
            Event::Greeted(Ok(Greeting::Redirect(redirect))) => {
                self.search.redirected(&redirect.leader_address, &redirect.coordinators);
                self.search_on();
            }
            Event::Greeted(Err(error)) => self.not_greeted(&error),
            Event::Heard(Some(Ok(message))) => self.heard(message),
            Event::Heard(Some(Err(status))) => self.broken(status.message(), false),
            Event::Heard(None) => self.broken("the coordinator ended the stream", false),
            Event::MaySay(Some(permit)) => self.say(permit),
            Event::MaySay(None) => self.broken("the stream to the coordinator is closed", false),
        }
    }

    // ---- Time ----

    /// Performs the actions that are due and sets the timer for the next one. `Some`: the agent ends with this result.
    fn keep_time(&mut self, now: Instant) -> Option<Result<(), SessionError>> {
        self.fence_if_over(now);
        if matches!(self.leader_link, LeaderLink::Open(_))
            && self.session.as_ref().is_some_and(|s| now >= s.lease.silent_from())
        {
            self.broken("the coordinator stopped responding", true);
        }
        let mut next = now + IDLE;
        if let Some((reason, until)) = &self.failed {
            if now >= *until || self.session.is_none() || !matches!(self.leader_link, LeaderLink::Open(_)) {
                return Some(Err(SessionError::Failed { reason: reason.clone() }));
            }
            next = next.min(*until);
        }
        match self.end_is_due(now) {
            Ok(until) => next = next.min(until.unwrap_or(next)),
            Err(end) => return Some(end),
        }
        if let LeaderLink::Pausing(until) = self.leader_link {
            if now >= until {
                self.search_on();
            }
            if let LeaderLink::Pausing(until) = self.leader_link {
                next = next.min(until);
            }
        }
        if let Some(session) = &self.session {
            if !session.is_fenced {
                next = next.min(session.lease.until());
            }
            if matches!(self.leader_link, LeaderLink::Open(_)) {
                next = next.min(session.lease.silent_from());
                let beat = session.lease.next_heartbeat();
                if self.held.has_unacknowledged() {
                    if now >= self.progress + SEND_AGAIN_AFTER {
                        self.held.send_again();
                        self.progress = now;
                    }
                    next = next.min(self.progress + SEND_AGAIN_AFTER);
                }
                // What is due already waits for room on the stream, not for the timer.
                let waits = [Some(beat), self.logs.due(), self.attempt_progress.due()];
                let waits = waits.into_iter().flatten().filter(|due| *due > now);
                next = waits.fold(next, Instant::min);
            }
        }
        if self.timer.deadline() != next {
            self.timer.as_mut().reset(next);
        }
        None
    }

    /// Takes the next step of draining. `Err`: the agent ends. `Ok`: when the next step is due, if any.
    fn end_is_due(&mut self, now: Instant) -> Result<Option<Instant>, Result<(), SessionError>> {
        loop {
            let connected = matches!(self.leader_link, LeaderLink::Open(_));
            let drain = match &mut self.phase {
                Phase::Working => return Ok(None),
                Phase::Leaving(until) if now < *until && connected => return Ok(Some(*until)),
                Phase::Leaving(_) => return Err(Ok(())),
                // Nothing runs, and without a valid session nothing can be handed back. A coordinator that was sent a
                // Hello may have opened one: unless the agent leaves that, it counts as lost when it joins again.
                Phase::Draining(_) if self.session.as_ref().is_none_or(|s| s.is_fenced) => match self.leader_link {
                    LeaderLink::Greeting(..) if !self.asked_to_stop => return Ok(None),
                    _ => return Err(Ok(())),
                },
                Phase::Draining(drain) => drain,
            };
            match drain.due(now, connected, self.held.len()) {
                Due::Wait(until) => return Ok(Some(until)),
                Due::HandBack => {
                    drain.handed_back = true;
                    self.hand_back_running();
                }
                Due::Leave => {
                    self.leave_unsaid = true;
                    self.phase = Phase::Leaving(now + LEAVE_WITHIN);
                }
                Due::GiveUp => {
                    self.running.clear();
                    let attempts = self.held.len();
                    return Err(if attempts == 0 { Ok(()) } else { Err(SessionError::Unacknowledged { attempts }) });
                }
            }
        }
    }

    /// Stops everything if the lease has expired or was revoked, and returns whether it did.
    ///
    /// If the guard revoked the session because this process was stopped, it has reported that to the coordinators or
    /// is about to; the session is then over, whatever they report.
    ///
    /// Otherwise only a coordinator ends the session. If none did, because none could reassign the work either, it
    /// continues with the results it had; attempts that ran are handed back, which costs their tasks no attempt.
    fn fence_if_over(&mut self, now: Instant) -> bool {
        if self.was_revoked(now) {
            warn!(
                running = self.held.running(),
                "this process was stopped and its guard revoked the session: starting a new session with no attempts"
            );
            self.deps.metrics.fences.inc();
            self.begin_anew();
            self.begin_search(now, false);
            return true;
        }
        let Some(session) = self.session.as_mut().filter(|s| !s.is_fenced && s.lease.is_over(now)) else {
            return false;
        };
        session.is_fenced = true;
        warn!(
            running = self.held.running(),
            "the lease on the session has expired: stopping everything until a coordinator renews it"
        );
        self.deps.metrics.fences.inc();
        self.stop_running();
        self.held.hand_back_running();
        self.held.hand_back_waiting();
        self.begin_search(now, true);
        // Nothing runs any more, so a coordinator may take its end as that of this process.
        self.suspect_link = None;
        self.tell_lease();
        self.deps.metrics.running.set(0);
        self.deps.readiness.set(false);
        true
    }

    /// Whether the guard has revoked the session. Checks only if this process may have been stopped.
    fn was_revoked(&mut self, now: Instant) -> bool {
        if now.duration_since(std::mem::replace(&mut self.at_work, now)) >= MAY_HAVE_BEEN_STOPPED {
            self.look_until = now + LOOK_FOR;
        }
        now < self.look_until && self.session.is_some() && self.deps.executor.is_revoked()
    }

    // ---- Attempts ----

    fn start_waiting(&mut self, now: Instant) {
        if self.session.as_ref().is_none_or(|session| session.is_fenced) {
            return;
        }
        while let Some((mut waiting, cancel)) = self.held.start_next() {
            let key = Key::from(&waiting.assignment);
            let waited = now.saturating_duration_since(waiting.received);
            let progress_timeout_ms = waiting.assignment.progress_timeout_ms;
            let parts = std::mem::take(&mut waiting.assignment.stored);
            match wire::attempt(waiting, waited, self.deps.platform.clock.unix_millis()) {
                Ok(mut attempt) => {
                    attempt.log = self.logs.begin(&key);
                    self.attempt_progress.begin(&key, &attempt.log, progress_timeout_ms, now);
                    let (executor, blobs) = (Arc::clone(&self.deps.executor), self.deps.store.clone());
                    let takes_refs = self.takes_refs;
                    let span = debug_span!("attempt", task = key.task_id, attempt = key.attempt, kind = attempt.kind);
                    let run = async move {
                        let started = Instant::now();
                        let store = Store { blobs: blobs.as_deref(), takes_refs };
                        let outcome = stored::run(&*executor, store, attempt, parts, cancel).await;
                        (key, outcome, started.elapsed())
                    };
                    self.running.push(Box::pin(run.instrument(span)));
                }
                Err(outcome) => self.ended(key, outcome, Duration::ZERO),
            }
        }
        self.deps.metrics.running.set(self.held.running() as i64);
    }

    /// Records an ended attempt and all others that have ended by now, so that they are sent together.
    fn done(&mut self, done: Done) {
        let mut next = Some(done);
        for _ in 0..DONE_AT_ONCE {
            let Some((key, outcome, ran)) = next else {
                return;
            };
            self.ended(key, outcome, ran);
            next = self.running.next().now_or_never().flatten();
        }
        if let Some((key, outcome, ran)) = next {
            self.ended(key, outcome, ran);
        }
    }

    fn ended(&mut self, key: Key, outcome: completion::Outcome, ran: Duration) {
        self.deps.metrics.ended(&outcome);
        self.logs.ended(&key, Instant::now());
        self.attempt_progress.ended(&key);
        self.held.finished(key, outcome, u64::try_from(ran.as_micros()).unwrap_or(u64::MAX));
    }

    fn stop_running(&mut self) {
        if planted(Mistake::FencingWithoutKilling) {
            tokio::spawn(std::mem::take(&mut self.running).for_each(|_| std::future::ready(())));
        }
        // Dropping an attempt kills its processes at once.
        self.running.clear();
        self.logs.all_ended(Instant::now());
        self.attempt_progress.all_ended();
    }

    fn hand_back_running(&mut self) {
        warn!(running = self.held.running(), "the drain timeout passed: stopping what runs and handing it back");
        self.running.clear();
        self.logs.all_ended(Instant::now());
        self.attempt_progress.all_ended();
        self.held.hand_back_running();
    }

    /// Hands everything back because the coordinators count the agent as unhealthy.
    pub(super) fn hand_back_all(&mut self) {
        warn!(held = self.held.len(), "this agent is unhealthy: stopping everything it holds and handing it back");
        self.held.hand_back_waiting();
        self.held.stop_and_hand_back();
    }

    /// Stops everything because nothing can ever run again; the agent reports that once nothing runs, and exits.
    fn fail(&mut self, reason: String) {
        error!(reason, held = self.held.len(), "this agent has failed: stopping everything and exiting");
        self.running.clear();
        self.held.reset();
        self.deps.readiness.set(false);
        self.failed = Some((reason, Instant::now() + END_WITHIN));
    }

    /// Starts over with a new incarnation, even if the coordinators did not notice the loss of this session: they then
    /// count its attempts as lost, and no attempt starts twice under the same number.
    fn begin_anew(&mut self) {
        self.secret = Secret::draw(&*self.deps.platform.random);
        self.reset();
    }

    /// Stops and forgets everything of the session, and the session itself.
    fn reset(&mut self) {
        self.stop_running();
        self.held.reset();
        self.suspect_link = None;
        self.session = None;
        self.deps.executor.set_session(None);
        self.tell_lease();
        self.deps.metrics.running.set(0);
        self.deps.readiness.set(false);
    }

    fn begin_drain(&mut self, now: Instant, within: Duration) {
        info!(held = self.held.len(), "asked to stop: accepting nothing new and finishing running attempts");
        match &mut self.phase {
            Phase::Working => self.phase = Phase::Draining(Drain::begin(now, within)),
            Phase::Draining(drain) => return drain.end_within(now, within),
            Phase::Leaving(_) => return,
        }
        self.drain_unsaid = true;
        self.held.hand_back_waiting();
        self.deps.readiness.set(false);
    }
}
