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
    /// Held while an agent is told what was decided, so that what is decided later is told later.
    telling: Mutex<()>,
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
        let new = log.lines.len().saturating_sub(repeated);
        // More in one message push each other out.
        let outnumbered = new.saturating_sub(MAX_LINES);
        if outnumbered > 0 {
            (self.first, self.bytes) = (self.next() + outnumbered as u64, 0);
            self.lines.clear();
        }
        log.lines.into_iter().skip(repeated.saturating_add(outnumbered)).for_each(|line| self.push(line));
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

    /// Records that somebody follows an attempt of this agent, and has the agent asked for it if that is needed; `ask`
    /// returns whether it could be. Returns what notifies of news, and whether the agent is asked; `None` if too many
    /// attempts are followed.
    pub fn begin(
        &self,
        key: AttemptKey,
        agent: AgentId,
        now: Instant,
        ask: impl FnOnce(internal::FollowAttempt) -> bool,
    ) -> Option<(watch::Receiver<u64>, bool)> {
        let _turn = self.telling();
        let (news, order) = self.follow(key, agent, now)?;
        Some((news, order.is_none_or(ask)))
    }

    /// Records that somebody follows an attempt no more, and has the agent told if nobody else does.
    pub fn end(&self, key: AttemptKey, now: Instant, tell: impl FnOnce(internal::FollowAttempt)) {
        let _turn = self.telling();
        if let Some(stop) = self.unfollow(key, now) {
            tell(stop);
        }
    }

    /// Has an agent asked that has a new connection, over which it sends nothing yet.
    pub fn resume(&self, agent: AgentId, ask: impl FnOnce(Vec<(AttemptKey, internal::FollowAttempt)>)) {
        let _turn = self.telling();
        let orders = self.orders_for(agent);
        if !orders.is_empty() {
            ask(orders);
        }
    }

    fn telling(&self) -> MutexGuard<'_, ()> {
        self.telling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that somebody follows an attempt of this agent. Returns what notifies of news, and what to ask the agent;
    /// `None` if too many attempts are followed.
    fn follow(
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
    fn unfollow(&self, key: AttemptKey, now: Instant) -> Option<internal::FollowAttempt> {
        let mut attempts = self.attempts();
        attempts.followers = attempts.followers.saturating_sub(1);
        let kept = attempts.kept.get_mut(&key)?;
        kept.followers = kept.followers.saturating_sub(1);
        kept.used = now;
        (kept.followers == 0 && !kept.has_ended && kept.missing.is_empty()).then(|| kept.order(key, true))
    }

    /// Returns what to ask an agent that has a new connection, over which it sends nothing yet.
    fn orders_for(&self, agent: AgentId) -> Vec<(AttemptKey, internal::FollowAttempt)> {
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
mod tests;
