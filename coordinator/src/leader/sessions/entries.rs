//! The sessions of one term, as kept under the table's lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use robeing_fleet::{AgentId, SessionId};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::SessionConnection;
use crate::leader::evidence::Signs;

/// A proposed loss. Its outcome is known when this is dropped.
pub(super) struct Losing {
    pub(super) decided: CancellationToken,
    _guard: DropGuard,
}

impl Losing {
    pub(super) fn new() -> Self {
        let decided = CancellationToken::new();
        Self { _guard: decided.clone().drop_guard(), decided }
    }
}

/// An agent that has a session.
pub(super) struct Entry {
    pub(super) session: SessionId,
    pub(super) signs: Signs,
    pub(super) heard: Instant,
    /// [`Sessions::excused`] at the time of `heard`.
    pub(super) excused: Duration,
    pub(super) link: Option<Arc<SessionConnection>>,
    /// When its process is to be probed.
    pub(super) probe_at: Option<Instant>,
    /// Whether it has failed: its loss is proposed when its check in [`Sessions::looks`] is due, and `losing` is set
    /// until the loss is written.
    pub(super) failed: bool,
    /// Set while the outcome of its proposed loss is unknown, and while it has failed and its loss is yet to be
    /// proposed.
    pub(super) losing: Option<Losing>,
    /// Its key in [`Sessions::looks`]; `None` while its loss is proposed.
    pub(super) look_at: Option<Instant>,
    /// How many messages it has sent, as its last heartbeat here stated.
    pub(super) messages_sent: Option<u64>,
}

/// The sessions of one term.
#[derive(Default)]
pub(super) struct Sessions {
    pub(super) term: u64,
    /// Whether the term is over here.
    pub(super) over: bool,
    pub(super) entries: BTreeMap<AgentId, Entry>,
    /// When each agent is checked next: no later than the earliest time at which something is due for it. Messages from
    /// the agent do not change this, so that a heartbeat costs little.
    pub(super) looks: BTreeSet<(Instant, AgentId)>,
    /// The total time for which this coordinator stalled and could not receive heartbeats.
    pub(super) excused: Duration,
    /// The earliest instant from which the silence of an agent counts: until then no heartbeat could be answered.
    pub(super) unheard_until: Option<Instant>,
}

impl Sessions {
    pub(super) fn of_term(term: u64) -> Self {
        Self { term, ..Self::default() }
    }

    /// Returns the entry of an agent in this session.
    pub(super) fn entry(&mut self, agent: AgentId, session: SessionId) -> Option<&mut Entry> {
        self.entries.get_mut(&agent).filter(|entry| entry.session == session)
    }

    pub(super) fn remove(&mut self, agent: AgentId) -> Option<Entry> {
        let entry = self.entries.remove(&agent)?;
        if let Some(at) = entry.look_at {
            self.looks.remove(&(at, agent));
        }
        Some(entry)
    }

    /// Inserts an entry, and returns the connection of the entry that it replaces.
    pub(super) fn insert(
        &mut self,
        agent: AgentId,
        mut entry: Entry,
        look_at: Instant,
    ) -> Option<Arc<SessionConnection>> {
        let old = self.remove(agent);
        entry.look_at = Some(look_at);
        self.looks.insert((look_at, agent));
        self.entries.insert(agent, entry);
        old.and_then(|old| old.link)
    }

    /// Schedules a check of an agent at `at` at the latest.
    pub(super) fn look_by(&mut self, agent: AgentId, at: Instant) {
        if let Some(entry) = self.entries.get_mut(&agent)
            && entry.losing.is_none()
            && entry.look_at.is_none_or(|before| at < before)
        {
            self.look_when(agent, at);
        }
    }

    /// Schedules the next check of an agent at exactly `at`, even if it was scheduled earlier.
    pub(super) fn look_when(&mut self, agent: AgentId, at: Instant) {
        let Some(entry) = self.entries.get_mut(&agent) else { return };
        if let Some(before) = entry.look_at.replace(at) {
            self.looks.remove(&(before, agent));
        }
        self.looks.insert((at, agent));
    }

    /// Notes that the loss of an agent is about to be proposed.
    pub(super) fn begin_losing(&mut self, agent: AgentId) {
        if let Some(entry) = self.entries.get_mut(&agent) {
            entry.losing = Some(Losing::new());
            if let Some(at) = entry.look_at.take() {
                self.looks.remove(&(at, agent));
            }
        }
    }
}
