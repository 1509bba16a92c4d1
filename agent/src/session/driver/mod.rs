//! The one loop of an agent: it waits for the next event, checks the lease, and acts. Nothing in it blocks: sending waits
//! like everything else, so time is kept whatever the coordinator does. Attempts are polled here too, without a task each.

mod messages;
mod reconnect;

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use robeing_fleet::sabotage::{Mistake, planted};
use robeing_net::{Transport, incarnation::Secret};
use robeing_platform::Platform;
use robeing_proto::internal::v1::{AgentMessage, CoordinatorMessage, completion};
use robeing_settings::AgentConfig;
use robeing_telemetry::Readiness;
use tokio::{
    sync::mpsc::OwnedPermit,
    time::{Instant, Sleep},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tracing::{Instrument, debug_span, error, info, warn};

use super::{
    SessionError,
    drain::{Drain, Due, LEAVE_WITHIN, Phase},
    health::HealthChecks,
    held::{Held, Key},
    lease::Lease,
    link::{Greeting, Link, LinkError},
    metrics::SessionMetrics,
    search::Search,
    wire,
};
use crate::executor::{Executor, Health, Outcome};

/// Attempts that ended and are taken note of before anything else is looked at.
const DONE_AT_ONCE: usize = 1_024;
/// How long completions may stay unacknowledged on a stream that works before they are sent again. A leader that can't write
/// them down ends the stream; one that is slow would only have more to write.
pub const SEND_AGAIN_AFTER: Duration = Duration::from_secs(15);
/// How long a failed agent stays to hear that its session is over.
pub const END_WITHIN: Duration = Duration::from_secs(2);
/// A process that did nothing for so long may have been stopped, and looks whether its session was taken from it meanwhile. Far
/// less than a guard waits before it takes one.
const MAY_HAVE_BEEN_STOPPED: Duration = Duration::from_millis(50);
/// For how long it looks again and again then: its guard may be about to take the session.
const LOOK_FOR: Duration = Duration::from_secs(1);
/// How far ahead the timer is set when nothing is due.
const IDLE: Duration = Duration::from_secs(3_600);

/// What a driver is made of.
#[derive(Clone)]
pub struct Deps {
    /// The agent's settings.
    pub config: AgentConfig,
    /// The outside.
    pub platform: Platform,
    /// What connections are made with.
    pub transport: Transport,
    /// What runs attempts.
    pub executor: Arc<dyn Executor>,
    /// What the session counts.
    pub metrics: SessionMetrics,
    /// Set while the agent takes work.
    pub readiness: Readiness,
    /// Where others reach the agent, host:port.
    pub address: String,
}

impl Deps {
    /// Those of a member that can take no task now: without slots, of no pool, and not ready.
    pub fn idle(&self) -> Self {
        let config =
            AgentConfig { slots: 0, pool: String::new(), pool_replicas: 0, pool_standby: 0, ..self.config.clone() };
        Self { config, readiness: Readiness::default(), ..self.clone() }
    }
}

/// How an attempt ended, and after how long.
type Done = (Key, Outcome, Duration);

/// The way to the leader.
enum LeaderLink {
    /// Nobody is asked before then.
    Pausing(Instant),
    /// A coordinator was said hello.
    Greeting(String, BoxFuture<'static, Result<Greeting, LinkError>>),
    /// A session is open.
    Open(Box<Link>),
}

struct Session {
    id: u64,
    lease: Lease,
    /// The lease is over, what ran was stopped, and nothing may run until it is renewed.
    is_fenced: bool,
}

/// What the loop waits for.
enum Event {
    /// The timer that [`Driver::keep_time`] asked for, or the wish to stop: both are looked at in every round.
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
    /// A stream that fell silent. It is kept until another is open, since its end would count as the agent's.
    suspect_link: Option<Box<Link>>,
    session: Option<Session>,
    held: Held,
    running: FuturesUnordered<BoxFuture<'static, Done>>,
    health: HealthChecks,
    /// Why the executor can't ever run attempts again, and when the agent ends at the latest.
    failed: Option<(String, Instant)>,
    phase: Phase,
    /// The process is to end, and not only the stay.
    asked_to_stop: bool,
    /// The coordinator at the other end does not know yet that the agent drains.
    drain_unsaid: bool,
    leave_unsaid: bool,
    welcomed_before: bool,
    complaint: String,
    /// When completions were last sent or acknowledged.
    progress: Instant,
    /// When this process was last seen at work.
    at_work: Instant,
    /// Until when it is looked for whether the session was taken.
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
            failed: None,
            phase: Phase::Working,
            asked_to_stop: false,
            drain_unsaid: false,
            leave_unsaid: false,
            welcomed_before: false,
            complaint: String::new(),
            progress: now,
            at_work: now,
            look_until: now,
            timer: Box::pin(tokio::time::sleep(IDLE)),
            deps,
        }
    }

    /// Runs until `shutdown` or `idle` is cancelled and the agent has drained: with the first within the drain timeout, with
    /// the second once what runs has ended.
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
                    self.deps.executor.stay(None);
                }
                return end;
            }
            self.start_waiting(now);
            let event = self.next_event(&shutdown, &idle).await;
            // What was waited for may have taken longer than the lease: a stopped process wakes up here.
            if !self.fence_if_over(Instant::now()) {
                self.act(event);
            }
        }
    }

    async fn next_event(&mut self, shutdown: &CancellationToken, idle: &CancellationToken) -> Event {
        let wants_to_say = self.wants_to_say();
        let (asked_to_stop, working) = (self.asked_to_stop, self.phase == Phase::Working);
        let Self { leader_link, running, timer, health, .. } = self;
        tokio::select! {
            biased;
            () = timer.as_mut() => Event::Time,
            () = shutdown.cancelled(), if !asked_to_stop => Event::Time,
            () = idle.cancelled(), if working => Event::Time,
            Some(done) = running.next() => Event::Done(done),
            checked = health.answered() => Event::Checked(checked),
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
            // Whoever routes by readiness, such as a rollout, need not wait for the leader's judgement.
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

    /// Does what is due and sets the timer for what is due next. `Some`: the agent is at its end.
    fn keep_time(&mut self, now: Instant) -> Option<Result<(), SessionError>> {
        self.fence_if_over(now);
        if matches!(self.leader_link, LeaderLink::Open(_))
            && self.session.as_ref().is_some_and(|s| now >= s.lease.silent_from())
        {
            self.broken("the coordinator has fallen silent", true);
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
                // One that is due waits for room on the stream, not for time.
                next = if beat > now { next.min(beat) } else { next };
            }
        }
        if self.timer.deadline() != next {
            self.timer.as_mut().reset(next);
        }
        None
    }

    /// Takes the next step of the way out. `Err`: the last one was taken. Otherwise when the next is due, if ever.
    fn end_is_due(&mut self, now: Instant) -> Result<Option<Instant>, Result<(), SessionError>> {
        loop {
            let connected = matches!(self.leader_link, LeaderLink::Open(_));
            let drain = match &mut self.phase {
                Phase::Working => return Ok(None),
                Phase::Leaving(until) if now < *until && connected => return Ok(Some(*until)),
                Phase::Leaving(_) => return Err(Ok(())),
                // Nothing runs any more, and nobody takes back what did. Whoever was said hello may have opened a session: unless
                // that is left, it is lost to the next stay of this agent.
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

    /// Stops everything if the lease is over, and returns whether it was.
    ///
    /// A guard that has taken the session, because this process was stopped, has told the coordinators so or is about to: then
    /// the session is over, whatever they say.
    ///
    /// Otherwise the session itself is over only when a coordinator says so. If it is not, because no coordinator could give the work
    /// away either, it goes on with what had ended before; what ran is handed back, which costs its tasks no attempt.
    fn fence_if_over(&mut self, now: Instant) -> bool {
        if self.was_revoked(now) {
            warn!(
                running = self.held.running(),
                "this process was stopped, and its guard has given up the session: a new one begins with nothing"
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
            "the lease on the session is over: everything that runs is stopped until a coordinator renews it"
        );
        self.deps.metrics.fences.inc();
        self.stop_running();
        self.held.hand_back_running();
        self.held.hand_back_waiting();
        self.begin_search(now, true);
        // Its end may count as the agent's now: nothing runs any more.
        self.suspect_link = None;
        self.tell_lease();
        self.deps.metrics.running.set(0);
        self.deps.readiness.set(false);
        true
    }

    /// Whether the guard has taken the session. It looks only when this process may have been stopped.
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
        while let Some((waiting, cancel)) = self.held.start_next() {
            let key = Key::from(&waiting.assignment);
            let waited = now.saturating_duration_since(waiting.received);
            match wire::attempt(waiting, waited, self.deps.platform.clock.unix_millis()) {
                Ok(attempt) => {
                    let executor = Arc::clone(&self.deps.executor);
                    let span = debug_span!("attempt", task = key.task_id, attempt = key.attempt, kind = attempt.kind);
                    let run = async move {
                        let started = Instant::now();
                        let outcome = executor.run(attempt, cancel).await;
                        (key, outcome, started.elapsed())
                    };
                    self.running.push(Box::pin(run.instrument(span)));
                }
                Err(outcome) => self.ended(key, outcome, Duration::ZERO),
            }
        }
        self.deps.metrics.running.set(self.held.running() as i64);
    }

    /// Takes note of an attempt that ended, and of all others that have by now, so that they are sent together.
    fn done(&mut self, done: Done) {
        let mut next = Some(done);
        for _ in 0..DONE_AT_ONCE {
            let Some((key, outcome, ran)) = next else {
                return;
            };
            self.ended(key, wire::outcome(outcome), ran);
            next = self.running.next().now_or_never().flatten();
        }
        if let Some((key, outcome, ran)) = next {
            self.ended(key, wire::outcome(outcome), ran);
        }
    }

    fn ended(&mut self, key: Key, outcome: completion::Outcome, ran: Duration) {
        self.deps.metrics.ended(&outcome);
        self.held.finished(key, outcome, u64::try_from(ran.as_micros()).unwrap_or(u64::MAX));
    }

    fn stop_running(&mut self) {
        if planted(Mistake::FencingWithoutKilling) {
            tokio::spawn(std::mem::take(&mut self.running).for_each(|_| std::future::ready(())));
        }
        // Dropping an attempt kills what it runs, at once.
        self.running.clear();
    }

    fn hand_back_running(&mut self) {
        warn!(running = self.held.running(), "the drain timeout passed: what still runs is stopped and handed back");
        self.running.clear();
        self.held.hand_back_running();
    }

    /// The coordinators count the agent as unhealthy.
    pub(super) fn hand_back_all(&mut self) {
        warn!(held = self.held.len(), "this agent is unhealthy: everything it holds is stopped and handed back");
        self.held.hand_back_waiting();
        self.held.stop_and_hand_back();
    }

    /// Nothing can ever be run again: the coordinators are told once nothing runs, and then the agent ends.
    fn fail(&mut self, reason: String) {
        error!(reason, held = self.held.len(), "this agent has failed: everything it runs is stopped, and it ends");
        self.running.clear();
        self.held.reset();
        self.deps.readiness.set(false);
        self.failed = Some((reason, Instant::now() + END_WITHIN));
    }

    /// The next session is a new stay, also where the coordinators have not missed this one: they then count what it ran as
    /// lost, and no attempt is begun a second time under the same number.
    fn begin_anew(&mut self) {
        self.secret = Secret::draw(&*self.deps.platform.random);
        self.reset();
    }

    /// Stops and forgets everything of the session, and the session.
    fn reset(&mut self) {
        self.stop_running();
        self.held.reset();
        self.suspect_link = None;
        self.session = None;
        self.deps.executor.stay(None);
        self.tell_lease();
        self.deps.metrics.running.set(0);
        self.deps.readiness.set(false);
    }

    fn begin_drain(&mut self, now: Instant, within: Duration) {
        info!(held = self.held.len(), "asked to stop: nothing new is taken, and what runs is finished");
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
