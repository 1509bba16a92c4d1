//! Task watches: the changes since a revision, then changes as they happen. Nothing is queued for a watcher: a watch
//! reads the state in the order of revisions, so a watcher that is slow or was disconnected merely sees fewer of the
//! intermediate states.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use futures::Stream;
use prost::Message;
use robeing_fleet::{
    Archived, Fleet, Kept, Stamp, Task, TaskFilter, TaskId,
    sabotage::{Mistake, planted},
};
use robeing_proto::{
    budget::{MESSAGE_BUDGET_BYTES, MessageBudget},
    v1,
};
use tokio::time::Instant;
use tonic::Status;
use tracing::warn;

use crate::{
    api::convert::{self, Parts},
    apply::observer::ApplyObserver,
    archive::Unread,
    leader::standing::Standing,
    lifetime::Leaving,
    read::{READ_AT_ONCE, StateReader, shortened},
};

/// Maximum number of tasks read at once, and therefore in one message, so that commands do not wait long to be applied.
const MAX_LOOKED_AT: usize = 500;
/// Minimum time between two reads of a watch that has seen everything: faster changes are sent together.
const LOOK_APART: Duration = Duration::from_millis(5);

struct Watch {
    filter: TaskFilter,
    /// For each id, the last revision that was sent.
    ids: BTreeMap<TaskId, u64>,
    /// Ids that have not been reported as gone.
    present: BTreeSet<TaskId>,
    parts: Parts,
    cursor: u64,
}

/// The result of reading the state.
#[derive(Default)]
struct Found {
    now: Stamp,
    tasks: Vec<Arc<Task>>,
    /// Archived tasks that may match.
    archived: Vec<Archived>,
    gone: Vec<TaskId>,
    /// Whether there may be more already.
    more: bool,
}

impl Watch {
    /// Returns the next changes.
    ///
    /// # Errors
    /// The next one can't be read here.
    async fn step(&mut self, state: &StateReader) -> Result<Found, Unread> {
        let mut found = match self.ids.is_empty() {
            true => state.look(|fleet| self.changes(fleet)),
            false => self.changes_of_ids(state).await,
        };
        if !found.archived.is_empty() {
            self.read_archived(&mut found, state).await?;
            found.tasks.sort_by_key(|task| task.revision);
        }
        Ok(found)
    }

    /// Reads the archived tasks that changed first, about as many as fit in one message; the others are found again. One
    /// that no coordinator can read is gone. One that another coordinator may have is not omitted: once what can be sent
    /// without it is sent, the watch has to be resumed there.
    async fn read_archived(&mut self, found: &mut Found, state: &StateReader) -> Result<(), Unread> {
        let mut rows = std::mem::take(&mut found.archived);
        rows.sort_by_key(|row| row.revision);
        let (mut taken, mut bytes, mut unread) = (0, 0, None);
        while taken < rows.len() && bytes < MESSAGE_BUDGET_BYTES && unread.is_none() {
            let next = &rows[taken..rows.len().min(taken + READ_AT_ONCE)];
            let read = state.read_rows(next).await;
            for (row, read) in next.iter().zip(read) {
                match read {
                    Ok(task) => {
                        let matching = task.filter(|task| self.filter.matches(task));
                        let short = matching.map(|task| shortened(task, self.parts.output));
                        bytes += short.as_ref().map_or(0, |task| task.stored_bytes() as usize);
                        found.tasks.extend(short);
                    }
                    Err(Unread::Lost(task)) => {
                        warn!(%task, "a watch reports no end of a task, because no coordinator can read it");
                        if self.present.remove(&task) {
                            found.gone.push(task);
                        }
                    }
                    // Of those that are waited for, each counts for itself.
                    Err(error) if !self.ids.is_empty() => {
                        unread = Some(error);
                        self.put_back_one(row.id(), row.revision);
                    }
                    Err(error) => {
                        unread = Some(error);
                        break;
                    }
                }
                taken += 1;
            }
        }
        self.put_back(found, &rows[taken..]);
        found.more |= unread.is_some();
        match unread {
            Some(error) if found.tasks.is_empty() && found.gone.is_empty() => Err(error),
            _ => Ok(()),
        }
    }

    /// Has a task found again that changed at this revision.
    fn put_back_one(&mut self, id: TaskId, revision: u64) {
        self.cursor = self.cursor.min(revision.saturating_sub(1));
        self.ids.entry(id).and_modify(|sent| *sent = revision.saturating_sub(1));
    }

    /// Has these archived tasks, which are in the order of their revisions, found again, and all that changed after the
    /// first of them.
    fn put_back(&mut self, found: &mut Found, rows: &[Archived]) {
        let Some(first) = rows.first().map(|row| row.revision) else { return };
        found.more = true;
        rows.iter().for_each(|row| self.put_back_one(row.id(), row.revision));
        // Those that are waited for need not come in order.
        if self.ids.is_empty() {
            found.tasks.retain(|task| task.revision < first);
        }
    }

