//! The agent's lease on its session: the time until which it may act on its assignments. Pure arithmetic on monotonic
//! instants.
//!
//! The leader counts an agent as lost `session_timeout` after it *received* the last heartbeat. The agent counts from
//! when it *sent* the last acknowledged heartbeat, which is earlier, and its lease ends one [`MARGIN`]th of the timeout
//! before that; the margin is the time it has to stop running attempts. The Welcome of a new session acknowledges its
//! Hello, because the join was committed after the Hello was sent. So an attempt is never reassigned while the agent
//! still runs it, as long as both clocks run at about the same rate.

use std::{collections::VecDeque, time::Duration};

use robeing_fleet::sabotage::{Mistake, planted};
use tokio::time::Instant;

/// The share of the session timeout reserved for stopping attempts: one part in `MARGIN`.
pub const MARGIN: u32 = 4;
/// The minimum number of heartbeats per session timeout, whatever interval the leader requests.
pub const HEARTBEATS_PER_TIMEOUT: u32 = 4;
/// The share of the session timeout without an acknowledgement after which the connection counts as dead: one part in
/// `SILENCE`. It is short enough to find the leader elsewhere before the lease ends.
pub const SILENCE: u32 = 2;
/// The number of heartbeats whose send time is remembered; an acknowledgement of an older one renews nothing.
pub const MAX_UNACKNOWLEDGED_HEARTBEATS: usize = 64;
/// The minimum session timeout; a shorter one is raised to this value.
const MIN_SESSION_TIMEOUT: Duration = Duration::from_millis(20);

/// A session's lease and the heartbeats that renew it.
#[derive(Debug)]
pub struct Lease {
    timeout: Duration,
    interval: Duration,
    /// The send time of the last acknowledged message.
    renewed: Instant,
    /// When the stream that renews the lease was opened.
    opened: Instant,
    next_heartbeat: Instant,
    seq: u64,
    unacknowledged: VecDeque<(u64, Instant)>,
}

impl Lease {
    /// Returns the lease granted in response to a message sent at `sent`.
    pub fn new(sent: Instant, now: Instant, session_timeout: Duration, heartbeat_interval: Duration) -> Self {
        let timeout = session_timeout.max(MIN_SESSION_TIMEOUT);
        let interval = heartbeat_interval.max(timeout / 100).min(timeout / HEARTBEATS_PER_TIMEOUT);
        Self {
            timeout,
            interval,
            renewed: sent,
            opened: now,
            next_heartbeat: now + interval,
            seq: 0,
            unacknowledged: VecDeque::new(),
        }
    }

    /// Resumes the session over a stream opened at `now`. That alone renews nothing, because a deposed coordinator that
    /// does not know it yet would also resume the session. A heartbeat is due at once, which only a leader
    /// acknowledges.
    pub fn resumed(&mut self, now: Instant) {
        self.opened = now;
        self.next_heartbeat = now;
        self.unacknowledged.clear();
    }

    /// When the lease ends. From then on no attempt of the session may start, and running ones must be stopped at
    /// once.
    pub fn until(&self) -> Instant {
        let lasts = self.timeout - self.timeout / MARGIN;
        self.renewed + if planted(Mistake::LeaseTwiceAsLong) { lasts * 2 } else { lasts }
    }

    /// Whether the lease has ended.
    pub fn is_over(&self, now: Instant) -> bool {
        now >= self.until()
    }

    /// When the connection counts as dead, unless an acknowledgement arrives first.
    pub fn silent_from(&self) -> Instant {
        self.renewed.max(self.opened) + self.timeout / SILENCE
    }

    /// When the next heartbeat is due.
    pub fn next_heartbeat(&self) -> Instant {
        self.next_heartbeat
    }

    /// Records a heartbeat sent at `now` and returns its sequence number.
    pub fn beat(&mut self, now: Instant) -> u64 {
        self.seq += 1;
        self.next_heartbeat = now + self.interval;
        if self.unacknowledged.len() == MAX_UNACKNOWLEDGED_HEARTBEATS {
            self.unacknowledged.pop_front();
        }
        self.unacknowledged.push_back((self.seq, now));
        self.seq
    }

