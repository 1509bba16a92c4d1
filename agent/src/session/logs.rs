//! The logs of the attempts of this agent, and which of them the leader follows. Nothing is sent of an attempt that nobody
//! follows. What is sent is bounded by its rate, and comes after everything else on the stream, so that it holds up no
//! heartbeat and no completion for long. Pure but for the logs, which executors write at any time.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use ahash::HashMap;
use prost_types::Timestamp;
use robeing_platform::Clock;
use robeing_proto::{internal::v1 as internal, v1};
use tokio::{sync::Notify, time::Instant};

use super::held::{Held, Key};
use crate::executor::{
    AttemptLog, LogStream,
    attempt_log::{LoggedLine, MAX_LOG_BYTES},
};

/// The maximum number of logs kept of attempts that have ended, newest last.
pub const ENDED_KEPT: usize = 64;
/// How long the log of an attempt that has ended is kept.
pub const ENDED_KEPT_FOR: Duration = Duration::from_secs(600);
/// The maximum size of the logs of running attempts together, in bytes: with many slots, less is kept of each.
pub const AGENT_LOG_BYTES: usize = 16 * 1024 * 1024;
/// The maximum number of attempts that are followed at once; further ones are ignored.
pub const MAX_FOLLOWED: usize = 256;
/// The maximum size of the lines in one message, in bytes, unless it has one line only.
pub const MESSAGE_BYTES: usize = 32 * 1024;
/// The maximum rate at which lines are sent, in bytes per second.
pub const BYTES_PER_SECOND: usize = 256 * 1024;
/// After a pause this long, what could have been sent meanwhile may be sent at once.
pub const BURST: Duration = Duration::from_secs(1);
/// The minimum pause between two messages: what comes meanwhile is sent together.
pub const APART: Duration = Duration::from_millis(20);
/// Bytes that a message counts besides its lines.
const MESSAGE_OVERHEAD: usize = 64;

/// Why there are no lines of an attempt.
const MISSING: &str = "the agent does not keep the lines of this attempt, or not any more";

/// The log of an attempt that has ended.
struct Ended {
    key: Key,
    log: AttemptLog,
    at: Instant,
}

/// What the leader has been sent of an attempt that it follows.
struct Followed {
    /// The number of the next line.
    next: u64,
    /// How many times the progress had been set when it was last sent.
    progressed: u64,
    /// It was told that nothing was left.
    is_caught_up: bool,
}

/// The logs of an agent's attempts.
pub(super) struct AttemptLogs {
    clock: Arc<dyn Clock>,
    news: Arc<Notify>,
    /// The most bytes of a log.
    most: usize,
    running: HashMap<Key, AttemptLog>,
    /// In the order in which they ended.
    ended: VecDeque<Ended>,
    followed: BTreeMap<Key, Followed>,
    /// The attempt of the last message; the others have their turn before it.
    last: Option<Key>,
    /// There may be something to send.
    is_dirty: bool,
    /// When all that was sent is paid for by the rate.
    paid_at: Instant,
    /// When the next message may be sent.
    allowed_at: Instant,
}

impl AttemptLogs {
    /// Creates the logs of an agent that runs up to `slots` attempts at once.
    pub fn new(clock: Arc<dyn Clock>, slots: u32, now: Instant) -> Self {
        Self {
            clock,
            news: Arc::default(),
            most: MAX_LOG_BYTES.min(AGENT_LOG_BYTES / slots.max(1) as usize),
            running: HashMap::default(),
            ended: VecDeque::new(),
            followed: BTreeMap::new(),
            last: None,
            is_dirty: false,
            paid_at: now,
            allowed_at: now,
        }
    }

    /// Returns the log of an attempt that starts.
    pub fn begin(&mut self, key: &Key) -> AttemptLog {
        let log = AttemptLog::new(Arc::clone(&self.clock), Arc::clone(&self.news), self.most);
        if self.followed.contains_key(key) {
            log.set_followed(true);
            self.is_dirty = true;
        }
        self.running.insert(key.clone(), log.clone());
        log
    }

    /// Records that an attempt has ended. Its log is kept for a while, if there is anything in it.
    pub fn ended(&mut self, key: &Key, now: Instant) {
        if let Some((key, log)) = self.running.remove_entry(key) {
            self.keep(key, log, now);
        }
    }

    /// Records that all attempts have ended.
    pub fn all_ended(&mut self, now: Instant) {
        let mut running: Vec<(Key, AttemptLog)> = std::mem::take(&mut self.running).into_iter().collect();
        // In an order that is the same each time, so that a simulated run is reproducible.
        running.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for (key, log) in running {
            self.keep(key, log, now);
        }
    }