    fn changes(&mut self, fleet: &Fleet) -> Found {
        let mut found = Found { now: fleet.now(), ..Found::default() };
        for (looked_at, kept) in fleet.kept_changed_since(self.cursor).enumerate() {
            if looked_at == MAX_LOOKED_AT {
                found.more = true;
                return found;
            }
            self.cursor = kept.revision();
            if !(planted(Mistake::WatchSkips) && self.cursor.is_multiple_of(7)) {
                self.note(kept, &mut found);
            }
        }
        self.cursor = self.cursor.max(fleet.revision());
        found
    }

    /// Adds a task to what is found, if it matches or may.
    fn note(&self, kept: Kept, found: &mut Found) {
        match kept {
            Kept::Here(task) if self.filter.matches(&task) => found.tasks.push(task),
            Kept::Archived(row) if self.filter.may_match(&row) => found.archived.push(row),
            Kept::Here(_) | Kept::Archived(_) => {}
        }
    }

    /// Looks up each of the ids, of which there are few, instead of everything that changed.
    async fn changes_of_ids(&mut self, state: &StateReader) -> Found {
        let mut found = Found::default();
        // A change during the lookup is found by the next one.
        let (seen, now) = state.look(|fleet| (fleet.revision(), fleet.now()));
        found.now = now;
        let ids: Vec<TaskId> = self.ids.keys().copied().collect();
        for ids in ids.chunks(MAX_LOOKED_AT) {
            state.look(|fleet| ids.iter().for_each(|id| self.look_for(fleet, *id, &mut found)));
            tokio::task::yield_now().await;
        }
        found.tasks.sort_by_key(|task| task.revision);
        self.cursor = self.cursor.max(seen);
        found
    }

    /// Returns the found tasks, as many as fit in one message, and whether there may be more. The rest is found again.
    fn fit(&mut self, found: &Found) -> (Vec<v1::Task>, bool) {
        let (mut tasks, mut budget) = (Vec::with_capacity(found.tasks.len()), MessageBudget::default());
        for (n, task) in found.tasks.iter().enumerate() {
            let told = convert::task(task, self.parts, found.now);
            if !budget.take(told.encoded_len()) {
                self.cursor = self.cursor.min(task.revision.saturating_sub(1));
                for rest in &found.tasks[n..] {
                    self.ids.entry(rest.id).and_modify(|sent| *sent = rest.revision.saturating_sub(1));
                }
                return (tasks, true);
            }
            tasks.push(told);
        }
        (tasks, found.more)
    }

    fn look_for(&mut self, fleet: &Fleet, id: TaskId, found: &mut Found) {
        let Some(kept) = fleet.kept_task(id) else {
            if self.present.remove(&id) {
                found.gone.push(id);
            }
            return;
        };
        let (sent, revision) = (self.ids.entry(id).or_default(), kept.revision());
        let matches = match &kept {
            Kept::Here(task) => self.filter.matches(task),
            Kept::Archived(row) => self.filter.may_match(row),
        };
        if revision > self.cursor.max(*sent) && matches {
            *sent = revision;
            self.note(kept, found);
        }
    }
}

/// Bounds of the minimum time between two updates of a status watch.
const STATUS_APART: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3_600);
/// The default of that time, if the watcher sets none.
const STATUS_APART_DEFAULT: Duration = Duration::from_secs(1);

/// Returns the minimum time between two updates that a request sets; an error if it is out of bounds.
pub fn status_apart(wanted: Option<prost_types::Duration>) -> Result<Duration, Status> {
    let Some(wanted) = wanted else { return Ok(STATUS_APART_DEFAULT) };
    let apart = Duration::try_from(wanted).ok().filter(|apart| STATUS_APART.contains(apart));
    apart.ok_or_else(|| Status::invalid_argument("at_most_every must be 100ms to 1h"))
}

/// Serves watches. Cheap to clone.
#[derive(Clone)]
pub struct Watches {
    pub state: StateReader,
    pub observer: Arc<ApplyObserver>,
    pub standing: Standing,
    pub leaving: Leaving,
}

