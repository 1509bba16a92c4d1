//! The agents that have changed since the keeper last looked.

use std::{collections::BTreeSet, sync::Arc};

use robeing_fleet::limits::MAX_AGENTS;
use robeing_platform::sync::{Mutex, PoisonError};
use tokio::sync::Notify;

/// Maximum number of agents that are noted by name. If more have changed, everything is read again.
const MAX_NOTED: usize = MAX_AGENTS as usize;

/// What has changed.
#[derive(Debug, PartialEq, Eq)]
pub enum Noted {
    /// These agents, by name.
    Agents(BTreeSet<Arc<str>>),
    /// Possibly all.
    Everything,
}

impl Default for Noted {
    fn default() -> Self {
        Self::Agents(BTreeSet::new())
    }
}

/// The agents that have changed since they were last taken. The state machine waits while one is noted.
#[derive(Default)]
pub struct ChangedAgents {
    noted: Mutex<Noted>,
    wake: Notify,
}

impl ChangedAgents {
    /// Notes an agent.
    pub fn note(&self, agent: Arc<str>) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Noted::Agents(agents) = &mut *noted {
            agents.insert(agent);
            if agents.len() > MAX_NOTED {
                *noted = Noted::Everything;
            }
        }
        drop(noted);
        self.wake.notify_one();
    }

    /// Notes that any agent may have changed.
    pub fn note_everything(&self) {
        *self.noted.lock().unwrap_or_else(PoisonError::into_inner) = Noted::Everything;
        self.wake.notify_one();
    }

    /// Wakes the keeper although nothing may have changed, so that it finds out up to which revision.
    pub fn wake(&self) {
        self.wake.notify_one();
    }

    /// Waits until something is noted, or the keeper is woken. Cancellation-safe.
    pub async fn woken(&self) {
        self.wake.notified().await;
    }

    /// Takes what was noted.
    pub fn take(&self) -> Noted {
        std::mem::take(&mut *self.noted.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_noted_up_to_a_limit_and_beyond_it_everything() {
        let changed = ChangedAgents::default();
        assert_eq!(changed.take(), Noted::Agents(BTreeSet::new()));
        let note = |range: std::ops::Range<usize>| range.for_each(|n| changed.note(format!("a-{n}").into()));
        note(0..MAX_NOTED);
        note(0..MAX_NOTED);
        let Noted::Agents(all) = changed.take() else { panic!("they are as many as may be noted") };
        assert_eq!(all.len(), MAX_NOTED);
        note(0..MAX_NOTED + 1);
        note(0..1);
        assert_eq!(changed.take(), Noted::Everything);
        note(0..1);
        assert_eq!(changed.take(), Noted::Agents([Arc::from("a-0")].into()));
        changed.note_everything();
        note(0..1);
        assert_eq!(changed.take(), Noted::Everything);
    }
}
