//! Dependencies: which tasks a new one waits for, and what the end of each means for it.

use super::{AskedLinks, Awaited, ChildOf, Dependency, Links, OnFailure, passed_as_dependency};
use crate::{
    AttemptEnd, CancelCause, Effect, FailureKind, Fleet, Refusal, SubmitTask, Task, TaskId, TaskState,
    config::invalid,
    limits::{ASSEMBLY_TIMEOUT_MS, MAX_PASSED_BYTES},
    tasks::attempts::own_failure,
};

/// How a task has ended, for those that depend on it.
pub(super) struct Ended {
    id: TaskId,
    state: TaskState,
    /// What its result counts for, bytes.
    passed: u64,
}

/// How a task ends that can't be run (any more).
pub(super) enum Unrun {
    /// It fails, for this reason.
    Fails(FailureKind, String),
    /// It is skipped, for this reason.
    IsSkipped(String),
}

impl Links {
    /// Returns the place of a task that has not ended among those that this one depends on, by its number in the order
    /// of acceptance.
    fn open_place(&self, seq: u64) -> Option<usize> {
        self.depends_on.iter().position(|awaited| awaited.seq == seq && awaited.end.is_none())
    }

    fn note_end(&mut self, place: usize, end: TaskState) {
        if let Some(awaited) = self.depends_on.get_mut(place).filter(|awaited| awaited.end.is_none()) {
            awaited.end = Some(end);
            self.open = self.open.saturating_sub(1);
        }
    }
}

impl Fleet {
    /// Returns the links of a submission that is new; `None` if it has none.
    pub(in crate::tasks) fn links_of(&self, submission: &SubmitTask) -> Result<Option<Box<Links>>, Refusal> {
        let Some(asked) = &submission.links else { return Ok(None) };
        let child_of = asked.part_of.map(|of| self.place_of_part(of)).transpose()?;
        self.linked(asked, child_of).map(Some)
    }

    /// Returns the links of a task that is a child of another one or of none.
    pub(super) fn linked(&self, asked: &AskedLinks, child_of: Option<ChildOf>) -> Result<Box<Links>, Refusal> {
        let awaited = |dependency: &Dependency| self.awaited(dependency, child_of.as_ref());
        let depends_on: Vec<Awaited> = asked.depends_on.iter().map(awaited).collect::<Result<_, _>>()?;
        let due = self.state.now.fleet.saturating_add(ASSEMBLY_TIMEOUT_MS);
        Ok(Box::new(Links {
            open: depends_on.len() as u32,
            depends_on,
            passing: asked.passing,
            children: asked.split.map(|split| split.children(due)),
            child_of,
            skipped: false,
            divider: asked.divider.clone(),
        }))
    }

    /// Returns the task that a new one depends on. It counts as one that has not ended; see
    /// [`Next::CatchUp`](super::settling::Next::CatchUp).
    ///
    /// # Errors
    /// If there is no such task, or if it might wait for the new one.
    fn awaited(&self, dependency: &Dependency, child_of: Option<&ChildOf>) -> Result<Awaited, Refusal> {
        let Dependency { task: id, on_failure } = *dependency;
        // Nobody knows of the members of a task with a result to be verified.
        let task = self.task(id).filter(|task| task.member_of.is_none());
        let here = task.map(|task| (task.seq, task.root(), task.child_of().map(|other| other.seq)));
        let found = here.or_else(|| self.archived(id).map(|row| (row.seq, row.root(), row.parent())));
        let Some((seq, root, parent)) = found else { return Err(Refusal::UnknownDependency { task: id }) };
        if let Some(of) = child_of
            && root >= of.root
            && !self.comes_before(seq, parent, of)
        {
            let problem = format!(
                "names task {id}, which may wait for this one: a part or subtask can depend on older ones of the same task \
                 or of a task above it, and on tasks that were submitted before its whole tree"
            );
            return Err(invalid("depends_on", problem));
        }
        Ok(Awaited { task: id, seq, on_failure, end: None })
    }

    /// Returns whether the task `seq` never waits for this new child, although both may be in the same tree: it is an
    /// older sibling of the child, or of a task above it. `parent` is the task whose child it is, if it is one.
    fn comes_before(&self, seq: u64, parent: Option<u64>, child: &ChildOf) -> bool {
        let Some(parent) = parent else { return false };
        let (mut above, mut below) = (child.seq, u64::MAX);
        while above != parent {
            let higher = self.state.tasks.kept.get(&above).and_then(|task| task.child_of());
            let Some(higher) = higher else { return false };
            (above, below) = (higher.seq, above);
        }
        seq < below
    }

