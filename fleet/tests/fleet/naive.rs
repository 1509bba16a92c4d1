//! The scheduler's rules in their simplest form, using only the public queries of a fleet, to check the indexed
//! scheduler.

use std::sync::Arc;

use robeing_fleet::{
    Agent, AgentId, AgentState, Amounts, Answer, Demand, Fleet, HeldState, Resource, RetryPolicy, Role, ScoreTerms,
    SubmitTask, Task, TaskId, TaskResources, TeamId, Timing, Verification,
};

/// The properties of a task that matter for choosing.
pub struct Wanted<'a> {
    pub role: Option<Role>,
    pub skill: Option<&'a str>,
    pub kind: &'a str,
    pub team: Option<TeamId>,
    pub resources: Option<&'a TaskResources>,
    /// The task's id, if its attempts are watched for progress.
    pub watched: Option<TaskId>,
    pub slots: u32,
    pub skills: &'a [String],
    /// Whether its input is in the object store.
    pub is_stored: bool,
}

/// Returns a submission as it is accepted: with what its kind says and it does not.
pub fn filled(fleet: &Fleet, submission: &SubmitTask) -> SubmitTask {
    let kinds = fleet.task_kinds().map(|list| list.kinds.clone()).unwrap_or_default();
    let Some(kind) = kinds.into_iter().find(|kind| kind.name == submission.kind) else { return submission.clone() };
    let asked = submission.demand.as_deref().cloned().unwrap_or_default();
    let (mut skill, mut skills) = (submission.required_specialization.clone(), asked.skills);
    if skill.is_none() {
        let mut all = kind.skills.into_iter();
        skill = all.next();
        skills = all.collect();
    }
    let slots = if asked.slots == 0 { kind.slots } else { asked.slots };
    let fleets = fleet.config().retry;
    let retry = RetryPolicy {
        max_attempts: kind.retry.max_attempts.unwrap_or(fleets.max_attempts),
        initial_backoff: kind.retry.initial_backoff.unwrap_or(fleets.initial_backoff),
        max_backoff: kind.retry.max_backoff.unwrap_or(fleets.max_backoff),
        multiplier_percent: kind.retry.multiplier_percent.unwrap_or(fleets.multiplier_percent),
    };
    let own_queue = submission.lane.as_ref().map(|lane| lane.queue.clone()).filter(|queue| !queue.is_empty());
    let of_kind = kind.resources.map(|of_kind| {
        let TaskResources { amounts, queue } = *of_kind;
        Box::new(TaskResources { amounts, queue: own_queue.unwrap_or(queue) })
    });
    let own = submission.timing.as_deref().cloned().unwrap_or_default();
    let progress_timeout = own.progress_timeout.or(kind.timing.and_then(|timing| timing.progress_timeout));
    SubmitTask {
        timing: Some(Box::new(Timing { progress_timeout, ..own })),
        required_role: submission.required_role.or(kind.role),
        required_specialization: skill,
        demand: Some(Box::new(Demand { slots, skills, store: false })),
        resources: submission.resources.clone().or(of_kind),
        deadline_in: submission.deadline_in.or(kind.deadline_in),
        attempt_timeout: submission.attempt_timeout.or(kind.attempt_timeout),
        retry: submission.retry.or(Some(retry)),
        ..submission.clone()
    }
}

