//! The scheduler's rules in their simplest form, using only the public queries of a fleet, to check the indexed
//! scheduler.

use std::sync::Arc;

use robeing_fleet::{
    Agent, AgentId, AgentState, Amounts, Answer, Fleet, Resource, Role, ScoreTerms, SubmitTask, Task, TaskId,
    TaskResources, TeamId, Verification,
};

/// The properties of a task that matter for choosing.
pub struct Wanted<'a> {
    pub role: Option<Role>,
    pub skill: Option<&'a str>,
    pub kind: &'a str,
    pub team: Option<TeamId>,
    pub resources: Option<&'a TaskResources>,
}

impl<'a> Wanted<'a> {
    pub fn by_submission(s: &'a SubmitTask) -> Wanted<'a> {
        let skill = s.required_specialization.as_deref();
        let resources = s.resources.as_deref();
        Wanted { role: s.required_role, skill, kind: &s.kind, team: s.team, resources }
    }

    pub fn by(task: &'a Task) -> Wanted<'a> {
        let skill = task.required_specialization.as_deref();
        let resources = task.resources.as_ref().map(|claim| &claim.asked);
        Wanted { role: task.required_role, skill, kind: &task.kind, team: task.team, resources }
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
        if self.skill.is_some() && !self.matches(agent) {
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

fn terms(fleet: &Fleet, agent: &Agent, matched: bool) -> ScoreTerms {
    let weights = fleet.config().weights;
    let used = u64::from(agent.used_slots());
    let load = (used * 1000 / u64::from(agent.slots.max(1))) as i64;
    let record = agent.record;
    let performance = (u64::from(record.success) * 7 + u64::from(record.speed) * 3) / 10_000;
    let specialization = i64::from(weights.specialization) * 1000 * i64::from(matched);
    let load = i64::from(weights.load) * load;
    let performance = i64::from(weights.performance) * performance as i64;
    ScoreTerms { specialization, load, performance, total: specialization + load + performance }
}

/// Returns the agent that should get such a task now, its score, and the number of candidates.
pub fn best(fleet: &Fleet, wanted: &Wanted<'_>) -> Option<(AgentId, ScoreTerms, u32)> {
    let free = |a: &&Arc<Agent>| a.state == AgentState::Live && a.used_slots() < a.slots;
    let candidates: Vec<&Arc<Agent>> = fleet.agents().filter(free).filter(|a| wanted.fits(fleet, a)).collect();
    let mut ranked: Vec<_> = candidates
        .iter()
        .map(|agent| {
            let matched = wanted.matches(agent);
            let terms = terms(fleet, agent, matched);
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

/// Returns the queued task that this agent should take next, of those that need no resources.
pub fn next(fleet: &Fleet, agent: &Agent) -> Option<TaskId> {
    let fits = |t: &&Arc<Task>| t.is_ready() && t.resources.is_none() && may_take(fleet, t, agent);
    let mut queued: Vec<&Task> = fleet.changed_tasks_since(0).filter(fits).map(Arc::as_ref).collect();
    queued.sort_by_key(|t| {
        let domain = agent.role == Role::Specialist && Wanted::by(t).matches(agent);
        (!domain, 10 - t.priority, t.seq)
    });
    queued.first().map(|t| t.id)
}
