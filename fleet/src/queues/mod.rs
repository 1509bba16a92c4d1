//! The queues of tasks: what the administrator has set for each, what each was served, and the limits.
//!
//! Which task is taken next, of which queue and submitter, is in [`schedule::queue`](crate::schedule::queue). Invariants of
//! the limits, after each command:
//!
//! 1. Of a queue, or a key of it, whose `concurrency` is limited, no attempt begins while as many tasks run. Lowering a limit
//!    ends nothing that runs.
//! 2. Of one with a `rate`, within any time span no more attempts begin than its burst, and what comes in by its rate
//!    within that time. Each attempt takes a token; tokens come in by the fleet's time, which is in the log, up to the
//!    burst. This holds for as long as the rate is not set to another one, and its bucket is not one too many.
//! 3. A task that waits for a limit waits no longer than for it: when a running task ends, or a token comes in, those that
//!    waited are given to agents in the same command, the ones whose turn it is first (see `admitting`).
//! 4. Whether a limit holds tasks back is in the state: it begins with a start and ends with an end, or with a timer. So
//!    it is the same on all coordinators, whenever they read a snapshot.
//! 5. The memory is bounded: what queues and submitters were served is forgotten with a start after which no task waits,
//!    and beyond [`MAX_SHARES`](crate::limits::MAX_SHARES) for the queue with most submitters at once; a bucket is kept
//!    while it is not full, and there are at most [`MAX_BUCKETS`](crate::limits::MAX_BUCKETS).

pub(crate) mod admitting;
pub(crate) mod aging;
pub(crate) mod audit;
pub(crate) mod buckets;
pub(crate) mod command;
pub(crate) mod gate;
pub(crate) mod query;
pub(crate) mod room;
pub(crate) mod shares;
pub(crate) mod state;

use bilrost::Message;

use crate::{
    FleetMillis, Refusal, SubmitTask, Task,
    config::{check_length, check_name, invalid},
    limits::{
        DEFAULT_QUEUE, MAX_BURST, MAX_DURATION_MS, MAX_LIMITS, MAX_NAME_BYTES, MAX_QUEUE_WEIGHT, MAX_SENDER_BYTES,
    },
};

/// The key of a limit on each key that has no limit of its own.
pub const EACH_KEY: &str = "*";

/// Where a task waits, as submitted.
#[derive(Clone, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct AskedLane {
    /// The queue, [`DEFAULT_QUEUE`] or one that is set; empty: that of its resources, else [`DEFAULT_QUEUE`].
    #[bilrost(1)]
    pub queue: String,
    /// The key that limits of the queue are about; empty: none.
    #[bilrost(2)]
    pub limit_key: String,
    /// Who submits it, as the coordinator knows: of those with different identities, each has a share. Empty: nobody is
    /// known, and the name of the submitter counts.
    #[bilrost(3)]
    pub identity: String,
}

/// Where an accepted task waits.
#[derive(Clone, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct Lane {
    /// What was asked for.
    #[bilrost(1)]
    pub asked: AskedLane,
    /// How long waiting is worth one priority more, ms; 0: for ever.
    #[bilrost(2)]
    pub aging: u64,
}

/// What the administrator sets for a queue.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct QueueRules {
    /// A queue of twice the weight gets twice the share; 1 to [`MAX_QUEUE_WEIGHT`].
    #[bilrost(1)]
    pub weight: u32,
    /// How long waiting is worth one priority more, ms, at most [`MAX_DURATION_MS`]; 0: priorities do not age.
    #[bilrost(2)]
    pub aging: u64,
    /// Most unfinished tasks, at least 1; `None`: as many as the fleet takes.
    #[bilrost(3)]
    pub max_unfinished: Option<u32>,
    /// The limits, each key once; at most [`MAX_LIMITS`].
    #[bilrost(4)]
    pub limits: Vec<Limit>,
}

/// A limit on the starts of a queue's tasks.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Limit {
    /// The key of the tasks that it is about: empty for all tasks of the queue together, [`EACH_KEY`] for the tasks of
    /// each key that has no other limit.
    #[bilrost(1)]
    pub key: String,
    /// How many of them may run at a time, at least 1.
    #[bilrost(2)]
    pub concurrency: Option<u32>,
    /// How often one of them may start.
    #[bilrost(3)]
    pub rate: Option<Rate>,
}

/// How often something may happen: a token bucket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Rate {
    /// So many tokens come in, 1 to [`MAX_BURST`], …
    #[bilrost(1)]
    pub count: u32,
    /// … in this time, ms, 1 to [`MAX_DURATION_MS`].
    #[bilrost(2)]
    pub per: u64,
    /// Most tokens that are there, 1 to [`MAX_BURST`].
    #[bilrost(3)]
    pub burst: u32,
}

/// What a bucket has, as parts of tokens: a token has as many as its rate's `per`, so that nothing is rounded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub(crate) struct Bucket {
    #[bilrost(1)]
    pub level: u64,
    /// When it had that.
    #[bilrost(2)]
    pub at: FleetMillis,
}

