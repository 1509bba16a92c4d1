//! Links between tasks: a task may depend on others, be split into parts, or suspend itself until its subtasks have
//! ended. Parts and subtasks are tasks like any others, with a deadline, dependencies, attempts and a result of their
//! own; both are the *children* of their task.
//!
//! Invariants, after each command:
//!
//! 1. No attempt at a task begins before all tasks that it depends on have ended, and each of them has succeeded unless
//!    its failure is no obstacle ([`OnFailure::Run`]). A task that can't begin any more has ended.
//! 2. A task has no current attempt while it waits for its children, so it holds no slot. The attempt that asked for
//!    subtasks has ended, and the next one is given their results.
//! 3. What a join decides follows from how its children ended ([`Children::verdict`]), and each child counts once. A task
//!    does not succeed by its children before all that it depends on has ended.
//! 4. No child of a task that has ended is unfinished, so a cancellation reaches the whole tree.
//! 5. A task that has ended is kept for as long as an unfinished task depends on it, or its parent is unfinished: so
//!    their attempts find its result.
//! 6. Tasks do not wait for each other in a circle. A task depends on tasks that were accepted before it. A child
//!    depends on its older siblings, on older siblings of the tasks above it, and on tasks of trees that are older than
//!    its own: no step from a task to one that it waits for leads to a newer tree, and a step within a tree leads down, or
//!    to an older sibling of the task or of one above it, never back.
//! 7. Of the parts of a task that are kept apart, no agent runs two at once (see `spread`).
//! 8. A task that is split has a place in the queue for each of its parts from the beginning, so none of them is
//!    refused because others were faster. If no further part comes for a while, the task fails and its places are free.
//!
//! The end of a task costs a step of a command for each task that depends on it directly, for each of its children, and
//! for each task that it depended on (see `settling`): no step grows with the size of a graph.

pub(crate) mod audit;
pub(crate) mod children;
mod dependencies;
pub(crate) mod dividing;
pub(crate) mod graph;
pub(crate) mod indexes;
mod join;
pub(crate) mod results;
pub(crate) mod settling;
mod spread;
pub(crate) mod suspending;
pub(crate) mod walk;

use bilrost::{Enumeration, Message};
use bytes::Bytes;

use self::dividing::Divider;
pub use self::join::Verdict;
use crate::{
    FleetMillis, Refusal, SubmitTask, Task, TaskId, TaskState,
    config::invalid,
    limits::{DEPENDENCY_BYTES, DEPENDENCY_OVERHEAD, MAX_DEPENDENCIES, MAX_SPREAD_PARTS, MAX_SUBTASKS},
    sabotage::{Mistake, planted},
};

/// Returns what the result of a task that has ended counts for when it is passed on to one that depends on it, bytes.
pub(crate) fn passed_as_dependency(task: &Task) -> u64 {
    join::passed_bytes(task, DEPENDENCY_OVERHEAD)
}

/// What becomes of a task if one that it depends on ends without success.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Enumeration)]
pub enum OnFailure {
    /// The task fails, with [`FailureKind::Dependency`](crate::FailureKind::Dependency).
    #[default]
    Fail = 0,
    /// The task is skipped: it is cancelled without an attempt.
    Skip = 1,
    /// The task begins nevertheless, and its attempts are given the failure.
    Run = 2,
}

/// A task that has to end before another one begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Dependency {
    /// The task.
    #[bilrost(1)]
    pub task: TaskId,
    /// What its failure means for the other one.
    #[bilrost(2)]
    pub on_failure: OnFailure,
}

/// How attempts at a task are given the results of the tasks that it depends on, and of its parts. Those of subtasks are
/// always given one by one, because who asked for them has to know how each has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Enumeration)]
pub enum Passing {
    /// Beside the input, one by one.
    #[default]
    Separately = 0,
    /// As the input: the task's own one, followed by the outputs, one after the other.
    AsInput = 1,
}

/// When a task with children ends or continues.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Enumeration)]
pub enum Join {
    /// It succeeds when all parts have succeeded, and fails with the first that has not.
    #[default]
    All = 0,
    /// It ends when all parts have ended, and succeeds unless one has failed. Skipped ones have not.
    Settled = 1,
    /// It succeeds with the first part that does, whose output it has. It fails when all have ended without success.
    Any = 2,
    /// It succeeds when enough parts have succeeded, and fails when not enough can.
    Quorum = 3,
    /// It is run itself when all parts have succeeded, with their results, and fails with the first that has not.
    Reduce = 4,
    /// It is suspended, and run again when all its subtasks have ended, with their results. No task is submitted so.
    Resume = 5,
}

