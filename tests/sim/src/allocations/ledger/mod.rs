//! What is known of every allocation of a run, and the checks of what clients are told and of what the state has after
//! each log entry: that no agent gives more than it contributes and no queue more than its quota, that later grants
//! have higher fencing tokens and each request has one, and that an allocation ends only for a reason, and not before
//! its lease.

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use robeing_proto::v1::{self, AllocationState, ListResourcesResponse};

use super::draft::{Draft, LIMITED};
use crate::{
    checks::{Check, Wrong},
    hosts::{CPU, MEMORY},
    record::ROUNDING,
    state::{Amounts, Granted, amounts, covers, plus, task_of},
};

/// How far an allocation is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
enum Stage {
    #[default]
    Waiting,
    Granted,
    Ended,
}

/// What clients knew of an allocation when a call began. Its response must not know less.
#[derive(Clone, Copy, Default)]
pub struct Since(Stage);

/// A request that a client has made.
struct Known {
    draft: Draft,
    /// When it was made first.
    at: Duration,
    /// The highest token that a client had been told of then.
    before: u64,
    /// Whether a client was told that it waits or is granted.
    is_acknowledged: bool,
    /// Whether a client has asked to release it.
    may_end: bool,
    stage: Stage,
    /// Its fencing token; 0: it is not known to have been granted.
    token: u64,
    /// The agents that give its parts.
    agents: Vec<String>,
    /// From when on, at the earliest, its lease counts: when its grant was stamped, or the newest renewal was sent that
    /// is acknowledged; before its grant, when it was asked for.
    held_from: Duration,
    /// When it was first seen that it is not granted any more.
    freed_at: Option<Duration>,
    ended: Option<AllocationState>,
}

/// The allocations of a run.
#[derive(Default)]
pub struct AllocationLedger {
    allocations: BTreeMap<String, Known>,
    /// The allocations by their tokens, also those of attempts.
    tokens: BTreeMap<u64, String>,
    /// What is granted after the newest log entry.
    granted: BTreeSet<String>,
    /// The quota of the queue [`LIMITED`], once a client is about to set it.
    quota: Option<Amounts>,
    /// Whether a client was told that it is set.
    has_quota: bool,
    /// When a session of each agent ended last.
    left: BTreeMap<String, Duration>,
    /// The number of renewals.
    renewals: usize,
}

fn stage(told: &v1::Allocation) -> Stage {
    match told.state() {
        AllocationState::Unspecified | AllocationState::Waiting => Stage::Waiting,
        AllocationState::Granted => Stage::Granted,
        _ => Stage::Ended,
    }
}

impl Known {
    /// Returns whether its lease lasts now. Whatever clocks do, fleet time is at most 5 % fast.
    fn is_leased(&self, now: Duration) -> bool {
        now + ROUNDING < self.held_from + self.draft.lease.mul_f64(0.95)
    }

