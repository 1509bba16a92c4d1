//! The messages that an agent and its coordinator exchange, and what each one changes.

use std::{sync::Arc, time::Duration};

use robeing_fleet::{
    Amounts,
    sabotage::{Mistake, planted},
};
use robeing_identity::TrustBundle;
use robeing_net::security::Tls;
use robeing_proto::{
    internal::v1::{
        self as internal, AgentMessage, CoordinatorMessage, agent_message::Message as Say,
        coordinator_message::Message as Heard,
    },
    v1::ResourceAmounts,
};
use robeing_settings::Contribute;
use tokio::{sync::mpsc::OwnedPermit, time::Instant};
use tracing::{debug, info, warn};

use super::{Driver, LeaderLink, Session};
use crate::{
    executor::{GuardTrust, MAX_AUTHORITIES, SessionInfo},
    identity::told_role,
    session::{drain::Phase, held::Key, lease::Lease, link::Link, stored},
};

/// Returns what an agent reports to contribute; `None` if it is nothing.
fn contributed(contribute: Contribute) -> Option<ResourceAmounts> {
    let amounts = contribute.amounts();
    (amounts != Amounts::NONE).then_some(ResourceAmounts {
        cpu_millis: amounts.cpu,
        memory_bytes: amounts.memory,
        storage_bytes: amounts.storage,
        bandwidth_bits_per_second: amounts.bandwidth,
    })
}

