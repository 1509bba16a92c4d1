//! A twin of task graphs: it knows only what was submitted and how tasks ended, and follows the rules in their simplest
//! form.

use std::collections::{BTreeMap, BTreeSet};

use robeing_fleet::{
    AttemptEnd, Command, Completion, Effect, FailureKind, Fleet, Join, OnFailure, Outcome, Reply, SubmitTask, Task,
    TaskCommand, TaskId, TaskState,
};

use crate::life;

/// Returns whether one of these tasks is unfinished and needs the result of this one, or is its parent.
pub fn is_needed<'a>(tasks: impl IntoIterator<Item = &'a Task>, task: &Task) -> bool {
    let mut unfinished = tasks.into_iter().filter(|other| !other.state.is_final());
    let parent = task.child_of().map(|of| of.task);
    unfinished.any(|other| {
        let links = other.links.as_ref();
        Some(other.id) == parent
            || links.is_some_and(|links| links.depends_on.iter().any(|awaited| awaited.task == task.id))
    })
}

/// What was submitted of a task.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    dependencies: Vec<(TaskId, OnFailure)>,
    parent: Option<TaskId>,
    /// What it makes of its children, of how many, and how many must succeed.
    pub join: Option<(Join, u32, u32)>,
    children: BTreeMap<u32, TaskId>,
}

/// What the parent of children does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Does {
    Waits,
    Runs,
    Succeeds,
    Fails,
}

/// What is known of all tasks that were ever accepted.
#[derive(Default)]
pub struct Twin {
    pub asked: BTreeMap<TaskId, Asked>,
    /// How tasks ended, and whether they were skipped.
    pub ended: BTreeMap<TaskId, (TaskState, bool)>,
}

impl Twin {
    fn has_failed(&self, id: TaskId) -> bool {
        self.ended.get(&id).is_some_and(|(state, _)| *state != TaskState::Succeeded)
    }

    /// Returns what a task makes of its children.
    fn does(&self, asked: &Asked) -> Does {
        let Some((join, parts, quorum)) = asked.join else { return Does::Runs };
        let ends: Vec<(TaskState, bool)> =
            asked.children.values().filter_map(|child| self.ended.get(child)).copied().collect();
        let good = ends.iter().filter(|(state, _)| *state == TaskState::Succeeded).count() as u32;
        let skipped = ends.iter().filter(|(_, skipped)| *skipped).count() as u32;
        let (ended, bad) = (ends.len() as u32, ends.len() as u32 - good);
        match join {
            Join::All if bad > 0 => Does::Fails,
            Join::All if good == parts => Does::Succeeds,
            Join::Settled if ended == parts && bad > skipped => Does::Fails,
            Join::Settled if ended == parts => Does::Succeeds,
            Join::Any if good > 0 => Does::Succeeds,
            Join::Any if ended == parts => Does::Fails,
            Join::Quorum if good >= quorum => Does::Succeeds,
            Join::Quorum if parts - bad < quorum => Does::Fails,
            Join::Reduce if bad > 0 => Does::Fails,
            Join::Reduce if good == parts => Does::Runs,
            Join::Resume if ended == parts => Does::Runs,
            _ => Does::Waits,
        }
    }

    /// Takes note of what was accepted, and of what has ended.
    pub fn note(&mut self, fleet: &Fleet, command: &Command, reply: &Reply, effects: &[Effect]) {
        match (command, reply) {
            (Command::Task(TaskCommand::Submit(task)), Reply::Submitted { task: id, existing: false }) => {
                self.accepted(*id, task, None);
            }
            (Command::Task(TaskCommand::Complete(ended)), Reply::Completed) => self.suspended(fleet, ended),
            (Command::Task(TaskCommand::RetryDead(retry)), Reply::DeadRetried { existing: false, .. }) => {
                assert!(self.ended.remove(&retry.task).is_some(), "{} has not ended", retry.task);
            }
            _ => {}
        }
        for effect in effects {
            let Effect::Finished { task: id } = effect else { continue };
            let task = fleet.task(*id).expect("a task is kept for a while after its end");
            assert!(self.asked.contains_key(id), "{task:?} was never accepted");
            let earlier = self.ended.insert(*id, (task.state, task.is_skipped()));
            assert_eq!(earlier, None, "it ends a second time: {task:?}");
        }
    }

    fn accepted(&mut self, id: TaskId, task: &SubmitTask, place: Option<(TaskId, u32)>) {
        let links = task.links.as_deref().cloned().unwrap_or_default();
        let place = place.or(links.part_of.map(|of| (of.task, of.index)));
        let asked = Asked {
            dependencies: links.depends_on.iter().map(|of| (of.task, of.on_failure)).collect(),
            parent: place.map(|(parent, _)| parent),
            join: links.split.map(|split| (split.join, split.parts, split.quorum)),
            children: BTreeMap::new(),
        };
        assert!(self.asked.insert(id, asked).is_none(), "{id} was accepted before");
        if let Some((parent, index)) = place {
            let parent = self.asked.get_mut(&parent).expect("a part of a task that was accepted");
            assert!(parent.children.insert(index, id).is_none(), "{id} is a part that was there");
        }
    }