    /// Returns whether a session of one of these agents has ended since it was asked for.
    fn is_left<'a>(&self, left: &BTreeMap<String, Duration>, mut by: impl Iterator<Item = &'a str>) -> bool {
        by.any(|agent| left.get(agent).is_some_and(|at| *at >= self.at))
    }

    /// Records what is granted for it. Returns whether that was not known.
    fn is_granted(&mut self, granted: &Granted) -> Result<bool, Wrong> {
        let (agents, spread) = (granted.agents(), self.draft.spread);
        let different: BTreeSet<&String> = agents.iter().collect();
        let is_spread = !spread || different.len() == agents.len();
        if agents.iter().any(String::is_empty) || !is_spread {
            return Err((Check::Granted, format!("has parts of {agents:?}, spread: {spread}")));
        }
        if self.token == 0 {
            if granted.token <= self.before {
                let before = self.before;
                return Err((Check::Fenced, format!("has token {}, but {before} was granted before", granted.token)));
            }
            (self.token, self.agents) = (granted.token, agents);
            return Ok(true);
        }
        match (self.token, &self.agents) == (granted.token, &agents) {
            true => Ok(false),
            false => Err((
                Check::Granted,
                format!("was granted with token {} from {:?}, and again: {granted:?}", self.token, self.agents),
            )),
        }
    }

    fn has_ended(
        &mut self,
        now: Duration,
        left: &BTreeMap<String, Duration>,
        told: &v1::Allocation,
    ) -> Result<(), Wrong> {
        let state = told.state();
        if let Some(known) = self.ended.filter(|known| *known != state) {
            return Err((Check::Leased, format!("was {known:?} and is {state:?}")));
        }
        if self.ended.is_some() {
            return Ok(());
        }
        self.ended = Some(state);
        let holder = self.draft.holding_agent();
        let is_right = match state {
            AllocationState::Released => self.may_end,
            AllocationState::Expired => self.token > 0 && !self.is_leased(self.freed_at.unwrap_or(now)),
            AllocationState::HolderGone => self.is_left(left, holder.into_iter()),
            AllocationState::AgentLost => {
                // An agent that has left for good has no name any more.
                let names =
                    told.parts.iter().map(|part| part.agent.as_str()).chain(self.agents.iter().map(String::as_str));
                let mut named = names.filter(|name| !name.is_empty()).peekable();
                match named.peek() {
                    Some(_) => self.is_left(left, named),
                    None => left.values().any(|at| *at >= self.at),
                }
            }
            AllocationState::NotGranted => {
                let waits = !self.draft.wait.is_zero() && self.token == 0;
                waits && now + ROUNDING >= self.at + self.draft.wait.mul_f64(0.95)
            }
            AllocationState::Unspecified | AllocationState::Waiting | AllocationState::Granted => false,
        };
        match is_right {
            true => Ok(()),
            false => Err((
                Check::Leased,
                format!(
                    "is {state:?} by {:?}, without a reason; asked for at {:?} and held from {:?} as {:?}, of {:?}",
                    self.freed_at.unwrap_or(now),
                    self.at,
                    self.held_from,
                    self.draft,
                    self.agents
                ),
            )),
        }
    }
}

impl AllocationLedger {
    fn newest_token(&self) -> u64 {
        self.tokens.last_key_value().map_or(0, |(token, _)| *token)
    }

    /// Records that a client sets this quota of the queue [`LIMITED`], which stays.
    pub fn limits(&mut self, quota: Amounts) {
        self.quota = Some(quota);
    }

    /// Records that a client was told that the quota is set.
    pub fn is_limited(&mut self) {
        self.has_quota = true;
    }

    /// Returns whether a client was told that the quota is set: before, nobody can ask for anything from the queue.
    pub fn has_quota(&self) -> bool {
        self.has_quota
    }

    /// Records that a client asks for resources for the first time.
    pub fn asks(&mut self, now: Duration, id: &str, draft: Draft) {
        let known = Known {
            draft,
            at: now,
            before: self.newest_token(),
            is_acknowledged: false,
            may_end: false,
            stage: Stage::Waiting,
            token: 0,
            agents: Vec::new(),
            held_from: now,
            freed_at: None,
            ended: None,
        };
        self.allocations.insert(id.to_owned(), known);
    }

    /// Records that a client was told that its request waits or is granted: from now on it exists.
    pub fn acknowledges(&mut self, id: &str) {
        if let Some(known) = self.allocations.get_mut(id) {
            known.is_acknowledged = true;
        }
    }

    /// Records that a client asks to release an allocation: it may be released at any time from now on.
    pub fn releases(&mut self, id: &str) {
        if let Some(known) = self.allocations.get_mut(id) {
            known.may_end = true;
        }
    }

    /// Records that a session of an agent has ended.
    pub fn leaves(&mut self, agent: &str, now: Duration) {
        self.left.insert(agent.to_owned(), now);
    }

    /// Records that a lease was renewed by a call that began at `sent`.
    pub fn renews(&mut self, id: &str, sent: Duration) {
        self.renewals += 1;
        if let Some(known) = self.allocations.get_mut(id) {
            known.held_from = known.held_from.max(sent);
        }
    }

    /// Records that a renewal with the right token was refused: the allocation must be over.
    ///
    /// # Errors
    /// If it can't be.
    pub fn is_over(&self, now: Duration, id: &str) -> Result<(), Wrong> {
        let Some(known) = self.allocations.get(id) else { return Ok(()) };
        let agents = known.agents.iter().map(String::as_str).chain(known.draft.holding_agent());
        if known.may_end || !known.is_leased(now) || known.is_left(&self.left, agents) {
            return Ok(());
        }
        let what = format!("allocation {id} is held from {:?} on, but its renewal was refused", known.held_from);
        Err((Check::Leased, what))
    }

