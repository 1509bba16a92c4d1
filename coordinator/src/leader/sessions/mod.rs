//! The sessions that this coordinator serves as leader: which agents are connected, when each was last heard from, and
//! what waits to be sent to it. Heartbeats are recorded nowhere else; only their absence becomes a command.
//!
//! Whether an agent is connected or lost is decided here, under one lock, so that no agent is given a session to work
//! in while its tasks are given to others. The invariants, within one term of this coordinator:
//!
//! 1. A loss is proposed only for an agent that was silent for the timeout, that has failed, or that is proved to run
//!    nothing any more (see [`evidence`](crate::leader::evidence) for the proofs). From then until the outcome is
//!    known, no connection of the agent is accepted ([`Connection::Losing`]) and none of its heartbeats is answered. An
//!    agent that has failed without reporting it is treated this way for a session timeout beforehand, because its
//!    lease must end first.
//! 2. A loss is written in the term in which it was suspected, or never (`Proposer::propose_in`). So if its outcome is
//!    unknown, the term is over, and the next leader, which has applied whatever was written before, decides by the
//!    state alone.
//! 3. A session that has ended is not served. A connection that exists when it ends is notified; one that comes later
//!    finds the end in the state, which is read again after connecting and before the agent is welcomed.
//!
//! The work under the lock does not grow with the number of agents: the agents to check are ordered by time, and the
//! sessions of another term are dropped as a whole.

mod connection;
pub mod description;
mod entries;
pub mod opening;
pub mod outgoing;
pub mod reconcile;
mod silence;
mod turns;

use std::{net::SocketAddr, ops::Bound, sync::Arc, time::Duration};

use robeing_fleet::{
    AgentId, SessionId, TaskId,
    sabotage::{Mistake, planted},
};
use robeing_platform::sync::{Mutex, MutexGuard, PoisonError};
use robeing_proto::internal::v1::FollowAttempt;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

pub use self::{
    connection::{Outbox, SessionConnection},
    turns::Turn,
};
use self::{
    entries::{Entry, Losing, Sessions},
    turns::Turns,
};
use crate::leader::evidence::{Origin, REACH_AGAIN, Signs, Verdict};

/// An attempt: the task and its fencing number.
pub type AttemptKey = (TaskId, u32);

/// What to do about an agent that may be lost.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Suspicion {
    /// The agent was silent for the timeout: it is lost.
    Silent(AgentId, SessionId),
    /// The agent's process exists, but the agent has failed and no longer runs anything: it is lost.
    Failed(AgentId, SessionId),
    /// Probe whether the agent's process listens at this address: its connection broke, or is new.
    Probe(AgentId, SessionId, SocketAddr),
}

/// The result of connecting an agent.
pub enum Connection {
    /// This is the agent's connection from now on.
    Taken(Arc<SessionConnection>),
    /// The agent's loss is proposed: wait until that is decided, then read the state again.
    Losing(CancellationToken),
    /// A newer session of the agent has begun: read the state again.
    Replaced,
    /// The term is over.
    TermOver,
}

/// Timing of sessions.
#[derive(Clone, Copy, Debug)]
pub struct SessionTiming {
    /// How often agents send heartbeats.
    pub heartbeat_interval: Duration,
    /// How long after the last heartbeat an agent is lost.
    pub timeout: Duration,
    /// How often the health of agents is checked.
    pub health_check_interval: Duration,
    /// How long after its connection broke an agent's process is probed.
    pub grace: Duration,
}

impl SessionTiming {
    /// Returns the maximum age of the leader's last contact with a majority when it answers a heartbeat. An agent's
    /// lease ends a quarter of the timeout early, and this is half of that quarter. So a leader that was replaced
    /// without knowing it can't keep an agent working longer than the new leader waits for the agent; the other half is
    /// the time that the agent has to stop.
    pub fn lease_margin(&self) -> Duration {
        self.timeout / 8
    }
}

/// Pause between two probes of the same process.
const PROBE_PAUSE: Duration = Duration::from_millis(50);
/// Pause before an agent whose loss could not be proposed is suspected again.
const LOSE_AGAIN: Duration = Duration::from_millis(20);

/// The sessions of one coordinator. Empty while it does not lead.
pub struct SessionTable {
    /// The timing of the sessions.
    pub timing: SessionTiming,
    sessions: Mutex<Sessions>,
    turns: Turns,
    /// Signals that an agent has to be checked before the next regular check.
    hurry: Notify,
}

