//! The stored state of the resource pool.

use std::collections::BTreeMap;

use super::{Allocation, Contribution, Queue};
use crate::{FleetMillis, numbered::Numbered, schedule::needing::Shape};

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
    /// When it has to be found out next which of the requests that wait can be granted. A few are looked at by each
    /// firing of the timer for this, so that no command takes long.
    pub sweep: Option<FleetMillis>,
    /// The round: it is another one whenever something may be free, so that all requests that wait are looked at again.
    pub round: u64,
    /// The request that keeps others waiting now, by its number.
    pub held_by: Option<u64>,
    /// Since when requests keep others waiting, for [`MAX_HOLD_MS`](crate::limits::MAX_HOLD_MS). For as long after
    /// that, none does.
    pub hold_since: Option<FleetMillis>,
    /// While tasks that need resources are looked at, once no request is left in the round: the needs that were looked
    /// at last.
    pub tasks_after: Option<Shape>,
    /// Something may have become free since the first ones of them were looked at, so all are once more.
    pub tasks_again: bool,
}
