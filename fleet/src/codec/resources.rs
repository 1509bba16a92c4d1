//! What the head of a state contains about the resource pool.

use std::collections::BTreeMap;

use bilrost::Message;

use super::{CodecError, state::NumberedHead};
use crate::{
    Allocation, Contribution, FleetMillis,
    resources::{Queue, state::Resources},
    schedule::needing::Shape,
};

/// What the head contains about the resource pool.
#[derive(PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub(super) struct ResourceHead {
    #[bilrost(1)]
    contributions: NumberedHead,
    #[bilrost(2)]
    allocations: NumberedHead,
    #[bilrost(3)]
    queues: BTreeMap<String, Queue>,
    #[bilrost(4)]
    tokens: u64,
    #[bilrost(5)]
    sweep: Option<FleetMillis>,
    #[bilrost(6)]
    round: u64,
    #[bilrost(7)]
    held_by: Option<u64>,
    #[bilrost(8)]
    hold_since: Option<FleetMillis>,
    #[bilrost(9)]
    tasks_after: Option<Shape>,
    #[bilrost(10)]
    tasks_again: bool,
}

impl ResourceHead {
    pub(super) fn of(resources: &Resources) -> Self {
        let Resources {
            contributions,
            allocations,
            queues,
            tokens,
            sweep,
            round,
            held_by,
            hold_since,
            tasks_after,
            tasks_again,
        } = resources;
        Self {
            contributions: NumberedHead::of(contributions),
            allocations: NumberedHead::of(allocations),
            queues: queues.clone(),
            tokens: *tokens,
            sweep: *sweep,
            round: *round,
            held_by: *held_by,
            hold_since: *hold_since,
            tasks_after: tasks_after.clone(),
            tasks_again: *tasks_again,
        }
    }

    pub(super) fn with(
        self,
        contributions: Vec<Contribution>,
        allocations: Vec<Allocation>,
    ) -> Result<Resources, CodecError> {
        Ok(Resources {
            contributions: self.contributions.with(contributions)?,
            allocations: self.allocations.with(allocations)?,
            queues: self.queues,
            tokens: self.tokens,
            sweep: self.sweep,
            round: self.round,
            held_by: self.held_by,
            hold_since: self.hold_since,
            tasks_after: self.tasks_after,
            tasks_again: self.tasks_again,
        })
    }
}