impl SessionTable {
    /// Creates a table without sessions.
    pub fn new(timing: SessionTiming) -> Self {
        let none = Sessions { over: true, ..Sessions::default() };
        Self { timing, sessions: Mutex::new(none), turns: Turns::default(), hurry: Notify::new() }
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the sessions of `term`, unless it is over. A term newer than the last one begins without sessions.
    fn of_term(&self, term: u64) -> Option<MutexGuard<'_, Sessions>> {
        let mut sessions = self.sessions();
        if sessions.term < term {
            let old = std::mem::replace(&mut *sessions, Sessions::of_term(term));
            drop(sessions);
            drop_sessions(old);
            sessions = self.sessions();
        }
        (sessions.term == term && !sessions.over).then_some(sessions)
    }

    /// Begins the term in which this coordinator leads. From now on, sessions that begin are recorded; the caller
    /// records those of the state with [`SessionTable::started`]. Agents that have already connected in this term stay
    /// connected.
    pub fn begin(&self, term: u64) {
        drop(self.of_term(term));
    }

    /// Records a session that may have no connection here: its agent has a full session timeout to connect. Until it
    /// does, a refused probe would prove nothing to this leader, so only a guard's report can prove the loss earlier. A
    /// session that is already known is left unchanged.
    pub fn started(&self, agent: AgentId, session: SessionId, process: Option<SocketAddr>, now: Instant) {
        if planted(Mistake::AbsentAgentsForgotten) {
            return;
        }
        let mut sessions = self.sessions();
        // Sessions are numbered in log order.
        if sessions.over || sessions.entries.get(&agent).is_some_and(|entry| entry.session >= session) {
            return;
        }
        let probe_at = planted(Mistake::SilenceIsDeath).then(|| now + self.timing.grace * 4);
        let silent_at = now + self.timing.timeout;
        let entry = Entry {
            session,
            signs: Signs::new(Origin { process, ..Origin::default() }),
            heard: now,
            excused: sessions.excused,
            link: None,
            probe_at,
            failed: false,
            losing: None,
            look_at: None,
            messages_sent: None,
        };
        let old = sessions.insert(agent, entry, probe_at.map_or(silent_at, |at| at.min(silent_at)));
        drop(sessions);
        if let Some(link) = old {
            link.end("the agent has another session");
        }
    }

    /// Ends a term in which this coordinator no longer leads: all of its sessions are over here, but continue at the
    /// next leader.
    pub fn end(&self, term: u64) {
        let mut sessions = self.sessions();
        if sessions.term == term {
            let old = std::mem::replace(&mut *sessions, Sessions { over: true, ..Sessions::of_term(term) });
            drop(sessions);
            drop_sessions(old);
        }
    }

    /// Registers a connection of an agent in this term. It replaces an earlier one, unless the agent's loss is
    /// proposed.
    pub fn connect(&self, term: u64, agent: AgentId, session: SessionId, origin: Origin, now: Instant) -> Connection {
        let Some(mut sessions) = self.of_term(term) else { return Connection::TermOver };
        if let Some(entry) = sessions.entries.get(&agent) {
            if let Some(losing) = &entry.losing {
                return Connection::Losing(losing.decided.clone());
            }
            if entry.session > session {
                return Connection::Replaced;
            }
        }
        let link = Arc::new(SessionConnection::default());
        // Probe its location now: only if it accepts a connection can a later refusal prove anything.
        let ask_at = origin.process.map(|_| now);
        let entry = Entry {
            session,
            signs: Signs::new(origin),
            heard: now,
            excused: sessions.excused,
            link: Some(Arc::clone(&link)),
            probe_at: ask_at,
            failed: false,
            losing: None,
            look_at: None,
            messages_sent: None,
        };
        let old = sessions.insert(agent, entry, ask_at.unwrap_or(now + self.timing.timeout));
        drop(sessions);
        if let Some(old) = old {
            old.end("the agent opened another connection");
        }
        Connection::Taken(link)
    }