impl Watches {
    /// Streams the changes that a request asks for.
    pub fn tasks(
        &self,
        request: v1::WatchTasksRequest,
    ) -> Result<impl Stream<Item = Result<v1::WatchTasksResponse, Status>> + Send + use<>, Status> {
        let present: BTreeSet<TaskId> = request.ids.iter().map(|id| convert::task_id(id)).collect::<Result<_, _>>()?;
        let mut watch = Watch {
            filter: TaskFilter {
                states: convert::task_states(&request.states)?,
                kind: convert::filter_name("kind", request.kind)?,
                submitter: convert::filter_name("submitter", request.submitter)?,
                agent: None,
            },
            ids: present.iter().map(|id| (*id, 0)).collect(),
            present,
            parts: Parts { input: false, output: request.include_output, attempts: true },
            cursor: request.from_revision,
        };
        let Self { state, observer, leaving, .. } = self.clone();
        Ok(async_stream::stream! {
            let mut revisions = observer.revisions();
            loop {
                revisions.mark_unchanged();
                let before = watch.cursor;
                let looked = Instant::now();
                let found = match watch.step(&state).await {
                    Ok(found) => found,
                    Err(unread) => {
                        yield Err(Status::from(unread));
                        return;
                    }
                };
                let gone = found.gone.clone();
                let (tasks, more) = watch.fit(&found);
                let gone_ids: Vec<_> = gone.iter().map(TaskId::to_string).collect();
                // Also sent when the watch is caught up, so that the watcher knows that it has seen everything.
                let caught_up = !more && watch.cursor != before && watch.ids.is_empty();
                if !tasks.is_empty() || !gone_ids.is_empty() || caught_up {
                    let revision = watch.cursor;
                    yield Ok(v1::WatchTasksResponse { tasks, revision, gone_ids, ..Default::default() });
                }
                if more {
                    tokio::task::yield_now().await;
                } else {
                    tokio::select! {
                        () = leaving.begins() => {
                            yield Err(Status::unavailable("this coordinator is leaving; resume at another from the last revision"));
                            return;
                        }
                        changed = revisions.changed() => if changed.is_err() { return },
                    }
                    tokio::time::sleep_until(looked + LOOK_APART).await;
                }
            }
        })
    }

    /// Streams an update whenever the status may have changed, at most once per `apart`.
    pub fn status(
        &self,
        apart: Duration,
    ) -> impl Stream<Item = Result<v1::WatchStatusResponse, Status>> + Send + use<> {
        let Self { observer, standing, leaving, .. } = self.clone();
        async_stream::stream! {
            let (mut revisions, mut raft_role) = (observer.revisions(), standing.roles());
            let (mut audited, mut told) = (observer.audited(), None);
            loop {
                let seen = (
                    *revisions.borrow_and_update(),
                    *audited.borrow_and_update(),
                    raft_role.borrow_and_update().clone(),
                );
                let looked = Instant::now();
                let is_new = told.as_ref() != Some(&seen);
                if is_new {
                    yield Ok(v1::WatchStatusResponse { revision: seen.0 });
                    told = Some(seen);
                }
                tokio::select! {
                    () = leaving.begins() => {
                        yield Err(Status::unavailable("this coordinator is leaving; resume at another"));
                        return;
                    }
                    changed = revisions.changed() => if changed.is_err() { return },
                    changed = audited.changed() => if changed.is_err() { return },
                    changed = raft_role.changed() => if changed.is_err() { return },
                }
                if is_new {
                    tokio::time::sleep_until(looked + apart).await;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use robeing_fleet::Outcome;
    use robeing_proto::budget::MAX_ITEM_BYTES;

    use super::*;
    use crate::fixture::{fleet_with_ended, wordy_failure};

    /// Returns everything that a watch from the beginning sends, in as many messages as it takes.
    fn all(fleet: &Fleet) -> Vec<v1::WatchTasksResponse> {
        let mut watch = Watch {
            filter: TaskFilter::default(),
            ids: BTreeMap::new(),
            present: BTreeSet::new(),
            parts: Parts { input: false, output: true, attempts: true },
            cursor: 0,
        };
        let mut messages = Vec::new();
        loop {
            let found = watch.changes(fleet);
            let (tasks, more) = watch.fit(&found);
            messages.push(v1::WatchTasksResponse { tasks, revision: watch.cursor, ..Default::default() });
            if !more {
                return messages;
            }
        }
    }

    #[test]
    fn results_that_no_single_message_takes_come_in_several() {
        let large = Outcome::Succeeded(Bytes::from(vec![7; 1024 * 1024]));
        let small = Outcome::Succeeded(Bytes::from(vec![7; 100 * 1024]));
        for outcome in [large, small, wordy_failure()] {
            let fleet = fleet_with_ended(60, &outcome);
            let messages = all(&fleet);
            for message in &messages {
                let limit = if message.tasks.len() > 1 { MESSAGE_BUDGET_BYTES + 4096 } else { MAX_ITEM_BYTES };
                assert!(
                    message.encoded_len() <= limit,
                    "{} tasks in {} bytes",
                    message.tasks.len(),
                    message.encoded_len()
                );
            }
            let mut revisions: Vec<u64> = messages.iter().flat_map(|m| &m.tasks).map(|task| task.revision).collect();
            assert_eq!(revisions.len(), 60, "each is sent");
            revisions.dedup();
            assert_eq!(revisions.len(), 60, "and sent once");
            assert_eq!(messages.last().map(|last| last.revision), Some(fleet.revision()));
        }
    }
}
