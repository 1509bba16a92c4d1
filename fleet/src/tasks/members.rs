//! The members of tasks whose results are verified: how they are created, placed and removed, and what their answers
//! decide. See [`verification`](super::verification).

use std::sync::Arc;

use bytes::Bytes;

use super::verification::{Answer, Judged, Verification};
use crate::{
    AgentId, Attempt, AttemptEnd, AuditOutcome, CancelCause, Effect, Failure, FailureKind, Fleet, FleetMillis, Refusal,
    Role, SubmitTask, Task, TaskId, TaskState,
    audit_log::action,
    config::invalid,
    limits::{MAX_STOPPING_PARTS, MAX_VERIFIED_TASKS},
    tasks::attempts::own_failure,
};

/// What is compared of an output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Compared {
    /// All its bytes.
    Bytes,
    /// The JSON that this pointer points at.
    Json(String),
}

/// Returns the name of a role as in the names of actors.
fn role_word(role: Role) -> &'static str {
    match role {
        Role::Worker => "worker",
        Role::Specialist => "specialist",
        Role::Messenger => "messenger",
        Role::Guardian => "guardian",
    }
}

/// Returns the id of the member with the number `seq`: a UUID of version 8, which neither is among those that submitters
/// draw (versions 4 and 7) or count up, nor can be prepared for without knowing the number.
fn member_id(parent: TaskId, seq: u64) -> TaskId {
    TaskId(derived(parent.0, seq))
}

/// Returns a UUID of version 8 for something with this number that belongs to a task with this id.
pub(crate) fn derived(parent: u128, seq: u64) -> u128 {
    // 2^128 by the golden ratio, as in Fibonacci hashing: odd, so that different ids stay different.
    const MULTIPLIER: u128 = 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    let mut bits = parent ^ u128::from(seq).wrapping_mul(MULTIPLIER).rotate_left(41);
    for _ in 0..3 {
        bits = (bits ^ (bits >> 59)).wrapping_mul(MULTIPLIER);
    }
    bits ^= bits >> 64;
    let (version, variant) = (8 << 76, 2 << 62);
    (bits & !(0xf << 76) & !(3 << 62)) | version | variant
}

impl Fleet {
    /// Returns the task whose result a member, or a comparison, verifies; `None` if the task is neither.
    pub(super) fn parent_of(&self, task: &Task) -> Option<&Arc<Task>> {
        self.state.tasks.kept.get(&task.member_of?)
    }

    /// Returns the input of a task. A member has that of the task whose result it verifies, and a comparison the two
    /// outputs that it compares. A task that was divided by an attempt has none any more: its parts have it.
    pub fn input_of(&self, task: &Task) -> Bytes {
        if task.is_divided() {
            return Bytes::new();
        }
        let of_parent = || self.parent_of(task).map(|parent| parent.input.clone());
        self.outputs_for(task).or_else(of_parent).unwrap_or_else(|| task.input.clone())
    }

    /// Returns the deadline of a task. A member has that of the task whose result it verifies.
    pub fn deadline_of(&self, task: &Task) -> Option<FleetMillis> {
        self.parent_of(task).map_or(task.deadline, |parent| parent.deadline)
    }

    /// Returns a task as readers see it, who know of no members: one with several runs has those that have not ended
    /// among its attempts, under the next numbers.
    pub fn with_runs(&self, task: &Arc<Task>) -> Arc<Task> {
        let Some(verification) = &task.verification else { return Arc::clone(task) };
        let run = |seq: &u64| self.state.tasks.kept.get(seq)?.current().cloned();
        let mut shown = Task::clone(task);
        let numbers = task.attempt.saturating_add(1)..;
        let runs = verification.members.iter().filter_map(run).zip(numbers);
        shown.attempts.extend(runs.map(|(attempt, number)| Attempt { number, ..attempt }));
        Arc::new(shown)
    }

    /// Returns the id of a task as users know it: a member goes by that of the task whose result it verifies.
    pub fn known_id(&self, task: &Task) -> TaskId {
        self.parent_of(task).map_or(task.id, |parent| parent.id)
    }

    /// Returns what is compared of a member's output; `None` if the task is no member.
    pub fn compared_of(&self, task: TaskId) -> Option<Compared> {
        let task = self.task(task)?;
        if self.compares_for(task).is_some() {
            return None;
        }
        let parent = self.parent_of(task)?;
        Some(match &parent.verification.as_ref()?.asked.pointer {
            None => Compared::Bytes,
            Some(pointer) => Compared::Json(pointer.clone()),
        })
    }

    /// Returns whether there are members, whose outputs have to be compared.
    pub fn has_members(&self) -> bool {
        !self.indexes.tasks.members.is_empty()
    }

