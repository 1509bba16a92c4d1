//! The sessions that this coordinator serves as leader: who is connected, when each agent was last heard of, and what waits to
//! be sent to it. Heartbeats are noted here and nowhere else; only their absence becomes a command.
//!
//! Whether an agent is connected or lost is decided here, under one lock, so that no agent is given a session to work in while
//! its tasks are given to others. The invariants, of one term of this coordinator:
//!
//! 1. A loss is proposed only for an agent that was silent for the timeout or has failed, or of which it is proved that it runs
//!    nothing any more (what proves it is written at the head of [`evidence`](crate::leader::evidence)), and from then until its fate
//!    is known no connection of the agent is taken ([`Connection::Losing`]) and none of its heartbeats is answered. One that
//!    has failed without saying so is treated so for the timeout before: its lease must end first.
//! 2. A loss is written in the term in which it was suspected or never (`Proposer::propose_in`). So when its fate is not known
//!    the term is over, and the next leader, which has applied whatever was written before, decides by the state alone.
//! 3. A session that has ended is not served: its end is told to the connection that is there, or, when the connection comes
//!    after it, is seen in the state, at which a session looks once more after it is connected and before it is welcomed.
//!
//! The work under the lock does not grow with the number of agents: who must be looked at is kept in the order of time, and
//! the sessions of another term are dropped as a whole.

mod connection;
mod entries;
pub mod opening;
pub mod outgoing;
pub mod reconcile;
mod turns;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use robeing_fleet::{
    AgentId, SessionId, TaskId,
    sabotage::{Mistake, planted},
};
use robeing_platform::sync::{Mutex, MutexGuard, PoisonError};
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

/// What is to be done about an agent that is not heard of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Suspicion {
    /// It had its time: lost.
    Silent(AgentId, SessionId),
    /// It is there, failed, and runs nothing any more: lost.
    Failed(AgentId, SessionId),
    /// Look whether its process is there: its connection broke, or is new.
    Probe(AgentId, SessionId, SocketAddr),
}

/// Whether a connection is taken.
pub enum Connection {
    /// It is the agent's connection from now on.
    Taken(Arc<SessionConnection>),
    /// The agent's loss is proposed: wait until that is decided, then look at the state again.
    Losing(CancellationToken),
    /// A newer session of the agent has begun: look at the state again.
    Replaced,
    /// The term is over.
    TermOver,
}

/// Timing of sessions.
#[derive(Clone, Copy, Debug)]
pub struct SessionTiming {
    /// How often agents send heartbeats.
    pub heartbeat_interval: Duration,
    /// After how long without one an agent is lost.
    pub timeout: Duration,
    /// How often agents are asked how they are.
    pub health_check_interval: Duration,
    /// How long after a connection broke the agent's process is looked for.
    pub grace: Duration,
}

impl SessionTiming {
    /// How old the leader's last contact with a majority may be when it answers a heartbeat: half of the quarter of the
    /// timeout by which an agent's lease ends early. So a leader that was replaced without knowing can't keep an agent working
    /// longer than the new leader waits for it, and the agent has the other half for stopping.
    pub fn lease_margin(&self) -> Duration {
        self.timeout / 8
    }
}

/// Pause between two looks at the same process.
const PROBE_PAUSE: Duration = Duration::from_millis(50);
/// Pause before a loss that could not be proposed is suspected again.
const LOSE_AGAIN: Duration = Duration::from_millis(20);

/// The sessions of one coordinator. Empty while it does not lead.
pub struct SessionTable {
    /// The timing.
    pub timing: SessionTiming,
    sessions: Mutex<Sessions>,
    turns: Turns,
    /// Somebody is to be looked at sooner than the next usual look.
    hurry: Notify,
}

