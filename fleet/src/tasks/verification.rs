//! Verified results: a task that runs on several agents, and has the output that enough of them agree on.
//!
//! The runs are tasks of their own, its *members*: each has one current attempt at a time, a place in the queue, a timer and
//! a slot like any other task, so that nothing of the rest of the state machine has to know of a task that runs twice. The
//! task itself never has a current attempt. What its members say is kept with it, among its attempts, and a member is
//! removed once it has said it. Each agent has one turn: it takes no member while it holds another one of the same task, nor
//! after it has answered, or has made a member fail for good. Agents are told apart by their names, because one that leaves
//! and joins again has another number.

use std::sync::Arc;

use bilrost::Message;
use bytes::Bytes;

use crate::{
    AgentId, Attempt, AttemptEnd, Refusal, Stamp, SubmitTask, Task, TaskId, TaskState,
    config::{check_length, invalid},
    limits::{MAX_KEPT_ATTEMPTS, MAX_POINTER_BYTES, MAX_VERIFYING_AGENTS},
    sabotage::{Mistake, planted},
};

/// On how many agents a task runs, and how many of them must agree.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Verify {
    /// On how many different agents the task runs; 2 to [`MAX_VERIFYING_AGENTS`].
    #[bilrost(1)]
    pub agents: u32,
    /// How many of them must give equal outputs; 2 to `agents`.
    #[bilrost(2)]
    pub agree: u32,
    /// What is compared of an output, as a JSON pointer; `None`: all its bytes. The coordinators compute a digest of it,
    /// because nothing that takes long may be done while the state is locked. At most [`MAX_POINTER_BYTES`].
    #[bilrost(3)]
    pub pointer: Option<String>,
}

/// What an agent has answered.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Answer {
    /// The agent.
    #[bilrost(1)]
    pub agent: AgentId,
    /// The number of its attempt among those of the task.
    #[bilrost(2)]
    pub attempt: u32,
    /// The digest of what is compared of its output.
    #[bilrost(tag(3), encoding(plainbytes))]
    pub digest: [u8; 32],
    /// Its output, if it was the first with this digest.
    #[bilrost(4)]
    pub output: Option<Bytes>,
    /// Its relative speed, millionths; see [`TrackRecord`](crate::TrackRecord).
    #[bilrost(5)]
    pub speed: u32,
}

/// The verification of a task's result.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Verification {
    /// What was asked for.
    #[bilrost(1)]
    pub asked: Verify,
    /// Whether the members were created, which they are when the task may start.
    #[bilrost(2)]
    pub launched: bool,
    /// The members that have not ended, by their numbers in the order of acceptance, ascending.
    #[bilrost(3)]
    pub members: Vec<u64>,
    /// What agents have answered, in that order; none once the task has ended.
    #[bilrost(4)]
    pub answers: Vec<Answer>,
    /// The agents that made members fail for good. Only how many they are matters: see [`Task::spent`].
    #[bilrost(5)]
    pub failed: Vec<AgentId>,
    /// The ids of members that were removed while an agent was still stopping an attempt of them, so that it can be told
    /// when nothing of the task runs any more. There are no more of them than agents were asked for.
    #[bilrost(6)]
    pub stopping: Vec<TaskId>,
}

impl Verify {
    /// Refuses what is out of bounds.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        if !(2..=MAX_VERIFYING_AGENTS).contains(&self.agents) {
            return Err(invalid("verify.agents", format!("is {}, must be 2 to {MAX_VERIFYING_AGENTS}", self.agents)));
        }
        if !(2..=self.agents).contains(&self.agree) {
            let problem = format!("is {}, must be 2 to {}, the number of agents", self.agree, self.agents);
            return Err(invalid("verify.agree", problem));
        }
        let Some(pointer) = &self.pointer else { return Ok(()) };
        check_length("verify.pointer", pointer, MAX_POINTER_BYTES)?;
        match pointer.is_empty() || pointer.starts_with('/') {
            true => Ok(()),
            false => Err(invalid("verify.pointer", "is no JSON pointer; begin it with /, or leave it empty for all")),
        }
    }
}

impl Verification {
    pub(crate) fn of(asked: Verify) -> Self {
        let (members, answers, failed, stopping) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { asked, launched: false, members, answers, failed, stopping }
    }

    /// Returns how many answers have this digest.
    fn count(&self, digest: &[u8; 32]) -> u32 {
        self.answers.iter().filter(|answer| answer.digest == *digest).count() as u32
    }

