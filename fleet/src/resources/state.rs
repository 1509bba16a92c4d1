//! The stored state of the resource pool.

use std::collections::BTreeMap;

use super::{Allocation, Contribution, Queue};
use crate::{FleetMillis, numbered::Numbered};

/// The part of the state for resources.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Resources {
    /// What agents contribute.
    pub contributions: Numbered<Contribution>,
    /// The requests that wait, those that were granted, and those that ended recently.
    pub allocations: Numbered<Allocation>,
    /// The queues that the administrator set, by name.
    pub queues: BTreeMap<String, Queue>,
    /// The newest fencing token; 0 at first.
    pub tokens: u64,
    /// Since when it has to be found out which of the requests that wait can be granted. One is granted by each firing
    /// of the timer for this, so that no command takes long.
    pub sweep: Option<FleetMillis>,
}
