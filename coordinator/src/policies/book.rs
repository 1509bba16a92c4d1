//! The policies that agents need: those on messages, which each agent evaluates on what it receives.

use std::sync::Arc;

use robeing_fleet::PolicyList;
use robeing_platform::sync::{Mutex, PoisonError};
use robeing_policy::{Event, PolicySpec};
use robeing_proto::v1;
use tokio::sync::watch;

use crate::{apply::observer::ApplyObserver, read::StateReader};

/// The policies of the state, and what agents get of them.
type Known = (Arc<PolicyList>, Arc<v1::Policies>);

/// Knows the policies on messages. Cheap to clone.
#[derive(Clone)]
pub struct PolicyBook {
    state: StateReader,
    observer: Arc<ApplyObserver>,
    known: Arc<Mutex<Option<Known>>>,
}

impl PolicyBook {
    pub(super) fn new(state: StateReader, observer: Arc<ApplyObserver>) -> Self {
        Self { state, observer, known: Arc::default() }
    }

    /// Returns a watch that changes whenever the policies may have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.observer.policies.watch()
    }

    /// Returns the policies on messages, as agents get them. The revision is 0 if policies were never set.
    pub fn current(&self) -> Arc<v1::Policies> {
        let list = self.state.look(|fleet| fleet.policies().cloned());
        let Some(list) = list else { return Arc::default() };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        match &*known {
            Some((of, policies)) if Arc::ptr_eq(of, &list) => Arc::clone(policies),
            _ => {
                let policies = Arc::new(of_messages(&list));
                *known = Some((list, Arc::clone(&policies)));
                policies
            }
        }
    }
}

/// Returns the policies on messages. One that can't be read here is passed on: the agent may be of a later version, and
/// otherwise refuses messages for it.
fn of_messages(list: &PolicyList) -> v1::Policies {
    let concerns = |json: &str| PolicySpec::from_json(json).map_or(true, |spec| spec.on.contains(&Event::Message));
    let policies = list.policies.iter().filter(|policy| concerns(&policy.json));
    v1::Policies { revision: list.revision, policies: policies.map(|policy| policy.json.clone()).collect() }
}

/// Returns all policies, for administrators.
pub fn all(list: Option<&PolicyList>) -> v1::Policies {
    let of = |list: &PolicyList| v1::Policies {
        revision: list.revision,
        policies: list.policies.iter().map(|policy| policy.json.clone()).collect(),
    };
    list.map(of).unwrap_or_default()
}
