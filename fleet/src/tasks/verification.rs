//! Verified results: a task that runs on several agents, and has the output that enough of them agree on.
//!
//! The runs are tasks of their own, its *members*: each has one current attempt at a time, a place in the queue, a timer and
//! a slot like any other task, so that nothing of the rest of the state machine has to know of a task that runs twice. The
//! task itself never has a current attempt. What its members say is kept with it, among its attempts, and a member is
//! removed once it has said it. Each agent has one turn: it takes no member while it holds another one of the same task, nor
//! after it has answered, or has made a member fail for good. Agents are told apart by their names, because one that leaves
//! and joins again has another number.
//!
//! Outputs are equal if their digests are. If the task names a kind that compares, a task of that kind may also find two of
//! them equal; see [`comparisons`](super::comparisons). Then answers fall into classes: an output joins the first class with
//! whose first output it is equal, so that each output is compared with at most one of each class.

use std::sync::Arc;

use bilrost::Message;
use bytes::Bytes;

use crate::{
    AgentId, Attempt, AttemptEnd, Refusal, Stamp, SubmitTask, Task, TaskId, TaskState,
    config::{check_length, check_name, invalid},
    limits::{MAX_KEPT_ATTEMPTS, MAX_POINTER_BYTES, MAX_VERIFYING_AGENTS},
    sabotage::{Mistake, planted},
    tasks::comparisons::Comparison,
    words::count,
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
    /// The kind of the tasks that compare outputs, which agents with this specialization run; `None`: outputs are equal if
    /// what is compared of them is. Not with a pointer. A name, as that of any kind.
    #[bilrost(4)]
    pub compare: Option<String>,
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
    /// What comparisons have found, in that order. It is kept once the task has ended.
    #[bilrost(6)]
    pub comparisons: Vec<Comparison>,
    /// The comparison that has not ended, by its number in the order of acceptance. It is about
    /// [`Verification::compared`].
    #[bilrost(7)]
    pub comparing: Option<u64>,
    /// The ids of members and comparisons that were removed while an agent was still stopping an attempt of them, also
    /// in earlier epochs, so that it can be told when nothing of the task runs any more; at most
    /// [`MAX_STOPPING_PARTS`](crate::limits::MAX_STOPPING_PARTS).
    #[bilrost(8)]
    pub stopping: Vec<TaskId>,
}

/// Answers with outputs that are equal as far as that is known.
pub(crate) struct Class<'a> {
    /// The first one, with which others are compared.
    first: &'a Answer,
    /// The different digests of their outputs.
    digests: Vec<[u8; 32]>,
    /// How many answers there are.
    count: u32,
    /// The first one of the earlier class with which `first` is to be compared, if nobody knows yet whether it is equal.
    against: Option<&'a Answer>,
}

/// What is known of an answer once enough agents agree.
pub(super) struct Judged {
    pub agent: AgentId,
    pub attempt: u32,
    pub speed: u32,
    /// Whether its output is equal to the one that enough agree on; `None` if nobody has compared them.
    pub is_right: Option<bool>,
}

impl Verify {
    /// Returns how many tasks may verify a result at a time: a run for each agent, and a comparison if there are any.
    pub(super) fn most_runs(&self) -> u32 {
        self.agents.saturating_add(u32::from(self.compare.is_some()))
    }

    /// Refuses what is out of bounds.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        if !(2..=MAX_VERIFYING_AGENTS).contains(&self.agents) {
            return Err(invalid("verify.agents", format!("is {}, must be 2 to {MAX_VERIFYING_AGENTS}", self.agents)));
        }
        if !(2..=self.agents).contains(&self.agree) {
            let problem = format!("is {}, must be 2 to {}, the number of agents", self.agree, self.agents);
            return Err(invalid("verify.agree", problem));
        }
        if let Some(kind) = &self.compare {
            check_name("verify.compare", kind)?;
        }
        let Some(pointer) = &self.pointer else { return Ok(()) };
        if self.compare.is_some() {
            return Err(invalid("verify.compare", "can't be given with verify.pointer; leave one of them out"));
        }
        check_length("verify.pointer", pointer, MAX_POINTER_BYTES)?;
        match pointer.is_empty() || pointer.starts_with('/') {
            true => Ok(()),
            false => Err(invalid("verify.pointer", "is no JSON pointer; begin it with /, or leave it empty for all")),
        }
    }
}

impl Verification {
    pub(crate) fn of(asked: Verify) -> Self {
        Self {
            asked,
            launched: false,
            members: Vec::new(),
            answers: Vec::new(),
            failed: Vec::new(),
            comparisons: Vec::new(),
            comparing: None,
            stopping: Vec::new(),
        }
    }

    /// Returns the verification as it begins again when the task is tried again as a dead letter. What agents are still
    /// stopping is still waited for.
    pub(super) fn again(&self) -> Self {
        Self { stopping: self.stopping.clone(), ..Self::of(self.asked.clone()) }
    }

    /// Returns how many answers have this digest.
    fn count(&self, digest: &[u8; 32]) -> u32 {
        self.answers.iter().filter(|answer| answer.digest == *digest).count() as u32
    }

    /// Returns whether the outputs of two answers with different digests are equal; `None` if nobody has compared them.
    fn are_equal(&self, one: &Answer, other: &Answer) -> Option<bool> {
        if self.asked.compare.is_none() {
            return Some(false);
        }
        let pair = (one.attempt.min(other.attempt), one.attempt.max(other.attempt));
        let found = self.comparisons.iter().find(|found| (found.one, found.other) == pair);
        found.map(|found| found.equal)
    }