    /// Takes note of the subtasks that an attempt has asked for, if they were accepted.
    fn suspended(&mut self, fleet: &Fleet, completion: &Completion) {
        let Outcome::Suspended(suspension) = &completion.outcome else { return };
        let Some(task) = fleet.task(completion.task) else { return };
        let attempt = task.attempts.iter().find(|attempt| attempt.number == completion.attempt);
        if attempt.and_then(|attempt| attempt.end) != Some(AttemptEnd::Suspended) {
            return;
        }
        let asked = self.asked.get_mut(&task.id).expect("it was accepted");
        let from = asked.join.map_or(0, |(_, parts, _)| parts);
        asked.join = Some((Join::Resume, from + suspension.subtasks.len() as u32, 0));
        for (subtask, (index, child)) in suspension.subtasks.iter().zip(fleet.children_of(task.id, from, 10)) {
            self.accepted(child.id(), subtask, Some((task.id, index)));
        }
    }

    /// Checks that nothing was assigned before what it depends on had ended, as far as that allows it.
    pub fn check_assigned(&self, before: &BTreeSet<TaskId>, effects: &[Effect]) {
        let mut ended = before.clone();
        for effect in effects {
            match effect {
                Effect::Finished { task } => drop(ended.insert(*task)),
                Effect::Assign { task, .. } => {
                    for (dependency, on_failure) in &self.asked[task].dependencies {
                        assert!(ended.contains(dependency), "{task} begins before the end of {dependency}");
                        assert!(*on_failure == OnFailure::Run || !self.has_failed(*dependency), "{task} begins");
                    }
                }
                _ => {}
            }
        }
    }

    /// Checks every task that was ever accepted.
    pub fn check(&self, fleet: &Fleet, before: &life::Before, command: &Command) {
        let earlier: BTreeMap<TaskId, &Task> = before.tasks.values().map(|task| (task.id, task)).collect();
        for (id, asked) in &self.asked {
            let was = earlier.get(id).copied();
            match fleet.task(*id) {
                Some(task) if task.state.is_final() => match was.filter(|was| was.state.is_final()) {
                    Some(was) => assert_eq!(was, &**task, "a task that has ended does not change"),
                    None => self.check_end(task, asked, fleet, command),
                },
                Some(task) => self.check_unfinished(task, asked),
                None => {
                    assert!(self.ended.contains_key(id), "{id} has disappeared");
                    assert!(
                        was.is_none_or(|was| !is_needed(fleet.changed_tasks_since(0).map(AsRef::as_ref), was)),
                        "{id} is needed and was forgotten"
                    );
                }
            }
            let has_ended = self.ended.contains_key(id);
            let survivor = asked.children.values().find(|child| has_ended && !self.ended.contains_key(child));
            assert_eq!(survivor, None, "it has survived {id}");
        }
    }

    /// Checks that a task waits exactly as long as it has to.
    fn check_unfinished(&self, task: &Task, asked: &Asked) {
        assert!(!self.ended.contains_key(&task.id), "it goes on after its end: {task:?}");
        for (id, on_failure) in &asked.dependencies {
            assert!(*on_failure == OnFailure::Run || !self.has_failed(*id), "it goes on in spite of {id}: {task:?}");
        }
        let does = self.does(asked);
        let depends_on_others = asked.dependencies.iter().any(|(id, _)| !self.ended.contains_key(id));
        let may = does != Does::Fails && (does != Does::Succeeds || depends_on_others);
        assert!(may, "it does not: {does:?} {task:?}");
        let waits = does == Does::Waits || depends_on_others;
        let may_run = task.is_ready() || task.state == TaskState::Assigned || task.not_before.is_some();
        match waits {
            true => assert!(task.state == TaskState::Queued && !task.is_ready(), "it does not wait: {task:?}"),
            false => assert!(may_run, "it waits for nothing: {task:?}"),
        }
    }

    /// Checks that a task that has ended now had to.
    fn check_end(&self, task: &Task, asked: &Asked, fleet: &Fleet, command: &Command) {
        let failed = |how: OnFailure| {
            asked.dependencies.iter().any(|(id, on_failure)| *on_failure == how && self.has_failed(*id))
        };
        let does = self.does(asked);
        let is_cancelled = matches!(command, Command::Task(TaskCommand::Cancel { task: id, .. }) if *id == task.id);
        let kind = task.failure.as_ref().map(|failure| failure.kind);
        let allowed = match (task.state, kind) {
            (TaskState::Cancelled, _) if task.is_skipped() => failed(OnFailure::Skip) && task.attempts.is_empty(),
            (TaskState::Cancelled, _) => {
                is_cancelled || asked.parent.is_some_and(|parent| self.ended.contains_key(&parent))
            }
            (TaskState::Succeeded, _) => {
                let has_run = task.attempts.last().is_some_and(|last| last.end == Some(AttemptEnd::Succeeded));
                let have_ended = asked.dependencies.iter().all(|(id, _)| self.ended.contains_key(id));
                have_ended && (does == Does::Succeeds || does == Does::Runs && has_run)
            }
            (TaskState::Failed, Some(FailureKind::Dependency)) => failed(OnFailure::Fail) && task.attempts.is_empty(),
            (TaskState::Failed, Some(FailureKind::Subtask)) => {
                let lacks = asked.join.is_none_or(|(_, parts, _)| (asked.children.len() as u32) < parts);
                // Or its last attempt asked for subtasks for which there was no room.
                let has_failed = task.attempts.last().is_some_and(|last| last.end == Some(AttemptEnd::Failed));
                does == Does::Fails || lacks || has_failed
            }
            // What attempts make of it is checked elsewhere.
            _ => true,
        };
        assert!(allowed, "it must not end this way: {task:?}, {asked:?} at {:?}", fleet.now());
    }
}
