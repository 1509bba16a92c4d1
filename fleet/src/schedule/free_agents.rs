//! Which agent takes a task: the agents with a free slot, in sets per role and per role and specialization, ordered by
//! score. However many agents there are, the best one is the first of one of a few sets.
//!
//! The part of a score that depends on the task is a single bonus for a match, but for the tasks of kinds for which some
//! agents have another performance than for everything: these agents are in sets of these kinds, too. The bonus is never
//! negative, so the best matching agent is the first of its specialization's set, and the best other agent, if it can win at
//! all, is the first of its role's set.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    Agent, AgentId, Role, Weights,
    sabotage::{Mistake, planted},
    schedule::score::{match_bonus, score_by},
};

/// All agents, by number.
pub(crate) type Known = BTreeMap<AgentId, Arc<Agent>>;

/// What a task requires of an agent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs<'a> {
    /// The required role.
    pub role: Option<Role>,
    /// Whether `domain` must be one of the agent's specializations.
    pub specialization_required: bool,
    /// The task's domain, which is matched with specializations: the required specialization, else the kind.
    pub domain: &'a str,
    /// The task's kind, for which agents may have records of their own.
    pub kind: &'a str,
    /// The number of slots that an attempt takes.
    pub slots: u32,
    /// The specializations that the agent must have besides `domain`.
    pub skills: &'a [String],
    /// Whether the agent must have an object store.
    pub store: bool,
}

impl Needs<'_> {
    /// Returns whether an agent of this role may take the task. `matched` states whether the task's domain is one of
    /// the agent's specializations.
    pub(crate) fn fit(&self, role: Role, matched: bool) -> bool {
        if self.specialization_required && !matched {
            return false;
        }
        match self.role {
            Some(required) => required == role,
            None if planted(Mistake::RoleIgnored) => true,
            None => matched || matches!(role, Role::Worker | Role::Specialist),
        }
    }

    /// Returns whether an agent has the role and all specializations that are required, whatever it runs now.
    pub(crate) fn suit(&self, agent: &Agent) -> bool {
        self.fit(agent.role, agent.has_specialization(self.domain))
            && self.skills.iter().all(|skill| agent.has_specialization(skill))
    }

    /// Returns whether an agent can fetch the task's input. One that has not said whether it has an object store may have
    /// one.
    pub(crate) fn can_fetch(&self, agent: &Agent) -> bool {
        !(self.store && agent.lacks_store)
    }

    /// Returns whether an agent may take the task now as far as its role, specializations, slots and object store are
    /// concerned.
    pub(crate) fn can_go_to(&self, agent: &Agent) -> bool {
        agent.free_slots() >= self.slots.max(1) && self.suit(agent) && self.can_fetch(agent)
    }

    /// Returns whether the task takes several slots or skills, or an object store.
    pub(crate) fn is_demanding(&self) -> bool {
        self.slots > 1 || !self.skills.is_empty() || self.store
    }
}

pub(crate) const ROLES: [Role; 4] = [Role::Worker, Role::Specialist, Role::Messenger, Role::Guardian];

/// An agent's place in a set: score without the match bonus (best first), load per thousand, number.
pub(super) type Rank = (Reverse<i64>, u32, AgentId);

pub(super) type ByRole = [BTreeSet<Rank>; 4];

/// The agents with a free slot.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct FreeAgents {
    pub(super) any: ByRole,
    pub(super) specialized: BTreeMap<Arc<str>, ByRole>,
    /// By kind, the agents with another performance for it than for everything, ranked by that: those without the kind as a
    /// specialization, and those with it.
    pub(super) kinds: BTreeMap<Arc<str>, [ByRole; 2]>,
    #[cfg(test)]
    pub steps: StepCount,
}

/// Number of set operations so far, for the test that bounds it; ignored in comparisons.
#[cfg(test)]
#[derive(Debug, Default)]
pub(crate) struct StepCount(pub std::sync::atomic::AtomicU64);

#[cfg(test)]
impl Clone for StepCount {
    fn clone(&self) -> Self {
        Self::default()
    }
}