    /// Refuses another task whose result is to be verified if there are too many, or if its team is too small for it.
    pub(super) fn check_verify_room(&self, submission: &SubmitTask) -> Result<(), Refusal> {
        let Some(verify) = &submission.verify else { return Ok(()) };
        if let Some(team) = submission.team.and_then(|id| self.team(id))
            && team.size < verify.agents
        {
            let problem =
                format!("is {}, and only the {} members of the team may run the task", verify.agents, team.size);
            return Err(invalid("verify.agents", problem));
        }
        if self.indexes.tasks.verified < MAX_VERIFIED_TASKS {
            return Ok(());
        }
        Err(Refusal::Full {
            what: "unfinished tasks with results to be verified".to_owned(),
            limit: u64::from(MAX_VERIFIED_TASKS),
            remedy: "submit this one when some have finished".to_owned(),
        })
    }

    /// Creates the members of a task, and gives them to agents as far as there are any.
    pub(super) fn launch(&mut self, parent: u64, effects: &mut Vec<Effect>) {
        let Some(task) = self.state.tasks.kept.get(&parent).cloned() else { return };
        let agents = task.verification.as_ref().map_or(0, |verification| verification.asked.agents);
        let members: Vec<u64> = (0..agents).map(|_| self.add_child(&task, |member| member)).collect();
        self.change_verification(parent, |verification| {
            verification.members = members;
            verification.launched = true;
        });
        self.place_members(parent, effects);
    }

    /// Adds a task that verifies the result of this one, which is a member before it is changed. Returns its number.
    pub(super) fn add_child(&mut self, parent: &Task, change: impl FnOnce(Task) -> Task) -> u64 {
        let seq = self.state.tasks.next_seq;
        let id = self.free_id(parent.id, seq);
        self.state.tasks.next_seq += 1;
        let floor = self.indexes.agents.stopping.highest(id);
        let mut child = change(Task::member(parent, seq, id, self.state.now, floor));
        child.revision = self.next_revision();
        self.indexes.add_task(&child);
        self.state.tasks.kept.insert(seq, Arc::new(child));
        seq
    }

    /// Returns an id for a member or subtask of this task that no task has. That the first one is taken is a chance in
    /// 2^122.
    pub(super) fn free_id(&self, parent: TaskId, seq: u64) -> TaskId {
        let mut id = member_id(parent, seq);
        while self.indexes.tasks.ids.get(&id).is_some() || self.archived(id).is_some() {
            id = member_id(id, seq);
        }
        id
    }

    pub(super) fn change_verification(&mut self, parent: u64, change: impl FnOnce(&mut Verification)) {
        self.change_task(parent, |task| {
            if let Some(verification) = &mut task.verification {
                change(verification);
            }
        });
    }

    pub(super) fn verification(&self, parent: u64) -> Option<&Verification> {
        self.state.tasks.kept.get(&parent)?.verification.as_deref()
    }

    /// Gives the queued members of a task, and its comparison, to agents. When an agent holds one no more, the others may
    /// go to it.
    pub(super) fn place_members(&mut self, parent: u64, effects: &mut Vec<Effect>) {
        let Some(verification) = self.verification(parent) else { return };
        let children: Vec<u64> = verification.members.iter().copied().chain(verification.comparing).collect();
        for seq in children {
            self.place_one(seq, effects);
        }
    }

    /// Returns the agents that can't take a task, each once: those that hold another member of the same one, or have
    /// had their turn; those that gave what it compares; those that are still stopping an attempt at it that made no
    /// progress; and those that run another part of the same task, if they are kept apart.
    pub(crate) fn excluded(&self, task: &Task) -> Vec<AgentId> {
        let mut agents: Vec<AgentId> = self.still_stopping(task).chain(self.siblings_run_on(task)).collect();
        if let Some((parent, _)) = self.compares_for(task) {
            let names = parent.givers().into_iter();
            agents.extend(names.filter_map(|name| self.indexes.agents.names.get(name).copied()));
        } else if let Some(parent) = self.parent_of(task)
            && let Some(verification) = &parent.verification
        {
            agents.extend(self.had_turns(parent, verification));
        }
        agents.sort_unstable();
        agents.dedup();
        agents
    }

    /// Returns the agents that hold a member of a task, or have had their turn.
    pub(crate) fn had_turns(&self, parent: &Task, verification: &Verification) -> Vec<AgentId> {
        let holder = |seq: &u64| Some(self.state.tasks.kept.get(seq)?.current()?.agent);
        // One that has left and joined again is still the same agent.
        let spent = parent.spent().filter_map(|name| self.indexes.agents.names.get(name).copied());
        verification.members.iter().filter_map(holder).chain(spent).collect()
    }

