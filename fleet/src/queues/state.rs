//! The stored state of the queues of tasks.

use std::collections::BTreeMap;

use bilrost::Message;

use super::{Bucket, QueueRules, shares::Shares};

/// The part of the state for the queues of tasks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Queues {
    /// The queues that the administrator set, by name.
    pub set: BTreeMap<String, QueueRules>,
    /// The first task for which its submitter counts. Those before it were accepted before the fleet knew shares, and
    /// keep their order: they count as those of one submitter.
    pub shared_from: u64,
    /// What queues and submitters were served while others waited.
    pub shares: Shares,
    /// The buckets that are not full, by queue.
    pub buckets: BTreeMap<String, QueueBuckets>,
    /// How many attempts have begun at tasks of each queue since it was set, for metrics.
    pub started: BTreeMap<String, u64>,
}

/// The buckets of a queue that are not full.
#[derive(Clone, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub(crate) struct QueueBuckets {
    /// By key; that of all tasks of the queue has none.
    #[bilrost(1)]
    pub keys: BTreeMap<String, Bucket>,
}

impl Queues {
    /// Counts an attempt that begins at a task of a queue, if that is set.
    pub(crate) fn count_started(&mut self, queue: &str) {
        match self.started.get_mut(queue) {
            Some(started) => *started = started.saturating_add(1),
            None if self.set.contains_key(queue) => {
                self.started.insert(queue.to_owned(), 1);
            }
            None => {}
        }
    }

    /// Returns the bucket of a key of a queue, unless it is full.
    pub(crate) fn bucket(&self, queue: &str, key: &str) -> Option<Bucket> {
        self.buckets.get(queue)?.keys.get(key).copied()
    }

    /// Replaces the bucket of a key of a queue; `None`: it is full.
    pub(crate) fn set_bucket(&mut self, queue: &str, key: &str, bucket: Option<Bucket>) {
        match (bucket, self.buckets.get_mut(queue)) {
            (Some(bucket), Some(of_queue)) => {
                of_queue.keys.insert(key.to_owned(), bucket);
            }
            (Some(bucket), None) => {
                let keys = BTreeMap::from([(key.to_owned(), bucket)]);
                self.buckets.insert(queue.to_owned(), QueueBuckets { keys });
            }
            (None, Some(of_queue)) => {
                of_queue.keys.remove(key);
                if of_queue.keys.is_empty() {
                    self.buckets.remove(queue);
                }
            }
            (None, None) => {}
        }
    }
}