    /// Returns how many agents agree on the output that most agree on.
    pub(crate) fn most(&self) -> u32 {
        self.answers.iter().map(|answer| self.count(&answer.digest)).max().unwrap_or(0)
    }

    /// Returns the digest that enough agents agree on.
    pub(crate) fn agreed(&self) -> Option<[u8; 32]> {
        let agree = self.asked.agree - u32::from(planted(Mistake::LieAccepted));
        self.answers.iter().map(|answer| answer.digest).find(|digest| self.count(digest) >= agree)
    }

    /// Returns whether enough agents can still agree.
    pub(crate) fn is_possible(&self) -> bool {
        !self.launched || self.most() + self.members.len() as u32 >= self.asked.agree
    }

    /// Returns the bytes that count against the fleet's budget.
    pub(crate) fn stored_bytes(&self) -> usize {
        self.answers.iter().filter_map(|answer| answer.output.as_ref()).map(Bytes::len).sum()
    }

    /// Returns what the task waits for, for readers.
    pub(crate) fn waiting_for(&self) -> String {
        let Self { asked: Verify { agents, agree, .. }, answers, failed, .. } = self;
        let (answered, most, failed) = (answers.len(), self.most(), failed.len());
        format!(
            "{agree} of {agents} agents to give the same output: {answered} answered, of which {most} agree, and {failed} \
             failed"
        )
    }

    /// Returns why the task fails, for readers.
    pub(crate) fn disagreement(&self) -> String {
        let Self { asked: Verify { agents, agree, .. }, answers, failed, .. } = self;
        let is_first = |answer: &&Answer| answer.output.is_some();
        let different = answers.iter().filter(is_first).count();
        format!(
            "{agree} of {agents} agents had to give the same output, which can't be any more: {} answered, with {different} \
             different outputs, and {} failed",
            answers.len(),
            failed.len()
        )
    }
}

impl SubmitTask {
    pub(super) fn check_verify(&self) -> Result<(), Refusal> {
        self.verify.as_ref().map_or(Ok(()), |verify| verify.check())
    }
}

impl Task {
    /// Returns the names of the agents that have had their turn at a task with several runs that has not ended.
    pub(crate) fn spent(&self) -> impl Iterator<Item = &Arc<str>> {
        self.attempts.iter().map(|attempt| &attempt.agent_name)
    }

    /// Returns the name of the agent that had this attempt, if the attempt is kept.
    pub(crate) fn agent_of(&self, attempt: u32) -> Option<Arc<str>> {
        self.attempts.iter().find(|of| of.number == attempt).map(|of| Arc::clone(&of.agent_name))
    }

    /// Returns whether the task may start now, and is waited for by members that are not there yet.
    pub(crate) fn lacks_members(&self) -> bool {
        self.is_due() && self.verification.as_ref().is_some_and(|verification| !verification.launched)
    }

    /// Creates a member of a task, which is queued.
    pub(super) fn member(of: &Task, seq: u64, id: TaskId, now: Stamp, floor: u32) -> Task {
        Task {
            seq,
            id,
            // The task has the input; see `Fleet::input_of`.
            input: Bytes::new(),
            output: None,
            state: TaskState::Queued,
            idempotency_key: None,
            submitted_at: now,
            // When the task ends, so do its members.
            deadline: None,
            not_before: None,
            attempts: Vec::new(),
            attempt: floor,
            attempts_used: 0,
            hand_backs: 0,
            approval: None,
            verification: None,
            member_of: Some(of.seq),
            ..of.clone()
        }
    }

    /// Keeps what became of a member's attempt, under the next number of this task. Returns that number.
    pub(super) fn note_attempt(&mut self, attempt: Attempt) -> u32 {
        if self.attempts.len() >= MAX_KEPT_ATTEMPTS {
            self.attempts.remove(0);
        }
        let number = self.next_attempt();
        self.attempt = number;
        self.attempts.push(Attempt { number, ..attempt });
        number
    }

    /// Marks the attempts of those who gave another output than this one, and forgets what was kept to compare.
    pub(super) fn close_verification(&mut self, agreed: Option<[u8; 32]>) {
        let Some(verification) = &mut self.verification else { return };
        verification.answers.clear();
        verification.members.clear();
        let Some(agreed) = agreed else { return };
        for attempt in &mut self.attempts {
            if attempt.end == Some(AttemptEnd::Succeeded) && attempt.digest != Some(agreed) {
                attempt.end = Some(AttemptEnd::Outvoted);
            }
        }
    }
}