impl Driver {
    pub(super) fn hello(&self) -> internal::Hello {
        let config = &self.deps.config;
        internal::Hello {
            cluster_id: config.cluster_id.clone(),
            name: config.name.clone(),
            incarnation: self.secret.incarnation(),
            role: told_role(config.role).into(),
            pool: config.pool.clone(),
            pool_replicas: config.pool_replicas,
            pool_standby: config.pool_standby,
            specializations: config.specializations.clone(),
            slots: config.slots,
            address: self.deps.address.clone(),
            pid: self.deps.platform.host.pid(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            session: self.session.as_ref().map_or(0, |session| session.id),
            held: self.held.refs(),
            answers_health_checks: true,
            guarded: self.deps.executor.is_guarded(),
            sealing_key: self.deps.sealing_key.clone(),
            contributed: contributed(config.contribute),
            has_store: self.deps.store.is_some(),
        }
    }

    pub(super) fn welcomed(&mut self, link: Box<Link>, welcome: &internal::Welcome, sent: Instant) {
        let goes_on = welcome.resumed && self.session.as_ref().is_some_and(|session| session.id == welcome.session);
        if !goes_on && self.session.is_some() {
            warn!(
                held = self.held.len(),
                "the coordinators count this agent as lost: starting a new session with no attempts"
            );
            self.reset();
        }
        info!(
            leader = link.address,
            session = welcome.session,
            term = welcome.term,
            resumed = goes_on,
            held = self.held.len(),
            "the session is open"
        );
        let now = Instant::now();
        match &mut self.session {
            Some(session) => session.lease.resumed(now),
            None => {
                let timeout = Duration::from_millis(welcome.session_timeout_ms.into());
                let interval = Duration::from_millis(welcome.heartbeat_interval_ms.into());
                let lease = Lease::new(sent, now, timeout, interval);
                self.session = Some(Session { id: welcome.session, lease, is_fenced: false });
            }
        }
        self.tell_lease();
        self.send_session(&link.address, welcome);
        self.takes_refs = welcome.takes_refs;
        self.progress = now;
        self.search.learn(&welcome.coordinators);
        if !planted(Mistake::CompletionsNotResent) {
            self.held.send_again();
        }
        self.health.reset();
        self.logs.nobody_follows();
        self.attempt_progress.stream_opened(now);
        self.leader_link = LeaderLink::Open(link);
        self.suspect_link = None;
        self.complaint.clear();
        if let Phase::Draining(drain) = &mut self.phase {
            drain.drained = false;
            self.drain_unsaid = true;
        }
        if std::mem::replace(&mut self.welcomed_before, true) {
            self.deps.metrics.reconnects.inc();
        }
        let is_fenced = self.session.as_ref().is_some_and(|session| session.is_fenced);
        self.deps.readiness.set(self.phase == Phase::Working && !is_fenced);
    }

    pub(super) fn heard(&mut self, message: CoordinatorMessage) {
        match message.message {
            Some(Heard::HeartbeatAck(ack)) => self.heartbeat_acknowledged(ack.seq),
            Some(Heard::Assignments(assignments)) => self.assigned(assignments.assignments),
            Some(Heard::Cancels(cancels)) => {
                for internal::AttemptRef { task_id, attempt } in cancels.attempts {
                    self.held.cancel(Key { task_id, attempt });
                }
            }
            Some(Heard::CompletionAcks(acks)) => self.acknowledged(acks.acks),
            Some(Heard::HealthCheck(check)) => self.health.ask(&check, Arc::clone(&self.deps.executor)),
            Some(Heard::HandBack(_)) => self.hand_back_all(),
            Some(Heard::FollowAttempt(order)) => self.logs.follow(order, Instant::now()),
            Some(Heard::SessionEnded(ended)) => {
                let (reason, held) = (ended.reason, self.held.len());
                match self.phase {
                    // This is the answer to Leave.
                    Phase::Leaving(_) => info!(reason, "the coordinator ended the session"),
                    Phase::Working | Phase::Draining(_) => {
                        warn!(reason, held, "the coordinator ended the session");
                    }
                }
                self.begin_anew();
                self.begin_search(Instant::now(), false);
            }
            Some(Heard::Drained(_)) => {
                if let Phase::Draining(drain) = &mut self.phase {
                    drain.drained = true;
                }
            }
            Some(Heard::Redirect(redirect)) => {
                self.broken("the coordinator is no longer the leader", false);
                self.search.redirected(&redirect.leader_address, &redirect.coordinators);
            }
            // A message of a newer coordinator, or one out of place, changes nothing.
            Some(Heard::Welcome(_) | Heard::Opening(_)) | None => debug!("ignored an unexpected message"),
        }
    }

    fn heartbeat_acknowledged(&mut self, seq: u64) {
        if let Some(session) = &mut self.session
            && let Some(sent) = session.lease.acknowledged(seq)
        {
            self.deps.metrics.heartbeat_round_trip.observe(sent.elapsed().as_secs_f64());
            if session.is_fenced && !session.lease.is_over(Instant::now()) {
                info!(held = self.held.len(), "the lease on the session is renewed: accepting work again");
                session.is_fenced = false;
                self.deps.readiness.set(self.phase == Phase::Working);
            }
            self.tell_lease();
        }
    }

    /// Passes the lease to the executor, in case this process is stopped when the lease ends.
    pub(super) fn tell_lease(&self) {
        let left = self.session.as_ref().map(|s| s.lease.until().saturating_duration_since(Instant::now()));
        self.deps.executor.lease(left);
    }

    /// Passes the session to the executor's guard: what it would have to report as ended, and to which coordinators.
    fn send_session(&self, leader: &str, welcome: &internal::Welcome) {
        let others = welcome.coordinators.iter().filter(|address| *address != leader);
        let coordinators = std::iter::once(leader.to_owned()).chain(others.cloned());
        self.deps.executor.set_session(Some(SessionInfo {
            cluster_id: self.deps.config.cluster_id.clone(),
            agent: self.deps.config.name.clone(),
            session: welcome.session,
            secret: self.secret.bytes().to_vec(),
            coordinators: coordinators.collect(),
            within_ms: welcome.session_timeout_ms,
            trust: self.deps.transport.tls().map(guard_trust),
        }));
    }

    fn assigned(&mut self, assignments: Vec<internal::Assignment>) {
        if self.failed.is_some() {
            return;
        }
        let now = Instant::now();
        for assignment in assignments {
            self.held.assigned(assignment, now);
        }
        if self.phase != Phase::Working {
            self.held.hand_back_waiting();
        }
    }

    fn acknowledged(&mut self, acks: Vec<internal::CompletionAck>) {
        for internal::CompletionAck { task_id, attempt, accepted, reason } in acks {
            if !accepted {
                info!(task = task_id, attempt, reason, "the coordinator rejected this result");
            }
            self.held.acknowledged(Key { task_id, attempt });
        }
        self.progress = Instant::now();
    }

    pub(super) fn wants_to_say(&self) -> bool {
        let now = Instant::now();
        let beat_is_due = self.session.as_ref().is_some_and(|s| now >= s.lease.next_heartbeat());
        let is_due = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        let is_later_due = is_due(self.logs.due()) || is_due(self.attempt_progress.due());
        let has_others = self.drain_unsaid || self.leave_unsaid || self.held.has_unsent() || self.health.has_report();
        beat_is_due || has_others || is_later_due
    }

    /// Sends the most urgent pending message.
    pub(super) fn say(&mut self, permit: OwnedPermit<AgentMessage>) {
        let now = Instant::now();
        let message = match &mut self.session {
            Some(session) if now >= session.lease.next_heartbeat() => {
                let messages_sent = self.deps.sent.get();
                Say::Heartbeat(internal::Heartbeat { seq: session.lease.beat(now), messages_sent })
            }
            _ if std::mem::take(&mut self.drain_unsaid) => Say::Drain(internal::Drain {}),
            _ if self.health.has_report() => match self.health.take_report() {
                Some(report) => Say::HealthReport(report),
                None => return,
            },
            _ if self.held.has_unsent() => {
                self.progress = now;
                let mut completions = self.held.batch();
                // They may be of attempts that ended under another coordinator.
                for completion in &mut completions {
                    completion.outcome = completion.outcome.take().map(|of| stored::known(self.takes_refs, of));
                }
                Say::Completions(internal::Completions { completions })
            }
            _ if std::mem::take(&mut self.leave_unsaid) => Say::Leave(internal::Leave {}),
            _ if self.attempt_progress.due().is_some_and(|due| now >= due) => {
                match self.attempt_progress.next_message(now) {
                    Some(progressed) => Say::Progressed(progressed),
                    None => return,
                }
            }
            _ if self.logs.due().is_some_and(|due| now >= due) => match self.logs.next_message(now, &self.held) {
                Some(log) => Say::AttemptLog(log),
                None => return,
            },
            _ => return,
        };
        let leaves = matches!(message, Say::Leave(_));
        permit.send(AgentMessage { message: Some(message) });
        if leaves && let LeaderLink::Open(link) = &mut self.leader_link {
            info!("left the fleet");
            link.outgoing = None;
        }
    }
}

/// Returns whom the guard trusts when it reports: whom this process trusts.
fn guard_trust(tls: &Tls) -> GuardTrust {
    let credentials = tls.credentials();
    let authorities = credentials.bundle().map(TrustBundle::authorities).unwrap_or_default();
    // The newest ones are the last.
    let first = authorities.len().saturating_sub(MAX_AUTHORITIES);
    let (wall, at) = credentials.clock().what_is_learned().unwrap_or_default();
    GuardTrust {
        authorities: authorities[first..].iter().map(|authority| authority.to_vec()).collect(),
        permissive: tls.is_permissive(),
        wall,
        at,
    }
}