impl<'a> Wanted<'a> {
    pub fn by_submission(s: &'a SubmitTask) -> Wanted<'a> {
        let skill = s.required_specialization.as_deref();
        let resources = s.resources.as_deref();
        let watched = s.timing.as_ref().and_then(|timing| timing.progress_timeout).map(|_| s.id);
        let slots = s.demand.as_ref().map_or(1, |demand| demand.slots.max(1));
        let skills = s.demand.as_ref().map_or(&[][..], |demand| &demand.skills);
        let is_stored = s.input_ref.is_some();
        Wanted {
            role: s.required_role,
            skill,
            kind: &s.kind,
            team: s.team,
            resources,
            watched,
            slots,
            skills,
            is_stored,
        }
    }

    pub fn by(task: &'a Task) -> Wanted<'a> {
        let skill = task.required_specialization.as_deref();
        let resources = task.resources.as_ref().map(|claim| &claim.asked);
        let watched = task.progress_timeout().map(|_| task.id);
        let (role, slots, skills) = (task.required_role, task.slots(), task.skills());
        // A run of a verified task has no input itself.
        let is_stored = task.demand.as_ref().is_some_and(|demand| demand.store);
        Wanted { role, skill, kind: &task.kind, team: task.team, resources, watched, slots, skills, is_stored }
    }

    pub fn matches(&self, agent: &Agent) -> bool {
        let domain = self.skill.unwrap_or(self.kind);
        agent.specializations.iter().any(|s| s.as_ref() == domain)
    }

    pub fn fits(&self, fleet: &Fleet, agent: &Agent) -> bool {
        let teams = fleet.teams(None, usize::MAX, true);
        let is_member = |team| teams.iter().any(|known| known.id == team && known.member(agent.id).is_some());
        if !self.team.is_none_or(is_member) || !self.resources.is_none_or(|asked| has_room(fleet, agent, asked)) {
            return false;
        }
        if self.skill.is_some() && !self.matches(agent) || self.is_stored && agent.lacks_store {
            return false;
        }
        // It has not stopped an earlier attempt at it.
        let mut held = agent.held();
        if held.any(|held| Some(held.task) == self.watched && held.state == HeldState::Stopping) {
            return false;
        }
        if !self.skills.iter().all(|skill| agent.specializations.iter().any(|s| s.as_ref() == skill)) {
            return false;
        }
        match (self.role, agent.role) {
            (Some(required), role) => required == role,
            (None, Role::Worker | Role::Specialist) => true,
            (None, Role::Messenger | Role::Guardian) => self.matches(agent),
        }
    }
}

/// Returns whether the agent has this free and the queue's quota allows it.
fn has_room(fleet: &Fleet, agent: &Agent, asked: &TaskResources) -> bool {
    let free = fleet.contribution(agent.id).map(|found| found.contributed.minus(found.used));
    let queues = fleet.resource_queues();
    // One that is not set any more counts as the other one; the histories set no quota for that.
    let queue = queues.iter().find(|queue| queue.name == asked.queue);
    let used = queue.map_or(Amounts::NONE, |queue| queue.used).plus(asked.amounts);
    let most = |resource: Resource| queue.and_then(|queue| queue.quota.get(resource));
    let within = |resource: Resource| most(resource).is_none_or(|most| used.get(resource) <= most);
    free.is_some_and(|free| free.covers(asked.amounts)) && Resource::ALL.into_iter().all(within)
}

fn terms(fleet: &Fleet, agent: &Agent, kind: &str, matched: bool) -> ScoreTerms {
    let weights = fleet.config().weights;
    let used = u64::from(agent.used_slots());
    let load = (used * 1000 / u64::from(agent.slots.max(1))) as i64;
    let performance = |success: u32, speed: u32| (u64::from(success) * 7 + u64::from(speed) * 3) / 10_000;
    let of_all = performance(agent.record.success, agent.record.speed);
    let own = agent.kinds.iter().find(|record| &*record.kind == kind);
    let own = own.map(|record| performance(record.success, record.speed)).filter(|own| own.abs_diff(of_all) >= 50);
    let performance = own.unwrap_or(of_all);
    let specialization = i64::from(weights.specialization) * 1000 * i64::from(matched);
    let load = i64::from(weights.load) * load;
    let performance = i64::from(weights.performance) * performance as i64;
    ScoreTerms { specialization, load, performance, total: specialization + load + performance }
}

/// Returns the agent that should get such a task now, its score, and the number of candidates.
pub fn best(fleet: &Fleet, wanted: &Wanted<'_>) -> Option<(AgentId, ScoreTerms, u32)> {
    let free = |a: &&Arc<Agent>| a.state == AgentState::Live && a.used_slots() + wanted.slots <= a.slots;
    let candidates: Vec<&Arc<Agent>> = fleet.agents().filter(free).filter(|a| wanted.fits(fleet, a)).collect();
    let mut ranked: Vec<_> = candidates
        .iter()
        .map(|agent| {
            let matched = wanted.matches(agent);
            let terms = terms(fleet, agent, wanted.kind, matched);
            let load = u64::from(agent.used_slots()) * 1000 / u64::from(agent.slots);
            let order = (-terms.total, !matched, agent.role, load, agent.id);
            (order, agent.id, terms)
        })
        .collect();
    ranked.sort_by_key(|(order, ..)| *order);
    let (_, id, terms) = ranked.into_iter().next()?;
    Some((id, terms, candidates.len() as u32))
}

/// Returns the attempts with the first two outputs of which it is not known whether they are equal.
pub fn next_pair(verification: &Verification) -> Option<(u32, u32)> {
    verification.asked.compare.as_ref()?;
    let verdict = |pair: (u32, u32)| {
        let found = verification.comparisons.iter().find(|found| (found.one, found.other) == pair);
        found.map(|found| found.equal)
    };
    let (mut seen, mut different): (Vec<[u8; 32]>, Vec<&Answer>) = (Vec::new(), Vec::new());
    for answer in &verification.answers {
        if seen.contains(&answer.digest) {
            continue;
        }
        seen.push(answer.digest);
        let mut is_new = true;
        for first in &different {
            match verdict((first.attempt, answer.attempt)) {
                None => return Some((first.attempt, answer.attempt)),
                Some(false) => {}
                Some(true) => {
                    is_new = false;
                    break;
                }
            }
        }
        if is_new {
            different.push(answer);
        }
    }
    None
}

/// Returns the names of the agents that have, or have had, a member of the task whose result this one verifies; and of
/// those that gave what it compares.
pub fn had_turns(fleet: &Fleet, task: &Task) -> Vec<Arc<str>> {
    let Some(parent) = task.member_of else { return Vec::new() };
    let parent = fleet.changed_tasks_since(0).find(|t| t.seq == parent).expect("a member has a task");
    let verification = parent.verification.as_ref().expect("a member verifies its result");
    if verification.comparing == Some(task.seq) {
        let (one, other) = next_pair(verification).expect("it compares something");
        let digest_of = |number: u32| {
            let answer = verification.answers.iter().find(|answer| answer.attempt == number);
            answer.expect("its output is kept").digest
        };
        let compared = [one, other].map(digest_of);
        let gave = |number: u32| compared.contains(&digest_of(number));
        let answered = verification.answers.iter().map(|answer| answer.attempt).filter(|number| gave(*number));
        let numbers: Vec<u32> = answered.collect();
        let said = parent.attempts.iter().filter(|attempt| numbers.contains(&attempt.number));
        return said.map(|attempt| attempt.agent_name.clone()).collect();
    }
    let of_parent = |t: &&Arc<Task>| verification.members.contains(&t.seq) && t.seq != task.seq;
    let others = fleet.changed_tasks_since(0).filter(of_parent);
    let mut agents: Vec<Arc<str>> = others.filter_map(|t| Some(t.current()?.agent_name.clone())).collect();
    agents.extend(parent.attempts.iter().map(|attempt| attempt.agent_name.clone()));
    agents
}

fn may_take(fleet: &Fleet, task: &Task, agent: &Agent) -> bool {
    Wanted::by(task).fits(fleet, agent) && !had_turns(fleet, task).contains(&agent.name)
}

/// Returns the place of a task among those of its submitter.
pub fn rank(task: &Task) -> (u64, u64) {
    let above = 10 - u64::from(task.priority);
    let began = task.revival.as_ref().map_or(task.submitted_at, |revival| revival.at);
    let order = match task.lane.as_ref().map_or(0, |lane| lane.aging) {
        0 => above,
        aging => began.fleet + above * aging,
    };
    (order, task.seq)
}

/// Returns the queued task that this agent should take next once it has so many more slots free, of those that need no
/// resources. `is_held` tells that a limit holds a task back.
pub fn next(fleet: &Fleet, agent: &Agent, freed: u32, is_held: impl Fn(&Task) -> bool) -> Option<TaskId> {
    let has_room = |t: &Task| agent.used_slots() + t.slots() <= agent.slots + freed && !is_held(t);
    let fits = |t: &&Arc<Task>| t.is_ready() && t.resources.is_none() && has_room(t) && may_take(fleet, t, agent);
    let mut queued: Vec<&Task> = fleet.changed_tasks_since(0).filter(fits).map(Arc::as_ref).collect();
    queued.sort_by_key(|t| {
        let domain = agent.role == Role::Specialist && Wanted::by(t).matches(agent);
        let served = fleet.served(t);
        (!domain, served.queue, t.queue().to_owned(), served.submitter, rank(t))
    });
    queued.first().map(|t| t.id)
}
