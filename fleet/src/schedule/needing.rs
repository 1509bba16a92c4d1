//! The tasks that need resources of an agent, several slots or skills, or an object store, by what they need: of those that
//! need the same, the first one tells whether an agent can take any. However many tasks wait, as many looks are needed as
//! there are different needs.

use std::{collections::BTreeMap, ops::Bound};

use bilrost::Message;

use super::{
    columns::Vacant,
    free_agents::Needs,
    line::Rules,
    queue::{Rank, rank},
    submitters::Submitters,
};
use crate::{Amounts, Role, SubmitTask, Task, TaskResources, TeamId};

/// What a task needs of an agent and of the resource pool, and where it waits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Message)]
#[bilrost(distinguished)]
pub(crate) struct Shape {
    /// The queue.
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
    /// The key that limits of the queue are about; empty if it has none.
    #[bilrost(100)]
    pub limit_key: String,
    /// The number of slots beyond the first.
    #[bilrost(120)]
    pub extra_slots: u32,
    /// The further required specializations.
    #[bilrost(121)]
    pub skills: Vec<String>,
    /// Whether the agent must have an object store.
    #[bilrost(170)]
    pub store: bool,
}

/// The unfinished tasks of one shape.
#[derive(Clone, PartialEq, Debug, Default)]
struct Tasks {
    /// The number of all of them.
    unfinished: u32,
    /// Those that are ready, by submitter.
    ready: Submitters,
}

/// The unfinished tasks that need something particular.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Needing {
    shapes: BTreeMap<Shape, Tasks>,
    /// The number of those that are ready.
    pub ready: usize,
}

impl Shape {
    /// Returns the shape of a task that requires this, is addressed to this team, needs this much of the resource pool,
    /// waits in this queue and has this key.
    pub(crate) fn of(
        needs: &Needs<'_>,
        team: Option<TeamId>,
        amounts: Amounts,
        (queue, limit_key): (&str, &str),
    ) -> Shape {
        Shape {
            queue: queue.to_owned(),
            role: needs.role,
            domain: needs.domain.to_owned(),
            specialization_required: needs.specialization_required,
            team,
            amounts,
            limit_key: limit_key.to_owned(),
            extra_slots: needs.slots.saturating_sub(1),
            skills: needs.skills.to_vec(),
            store: needs.store,
        }
    }

    /// Returns the shape of a task that needs something particular.
    pub(crate) fn of_task(task: &Task) -> Shape {
        let amounts = task.resources.as_ref().map_or(Amounts::NONE, |claim| claim.asked.amounts);
        Shape::of(&task.needs(), task.team, amounts, (task.queue(), task.limit_key()))
    }

    /// Returns the shape of a task that needs resources once it is accepted.
    pub(crate) fn of_submission(submission: &SubmitTask, asked: &TaskResources) -> Shape {
        let lane = (submission.queue(), submission.limit_key());
        Shape::of(&submission.needs(), submission.team, asked.amounts, lane)
    }

    /// Returns a shape that comes before all others of a queue.
    fn before_all_of(queue: &str) -> Shape {
        let needs = Needs {
            role: None,
            specialization_required: false,
            domain: "",
            kind: "",
            slots: 1,
            skills: &[],
            store: false,
        };
        Shape::of(&needs, None, Amounts::NONE, (queue, ""))
    }

    /// Returns what it requires of an agent besides resources. The kinds of its tasks may differ, and are not told.
    pub(crate) fn needs(&self) -> Needs<'_> {
        Needs {
            role: self.role,
            specialization_required: self.specialization_required,
            domain: &self.domain,
            kind: "",
            slots: self.extra_slots.saturating_add(1),
            skills: &self.skills,
            store: self.store,
        }
    }

    /// Returns whether an agent that can't take a task of another shape, for want of slots, skills, an object store or its
    /// role, can't take one of this shape either.
    pub(crate) fn needs_as_much_as(&self, other: &Shape) -> bool {
        self.extra_slots >= other.extra_slots
            && (self.store || !other.store)
            && (self.role, self.team, self.specialization_required)
                == (other.role, other.team, other.specialization_required)
            && self.domain == other.domain
            && self.skills == other.skills
    }
}

impl Needing {
    /// Indexes a task of a submitter that needs something particular, after a change.
    pub(crate) fn enter(&mut self, task: &Task, submitter: &str) {
        if task.state.is_final() {
            return;
        }
        let tasks = self.shapes.entry(Shape::of_task(task)).or_default();
        tasks.unfinished += 1;
        if task.is_ready() {
            tasks.ready.insert(submitter, rank(task));
            self.ready += 1;
        }
    }

    /// Removes a task before a change.
    pub(crate) fn leave(&mut self, task: &Task, submitter: &str) {
        if task.state.is_final() {
            return;
        }
        let shape = Shape::of_task(task);
        let Some(tasks) = self.shapes.get_mut(&shape) else { return };
        tasks.unfinished -= 1;
        if task.is_ready() {
            tasks.ready.remove(submitter, rank(task));
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

    /// Returns the shapes of ready tasks, with these.
    pub(crate) fn waiting(&mut self) -> impl Iterator<Item = (&Shape, &mut Submitters)> {
        let shapes = self.shapes.iter_mut().map(|(shape, tasks)| (shape, &mut tasks.ready));
        shapes.filter(|(_, ready)| !ready.is_vacant())
    }

    /// Same as [`Needing::waiting`], for the tasks of one queue.
    pub(crate) fn waiting_in(&mut self, queue: &str) -> impl Iterator<Item = (&Shape, &mut Submitters)> {
        let shapes = self.shapes.range_mut(Shape::before_all_of(queue)..);
        let of_queue = shapes.take_while(move |(shape, _)| shape.queue == queue);
        of_queue.map(|(shape, tasks)| (shape, &mut tasks.ready)).filter(|(_, ready)| !ready.is_vacant())
    }

    /// Same as [`Needing::waiting`], for readers.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = (&Shape, &Submitters)> {
        let shapes = self.shapes.iter().map(|(shape, tasks)| (shape, &tasks.ready));
        shapes.filter(|(_, ready)| !ready.is_vacant())
    }

    /// Returns the next shape of ready tasks after this one; the first one after `None`.
    pub(crate) fn after(&self, shape: Option<&Shape>) -> Option<&Shape> {
        let start = shape.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.shapes.range::<Shape, _>((start, Bound::Unbounded));
        rest.find(|(_, tasks)| !tasks.ready.is_vacant()).map(|(shape, _)| shape)
    }

    /// Returns the places of the ready tasks of a shape, by submitter.
    pub(crate) fn ready_of(&self, shape: &Shape) -> impl Iterator<Item = &Rank> {
        self.shapes.get(shape).into_iter().flat_map(|tasks| tasks.ready.ranks())
    }

    /// Returns whether all turns are as looks need them.
    pub(crate) fn is_sound(&self, rules: Rules<'_>) -> bool {
        self.shapes.iter().all(|(shape, tasks)| {
            tasks.ready.is_sound(&|submitter: &str| rules.shares.of_submitter(&shape.queue, submitter))
        })
    }
}
