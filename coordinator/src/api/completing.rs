//! Tasks that were submitted before, but of whose parts not all were accepted, because a coordinator died in between. If the
//! submission is repeated with its id, its parts are those of the first time. By its key alone, it is found to be the first
//! task, whose parts have other ids: those that it lacks are made of the parts of the repetition here.

use std::collections::BTreeMap;

use bytes::Bytes;
use robeing_fleet::{
    Command, Fleet, Kept, PartOf, Refusal, Reply, SubmitTask, TaskCommand, TaskId, child_id, decode_command,
};
use robeing_proto::v1;

use crate::{
    api::{
        answers::Outcome,
        batches::{KeyedSplit, refusal_of},
        convert,
        preparing::has_its_parts,
        submissions::Submissions,
    },
    propose::{self, ProposeError, Sender},
};

/// Maximum number of parts read at once, so that commands do not wait long to be applied.
const MAX_LOOKED_AT: usize = 1_000;

impl Submissions {
    /// Submits the parts that tasks lack for which the keys of these stand. `outcomes` are those of what was sent; that of
    /// a task becomes the refusal of a part, or says that it was another submission.
    pub(super) async fn complete_known(
        &self,
        sender: Sender,
        splits: Vec<KeyedSplit>,
        outcomes: &mut [Outcome],
    ) -> Result<(), ProposeError> {
        for KeyedSplit { task, id, parts } in splits {
            let Some(outcome) = outcomes.get_mut(task) else { continue };
            let Ok(Reply::Submitted { task: known, existing: true }) = outcome else { continue };
            let known = *known;
            if known == id || self.state.look(|fleet| has_its_parts(fleet, known)) {
                continue;
            }
            if let Some(problem) = self.complete(sender, known, &parts).await? {
                *outcome = Err(problem);
            }
        }
        Ok(())
    }

    /// Submits those of these parts that a task lacks, as its own. Returns why that is refused, if it is.
    async fn complete(
        &self,
        sender: Sender,
        task: TaskId,
        parts: &[Bytes],
    ) -> Result<Option<v1::Refusal>, ProposeError> {
        // What was accepted before, perhaps by another leader, may not be applied here yet.
        let is_ready = self.state.ready_to_read(v1::Consistency::Linearizable.into()).await;
        is_ready.map_err(|_| ProposeError::NoLeader)?;
        if !self.state.look(|fleet| lacks_some_of(fleet, task, parts.len())) {
            return Ok(None);
        }
        let known = self.known_parts(task);
        let (mut missing, mut indexes) = (Vec::new(), Vec::new());
        for (index, command) in (0..).zip(parts) {
            let Some(part) = as_part_of(command, task, index) else { return Ok(None) };
            match known.get(&index) {
                None => {
                    missing.push(propose::encoded(&Command::Task(TaskCommand::Submit(part))));
                    indexes.push(index as usize);
                }
                Some(known) if is_same(known, &part) => {}
                Some(_) => {
                    let what = "the idempotency key".to_owned();
                    return Ok(Some(convert::refusal(&Refusal::Conflict { what, task })));
                }
            }
        }
        let outcomes = self.propose_all(sender, missing).await?;
        Ok(indexes.into_iter().zip(&outcomes).find_map(|(index, outcome)| refusal_of(index, outcome)))
    }

    /// Returns the parts of a task that were accepted, by their numbers.
    fn known_parts(&self, task: TaskId) -> BTreeMap<u32, Kept> {
        let mut known = BTreeMap::new();
        let mut next = Some(0);
        while let Some(from) = next {
            let page = self.state.look(|fleet| fleet.children_of(task, from, MAX_LOOKED_AT));
            next = page.last().and_then(|(index, _)| index.checked_add(1));
            known.extend(page);
        }
        known
    }
}

/// Returns whether an unfinished task is split into so many parts, of which not all are accepted.
fn lacks_some_of(fleet: &Fleet, task: TaskId, parts: usize) -> bool {
    let task = fleet.task(task).filter(|task| !task.state.is_final());
    let children = task.and_then(|task| task.children());
    children.is_some_and(|children| children.accepted < children.parts && children.parts as usize == parts)
}

/// Returns the submission in a command as that of a part of this task.
fn as_part_of(command: &[u8], task: TaskId, index: u32) -> Option<SubmitTask> {
    let Ok(Command::Task(TaskCommand::Submit(mut part))) = decode_command(command) else { return None };
    *part.links.as_mut()?.part_of.as_mut()? = PartOf { task, index };
    part.id = child_id(task, index);
    Some(part)
}

/// Returns whether a part was submitted before with the same content as this one.
fn is_same(known: &Kept, part: &SubmitTask) -> bool {
    match known {
        Kept::Here(known) => known.kind == part.kind && known.input == part.input && known.input_ref == part.input_ref,
        // The parts of an unfinished task are none of these.
        Kept::Archived(_) => false,
    }
}
