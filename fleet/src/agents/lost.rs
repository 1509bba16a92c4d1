//! What the loss of an agent does to its session, to the attempts it held and to its pool. An agent that leaves
//! gracefully is handled the same way, except that its attempts count as handed back and that it is forgotten.
//!
//! The attempts are queued again one by one, the most urgent tasks first, whoever submitted them; then all of them are placed.

use std::collections::btree_map;

use crate::{
    AgentId, AgentState, AttemptEnd, Effect, FailureKind, Fleet, HeldState, LossReason, RecoveryEvent, Reply,
    SessionId, TaskId,
    agents::Loss,
    sabotage::{Mistake, planted},
    schedule::queue::urgency,
    steps::{Job, Jobs},
    tasks::attempts::own_failure,
};

/// The attempts of an agent whose session has ended, to be queued again.
#[derive(Debug)]
pub(crate) struct Requeue {
    pub agent: AgentId,
    /// How the agent was lost, as text; `None` if it left gracefully and is forgotten.
    pub lost: Option<String>,
    pub held: btree_map::IntoIter<(TaskId, u32), HeldState>,
    /// The tasks' places among all. Once sorted, they are in reverse order, so that `pop` returns the first.
    pub ranks: Vec<(u8, u64)>,
    pub is_sorted: bool,
    pub requeued: Vec<u64>,
    /// The agents that pull tasks once all are queued again.
    pub pulls: Vec<AgentId>,
}

impl Fleet {
    /// Ends the session of a lost agent. Does nothing if the session is not the current one.
    pub(crate) fn lose(
        &mut self,
        id: AgentId,
        session: SessionId,
        reason: LossReason,
        jobs: &mut Jobs,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        if !self.in_session(id, session) {
            return Reply::Done;
        }
        jobs.push(Job::Record(id, RecoveryEvent::Removed));
        self.fill_afterwards(id, true, jobs);
        self.end_session(id, Some(reason), jobs, effects);
        Reply::Done
    }

    /// Ends a session, because of a `loss` or gracefully (`None`), and schedules the requeueing and placing of the
    /// tasks that the agent held.
    pub(crate) fn end_session(
        &mut self,
        id: AgentId,
        loss: Option<LossReason>,
        jobs: &mut Jobs,
        effects: &mut Vec<Effect>,
    ) {
        let now = self.state.now;
        let forget_at = now.fleet.saturating_add(self.state.config.lost_agent_ttl.max(1));
        let active = self.active_attempts(id);
        let ended = self.change_agent(id, |agent| {
            let held = agent.release_all();
            // A bar is no evidence of how well the agent works.
            if loss.is_some_and(|reason| reason != LossReason::Barred) {
                agent.note_loss(active);
            }
            agent.state = AgentState::Lost;
            agent.unhealthy = None;
            agent.lost = Some(Loss { at: now, reason: loss.unwrap_or(LossReason::Disconnected), forget_at });
            (held, agent.session, agent.name.clone())
        });
        let Some((held, session, name)) = ended else { return };
        effects.push(Effect::SessionEnded { agent: id, session });
        let how = loss.map(|reason| match reason {
            LossReason::Disconnected => "its connection dropped",
            LossReason::Silent => "it was not heard from any more",
            LossReason::Replaced => "another process of its name joined",
            LossReason::Failed => "it failed its health checks",
            LossReason::Barred => "it was barred from the fleet",
        });
        if let Some(reason) = loss {
            self.record_step(id, RecoveryEvent::Lost { reason }, effects);
        }
        jobs.push(Job::Requeue(Box::new(Requeue {
            agent: id,
            lost: how.map(|how| format!("agent {name} was lost: {how}")),
            ranks: Vec::with_capacity(held.len()),
            held: held.into_iter(),
            is_sorted: false,
            requeued: Vec::new(),
            pulls: Vec::new(),
        })));
        self.withdraw_afterwards(id, &name, jobs);
    }

    pub(crate) fn requeue(&mut self, mut requeue: Box<Requeue>, jobs: &mut Jobs, effects: &mut Vec<Effect>) {
        if let Some(((task, attempt), state)) = requeue.held.next() {
            match state {
                HeldState::Active => requeue.ranks.extend(self.task(task).map(|task| urgency(task))),
                HeldState::Stopping => self.indexes.agents.stopping.remove((task, attempt, requeue.agent)),
            }
        } else if !requeue.is_sorted {
            requeue.ranks.sort_unstable_by(|a, b| b.cmp(a));
            requeue.is_sorted = true;
        } else if let Some((_, seq)) = requeue.ranks.pop() {
            let queued = match &requeue.lost {
                Some(how) => self.lose_attempt(seq, requeue.agent, how, effects),
                None => {
                    self.give_back(seq, None, effects);
                    true
                }
            };
            requeue.requeued.extend(queued.then_some(seq));
        } else {
            return self.requeued(*requeue, jobs, effects);
        }
        jobs.push(Job::Requeue(requeue));
    }

    fn requeued(&mut self, requeue: Requeue, jobs: &mut Jobs, effects: &mut Vec<Effect>) {
        let Requeue { agent, lost, requeued, pulls, .. } = requeue;
        if lost.is_none() {
            self.forget(agent);
        } else if !requeued.is_empty() {
            let tasks = requeued.len() as u32;
            // Runs of a task that has several are counted already.
            let is_single = |seq: &&u64| self.state.tasks.kept.get(*seq).is_some_and(|task| task.member_of.is_none());
            let single = requeued.iter().filter(is_single).count() as u32;
            self.displace(agent, single);
            let total = &mut self.state.totals.redistributed;
            *total = total.saturating_add(u64::from(tasks));
            effects.push(Effect::Redistributed { from: agent, tasks });
        }
        // All tasks that the agent handed back before may have been given to others already.
        self.settle_recovery(agent, effects);
        jobs.push(Job::Place(requeued.into_iter()));
        // An agent that has taken the place of this one in its team.
        pulls.into_iter().for_each(|agent| jobs.push(Job::Pull(agent)));
    }

    /// Ends the current attempt because its agent was lost: the task is queued again at once, or dead-lettered. Returns
    /// whether it is queued.
    pub(crate) fn lose_attempt(&mut self, seq: u64, from: AgentId, message: &str, effects: &mut Vec<Effect>) -> bool {
        let mut failure = own_failure(FailureKind::AgentLost, message, true);
        let Some(task) = self.state.tasks.kept.get(&seq) else {
            return false;
        };
        task.judge(&mut failure);
        if task.is_used_up() || !failure.retryable {
            self.fail_attempt(seq, AttemptEnd::Lost, failure, effects);
            return false;
        }
        let (now, is_run) = (self.state.now, task.member_of.is_some());
        self.change_task(seq, |task| {
            task.end_attempt(now, AttemptEnd::Lost, Some(failure));
            if planted(Mistake::LossNotCounted) {
                task.attempts_used = task.attempts_used.saturating_sub(1);
            }
            task.requeue(now, 0);
            task.displaced_from = Some(from);
        });
        if is_run {
            // At once: its task may end, and it with that, before all that the agent held is queued again.
            self.displace(from, 1);
        }
        true
    }
}
