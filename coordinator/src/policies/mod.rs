//! The guardian policies: evaluated at the coordinator that takes a call, or at the leader for results, before anything
//! is proposed. So only the outcome gets into the log, and coordinators of several versions can't disagree about it.
//!
//! Invariants:
//!
//! 1. While no policy concerns an event, it costs one atomic load ([`PolicyNews`]).
//! 2. Policies are compiled once for each revision and coordinator, outside the state's lock.
//! 3. The evaluations on one event take turns, a chunk of inputs at a time, so that expensive ones occupy one thread for
//!    each event and delay neither heartbeats nor the log.
//! 4. A policy that can't be used fails closed, unless it says otherwise.

mod asker;
mod book;
mod checks;
mod compiled;
mod news;
mod record;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use robeing_net::gate::Caller;
use robeing_platform::{
    compute,
    sync::{Mutex, PoisonError},
};
use robeing_policy::Event;
use robeing_telemetry::Metrics;
use tokio::sync::Semaphore;
use tonic::Status;

use self::{asker::Asker, compiled::Compiled, record::Deeds};
pub use self::{
    asker::CallerRights,
    book::{PolicyBook, all},
    checks::{Held, UNKNOWN_RIGHTS},
    compiled::{check_in_force, stored},
    news::PolicyNews,
};
use crate::{apply::observer::ApplyObserver, propose::Proposer, read::StateReader};

/// Number of evaluations on the same event at once.
const TURNS: usize = 1;

/// The policies of a coordinator. Cheap to clone.
#[derive(Clone)]
pub struct Policies(Arc<Shared>);

struct Shared {
    state: StateReader,
    observer: Arc<ApplyObserver>,
    rights: CallerRights,
    deeds: Deeds,
    /// What was compiled last, and how many changes there were then.
    compiled: Mutex<(u64, Arc<Compiled>)>,
    turns: [Semaphore; Event::ALL.len()],
    book: PolicyBook,
}

impl Policies {
    /// Creates the handle.
    pub fn new(state: StateReader, observer: Arc<ApplyObserver>, rights: CallerRights, metrics: &Metrics) -> Self {
        let book = PolicyBook::new(state.clone(), Arc::clone(&observer));
        Self(Arc::new(Shared {
            state,
            observer,
            rights,
            deeds: Deeds::new(metrics),
            compiled: Mutex::default(),
            turns: Event::ALL.map(|_| Semaphore::new(TURNS)),
            book,
        }))
    }

    /// Records what policies do in the audit log. Runs until the coordinator stops.
    pub async fn run(self, proposer: Proposer) {
        self.0.deeds.clone().run(proposer).await;
    }

    /// Returns the policies that agents need.
    pub fn book(&self) -> &PolicyBook {
        &self.0.book
    }

    /// Returns whether policies may have to be evaluated on an event.
    #[cfg(test)]
    pub fn concerns(&self, event: Event) -> bool {
        self.0.observer.policies.concerns(event)
    }

    /// Returns the policies if any of them concerns the event.
    fn active(&self, event: Event) -> Option<Arc<Compiled>> {
        if !self.0.observer.policies.concerns(event) {
            return None;
        }
        let compiled = self.current();
        compiled.policies.concerns(event).then_some(compiled)
    }

    /// Returns the policies in the state, compiled.
    fn current(&self) -> Arc<Compiled> {
        let news = &self.0.observer.policies;
        let mut last = self.0.compiled.lock().unwrap_or_else(PoisonError::into_inner);
        let changes = news.changes();
        if last.0 != changes {
            let list = self.0.state.look(|fleet| fleet.policies().cloned());
            if !last.1.is_of(list.as_ref()) {
                last.1 = Arc::new(compute(|| Compiled::new(list)));
                self.0.deeds.policies_changed();
            }
            last.0 = changes;
        }
        let compiled = Arc::clone(&last.1);
        news.looked(changes, Event::ALL.into_iter().filter(|event| compiled.policies.concerns(*event)));
        compiled
    }

    async fn asker(&self, caller: &Caller, compiled: &Compiled) -> Result<Asker, Status> {
        self.0.rights.asker(caller, compiled.policies.asks_for_rights(), &self.0.state).await
    }

    /// Evaluates on an event, in turn with others on the same event.
    async fn in_turn<T>(&self, event: Event, evaluate: impl FnOnce() -> T) -> T {
        // The semaphores are never closed.
        let _turn = self.0.turns[event as usize].acquire().await;
        compute(evaluate)
    }
}
