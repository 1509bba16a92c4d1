//! The life of attempts: assignment, completion, cancellation, timeouts and retries.

use std::sync::Arc;

use bytes::Bytes;

use crate::{
    Agent, AgentId, AgentState, Attempt, AttemptEnd, CancelCause, Completion, Effect, Failure, FailureKind, Fleet,
    HeldState, Outcome, Refusal, Reply, StaleReason, Stamp, Task, TaskId, TaskState, Weights,
    limits::{MAX_FAILURE_NAME_BYTES, MAX_FREE_HAND_BACKS, MAX_INPUT_BYTES, MAX_TEXT_BYTES, SCARCE_TEXT_BYTES},
    sabotage::{Mistake, planted},
    schedule::score::score,
};

/// Returns the attempt that begins when `agent`, in its current state, gets `task`.
fn attempt_of(task: &Task, agent: &Agent, candidates: u32, weights: &Weights, now: Stamp) -> Attempt {
    let matched = agent.has_specialization(task.needs().domain);
    Attempt {
        number: task.next_attempt(),
        agent: agent.id,
        agent_name: agent.name.clone(),
        session: agent.session,
        assigned_at: now,
        ended_at: None,
        end: None,
        score: score(weights, agent, task.kind_to_run(), matched),
        candidates,
        failure: None,
        digest: None,
    }
}

fn assignment(task: &Task, attempt: &Attempt) -> Effect {
    Effect::Assign { agent: attempt.agent, session: attempt.session, task: task.id, attempt: attempt.number }
}

/// Truncates `text` to at most `most` bytes at a character boundary. Keeps its end if `tail`, else its beginning.
pub(crate) fn cut(text: &mut String, most: usize, tail: bool) {
    if text.len() <= most {
        return;
    }
    if tail {
        let mut from = text.len() - most;
        while !text.is_char_boundary(from) {
            from += 1;
        }
        text.drain(..from);
    } else {
        let mut to = most;
        while !text.is_char_boundary(to) {
            to -= 1;
        }
        text.truncate(to);
    }
}

impl Outcome {
    /// Applies the limits: a failure's texts are cut to [`MAX_TEXT_BYTES`], and an output over [`MAX_INPUT_BYTES`]
    /// becomes a final failure, as does a suspension that is out of bounds. Coordinators do this before a completion
    /// enters the log, so that refused bytes are not replicated.
    #[must_use]
    pub fn within_limits(self) -> Outcome {
        match self {
            Outcome::Succeeded(output) | Outcome::Answered { output, .. } if output.len() > MAX_INPUT_BYTES => {
                let message = format!(
                    "the output has {} bytes, the limit is {MAX_INPUT_BYTES}; store it elsewhere and return a reference",
                    output.len()
                );
                Outcome::Failed(own_failure(FailureKind::OutputTooLarge, &message, false))
            }
            Outcome::Stored(blob) if blob.check("output_ref").is_err() => {
                let message = format!("an output of {} bytes can't be in the object store", blob.bytes);
                Outcome::Failed(own_failure(FailureKind::OutputTooLarge, &message, false))
            }
            Outcome::Failed(mut failure) => {
                cut(&mut failure.message, MAX_TEXT_BYTES, false);
                cut(&mut failure.stderr_tail, MAX_TEXT_BYTES, true);
                cut(&mut failure.name, MAX_FAILURE_NAME_BYTES, false);
                Outcome::Failed(failure)
            }
            Outcome::Suspended(suspension) => match suspension.problem() {
                Some(problem) => Outcome::Failed(own_failure(FailureKind::Subtask, &problem, false)),
                None => Outcome::Suspended(suspension),
            },
            Outcome::Succeeded(_)
            | Outcome::Answered { .. }
            | Outcome::Stored(_)
            | Outcome::Stopped
            | Outcome::HandedBack => self,
        }
    }
}

pub(crate) fn own_failure(kind: FailureKind, message: &str, retryable: bool) -> Failure {
    Failure { retryable, ..Failure::of(kind, message) }
}

