//! The sessions of one term, as they stand under the table's lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use robeing_fleet::{AgentId, SessionId};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{SessionConnection, Suspicion};
use crate::leader::evidence::Signs;

/// A loss that is proposed. Its fate is known when this is dropped.
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
    /// [`Sessions::excused`] when it was heard.
    pub(super) excused: Duration,
    pub(super) link: Option<Arc<SessionConnection>>,
    /// When its process is to be looked for.
    pub(super) probe_at: Option<Instant>,
    /// It has failed: its loss is proposed at its place in [`Sessions::looks`], and `losing` is there until it is written.
    pub(super) failed: bool,
    /// Its loss was proposed, or is going to be because it has failed, and is not decided.
    pub(super) losing: Option<Losing>,
    /// Its place in [`Sessions::looks`]; `None` while its loss is proposed.
    pub(super) look_at: Option<Instant>,
}

/// The sessions of one term.
#[derive(Default)]
pub(super) struct Sessions {
    pub(super) term: u64,
    /// The term is over here.
    pub(super) over: bool,
    pub(super) entries: BTreeMap<AgentId, Entry>,
    /// When each agent must be looked at next: never later than something is due. What is heard of it meanwhile moves
    /// nothing here, so that a heartbeat costs little.
    pub(super) looks: BTreeSet<(Instant, AgentId)>,
    /// For how long in all this coordinator was held up and could hear nobody.
    pub(super) excused: Duration,
    /// No agent counts as silent from before then: until then no heartbeat could be answered.
    pub(super) unheard_until: Option<Instant>,
}

impl Sessions {
    pub(super) fn of_term(term: u64) -> Self {
        Self { term, ..Self::default() }
    }

    /// The entry of an agent in its session.
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

    /// Puts in an entry, and gives the connection of the one that it replaces.
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

    /// Has an agent looked at by `at`.
    pub(super) fn look_by(&mut self, agent: AgentId, at: Instant) {
        if let Some(entry) = self.entries.get_mut(&agent)
            && entry.losing.is_none()
            && entry.look_at.is_none_or(|before| at < before)
        {
            self.look_when(agent, at);
        }
    }

    /// Has an agent looked at when it is `at`, and not before.
    pub(super) fn look_when(&mut self, agent: AgentId, at: Instant) {
        let Some(entry) = self.entries.get_mut(&agent) else { return };
        if let Some(before) = entry.look_at.replace(at) {
            self.looks.remove(&(before, agent));
        }
        self.looks.insert((at, agent));
    }

    /// The loss of an agent is going to be proposed.
    pub(super) fn begin_losing(&mut self, agent: AgentId) {
        if let Some(entry) = self.entries.get_mut(&agent) {
            entry.losing = Some(Losing::new());
            if let Some(at) = entry.look_at.take() {
                self.looks.remove(&(at, agent));
            }
        }
    }

    /// Looks at an agent whose time to be looked at has come.
    pub(super) fn look(&mut self, agent: AgentId, timeout: Duration, now: Instant) -> Option<Suspicion> {
        let (excused, unheard_until) = (self.excused, self.unheard_until);
        let entry = self.entries.get_mut(&agent)?;
        entry.look_at = None;
        if entry.failed {
            return Some(Suspicion::Failed(agent, entry.session));
        }
        let heard = entry.heard + excused.saturating_sub(entry.excused);
        let silent_at = unheard_until.map_or(heard, |until| until.max(heard)) + timeout;
        if silent_at <= now {
            entry.losing = Some(Losing::new());
            return Some(Suspicion::Silent(agent, entry.session));
        }
        let probe = entry.probe_at.take_if(|at| *at <= now);
        let process = entry.signs.process().filter(|_| probe.is_some());
        let suspicion = process.map(|process| Suspicion::Probe(agent, entry.session, process));
        let next = entry.probe_at.map_or(silent_at, |at| at.min(silent_at));
        self.look_by(agent, next);
        suspicion
    }
}
