//! What an agent is given with an attempt: the input of its task, the results of others, and what of both is in the object
//! store.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use bytes::Bytes;
use robeing_fleet::{
    Archived, BlobRef, Fleet, FleetMillis, Join, Kept, Passing, Task, TaskId,
    limits::BLOB_REF_BYTES,
    sabotage::{Mistake, planted},
};
use robeing_platform::compute;
use robeing_proto::{budget::MessageBudget, internal::v1 as internal};

use super::ASSIGNMENT_BYTES;
use crate::{api::convert, leader::sessions::AttemptKey, raft::SharedFleet};

/// Maximum number of attempts, or of results for one attempt, read from the state at once.
const MAX_ATTEMPTS_READ: usize = 256;

/// A task of which an agent gets an attempt. A run of a task whose result is verified has the input and deadline of that one;
/// one that compares outputs, these and that deadline.
pub(super) struct Given {
    task: Arc<Task>,
    input: Bytes,
    deadline: Option<FleetMillis>,
    /// How many results of other tasks it is given.
    results_given: usize,
    results: Vec<internal::PassedResult>,
    carried: Bytes,
    /// The parts of the input that are in the object store.
    stored: Vec<internal::StoredPart>,
}

/// Returns an object that is a part of an input, behind so many bytes that are not.
fn stored_part(at: usize, blob: &BlobRef) -> internal::StoredPart {
    internal::StoredPart { at: at as u64, object: Some(convert::told_blob_ref(blob)) }
}

impl Given {
    fn of(fleet: &Fleet, task: &Arc<Task>) -> Self {
        Self {
            stored: fleet.input_ref_of(task).iter().map(|blob| stored_part(0, blob)).collect(),
            input: fleet.input_of(task),
            deadline: fleet.deadline_of(task),
            results_given: fleet.results_given(task),
            results: Vec::new(),
            carried: fleet.carried_to(task),
            task: Arc::clone(task),
        }
    }

    /// Returns whether only an agent with an object store can make use of what it is given.
    pub(super) fn needs_store(&self) -> bool {
        !self.stored.is_empty() || self.results.iter().any(|result| result.output_ref.is_some())
    }

    /// Returns the attempt; `None` if it has ended.
    pub(super) fn key(&self) -> Option<AttemptKey> {
        self.task.current().map(|current| (self.task.id, current.number))
    }

    /// Reads the results of other tasks that the attempt is given, in slices, so that commands do not wait for all of
    /// them. Those of archived tasks have to be among `archived`.
    pub(super) fn add_results(
        &mut self,
        fleet: &SharedFleet,
        archived: &BTreeMap<u64, Option<Arc<Task>>>,
    ) -> Result<(), NotGiven> {
        if self.results_given == 0 {
            return Ok(());
        }
        let rows = fleet.read().archived_results(&self.task);
        let is_unreadable = |row: &&Archived| archived.get(&row.record).is_some_and(Option::is_none);
        if let Some(row) = rows.iter().find(is_unreadable) {
            return Err(NotGiven::Unreadable(row.id()));
        }
        let lacking: Vec<Archived> = rows.into_iter().filter(|row| !archived.contains_key(&row.record)).collect();
        if !lacking.is_empty() {
            return Err(NotGiven::Lacking(lacking));
        }
        compute(|| self.read_results(fleet, archived))
    }

