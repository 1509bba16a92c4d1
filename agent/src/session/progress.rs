//! The attempts that have a progress timeout: the agent says when one starts, and when it makes progress, which is
//! anything that it says (see [`attempt_log`](crate::executor::attempt_log)). Whether it makes too little is the
//! leader's to judge. Pure but for the logs, which executors write at any time.

use std::{collections::BTreeMap, time::Duration};

use robeing_proto::internal::v1 as internal;
use tokio::time::Instant;

use super::held::Key;
use crate::executor::AttemptLog;

/// The most frequent looks for progress, however short the shortest progress timeout is.
pub const LOOK_MIN: Duration = Duration::from_millis(50);
/// The rarest looks for progress, however long the shortest progress timeout is.
pub const LOOK_MAX: Duration = Duration::from_secs(10);
/// The maximum number of attempts in one message; the leader takes no more.
pub const MAX_TOLD: usize = 1_024;

/// A running attempt that has a progress timeout.
struct Watched {
    log: AttemptLog,
    /// How often to look for progress.
    every: Duration,
    /// How many times something had been said when its newest progress was noticed.
    said: u64,
    /// When its newest progress was noticed.
    at: Instant,
    /// It was reported to the leader over this stream.
    is_reported: bool,
}

/// The running attempts of an agent that have a progress timeout.
pub(super) struct AttemptProgress {
    watched: BTreeMap<Key, Watched>,
    /// When to look for progress.
    next: Instant,
}

impl AttemptProgress {
    pub fn new(now: Instant) -> Self {
        Self { watched: BTreeMap::new(), next: now }
    }

    /// Records that an attempt starts. 0: it has no progress timeout.
    pub fn begin(&mut self, key: &Key, log: &AttemptLog, timeout_ms: u64, now: Instant) {
        if timeout_ms == 0 {
            return;
        }
        // The leader gives an attempt a quarter of the timeout more.
        let every = Duration::from_millis(timeout_ms / 8).clamp(LOOK_MIN, LOOK_MAX);
        let watched = Watched { log: log.clone(), every, said: log.said(), at: now, is_reported: false };
        self.watched.insert(key.clone(), watched);
        self.next = now;
    }

    /// Records that an attempt has ended.
    pub fn ended(&mut self, key: &Key) {
        self.watched.remove(key);
    }

    /// Records that all attempts have ended.
    pub fn all_ended(&mut self) {
        self.watched.clear();
    }

    /// Records that a new stream is open, over which nothing was reported yet.
    pub fn stream_opened(&mut self, now: Instant) {
        self.watched.values_mut().for_each(|of| of.is_reported = false);
        self.next = now;
    }

    /// When to look for progress, if any attempt has a progress timeout.
    pub fn due(&self) -> Option<Instant> {
        (!self.watched.is_empty()).then_some(self.next)
    }