impl Fleet {
    /// Gives a task that is not in the state yet to the best agent with a free slot, if there is one.
    pub(crate) fn assign_new(&mut self, task: &mut Task, effects: &mut Vec<Effect>) {
        let weights = self.state.config.weights;
        if self.is_being_admitted(task) {
            return;
        }
        let Some(id) = self.best_for(task) else {
            return;
        };
        let candidates = self.candidates_for(task);
        let now = self.state.now;
        let (key, slots) = ((task.id, task.next_attempt()), task.slots());
        if !self.state.queues.set.is_empty() {
            self.note_start(task.queue(), task.limit_key());
        }
        let attempt = self.change_work(id, |agent| {
            let attempt = attempt_of(task, agent, candidates, &weights, now);
            agent.hold(key, slots);
            attempt
        });
        let Some(attempt) = attempt else { return };
        effects.push(assignment(task, &attempt));
        let allocation = self.take_room(task, id, attempt.number);
        task.begin_attempt(attempt);
        task.note_allocation(allocation);
    }

    /// Gives a queued task to the best agent with a free slot, if the task is ready and there is one. Of a task that runs on
    /// several agents, all members are placed.
    pub(crate) fn place(&mut self, seq: u64, effects: &mut Vec<Effect>) {
        let Some(task) = self.state.tasks.kept.get(&seq) else { return };
        if task.has_expired(self.state.now.fleet) {
            return;
        }
        let (lacks_members, parent) = (task.lacks_members(), task.member_of);
        match parent {
            _ if lacks_members => self.launch(seq, effects),
            Some(parent) => self.place_members(parent, effects),
            None => self.place_one(seq, effects),
        }
    }

    /// Gives a queued task to the best agent with a free slot that can take it, if the task is ready and there is one.
    pub(super) fn place_one(&mut self, seq: u64, effects: &mut Vec<Effect>) {
        let ready = self.state.tasks.kept.get(&seq).filter(|task| task.is_ready() && !self.is_being_admitted(task));
        let best = ready.and_then(|task| self.best_for(task));
        if let Some(agent) = best {
            self.assign(seq, agent, effects);
        }
    }

    /// Gives a ready task to an agent with a free slot, and the resources that it needs.
    pub(crate) fn assign(&mut self, seq: u64, id: AgentId, effects: &mut Vec<Effect>) {
        let now = self.state.now;
        let weights = self.state.config.weights;
        let (Some(task), Some(agent)) = (self.state.tasks.kept.get(&seq), self.state.agents.known.get(&id)) else {
            return;
        };
        let candidates = self.candidates_for(task);
        let attempt = attempt_of(task, agent, candidates, &weights, now);
        effects.push(assignment(task, &attempt));
        let (key, slots) = ((task.id, attempt.number), task.slots());
        let needing = task.resources.is_some().then(|| Arc::clone(task));
        if !self.state.queues.set.is_empty() {
            let task = Arc::clone(task);
            self.note_start(task.queue(), task.limit_key());
        }
        self.change_work(id, |agent| agent.hold(key, slots));
        let allocation = needing.and_then(|task| self.take_room(&task, id, key.1));
        let displaced_from = self.change_task(seq, |task| {
            task.begin_attempt(attempt);
            task.note_allocation(allocation);
            task.displaced_from.take()
        });
        if let Some(from) = displaced_from.flatten() {
            self.settle_displaced(from, effects);
        }
    }

