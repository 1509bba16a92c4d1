//! Ends attempts that make no progress, as leader, over the session of the agent that runs them.
//!
//! An agent says when it starts an attempt with a progress timeout, and when it notices progress of one. That is kept
//! in memory, with the connection; only the end of an attempt is written to the log. Over a new connection, to
//! whichever leader, the agent says again how long ago the newest progress was, so nothing is forgotten with a leader.
//! An attempt about which an agent says nothing is not ended: the agent may be of a version that knows no progress.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    pin::Pin,
    time::Duration,
};

use futures::future::{BoxFuture, join_all};
use robeing_fleet::{
    AgentId, Command, Reply, TaskCommand,
    sabotage::{Mistake, planted},
};
use robeing_proto::internal::v1 as internal;
use tokio::time::{Instant, Sleep};
use tracing::{debug, info};

use crate::{api::convert, leader::sessions::AttemptKey, propose::Proposer, read::StateReader};

/// How often the attempts of an agent are checked.
pub const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long an attempt may be without progress beyond its progress timeout and a quarter of it, which an agent may take
/// to notice progress: progress takes some time to arrive.
pub const SLACK: Duration = Duration::from_millis(500);
/// Maximum number of attempts about which one message counts; the agent sends several messages about more.
pub const MAX_TOLD: usize = 1_024;
/// Maximum number of attempts of one agent that are being ended at once.
const MAX_AT_ONCE: usize = 64;
/// Number of attempts that are looked up in the state at once.
const READ_AT_ONCE: usize = 256;

/// Returns how long a leader waits for progress of an attempt with this progress timeout.
fn patience(most: Duration) -> Duration {
    most + most / 4 + SLACK
}

/// The newest progress of an attempt.
#[derive(Clone, Copy, Debug)]
struct Made {
    at: Instant,
    most: Duration,
}

/// The attempts of one agent that have a progress timeout. Pure: the time is passed in.
#[derive(Debug, Default)]
struct Watched(BTreeMap<AttemptKey, Made>);

impl Watched {
    /// Takes note of progress that was made so long ago, of an attempt that may be without it for `most`.
    fn progressed(&mut self, key: AttemptKey, ago: Duration, most: Duration, now: Instant) {
        let at = now.checked_sub(ago.min(patience(most))).unwrap_or(now);
        match self.0.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert(Made { at, most });
            }
            Entry::Occupied(_) if planted(Mistake::ProgressIgnored) => {}
            Entry::Occupied(mut entry) => {
                let at = entry.get().at.max(at);
                entry.insert(Made { at, most });
            }
        }
    }

    /// Returns the attempts that have made no progress for too long.
    fn overdue(&self, now: Instant) -> impl Iterator<Item = AttemptKey> {
        let overdue =
            self.0.iter().filter(move |(_, made)| now.saturating_duration_since(made.at) >= patience(made.most));
        overdue.map(|(key, _)| *key)
    }

    /// Gives every attempt so much more time.
    fn excuse(&mut self, pause: Duration) {
        self.0.values_mut().for_each(|made| made.at += pause);
    }
}

/// The looks at the attempts of an agent.
#[derive(Debug)]
struct Looks {
    newest: Instant,
    /// Since then, not all was read that the agent said.
    is_held_up: bool,
}

impl Looks {
    /// Takes note of a look. Returns for how long what the agent said may not have been read: this process stalled, or was
    /// busy with what it said before.
    fn look(&mut self, now: Instant) -> Option<Duration> {
        let pause = now.saturating_duration_since(std::mem::replace(&mut self.newest, now));
        let is_held_up = std::mem::take(&mut self.is_held_up) || pause > LOOK_EVERY * 2;
        is_held_up.then_some(pause)
    }
}

/// The progress of the attempts of the agent of one session.
pub struct SessionProgress {
    state: StateReader,
    proposer: Proposer,
    agent: AgentId,
    term: u64,
    watched: Watched,
    timer: Pin<Box<Sleep>>,
    looks: Looks,
    /// The ends of attempts that are being written.
    writing: Option<BoxFuture<'static, ()>>,
}

impl SessionProgress {
    /// Creates what watches the attempts of an agent that has just connected to the leader of `term`.
    pub fn new(state: StateReader, proposer: Proposer, agent: AgentId, term: u64) -> Self {
        let newest = Instant::now();
        let timer = Box::pin(tokio::time::sleep_until(newest));
        let looks = Looks { newest, is_held_up: false };
        Self { state, proposer, agent, term, watched: Watched::default(), timer, looks, writing: None }
    }

    /// Takes note that what the agent says is not read for the moment. Nothing may be checked until it is again.
    pub fn held_up(&mut self) {
        self.looks.is_held_up = true;
    }

    /// Takes note of what the agent says about its attempts. What it says about others is ignored.
    pub fn heard(&mut self, said: internal::Progressed) {
        let now = Instant::now();
        if self.watched.0.is_empty() {
            self.looks.newest = now;
            self.timer.as_mut().reset(now + LOOK_EVERY);
        }
        let read = |of: internal::AttemptProgressed| {
            let task = convert::task_id(&of.task_id).ok()?;
            Some(((task, of.attempt), Duration::from_millis(of.ago_ms)))
        };
        let told: Vec<_> = said.attempts.into_iter().take(MAX_TOLD).filter_map(read).collect();
        for told in told.chunks(READ_AT_ONCE) {
            let most = self.progress_timeouts(told.iter().map(|(key, _)| *key));
            for ((key, ago), most) in told.iter().zip(most) {
                if let Some(most) = most {
                    self.watched.progressed(*key, *ago, most, now);
                }
            }
        }
    }

