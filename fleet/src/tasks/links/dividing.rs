//! Tasks whose input is divided by an attempt: the first attempts are run as tasks of another kind, until one succeeds whose
//! output is the inputs of parts. The coordinator that proposes its completion makes the parts of it, because nothing that
//! takes long may be done while the state is locked, so it arrives as a [`Suspension`](super::suspending::Suspension). From
//! then on, the task is one that is split, whose parts are kept apart.

use std::sync::Arc;

use bilrost::Message;
use bytes::Bytes;

use super::{Children, Join, Split};
use crate::{
    Demand, Fleet, FleetMillis, Refusal, SubmitTask, Task, TaskId,
    config::{check_name, invalid},
    limits::MAX_SPREAD_PARTS,
};

/// The part of the time that a task has left which it keeps to itself if it is run with the results of its parts: one in so
/// many.
pub const REDUCE_RESERVE: u64 = 10;

/// How a task is divided by an attempt, and what it makes of its parts.
#[derive(Clone, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct Divider {
    /// The kind as which the attempts are run that divide the input.
    #[bilrost(1)]
    pub kind: String,
    /// The most parts; 2 to [`MAX_SPREAD_PARTS`].
    #[bilrost(2)]
    pub agents: u32,
    /// What the task makes of them; not [`Join::Resume`].
    #[bilrost(3)]
    pub join: Join,
    /// How many parts have to succeed for [`Join::Quorum`], 1 to `agents`, all if there are fewer; 0 for others.
    #[bilrost(4)]
    pub quorum: u32,
    /// The kind of the parts; empty: that of the task.
    #[bilrost(5)]
    pub part_kind: String,
}

impl Divider {
    /// Refuses what is out of bounds.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        check_name("splitter.kind", &self.kind)?;
        if !self.part_kind.is_empty() {
            check_name("splitter.part_kind", &self.part_kind)?;
        }
        if !(2..=MAX_SPREAD_PARTS).contains(&self.agents) {
            let problem = format!("is {}, must be 2 to {MAX_SPREAD_PARTS}", self.agents);
            return Err(invalid("agents", problem));
        }
        Split { parts: self.agents, join: self.join, quorum: self.quorum, spread: true }.check()
    }

    /// Returns the bytes that count against the fleet's budget.
    pub(super) fn stored_bytes(&self) -> usize {
        self.kind.len() + self.part_kind.len()
    }

    /// Returns so many parts, none of which is accepted yet.
    pub(super) fn children(&self, parts: u32) -> Children {
        let (join, quorum) = (self.join, self.quorum.min(parts));
        Children { join, quorum, parts, spread: true, waits: true, ..Children::default() }
    }
}

impl SubmitTask {
    /// Returns the kind as which the first attempt will be run.
    pub(crate) fn kind_to_run(&self) -> &str {
        let divider = self.links.as_ref().and_then(|links| links.divider.as_ref());
        divider.map_or(&self.kind, |divider| &divider.kind)
    }
}

impl Task {
    /// Returns what divides the input of the task, unless that has been done.
    pub fn divider(&self) -> Option<&Divider> {
        let links = self.links.as_ref()?;
        links.divider.as_deref().filter(|_| links.children.is_none())
    }

    /// Returns the kind as which attempts at the task are run now.
    pub fn kind_to_run(&self) -> &str {
        self.divider().map_or(&self.kind, |divider| &divider.kind)
    }

    /// Returns whether the input was divided by an attempt: the parts have it.
    pub(crate) fn is_divided(&self) -> bool {
        self.links.as_ref().is_some_and(|links| links.divider.is_some() && links.children.is_some())
    }

    /// Returns whether attempts at an unfinished task divide its input.
    pub(crate) fn is_dividing(&self) -> bool {
        self.divider().is_some() && !self.state.is_final()
    }

    /// Returns a part of a task that is divided at this time, with the options of the task. The time that the task has left is
    /// its deadline, but if the task is run with the results of its parts, it keeps a tenth of that for itself.
    pub fn part(&self, input: Bytes, now: FleetMillis) -> SubmitTask {
        let divider = self.divider().cloned().unwrap_or_default();
        let kind = if divider.part_kind.is_empty() { self.kind.clone() } else { divider.part_kind };
        let left = self.deadline.map(|at| at.saturating_sub(now).max(1));
        let reserve = |left: u64| if divider.join == Join::Reduce { left / REDUCE_RESERVE } else { 0 };
        SubmitTask {
            // That of the task.
            priority: 0,
            deadline_in: left.map(|left| left - reserve(left)),
            attempt_timeout: self.attempt_timeout,
            retry: Some(self.retry),
            required_role: self.required_role,
            required_specialization: self.required_specialization.clone(),
            result_ttl: Some(self.result_ttl),
            timing: self.timing.as_ref().map(|timing| Box::new(timing.asked.clone())),
            team: self.team,
            resources: self.resources.as_ref().map(|claim| Box::new(claim.asked.clone())),
            // Its input is in the log.
            demand: self.demand.as_ref().and_then(|demand| Demand::of(demand.slots, demand.skills.clone())),
            ..SubmitTask::new(TaskId(0), kind, input)
        }
    }
}

impl Fleet {
    /// Returns whether there are unfinished tasks whose input is divided by attempts.
    pub fn has_dividing(&self) -> bool {
        self.indexes.links.dividing > 0
    }

    /// Returns the task whose input this attempt divides, if it is current.
    pub fn divided_by(&self, task: TaskId, attempt: u32) -> Option<Arc<Task>> {
        let seq = self.indexes.tasks.ids.get(&task)?;
        let task = self.state.tasks.kept.get(seq)?;
        let is_current = task.current().is_some_and(|current| current.number == attempt);
        (is_current && task.is_dividing()).then(|| Arc::clone(task))
    }
}
