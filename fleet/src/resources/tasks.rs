//! The resources of tasks: a task that needs some starts on an agent only if the agent has them free. It then has an
//! allocation of them, which is granted in the same step and ends with the attempt.
//!
//! Tasks come after the requests that wait, by the rules for a request that is new. Among themselves they are served by
//! the shares of their queues, then by the turns of submitters and in the order of all tasks, when an agent has room for
//! more. Where room is found elsewhere, all that wait are looked at in turns, by what they need. No task keeps room for
//! itself: a large one waits while smaller ones leave it none.

use std::fmt;

use bilrost::Message;

use super::{
    AllocationState, Holder, Part,
    amounts::{Amounts, Resource},
    command::RequestResources,
    share::Share,
};
use crate::{
    Agent, AgentId, AllocationId, Feature, Fleet, FleetMillis, Refusal, Role, SubmitTask, Task,
    config::{check_name, invalid},
    limits::{DEFAULT_QUEUE, MAX_DURATION_MS, MAX_LIVE_ALLOCATIONS, MAX_TASK_SHAPES},
    sabotage::{Mistake, planted},
    schedule::{
        needing::{Needing, Shape},
        place_of,
        queue::Found,
        submitters::Turn,
    },
    tasks::members::derived,
};

/// The resources that a task needs while it runs.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct TaskResources {
    /// What it needs of the agent that runs it; not nothing.
    #[bilrost(1)]
    pub amounts: Amounts,
    /// The queue for whose share it counts, [`DEFAULT_QUEUE`] or one that is set. If that is not set any more when the
    /// task starts, it counts for [`DEFAULT_QUEUE`].
    #[bilrost(2)]
    pub queue: String,
}

/// The resources of an accepted task.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct Claim {
    /// What the task needs.
    #[bilrost(1)]
    pub asked: TaskResources,
    /// The number of the allocation that the current attempt has.
    #[bilrost(2)]
    pub allocation: Option<u64>,
}

impl TaskResources {
    /// Refuses what is out of bounds, whatever the fleet's state.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        if self.amounts == Amounts::NONE {
            return Err(invalid("resources", "must be some; leave them out if the task needs none"));
        }
        self.amounts.check("resources")?;
        check_name("queue", &self.queue)
    }
}

impl fmt::Display for TaskResources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for resource in Resource::ALL.into_iter().filter(|resource| self.amounts.get(*resource) > 0) {
            write!(f, "{} {} {}, ", resource.name(), self.amounts.get(resource), resource.unit())?;
        }
        write!(f, "from queue {:?}", self.queue)
    }
}

impl Task {
    /// Notes the allocation of the attempt that has just begun.
    pub(crate) fn note_allocation(&mut self, allocation: Option<u64>) {
        if let Some(claim) = &mut self.resources {
            claim.allocation = allocation;
        }
    }

    /// Takes the number of the allocation that is to end, because the attempt that has it has ended.
    pub(crate) fn take_freed(&mut self) -> Option<u64> {
        self.resources.as_ref()?.allocation?;
        if self.current().is_some() {
            return None;
        }
        self.resources.as_mut()?.allocation.take()
    }
}

impl Fleet {
    /// Refuses a submission that needs more than any agent in the fleet contributes or its queue's quota allows, and
    /// one for whose needs there is no room in the index. An agent that gives nothing at the moment, such as an
    /// unhealthy one, counts; and while there are no agents at all, or others are expected, as in a fleet that has just
    /// started, nobody knows what there will be: such a task waits, as one does whose specialization no agent has.
    pub(crate) fn check_task_resources(&self, submission: &SubmitTask) -> Result<(), Refusal> {
        let Some(asked) = &submission.resources else { return Ok(()) };
        // A fleet without the feature says so when the command is applied.
        if !self.has(Feature::Resources) {
            return Ok(());
        }
        self.check_asked(asked, || Shape::of_submission(submission, asked))
    }

    /// Refuses another unfinished task that needs these resources, of this shape.
    pub(crate) fn check_asked(&self, asked: &TaskResources, shape: impl FnOnce() -> Shape) -> Result<(), Refusal> {
        self.check_queue(&asked.queue)?;
        self.check_quota(&asked.queue, Amounts::NONE, asked.amounts)?;
        if !self.offers(asked.amounts) && self.indexes.agents.in_session() > 0 && !self.expects_agents() {
            let parts = [Part { amounts: asked.amounts, agent: None }];
            let short = self.indexes.resources.offered.shortages(&parts);
            return Err(Refusal::InsufficientResources { short, others_wait: false, contributed: true });
        }
        let needing = &self.indexes.schedule.needing;
        if needing.len() < MAX_TASK_SHAPES || needing.knows(&shape()) {
            return Ok(());
        }
        Err(Refusal::Full {
            what: "different needs of unfinished tasks with resources".to_owned(),
            limit: MAX_TASK_SHAPES as u64,
            remedy: "ask for the same amounts as other tasks, or submit this one when some have finished".to_owned(),
        })
    }

