//! What others read of links: the results that attempts at a task are given, and the children of a task.

use bytes::Bytes;

use super::Passing;
use crate::{Archived, Fleet, Kept, Task, TaskId};

impl Fleet {
    /// Returns the task whose links count for attempts at this one: a member of a task with a result to be verified is
    /// given what that one is given, but none that compares outputs.
    fn linked_task<'a>(&'a self, task: &'a Task) -> &'a Task {
        if self.compares_for(task).is_some() {
            return task;
        }
        task.member_of.and_then(|parent| self.state.tasks.kept.get(&parent)).map_or(task, AsRef::as_ref)
    }

    /// Returns how many results attempts at a task are given.
    pub fn results_given(&self, task: &Task) -> usize {
        let Some(links) = &self.linked_task(task).links else { return 0 };
        let children = links.children.as_ref().filter(|children| children.passes_results());
        let of_children = children.map_or(0, |children| children.parts.saturating_sub(children.from));
        links.depends_on.len() + of_children as usize
    }

    /// Returns at most `most` of the tasks whose results attempts at a task are given, from this place on: those that
    /// it depends on, as submitted, then its children in order. Each has ended, if the task may begin.
    pub fn results_for(&self, task: &Task, from: usize, most: usize) -> Vec<Kept> {
        let task = self.linked_task(task);
        let Some(links) = &task.links else { return Vec::new() };
        let dependencies = links.depends_on.iter().skip(from).map(|awaited| awaited.seq);
        let children = links.children.as_ref().filter(|children| children.passes_results());
        let skipped = u32::try_from(from.saturating_sub(links.depends_on.len())).unwrap_or(u32::MAX);
        let first = children.map(|children| children.from.saturating_add(skipped));
        let children = first.into_iter().flat_map(|first| self.indexes.links.children_from(task.seq, first));
        let numbers = dependencies.chain(children.map(|(_, seq)| seq)).take(most);
        numbers.filter_map(|seq| self.kept_at(seq)).collect()
    }

    /// Returns the archived ones among the tasks that a task depends on.
    pub fn archived_results(&self, task: &Task) -> Vec<Archived> {
        let links = self.linked_task(task).links.as_ref();
        let dependencies = links.into_iter().flat_map(|links| &links.depends_on);
        dependencies.filter_map(|awaited| self.state.archive.kept.get(awaited.seq)).collect()
    }

    /// Returns how the results are passed on to attempts at a task.
    pub fn passing_of(&self, task: &Task) -> Passing {
        self.linked_task(task).links.as_ref().map_or(Passing::Separately, |links| links.passing)
    }

    /// Returns what an earlier attempt at a task has left to the next one.
    pub fn carried_to(&self, task: &Task) -> Bytes {
        self.linked_task(task).children().map(|children| children.carried.clone()).unwrap_or_default()
    }

    /// Returns at most `most` of the children of a task that are kept, in order, from this number on, with their
    /// numbers.
    pub fn children_of(&self, parent: TaskId, from: u32, most: usize) -> Vec<(u32, Kept)> {
        let Some(parent) = self.kept_seq(parent) else { return Vec::new() };
        let found = self.indexes.links.children_from(parent, from).take(most);
        found.filter_map(|(index, seq)| Some((index, self.kept_at(seq)?))).collect()
    }
}