/// Into how many parts a task is split, and what it makes of them. The parts are submitted separately; see [`PartOf`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct Split {
    /// Number of parts; 1 to [`MAX_SUBTASKS`].
    #[bilrost(1)]
    pub parts: u32,
    /// What the task makes of them.
    #[bilrost(2)]
    pub join: Join,
    /// How many parts have to succeed for [`Join::Quorum`], 1 to `parts`; 0 for others.
    #[bilrost(3)]
    pub quorum: u32,
    /// The parts are kept apart: each runs on an agent that runs no other part of the task. There are at most
    /// [`MAX_SPREAD_PARTS`] then.
    #[bilrost(4)]
    pub spread: bool,
}

/// Which part of which task a task is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct PartOf {
    /// The task that is split.
    #[bilrost(1)]
    pub task: TaskId,
    /// The number of the part, from 0.
    #[bilrost(2)]
    pub index: u32,
}

/// The links of a task as submitted.
#[derive(Clone, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct AskedLinks {
    /// The tasks that have to end before; at most [`MAX_DEPENDENCIES`], each once.
    #[bilrost(1)]
    pub depends_on: Vec<Dependency>,
    /// How the results of these and of the parts are passed on.
    #[bilrost(2)]
    pub passing: Passing,
    /// The task is split.
    #[bilrost(3)]
    pub split: Option<Split>,
    /// The task is a part of one that is split.
    #[bilrost(4)]
    pub part_of: Option<PartOf>,
    /// The task is divided by an attempt; not with `split`.
    #[bilrost(5)]
    pub divider: Option<Box<Divider>>,
}

/// A task that another one depends on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Awaited {
    /// The task's id.
    #[bilrost(1)]
    pub task: TaskId,
    /// The task's number in the order of acceptance.
    #[bilrost(2)]
    pub seq: u64,
    /// What its failure means.
    #[bilrost(3)]
    pub on_failure: OnFailure,
    /// Its final state; `None` while it has not ended.
    #[bilrost(4)]
    pub end: Option<TaskState>,
}

/// The place of a child in its tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct ChildOf {
    /// The id of the task whose child it is.
    #[bilrost(1)]
    pub task: TaskId,
    /// The number of that task in the order of acceptance.
    #[bilrost(2)]
    pub seq: u64,
    /// The number of the child among its siblings, from 0.
    #[bilrost(3)]
    pub index: u32,
    /// How many tasks are above it, at least 1.
    #[bilrost(4)]
    pub depth: u32,
    /// The number of the topmost of them in the order of acceptance.
    #[bilrost(5)]
    pub root: u64,
    /// It runs on an agent that runs none of its siblings.
    #[bilrost(6)]
    pub spread: bool,
}

/// The children of a task: how many there are, and what has become of them.
#[derive(Clone, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct Children {
    /// What the task makes of them.
    #[bilrost(1)]
    pub join: Join,
    /// How many have to succeed for [`Join::Quorum`].
    #[bilrost(2)]
    pub quorum: u32,
    /// How many there will be.
    #[bilrost(3)]
    pub parts: u32,
    /// How many were accepted so far.
    #[bilrost(4)]
    pub accepted: u32,
    /// How many have ended.
    #[bilrost(5)]
    pub ended: u32,
    /// How many have succeeded.
    #[bilrost(6)]
    pub succeeded: u32,
    /// How many were skipped, because of a task that they depended on.
    #[bilrost(7)]
    pub skipped: u32,
    /// The number of the first child whose result the next attempt is given: those before were asked for by an earlier
    /// attempt, and seen by the one after it.
    #[bilrost(8)]
    pub from: u32,
    /// What the results from there on count for, bytes; see [`MAX_PASSED_BYTES`](crate::limits::MAX_PASSED_BYTES).
    #[bilrost(9)]
    pub bytes: u64,
    /// Whether the task waits for them.
    #[bilrost(10)]
    pub waits: bool,
    /// When the task fails unless another part is accepted before; `None` if all are.
    #[bilrost(11)]
    pub due: Option<FleetMillis>,
    /// How many attempts have asked for subtasks.
    #[bilrost(12)]
    pub suspensions: u32,
    /// What the last of these attempts leaves to the next one.
    #[bilrost(13)]
    pub carried: Bytes,
    /// Each of them runs on an agent that runs no other one.
    #[bilrost(14)]
    pub spread: bool,
    /// The number of the child with which the task would have succeeded, if it still waits for tasks that it depends on.
    #[bilrost(15)]
    pub decided_by: Option<u32>,
}

