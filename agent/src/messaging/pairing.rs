//! Which stream a pair of agents keeps. Pure.
//!
//! Either agent opens the stream when it has something to send. If both open one at the same time, the stream of the
//! agent with the lesser name remains: the other agent accepts it and drops its own, and the lesser one holds the
//! other's back until its own stands or has failed. A stream that one side has lost, or that belongs to an earlier link
//! or run of its process, is replaced at once by the next one, since the other side may not notice its end for a while.

use super::frame::Hello;

/// The first pause after a failed attempt to open a stream, in milliseconds.
pub const FIRST_BACKOFF_MS: u64 = 20;
/// The longest pause between attempts to open a stream, in milliseconds.
pub const MAX_BACKOFF_MS: u64 = 2_000;
/// A stream that lasted less than this counts as a failed attempt, in milliseconds.
pub const STABLE_AFTER_MS: u64 = 1_000;

/// What to do with a stream that the other agent has opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Use it, instead of any other stream, and stop opening an own one.
    Accept,
    /// Refuse it: the pair has a stream.
    Refuse,
    /// Keep it until the own attempt to open a stream has ended: refuse it if that succeeds, accept it otherwise.
    Hold,
}

#[derive(Debug, Clone, Copy)]
struct Current {
    stream: u64,
    incarnation: u64,
    is_own: bool,
    since: u64,
}

/// The streams of this agent with another.
#[derive(Debug)]
pub struct Pair {
    is_lesser: bool,
    current: Option<Current>,
    is_opening: bool,
    /// The latest stream that has ended.
    lost: u64,
    failures: u32,
    /// The other agent's memory of handled packets, when it was last known.
    journal: Option<u64>,
}

impl Pair {
    /// Creates the pair of this agent, `me`, and another.
    pub fn new(me: &str, other: &str) -> Self {
        Self { is_lesser: me < other, current: None, is_opening: false, lost: 0, failures: 0, journal: None }
    }

    /// Records that this agent begins to open a stream.
    pub fn opening(&mut self) {
        self.is_opening = true;
    }

    /// Returns the stream that this agent reports as ended in its Hello; 0 if there is none.
    pub fn lost(&self) -> u64 {
        self.lost
    }

    /// Returns whether there is a stream.
    pub fn is_connected(&self) -> bool {
        self.current.is_some()
    }

    /// Returns whether this agent has opened the current stream.
    pub fn is_own(&self) -> bool {
        self.current.is_some_and(|current| current.is_own)
    }

    /// Decides what to do with a stream that the other agent has opened.
    pub fn incoming(&self, hello: &Hello) -> Verdict {
        match self.current {
            Some(current) if hello.incarnation != current.incarnation || hello.lost == current.stream => {
                Verdict::Accept
            }
            // It was opened before the other agent knew of the current one.
            Some(current) if current.is_own && self.is_lesser => Verdict::Refuse,
            Some(_) => Verdict::Accept,
            None if self.is_opening && self.is_lesser => Verdict::Hold,
            None => Verdict::Accept,
        }
    }

    /// Records that a stream is in use now, instead of any other. Returns whether the other agent's memory is another
    /// one than before, so that what it handled without an acknowledgement may be handled again.
    pub fn established(&mut self, now: u64, hello: &Hello, is_own: bool) -> bool {
        if let Some(current) = self.current {
            self.lost = current.stream;
        }
        self.is_opening = false;
        self.current = Some(Current { stream: hello.stream, incarnation: hello.incarnation, is_own, since: now });
        self.journal.replace(hello.journal).is_some_and(|before| before != hello.journal)
    }

    /// Records that an attempt to open a stream has failed.
    pub fn failed(&mut self) {
        self.is_opening = false;
        self.failures = self.failures.saturating_add(1);
    }

    /// Records the end of the current stream.
    pub fn ended(&mut self, now: u64) {
        let Some(current) = self.current.take() else { return };
        self.lost = current.stream;
        let is_stable = now.saturating_sub(current.since) >= STABLE_AFTER_MS;
        self.failures = if is_stable { 0 } else { self.failures.saturating_add(1) };
    }

    /// Returns the pause before the next attempt to open a stream, in milliseconds, of which a random part of half is to
    /// be taken off.
    pub fn pause_ms(&self) -> u64 {
        match self.failures {
            0 => 0,
            failures => (FIRST_BACKOFF_MS << (failures - 1).min(16)).min(MAX_BACKOFF_MS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messaging::tests::fixture::hello;

    fn pairs() -> (Pair, Pair) {
        (Pair::new("a", "b"), Pair::new("b", "a"))
    }

    #[test]
    fn the_stream_of_the_lesser_name_remains_if_both_open_one() {
        let (mut a, mut b) = pairs();
        a.opening();
        b.opening();
        let (from_a, from_b) = (hello("a", "b", 1), hello("b", "a", 2));
        assert_eq!(a.incoming(&from_b), Verdict::Hold);
        assert_eq!(b.incoming(&from_a), Verdict::Accept);
        b.established(0, &from_a, false);
        a.established(0, &Hello { stream: 1, ..hello("b", "a", 1) }, true);
        assert_eq!(a.incoming(&from_b), Verdict::Refuse, "if it arrives late");
        assert!(a.is_own() && !b.is_own());
    }

    #[test]
    fn the_greater_name_is_heard_if_the_lesser_one_can_not_connect() {
        let (mut a, _) = pairs();
        a.opening();
        a.failed();
        assert_eq!(a.incoming(&hello("b", "a", 2)), Verdict::Accept);
        assert_eq!(a.pause_ms(), FIRST_BACKOFF_MS);
    }

    #[test]
    fn a_stream_that_the_other_side_has_lost_is_replaced_at_once() {
        let (mut a, _) = pairs();
        a.established(0, &hello("b", "a", 1), true);
        assert_eq!(a.incoming(&Hello { lost: 1, ..hello("b", "a", 2) }), Verdict::Accept);
        assert_eq!(a.incoming(&Hello { incarnation: 9, ..hello("b", "a", 2) }), Verdict::Accept);
        assert_eq!(a.incoming(&Hello { lost: 5, ..hello("b", "a", 2) }), Verdict::Refuse);
        assert!(!a.established(5, &hello("b", "a", 2), false));
        assert_eq!(a.lost(), 1);
        assert_eq!(a.incoming(&hello("b", "a", 3)), Verdict::Accept, "the other side opened both");
        assert!(a.established(6, &Hello { journal: 99, ..hello("b", "a", 3) }, false), "it has forgotten");
    }

    #[test]
    fn pauses_grow_to_a_limit_until_a_stream_is_stable() {
        let (mut a, _) = pairs();
        assert_eq!(a.pause_ms(), 0);
        let mut pauses = Vec::new();
        for _ in 0..100 {
            a.failed();
            pauses.push(a.pause_ms());
        }
        assert_eq!((pauses[0], pauses[1], pauses[99]), (FIRST_BACKOFF_MS, 2 * FIRST_BACKOFF_MS, MAX_BACKOFF_MS));
        a.established(0, &hello("b", "a", 1), true);
        a.ended(STABLE_AFTER_MS - 1);
        assert_eq!(a.pause_ms(), MAX_BACKOFF_MS);
        a.established(0, &hello("b", "a", 2), true);
        a.ended(STABLE_AFTER_MS);
        assert_eq!((a.pause_ms(), a.lost()), (0, 2));
    }
}