    /// Returns what clients know of an allocation now.
    pub fn since(&self, id: &str) -> Since {
        self.allocations.get(id).map(|known| Since(known.stage)).unwrap_or_default()
    }

    /// Returns the ids of the requests that were acknowledged, with what clients know of each now.
    pub fn acknowledged(&self) -> BTreeMap<String, Since> {
        let known = self.allocations.iter().filter(|(_, known)| known.is_acknowledged);
        known.map(|(id, known)| (id.clone(), Since(known.stage))).collect()
    }

    /// Records an allocation in a response to a call.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn told(&mut self, now: Duration, since: Since, told: &v1::Allocation) -> Result<(), Wrong> {
        let id = &told.id;
        let in_words = |(check, what): Wrong| (check, format!("allocation {id} {what}"));
        let Some(known) = self.allocations.get_mut(id) else {
            return Err((Check::Granted, format!("there is an allocation {id:?}, for which nobody asked: {told:?}")));
        };
        if !known.draft.is_that(told) {
            return Err(in_words((Check::Granted, format!("is {told:?}, but {:?} was asked for", known.draft))));
        }
        let stage = stage(told);
        if stage < since.0 {
            return Err(in_words((Check::Leased, format!("was {:?} and is {stage:?}", since.0))));
        }
        known.stage = known.stage.max(stage);
        match stage {
            Stage::Waiting => return Ok(()),
            Stage::Granted => {
                known.is_granted(&Granted::told(told)).map_err(in_words)?;
            }
            Stage::Ended => return known.has_ended(now, &self.left, told).map_err(in_words),
        }
        let owner = &*self.tokens.entry(told.token).or_insert_with(|| id.clone());
        if owner != id {
            return Err((Check::Fenced, format!("allocation {id} has token {}, as has {owner}", told.token)));
        }
        Ok(())
    }

    /// Records a listing of allocations as they were at one moment. `known`: those that a client knew to exist before,
    /// of which none may be missing in a listing of `all`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn listed(
        &mut self,
        now: Duration,
        known: &BTreeMap<String, Since>,
        all: bool,
        listed: &[v1::Allocation],
    ) -> Result<(), Wrong> {
        // Those of attempts are known by their tasks.
        for allocation in listed.iter().filter(|allocation| task_of(&allocation.holder).is_none()) {
            self.told(now, known.get(&allocation.id).copied().unwrap_or_default(), allocation)?;
        }
        let granted = listed.iter().filter(|allocation| stage(allocation) == Stage::Granted).map(Granted::told);
        self.check_sums(&granted.collect::<Vec<_>>())?;
        let mut expected = known.keys().filter(|_| all);
        match expected.find(|id| listed.iter().all(|allocation| allocation.id != **id)) {
            Some(missing) => Err((Check::Granted, format!("allocation {missing} was asked for, but is not listed"))),
            None => Ok(()),
        }
    }

    /// Records what is granted after a log entry that was stamped at `at`, whoever holds it. Entries come in their
    /// order.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn applied(&mut self, now: Duration, at: Duration, granted: &[Granted]) -> Result<(), Wrong> {
        let newest = self.newest_token();
        for grant in granted {
            self.grants(newest, at, grant)?;
        }
        let ids: BTreeSet<String> = granted.iter().map(|grant| grant.id.clone()).collect();
        for id in self.granted.difference(&ids) {
            if let Some(known) = self.allocations.get_mut(id) {
                (known.stage, known.freed_at) = (Stage::Ended, Some(now));
            }
        }
        self.granted = ids;
        self.check_sums(granted)
    }

    /// Records one of the allocations after a log entry. Before that entry, `newest` was the newest token.
    fn grants(&mut self, newest: u64, at: Duration, grant: &Granted) -> Result<(), Wrong> {
        let Granted { id, token, .. } = grant;
        let fenced = |what: String| Err((Check::Fenced, format!("allocation {id} has token {token}, {what}")));
        match self.tokens.get(token) {
            Some(owner) if owner == id => {}
            Some(owner) => return fenced(format!("as has {owner}")),
            None if *token <= newest => return fenced(format!("but {newest} was granted before")),
            None => drop(self.tokens.insert(*token, id.clone())),
        }
        if grant.task().is_some() {
            return Ok(());
        }
        let Some(known) = self.allocations.get_mut(id) else {
            return Err((Check::Granted, format!("there is an allocation for which nobody asked: {grant:?}")));
        };
        let in_words = |(check, what): Wrong| (check, format!("allocation {id} {what}"));
        if known.stage == Stage::Ended {
            return Err(in_words((Check::Leased, format!("has ended, and is granted: {grant:?}"))));
        }
        if !known.draft.is_granted_by(grant) {
            return Err(in_words((Check::Granted, format!("is {grant:?}, but {:?} was asked for", known.draft))));
        }
        if known.is_granted(grant).map_err(in_words)? {
            (known.stage, known.held_from) = (Stage::Granted, known.held_from.max(at));
        }
        Ok(())
    }

    /// Checks that no more is granted of any agent than it contributes, and from any queue than its quota.
    fn check_sums(&self, granted: &[Granted]) -> Result<(), Wrong> {
        let mut given: BTreeMap<&str, Amounts> = BTreeMap::new();
        for part in granted.iter().flat_map(|grant| &grant.parts) {
            let of_agent = given.entry(&part.agent).or_default();
            *of_agent = plus(*of_agent, part.amounts);
        }
        if let Some((agent, given)) = given.into_iter().find(|(_, given)| !covers([CPU, MEMORY], *given)) {
            return Err((Check::Share, format!("{given:?} of {agent} is granted, of {CPU} and {MEMORY}: {granted:?}")));
        }
        let limited = granted.iter().filter(|grant| grant.queue == LIMITED);
        let used = limited.fold([0; 2], |used, grant| plus(used, grant.sum()));
        match self.quota {
            Some(quota) if !covers(quota, used) => {
                Err((Check::Quota, format!("{used:?} is granted from {LIMITED:?}, of {quota:?}: {granted:?}")))
            }
            _ => Ok(()),
        }
    }

    /// Checks the queues in a response to a call. `was_set`: when it began, a client had been told that the quota is
    /// set.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn check_queues(&self, was_set: bool, queues: &[v1::ResourceQueue]) -> Result<(), Wrong> {
        let Some(queue) = queues.iter().find(|queue| queue.name == LIMITED) else {
            return match was_set {
                false => Ok(()),
                true => Err((Check::Quota, format!("{LIMITED:?} was set, and is not among {queues:?}"))),
            };
        };
        let told = queue.quota.unwrap_or_default();
        let quota = told.cpu_millis.zip(told.memory_bytes).map(|(cpu, memory)| [cpu, memory]);
        let is_right = quota == self.quota && quota.is_some_and(|quota| covers(quota, amounts(queue.used.as_ref())));
        match is_right {
            true => Ok(()),
            false => Err((Check::Quota, format!("{LIMITED:?} was set to {:?}, and is {queue:?}", self.quota))),
        }
    }

    /// Returns how many requests were acknowledged, how many were granted, and how many leases were renewed.
    pub fn counts(&self) -> [usize; 3] {
        let count = |counts: fn(&Known) -> bool| self.allocations.values().filter(|known| counts(known)).count();
        [count(|known| known.is_acknowledged), count(|known| known.token > 0), self.renewals]
    }
}

/// Returns what is wrong with what agents contribute and what of it is used.
pub fn overused(pool: &ListResourcesResponse) -> Option<Wrong> {
    let wrong = pool.agents.iter().find(|agent| {
        let contributed = amounts(agent.contributed.as_ref());
        contributed != [CPU, MEMORY] || !covers(contributed, amounts(agent.used.as_ref()))
    });
    wrong.map(|agent| (Check::Share, format!("every agent contributes {CPU} and {MEMORY}, but: {agent:?}")))
}

/// Returns what is not free although nobody holds anything.
pub fn unfreed(pool: &ListResourcesResponse) -> Option<String> {
    let sums = pool.sums.unwrap_or_default();
    let live = pool.agents.iter().filter(|agent| agent.live);
    let whole = live.map(|agent| amounts(agent.contributed.as_ref())).fold([0; 2], plus);
    let is_free = whole != [0; 2] && amounts(sums.used.as_ref()) == [0; 2] && amounts(sums.free.as_ref()) == whole;
    let is_idle = (sums.waiting, sums.granted) == (0, 0);
    (!is_free || !is_idle).then(|| format!("live agents contribute {whole:?}, but the sums are {sums:?}"))
}
