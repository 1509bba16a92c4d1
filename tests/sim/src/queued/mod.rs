//! Tasks in queues of their own: with limits, and with two submitters of whom one has many and the other a few.

mod crowd;
mod ledger;

pub use self::{
    crowd::Crowd,
    ledger::{QueueLedger, Running},
};

/// The queue with both submitters. So many of its tasks run at a time.
const SHARED: &str = "shared";
const SHARED_AT_ONCE: u32 = 2;
/// The queue whose tasks have keys. So many tasks of each key run at a time.
const KEYED: &str = "keyed";
const KEYED_AT_ONCE: u32 = 1;
/// The queue of which one attempt begins in so many milliseconds, and so many at once.
const PACED: &str = "paced";
const PACE: u64 = 1_000;
const BURST: u32 = 2;
