//! Inputs and outputs that are too large for the log: they are in an object store, and the state has references to them.
//! Nothing here knows where the store is, nor whether an object is in it.

use bilrost::Message;
use bytes::Bytes;

use super::{Task, attempts::own_failure};
use crate::{
    AgentId, Effect, FailureKind, Fleet, Refusal, SubmitTask, TaskId, config::invalid, limits::MAX_BLOB_BYTES,
};

/// A reference to an object in the fleet's object store. Needs [`Feature::Blobs`](crate::Feature::Blobs).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct BlobRef {
    /// The SHA-256 of the object, by which it is found and checked.
    #[bilrost(tag(1), encoding(plainbytes))]
    pub sha256: [u8; 32],
    /// The length of the object, bytes: 1 to [`MAX_BLOB_BYTES`].
    #[bilrost(2)]
    pub bytes: u64,
}

impl BlobRef {
    /// Refuses a reference to nothing, or to what is too large. `field` is where it was.
    pub(crate) fn check(&self, field: &str) -> Result<(), Refusal> {
        match (1..=MAX_BLOB_BYTES).contains(&self.bytes) {
            true => Ok(()),
            false => Err(invalid(field, format!("refers to {} bytes, must be 1 to {MAX_BLOB_BYTES}", self.bytes))),
        }
    }
}

impl SubmitTask {
    pub(super) fn check_input_ref(&self) -> Result<(), Refusal> {
        let Some(blob) = &self.input_ref else { return Ok(()) };
        if !self.input.is_empty() {
            return Err(invalid("input_ref", "there is an input, too; set one of them"));
        }
        blob.check("input_ref")
    }
}

impl Fleet {
    /// Returns the reference to the input of a task that has none itself. A member has that of the task whose result it
    /// verifies, and a comparison none; nor has a task that was divided by an attempt: its parts have its input.
    pub fn input_ref_of(&self, task: &Task) -> Option<BlobRef> {
        if self.compares_for(task).is_some() || task.is_divided() {
            return None;
        }
        self.parent_of(task).map_or(task, AsRef::as_ref).input_ref.as_deref().copied()
    }

    /// Ends an attempt that has put its output into the object store. Outputs that are verified are compared here, and those
    /// that divide an input are read, so they can't be elsewhere.
    pub(super) fn stored(
        &mut self,
        seq: u64,
        id: AgentId,
        held: (TaskId, u32),
        ran_us: u64,
        blob: BlobRef,
        effects: &mut Vec<Effect>,
    ) {
        let Some(task) = self.state.tasks.kept.get(&seq) else { return };
        if task.member_of.is_some() {
            let message = format!(
                "the output has {} bytes and is in the object store, where it can't be compared with others; return less",
                blob.bytes
            );
            let failure = own_failure(FailureKind::OutputTooLarge, &message, false);
            return self.failed(seq, id, held, failure, effects);
        }
        if task.divider().is_some() {
            let message = format!(
                "the output has {} bytes and is in the object store, where no parts can be made of it; divide the input into \
                 less",
                blob.bytes
            );
            let failure = own_failure(FailureKind::Subtask, &message, false);
            return self.failed(seq, id, held, failure, effects);
        }
        // Before the end, at which those that are given the result read it.
        self.change_task(seq, |task| task.output_ref = Some(Box::new(blob)));
        self.succeeded(seq, id, held, ran_us, (Bytes::new(), None), effects);
    }
}

/// Returns whether the references of a task are within bounds, and alone.
pub(super) fn are_blobs_sound(task: &Task) -> bool {
    let refs = [&task.input_ref, &task.output_ref];
    let fit = refs.into_iter().flatten().all(|blob| blob.check("").is_ok());
    let is_input_alone = task.input_ref.is_none() || task.input.is_empty();
    let is_output_alone = task.output_ref.is_none() || task.output.as_ref().is_some_and(Bytes::is_empty);
    fit && is_input_alone && is_output_alone
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_to_something_that_is_not_too_large_and_there_is_no_other_input() {
        let check = |bytes: u64, input: &'static [u8]| {
            let task = SubmitTask::new(TaskId(1), "k", Bytes::from_static(input));
            SubmitTask { input_ref: Some(Box::new(BlobRef { sha256: [7; 32], bytes })), ..task }.check()
        };
        assert_eq!((check(1, b""), check(MAX_BLOB_BYTES, b"")), (Ok(()), Ok(())));
        assert!(check(0, b"").is_err() && check(MAX_BLOB_BYTES + 1, b"").is_err() && check(1, b"x").is_err());
    }
}