    /// Removes a member or a comparison, whose current attempt is not in the slot of its agent any more, or is being stopped
    /// there.
    pub(super) fn remove_member(&mut self, seq: u64, effects: &mut Vec<Effect>) {
        let Some(member) = self.state.tasks.kept.remove(&seq) else { return };
        self.snapshots.save_task(&member);
        self.indexes.drop_task(&member);
        self.next_revision();
        if let Some(allocation) = member.resources.as_ref().and_then(|claim| claim.allocation) {
            self.free_attempt(allocation);
        }
        if let Some(from) = member.displaced_from {
            self.settle_displaced(from, effects);
        }
        if let Some(parent) = member.member_of.filter(|_| self.indexes.agents.stopping.has(member.id)) {
            self.note_stopping(parent, member.id);
        }
        self.task_is_gone(member.id, effects);
    }

    /// Notes that a part of a task was removed while an agent stops an attempt of it. Parts that have stopped are
    /// forgotten.
    fn note_stopping(&mut self, parent: u64, part: TaskId) {
        let stopping = &self.indexes.agents.stopping;
        let known = self.verification(parent).into_iter().flat_map(|of| of.stopping.iter().copied());
        let mut parts: Vec<TaskId> = known.filter(|known| stopping.has(*known)).chain([part]).collect();
        let excess = parts.len().saturating_sub(MAX_STOPPING_PARTS);
        parts.drain(..excess);
        self.change_verification(parent, |verification| verification.stopping = parts);
    }

    /// Returns whether the output of a task needs no more room: a member may answer with one that is kept already, and what
    /// a comparison says is not kept as an output.
    pub(super) fn needs_no_room(&self, seq: u64, digest: Option<[u8; 32]>) -> bool {
        let parent = self.state.tasks.kept.get(&seq).and_then(|task| task.member_of);
        let verification = parent.and_then(|parent| self.verification(parent));
        verification.is_some_and(|of| {
            of.comparing == Some(seq) || of.answers.iter().any(|answer| Some(answer.digest) == digest)
        })
    }

    /// Takes the answer of a member, whose agent's slot is free.
    pub(super) fn member_answered(
        &mut self,
        (seq, parent): (u64, u64),
        (output, digest): (Bytes, [u8; 32]),
        speed: u32,
        effects: &mut Vec<Effect>,
    ) {
        let current = self.state.tasks.kept.get(&seq).and_then(|task| task.current()).cloned();
        let Some(attempt) = current else { return };
        let now = self.state.now;
        let agent = attempt.agent;
        let (ended_at, end) = (Some(now), Some(AttemptEnd::Succeeded));
        let attempt = Attempt { ended_at, end, digest: Some(digest), ..attempt };
        self.remove_member(seq, effects);
        self.change_task(parent, |task| {
            let attempt = task.note_attempt(attempt);
            let Some(verification) = &mut task.verification else { return };
            let is_first = verification.answers.iter().all(|answer| answer.digest != digest);
            let output = Some(output).filter(|_| is_first);
            verification.answers.push(Answer { agent, attempt, digest, output, speed });
            verification.members.retain(|member| *member != seq);
        });
        self.judge(parent, false, effects);
        self.compare_next(parent, effects);
    }

    /// Takes note that a member, or a comparison, has failed for good.
    pub(super) fn member_failed(
        &mut self,
        (seq, parent): (u64, u64),
        end: AttemptEnd,
        failure: Failure,
        effects: &mut Vec<Effect>,
    ) {
        if self.verification(parent).is_some_and(|verification| verification.comparing == Some(seq)) {
            return self.comparison_failed((seq, parent), &failure, effects);
        }
        let current = self.state.tasks.kept.get(&seq).and_then(|task| task.current()).cloned();
        let Some(attempt) = current else { return };
        let now = self.state.now;
        let agent = attempt.agent;
        let is_late = failure.kind == FailureKind::Deadline;
        let attempt = Attempt { ended_at: Some(now), end: Some(end), failure: Some(failure), ..attempt };
        self.remove_member(seq, effects);
        self.change_task(parent, |task| {
            task.note_attempt(attempt);
            let Some(verification) = &mut task.verification else { return };
            verification.failed.push(agent);
            verification.members.retain(|member| *member != seq);
        });
        self.judge(parent, is_late, effects);
    }