/// Returns the limit on a key, or on all tasks of the queue if the key is empty.
pub(crate) fn limit_on<'a>(limits: &'a [Limit], key: &str) -> Option<&'a Limit> {
    let on = |wanted: &str| limits.iter().find(|limit| limit.key == wanted);
    on(key).or_else(|| on(EACH_KEY).filter(|_| !key.is_empty()))
}

impl AskedLane {
    /// Refuses what is out of bounds, whatever the fleet's state.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        if !self.queue.is_empty() {
            check_name("queue", &self.queue)?;
        }
        if !self.limit_key.is_empty() {
            check_name("limit_key", &self.limit_key)?;
        }
        check_length("identity", &self.identity, MAX_SENDER_BYTES)
    }

    /// Returns the bytes that count against the fleet's budget.
    pub(crate) fn stored_bytes(&self) -> usize {
        self.queue.len() + self.limit_key.len() + self.identity.len()
    }
}

impl SubmitTask {
    /// Refuses a place to wait that is out of bounds, or in another queue than that of the task's resources.
    pub(crate) fn check_lane(&self) -> Result<(), Refusal> {
        let Some(lane) = &self.lane else { return Ok(()) };
        lane.check()?;
        match &self.resources {
            Some(asked) if !lane.queue.is_empty() && lane.queue != asked.queue => {
                Err(invalid("queue", format!("is {:?}, and that of the resources {:?}", lane.queue, asked.queue)))
            }
            _ => Ok(()),
        }
    }

    /// Returns the name of the queue that the task is to wait in.
    pub fn queue(&self) -> &str {
        let asked = self.lane.as_ref().map(|lane| lane.queue.as_str()).filter(|queue| !queue.is_empty());
        let of_resources = || self.resources.as_ref().map(|asked| asked.queue.as_str());
        asked.or_else(of_resources).unwrap_or(DEFAULT_QUEUE)
    }

    /// Returns the key that limits of the queue are about; empty if it has none.
    pub fn limit_key(&self) -> &str {
        self.lane.as_ref().map_or("", |lane| &lane.limit_key)
    }
}

impl Task {
    /// Returns the name of the task's queue.
    pub fn queue(&self) -> &str {
        let asked = self.lane.as_ref().map(|lane| lane.asked.queue.as_str()).filter(|queue| !queue.is_empty());
        let of_resources = || self.resources.as_ref().map(|claim| claim.asked.queue.as_str());
        asked.or_else(of_resources).unwrap_or(DEFAULT_QUEUE)
    }

    /// Returns the key that limits of its queue are about; empty if it has none.
    pub fn limit_key(&self) -> &str {
        self.lane.as_ref().map_or("", |lane| &lane.asked.limit_key)
    }

    /// Returns for whose share of the queue the task counts: the identity of who has submitted it, else the name that was
    /// given.
    pub fn counts_for(&self) -> &str {
        let identity = self.lane.as_ref().map(|lane| lane.asked.identity.as_str());
        identity.filter(|identity| !identity.is_empty()).unwrap_or(&self.submitter)
    }

    /// Returns how long waiting is worth one priority more, ms; 0: for ever.
    pub(crate) fn aging(&self) -> u64 {
        self.lane.as_ref().map_or(0, |lane| lane.aging)
    }
}

impl QueueRules {
    /// Returns the rules of a queue with this weight and no limits, whose priorities do not age.
    pub fn of_weight(weight: u32) -> QueueRules {
        QueueRules { weight, aging: 0, max_unfinished: None, limits: Vec::new() }
    }

    /// Refuses rules that are out of bounds. `queue` is the name of the queue.
    pub(crate) fn check(&self, queue: &str) -> Result<(), Refusal> {
        let bad = |field: &str, problem: String| {
            Err(invalid(&format!("queues.{field}"), format!("of queue {queue:?} {problem}")))
        };
        if !(1..=MAX_QUEUE_WEIGHT).contains(&self.weight) {
            return bad("weight", format!("is {}, must be 1 to {MAX_QUEUE_WEIGHT}", self.weight));
        }
        if self.aging > MAX_DURATION_MS {
            return bad("aging", format!("is {} ms, the most is {MAX_DURATION_MS} ms (366 days)", self.aging));
        }
        if self.max_unfinished == Some(0) {
            return bad("max_unfinished", "must be at least 1; leave it out for no limit".to_owned());
        }
        if self.limits.len() > MAX_LIMITS {
            return bad("limits", format!("has {} entries, the most is {MAX_LIMITS}", self.limits.len()));
        }
        for (n, limit) in self.limits.iter().enumerate() {
            if let Err(problem) = limit.check() {
                return bad("limits", format!("on key {:?} {problem}", limit.key));
            }
            if self.limits[..n].iter().any(|other| other.key == limit.key) {
                return bad("limits", format!("has two on key {:?}", limit.key));
            }
        }
        Ok(())
    }
}

