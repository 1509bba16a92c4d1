//! What the leader keeps of attempts that are followed, or were lately. It is bounded by the number of attempts and by
//! what is kept of each, whatever agents send; what is not kept is asked for again, or lost.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use robeing_fleet::AgentId;
use robeing_platform::sync::{Mutex, MutexGuard, PoisonError};
use robeing_proto::{internal::v1 as internal, v1};
use tokio::{sync::watch, time::Instant};

use crate::{api::convert, leader::sessions::AttemptKey};

/// Maximum number of attempts of which a coordinator keeps lines. At this limit the one that nobody has followed for the
/// longest time is forgotten; if all are followed, another one can't be.
pub const MAX_KEPT: usize = 256;
/// Maximum number of those who follow attempts at one leader.
pub const MAX_FOLLOWERS: usize = 1_024;
/// How long the lines of an attempt are kept that nobody follows.
pub const KEPT_FOR: Duration = Duration::from_secs(600);
/// Maximum number of lines kept of an attempt.
pub const MAX_LINES: usize = 1_000;
/// Maximum size of the lines kept of an attempt, bytes, each with [`LINE_OVERHEAD`].
pub const MAX_LOG_BYTES: usize = 64 * 1024;
/// Maximum size of a line, bytes; the rest of a longer one is cut.
pub const MAX_LINE_BYTES: usize = 4 * 1024;
/// Maximum size of the text of a progress, bytes; the rest of a longer one is cut.
pub const MAX_PROGRESS_TEXT: usize = 256;
/// Maximum size of what an agent says about lines that it does not have, bytes; the rest of a longer text is cut.
const MAX_MISSING: usize = 256;
/// Bytes that are added to the size of a line when it is counted.
pub const LINE_OVERHEAD: usize = 64;
/// Numbers of lines are below this, so that counting on can't overflow.
const MAX_NUMBER: u64 = u64::MAX / 2;

/// The attempts of which lines are kept.
#[derive(Default)]
pub struct KeptLogs {
    attempts: Mutex<Attempts>,
}

#[derive(Default)]
struct Attempts {
    kept: BTreeMap<AttemptKey, Kept>,
    /// Number of those who follow any of them.
    followers: usize,
}

/// What is kept of an attempt.
struct Kept {
    agent: AgentId,
    followers: usize,
    lines: VecDeque<v1::LogLine>,
    /// Number of the first line that is kept.
    first: u64,
    bytes: usize,
    progress: internal::Progress,
    /// How many times the progress was set.
    progressed: u64,
    /// The agent has sent all that it had since it was asked last.
    is_caught_up: bool,
    has_ended: bool,
    /// Why the agent has no lines to send.
    missing: String,
    /// When somebody began or ceased to follow it.
    used: Instant,
    news: watch::Sender<u64>,
}

/// What one follower reads.
#[derive(Debug, Default)]
pub struct Read {
    /// Number of the first line among those of the attempt, or of the next one if there are none.
    pub first: u64,
    pub lines: Vec<v1::LogLine>,
    /// The progress, if it is new, and how many times it was set.
    pub progress: Option<(internal::Progress, u64)>,
    /// All lines that the agent had when it was asked are among these, or were read before.
    pub is_caught_up: bool,
    /// Same, and there will be no others.
    pub has_ended: bool,
    /// Why there are no lines; empty: there are, or it is not known yet.
    pub missing: String,
}

impl Kept {
    fn new(agent: AgentId, now: Instant) -> Self {
        Self {
            agent,
            followers: 0,
            lines: VecDeque::new(),
            first: 0,
            bytes: 0,
            progress: internal::Progress::default(),
            progressed: 0,
            is_caught_up: false,
            has_ended: false,
            missing: String::new(),
            used: now,
            news: watch::Sender::new(0),
        }
    }