    /// Processes an acknowledgement and returns when that heartbeat was sent; `None` if it was not sent or is no longer
    /// remembered.
    pub fn acknowledged(&mut self, seq: u64) -> Option<Instant> {
        let position = self.unacknowledged.iter().position(|(sent, _)| *sent == seq)?;
        let (_, sent) = self.unacknowledged.drain(..=position).next_back()?;
        let from = if planted(Mistake::LeaseFromReceipt) { Instant::now() } else { sent };
        self.renewed = self.renewed.max(from);
        Some(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn lease(sent: Instant) -> Lease {
        Lease::new(sent, sent, 2 * SECOND, SECOND / 2)
    }

    #[test]
    fn it_ends_a_quarter_of_the_timeout_early_counted_from_the_sending() {
        let sent = Instant::now();
        let lease = Lease::new(sent, sent + SECOND, 2 * SECOND, SECOND / 2);
        let end = sent + Duration::from_millis(1_500);
        assert_eq!(lease.until(), end);
        assert!(!lease.is_over(end - Duration::from_nanos(1)));
        assert!(lease.is_over(end));
    }

    #[test]
    fn an_acknowledgement_renews_from_when_its_heartbeat_was_sent() {
        let start = Instant::now();
        let mut lease = lease(start);
        let first = lease.beat(start + SECOND / 2);
        let second = lease.beat(start + SECOND);
        assert_eq!(lease.acknowledged(first), Some(start + SECOND / 2));
        assert_eq!(lease.until(), start + 2 * SECOND);
        assert_eq!(lease.acknowledged(second), Some(start + SECOND));
        assert_eq!(lease.until(), start + Duration::from_millis(2_500));
    }

    #[test]
    fn an_acknowledgement_of_what_was_never_sent_or_already_acknowledged_renews_nothing() {
        let start = Instant::now();
        let mut lease = lease(start);
        let seq = lease.beat(start + SECOND);
        assert_eq!(lease.acknowledged(seq + 1), None);
        assert!(lease.acknowledged(seq).is_some());
        assert_eq!(lease.acknowledged(seq), None);
        assert_eq!(lease.until(), start + Duration::from_millis(2_500));
    }

    #[test]
    fn a_new_stream_renews_nothing_and_asks_for_a_heartbeat_at_once() {
        let start = Instant::now();
        let mut lease = lease(start);
        let old = lease.beat(start + SECOND / 2);
        let opened = start + Duration::from_millis(1_200);
        lease.resumed(opened);
        assert_eq!(lease.until(), start + Duration::from_millis(1_500));
        assert_eq!(lease.next_heartbeat(), opened);
        assert_eq!(lease.silent_from(), opened + SECOND);
        assert_eq!(lease.acknowledged(old), None, "it was sent on the stream before");
        let new = lease.beat(opened);
        assert!(lease.acknowledged(new).is_some());
        assert_eq!(lease.until(), opened + Duration::from_millis(1_500));
    }

    #[test]
    fn heartbeats_beyond_the_limit_are_forgotten_oldest_first() {
        let start = Instant::now();
        let mut lease = lease(start);
        for _ in 0..=MAX_UNACKNOWLEDGED_HEARTBEATS {
            lease.beat(start + SECOND);
        }
        assert_eq!(lease.acknowledged(1), None, "one more than the limit was sent");
        assert!(lease.acknowledged(2).is_some());
    }

    #[test]
    fn heartbeats_are_frequent_enough_for_the_lease_whatever_interval_is_asked_for() {
        let start = Instant::now();
        let lease = Lease::new(start, start, 2 * SECOND, 10 * SECOND);
        assert_eq!(lease.next_heartbeat(), start + SECOND / 2);
        let lease = Lease::new(start, start, Duration::ZERO, Duration::ZERO);
        assert!(lease.next_heartbeat() > start && lease.next_heartbeat() < lease.until());
    }
}