impl Limit {
    /// Returns what is wrong with the limit, if anything is.
    fn check(&self) -> Result<(), String> {
        if self.key.len() > MAX_NAME_BYTES {
            return Err(format!("has {} bytes, the most is {MAX_NAME_BYTES}", self.key.len()));
        }
        match (self.concurrency, self.rate) {
            (None, None) => Err("limits nothing; give a concurrency or a rate".to_owned()),
            (Some(0), _) => Err("lets nothing run; the concurrency must be at least 1".to_owned()),
            (_, Some(rate)) if !rate.is_sound() => Err(format!(
                "must let 1 to {MAX_BURST} tasks start within 1 to {MAX_DURATION_MS} ms, with a burst of 1 to {MAX_BURST}"
            )),
            _ => Ok(()),
        }
    }
}

impl Rate {
    fn is_sound(self) -> bool {
        let counts = 1..=MAX_BURST;
        counts.contains(&self.count) && counts.contains(&self.burst) && (1..=MAX_DURATION_MS).contains(&self.per)
    }

    /// Returns how many parts of tokens a bucket has at most.
    pub(crate) fn capacity(self) -> u64 {
        u64::from(self.burst).saturating_mul(self.per)
    }

    /// Returns how long so many parts of tokens take to come in, ms.
    pub(crate) fn time_for(self, parts: u64) -> u64 {
        parts.div_ceil(u64::from(self.count.max(1)))
    }
}

impl Bucket {
    /// Returns a full bucket.
    pub(crate) fn full(rate: Rate, at: FleetMillis) -> Bucket {
        Bucket { level: rate.capacity(), at }
    }

    /// Returns what it has at a later time.
    pub(crate) fn at(self, rate: Rate, now: FleetMillis) -> Bucket {
        let came = now.saturating_sub(self.at).saturating_mul(u64::from(rate.count));
        Bucket { level: self.level.saturating_add(came).min(rate.capacity()), at: now.max(self.at) }
    }

    /// Returns whether it has less than a token. That is so until its timer fires.
    pub(crate) fn is_dry(self, rate: Rate) -> bool {
        self.level < rate.per
    }

    /// Returns when it has a token again if it is dry, else when it is full.
    pub(crate) fn due(self, rate: Rate) -> FleetMillis {
        let wanted = if self.is_dry(rate) { rate.per } else { rate.capacity() };
        self.at.saturating_add(rate.time_for(wanted.saturating_sub(self.level)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { count: 3, per: 1_000, burst: 2 };

    #[test]
    fn a_bucket_fills_by_its_rate_up_to_its_burst_and_nothing_is_rounded() {
        let empty = Bucket { level: 0, at: 100 };
        assert_eq!(empty.due(RATE), 100 + 334, "a third of a second, rounded up");
        assert!(empty.at(RATE, 433).is_dry(RATE));
        assert!(!empty.at(RATE, 434).is_dry(RATE));
        let in_steps = (101..=434).fold(empty, |bucket, now| bucket.at(RATE, now));
        assert_eq!(in_steps, empty.at(RATE, 434));
        assert_eq!(empty.at(RATE, u64::MAX).level, RATE.capacity());
        assert_eq!(in_steps.due(RATE), 434 + (2_000 - 1_002_u64).div_ceil(3), "when it is full");
    }

    #[test]
    fn time_that_goes_back_brings_nothing() {
        let bucket = Bucket { level: 5, at: 100 };
        assert_eq!(bucket.at(RATE, 50), bucket);
    }

    #[test]
    fn rules_are_held_to_their_limits() {
        let limit = |key: &str, concurrency, rate| Limit { key: key.to_owned(), concurrency, rate };
        let check = |limits| QueueRules { limits, ..QueueRules::of_weight(1) }.check("q");
        assert_eq!(check(vec![limit("", Some(1), None), limit("*", None, Some(RATE))]), Ok(()));
        let rate = |count, per, burst| Some(Rate { count, per, burst });
        for bad in [
            limit("", None, None),
            limit("", Some(0), None),
            limit("", None, rate(0, 1, 1)),
            limit("", None, rate(1, 0, 1)),
            limit("", None, rate(1, 1, 0)),
            limit("", None, rate(MAX_BURST + 1, 1, 1)),
            limit("", None, rate(1, MAX_DURATION_MS + 1, 1)),
            limit("", None, rate(1, 1, MAX_BURST + 1)),
            limit(&"x".repeat(MAX_NAME_BYTES + 1), Some(1), None),
        ] {
            assert!(check(vec![bad.clone()]).is_err(), "{bad:?}");
        }
        let many = |count: usize| (0..count).map(|n| limit(&n.to_string(), Some(1), None)).collect::<Vec<_>>();
        assert_eq!((check(many(MAX_LIMITS)), check(many(MAX_LIMITS + 1)).is_err()), (Ok(()), true));
        assert!(check(vec![limit("a", Some(1), None), limit("a", Some(2), None)]).is_err(), "each key once");
        let with = |weight, aging, max_unfinished| {
            QueueRules { aging, max_unfinished, ..QueueRules::of_weight(weight) }.check("q").is_ok()
        };
        assert!(with(1, 0, None) && with(MAX_QUEUE_WEIGHT, MAX_DURATION_MS, Some(1)));
        assert!(!with(0, 0, None) && !with(MAX_QUEUE_WEIGHT + 1, 0, None));
        assert!(!with(1, MAX_DURATION_MS + 1, None) && !with(1, 0, Some(0)));
    }
}