    fn next(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    fn order(&self, key: AttemptKey, stop: bool) -> internal::FollowAttempt {
        internal::FollowAttempt { task_id: key.0.to_string(), attempt: key.1, from: self.next(), stop }
    }

    /// Prepares to ask the agent, and returns what to ask.
    fn ask(&mut self, key: AttemptKey) -> internal::FollowAttempt {
        self.is_caught_up = false;
        self.missing.clear();
        self.order(key, false)
    }

    fn push(&mut self, mut line: v1::LogLine) {
        let end = line.text.floor_char_boundary(MAX_LINE_BYTES);
        line.cut |= end < line.text.len();
        line.text.truncate(end);
        self.bytes += size(&line);
        self.lines.push_back(line);
        while self.lines.len() > MAX_LINES || (self.bytes > MAX_LOG_BYTES && self.lines.len() > 1) {
            let Some(oldest) = self.lines.pop_front() else { return };
            self.bytes -= size(&oldest);
            self.first += 1;
        }
    }

    fn take(&mut self, log: internal::AttemptLog) {
        if log.first > MAX_NUMBER {
            return;
        }
        let next = self.next();
        if log.first > next {
            // Those between are lost.
            (self.first, self.bytes) = (log.first, 0);
            self.lines.clear();
        }
        let repeated = usize::try_from(next.saturating_sub(log.first)).unwrap_or(usize::MAX);
        log.lines.into_iter().skip(repeated).for_each(|line| self.push(line));
        if let Some(internal::Progress { fraction, mut text }) = log.progress
            && fraction.is_finite()
        {
            text.truncate(text.floor_char_boundary(MAX_PROGRESS_TEXT));
            self.progress = internal::Progress { fraction: fraction.clamp(0.0, 1.0), text };
            self.progressed += 1;
        }
        self.is_caught_up |= log.caught_up;
        self.has_ended |= log.ended;
        self.missing = log.missing[..log.missing.floor_char_boundary(MAX_MISSING)].to_owned();
        self.news.send_modify(|news| *news += 1);
    }
}

fn size(line: &v1::LogLine) -> usize {
    line.text.len() + LINE_OVERHEAD
}

impl KeptLogs {
    fn attempts(&self) -> MutexGuard<'_, Attempts> {
        self.attempts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that somebody follows an attempt of this agent. Returns what notifies of news, and what to ask the agent;
    /// `None` if too many attempts are followed.
    pub fn follow(
        &self,
        key: AttemptKey,
        agent: AgentId,
        now: Instant,
    ) -> Option<(watch::Receiver<u64>, Option<internal::FollowAttempt>)> {
        let mut attempts = self.attempts();
        let Attempts { kept: all, followers } = &mut *attempts;
        if *followers >= MAX_FOLLOWERS {
            return None;
        }
        all.retain(|_, kept| kept.followers > 0 || now.saturating_duration_since(kept.used) < KEPT_FOR);
        if !all.contains_key(&key) && all.len() >= MAX_KEPT {
            let unused = all.iter().filter(|(_, kept)| kept.followers == 0);
            let oldest = unused.min_by_key(|(_, kept)| kept.used).map(|(key, _)| *key)?;
            all.remove(&oldest);
        }
        *followers += 1;
        let kept = all.entry(key).or_insert_with(|| Kept::new(agent, now));
        if kept.agent != agent {
            // The number was used again, by a task that took the id of a forgotten one.
            *kept = Kept { followers: kept.followers, news: kept.news.clone(), ..Kept::new(agent, now) };
        }
        kept.followers += 1;
        kept.used = now;
        let asks = !kept.has_ended && (kept.followers == 1 || !kept.missing.is_empty());
        let order = asks.then(|| kept.ask(key));
        Some((kept.news.subscribe(), order))
    }

    /// Records that somebody follows an attempt no more. Returns what to tell the agent, if nobody else does.
    pub fn unfollow(&self, key: AttemptKey, now: Instant) -> Option<internal::FollowAttempt> {
        let mut attempts = self.attempts();
        attempts.followers = attempts.followers.saturating_sub(1);
        let kept = attempts.kept.get_mut(&key)?;
        kept.followers = kept.followers.saturating_sub(1);
        kept.used = now;
        (kept.followers == 0 && !kept.has_ended && kept.missing.is_empty()).then(|| kept.order(key, true))
    }