#[cfg(test)]
impl PartialEq for StepCount {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

fn rank(agent: &Agent, performance: u32, weights: &Weights) -> Rank {
    let base = score_by(weights, agent, performance, false).total;
    (Reverse(base), agent.load(), agent.id)
}

impl FreeAgents {
    #[cfg(test)]
    pub(super) fn step(&self) {
        self.steps.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }

    #[cfg(not(test))]
    pub(super) fn step(&self) {}

    /// Adds `agent` if it has a free slot. Its load and records must not change until it is removed.
    pub(crate) fn insert(&mut self, agent: &Agent, weights: &Weights) {
        if agent.free_slots() == 0 {
            return;
        }
        self.insert_by_kind(agent, weights);
        let rank = rank(agent, agent.record.performance(), weights);
        self.step();
        self.any[agent.role as usize].insert(rank);
        for name in &agent.specializations {
            self.step();
            let sets = match self.specialized.get_mut(name.as_ref()) {
                Some(sets) => sets,
                None => self.specialized.entry(name.clone()).or_default(),
            };
            sets[agent.role as usize].insert(rank);
        }
    }

    fn insert_by_kind(&mut self, agent: &Agent, weights: &Weights) {
        for (kind, performance) in agent.deviating() {
            self.step();
            let (rank, matched) = (rank(agent, performance, weights), agent.has_specialization(kind));
            let sets = match self.kinds.get_mut(kind.as_ref()) {
                Some(sets) => sets,
                None => self.kinds.entry(Arc::clone(kind)).or_default(),
            };
            sets[usize::from(matched)][agent.role as usize].insert(rank);
        }
    }

    fn remove_by_kind(&mut self, agent: &Agent, weights: &Weights) {
        for (kind, performance) in agent.deviating() {
            self.step();
            let (rank, matched) = (rank(agent, performance, weights), agent.has_specialization(kind));
            let Some(sets) = self.kinds.get_mut(kind.as_ref()) else { continue };
            sets[usize::from(matched)][agent.role as usize].remove(&rank);
            if sets.iter().flatten().all(BTreeSet::is_empty) {
                self.kinds.remove(kind.as_ref());
            }
        }
    }

    /// Removes `agent`, which must not have changed since it was inserted.
    pub(crate) fn remove(&mut self, agent: &Agent, weights: &Weights) {
        if agent.free_slots() == 0 {
            return;
        }
        self.remove_by_kind(agent, weights);
        let rank = rank(agent, agent.record.performance(), weights);
        self.step();
        self.any[agent.role as usize].remove(&rank);
        for name in &agent.specializations {
            self.step();
            let Some(sets) = self.specialized.get_mut(name.as_ref()) else {
                continue;
            };
            sets[agent.role as usize].remove(&rank);
            if sets.iter().all(BTreeSet::is_empty) {
                self.specialized.remove(name.as_ref());
            }
        }
    }

    /// Removes one arbitrary entry. Returns whether there was one.
    pub(crate) fn discard_one(&mut self) -> bool {
        let mut named = self.specialized.first_entry();
        let of_name = named.as_mut().and_then(|sets| sets.get_mut().iter_mut().find_map(BTreeSet::pop_first));
        match (of_name, named) {
            (Some(_), _) => true,
            (None, Some(empty)) => {
                empty.remove();
                true
            }
            (None, None) => self.any.iter_mut().any(|set| set.pop_first().is_some()) || self.discard_one_by_kind(),
        }
    }

    fn discard_one_by_kind(&mut self) -> bool {
        let Some(mut sets) = self.kinds.first_entry() else { return false };
        if sets.get_mut().iter_mut().flatten().find_map(BTreeSet::pop_first).is_none() {
            sets.remove();
        }
        true
    }