    /// Ends a task if enough agents agree, or can't any more. `is_late` tells that the last of them has missed the deadline,
    /// of which agents know a little earlier than the state machine.
    pub(super) fn judge(&mut self, parent: u64, is_late: bool, effects: &mut Vec<Effect>) {
        let Some(verification) = self.verification(parent) else { return };
        if let Some((output, judged)) = verification.outcome() {
            return self.agree(parent, output, &judged, effects);
        }
        if verification.is_possible() {
            return;
        }
        let kind = if is_late { FailureKind::Deadline } else { FailureKind::Disagreement };
        let failure = own_failure(kind, &verification.disagreement(), false);
        self.finish(parent, TaskState::Failed, effects, |task, now| {
            task.finish(now, TaskState::Failed, Some(failure));
        });
    }

    /// Ends a task with the output that enough agents agree on. Only now it is known whose answer was right: that is what
    /// their records show.
    fn agree(&mut self, parent: u64, output: Bytes, judged: &[Judged], effects: &mut Vec<Effect>) {
        let Some(task) = self.state.tasks.kept.get(&parent) else { return };
        let names: Vec<_> = judged.iter().map(|answer| task.agent_of(answer.attempt)).collect();
        let kind = task.kind.clone();
        self.finish(parent, TaskState::Succeeded, effects, |task, now| {
            task.close_verification(judged);
            task.output = Some(output);
            task.finish(now, TaskState::Succeeded, None);
        });
        for (answer, name) in judged.iter().zip(names) {
            let Some(is_right) = answer.is_right else { continue };
            // To leave and to join again does not save its record.
            let agent = name.and_then(|name| self.indexes.agents.names.get(&name).copied()).unwrap_or(answer.agent);
            let sample = self.kind_sample(agent, &kind);
            self.change_work(agent, |agent| match is_right {
                true => agent.note_success(answer.speed, sample),
                false => agent.note_failure(sample),
            });
            self.count_team_answer(parent, answer.attempt, is_right);
            if !is_right {
                self.record_outvoted(parent, answer.attempt, agent);
            }
        }
    }

    /// Records in the audit log that an agent was outvoted, which guardians take as a signal. The role of an agent that is
    /// forgotten is not known any more, so it is recorded by its name. One that is outvoted often is recorded from time to
    /// time.
    fn record_outvoted(&mut self, parent: u64, attempt: u32, agent: AgentId) {
        let now = self.state.now.fleet;
        let times = match self.change_agent(agent, |agent| agent.note_outvoted(now)) {
            Some(None) => return,
            Some(Some(times)) => times,
            None => 1,
        };
        let Some(task) = self.state.tasks.kept.get(&parent) else { return };
        let Some(name) = task.agent_of(attempt) else { return };
        let actor = match self.state.agents.known.get(&agent) {
            Some(agent) => format!("{}/{name}", role_word(agent.role)),
            None => format!("agent/{name}"),
        };
        let subject = task.id.to_string();
        let times = if times == 1 { "once".to_owned() } else { format!("{times} times") };
        let detail = format!("on Result, {times}: other agents agree on another output");
        self.record(&actor, action::OUTVOTED, &subject, AuditOutcome::Denied, detail);
    }

    /// Removes the members and the comparison of a task that ends, and has their agents stop.
    pub(crate) fn disband(&mut self, parent: u64, effects: &mut Vec<Effect>) {
        self.stop_members(parent, (CancelCause::Cancelled, AttemptEnd::Cancelled, None), effects);
    }

    /// Removes the members of a task whose deadline has passed, and has their agents stop for this reason.
    pub(crate) fn members_are_late(&mut self, parent: u64, failure: &Failure, effects: &mut Vec<Effect>) {
        self.stop_members(parent, (CancelCause::Deadline, AttemptEnd::TimedOut, Some(failure)), effects);
    }

    fn stop_members(
        &mut self,
        parent: u64,
        (cause, end, failure): (CancelCause, AttemptEnd, Option<&Failure>),
        effects: &mut Vec<Effect>,
    ) {
        // This is done for every task that ends.
        if self.indexes.tasks.verified == 0 {
            return;
        }
        let Some(verification) = self.verification(parent) else { return };
        let (members, comparing) = (verification.members.clone(), verification.comparing);
        let now = self.state.now;
        for seq in &members {
            let current = self.state.tasks.kept.get(seq).and_then(|task| task.current()).cloned();
            self.stop_current(*seq, cause, effects);
            self.remove_member(*seq, effects);
            if let Some(attempt) = current {
                let (ended_at, end, failure) = (Some(now), Some(end), failure.cloned());
                self.change_task(parent, |task| task.note_attempt(Attempt { ended_at, end, failure, ..attempt }));
            }
        }
        if let Some(seq) = comparing {
            self.stop_current(seq, cause, effects);
            self.remove_member(seq, effects);
        }
        self.change_task(parent, |task| task.close_verification(&[]));
    }
}