    fn read_results(
        &mut self,
        fleet: &SharedFleet,
        archived: &BTreeMap<u64, Option<Arc<Task>>>,
    ) -> Result<(), NotGiven> {
        let passing = fleet.read().passing_of(&self.task);
        let mut found: Vec<Arc<Task>> = Vec::with_capacity(self.results_given);
        while found.len() < self.results_given {
            let slice = fleet.read().results_for(&self.task, found.len(), MAX_ATTEMPTS_READ);
            // If some are gone, so is the attempt, and its agent has to stop it.
            if slice.is_empty() {
                break;
            }
            for kept in slice {
                match kept {
                    Kept::Here(task) => found.push(task),
                    Kept::Archived(row) => match archived.get(&row.record) {
                        Some(Some(task)) => found.push(Arc::clone(task)),
                        Some(None) => return Err(NotGiven::Unreadable(row.id())),
                        // It was archived a moment ago.
                        None => return Err(NotGiven::Lacking(vec![row])),
                    },
                }
            }
        }
        let seq = self.task.seq;
        let is_child = |of: &Task| of.child_of().is_some_and(|place| place.seq == seq);
        // Who asked for subtasks has to know of each how it ended.
        let has_asked = self.task.children().is_some_and(|children| children.join == Join::Resume);
        let is_input = |of: &Arc<Task>| passing == Passing::AsInput && !(has_asked && is_child(of));
        let (inputs, others): (Vec<_>, Vec<_>) = found.into_iter().partition(is_input);
        self.results = others.iter().map(|of| convert::passed_result(of, is_child(of))).collect();
        if !inputs.is_empty() {
            let mut input = self.input.to_vec();
            for task in &inputs {
                input.extend_from_slice(task.output.as_deref().unwrap_or_default());
                self.stored.extend(task.output_ref.iter().map(|blob| stored_part(input.len(), blob)));
            }
            self.input = input.into();
        }
        Ok(())
    }
}

/// Why an attempt is not sent with the results that it is to be given.
pub(super) enum NotGiven {
    /// These archived tasks have to be read first.
    Lacking(Vec<Archived>),
    /// The result of this task can't be read.
    Unreadable(TaskId),
}

/// Takes the tasks of the next attempts that are still current, about as many as fit in one message.
pub(super) fn read(fleet: &Fleet, attempts: &mut VecDeque<AttemptKey>) -> Vec<Given> {
    let (mut tasks, mut budget) = (Vec::with_capacity(attempts.len().min(MAX_ATTEMPTS_READ)), MessageBudget::default());
    for _ in 0..MAX_ATTEMPTS_READ {
        let Some(&(id, attempt)) = attempts.front() else { break };
        let task = fleet.task(id).filter(|task| task.current().is_some_and(|current| current.number == attempt));
        if let Some(task) = task {
            let given = Given::of(fleet, task);
            // One that is given results is sent alone, because their size is known only once they are read.
            let is_alone = given.results_given > 0;
            let stored = given.stored.len() * BLOB_REF_BYTES;
            let bytes = given.input.len() + given.carried.len() + task.kind.len() + stored + ASSIGNMENT_BYTES;
            if is_alone && !tasks.is_empty() || !budget.take(bytes) {
                break;
            }
            tasks.push(given);
            if is_alone {
                attempts.pop_front();
                break;
            }
        }
        attempts.pop_front();
    }
    tasks
}

/// Returns the current attempt of a task as an assignment at this fleet time.
pub(super) fn assignment(given: Given, now: FleetMillis) -> Option<internal::Assignment> {
    let Given { task, input, deadline, results, carried, stored, .. } = given;
    let current = task.current()?;
    // An agent that receives it late has less time left. 0 would mean that there is no limit.
    let left = |due: FleetMillis| due.saturating_sub(now).max(1);
    let assigned_at = current.assigned_at.fleet;
    Some(internal::Assignment {
        task_id: task.id.to_string(),
        attempt: current.number,
        kind: task.kind_to_run().to_owned(),
        input: if planted(Mistake::InputCut) { input.slice(..input.len().saturating_sub(1)) } else { input },
        deadline_in_ms: deadline.map_or(0, left),
        time_limit_ms: task.attempt_timeout.map_or(0, |limit| left(assigned_at.saturating_add(limit))),
        resources: task.resources.as_ref().map(|claim| convert::told_amounts(claim.asked.amounts)),
        progress_timeout_ms: task.progress_timeout().unwrap_or_default(),
        results,
        carried,
        stored,
    })
}