    /// Returns whether an agent in the fleet contributes what a task needs, free or not.
    pub(crate) fn is_offered(&self, task: &Task) -> bool {
        task.resources.as_ref().is_none_or(|claim| self.offers(claim.asked.amounts))
    }

    fn offers(&self, amounts: Amounts) -> bool {
        let (indexes, parts) = (&self.indexes.resources, [Part { amounts, agent: None }]);
        indexes.offered.place(&parts, false, indexes.contributed).is_some()
    }

    /// Returns the queue for whose share a task counts that asked for this one.
    fn queue_for<'a>(&self, asked: &'a str) -> &'a str {
        if self.knows_queue(asked) { asked } else { DEFAULT_QUEUE }
    }

    /// Returns whether a task may start now as far as its queue and the requests that wait are concerned.
    pub(crate) fn has_turn(&self, asked: &TaskResources) -> bool {
        self.queue_has_turn(&asked.queue, asked.amounts)
    }

    fn queue_has_turn(&self, queue: &str, amounts: Amounts) -> bool {
        let (queue, indexes) = (self.queue_for(queue), &self.indexes.resources);
        indexes.waiting + indexes.granted < MAX_LIVE_ALLOCATIONS
            && !self.requests_come_before(queue)
            && self.check_quota(queue, self.used_from(queue), amounts).is_ok()
    }

    /// Returns the agents that can take a task that needs these resources, but not more than a few.
    pub(crate) fn with_room(&self, task: &Task, asked: &TaskResources) -> Vec<AgentId> {
        self.with_room_besides(task, asked, &self.excluded(task))
    }

    /// Same as [`Fleet::with_room`], but only these agents are excluded.
    fn with_room_besides(&self, task: &Task, asked: &TaskResources, excluded: &[AgentId]) -> Vec<AgentId> {
        if !self.has_turn(asked) || self.is_held_back(task) {
            return Vec::new();
        }
        let (needs, indexes) = (task.needs(), &self.indexes.resources);
        let fits = |id: AgentId| {
            let agent = self.state.agents.known.get(&id);
            agent.is_some_and(|agent| needs.can_go_to(agent)) && !excluded.contains(&id)
        };
        let Some(team) = task.team else {
            // Else many agents that are busy would be looked at for each task.
            let has_slot = self.indexes.schedule.free.has_any(needs);
            return if has_slot { indexes.free.with_room(asked.amounts, fits) } else { Vec::new() };
        };
        let has_room = |id: &AgentId| indexes.agents.get(id).is_some_and(|agent| agent.free().covers(asked.amounts));
        let members = self.team(team).into_iter().flat_map(|team| &team.members).map(|member| member.agent);
        members.filter(|id| has_room(id) && fits(*id)).collect()
    }

    /// Returns the agent that should take a task that needs these resources: the one with the best score of those that
    /// are found to have room.
    pub(crate) fn best_with_room(&self, task: &Task, asked: &TaskResources) -> Option<AgentId> {
        let (needs, weights) = (task.needs(), &self.state.config.weights);
        let found = self.with_room(task, asked);
        let agents = found.iter().filter_map(|id| self.state.agents.known.get(id));
        agents.min_by_key(|agent| place_of(agent, needs, weights)).map(|agent| agent.id)
    }

    /// Returns the task with resources that an agent with a free slot should take next, and whether it is no task of a
    /// specialist's domain: that of the queue with the smallest share for its weight, of equal ones the first task.
    pub(crate) fn next_needing(&mut self, id: AgentId) -> Option<(bool, Found)> {
        if self.indexes.schedule.needing.ready == 0 {
            return None;
        }
        let mut needing = std::mem::take(&mut self.indexes.schedule.needing);
        let agent = self.state.agents.known.get(&id).filter(|agent| agent.free_slots() > 0);
        let found = agent.and_then(|agent| self.next_of(&mut needing, agent));
        self.indexes.schedule.needing = needing;
        found
    }

    fn next_of(&self, needing: &mut Needing, agent: &Agent) -> Option<(bool, Found)> {
        let free = self.indexes.resources.agents.get(&agent.id)?.free();
        let team = self.team_of(agent.id).map(|team| team.id);
        let (skip, rules) = (|seq: u64| self.skipped(seq, agent), self.rules());
        let mut next: Option<(Share, bool, &str, Turn)> = None;
        for (shape, ready) in needing.waiting() {
            let matched = agent.has_specialization(&shape.domain);
            let fits = free.covers(shape.amounts)
                && shape.needs().can_go_to(agent)
                && shape.team.is_none_or(|of| team == Some(of));
            let is_held = rules.gate.holds(&shape.queue, &shape.limit_key);
            if !fits || is_held || !self.queue_has_turn(&shape.queue, shape.amounts) {
                continue;
            }
            let served = |submitter: &str| rules.shares.of_submitter(&shape.queue, submitter);
            let Some(turn) = ready.first(&served, &skip) else { continue };
            let is_others = !(agent.role == Role::Specialist && matched);
            let share = self.share_of(self.queue_for(&shape.queue));
            next = Some(match next {
                None => (share, is_others, shape.queue.as_str(), turn),
                Some((least, of_others, queue, best)) => {
                    let order = share.compare(least).then(is_others.cmp(&of_others));
                    if queue == shape.queue && order.is_eq() {
                        (least, of_others, queue, Turn::better(Some(best), turn)?)
                    } else if order.then_with(|| turn.order().cmp(&best.order())).is_lt() {
                        (share, is_others, shape.queue.as_str(), turn)
                    } else {
                        (least, of_others, queue, best)
                    }
                }
            });
        }
        next.map(|(_, is_others, queue, turn)| (is_others, Found::in_queue(queue, turn, rules)))
    }

    /// Returns the first ready task of a shape that an agent can take, and the agent.
    pub(super) fn first_with_room(&self, shape: &Shape) -> Option<(u64, AgentId)> {
        let mut parent = None;
        for (_, seq) in self.indexes.schedule.needing.ready_of(shape) {
            let task = self.state.tasks.kept.get(seq)?;
            if task.has_expired(self.state.now.fleet) || parent.is_some() && task.member_of == parent {
                continue;
            }
            if let Some(agent) = self.best_for(task) {
                return Some((*seq, agent));
            }
            // Only runs of a verified task, a task that its last agent is still stopping, and parts that are kept apart
            // can't go to some agents that others can go to.
            if self.still_stopping(task).next().is_none() && !self.is_only_kept_apart(task) {
                parent = Some(task.member_of?);
            }
        }
        None
    }

    /// Returns whether agents have room for a task that is a part, and all that were found run other parts of the same task.
    fn is_only_kept_apart(&self, task: &Task) -> bool {
        let room = |asked: &TaskResources| self.with_room_besides(task, asked, &[]);
        task.spread_in().is_some() && task.resources.as_ref().is_some_and(|claim| !room(&claim.asked).is_empty())
    }

    /// Grants an agent's next attempt at a task the resources that the task needs, which the agent has free. Returns the
    /// number of the allocation; `None` if the task needs none.
    pub(crate) fn take_room(&mut self, task: &Task, agent: AgentId, attempt: u32) -> Option<u64> {
        let asked = &task.resources.as_ref()?.asked;
        self.state.resources.tokens += 1;
        let (token, at) = (self.state.resources.tokens, self.state.now);
        let request = RequestResources {
            id: self.fresh_allocation(task, attempt),
            holder: Holder::Task(self.known_id(task)),
            queue: self.queue_for(&asked.queue).to_owned(),
            parts: vec![asked.amounts],
            spread: false,
            ttl: MAX_DURATION_MS,
            wait: 0,
            requested_by: String::new(),
        };
        let parts = vec![Part { amounts: asked.amounts, agent: Some(agent) }];
        let state = AllocationState::Granted { token, at, expires: FleetMillis::MAX };
        Some(self.add_allocation(request, parts, state, Some(attempt)))
    }

    /// Returns an id that no allocation has. The first one is rarely taken: by what an earlier task with the same id had,
    /// or by a request that was given this id on purpose.
    fn fresh_allocation(&self, task: &Task, attempt: u32) -> AllocationId {
        let mut id = AllocationId(derived(task.id.0, u64::from(attempt)));
        while self.allocation(id).is_some() {
            id = AllocationId(derived(id.0, u64::from(attempt)));
        }
        id
    }

    /// Ends the allocation of an attempt that has ended, which nobody needs to know any more: the task tells of the
    /// attempt. Does nothing if it has ended with the agent's session.
    pub(crate) fn free_attempt(&mut self, seq: u64) {
        let is_live = self.state.resources.allocations.get(seq).is_some_and(|allocation| !allocation.is_ended());
        if is_live && !planted(Mistake::NeedsNotFreed) {
            self.forget_allocation(seq);
            self.wake_allocations();
        }
    }
}