    /// Returns what to ask an agent that has a new connection, over which it sends nothing yet.
    pub fn orders_for(&self, agent: AgentId) -> Vec<(AttemptKey, internal::FollowAttempt)> {
        let mut attempts = self.attempts();
        let followed = attempts.kept.iter_mut().filter(|(_, kept)| kept.agent == agent && kept.followers > 0);
        followed.filter(|(_, kept)| !kept.has_ended).map(|(key, kept)| (*key, kept.ask(*key))).collect()
    }

    /// Takes what an agent has sent. It is ignored if it is not of an attempt of that agent that is, or was, followed.
    pub fn received(&self, agent: AgentId, log: internal::AttemptLog) {
        let Ok(task) = convert::task_id(&log.task_id) else { return };
        let mut attempts = self.attempts();
        if let Some(kept) = attempts.kept.get_mut(&(task, log.attempt)).filter(|kept| kept.agent == agent) {
            kept.take(log);
        }
    }

    /// Returns what is kept of an attempt from a line on, of about `most` bytes, and the progress if it was set more than
    /// `progressed` times.
    pub fn read(&self, key: AttemptKey, from: u64, progressed: u64, most: usize) -> Read {
        let attempts = self.attempts();
        let Some(kept) = attempts.kept.get(&key) else { return Read { first: from, ..Read::default() } };
        let first = from.max(kept.first).min(kept.next());
        let skipped = usize::try_from(first - kept.first).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let fits = |line: &&v1::LogLine| {
            let is_first = bytes == 0;
            bytes += size(line);
            is_first || bytes <= most
        };
        let lines: Vec<v1::LogLine> = kept.lines.iter().skip(skipped).take_while(fits).cloned().collect();
        let is_all = first + lines.len() as u64 == kept.next();
        Read {
            first,
            lines,
            progress: (kept.progressed > progressed).then(|| (kept.progress.clone(), kept.progressed)),
            is_caught_up: is_all && (kept.is_caught_up || kept.has_ended),
            has_ended: is_all && kept.has_ended,
            missing: if is_all { kept.missing.clone() } else { String::new() },
        }
    }
}

#[cfg(test)]
mod tests {
    use robeing_fleet::TaskId;

    use super::*;

    const AGENT: AgentId = AgentId(7);
    const ANOTHER: AgentId = AgentId(8);
    const KEY: AttemptKey = (TaskId(1), 2);

    fn lines(texts: &[&str]) -> Vec<v1::LogLine> {
        texts.iter().map(|text| v1::LogLine { text: (*text).to_owned(), ..v1::LogLine::default() }).collect()
    }

    fn log(first: u64, texts: &[&str]) -> internal::AttemptLog {
        let (task_id, attempt) = (KEY.0.to_string(), KEY.1);
        internal::AttemptLog { task_id, attempt, first, lines: lines(texts), ..Default::default() }
    }

    fn followed() -> (KeptLogs, Instant) {
        let (logs, now) = (KeptLogs::default(), Instant::now());
        logs.follow(KEY, AGENT, now).expect("there is room");
        (logs, now)
    }

    fn read(logs: &KeptLogs, from: u64) -> (u64, Vec<String>) {
        let Read { first, lines, .. } = logs.read(KEY, from, 0, usize::MAX);
        (first, lines.into_iter().map(|line| line.text).collect())
    }