    /// Returns the agent with the best score. Of equal scores: a matching agent, then the first role of worker,
    /// specialist, messenger and guardian, then the lowest load, then the lowest number.
    ///
    /// None of the `excluded` agents is taken, which must be few. For a task that takes several slots or skills or an object
    /// store, and for one of a kind for which agents have records of their own, only so many agents are looked at, of which
    /// it is the best.
    pub(crate) fn best(
        &self,
        needs: Needs<'_>,
        excluded: &[AgentId],
        agents: &Known,
        weights: &Weights,
    ) -> Option<AgentId> {
        if needs.is_demanding() {
            return self.best_of_many(needs, excluded, agents, weights);
        }
        if let Some(of_kind) = self.kinds.get(needs.kind) {
            return self.best_of_kind(of_kind, needs, excluded, agents, weights);
        }
        let mut best = None;
        let mut consider = |role: Role, matched: bool, bonus: i64, set: &BTreeSet<Rank>| {
            self.step();
            let first = match excluded {
                [] => set.first(),
                excluded => set.iter().find(|(.., id)| !excluded.contains(id)),
            };
            let Some(&(Reverse(base), load, id)) = first else { return };
            let rank = (Reverse(base + bonus), !matched, role, load, id);
            if best.is_none_or(|best| rank < best) {
                best = Some(rank);
            }
        };
        let matching = self.specialized.get(needs.domain);
        for role in ROLES {
            if let Some(sets) = matching
                && needs.fit(role, true)
            {
                consider(role, true, match_bonus(weights), &sets[role as usize]);
            }
            if needs.fit(role, false) {
                consider(role, false, 0, &self.any[role as usize]);
            }
        }
        best.map(|(.., id)| id)
    }

    /// Returns whether an agent has a free slot.
    pub(crate) fn is_any_free(&self) -> bool {
        self.any.iter().any(|set| !set.is_empty())
    }

    /// Returns the roles of agents with a free slot.
    pub(crate) fn roles(&self) -> impl Iterator<Item = Role> {
        ROLES.into_iter().filter(|role| !self.any[*role as usize].is_empty())
    }

    /// Returns the roles of agents with a free slot that have this specialization, with its name.
    pub(crate) fn matches<'a>(&'a self, domain: &str) -> impl Iterator<Item = (&'a str, Role)> + use<'a> {
        self.specialized.get_key_value(domain).into_iter().flat_map(|(name, sets)| {
            let roles = ROLES.into_iter().filter(move |role| !sets[*role as usize].is_empty());
            roles.map(move |role| (&**name, role))
        })
    }

    /// Returns how many agents with enough free slots fit. For a task that takes several slots or skills or an object store,
    /// only so many are looked at.
    pub(crate) fn count(&self, needs: Needs<'_>, agents: &Known) -> u32 {
        if needs.is_demanding() {
            return self.count_many(needs, agents);
        }
        let matching = self.specialized.get(needs.domain);
        let mut count = 0;
        for role in ROLES {
            // A matching agent is also in its role's set, and is counted there if that set counts at all.
            if needs.fit(role, false) {
                count += self.any[role as usize].len() as u32;
            } else if let Some(sets) = matching
                && needs.fit(role, true)
            {
                count += sets[role as usize].len() as u32;
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use crate::{AgentCommand, AgentJoin, Command, Fleet, FleetConfig, Role, Stamp, SubmitTask, TaskCommand, TaskId};

    fn join(n: u32) -> Command {
        let role = if n.is_multiple_of(2) { Role::Worker } else { Role::Specialist };
        let specializations = vec![format!("kind-{}", n % 7)];
        Command::Agent(AgentCommand::Joined(AgentJoin {
            role,
            specializations,
            ..AgentJoin::worker(format!("agent-{n}"), 4)
        }))
    }

    fn submit(n: u32) -> Command {
        Command::Task(TaskCommand::Submit(SubmitTask::new(
            TaskId(u128::from(n)),
            format!("kind-{}", n % 11),
            Bytes::new(),
        )))
    }

    #[test]
    fn choosing_among_ten_thousand_agents_takes_as_many_steps_as_among_ten() {
        const TASKS: u32 = 20_000;
        let mut effects = Vec::new();
        let mut fleet = Fleet::new(FleetConfig::default());
        for n in 0..10_000 {
            fleet.apply(Stamp::at(1), join(n), &mut effects);
        }
        let steps = |fleet: &Fleet| fleet.indexes.schedule.free.steps.0.load(std::sync::atomic::Ordering::Relaxed);
        let before = steps(&fleet);
        for n in 0..TASKS {
            fleet.apply(Stamp::at(1), submit(n), &mut effects);
        }
        assert_eq!(fleet.counts().assigned, TASKS);
        // Six sets to examine; two removals and two insertions for the chosen agent.
        let each = 6 + 2 + 2;
        assert!(steps(&fleet) - before <= u64::from(TASKS) * each);
    }
}
