//! Finds what still runs of tasks that are cancelled: of the tasks themselves, of the runs of verified ones, and of the
//! whole trees below them.
//!
//! A tree is walked twice. Before the cancellation, because what ends with it may be forgotten before it has stopped; this
//! must not delay the cancellation, so no more than [`MAX_WALKED_BEFORE`] tasks are looked at. And when the task is seen to
//! have ended, because then nothing below it can begin any more: what runs then is all that is to be waited for.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    sync::Arc,
};

use robeing_fleet::{Fleet, Task, TaskId, TreeWalk};

use crate::read::StateReader;

/// Number of tasks, or of ids of their parts, read from the state at once.
const MAX_LOOKED_AT: usize = 250;
/// Number of tasks below those of one call that are looked at before the cancellation, in equal shares.
const MAX_WALKED_BEFORE: usize = 10_000;

/// The names of the agents on which tasks still run, by task; none of a task of which nothing runs.
pub(super) type Running = BTreeMap<TaskId, BTreeSet<Arc<str>>>;

/// What was found of tasks so far.
#[derive(Default)]
pub(super) struct Found(BTreeMap<TaskId, Parts>);

/// What was found of a task besides itself.
#[derive(Default)]
struct Parts {
    /// The ids under which agents have attempts at it and at all below it, or had when it was still known.
    ids: BTreeSet<TaskId>,
    /// The tree below it was walked when it had ended, so nothing is missing.
    is_whole: bool,
}

impl Found {
    /// Looks for what runs of these tasks, before they are cancelled.
    pub async fn look_for(&mut self, state: &StateReader, tasks: &[TaskId]) {
        let most = MAX_WALKED_BEFORE.div_ceil(tasks.len().max(1));
        for tasks in tasks.chunks(MAX_LOOKED_AT) {
            let walks: Vec<(TaskId, TreeWalk)> = state.look(|fleet| {
                tasks.iter().for_each(|task| self.note_runs(fleet, *task));
                let walk = |task: &TaskId| Some((*task, fleet.walk_below(*task)?));
                tasks.iter().filter_map(walk).collect()
            });
            for (task, walk) in walks {
                self.walk(state, task, walk, most).await;
            }
            tokio::task::yield_now().await;
        }
    }

    /// Notes the ids of a task's own runs. They are kept although the task may be forgotten.
    fn note_runs(&mut self, fleet: &Fleet, task: TaskId) {
        let runs = fleet.parts_of(task);
        if !runs.is_empty() {
            self.0.entry(task).or_default().ids.extend(runs);
        }
    }

    async fn walk(&mut self, state: &StateReader, task: TaskId, mut walk: TreeWalk, most: usize) {
        for _ in 0..most.div_ceil(MAX_LOOKED_AT) {
            if walk.is_over() {
                return;
            }
            let found = state.look(|fleet| fleet.walk(&mut walk, most.min(MAX_LOOKED_AT)));
            if !found.is_empty() {
                self.0.entry(task).or_default().ids.extend(found);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Returns what runs of these tasks now. A task that has not ended is among them, even if nothing of it runs. To be
    /// called when the cancellations are applied here as a whole, with all that they end.
    pub async fn running(&mut self, state: &StateReader, tasks: &[TaskId]) -> Running {
        let (mut running, mut ended) = (Running::new(), BTreeSet::new());
        for tasks in tasks.chunks(MAX_LOOKED_AT) {
            for (task, walk) in self.look_at(state, tasks, &mut ended) {
                self.walk(state, task, walk, usize::MAX).await;
                self.0.entry(task).or_default().is_whole = true;
            }
            tokio::task::yield_now().await;
        }
        running.extend(tasks.iter().filter(|task| !ended.contains(*task)).map(|task| (*task, BTreeSet::new())));
        let ids: Vec<(TaskId, TaskId)> = tasks.iter().flat_map(|task| self.ids_of(*task)).collect();
        for ids in ids.chunks(MAX_LOOKED_AT) {
            let stopped = state.look(|fleet| {
                let mut stopped = Vec::new();
                for (task, id) in ids {
                    let mut agents = fleet.agents_with(*id).cloned().peekable();
                    if agents.peek().is_none() {
                        stopped.push((*task, *id));
                    } else {
                        running.entry(*task).or_default().extend(agents);
                    }
                }
                stopped
            });
            // Of a task that has ended, nothing begins again under an id that it had.
            for (task, id) in stopped.into_iter().filter(|(task, _)| ended.contains(task)) {
                if let Some(parts) = self.0.get_mut(&task) {
                    parts.ids.remove(&id);
                }
            }
            tokio::task::yield_now().await;
        }
        running
    }

    /// Looks at tasks, and notes the ids of their runs, and those that have ended. Returns the trees that are to be
    /// walked because their tasks are among these.
    fn look_at(
        &mut self,
        state: &StateReader,
        tasks: &[TaskId],
        ended: &mut BTreeSet<TaskId>,
    ) -> Vec<(TaskId, TreeWalk)> {
        state.look(|fleet| {
            let mut walks = Vec::new();
            for task in tasks {
                self.note_runs(fleet, *task);
                let is_final = |task: &Arc<Task>| task.state.is_final();
                if !fleet.task(*task).is_none_or(is_final) {
                    continue;
                }
                ended.insert(*task);
                let is_whole = self.0.get(task).is_some_and(|parts| parts.is_whole);
                walks.extend(fleet.walk_below(*task).filter(|_| !is_whole).map(|walk| (*task, walk)));
            }
            walks
        })
    }

    /// Returns all ids that are known of a task, with the task.
    fn ids_of(&self, task: TaskId) -> impl Iterator<Item = (TaskId, TaskId)> {
        let parts = self.0.get(&task).into_iter().flat_map(|parts| parts.ids.iter().copied());
        iter::once(task).chain(parts).map(move |id| (task, id))
    }
}
