//! Children: which place a part has, and what their ends mean for their task, and its end for them.

use std::sync::Arc;

use bytes::Bytes;

use super::{ChildOf, Children, Join, PartOf, Verdict, dependencies::Unrun};
use crate::{
    AttemptEnd, BlobRef, CancelCause, Effect, FailureKind, Fleet, Refusal, SubmitTask, Task, TaskId, TaskState,
    limits::{ASSEMBLY_TIMEOUT_MS, MAX_TASK_DEPTH},
    sabotage::{Mistake, planted},
    tasks::members::derived,
};

/// Returns the id that the fleet and its API give to the child of a task with this number: the same one each time, so
/// that a submission that is repeated is the same task.
pub fn child_id(parent: TaskId, index: u32) -> TaskId {
    TaskId(derived(parent.0, u64::from(index)))
}

/// Returns the place of the child with this number of a task.
pub(super) fn place_below(parent: &Task, index: u32) -> ChildOf {
    let depth = parent.child_of().map_or(0, |of| of.depth).saturating_add(1);
    let spread = parent.children().is_some_and(|children| children.spread);
    ChildOf { task: parent.id, seq: parent.seq, index, depth, root: parent.root(), spread }
}

impl Fleet {
    /// Returns the place of a part that is new.
    pub(super) fn place_of_part(&self, part: PartOf) -> Result<ChildOf, Refusal> {
        let PartOf { task: id, index } = part;
        let no = |problem: String| Err(Refusal::NoPart { task: id, index, problem });
        let has_ended = self.state_of(id).ok_or(Refusal::UnknownTask { task: id })?.is_final();
        let Some(parent) = self.task(id).filter(|_| !has_ended) else { return no("it has ended".to_owned()) };
        let Some(children) = parent.children().filter(|children| children.join != Join::Resume) else {
            return no("it is not split".to_owned());
        };
        if index >= children.parts {
            return no(format!("it has {} parts, numbered from 0", children.parts));
        }
        if let Some(other) = self.child(parent.seq, index) {
            return no(format!("task {} is that part", other.id));
        }
        let place = place_below(parent, index);
        if place.depth > MAX_TASK_DEPTH {
            return no(format!("tasks are split at most {MAX_TASK_DEPTH} times one below the other"));
        }
        Ok(place)
    }

    /// Returns whether a submission is a part for which its task has kept a place, or may have: one that is not known
    /// yet may be accepted before it.
    pub(in crate::tasks) fn has_place(&self, submission: &SubmitTask) -> bool {
        let Some(part) = submission.part_of() else { return false };
        let needs_one = submission.verify.is_none() && submission.parts() == 0;
        let has_one = |parent: &Arc<Task>| parent.expected_children() > 0;
        needs_one && self.task(part.task).map_or(self.archived(part.task).is_none(), has_one)
    }

    /// Returns the child with this number of a task.
    pub(super) fn child(&self, parent: u64, index: u32) -> Option<&Task> {
        let seq = self.indexes.links.child(parent, index)?;
        self.state.tasks.kept.get(&seq).map(AsRef::as_ref)
    }

    /// Counts a child that was accepted.
    pub(super) fn child_accepted(&mut self, parent: u64) {
        let due = self.state.now.fleet.saturating_add(ASSEMBLY_TIMEOUT_MS);
        self.change_task(parent, |task| {
            task.change_children(|children| {
                children.accepted = children.accepted.saturating_add(1);
                children.due = (children.accepted < children.parts).then_some(due);
            });
        });
    }

    /// Has the parent of a task that has ended count it, if it has an unfinished one.
    pub(super) fn child_ended(&mut self, seq: u64, effects: &mut Vec<Effect>) {
        let Some(child) = self.state.tasks.kept.get(&seq).cloned() else { return };
        let Some(of) = child.child_of().copied() else { return };
        let parent = self.state.tasks.kept.get(&of.seq);
        if parent.is_none_or(|parent| parent.state.is_final()) {
            return;
        }
        self.change_task(of.seq, |task| task.change_children(|children| children.count(&child, of.index)));
        self.follow_verdict(of.seq, &child, effects);
    }