/// The links of an accepted task.
#[derive(Clone, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct Links {
    /// The tasks that it depends on, as submitted.
    #[bilrost(1)]
    pub depends_on: Vec<Awaited>,
    /// How many of them have not ended.
    #[bilrost(2)]
    pub open: u32,
    /// How their results, and those of the children, are passed on.
    #[bilrost(3)]
    pub passing: Passing,
    /// Its children.
    #[bilrost(4)]
    pub children: Option<Children>,
    /// Whose child it is.
    #[bilrost(5)]
    pub child_of: Option<ChildOf>,
    /// It was cancelled because a task that it depends on has not succeeded.
    #[bilrost(6)]
    pub skipped: bool,
    /// It is divided by an attempt, or was if it has children.
    #[bilrost(7)]
    pub divider: Option<Box<Divider>>,
}

impl Split {
    fn check(&self) -> Result<(), Refusal> {
        if !(1..=MAX_SUBTASKS).contains(&self.parts) {
            return Err(invalid("split.parts", format!("is {}, must be 1 to {MAX_SUBTASKS}", self.parts)));
        }
        if self.spread && self.parts > MAX_SPREAD_PARTS {
            let problem = format!("is {}, must be 1 to {MAX_SPREAD_PARTS} for parts that are kept apart", self.parts);
            return Err(invalid("split.parts", problem));
        }
        match self.join {
            Join::Resume => Err(invalid("split.join", "must be one of those for parts, which this is not")),
            Join::Quorum if !(1..=self.parts).contains(&self.quorum) => {
                let problem = format!("is {}, must be 1 to {}, the number of parts", self.quorum, self.parts);
                Err(invalid("split.quorum", problem))
            }
            Join::All | Join::Settled | Join::Any | Join::Reduce if self.quorum != 0 => {
                Err(invalid("split.quorum", "counts for the join quorum alone; leave it out"))
            }
            _ => Ok(()),
        }
    }

    fn children(&self, due: FleetMillis) -> Children {
        let Self { parts, join, quorum, spread } = *self;
        Children { join, quorum, parts, spread, waits: true, due: Some(due), ..Children::default() }
    }
}

impl AskedLinks {
    /// Refuses what is out of bounds, whatever the fleet's state.
    fn check(&self, id: TaskId) -> Result<(), Refusal> {
        if self.depends_on.len() > MAX_DEPENDENCIES {
            let problem = format!(
                "names {} tasks, the most is {MAX_DEPENDENCIES}; make those the parts of one task, and name that",
                self.depends_on.len()
            );
            return Err(invalid("depends_on", problem));
        }
        let mut named: Vec<TaskId> = self.depends_on.iter().map(|dependency| dependency.task).collect();
        named.sort_unstable();
        if let Some(twice) = named.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(invalid("depends_on", format!("names task {} more than once", twice[0])));
        }
        if named.binary_search(&id).is_ok() || self.part_of.is_some_and(|of| of.task == id) {
            return Err(invalid("depends_on", "a task can't depend on itself, or be a part of itself"));
        }
        if let Some(divider) = &self.divider {
            if self.split.is_some() {
                return Err(invalid("split", "can't be with a task that gets its parts when it is divided"));
            }
            divider.check()?;
        }
        self.split.as_ref().map_or(Ok(()), Split::check)
    }

    /// Returns the bytes that count against the fleet's budget once the task is accepted.
    pub(crate) fn stored_bytes(&self) -> usize {
        self.depends_on.len() * DEPENDENCY_BYTES + self.divider.as_ref().map_or(0, |divider| divider.stored_bytes())
    }
}

impl SubmitTask {
    /// Refuses links that are out of bounds, or that this task can't have, whatever the fleet's state.
    pub(super) fn check_links(&self) -> Result<(), Refusal> {
        let Some(links) = &self.links else { return Ok(()) };
        links.check(self.id)?;
        let has_parts = links.split.is_some() || links.divider.is_some();
        if has_parts && (self.verify.is_some() || self.approval.is_some()) {
            let problem =
                "can't be with a task that is verified or needs an approval; have its parts verified or approved";
            return Err(invalid("split", problem));
        }
        Ok(())
    }

