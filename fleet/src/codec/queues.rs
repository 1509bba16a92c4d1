//! What the head of a state contains about queues of tasks.

use std::collections::BTreeMap;

use bilrost::Message;

use crate::queues::{
    QueueRules,
    shares::{Share, Shares},
    state::{QueueBuckets, Queues},
};

/// What the head contains about queues of tasks.
#[derive(PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub(super) struct QueuesHead {
    #[bilrost(1)]
    set: BTreeMap<String, QueueRules>,
    #[bilrost(2)]
    shared_from: u64,
    #[bilrost(3)]
    shares: BTreeMap<String, Share>,
    #[bilrost(4)]
    buckets: BTreeMap<String, QueueBuckets>,
    #[bilrost(5)]
    started: BTreeMap<String, u64>,
}

impl QueuesHead {
    pub(super) fn of(queues: &Queues) -> Self {
        let Queues { set, shared_from, shares, buckets, started } = queues;
        let shares = shares.queues().clone();
        let (set, buckets, started) = (set.clone(), buckets.clone(), started.clone());
        Self { set, shared_from: *shared_from, shares, buckets, started }
    }

    pub(super) fn into_queues(self) -> Queues {
        let Self { set, shared_from, shares, buckets, started } = self;
        Queues { set, shared_from, shares: Shares::from_queues(shares), buckets, started }
    }
}
