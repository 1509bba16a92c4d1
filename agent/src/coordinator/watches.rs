//! Watching tasks: what changed since a revision, then changes as they happen. Nothing is queued for a watcher: it reads the
//! state in the order of revisions, so one that is slow, or was away, just sees fewer of the states in between.

use std::{collections::BTreeSet, sync::Arc};

use futures::Stream;
use prost::Message;
use robeing_fleet::{Fleet, Task, TaskFilter, TaskId};
use robeing_proto::{budget::MessageBudget, v1};
use tonic::Status;

use super::{
    node::Node,
    view::{self, Parts},
};

/// Tasks in one message.
const MAX_TASKS: usize = 500;
/// Tasks looked at in one go, so that applying does not wait long.
const MAX_LOOKED_AT: usize = 5_000;

struct Watch {
    filter: TaskFilter,
    ids: BTreeSet<TaskId>,
    /// Ids that were not told to be gone.
    present: BTreeSet<TaskId>,
    parts: Parts,
    cursor: u64,
}

impl Watch {
    fn wants(&self, task: &Task) -> bool {
        (self.ids.is_empty() || self.ids.contains(&task.id)) && self.filter.matches(task)
    }

    /// The next changes, and whether there may be more already.
    fn step(&mut self, fleet: &Fleet) -> (Vec<v1::Task>, bool) {
        let (mut tasks, mut looked_at) = (Vec::new(), 0);
        let mut budget = MessageBudget::default();
        for task in fleet.changed_tasks_since(self.cursor) {
            if self.wants(task) {
                let told = view::task(task, self.parts, fleet.now());
                if !budget.take(told.encoded_len()) {
                    return (tasks, true);
                }
                tasks.push(told);
            }
            self.cursor = task.revision;
            looked_at += 1;
            if tasks.len() == MAX_TASKS || looked_at == MAX_LOOKED_AT {
                return (tasks, true);
            }
        }
        self.cursor = self.cursor.max(fleet.revision());
        (tasks, false)
    }

    /// Those of the ids that are not there (any more). Each is told once.
    fn gone(&mut self, fleet: &Fleet) -> Vec<String> {
        let gone: Vec<TaskId> = self.present.iter().filter(|id| fleet.task(**id).is_none()).copied().collect();
        for id in &gone {
            self.present.remove(id);
        }
        gone.iter().map(TaskId::to_string).collect()
    }
}

/// The changes a request asks for.
pub fn watch(
    node: Arc<Node>,
    request: v1::WatchTasksRequest,
) -> Result<impl Stream<Item = Result<v1::WatchTasksResponse, Status>> + Send + use<>, Status> {
    let ids: BTreeSet<TaskId> = request.ids.iter().map(|id| view::task_id(id)).collect::<Result<_, _>>()?;
    let mut watch = Watch {
        filter: TaskFilter {
            states: view::task_states(&request.states)?,
            kind: view::filter_name("kind", request.kind)?,
            submitter: view::filter_name("submitter", request.submitter)?,
            agent: None,
        },
        present: ids.clone(),
        ids,
        parts: Parts { input: false, output: request.include_output, attempts: true },
        cursor: request.from_revision,
    };
    Ok(async_stream::stream! {
        let mut revisions = node.hub.revisions();
        loop {
            revisions.mark_unchanged();
            let before = watch.cursor;
            let ((tasks, more), gone_ids) = node.look(|fleet| (watch.step(fleet), watch.gone(fleet)));
            // Told when it is caught up, too, so that a watcher knows that it has seen everything.
            let caught_up = !more && watch.cursor != before && watch.ids.is_empty();
            if !tasks.is_empty() || !gone_ids.is_empty() || caught_up {
                yield Ok(v1::WatchTasksResponse { tasks, revision: watch.cursor, gone_ids });
            }
            if !more {
                tokio::select! {
                    () = node.leaves() => {
                        yield Err(Status::unavailable("this coordinator leaves; watch on at another from the last revision"));
                        return;
                    }
                    changed = revisions.changed() => if changed.is_err() { return },
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use robeing_fleet::Outcome;
    use robeing_proto::budget::{MAX_ITEM_BYTES, MESSAGE_BUDGET_BYTES};

    use super::*;
    use crate::coordinator::fixture::{fleet_with_ended, wordy_failure};

    /// Everything a watch from the beginning tells, in as many messages as it takes.
    fn all(fleet: &Fleet) -> Vec<v1::WatchTasksResponse> {
        let mut watch = Watch {
            filter: TaskFilter::default(),
            ids: BTreeSet::new(),
            present: BTreeSet::new(),
            parts: Parts { input: false, output: true, attempts: true },
            cursor: 0,
        };
        let mut messages = Vec::new();
        loop {
            let (tasks, more) = watch.step(fleet);
            messages.push(v1::WatchTasksResponse { tasks, revision: watch.cursor, gone_ids: Vec::new() });
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
            assert_eq!(revisions.len(), 60, "each is told");
            revisions.dedup();
            assert_eq!(revisions.len(), 60, "and told once");
            assert_eq!(messages.last().map(|last| last.revision), Some(fleet.revision()));
        }
    }
}