    /// Returns the part that the task is of another one, if it is one.
    pub(crate) fn part_of(&self) -> Option<PartOf> {
        self.links.as_ref()?.part_of
    }

    /// Returns into how many parts the task is split; 0 if it is not.
    pub(crate) fn parts(&self) -> u32 {
        self.links.as_ref().and_then(|links| links.split).map_or(0, |split| split.parts)
    }
}

impl Links {
    /// Returns whether the task waits for others.
    pub(crate) fn is_waiting(&self) -> bool {
        let least = u32::from(planted(Mistake::DependencyIgnored));
        self.open > least || self.children.as_ref().is_some_and(|children| children.waits)
    }

    /// Returns the bytes that count against the fleet's budget. They do not change when a task that it depends on ends.
    pub(crate) fn stored_bytes(&self) -> usize {
        let carried = self.children.as_ref().map_or(0, |children| children.carried.len());
        let divider = self.divider.as_ref().map_or(0, |divider| divider.stored_bytes());
        self.depends_on.len() * DEPENDENCY_BYTES + carried + divider
    }

    /// Returns what the task waits for, for readers; `None` if it waits for no task.
    pub(crate) fn waiting_for(&self) -> Option<String> {
        if self.open > 0 {
            return Some(format!("{} of the {} tasks that it depends on", self.open, self.depends_on.len()));
        }
        let children = self.children.as_ref().filter(|children| children.waits)?;
        let Children { join, quorum, parts, accepted, ended, succeeded, .. } = children;
        let left = parts.saturating_sub(*accepted);
        let what = match join {
            Join::All | Join::Reduce => format!("all of its {parts} parts to succeed: {succeeded} have"),
            Join::Settled => format!("all of its {parts} parts to end: {ended} have"),
            Join::Any => format!("one of its {parts} parts to succeed: {ended} have ended"),
            Join::Quorum => {
                format!("{quorum} of its {parts} parts to succeed: {succeeded} have, and {ended} have ended")
            }
            Join::Resume => format!("all of its {parts} subtasks to end: {ended} have"),
        };
        Some(if left > 0 { format!("{what}, and {left} are not submitted yet") } else { what })
    }
}

impl Task {
    /// Returns whether the task waits for tasks that it depends on, or for its parts or subtasks.
    pub(crate) fn awaits_tasks(&self) -> bool {
        self.links.as_ref().is_some_and(|links| links.is_waiting())
    }

    /// Returns the children of the task, if it has any.
    pub fn children(&self) -> Option<&Children> {
        self.links.as_ref()?.children.as_ref()
    }

    /// Returns whose child the task is, if it is one.
    pub fn child_of(&self) -> Option<&ChildOf> {
        self.links.as_ref()?.child_of.as_ref()
    }

    /// Returns the number of the topmost task of its tree in the order of acceptance, its own one if it has no parent.
    pub(crate) fn root(&self) -> u64 {
        self.child_of().map_or(self.seq, |of| of.root)
    }

    /// Returns whether the task was cancelled because a task that it depended on has not succeeded.
    pub fn is_skipped(&self) -> bool {
        self.links.as_ref().is_some_and(|links| links.skipped)
    }

    /// Returns when an unfinished task fails unless another of its parts is accepted before.
    pub(crate) fn assembly_due(&self) -> Option<FleetMillis> {
        self.children().and_then(|children| children.due).filter(|_| !self.state.is_final())
    }

    /// Returns how many children of an unfinished task are still to be accepted.
    pub(crate) fn expected_children(&self) -> u32 {
        let left = self.children().map_or(0, |children| children.parts.saturating_sub(children.accepted));
        if self.state.is_final() { 0 } else { left }
    }

    /// Changes the children of the task, if it has any.
    pub(crate) fn change_children(&mut self, change: impl FnOnce(&mut Children)) {
        if let Some(children) = self.links.as_mut().and_then(|links| links.children.as_mut()) {
            change(children);
        }
    }

    /// Forgets what a task that has ended needs no more.
    pub(crate) fn close_links(&mut self) {
        self.change_children(|children| {
            children.waits = false;
            children.due = None;
            children.carried = Bytes::new();
            children.decided_by = None;
        });
    }

    /// Returns why the task has not succeeded, for readers; empty if it has, or has not ended.
    pub fn reason(&self) -> &str {
        let failure = self.failure.as_ref().map(|failure| failure.message.as_str());
        failure.or(self.cancel_reason.as_deref()).unwrap_or_default()
    }
}
