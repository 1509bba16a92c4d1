//! Suspension: an attempt ends because its task waits for subtasks, so that it holds no slot meanwhile. The subtasks
//! are in the same command, so there is never one without the other. When all of them have ended, the task is run
//! again, by a new attempt that is given their results and what the earlier one has left for it. So a task never has
//! two attempts at once, and an attempt that is lost is repeated from the last suspension, not from the beginning.

use std::{collections::BTreeMap, vec};

use bilrost::Message;
use bytes::Bytes;

use super::{ChildOf, Children, Join, Links, children::place_below, dependencies::Unrun, settling::Next};
use crate::{
    AgentId, AttemptEnd, Effect, Failure, FailureKind, Fleet, Outcome, Refusal, SubmitTask, Task, TaskId, TaskState,
    limits::{
        MAX_INPUT_BYTES, MAX_SUBTASK_DEPENDENCIES, MAX_SUBTASKS, MAX_SUBTASKS_AT_ONCE, MAX_SUSPENSIONS, MAX_TASK_DEPTH,
    },
    tasks::attempts::own_failure,
};

/// What an attempt asks for when it ends to wait for subtasks.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Suspension {
    /// The subtasks, at least 1 and at most [`MAX_SUBTASKS_AT_ONCE`]. Their ids are ignored: the fleet draws them. A
    /// priority of 0 is that of the task, and an empty submitter is that of the task.
    #[bilrost(1)]
    pub subtasks: Vec<SubmitTask>,
    /// What the next attempt is given besides their results; at most [`MAX_INPUT_BYTES`], with their inputs.
    #[bilrost(2)]
    pub carried: Bytes,
}

impl Suspension {
    /// Returns what is wrong with it, whatever the fleet's state.
    pub(crate) fn problem(&self) -> Option<String> {
        let count = self.subtasks.len();
        if !(1..=MAX_SUBTASKS_AT_ONCE).contains(&count) {
            return Some(format!("an attempt asked for {count} subtasks, it must be 1 to {MAX_SUBTASKS_AT_ONCE}"));
        }
        let bytes = self.bytes();
        if bytes > MAX_INPUT_BYTES {
            return Some(format!(
                "the inputs of an attempt's subtasks, and what it leaves to the next one, have {bytes} bytes, the limit is \
                 {MAX_INPUT_BYTES}; store them elsewhere and pass references"
            ));
        }
        let links = self.subtasks.iter().filter_map(|task| task.links.as_ref());
        let dependencies: usize = links.map(|links| links.depends_on.len()).sum();
        if dependencies > MAX_SUBTASK_DEPENDENCIES {
            return Some(format!(
                "an attempt's subtasks depend on {dependencies} tasks in all, the limit is {MAX_SUBTASK_DEPENDENCIES}; ask \
                 for them in several rounds"
            ));
        }
        let is_other = |task: &SubmitTask| {
            let links = task.links.as_ref();
            let has_parts =
                links.is_some_and(|links| links.split.is_some() || links.part_of.is_some() || links.divider.is_some());
            has_parts || task.approval.is_some() || task.idempotency_key.is_some() || task.team_term.is_some()
        };
        let place = self.subtasks.iter().position(is_other)?;
        Some(format!("subtask {place} is split, is a part, needs an approval, or has a key, which no subtask can"))
    }

    fn bytes(&self) -> usize {
        let subtasks: usize = self.subtasks.iter().map(|task| task.input.len()).sum();
        self.carried.len() + subtasks
    }
}

impl Outcome {
    /// Returns whether no fleet knows it before [`Feature::Graphs`](crate::Feature::Graphs).
    pub fn needs_graphs(&self) -> bool {
        match self {
            Outcome::Suspended(_) => true,
            Outcome::Failed(failure) => failure.kind.needs_graphs(),
            Outcome::Succeeded(_)
            | Outcome::Answered { .. }
            | Outcome::Stored(_)
            | Outcome::Stopped
            | Outcome::HandedBack => false,
        }
    }

    /// Returns how such an attempt ends in a fleet that does not know that yet: it fails. The coordinator that proposes the
    /// completion decides this, because one that is refused ends nothing, and the attempt would keep its slot.
    #[must_use]
    pub fn before_graphs(self) -> Outcome {
        match self {
            Outcome::Suspended(_) => {
                let message = "the attempt asked for subtasks, which this fleet does not know yet: all coordinators need a \
                               version with task graphs";
                Outcome::Failed(own_failure(FailureKind::Reported, message, true))
            }
            Outcome::Failed(failure) if failure.kind.needs_graphs() => {
                Outcome::Failed(Failure { kind: FailureKind::Reported, ..failure })
            }
            known => known,
        }
    }
}

impl FailureKind {
    fn needs_graphs(self) -> bool {
        matches!(self, FailureKind::Dependency | FailureKind::Subtask | FailureKind::ResultsTooLarge)
    }
}

impl Links {
    /// Notes that the task waits for further children. If its input was divided, they are its parts.
    fn suspend(&mut self, subtasks: u32, carried: Bytes) {
        if self.children.is_none()
            && let Some(divider) = &self.divider
        {
            self.children = Some(divider.children(subtasks));
            return;
        }
        let children = self.children.get_or_insert_default();
        *children = Children {
            join: Join::Resume,
            quorum: 0,
            from: children.parts,
            parts: children.parts.saturating_add(subtasks),
            bytes: 0,
            waits: true,
            suspensions: children.suspensions.saturating_add(1),
            carried,
            // The earlier ones have ended, and these go wherever there is room.
            spread: false,
            ..children.clone()
        };
    }
}

