//! Follows a task from attempt to attempt, at any coordinator: which attempts there are is in the state, and what they say
//! comes from the leader.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{
    Stream, StreamExt,
    stream::{BoxStream, SelectAll},
};
use robeing_fleet::{Kept, TaskId, TaskRun, limits::MAX_VERIFYING_AGENTS};
use robeing_proto::{internal::v1 as internal, v1};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    api::{convert, errors},
    leader::sessions::AttemptKey,
    logs::source::Source,
    read::StateReader,
};

/// Maximum number of streams that follow tasks at one coordinator.
pub const MAX_STREAMS: usize = 1_024;
/// Maximum number of positions from which a stream is resumed.
pub const MAX_POSITIONS: usize = 16;
/// Maximum number of attempts that one stream follows at once.
const MAX_AT_ONCE: usize = MAX_VERIFYING_AGENTS as usize;
/// How long an attempt that has ended is still followed, for its last lines.
pub const LINGER: Duration = Duration::from_secs(2);
/// Minimum time between two reads of the state.
const LOOK_APART: Duration = Duration::from_millis(5);

/// Serves the lines of tasks. Cheap to clone.
#[derive(Clone)]
pub struct TaskLogs {
    pub source: Source,
    /// The room for streams, of [`MAX_STREAMS`].
    pub room: Arc<Semaphore>,
}

/// What is followed of a task.
#[derive(Debug)]
pub struct Wanted {
    id: TaskId,
    /// Follow what comes, too.
    follow: bool,
    /// Only this attempt.
    attempt: Option<u32>,
    /// The first line that is wanted of an attempt, by its number and the agent's name.
    after: BTreeMap<(u32, String), u64>,
}

impl Wanted {
    /// Reads a request.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the id is none, or there are too many positions.
    pub fn of(request: v1::TaskLogsRequest) -> Result<Self, Status> {
        let v1::TaskLogsRequest { id, follow, attempt, after } = request;
        if after.len() > MAX_POSITIONS {
            return Err(errors::too_many("positions", after.len(), MAX_POSITIONS));
        }
        let after = after.into_iter().map(|of| ((of.attempt, of.agent), of.next)).collect();
        Ok(Self { id: convert::task_id(&id)?, follow, attempt: (attempt > 0).then_some(attempt), after })
    }

    /// Returns what follows a task from its newest attempt on.
    pub fn all_of(id: TaskId) -> Self {
        Self { id, follow: true, attempt: None, after: BTreeMap::new() }
    }
}

/// An attempt that is followed.
struct Open {
    run: TaskRun,
    /// When its last lines are given up, if it has ended.
    closes: Option<Instant>,
    close: CancellationToken,
}

/// Something about an attempt; `None`: nothing more comes.
type Event = (AttemptKey, Option<internal::AttemptLog>);

/// A stream about a task.
struct Following {
    source: Source,
    wanted: Wanted,
    events: SelectAll<BoxStream<'static, Event>>,
    open: BTreeMap<AttemptKey, Open>,
    /// The attempts that are, or were, followed.
    seen: BTreeSet<AttemptKey>,
    /// No attempt comes any more.
    is_over: bool,
    _room: OwnedSemaphorePermit,
}

fn key(run: &TaskRun) -> AttemptKey {
    (run.task, run.attempt)
}

impl TaskLogs {
    fn begin(&self, wanted: Wanted) -> Result<Following, Status> {
        let room = Arc::clone(&self.room).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!(
                "{MAX_STREAMS} streams follow tasks here, the most; use another coordinator, or try again later"
            ))
        })?;
        let is_known = self.source.here.state.look(|fleet| match fleet.task(wanted.id) {
            Some(task) => task.member_of.is_none(),
            None => fleet.archived(wanted.id).is_some(),
        });
        if !is_known {
            return Err(errors::no_task(&wanted.id.to_string()));
        }
        Ok(Following {
            source: self.source.clone(),
            wanted,
            events: SelectAll::new(),
            open: BTreeMap::new(),
            seen: BTreeSet::new(),
            is_over: false,
            _room: room,
        })
    }

    /// Streams what attempts at a task say.
    ///
    /// # Errors
    /// NOT_FOUND if the task is not known here; RESOURCE_EXHAUSTED if there are too many streams.
    pub fn open(
        &self,
        wanted: Wanted,
    ) -> Result<impl Stream<Item = Result<v1::TaskLogsResponse, Status>> + Send + use<>, Status> {
        let mut following = self.begin(wanted)?;
        let (observer, leaving) = (Arc::clone(&self.source.here.observer), self.source.here.leaving.clone());
        Ok(async_stream::stream! {
            let mut revisions = observer.revisions();
            let (mut look_at, mut is_stale) = (Instant::now(), true);
            loop {
                let now = Instant::now();
                if is_stale && now >= look_at {
                    revisions.mark_unchanged();
                    (look_at, is_stale) = (now + LOOK_APART, false);
                    following.look(now).await;
                }
                for late in following.give_up(now) {
                    yield Ok(late);
                }
                if following.has_ended() {
                    if following.wanted.follow {
                        yield Ok(v1::TaskLogsResponse { finished: true, ..Default::default() });
                    }
                    return;
                }
                let closes = following.open.values().filter_map(|open| open.closes).min();
                let wakes = [closes, is_stale.then_some(look_at)].into_iter().flatten().min();
                tokio::select! {
                    biased;
                    () = leaving.begins() => {
                        yield Err(Status::unavailable("this coordinator is leaving; resume at another"));
                        return;
                    }
                    () = wake(wakes) => {}
                    changed = revisions.changed(), if !is_stale => match changed {
                        Ok(()) => is_stale = true,
                        Err(_) => return,
                    },
                    Some((key, log)) = following.events.next() => {
                        if let Some(told) = following.told(key, log) {
                            yield Ok(told);
                        }
                    }
                }
            }
        })
    }
}