    /// Returns the classes of the answers, in the order of their first ones.
    fn classes(&self) -> Vec<Class<'_>> {
        let mut classes: Vec<Class<'_>> = Vec::new();
        for answer in self.answers.iter().filter(|answer| answer.output.is_some()) {
            let (digest, count) = (answer.digest, self.count(&answer.digest));
            let verdicts = classes.iter().map(|class| self.are_equal(class.first, answer));
            let found = verdicts.enumerate().find(|(_, equal)| *equal != Some(false));
            match found {
                Some((place, Some(_))) => {
                    classes[place].digests.push(digest);
                    classes[place].count += count;
                }
                found => {
                    let against = found.map(|(place, _)| classes[place].first);
                    classes.push(Class { first: answer, digests: vec![digest], count, against });
                }
            }
        }
        classes
    }

    /// Returns the attempts whose outputs are to be compared next, or are being compared: the first ones of which nobody
    /// knows whether they are equal. Later answers don't change them.
    pub fn compared(&self) -> Option<[u32; 2]> {
        self.classes().into_iter().find_map(|class| Some([class.against?.attempt, class.first.attempt]))
    }

    /// Returns the attempts that gave one of the outputs that are compared, or the same bytes.
    fn gave_compared(&self) -> Vec<u32> {
        let Some(compared) = self.compared() else { return Vec::new() };
        let is_compared = |answer: &&Answer| compared.contains(&answer.attempt);
        let digests: Vec<[u8; 32]> = self.answers.iter().filter(is_compared).map(|answer| answer.digest).collect();
        let gave = self.answers.iter().filter(|answer| digests.contains(&answer.digest));
        gave.map(|answer| answer.attempt).collect()
    }

    /// Returns how many agents agree on the output that most agree on, as far as that is known.
    pub(crate) fn most(&self) -> u32 {
        self.classes().iter().map(|class| class.count).max().unwrap_or(0)
    }

    /// Returns the answers with the output that enough agents agree on.
    pub(crate) fn agreed(&self) -> Option<Class<'_>> {
        let agree = self.asked.agree - u32::from(planted(Mistake::LieAccepted));
        self.classes().into_iter().find(|class| class.count >= agree)
    }

    /// Returns whether enough agents can still agree.
    pub(crate) fn is_possible(&self) -> bool {
        let (settled, open): (Vec<_>, Vec<_>) = self.classes().into_iter().partition(|class| class.against.is_none());
        let most = settled.iter().map(|class| class.count).max().unwrap_or(0);
        let left = open.iter().map(|class| class.count).sum::<u32>() + self.members.len() as u32;
        !self.launched || most + left >= self.asked.agree
    }

    /// Returns the output that enough agents agree on, and what that says about each answer. An answer is outvoted only by
    /// a comparison, or without any by its digest.
    pub(super) fn outcome(&self) -> Option<(Bytes, Vec<Judged>)> {
        let (agreed, classes) = (self.agreed()?, self.classes());
        let is_right = |answer: &Answer| {
            if agreed.digests.contains(&answer.digest) {
                return Some(true);
            }
            let class = classes.iter().find(|class| class.digests.contains(&answer.digest))?;
            self.are_equal(class.first, agreed.first)
        };
        let judged = self.answers.iter().map(|answer| Judged {
            agent: answer.agent,
            attempt: answer.attempt,
            speed: answer.speed,
            is_right: is_right(answer),
        });
        Some((agreed.first.output.clone().unwrap_or_default(), judged.collect()))
    }

    /// Returns the bytes that count against the fleet's budget.
    pub(crate) fn stored_bytes(&self) -> usize {
        let outputs: usize = self.answers.iter().filter_map(|answer| answer.output.as_ref()).map(Bytes::len).sum();
        outputs + self.comparisons.iter().map(|found| found.by.len()).sum::<usize>()
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
        format!(
            "{agree} of {agents} agents had to give the same output, which can't be any more: {} answered, with {}, and {} \
             failed",
            answers.len(),
            count(self.classes().len(), "different output"),
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

    /// Returns the names of the agents that gave one of the outputs that are compared, or the same bytes.
    pub(super) fn givers(&self) -> Vec<&Arc<str>> {
        let attempts = self.verification.as_ref().map_or(Vec::new(), |verification| verification.gave_compared());
        let gave = self.attempts.iter().filter(|attempt| attempts.contains(&attempt.number));
        gave.map(|attempt| &attempt.agent_name).collect()
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
            timing: of.timing.as_ref().map(|timing| timing.of_member()),
            dead: false,
            revival: None,
            links: None,
            scheduled: None,
            input_ref: None,
            output_ref: None,
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

    /// Marks the attempts that are outvoted, and as cancelled those of which nobody knows whether they are; and forgets what
    /// was kept to compare.
    pub(super) fn close_verification(&mut self, judged: &[Judged]) {
        let Some(verification) = &mut self.verification else { return };
        verification.answers.clear();
        verification.members.clear();
        verification.comparing = None;
        for answer in judged {
            let end = match answer.is_right {
                Some(true) => continue,
                Some(false) => AttemptEnd::Outvoted,
                None => AttemptEnd::Cancelled,
            };
            if let Some(attempt) = self.attempts.iter_mut().find(|attempt| attempt.number == answer.attempt) {
                attempt.end = Some(end);
            }
        }
    }
}
