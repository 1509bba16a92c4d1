//! Comparisons: tasks that say whether two outputs of a task with several runs are equal, for results that are verified by a
//! rule of their submitter.
//!
//! A comparison is a task like a member, under the same deadline, retry policy and timeout, and is removed when it ends. Its
//! input is not stored: it is made of the outputs that are kept with the verified task. At most one runs for a task at a
//! time, so what it is about follows from the answers and the comparisons before it.

use std::sync::Arc;

use bilrost::Message;
use bytes::Bytes;

use super::verification::Verification;
use crate::{
    AgentId, Effect, Failure, FailureKind, Fleet, Task, TaskId, TaskState,
    limits::{MAX_COMPARED_BYTES, MAX_TEXT_BYTES},
    sabotage::{Mistake, planted},
    tasks::attempts::{cut, own_failure},
};

/// What an agent has found about two outputs.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Comparison {
    /// The number of the attempt that gave the earlier one of the outputs.
    #[bilrost(1)]
    pub one: u32,
    /// The number of the attempt that gave the other one.
    #[bilrost(2)]
    pub other: u32,
    /// Whether they are equal.
    #[bilrost(3)]
    pub equal: bool,
    /// The name of the agent; empty if there was no room for it.
    #[bilrost(4)]
    pub by: Arc<str>,
}

/// Returns two outputs as one input: a line with their lengths in bytes, in decimal and with a space between, and the
/// outputs one after the other.
fn framed(one: &[u8], other: &[u8]) -> Bytes {
    let lengths = format!("{} {}\n", one.len(), other.len());
    [lengths.as_bytes(), one, other].concat().into()
}

/// Returns whether outputs are equal, as the output of a comparison says: `true` or `false`, with white space around it or
/// not. `None` if it says neither.
fn said(output: &[u8]) -> Option<bool> {
    match output.trim_ascii() {
        b"true" => Some(true),
        b"false" => Some(planted(Mistake::DifferentIsEqual)),
        _ => None,
    }
}

impl Verification {
    /// Returns what is compared, for readers; `None` if nothing is.
    pub(super) fn comparison_words(&self) -> Option<String> {
        let (kind, [one, other]) = (self.asked.compare.as_ref()?, self.compared()?);
        Some(format!(
            "the outputs of attempts {one} and {other} to be compared by an agent with the specialization {kind:?}"
        ))
    }

    /// Returns why an output of so many bytes can't be compared with others; `None` if it can.
    pub(super) fn too_large(&self, bytes: usize) -> Option<String> {
        let kind = self.asked.compare.as_ref().filter(|_| bytes > MAX_COMPARED_BYTES)?;
        Some(format!(
            "the output has {bytes} bytes, and one that tasks of the kind {kind:?} compare with others may have \
             {MAX_COMPARED_BYTES}; store it elsewhere and return a reference"
        ))
    }
}

impl Task {
    /// Makes a member a comparison, which any agent may run that has its kind as a specialization. What runs the task
    /// may have to report progress; what compares its outputs is something else, and need not.
    fn into_comparison(mut self, kind: &str) -> Task {
        let (kind, skill) = (kind.to_owned(), Some(kind.to_owned()));
        if let Some(timing) = &mut self.timing {
            timing.asked.progress_timeout = None;
        }
        Task {
            kind,
            required_role: None,
            required_specialization: skill,
            team: None,
            resources: None,
            demand: None,
            ..self
        }
    }
}

impl Fleet {
    /// Returns the task whose outputs a task compares, with its verification; `None` if the task compares none.
    pub(super) fn compares_for(&self, task: &Task) -> Option<(&Task, &Verification)> {
        let parent = self.parent_of(task)?;
        let verification = parent.verification.as_deref()?;
        (verification.comparing == Some(task.seq)).then_some((&**parent, verification))
    }

    /// Returns the outputs that a task compares, as its input; `None` if it compares none.
    pub(super) fn outputs_for(&self, task: &Task) -> Option<Bytes> {
        let (_, verification) = self.compares_for(task)?;
        let numbers = verification.compared()?;
        let output = |number: u32| verification.answers.iter().find(|answer| answer.attempt == number)?.output.as_ref();
        let [one, other] = numbers.map(output);
        Some(framed(one?, other?))
    }

    /// Returns the agents that should not run a comparison if another one can: those that hold a member of the task whose
    /// outputs it compares, or have had their turn. `None` if the task is no comparison.
    pub(crate) fn involved(&self, task: &Task) -> Option<Vec<AgentId>> {
        let (parent, verification) = self.compares_for(task)?;
        Some(self.had_turns(parent, verification))
    }