impl Fleet {
    /// Ends the current attempt of a task, which waits for subtasks from now on. This costs it no attempt. One that has
    /// divided the input is a success of its agent: it has done all that it had to.
    pub(in crate::tasks) fn suspend(
        &mut self,
        seq: u64,
        id: AgentId,
        held: (TaskId, u32),
        ran_us: u64,
        suspension: Suspension,
        effects: &mut Vec<Effect>,
    ) {
        let Some(task) = self.state.tasks.kept.get(&seq) else { return };
        let prepared = suspension.subtasks.into_iter().map(|subtask| self.prepared(task, subtask));
        let suspension = Suspension { subtasks: prepared.collect(), carried: suspension.carried };
        if let Err((message, retryable)) = self.check_suspension(task, &suspension) {
            let failure = own_failure(FailureKind::Subtask, &message, retryable);
            return self.failed(seq, id, held, failure, effects);
        }
        let Suspension { subtasks, carried } = suspension;
        let (now, count) = (self.state.now, subtasks.len() as u32);
        let divided_as = task.divider().map(|divider| divider.kind.clone());
        let success = divided_as.map(|kind| {
            let sample = self.kind_sample(id, &kind);
            (self.state.kinds.note(&kind, ran_us, self.state.revision), sample)
        });
        self.change_work(id, |agent| {
            agent.release(&held);
            if let Some((speed, sample)) = success {
                agent.note_success(speed, sample);
            }
        });
        self.change_task(seq, |task| {
            task.end_attempt(now, AttemptEnd::Suspended, None);
            task.attempts_used = task.attempts_used.saturating_sub(1);
            task.requeue(now, 0);
            task.links.get_or_insert_default().suspend(count, carried);
        });
        self.unsettled.add(seq, Next::Accept(subtasks.into_iter()));
        self.pull(id, effects);
    }

    /// Refuses a suspension, with a reason, and whether it might be accepted later.
    fn check_suspension(&self, task: &Task, suspension: &Suspension) -> Result<(), (String, bool)> {
        let for_good = |problem: String| Err((problem, false));
        if task.member_of.is_some() {
            return for_good("a task whose result is verified can't wait for subtasks".to_owned());
        }
        if place_below(task, 0).depth > MAX_TASK_DEPTH {
            return for_good(format!("there are subtasks of at most {MAX_TASK_DEPTH} tasks, one below the other"));
        }
        let (known, suspensions) = task.children().map_or((0, 0), |children| (children.parts, children.suspensions));
        if suspensions >= MAX_SUSPENSIONS {
            return for_good(format!("the task was suspended {MAX_SUSPENSIONS} times, which is the most"));
        }
        let count = suspension.subtasks.len();
        if let Some(divider) = task.divider().filter(|divider| count > divider.agents as usize) {
            return for_good(format!("its input was divided into {count} parts, the most is {}", divider.agents));
        }
        if known as usize + count > MAX_SUBTASKS as usize {
            return for_good(format!("the task would have more than {MAX_SUBTASKS} subtasks"));
        }
        let (more, stored) = (Some(count as u64 - 1), suspension.subtasks.iter().map(SubmitTask::stored_bytes));
        let checked = self.check_places(None, more, suspension.carried.len() as u64 + stored.sum::<u64>());
        let checked = checked.and_then(|()| self.check_subtask_queues(&suspension.subtasks));
        checked.map_err(|refusal| (refusal.to_string(), true))
    }

    /// Refuses subtasks for which their queues have no room.
    fn check_subtask_queues(&self, subtasks: &[SubmitTask]) -> Result<(), Refusal> {
        let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
        for subtask in subtasks {
            *counts.entry(subtask.queue()).or_default() += 1;
        }
        counts.into_iter().try_for_each(|(queue, count)| self.check_unfinished(queue, count - 1))
    }

    /// Returns a subtask with what it does not say itself: what its kind says comes before what its task says.
    fn prepared(&self, task: &Task, mut subtask: SubmitTask) -> SubmitTask {
        if subtask.priority == 0 {
            subtask.priority = task.priority;
        }
        if subtask.submitter.is_empty() {
            subtask.submitter.clone_from(&task.submitter);
        }
        self.fill_defaults(&mut subtask);
        self.inherit_lane(task, &mut subtask);
        subtask
    }

    /// Accepts the next subtask of a task that is suspended. If it is refused, the task fails. Returns the others.
    pub(super) fn accept_next(
        &mut self,
        parent: u64,
        mut subtasks: vec::IntoIter<SubmitTask>,
        effects: &mut Vec<Effect>,
    ) -> Option<vec::IntoIter<SubmitTask>> {
        let mut subtask = subtasks.next()?;
        let task = self.state.tasks.kept.get(&parent).filter(|task| task.state == TaskState::Queued)?;
        let place = place_below(task, task.children()?.accepted);
        subtask.id = self.free_id(task.id, u64::from(place.index));
        if let Err(refusal) = self.accept_subtask(subtask, place, effects) {
            let message = format!("its subtask {} was refused: {refusal}", place.index);
            self.end_unrun(parent, Unrun::Fails(FailureKind::Subtask, message), effects);
            return None;
        }
        Some(subtasks)
    }

    fn accept_subtask(
        &mut self,
        mut task: SubmitTask,
        place: ChildOf,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        task.check()?;
        // Its task has kept a place for it. Its runs, if there are several, need others.
        self.check_room(&task, task.verify.is_none())?;
        let links = self.linked(&task.links.take().unwrap_or_default(), Some(place))?;
        self.accept(task, None, Some(links), effects);
        Ok(())
    }
}