    /// Looks for progress. Returns what to report to the leader, if there is anything.
    pub fn next_message(&mut self, now: Instant) -> Option<internal::Progressed> {
        for of in self.watched.values_mut() {
            let said = of.log.said();
            if said != of.said {
                (of.said, of.at, of.is_reported) = (said, now, false);
            }
        }
        let unreported = self.watched.iter_mut().filter(|(_, of)| !of.is_reported).take(MAX_TOLD);
        let report = |(key, of): (&Key, &mut Watched)| {
            of.is_reported = true;
            let ago = now.saturating_duration_since(of.at).as_millis();
            internal::AttemptProgressed {
                task_id: key.task_id.clone(),
                attempt: key.attempt,
                ago_ms: u64::try_from(ago).unwrap_or(u64::MAX),
            }
        };
        let attempts: Vec<_> = unreported.map(report).collect();
        // After a full message, the next one is sent at once.
        let every = self.watched.values().map(|of| of.every).min().unwrap_or(LOOK_MAX);
        self.next = if attempts.len() < MAX_TOLD { now + every } else { now };
        (!attempts.is_empty()).then_some(internal::Progressed { attempts })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use robeing_platform::Platform;

    use super::*;
    use crate::executor::attempt_log::MAX_LOG_BYTES;

    fn key(n: usize) -> Key {
        Key { task_id: format!("task-{n:05}"), attempt: 1 }
    }

    fn log() -> AttemptLog {
        AttemptLog::new(Platform::real().clock, Arc::default(), MAX_LOG_BYTES)
    }

    /// Returns the attempts in the next message, and how long ago each made progress, ms.
    fn told(progress: &mut AttemptProgress, now: Instant) -> Vec<(String, u64)> {
        let message = progress.next_message(now).unwrap_or_default();
        message.attempts.into_iter().map(|of| (of.task_id, of.ago_ms)).collect()
    }

    #[test]
    fn the_start_and_each_progress_are_told_once() {
        let start = Instant::now();
        let mut progress = AttemptProgress::new(start);
        let logs = [log(), log()];
        progress.begin(&key(0), &logs[0], 8_000, start);
        progress.begin(&key(1), &logs[1], 0, start);
        assert_eq!(progress.due(), Some(start));
        assert_eq!(told(&mut progress, start), [(key(0).task_id, 0)]);
        let every = Duration::from_secs(1);
        assert_eq!(progress.due(), Some(start + every));
        logs[1].line("it has no progress timeout");
        assert!(told(&mut progress, start + every).is_empty());
        logs[0].progress(0.5, "half");
        assert_eq!(told(&mut progress, start + every * 2), [(key(0).task_id, 0)]);
        assert!(told(&mut progress, start + every * 3).is_empty());
        progress.ended(&key(0));
        assert_eq!(progress.due(), None);
    }

    #[test]
    fn a_new_stream_is_told_how_long_ago_the_newest_progress_was() {
        let start = Instant::now();
        let mut progress = AttemptProgress::new(start);
        progress.begin(&key(0), &log(), 8_000, start);
        told(&mut progress, start);
        let later = start + Duration::from_millis(2_500);
        progress.stream_opened(later);
        assert_eq!(progress.due(), Some(later));
        assert_eq!(told(&mut progress, later), [(key(0).task_id, 2_500)]);
    }

    #[test]
    fn anything_that_an_attempt_says_is_progress() {
        let mut now = Instant::now();
        let (mut progress, log) = (AttemptProgress::new(now), log());
        progress.begin(&key(0), &log, 8_000, now);
        told(&mut progress, now);
        let says: [fn(&AttemptLog); 4] = [
            |log| log.write(crate::executor::LogStream::Stdout, b"."),
            |log| log.line("a line"),
            |log| log.progress(0.0, ""),
            AttemptLog::touch,
        ];
        for say in says {
            say(&log);
            now += Duration::from_secs(1);
            assert_eq!(told(&mut progress, now).len(), 1);
        }
        log.progress(f64::NAN, "no number");
        assert!(told(&mut progress, now).is_empty());
    }

    #[test]
    fn a_message_is_bounded_and_what_it_has_no_room_for_is_told_at_once() {
        let now = Instant::now();
        let mut progress = AttemptProgress::new(now);
        (0..=MAX_TOLD).for_each(|n| progress.begin(&key(n), &log(), 8_000, now));
        assert_eq!(told(&mut progress, now).len(), MAX_TOLD);
        assert_eq!(progress.due(), Some(now));
        assert_eq!(told(&mut progress, now), [(key(MAX_TOLD).task_id, 0)]);
        assert_eq!(progress.due(), Some(now + Duration::from_secs(1)));
    }

    #[test]
    fn looks_are_neither_too_frequent_nor_too_rare() {
        let now = Instant::now();
        for (timeout_ms, every) in [(1, LOOK_MIN), (399, LOOK_MIN), (800, LOOK_MIN * 2), (86_400_000, LOOK_MAX)] {
            let mut progress = AttemptProgress::new(now);
            progress.begin(&key(0), &log(), timeout_ms, now);
            told(&mut progress, now);
            assert_eq!(progress.due(), Some(now + every), "{timeout_ms}");
        }
    }
}