    fn keep(&mut self, key: Key, log: AttemptLog, now: Instant) {
        log.end();
        let is_followed = self.followed.contains_key(&key);
        self.is_dirty |= is_followed;
        if is_followed || !log.is_empty() {
            self.ended.push_back(Ended { key, log, at: now });
        }
        self.forget_old(now);
    }

    fn forget_old(&mut self, now: Instant) {
        let is_old = |ended: &Ended| now.saturating_duration_since(ended.at) >= ENDED_KEPT_FOR;
        while self.ended.len() > ENDED_KEPT || self.ended.front().is_some_and(is_old) {
            self.ended.pop_front();
        }
    }

    /// Follows an attempt, or stops to, as the leader asks.
    pub fn follow(&mut self, order: internal::FollowAttempt, now: Instant) {
        let internal::FollowAttempt { task_id, attempt, from, stop } = order;
        let key = Key { task_id, attempt };
        self.forget_old(now);
        if stop {
            self.followed.remove(&key);
        } else if self.followed.len() < MAX_FOLLOWED || self.followed.contains_key(&key) {
            self.followed.insert(key.clone(), Followed { next: from, progressed: 0, is_caught_up: false });
            self.is_dirty = true;
        }
        if let Some(log) = self.running.get(&key) {
            log.set_followed(self.followed.contains_key(&key));
        }
    }

    /// Records that there is a new stream, over which nothing is followed yet.
    pub fn nobody_follows(&mut self) {
        for key in std::mem::take(&mut self.followed).into_keys() {
            if let Some(log) = self.running.get(&key) {
                log.set_followed(false);
            }
        }
        self.is_dirty = false;
    }

    /// Waits until something is written of an attempt that is followed. Cancellation-safe. Completes at once until it is
    /// sent, so wait only while [`AttemptLogs::is_dirty`] is false.
    pub async fn changed(&mut self) {
        self.news.notified().await;
        self.is_dirty = true;
    }

    /// Whether there may be something to send.
    pub fn is_dirty(&self) -> bool {
        self.is_dirty
    }

    /// When the next message may be sent, if there may be one.
    pub fn due(&self) -> Option<Instant> {
        self.is_dirty.then_some(self.allowed_at)
    }

    /// Returns the next message, if there is one. The attempts that are followed take turns.
    pub fn next_message(&mut self, now: Instant, held: &Held) -> Option<internal::AttemptLog> {
        let turns: Vec<Key> = match &self.last {
            None => self.followed.keys().cloned().collect(),
            Some(last) => {
                let later = self.followed.range::<Key, _>((Bound::Excluded(last), Bound::Unbounded));
                let earlier = self.followed.range::<Key, _>((Bound::Unbounded, Bound::Included(last)));
                later.chain(earlier).map(|(key, _)| key.clone()).collect()
            }
        };
        for key in turns {
            if let Some((message, bytes)) = self.message(&key, held) {
                self.last = Some(key);
                self.sent(bytes, now);
                return Some(message);
            }
        }
        self.is_dirty = false;
        None
    }

    /// Returns what is new of an attempt, and how many bytes it counts.
    fn message(&mut self, key: &Key, held: &Held) -> Option<(internal::AttemptLog, usize)> {
        let ended = || self.ended.iter().find(|ended| ended.key == *key).map(|ended| (ended.log.clone(), true));
        let found = self.running.get(key).map(|log| (log.clone(), false)).or_else(ended);
        let followed = self.followed.get_mut(key)?;
        let about = internal::AttemptLog {
            task_id: key.task_id.clone(),
            attempt: key.attempt,
            first: followed.next,
            caught_up: true,
            ..Default::default()
        };
        let Some((log, has_ended)) = found else {
            // It waits for a slot, or is not known.
            let message = match held.has(key) {
                true if std::mem::replace(&mut followed.is_caught_up, true) => return None,
                true => about,
                false => {
                    self.followed.remove(key);
                    internal::AttemptLog { missing: MISSING.to_owned(), ..about }
                }
            };
            return Some((message, MESSAGE_OVERHEAD));
        };
        let excerpt = log.read(followed.next, MESSAGE_BYTES);
        let progress = log.progress_after(followed.progressed);
        let ends = has_ended && excerpt.is_all;
        if excerpt.lines.is_empty() && progress.is_none() && followed.is_caught_up && !ends {
            return None;
        }
        let bytes = excerpt.lines.iter().map(LoggedLine::size).sum::<usize>() + MESSAGE_OVERHEAD;
        followed.next = excerpt.first + excerpt.lines.len() as u64;
        followed.is_caught_up = excerpt.is_all;
        if let Some((_, times)) = &progress {
            followed.progressed = *times;
        }
        if ends {
            self.followed.remove(key);
        }
        let message = internal::AttemptLog {
            first: excerpt.first,
            lines: excerpt.lines.into_iter().map(line).collect(),
            progress: progress.map(|(of, _)| internal::Progress { fraction: of.fraction, text: of.text }),
            caught_up: excerpt.is_all,
            ended: ends,
            ..about
        };
        Some((message, bytes))
    }

