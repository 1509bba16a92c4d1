//! The token buckets: each start of a task takes a token of its queue and of its key, if their rates are limited.

use crate::{
    Fleet,
    queues::Bucket,
    sabotage::{Mistake, planted},
};

impl Fleet {
    /// Counts a start of a task of this queue and key, and takes the tokens for it. Does nothing unless queues are set.
    pub(crate) fn note_start(&mut self, queue: &str, key: &str) {
        self.state.queues.count_started(queue);
        if !self.indexes.schedule.gate.has_no_limits() {
            self.take_tokens(queue, key);
        }
    }

    fn take_tokens(&mut self, queue: &str, key: &str) {
        self.take_token(queue, "");
        if !key.is_empty() {
            self.take_token(queue, key);
        }
    }

    fn take_token(&mut self, queue: &str, key: &str) {
        let Some(rate) = self.indexes.schedule.gate.rate_of(queue, key) else { return };
        if planted(Mistake::TokensIgnored) {
            return;
        }
        let now = self.state.now.fleet;
        let bucket = self.state.queues.bucket(queue, key).unwrap_or(Bucket::full(rate, now)).at(rate, now);
        let level = bucket.level.saturating_sub(rate.per);
        self.make_room_for_bucket(queue, key);
        self.set_bucket(queue, key, Some(Bucket { level, ..bucket }));
    }

    /// Replaces the bucket of a key of a queue; `None`: it is full.
    pub(crate) fn set_bucket(&mut self, queue: &str, key: &str, bucket: Option<Bucket>) {
        let before = self.state.queues.bucket(queue, key);
        self.state.queues.set_bucket(queue, key, bucket);
        if self.indexes.schedule.gate.set_bucket((queue, key), before, bucket) {
            self.indexes.schedule.open(queue, key);
        }
        self.set_bucket_timer();
    }

    /// Sets the timer for the bucket whose time comes first.
    pub(crate) fn set_bucket_timer(&mut self) {
        let before = self.indexes.schedule.gate.timer;
        let next = self.indexes.schedule.set_bucket_timer();
        if next == before {
            return;
        }
        if let Some(before) = before {
            self.indexes.timers.clear_buckets(before);
        }
        if let Some(next) = next {
            self.indexes.timers.set_buckets(next);
        }
    }

    /// Forgets the bucket that is full first if there are too many to keep another one.
    fn make_room_for_bucket(&mut self, queue: &str, key: &str) {
        if !self.has_bucket_room(queue, key)
            && let Some((_, (queue, key))) = self.indexes.schedule.gate.next_due().cloned()
        {
            self.set_bucket(&queue, &key, None);
        }
    }

    /// Does what the timer of buckets is for, which has fired: the one whose time has come has a token, or is full.
    pub(crate) fn bucket_due(&mut self) {
        let now = self.state.now.fleet;
        self.indexes.schedule.gate.timer = None;
        let first = self.indexes.schedule.gate.next_due().filter(|(due, _)| *due <= now).cloned();
        let Some((_, (queue, key))) = first else { return self.set_bucket_timer() };
        let rate = self.indexes.schedule.gate.rate_of(&queue, &key);
        let bucket =
            self.state.queues.bucket(&queue, &key).zip(rate).map(|(bucket, rate)| (bucket.at(rate, now), rate));
        let left = bucket.filter(|(bucket, rate)| bucket.level < rate.capacity()).map(|(bucket, _)| bucket);
        self.set_bucket(&queue, &key, left);
    }
}