    fn owned(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn an_agent_is_asked_once_for_all_who_follow_and_told_when_the_last_one_has_gone() {
        let (logs, now) = (KeptLogs::default(), Instant::now());
        let (mut news, order) = logs.follow(KEY, AGENT, now).expect("there is room");
        let order = order.expect("it is asked");
        assert_eq!((order.from, order.stop, order.attempt), (0, false, 2));
        let (_, again) = logs.follow(KEY, AGENT, now).expect("there is room");
        assert_eq!(again, None);
        logs.received(AGENT, log(0, &["one", "two"]));
        assert!(news.has_changed().expect("it is kept"));
        news.mark_unchanged();
        assert_eq!(logs.unfollow(KEY, now), None);
        let stop = logs.unfollow(KEY, now).expect("the last one");
        assert!(stop.stop);
        // Who follows it later gets what is kept, and the rest from the agent.
        let (_, order) = logs.follow(KEY, AGENT, now).expect("there is room");
        assert_eq!(order.map(|order| order.from), Some(2));
        assert_eq!(read(&logs, 0), (0, owned(&["one", "two"])));
    }

    #[test]
    fn lines_that_come_again_are_taken_once_and_those_that_are_lost_leave_a_gap() {
        let (logs, _) = followed();
        logs.received(AGENT, log(0, &["0", "1", "2"]));
        logs.received(AGENT, log(1, &["1", "2", "3"]));
        assert_eq!(read(&logs, 0), (0, owned(&["0", "1", "2", "3"])));
        assert_eq!(read(&logs, 3), (3, owned(&["3"])));
        logs.received(AGENT, log(7, &["7"]));
        assert_eq!(read(&logs, 0), (7, owned(&["7"])));
        logs.received(AGENT, log(u64::MAX, &["nonsense"]));
        assert_eq!(read(&logs, 0), (7, owned(&["7"])));
    }

    #[test]
    fn only_the_agent_that_has_the_attempt_is_listened_to() {
        let (logs, _) = followed();
        logs.received(ANOTHER, log(0, &["a lie"]));
        logs.received(AGENT, internal::AttemptLog { attempt: 3, ..log(0, &["of another attempt"]) });
        logs.received(AGENT, internal::AttemptLog { task_id: "none".into(), ..log(0, &["of none"]) });
        assert_eq!(read(&logs, 0), (0, owned(&[])));
    }

    #[test]
    fn lines_are_kept_up_to_their_number_and_their_bytes() {
        let (logs, _) = followed();
        let short = vec!["12345"; MAX_LINES];
        logs.received(AGENT, log(0, &short));
        assert_eq!(logs.read(KEY, 0, 0, usize::MAX).lines.len(), MAX_LOG_BYTES / (LINE_OVERHEAD + 5));
        let empty = vec![""; MAX_LINES + 1];
        let (logs, _) = followed();
        logs.received(AGENT, log(0, &empty[..MAX_LINES]));
        assert_eq!(logs.read(KEY, 0, 0, usize::MAX).first, 0);
        logs.received(AGENT, log(MAX_LINES as u64, &empty[..1]));
        let kept = logs.read(KEY, 0, 0, usize::MAX);
        assert_eq!((kept.first, kept.lines.len()), (1, MAX_LINES));
        let long = "é".repeat(MAX_LINE_BYTES);
        logs.received(AGENT, log(MAX_LINES as u64 + 1, &[&long]));
        let last = logs.read(KEY, MAX_LINES as u64 + 1, 0, usize::MAX).lines.pop().expect("it is kept");
        assert_eq!((last.text.len(), last.cut), (MAX_LINE_BYTES, true));
    }

    #[test]
    fn progress_is_told_once_and_within_the_limits() {
        let (logs, _) = followed();
        let with = |fraction, text: &str| {
            let progress = Some(internal::Progress { fraction, text: text.to_owned() });
            internal::AttemptLog { progress, ..log(0, &[]) }
        };
        logs.received(AGENT, with(f64::NAN, "no number"));
        assert_eq!(logs.read(KEY, 0, 0, 0).progress, None);
        logs.received(AGENT, with(7.0, &"x".repeat(MAX_PROGRESS_TEXT + 1)));
        let (progress, times) = logs.read(KEY, 0, 0, 0).progress.expect("it is new");
        assert_eq!((progress.fraction, progress.text.len(), times), (1.0, MAX_PROGRESS_TEXT, 1));
        assert_eq!(logs.read(KEY, 0, 1, 0).progress, None);
    }

    #[test]
    fn who_reads_in_parts_is_caught_up_and_at_the_end_after_the_last_one() {
        let (logs, _) = followed();
        let end = internal::AttemptLog { caught_up: true, ended: true, ..log(0, &["a", "b", "c"]) };
        logs.received(AGENT, end);
        let part = logs.read(KEY, 0, 0, 2 * (LINE_OVERHEAD + 1));
        assert_eq!((part.lines.len(), part.is_caught_up, part.has_ended), (2, false, false));
        let rest = logs.read(KEY, 2, 0, 2 * (LINE_OVERHEAD + 1));
        assert_eq!((rest.lines.len(), rest.is_caught_up, rest.has_ended), (1, true, true));
        assert_eq!(logs.unfollow(KEY, Instant::now()), None, "the agent has nothing to stop");
    }

    #[test]
    fn as_many_attempts_are_kept_as_may_be_and_those_that_are_followed_stay() {
        let (logs, now) = (KeptLogs::default(), Instant::now());
        let key = |n: usize| (TaskId(n as u128), 1);
        for n in 0..MAX_KEPT {
            let at = now + Duration::from_millis(n as u64);
            assert!(logs.follow(key(n), AGENT, at).is_some());
        }
        assert!(logs.follow(key(MAX_KEPT), AGENT, now).is_none(), "all are followed");
        assert!(logs.follow(key(0), AGENT, now).is_some(), "it is kept already");
        logs.unfollow(key(5), now + Duration::from_secs(1));
        logs.unfollow(key(3), now + Duration::from_secs(2));
        assert!(logs.follow(key(MAX_KEPT), AGENT, now + Duration::from_secs(3)).is_some());
        let attempts = logs.attempts();
        assert_eq!(attempts.kept.len(), MAX_KEPT);
        assert!(!attempts.kept.contains_key(&key(5)) && attempts.kept.contains_key(&key(3)), "it was left first");
    }

    #[test]
    fn what_nobody_follows_is_forgotten_after_a_while() {
        let (logs, now) = followed();
        logs.received(AGENT, log(0, &["one"]));
        logs.unfollow(KEY, now);
        let other = (TaskId(9), 1);
        logs.follow(other, AGENT, now + KEPT_FOR - Duration::from_millis(1)).expect("there is room");
        assert_eq!(read(&logs, 0), (0, owned(&["one"])));
        logs.follow((TaskId(10), 1), AGENT, now + KEPT_FOR).expect("there is room");
        assert_eq!(read(&logs, 0), (0, owned(&[])));
        assert!(logs.attempts().kept.contains_key(&other), "it is followed");
    }

    #[test]
    fn no_more_follow_than_may() {
        let (logs, now) = (KeptLogs::default(), Instant::now());
        for _ in 0..MAX_FOLLOWERS {
            assert!(logs.follow(KEY, AGENT, now).is_some());
        }
        assert!(logs.follow(KEY, AGENT, now).is_none());
        logs.unfollow(KEY, now);
        assert!(logs.follow(KEY, AGENT, now).is_some());
    }

    #[test]
    fn an_agent_that_comes_back_is_asked_for_the_rest_of_what_is_followed() {
        let (logs, now) = followed();
        logs.follow((TaskId(2), 1), ANOTHER, now).expect("there is room");
        logs.received(AGENT, internal::AttemptLog { caught_up: true, ..log(0, &["one"]) });
        assert!(logs.read(KEY, 1, 0, 0).is_caught_up);
        let orders = logs.orders_for(AGENT);
        assert_eq!(
            orders.iter().map(|(key, order)| (*key, order.from, order.stop)).collect::<Vec<_>>(),
            [(KEY, 1, false)]
        );
        assert!(!logs.read(KEY, 1, 0, 0).is_caught_up, "it may have more by now");
        logs.received(AGENT, internal::AttemptLog { ended: true, ..log(1, &[]) });
        assert_eq!(logs.orders_for(AGENT), []);
    }
}
