//! A walk through all that is below a task, for those who wait until nothing of a tree runs any more.

use crate::{Fleet, Kept, TaskId};

/// How far a walk through the parts and subtasks of a task, and theirs, has come. What is accepted meanwhile behind it
/// is not found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TreeWalk {
    /// The tasks whose children are looked at, each below the one before, with the number of the child that is next: no
    /// more than a tree has levels.
    path: Vec<(u64, u32)>,
}

impl TreeWalk {
    /// Returns whether all was looked at.
    pub fn is_over(&self) -> bool {
        self.path.is_empty()
    }
}

impl Fleet {
    /// Begins a walk through all that is below a task; `None` if it never had parts or subtasks, or is not known (any
    /// more).
    pub fn walk_below(&self, id: TaskId) -> Option<TreeWalk> {
        let found = match self.kept_task(id)? {
            Kept::Here(task) => task.children().map(|_| task.seq),
            Kept::Archived(row) => row.has_children.then_some(row.seq),
        };
        Some(TreeWalk { path: vec![(found?, 0)] })
    }

    /// Continues a walk, by no more than `most` steps, of which each looks at a task or goes back to the one above.
    /// Returns the ids under which agents have attempts at these tasks, running or being stopped.
    pub fn walk(&self, walk: &mut TreeWalk, most: usize) -> Vec<TaskId> {
        let mut held = Vec::new();
        for _ in 0..most {
            let Some((parent, from)) = walk.path.pop() else { break };
            let Some((index, seq)) = self.indexes.links.child_from(parent, from) else { continue };
            walk.path.push((parent, index.saturating_add(1)));
            let (id, has_children, parts) = match self.kept_at(seq) {
                Some(Kept::Here(child)) => (child.id, child.children().is_some(), self.own_parts(&child)),
                Some(Kept::Archived(row)) => (row.id(), row.has_children, Vec::new()),
                None => continue,
            };
            if has_children {
                walk.path.push((seq, 0));
            }
            let ids = std::iter::once(id).chain(parts);
            held.extend(ids.filter(|id| self.agents_with(*id).next().is_some()));
        }
        held
    }
}