impl SessionTable {
    /// With no session.
    pub fn new(timing: SessionTiming) -> Self {
        let none = Sessions { over: true, ..Sessions::default() };
        Self { timing, sessions: Mutex::new(none), turns: Turns::default(), hurry: Notify::new() }
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The sessions of `term`, if it is not over; a newer term than the last begins empty.
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

    /// This coordinator begins to lead: from now on sessions that begin are noted, and those of the state are to be noted
    /// with [`SessionTable::started`]. Agents that were quicker and have come back already stay as they are.
    pub fn begin(&self, term: u64) {
        drop(self.of_term(term));
    }

    /// Takes note of a session that may have no connection here: it has a whole session timeout to come back. Without a
    /// connection of its own this leader has nothing that a refusal could prove; only a guard may know more. One that is known
    /// already changes nothing.
    pub fn started(&self, agent: AgentId, session: SessionId, process: Option<SocketAddr>, now: Instant) {
        if planted(Mistake::AbsentAgentsForgotten) {
            return;
        }
        let mut sessions = self.sessions();
        // Sessions are numbered in the order of the log.
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
        };
        let old = sessions.insert(agent, entry, probe_at.map_or(silent_at, |at| at.min(silent_at)));
        drop(sessions);
        if let Some(link) = old {
            link.end("the agent has another session");
        }
    }

    /// This coordinator does not lead in this term any more: every session of it is over here, but goes on at the next leader.
    pub fn end(&self, term: u64) {
        let mut sessions = self.sessions();
        if sessions.term == term {
            let old = std::mem::replace(&mut *sessions, Sessions { over: true, ..Sessions::of_term(term) });
            drop(sessions);
            drop_sessions(old);
        }
    }

    /// A connection of an agent under the leadership of this term: replaces an earlier one, unless the agent's loss is proposed.
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
        // Its place is asked now, so that a refusal later means something.
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
        };
        let old = sessions.insert(agent, entry, ask_at.unwrap_or(now + self.timing.timeout));
        drop(sessions);
        if let Some(old) = old {
            old.end("the agent opened another connection");
        }
        Connection::Taken(link)
    }

    /// A connection broke. Where a refusal would prove that the process is gone it is looked for at once; otherwise it has a
    /// grace for coming back.
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

    /// An agent left in good order, or its session ended.
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

    /// Something was heard of an agent on this connection. Whether the agent counts as present: a heartbeat that comes once
    /// its loss is proposed, or over a connection that was replaced, must renew nothing.
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

    /// An agent is of no use any more, as was found over this connection: it counts as lost from `at`, when it runs nothing.
    /// Until then it is left alone, so that its lease ends. If it has another connection by now, that one counts.
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

    /// This leader had no contact with a majority until `now`, so it renewed no lease: every agent has a whole session timeout from
    /// then on. An agent may rely on that to go on when coordinators cannot give its work away.
    pub fn without_contact(&self, now: Instant) {
        self.sessions().unheard_until = Some(now);
    }

    /// What must be done about agents that are not heard of, at most `limit` of them. Each suspicion is told once, until it is
    /// taken back.
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

    /// The process of an agent was looked for: what that comes to. When it is gone, the loss is to be proposed. `waited`: the
    /// agent's guard had its time to report.
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

    /// A guard reports that nothing of a session runs any more, nor will. Whether the loss is to be proposed now; `None`: the
    /// session is not known here in this term.
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

    /// Waits until somebody is to be looked at without delay. Cancellation-safe.
    pub async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// A loss was certainly not written: to be suspected again.
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

    /// This coordinator was held up itself: nobody could be heard meanwhile.
    pub fn extend_all(&self, pause: Duration) {
        self.sessions().excused += pause;
    }

    fn link(&self, agent: AgentId, session: SessionId) -> Option<Arc<SessionConnection>> {
        self.sessions().entry(agent, session)?.link.clone()
    }

    /// Hands an attempt to its agent, if it is connected here. Otherwise the agent gets it when it connects.
    pub fn assign(&self, agent: AgentId, session: SessionId, attempt: AttemptKey) {
        if let Some(link) = self.link(agent, session) {
            link.put(|outbox| outbox.assignments.push(attempt));
        }
    }

    /// Has an attempt stopped, if its agent is connected here. Otherwise the agent is told when it connects.
    pub fn stop(&self, agent: AgentId, session: SessionId, attempt: AttemptKey) {
        if let Some(link) = self.link(agent, session) {
            link.put(|outbox| outbox.stops.push(attempt));
        }
    }

    /// Waits until no other connection of this name is being opened. Cancellation-safe.
    pub async fn turn(&self, name: &str) -> Turn<'_> {
        self.turns.take(name).await
    }
}

/// Agents looked at in one go.
const MAX_LOOKS: usize = 1_024;

/// Drops the sessions of a term, of which there may be many, outside the lock.
fn drop_sessions(old: Sessions) {
    robeing_platform::compute(|| drop(old));
}

#[cfg(test)]
mod tests;