    /// Takes note of what is sent, and computes when more may be.
    fn sent(&mut self, bytes: usize, now: Instant) {
        let cost = Duration::from_micros(bytes as u64 * 1_000_000 / BYTES_PER_SECOND as u64);
        let unused = now.checked_sub(BURST).unwrap_or(now);
        self.paid_at = self.paid_at.max(unused) + cost;
        self.allowed_at = self.paid_at.max(now + APART);
    }
}

fn line(line: LoggedLine) -> v1::LogLine {
    let stream = match line.stream {
        LogStream::Stdout => v1::LogStream::Stdout,
        LogStream::Stderr => v1::LogStream::Stderr,
        LogStream::Worker => v1::LogStream::Worker,
    };
    let (seconds, nanos) = ((line.unix_ms / 1_000) as i64, (line.unix_ms % 1_000) as i32 * 1_000_000);
    v1::LogLine { stream: stream.into(), text: line.text, cut: line.is_cut, time: Some(Timestamp { seconds, nanos }) }
}

#[cfg(test)]
mod tests {
    use robeing_platform::Platform;

    use super::*;

    fn key(n: usize) -> Key {
        Key { task_id: format!("task-{n:04}"), attempt: 1 }
    }

    fn logs(slots: u32) -> (AttemptLogs, Held, Instant) {
        let now = Instant::now();
        (AttemptLogs::new(Platform::real().clock, slots, now), Held::new(slots), now)
    }

    fn order(n: usize, from: u64) -> internal::FollowAttempt {
        let Key { task_id, attempt } = key(n);
        internal::FollowAttempt { task_id, attempt, from, stop: false }
    }

    fn texts(message: &internal::AttemptLog) -> Vec<&str> {
        message.lines.iter().map(|line| line.text.as_str()).collect()
    }

    #[test]
    fn nothing_is_sent_of_what_nobody_follows() {
        let (mut logs, held, now) = logs(4);
        let log = logs.begin(&key(1));
        log.line("one");
        assert_eq!((logs.due(), logs.next_message(now, &held)), (None, None));
        logs.follow(order(1, 0), now);
        assert_eq!(logs.due(), Some(now));
        let message = logs.next_message(now, &held).expect("there is a line");
        assert_eq!((texts(&message), message.first, message.caught_up, message.ended), (vec!["one"], 0, true, false));
        assert_eq!(logs.next_message(now, &held), None);
        assert!(!logs.is_dirty());
        logs.follow(internal::FollowAttempt { stop: true, ..order(1, 0) }, now);
        log.line("two");
        assert_eq!(logs.next_message(now, &held), None);
        logs.follow(order(1, 1), now);
        let message = logs.next_message(now, &held).expect("there is another line");
        assert_eq!((texts(&message), message.first), (vec!["two"], 1));
    }

    #[test]
    fn an_attempt_that_ends_is_told_to_its_end_and_can_be_asked_for_afterwards() {
        let (mut logs, held, now) = logs(4);
        let log = logs.begin(&key(1));
        logs.follow(order(1, 0), now);
        let first = logs.next_message(now, &held).expect("it is caught up");
        assert!(first.caught_up && first.lines.is_empty() && !first.ended);
        log.write(LogStream::Stdout, b"unfinished");
        log.progress(0.5, "half");
        logs.ended(&key(1), now);
        let last = logs.next_message(now, &held).expect("it has ended");
        assert_eq!((texts(&last), last.ended), (vec!["unfinished"], true));
        assert_eq!(last.progress, Some(internal::Progress { fraction: 0.5, text: "half".to_owned() }));
        assert_eq!(logs.next_message(now, &held), None, "nothing follows");
        logs.follow(order(1, 0), now);
        assert_eq!(logs.next_message(now, &held), Some(last), "it is the same for those who come late");
        logs.follow(order(1, 0), now + ENDED_KEPT_FOR);
        let missing = logs.next_message(now, &held).expect("it is not known any more");
        assert!(missing.missing.contains("not any more"), "{missing:?}");
        assert_eq!(logs.next_message(now, &held), None);
    }