    /// Does what the end of a child means for its parent.
    fn follow_verdict(&mut self, parent: u64, child: &Task, effects: &mut Vec<Effect>) {
        let Some(task) = self.state.tasks.kept.get(&parent) else { return };
        let Some(children) = task.children().filter(|children| children.waits) else { return };
        let depends_on_others = task.links.as_ref().is_some_and(|links| links.open > 0);
        match children.verdict() {
            Verdict::Waits => {}
            Verdict::Succeeds if depends_on_others => {
                let index = child.child_of().map(|of| of.index);
                self.change_task(parent, |task| {
                    task.change_children(|children| children.decided_by = children.decided_by.or(index));
                });
            }
            Verdict::Runs => {
                self.change_task(parent, |task| task.change_children(|children| children.waits = false));
                self.begin_if_ready(parent, effects);
            }
            Verdict::Succeeds => {
                let output = children.output_of(child);
                self.joined(parent, output, effects);
            }
            Verdict::Fails => {
                let message = failed_join(children, child);
                self.end_unrun(parent, Unrun::Fails(FailureKind::Subtask, message), effects);
            }
        }
    }

    /// Ends a task that would have succeeded by this child of it before, had all ended that it depends on.
    pub(super) fn joined_late(&mut self, parent: u64, decided_by: u32, effects: &mut Vec<Effect>) {
        let children = self.state.tasks.kept.get(&parent).and_then(|task| task.children());
        let Some((children, child)) = children.zip(self.child(parent, decided_by)) else { return };
        let output = children.output_of(child);
        self.joined(parent, output, effects);
    }

    /// Ends a task that its children have made succeed.
    fn joined(&mut self, parent: u64, (output, stored): (Bytes, Option<Box<BlobRef>>), effects: &mut Vec<Effect>) {
        if !self.has_room(output.len()) {
            let message = format!(
                "no room is left for the output of {} bytes of its first part that succeeded; raise max_bytes, or store \
                 outputs elsewhere",
                output.len()
            );
            return self.end_unrun(parent, Unrun::Fails(FailureKind::OutputTooLarge, message), effects);
        }
        self.finish(parent, TaskState::Succeeded, effects, |task, now| {
            (task.output, task.output_ref) = (Some(output), stored);
            task.finish(now, TaskState::Succeeded, None);
        });
    }

    /// Cancels the next child of a task that has ended, from this number on, unless it has ended, and lets it be
    /// forgotten. Returns the number after it; `None` if there is no further one.
    pub(super) fn end_child(&mut self, parent: u64, from: u32, effects: &mut Vec<Effect>) -> Option<u32> {
        let (index, seq) = self.indexes.links.child_from(parent, from)?;
        self.indexes.let_go(seq, &self.state);
        let child = self.state.tasks.kept.get(&seq).filter(|child| !child.state.is_final());
        let of = child.and_then(|child| child.child_of()).map(|of| of.task);
        if let Some(of) = of
            && !planted(Mistake::SubtasksSurvive)
        {
            self.stop_current(seq, CancelCause::Cancelled, effects);
            self.finish(seq, TaskState::Cancelled, effects, |task, now| {
                task.end_attempt(now, AttemptEnd::Cancelled, None);
                task.cancel_reason = Some(format!("task {of}, of which it is a part, has ended"));
                task.finish(now, TaskState::Cancelled, None);
            });
        }
        index.checked_add(1)
    }

    /// Fails a task of which no further part has come for too long.
    pub(crate) fn assembly_ran_out(&mut self, seq: u64, effects: &mut Vec<Effect>) {
        let Some(children) = self.state.tasks.kept.get(&seq).and_then(|task| task.children()) else { return };
        let message = format!(
            "only {} of its {} parts were submitted, and no further one within {} s; submit it again",
            children.accepted,
            children.parts,
            ASSEMBLY_TIMEOUT_MS / 1000
        );
        self.end_unrun(seq, Unrun::Fails(FailureKind::Subtask, message), effects);
    }
}

/// Returns why a task with these children fails, now that this one has ended.
fn failed_join(children: &Children, child: &Task) -> String {
    let Children { join, quorum, parts, ended, succeeded, .. } = children;
    let index = child.child_of().map_or(0, |of| of.index);
    let how = if child.state == TaskState::Cancelled { "was cancelled" } else { "failed" };
    match join {
        Join::All | Join::Reduce => {
            format!("its part {index}, task {}, {how}, and all {parts} have to succeed", child.id)
        }
        Join::Settled => {
            format!("{} of its {parts} parts have not succeeded", ended.saturating_sub(*succeeded))
        }
        Join::Any => format!("none of its {parts} parts has succeeded"),
        Join::Quorum => format!(
            "{quorum} of its {parts} parts have to succeed, which can't be any more: {succeeded} of {ended} that have \
             ended have"
        ),
        Join::Resume => format!("its subtask {index}, task {}, {how}", child.id),
    }
}