    /// Waits until attempts are to be checked, or their ends were written, and does what follows. Cancellation-safe;
    /// never returns while no attempt has a progress timeout.
    pub async fn act(&mut self) {
        if self.watched.0.is_empty() && self.writing.is_none() {
            return std::future::pending().await;
        }
        let Self { writing, timer, .. } = self;
        let written = async {
            match writing {
                Some(writing) => writing.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // An end that was not written is proposed again after the next check.
            () = written => self.writing = None,
            () = timer.as_mut() => {
                let now = Instant::now();
                self.timer.as_mut().reset(now + LOOK_EVERY);
                self.look(now);
            }
        }
    }

    /// Returns how long these attempts may be without progress; `None` for one that the agent does not run, or that may
    /// be without it as long as it runs.
    fn progress_timeouts(&self, attempts: impl Iterator<Item = AttemptKey>) -> Vec<Option<Duration>> {
        let agent = self.agent;
        self.state.look(|fleet| {
            let most = attempts.map(|(task, attempt)| fleet.progress_timeout_of(task, attempt, agent));
            most.map(|most| most.map(Duration::from_millis)).collect()
        })
    }

    fn look(&mut self, now: Instant) {
        if let Some(pause) = self.looks.look(now) {
            self.watched.excuse(pause);
        }
        self.forget_ended();
        if self.writing.is_some() || planted(Mistake::StallIgnored) {
            return;
        }
        let overdue: Vec<AttemptKey> = self.watched.overdue(now).take(MAX_AT_ONCE).collect();
        if !overdue.is_empty() {
            self.end(overdue);
        }
    }

    fn forget_ended(&mut self) {
        let attempts: Vec<AttemptKey> = self.watched.0.keys().copied().collect();
        for attempts in attempts.chunks(READ_AT_ONCE) {
            let most = self.progress_timeouts(attempts.iter().copied());
            for (key, most) in attempts.iter().zip(most) {
                if most.is_none() {
                    self.watched.0.remove(key);
                }
            }
        }
    }

    fn end(&mut self, attempts: Vec<AttemptKey>) {
        let (proposer, term, agent) = (self.proposer.clone(), self.term, self.agent);
        self.writing = Some(Box::pin(async move {
            // Another leader hears of progress itself.
            let end =
                |(task, attempt)| proposer.propose_in(term, Command::Task(TaskCommand::Stalled { task, attempt }));
            let ended = join_all(attempts.iter().copied().map(end)).await;
            for ((task, attempt), ended) in attempts.into_iter().zip(ended) {
                match ended {
                    Ok(Reply::Done) => {
                        info!(%task, attempt, agent = agent.0, "an attempt made no progress and was ended")
                    }
                    other => debug!(%task, attempt, ?other, "an attempt that makes no progress was not ended"),
                }
            }
        }));
    }
}

#[cfg(test)]
mod tests {
    use robeing_fleet::TaskId;

    use super::*;

    const MOST: Duration = Duration::from_secs(8);
    const KEY: AttemptKey = (TaskId(1), 1);

    fn overdue(watched: &Watched, now: Instant) -> Vec<AttemptKey> {
        watched.overdue(now).collect()
    }

    #[test]
    fn an_attempt_is_overdue_a_quarter_of_its_timeout_and_the_slack_after_that() {
        let (mut watched, now) = (Watched::default(), Instant::now());
        watched.progressed(KEY, Duration::ZERO, MOST, now);
        let at = now + MOST + MOST / 4 + SLACK;
        assert!(overdue(&watched, at - Duration::from_millis(1)).is_empty());
        assert_eq!(overdue(&watched, at), [KEY]);
        watched.progressed(KEY, Duration::ZERO, MOST, at);
        assert!(overdue(&watched, at).is_empty());
    }

    #[test]
    fn progress_counts_from_when_it_was_made_and_the_newest_one_counts() {
        let (mut watched, now) = (Watched::default(), Instant::now());
        let ago = Duration::from_secs(3);
        watched.progressed(KEY, ago, MOST, now);
        assert_eq!(overdue(&watched, now + patience(MOST) - ago), [KEY]);
        // What is said again over a new connection is no other progress, and no earlier one counts.
        let later = now + Duration::from_secs(2);
        watched.progressed(KEY, ago + Duration::from_secs(2), MOST, later);
        watched.progressed(KEY, MOST, MOST, later);
        assert_eq!(overdue(&watched, now + patience(MOST) - ago), [KEY]);
        assert!(overdue(&watched, now + patience(MOST) - ago - Duration::from_millis(1)).is_empty());
    }

    #[test]
    fn what_was_not_read_is_excused_for_as_long_as_nothing_was_looked_at() {
        let now = Instant::now();
        let mut looks = Looks { newest: now, is_held_up: false };
        assert_eq!(looks.look(now + LOOK_EVERY * 2), None);
        let stalled = LOOK_EVERY * 2 + Duration::from_millis(1);
        assert_eq!(looks.look(now + LOOK_EVERY * 2 + stalled), Some(stalled));
        looks.is_held_up = true;
        let later = now + LOOK_EVERY * 3 + stalled;
        assert_eq!((looks.look(later), looks.look(later + LOOK_EVERY)), (Some(LOOK_EVERY), None));
    }

    #[test]
    fn progress_of_long_ago_is_overdue_at_once_and_a_pause_is_excused() {
        let (mut watched, now) = (Watched::default(), Instant::now() + patience(MOST));
        watched.progressed(KEY, Duration::from_millis(u64::MAX), MOST, now);
        assert_eq!(overdue(&watched, now), [KEY]);
        watched.excuse(Duration::from_millis(1));
        assert!(overdue(&watched, now).is_empty());
        assert_eq!(overdue(&watched, now + Duration::from_millis(1)), [KEY]);
    }
}