    /// Has a task note that one that it depends on has ended, unless it has noted that before or has ended itself.
    pub(super) fn resolve(&mut self, dependent: u64, dependency: u64, effects: &mut Vec<Effect>) {
        let Some(Ended { id, state: end, .. }) = self.ended(dependency) else { return };
        let task = self.state.tasks.kept.get(&dependent).filter(|task| !task.state.is_final());
        let Some(links) = task.and_then(|task| task.links.as_ref()) else { return };
        let Some(place) = links.open_place(dependency) else { return };
        let on_failure = links.depends_on[place].on_failure;
        self.change_task(dependent, |task| {
            if let Some(links) = &mut task.links {
                links.note_end(place, end);
            }
        });
        let how = match end {
            TaskState::Cancelled => "was cancelled",
            _ => "failed",
        };
        match on_failure {
            _ if end == TaskState::Succeeded => self.begin_if_ready(dependent, effects),
            OnFailure::Run => self.begin_if_ready(dependent, effects),
            OnFailure::Skip => {
                let reason = format!("skipped: task {id}, on which it depends, {how}");
                self.end_unrun(dependent, Unrun::IsSkipped(reason), effects);
            }
            OnFailure::Fail => {
                let message = format!("task {id}, on which it depends, {how}");
                self.end_unrun(dependent, Unrun::Fails(FailureKind::Dependency, message), effects);
            }
        }
    }

    /// Returns how a task has ended, be it archived or not; `None` if it has not.
    pub(super) fn ended(&self, seq: u64) -> Option<Ended> {
        if let Some(task) = self.state.tasks.kept.get(&seq) {
            let ended = || Ended { id: task.id, state: task.state, passed: passed_as_dependency(task) };
            return task.state.is_final().then(ended);
        }
        let row = self.state.archive.kept.get(seq)?;
        Some(Ended { id: row.id(), state: row.state, passed: u64::from(row.passed) })
    }

    /// Ends a task that can't be run (any more).
    pub(super) fn end_unrun(&mut self, seq: u64, how: Unrun, effects: &mut Vec<Effect>) {
        // It has no attempt, unless a mistake is planted.
        self.stop_current(seq, CancelCause::Cancelled, effects);
        match how {
            Unrun::Fails(kind, message) => {
                let failure = own_failure(kind, &message, false);
                self.finish(seq, TaskState::Failed, effects, |task, now| {
                    task.end_attempt(now, AttemptEnd::Cancelled, None);
                    task.finish(now, TaskState::Failed, Some(failure));
                });
            }
            Unrun::IsSkipped(reason) => self.finish(seq, TaskState::Cancelled, effects, |task, now| {
                task.end_attempt(now, AttemptEnd::Cancelled, None);
                task.cancel_reason = Some(reason);
                if let Some(links) = &mut task.links {
                    links.skipped = true;
                }
                task.finish(now, TaskState::Cancelled, None);
            }),
        }
    }

    /// Gives a task that waits for no other one any more to an agent, if it is ready and there is one. It fails if the
    /// results that its attempts would be given are too large, and succeeds if its children have decided that before.
    pub(super) fn begin_if_ready(&mut self, seq: u64, effects: &mut Vec<Effect>) {
        let Some(task) = self.state.tasks.kept.get(&seq) else { return };
        let depends_on_others = task.links.as_ref().is_some_and(|links| links.open > 0);
        if let Some(child) = task.children().and_then(|children| children.decided_by)
            && !depends_on_others
        {
            return self.joined_late(seq, child, effects);
        }
        if task.state != TaskState::Queued || task.awaits_tasks() {
            return;
        }
        let (bytes, has_begun) = (self.bytes_passed(task), !task.attempts.is_empty());
        if bytes <= MAX_PASSED_BYTES {
            if !has_begun && task.timing.is_some() {
                let now = self.state.now.fleet;
                self.change_task(seq, |task| task.start_waiting(now));
            }
            return self.place(seq, effects);
        }
        let message = format!(
            "the results that it would be given count for {bytes} bytes, the most is {MAX_PASSED_BYTES}; store outputs \
             elsewhere and return references, or reduce them in several steps"
        );
        self.end_unrun(seq, Unrun::Fails(FailureKind::ResultsTooLarge, message), effects);
    }

    /// Returns what the results count for that attempts at a task are given, with what an earlier one has left to them.
    fn bytes_passed(&self, task: &Task) -> u64 {
        let Some(links) = &task.links else { return 0 };
        let dependencies = links.depends_on.iter().filter_map(|awaited| self.ended(awaited.seq));
        let of_dependencies: u64 = dependencies.map(|ended| ended.passed).sum();
        let children = links.children.as_ref().filter(|children| children.passes_results());
        let of_children = children.map_or(0, |children| children.bytes.saturating_add(children.carried.len() as u64));
        of_dependencies.saturating_add(of_children)
    }
}