    pub(crate) fn complete(&mut self, completion: Completion, effects: &mut Vec<Effect>) -> Reply {
        let Completion { agent: id, session, task, attempt, ran_us, outcome } = completion;
        let agent = self.state.agents.known.get(&id);
        let any_counts = planted(Mistake::StaleResultAccepted)
            && matches!(outcome, Outcome::Succeeded(_))
            && self.task(task).is_some_and(|task| !task.state.is_final());
        let in_session = agent.filter(|a| any_counts || a.session == session && a.state != AgentState::Lost);
        let Some(agent) = in_session else {
            return self.stale(StaleReason::SessionEnded);
        };
        let unhealthy = agent.state == AgentState::Unhealthy;
        match agent.held.get(&(task, attempt)) {
            Some(HeldState::Active) => {}
            _ if any_counts => self.take_as_current(id, (task, attempt), effects),
            Some(HeldState::Stopping) => {
                self.change_work(id, |a| a.release(&(task, attempt)));
                self.indexes.agents.stopping.remove((task, attempt, id));
                self.pull(id, effects);
                if matches!(outcome, Outcome::Stopped | Outcome::HandedBack) {
                    return Reply::Done;
                }
                return self.stale(self.why_stale(task));
            }
            None => return self.stale(self.why_stale(task)),
        }
        let Some(seq) = self.indexes.tasks.ids.get(&task).copied() else {
            return self.stale(StaleReason::UnknownTask);
        };
        let digest = outcome.digest();
        match outcome.within_limits() {
            Outcome::Succeeded(output) | Outcome::Answered { output, .. }
                if self.has_room(output.len()) || self.needs_no_room(seq, digest) =>
            {
                self.succeeded(seq, id, (task, attempt), ran_us, (output, digest), effects);
            }
            Outcome::Succeeded(output) | Outcome::Answered { output, .. } => {
                let message = format!(
                    "no room is left for the output of {} bytes; raise max_bytes, or store outputs elsewhere",
                    output.len()
                );
                let failure = own_failure(FailureKind::OutputTooLarge, &message, false);
                self.failed(seq, id, (task, attempt), failure, effects);
            }
            Outcome::Failed(failure) => self.failed(seq, id, (task, attempt), failure, effects),
            Outcome::Stored(blob) => self.stored(seq, id, (task, attempt), ran_us, blob, effects),
            Outcome::Suspended(suspension) => self.suspend(seq, id, (task, attempt), ran_us, suspension, effects),
            Outcome::Stopped | Outcome::HandedBack => {
                self.change_work(id, |agent| agent.release(&(task, attempt)));
                self.give_back(seq, unhealthy.then_some(id), effects);
                self.pull(id, effects);
                self.place(seq, effects);
            }
        }
        if unhealthy {
            self.settle_recovery(id, effects);
        }
        Reply::Completed
    }

    /// Prepares [`Mistake::StaleResultAccepted`]: ends the current attempt, so that the result of another one can be
    /// accepted. Everything else stays consistent, so that only the result can reveal the mistake.
    fn take_as_current(&mut self, id: AgentId, attempt: (TaskId, u32), effects: &mut Vec<Effect>) {
        self.change_work(id, |agent| agent.release(&attempt));
        self.indexes.agents.stopping.remove((attempt.0, attempt.1, id));
        if let Some(seq) = self.indexes.tasks.ids.get(&attempt.0).copied() {
            self.stop_current(seq, CancelCause::Cancelled, effects);
        }
    }