    #[test]
    fn an_attempt_that_waits_for_its_slot_is_followed_when_it_starts() {
        let (mut logs, mut held, now) = logs(1);
        let assignment = |n: usize| {
            let Key { task_id, attempt } = key(n);
            internal::Assignment { task_id, attempt, ..Default::default() }
        };
        held.assigned(assignment(1), now);
        logs.follow(order(1, 0), now);
        let waits = logs.next_message(now, &held).expect("it is caught up");
        assert!(waits.caught_up && waits.missing.is_empty());
        assert_eq!(logs.next_message(now, &held), None);
        logs.begin(&key(1)).line("it runs");
        let runs = logs.next_message(now, &held).expect("there is a line");
        assert_eq!(texts(&runs), ["it runs"]);
    }

    #[test]
    fn a_new_stream_follows_nothing() {
        let (mut logs, held, now) = logs(1);
        let log = logs.begin(&key(1));
        logs.follow(order(1, 0), now);
        logs.nobody_follows();
        log.line("one");
        assert_eq!((logs.due(), logs.next_message(now, &held)), (None, None));
    }

    #[test]
    fn as_many_ended_attempts_are_kept_as_may_be() {
        let (mut logs, held, now) = logs(4);
        for n in 0..=ENDED_KEPT {
            logs.begin(&key(n)).line("a line");
            logs.ended(&key(n), now);
        }
        logs.begin(&key(999));
        logs.ended(&key(999), now);
        assert_eq!(logs.ended.len(), ENDED_KEPT, "what has said nothing is not kept");
        for (n, is_kept) in [(0, false), (1, true), (ENDED_KEPT, true)] {
            logs.follow(order(n, 0), now);
            let message = logs.next_message(now, &held).expect("an answer");
            assert_eq!(message.missing.is_empty(), is_kept, "{n}");
        }
    }

    #[test]
    fn no_more_attempts_are_followed_than_may_be() {
        let (mut logs, held, now) = logs(1);
        for n in 0..=MAX_FOLLOWED {
            logs.follow(order(n, 0), now);
        }
        logs.follow(order(0, 0), now);
        assert_eq!(logs.followed.len(), MAX_FOLLOWED);
        let answered = std::iter::from_fn(|| logs.next_message(now, &held)).count();
        assert_eq!((answered, logs.followed.len()), (MAX_FOLLOWED, 0), "none of them is known");
    }

    #[test]
    fn the_attempts_take_turns_and_messages_are_of_a_bounded_size() {
        let (mut logs, held, now) = logs(4);
        let long = "x".repeat(1_000);
        for n in 0..2 {
            let log = logs.begin(&key(n));
            (0..60).for_each(|_| log.line(&long));
            logs.follow(order(n, 0), now);
        }
        let mut seen = Vec::new();
        while let Some(message) = logs.next_message(now, &held) {
            let bytes: usize = message.lines.iter().map(|line| line.text.len()).sum();
            assert!(bytes <= MESSAGE_BYTES, "{bytes}");
            seen.push((message.task_id.clone(), message.lines.len()));
        }
        let names: Vec<&str> = seen.iter().map(|(task, _)| task.as_str()).collect();
        assert_eq!(names, ["task-0000", "task-0001", "task-0000", "task-0001"]);
        assert_eq!(seen.iter().map(|(_, lines)| lines).sum::<usize>(), 120);
    }

    #[test]
    fn no_more_is_sent_than_the_rate_allows() {
        let (mut logs, held, start) = logs(1);
        let log = logs.begin(&key(1));
        logs.follow(order(1, 0), start);
        let (mut now, mut sent, until) = (start, 0, start + Duration::from_secs(10));
        while now < until {
            // It writes faster than it may be sent.
            (0..64).for_each(|_| log.line(&"x".repeat(1_000)));
            logs.is_dirty = true;
            let message = logs.next_message(now, &held).expect("there is more");
            sent += message.lines.iter().map(|line| line.text.len()).sum::<usize>();
            let next = logs.due().expect("there is more");
            assert!(next >= now + APART);
            now = next;
        }
        let most = BYTES_PER_SECOND * 11 + MESSAGE_BYTES;
        assert!(sent <= most && sent > most / 2, "{sent} bytes in 10 s, and a burst of one second");
    }

    #[test]
    fn with_many_slots_less_is_kept_of_each_attempt() {
        for (slots, most) in [(1, MAX_LOG_BYTES), (256, MAX_LOG_BYTES), (4_096, AGENT_LOG_BYTES / 4_096)] {
            assert_eq!(logs(slots).0.most, most, "{slots}");
        }
    }
}