    /// Has two outputs of a task compared if that is needed, and no others are.
    pub(super) fn compare_next(&mut self, parent: u64, effects: &mut Vec<Effect>) {
        let Some(task) = self.state.tasks.kept.get(&parent).cloned() else { return };
        let Some(verification) = &task.verification else { return };
        let Some(kind) = verification.asked.compare.as_ref().filter(|_| verification.compared().is_some()) else {
            return;
        };
        if verification.comparing.is_some() {
            return;
        }
        let seq = self.add_child(&task, |member| member.into_comparison(kind));
        self.change_verification(parent, |verification| verification.comparing = Some(seq));
        self.place_one(seq, effects);
    }

    /// Takes what a comparison says, whose attempt is `held` by this agent.
    pub(super) fn comparison_answered(
        &mut self,
        (seq, parent): (u64, u64),
        id: AgentId,
        held: (TaskId, u32),
        ran_us: u64,
        output: &[u8],
        effects: &mut Vec<Effect>,
    ) {
        let Some(equal) = said(output) else {
            let message = "what compares outputs must say true or false, and said something else";
            let failure = own_failure(FailureKind::Disagreement, message, true);
            return self.failed(seq, id, held, failure, effects);
        };
        let Some(task) = self.state.tasks.kept.get(&seq) else { return };
        let by = task.current().map(|attempt| Arc::clone(&attempt.agent_name));
        let speed = self.state.kinds.note(&task.kind, ran_us, self.state.revision);
        let sample = self.kind_sample(id, &task.kind);
        self.change_work(id, |agent| {
            agent.release(&held);
            agent.note_success(speed, sample);
        });
        let by = by.filter(|name| self.has_room(name.len())).unwrap_or_default();
        self.remove_member(seq, effects);
        self.change_verification(parent, |verification| {
            if let Some([one, other]) = verification.compared() {
                verification.comparisons.push(Comparison { one, other, equal, by });
            }
            verification.comparing = None;
        });
        self.judge(parent, false, effects);
        // What waits for this agent comes before another comparison.
        self.pull(id, effects);
        self.compare_next(parent, effects);
    }

    /// Ends a task two outputs of which nobody could compare.
    pub(super) fn comparison_failed(
        &mut self,
        (seq, parent): (u64, u64),
        failure: &Failure,
        effects: &mut Vec<Effect>,
    ) {
        let [one, other] = self.verification(parent).and_then(Verification::compared).unwrap_or_default();
        let mut message =
            format!("the outputs of attempts {one} and {other} could not be compared: {}", failure.message);
        cut(&mut message, MAX_TEXT_BYTES, false);
        let kind = match failure.kind {
            FailureKind::Deadline => FailureKind::Deadline,
            _ => FailureKind::Disagreement,
        };
        let failure = own_failure(kind, &message, false);
        self.remove_member(seq, effects);
        self.change_verification(parent, |verification| verification.comparing = None);
        self.finish(parent, TaskState::Failed, effects, |task, now| {
            task.finish(now, TaskState::Failed, Some(failure));
        });
    }

    /// Returns why a task fails whose deadline has passed.
    pub(crate) fn late_words(&self, seq: u64) -> String {
        let compares = self.verification(seq).filter(|verification| verification.comparing.is_some());
        match compares.and_then(Verification::comparison_words) {
            Some(what) => format!("the deadline passed while the task waited for {what}"),
            None => "the deadline passed before the task was finished".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::MAX_INPUT_BYTES;

    #[test]
    fn two_outputs_of_the_largest_size_are_an_input() {
        assert_eq!(framed(b"12 3", b"\n").as_ref(), b"4 1\n12 3\n");
        assert_eq!(framed(b"", b"").as_ref(), b"0 0\n");
        let largest = vec![0_u8; MAX_COMPARED_BYTES];
        assert!(framed(&largest, &largest).len() <= MAX_INPUT_BYTES);
    }

    #[test]
    fn only_true_and_false_say_something() {
        assert_eq!(
            ["true", " true\n", "false\r\n"].map(|text| said(text.as_bytes())),
            [Some(true), Some(true), Some(false)]
        );
        assert_eq!(["", "True", "true false", "1", "true\0"].map(|text| said(text.as_bytes())), [None; 5]);
    }
}