    /// Returns whether this many more bytes may be stored for an accepted task.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.stored_bytes().saturating_add(bytes as u64) <= self.state.config.most_stored()
    }

    fn stale(&mut self, reason: StaleReason) -> Reply {
        let refused = &mut self.state.totals.stale_refused;
        *refused = refused.saturating_add(1);
        Reply::Stale(reason)
    }

    pub(super) fn why_stale(&self, task: TaskId) -> StaleReason {
        match self.state_of(task) {
            None => StaleReason::UnknownTask,
            Some(state) if state.is_final() => StaleReason::Finished,
            Some(_) => StaleReason::NotCurrent,
        }
    }

    pub(super) fn succeeded(
        &mut self,
        seq: u64,
        id: AgentId,
        held: (TaskId, u32),
        ran_us: u64,
        (output, digest): (Bytes, Option<[u8; 32]>),
        effects: &mut Vec<Effect>,
    ) {
        let Some(task) = self.state.tasks.kept.get(&seq) else { return };
        let verification = task.member_of.and_then(|parent| self.verification(parent));
        if let Some(parent) = task.member_of.filter(|_| verification.is_some_and(|of| of.comparing == Some(seq))) {
            return self.comparison_answered((seq, parent), id, held, ran_us, &output, effects);
        }
        if task.divider().is_some() {
            let message = "the coordinators made no parts of the output, although it divides the task's input";
            let failure = own_failure(FailureKind::Internal, message, true);
            return self.failed(seq, id, held, failure, effects);
        }
        if let Some(message) = verification.and_then(|of| of.too_large(output.len())) {
            let failure = own_failure(FailureKind::OutputTooLarge, &message, false);
            return self.failed(seq, id, held, failure, effects);
        }
        if task.member_of.is_some() && digest.is_none() {
            let message = "the coordinators did not compare the output, although it is to be verified";
            let failure = own_failure(FailureKind::Internal, message, true);
            return self.failed(seq, id, held, failure, effects);
        }
        let (parent, is_of_team, sample) = (task.member_of, task.team.is_some(), self.kind_sample(id, &task.kind));
        let speed = self.state.kinds.note(&task.kind, ran_us, self.state.revision);
        if let (Some(parent), Some(digest)) = (parent, digest) {
            self.change_work(id, |agent| agent.release(&held));
            self.member_answered((seq, parent), (output, digest), speed, effects);
            return self.pull(id, effects);
        }
        if is_of_team {
            self.count_team_attempt(seq, true);
        }
        self.finish(seq, TaskState::Succeeded, effects, |task, now| {
            task.end_attempt(now, AttemptEnd::Succeeded, None);
            task.output = Some(output);
            task.finish(now, TaskState::Succeeded, None);
        });
        self.change_work(id, |agent| {
            agent.release(&held);
            agent.note_success(speed, sample);
        });
        self.pull(id, effects);
    }

    /// Ends the current attempt with a failure that its agent reports, or that is found in what it reports.
    pub(super) fn failed(
        &mut self,
        seq: u64,
        id: AgentId,
        held: (TaskId, u32),
        mut failure: Failure,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(task) = self.state.tasks.kept.get(&seq) {
            task.judge(&mut failure);
        }
        // The texts are kept with the attempt and, if it is the last one, also with the task.
        if !self.has_room(2 * (failure.message.len() + failure.stderr_tail.len() + failure.name.len())) {
            cut(&mut failure.message, SCARCE_TEXT_BYTES, false);
            failure.stderr_tail.clear();
            failure.name.clear();
        }
        let counts = failure.kind != FailureKind::Deadline;
        let sample = self.sample_of(id, seq);
        self.change_work(id, |agent| {
            agent.release(&held);
            if counts {
                agent.note_failure(sample);
            }
        });
        let end = match failure.kind {
            FailureKind::TimedOut | FailureKind::Deadline => AttemptEnd::TimedOut,
            _ => AttemptEnd::Failed,
        };
        self.fail_attempt(seq, end, failure, effects);
        self.pull(id, effects);
        self.place(seq, effects);
    }

    /// Ends the current attempt with a failure: the task waits for its next attempt, or ends if there is none.
    pub(crate) fn fail_attempt(&mut self, seq: u64, end: AttemptEnd, mut failure: Failure, effects: &mut Vec<Effect>) {
        let Some(task) = self.state.tasks.kept.get(&seq) else {
            return;
        };
        task.judge(&mut failure);
        let again = failure.retryable && failure.kind != FailureKind::Deadline;
        let (is_used_up, mut pause) = (task.is_used_up(), task.pause_after(&failure));
        let (member_of, is_of_team) = (task.member_of, task.team.is_some());
        if is_of_team {
            self.count_team_attempt(seq, false);
        }
        if again && !is_used_up {
            let now = self.state.now;
            if planted(Mistake::BackoffHalved) {
                pause /= 2;
            }
            self.change_task(seq, |task| {
                task.end_attempt(now, end, Some(failure));
                task.requeue(now, pause);
            });
            return;
        }
        if let Some(parent) = member_of {
            return self.member_failed((seq, parent), end, failure, effects);
        }
        let unanswered = again && matches!(end, AttemptEnd::TimedOut | AttemptEnd::Lost);
        let state = if unanswered { TaskState::DeadLettered } else { TaskState::Failed };
        self.finish(seq, state, effects, |task, now| {
            task.end_attempt(now, end, Some(failure.clone()));
            task.finish(now, state, Some(failure));
        });
    }

    /// Ends the current attempt because it was handed back: the task keeps its place in the queue, at no cost unless it
    /// was handed back too often. `displaced_from` is the agent that could not keep it.
    pub(crate) fn give_back(&mut self, seq: u64, displaced_from: Option<AgentId>, effects: &mut Vec<Effect>) {
        let Some(task) = self.state.tasks.kept.get(&seq) else {
            return;
        };
        let free = task.hand_backs < MAX_FREE_HAND_BACKS;
        if !free && task.is_used_up() {
            let message = "every agent that got it handed it back unfinished";
            let failure = own_failure(FailureKind::Internal, message, true);
            self.fail_attempt(seq, AttemptEnd::Lost, failure, effects);
            return;
        }
        let now = self.state.now;
        self.change_task(seq, |task| {
            task.hand_backs = task.hand_backs.saturating_add(1);
            if free {
                task.attempts_used = task.attempts_used.saturating_sub(1);
            }
            task.end_attempt(now, AttemptEnd::HandedBack, None);
            task.requeue(now, 0);
            task.displaced_from = displaced_from;
        });
        if let Some(from) = displaced_from {
            self.displace(from, 1);
        }
    }

    pub(crate) fn cancel(&mut self, id: TaskId, mut reason: String, effects: &mut Vec<Effect>) -> Reply {
        let known = self.indexes.tasks.ids.get(&id).copied();
        let state = self.task(id).map(|task| task.state);
        let (Some(mut seq), Some(mut state)) = (known, state) else {
            let archived = self.archived(id).map(|row| Reply::Cancelled(row.state));
            return archived.unwrap_or(Reply::Refused(Refusal::UnknownTask { task: id }));
        };
        if planted(Mistake::CancelHitsNext)
            && let Some((next, task)) = self.state.tasks.kept.range(seq + 1..).next()
        {
            (seq, state) = (*next, task.state);
        }
        // Nobody has submitted it.
        if self.state.tasks.kept.get(&seq).is_some_and(|task| task.member_of.is_some()) {
            return Reply::Refused(Refusal::UnknownTask { task: id });
        }
        if state.is_final() {
            return Reply::Cancelled(state);
        }
        let most = if self.has_room(MAX_TEXT_BYTES) { MAX_TEXT_BYTES } else { SCARCE_TEXT_BYTES };
        cut(&mut reason, most, false);
        self.stop_current(seq, CancelCause::Cancelled, effects);
        self.finish(seq, TaskState::Cancelled, effects, |task, now| {
            task.end_attempt(now, AttemptEnd::Cancelled, None);
            task.cancel_reason = Some(reason);
            task.finish(now, TaskState::Cancelled, None);
        });
        Reply::Cancelled(TaskState::Cancelled)
    }

    /// Orders the agent of the current attempt, if there is one, to stop it. The slot stays taken until the agent
    /// reports.
    pub(crate) fn stop_current(&mut self, seq: u64, cause: CancelCause, effects: &mut Vec<Effect>) {
        let Some(task) = self.state.tasks.kept.get(&seq) else {
            return;
        };
        let Some(current) = task.current() else {
            return;
        };
        let (id, session, key) = (current.agent, current.session, (task.id, current.number));
        // One that was just lost holds nothing any more, although not all that it held is queued again yet.
        if !self.state.agents.known.get(&id).is_some_and(|agent| agent.held.contains_key(&key)) {
            return;
        }
        let frees_slot = planted(Mistake::CancelFreesSlot);
        if !frees_slot {
            self.indexes.agents.stopping.insert((key.0, key.1, id));
        }
        let sample = self.sample_of(id, seq);
        self.change_work(id, |agent| {
            if frees_slot {
                agent.release(&key);
            } else {
                agent.stop(key);
            }
            if matches!(cause, CancelCause::TimedOut | CancelCause::Stalled) {
                agent.note_failure(sample);
            }
        });
        effects.push(Effect::Stop { agent: id, session, task: key.0, attempt: key.1, cause });
        if frees_slot {
            self.pull(id, effects);
        }
        self.settle_recovery(id, effects);
    }
}