    /// Records that a connection broke. If a refusal would prove that the process is gone, the process is probed at
    /// once; otherwise the agent has a grace period to reconnect.
    pub fn disconnected(&self, agent: AgentId, link: &Arc<SessionConnection>, now: Instant) {
        let mut sessions = self.sessions();
        let Some(entry) = sessions.entries.get_mut(&agent) else { return };
        if entry.link.take_if(|current| Arc::ptr_eq(current, link)).is_some() {
            let at_once = entry.signs.await_refusal();
            let probe_at = if at_once { now } else { now + self.timing.grace };
            entry.probe_at = Some(probe_at);
            sessions.look_by(agent, probe_at);
            if at_once {
                self.hurry.notify_one();
            }
        }
    }

    /// Records that an agent left gracefully, or that its session ended.
    pub fn ended(&self, agent: AgentId, session: SessionId) {
        let mut sessions = self.sessions();
        if sessions.entry(agent, session).is_none() {
            return;
        }
        let ended = sessions.remove(agent);
        drop(sessions);
        if let Some(link) = ended.and_then(|entry| entry.link) {
            link.end("the session is over");
        }
    }

    /// Records that an agent was heard from on this connection. Returns whether the agent counts as present: a
    /// heartbeat that arrives after its loss was proposed, or over a connection that was replaced, must renew nothing.
    pub fn heard(&self, agent: AgentId, link: &Arc<SessionConnection>, now: Instant) -> bool {
        let mut sessions = self.sessions();
        let excused = sessions.excused;
        let Some(entry) = sessions.entries.get_mut(&agent) else { return false };
        let is_present =
            entry.losing.is_none() && entry.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link));
        if is_present {
            entry.heard = now;
            entry.excused = excused;
        }
        is_present
    }

    /// Records how many messages an agent has sent, as it states over this connection.
    pub fn sent(&self, agent: AgentId, link: &Arc<SessionConnection>, messages: u64) {
        let mut sessions = self.sessions();
        let Some(entry) = sessions.entries.get_mut(&agent) else { return };
        if entry.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            entry.messages_sent = Some(messages);
        }
    }

    /// Returns how many messages agents have sent, of at most `most` connected ones after `after`, in the order of their
    /// ids; `None` if this coordinator does not lead.
    pub fn messages_sent(&self, after: Option<AgentId>, most: usize) -> Option<Vec<(AgentId, SessionId, u64)>> {
        let sessions = self.sessions();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let sent = |(agent, entry): (&AgentId, &Entry)| Some((*agent, entry.session, entry.messages_sent?));
        let found = || sessions.entries.range((from, Bound::Unbounded)).filter_map(sent).take(most).collect();
        (!sessions.over).then(found)
    }

    /// Records that an agent has failed, as detected over this connection: it counts as lost from `at` on, when it runs
    /// nothing any more. Until then none of its heartbeats is answered, so that its lease ends. The call has no effect
    /// if the agent has another connection by now.
    pub fn failed(&self, agent: AgentId, link: &Arc<SessionConnection>, at: Instant) {
        let mut sessions = self.sessions();
        let Some(entry) = sessions.entries.get_mut(&agent) else { return };
        let is_current = entry.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link));
        if is_current && entry.losing.is_none() {
            entry.failed = true;
            entry.losing = Some(Losing::new());
            sessions.look_when(agent, at);
        }
    }

    /// Records that this leader had no contact with a majority until `now`, so it renewed no lease: every agent has a
    /// full session timeout from then on. Agents rely on this to keep working while the coordinators can't reassign
    /// their tasks.
    pub fn without_contact(&self, now: Instant) {
        self.sessions().unheard_until = Some(now);
    }

    /// Returns what to do about agents that may be lost, for at most `limit` of them. Each suspicion is returned once,
    /// until it is taken back.
    pub fn suspicions(&self, now: Instant, limit: usize) -> Vec<Suspicion> {
        let mut found = Vec::new();
        let mut sessions = self.sessions();
        let mut looked_at = 0;
        while let Some(&(at, agent)) = sessions.looks.first()
            && at <= now
            && found.len() < limit
            && looked_at < MAX_LOOKS
        {
            sessions.looks.pop_first();
            looked_at += 1;
            found.extend(sessions.look(agent, self.timing.timeout, now));
        }
        found
    }

    /// Records a probe of an agent's process and returns the verdict. On [`Verdict::Gone`] the caller has to propose
    /// the loss. `waited` states whether the agent's guard has had its time to report.
    pub fn probed(
        &self,
        agent: AgentId,
        session: SessionId,
        accepted: Option<bool>,
        waited: bool,
        now: Instant,
    ) -> Verdict {
        let mut sessions = self.sessions();
        let Some(entry) = sessions.entry(agent, session).filter(|entry| entry.losing.is_none()) else {
            return Verdict::Unproved;
        };
        let is_connected = entry.link.is_some();
        let verdict = match is_connected {
            true => Verdict::Unproved,
            false if accepted.is_none() && planted(Mistake::SilenceIsDeath) => Verdict::Gone,
            false => entry.signs.judge(accepted, waited),
        };
        match verdict {
            Verdict::Gone => sessions.begin_losing(agent),
            Verdict::GoneUnlessGuarded => {}
            Verdict::Unproved if is_connected && entry.signs.asked(accepted) => {}
            Verdict::Unproved => {
                let again = now + if is_connected { REACH_AGAIN } else { PROBE_PAUSE };
                entry.probe_at = Some(again);
                sessions.look_by(agent, again);
            }
        }
        verdict
    }

    /// Records a guard's report that nothing of a session runs any more, or will. Returns whether the caller has to
    /// propose the loss now; `None` if the session is not known here in this term.
    pub fn reported(&self, term: u64, agent: AgentId, session: SessionId) -> Option<bool> {
        let mut sessions = self.sessions();
        if sessions.term != term || sessions.over {
            return None;
        }
        let losing = sessions.entry(agent, session)?.losing.is_some();
        if !losing {
            sessions.begin_losing(agent);
        }
        Some(!losing)
    }

    /// Waits until an agent has to be checked without delay. Cancellation-safe.
    pub async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// Records that a loss is known not to be written, so that the agent is suspected again.
    pub fn take_back(&self, agent: AgentId, session: SessionId, now: Instant) {
        let mut sessions = self.sessions();
        if let Some(entry) = sessions.entry(agent, session) {
            if entry.failed {
                entry.losing = Some(Losing::new());
                return sessions.look_when(agent, now + LOSE_AGAIN);
            }
            entry.losing = None;
            entry.probe_at = entry.link.is_none().then_some(now + LOSE_AGAIN);
            sessions.look_by(agent, now + LOSE_AGAIN);
        }
    }

    /// Records that this coordinator stalled for `pause` and could not receive heartbeats.
    pub fn extend_all(&self, pause: Duration) {
        self.sessions().excused += pause;
    }

    fn link(&self, agent: AgentId, session: SessionId) -> Option<Arc<SessionConnection>> {
        self.sessions().entry(agent, session)?.link.clone()
    }

    /// Sends an attempt to its agent, if it is connected here. Otherwise the agent gets it when it connects.
    pub fn assign(&self, agent: AgentId, session: SessionId, attempt: AttemptKey) {
        if let Some(link) = self.link(agent, session) {
            link.put(|outbox| outbox.assignments.push(attempt));
        }
    }

    /// Sends the order to stop an attempt to its agent, if it is connected here. Otherwise the agent gets it when it
    /// connects.
    pub fn stop(&self, agent: AgentId, session: SessionId, attempt: AttemptKey) {
        if let Some(link) = self.link(agent, session) {
            link.put(|outbox| outbox.stops.push(attempt));
        }
    }

    /// Sends the order to follow an attempt, or to stop that, to an agent. Returns whether it is connected here; otherwise
    /// it is asked when it connects.
    pub fn follow(&self, agent: AgentId, attempt: AttemptKey, order: FollowAttempt) -> bool {
        let link = self.sessions().entries.get(&agent).and_then(|entry| entry.link.clone());
        let is_connected = link.is_some();
        if let Some(link) = link {
            link.put(|outbox| drop(outbox.follows.insert(attempt, order)));
        }
        is_connected
    }

    /// Waits until no other connection of this name is being opened. Cancellation-safe.
    pub async fn turn(&self, name: &str) -> Turn<'_> {
        self.turns.take(name).await
    }
}

/// Maximum number of agents checked at once.
const MAX_LOOKS: usize = 1_024;

/// Drops the sessions of a term, of which there may be many, outside the lock.
fn drop_sessions(old: Sessions) {
    robeing_platform::compute(|| drop(old));
}

#[cfg(test)]
mod tests;