/// Waits until a time, or forever.
async fn wake(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Returns whether a task has ended, and the wanted one of its attempts, or what runs of it.
async fn runs_of(state: &StateReader, id: TaskId, attempt: Option<u32>) -> (bool, Vec<TaskRun>) {
    let found = state.look(|fleet| match fleet.task(id) {
        Some(task) => Ok((task.state.is_final(), fleet.runs_of(task, attempt))),
        None => Err(fleet.archived(id)),
    });
    let archived = match found {
        Ok(found) => return found,
        Err(archived) => archived,
    };
    let Some(row) = archived else { return (true, Vec::new()) };
    let task = state.read(Kept::Archived(row)).await.ok().flatten();
    (true, task.map_or(Vec::new(), |task| state.look(|fleet| fleet.runs_of(&task, attempt))))
}

impl Following {
    /// Reads which attempts there are, and follows those that are new.
    async fn look(&mut self, now: Instant) {
        let Wanted { id, follow, attempt, .. } = self.wanted;
        let (is_final, runs) = runs_of(&self.source.here.state, id, attempt).await;
        let current: BTreeSet<AttemptKey> = runs.iter().filter(|run| run.is_current).map(key).collect();
        for (key, open) in &mut self.open {
            // Without `follow` it ends by itself.
            if follow && open.closes.is_none() && !current.contains(key) {
                open.closes = Some(now + LINGER);
            }
        }
        for run in runs {
            if self.open.len() < MAX_AT_ONCE && self.seen.insert(key(&run)) {
                let closes = (follow && !run.is_current).then(|| now + LINGER);
                self.begin(run, closes);
            }
        }
        // Another attempt with the same number never comes.
        let has_had_it = attempt.is_some() && !self.seen.is_empty() && current.is_empty();
        self.is_over = is_final || !follow || has_had_it;
    }

    fn begin(&mut self, run: TaskRun, closes: Option<Instant>) {
        let key = key(&run);
        let from = self.wanted.after.get(&(run.attempt, run.agent.to_string())).copied().unwrap_or(0);
        let close = CancellationToken::new();
        let logs = self.source.stream(run.clone(), from, self.wanted.follow).map(move |log| (key, Some(log)));
        let end = futures::stream::iter([(key, None)]);
        self.events.push(logs.take_until(close.clone().cancelled_owned()).chain(end).boxed());
        self.open.insert(key, Open { run, closes, close });
    }

    /// Returns what to tell about an attempt.
    fn told(&mut self, key: AttemptKey, log: Option<internal::AttemptLog>) -> Option<v1::TaskLogsResponse> {
        let Some(log) = log else {
            self.open.remove(&key);
            return None;
        };
        let run = &self.open.get(&key)?.run;
        let progress = log.progress.map(|of| v1::AttemptProgress { fraction: of.fraction, text: of.text });
        Some(v1::TaskLogsResponse {
            attempt: run.attempt,
            agent: run.agent.to_string(),
            first: log.first,
            lines: log.lines,
            progress,
            caught_up: log.caught_up,
            ended: log.ended,
            missing: log.missing,
            finished: false,
        })
    }

    /// Gives up the last lines of attempts that ended some time ago. Returns what to tell about that.
    fn give_up(&mut self, now: Instant) -> Vec<v1::TaskLogsResponse> {
        let is_late = |open: &Open| open.closes.is_some_and(|closes| now >= closes);
        let late: Vec<AttemptKey> = self.open.iter().filter(|(_, open)| is_late(open)).map(|(key, _)| *key).collect();
        let open = late.into_iter().filter_map(|key| self.open.remove(&key));
        let told = open.map(|open| {
            open.close.cancel();
            let agent = open.run.agent.to_string();
            let missing =
                format!("the agent {agent} did not send the last lines within {LINGER:?} of the attempt's end");
            v1::TaskLogsResponse { attempt: open.run.attempt, agent, missing, ..Default::default() }
        });
        told.collect()
    }

    /// Returns whether nothing more comes.
    fn has_ended(&self) -> bool {
        self.is_over && self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(positions: usize) -> v1::TaskLogsRequest {
        let position = |n: usize| v1::LogPosition { attempt: n as u32, agent: "a".to_owned(), next: 7 };
        let after = (0..positions).map(position).collect();
        v1::TaskLogsRequest { id: TaskId(1).to_string(), follow: true, attempt: 0, after }
    }

    #[test]
    fn a_stream_is_resumed_from_a_bounded_number_of_positions() {
        let wanted = Wanted::of(request(MAX_POSITIONS)).expect("it is a request");
        assert_eq!((wanted.after.len(), wanted.attempt, wanted.follow), (MAX_POSITIONS, None, true));
        assert_eq!(wanted.after.get(&(3, "a".to_owned())), Some(&7));
        let refused = Wanted::of(request(MAX_POSITIONS + 1)).expect_err("one more");
        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    }
}
