//! When an agent has been silent for too long, or its process is to be probed.

use std::time::Duration;

use robeing_fleet::AgentId;
use tokio::time::Instant;

use super::{
    Suspicion,
    entries::{Losing, Sessions},
};

impl Sessions {
    /// Checks an agent whose check is due.
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
