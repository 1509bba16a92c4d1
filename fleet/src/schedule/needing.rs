//! The tasks that need resources of an agent, by what they need: of those that need the same, the first one tells whether
//! an agent can take any. However many tasks wait, as many looks are needed as there are different needs.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use bilrost::Message;

use super::{
    free_agents::Needs,
    queue::{Rank, rank},
};
use crate::{Amounts, Role, SubmitTask, Task, TaskResources, TeamId};

/// What a task needs of an agent and of the resource pool.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Message)]
#[bilrost(distinguished)]
pub(crate) struct Shape {
    /// The queue that was asked for.
    #[bilrost(1)]
    pub queue: String,
    #[bilrost(2)]
    pub role: Option<Role>,
    /// The required specialization, else the kind.
    #[bilrost(3)]
    pub domain: String,
    /// Whether the domain must be one of the agent's specializations.
    #[bilrost(4)]
    pub specialization_required: bool,
    #[bilrost(5)]
    pub team: Option<TeamId>,
    #[bilrost(6)]
    pub amounts: Amounts,
}

/// The unfinished tasks of one shape.
#[derive(Clone, PartialEq, Debug, Default)]
struct Tasks {
    /// The number of all of them.
    unfinished: u32,
    /// The places of those that are ready.
    ready: BTreeSet<Rank>,
}

/// The unfinished tasks that need resources.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Needing {
    shapes: BTreeMap<Shape, Tasks>,
    /// The number of those that are ready.
    pub ready: usize,
}

impl Shape {
    fn of(needs: &Needs<'_>, team: Option<TeamId>, asked: &TaskResources) -> Shape {
        Shape {
            queue: asked.queue.clone(),
            role: needs.role,
            domain: needs.domain.to_owned(),
            specialization_required: needs.specialization_required,
            team,
            amounts: asked.amounts,
        }
    }

    /// Returns the shape of a task that needs resources once it is accepted.
    pub(crate) fn of_submission(submission: &SubmitTask, asked: &TaskResources) -> Shape {
        let skill = submission.required_specialization.as_deref();
        let needs = Needs {
            role: submission.required_role,
            specialization_required: skill.is_some(),
            domain: skill.unwrap_or(&submission.kind),
        };
        Shape::of(&needs, submission.team, asked)
    }

    /// Returns what it requires of an agent besides resources.
    pub(crate) fn needs(&self) -> Needs<'_> {
        Needs { role: self.role, specialization_required: self.specialization_required, domain: &self.domain }
    }
}

impl Needing {
    /// Indexes a task that needs these resources, after a change.
    pub(crate) fn enter(&mut self, task: &Task, asked: &TaskResources) {
        if task.state.is_final() {
            return;
        }
        let tasks = self.shapes.entry(Shape::of(&task.needs(), task.team, asked)).or_default();
        tasks.unfinished += 1;
        if task.is_ready() {
            tasks.ready.insert(rank(task));
            self.ready += 1;
        }
    }

    /// Removes a task before a change.
    pub(crate) fn leave(&mut self, task: &Task, asked: &TaskResources) {
        if task.state.is_final() {
            return;
        }
        let shape = Shape::of(&task.needs(), task.team, asked);
        let Some(tasks) = self.shapes.get_mut(&shape) else { return };
        tasks.unfinished -= 1;
        if task.is_ready() {
            tasks.ready.remove(&rank(task));
            self.ready -= 1;
        }
        if tasks.unfinished == 0 {
            self.shapes.remove(&shape);
        }
    }

    /// Returns whether there are unfinished tasks of this shape.
    pub(crate) fn knows(&self, shape: &Shape) -> bool {
        self.shapes.contains_key(shape)
    }

    /// Returns the number of different shapes.
    pub(crate) fn len(&self) -> usize {
        self.shapes.len()
    }

    /// Returns the shapes of ready tasks, with the places of these.
    pub(crate) fn waiting(&self) -> impl Iterator<Item = (&Shape, &BTreeSet<Rank>)> {
        self.shapes.iter().map(|(shape, tasks)| (shape, &tasks.ready)).filter(|(_, ready)| !ready.is_empty())
    }

    /// Returns the next shape of ready tasks after this one; the first one after `None`.
    pub(crate) fn after(&self, shape: Option<&Shape>) -> Option<&Shape> {
        let start = shape.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.shapes.range::<Shape, _>((start, Bound::Unbounded));
        rest.find(|(_, tasks)| !tasks.ready.is_empty()).map(|(shape, _)| shape)
    }

    /// Returns the places of the ready tasks of a shape, the first one in front.
    pub(crate) fn ready_of(&self, shape: &Shape) -> impl Iterator<Item = &Rank> {
        self.shapes.get(shape).into_iter().flat_map(|tasks| &tasks.ready)
    }
}
