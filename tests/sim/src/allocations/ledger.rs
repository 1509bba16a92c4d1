//! What is known of every allocation of a run, and the checks of what clients are told: that no agent gives more than
//! it contributes, that later grants have higher fencing tokens and each request has one, and that an allocation ends
//! only for a reason, and not before its lease.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use robeing_proto::v1::{self, AllocationState, ListResourcesResponse, ResourceAmounts};

use super::draft::Draft;
use crate::{
    checks::{Check, Wrong},
    hosts::{CPU, MEMORY},
    record::ROUNDING,
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
    /// Its fencing token; 0: no client was told of it.
    token: u64,
    /// The agents that give its parts, as a client was told.
    agents: Vec<String>,
    /// From when on, at the earliest, its lease counts.
    held_from: Duration,
    ended: Option<AllocationState>,
}

/// The allocations of a run.
#[derive(Default)]
pub struct AllocationLedger {
    allocations: BTreeMap<String, Known>,
    /// The allocations by their tokens.
    tokens: BTreeMap<u64, String>,
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

/// Returns whether one amount covers another one.
fn covers(whole: [u64; 2], part: [u64; 2]) -> bool {
    whole.iter().zip(part).all(|(whole, part)| part <= *whole)
}

fn amounts(told: Option<&ResourceAmounts>) -> [u64; 2] {
    told.map_or([0; 2], |told| [told.cpu_millis, told.memory_bytes])
}

fn plus(one: [u64; 2], other: [u64; 2]) -> [u64; 2] {
    [one[0] + other[0], one[1] + other[1]]
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

    fn is_granted(&mut self, told: &v1::Allocation) -> Result<(), Wrong> {
        let agents: Vec<String> = told.parts.iter().map(|part| part.agent.clone()).collect();
        let different: BTreeSet<&String> = agents.iter().collect();
        let is_spread = !told.spread || different.len() == agents.len();
        if agents.iter().any(String::is_empty) || !is_spread {
            return Err((Check::Granted, format!("has parts of {agents:?}, spread: {}", told.spread)));
        }
        if self.token == 0 {
            if told.token <= self.before {
                let before = self.before;
                return Err((Check::Fenced, format!("has token {}, but {before} was granted before", told.token)));
            }
            (self.token, self.agents) = (told.token, agents);
            return Ok(());
        }
        match (self.token, &self.agents) == (told.token, &agents) {
            true => Ok(()),
            false => Err((
                Check::Granted,
                format!("was granted with token {} from {:?}, and again: {told:?}", self.token, self.agents),
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
            AllocationState::Expired => !self.is_leased(now),
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
                    "is {state:?} by {now:?}, without a reason; asked for at {:?} and held from {:?} as {:?}, of {:?}",
                    self.at, self.held_from, self.draft, self.agents
                ),
            )),
        }
    }
}

impl AllocationLedger {
    /// Records that a client asks for resources for the first time.
    pub fn asks(&mut self, now: Duration, id: &str, draft: Draft) {
        let known = Known {
            draft,
            at: now,
            before: self.tokens.last_key_value().map_or(0, |(token, _)| *token),
            is_acknowledged: false,
            may_end: false,
            stage: Stage::Waiting,
            token: 0,
            agents: Vec::new(),
            held_from: now,
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
            Stage::Granted => known.is_granted(told).map_err(in_words)?,
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
        let mut given: BTreeMap<&str, [u64; 2]> = BTreeMap::new();
        for allocation in listed {
            self.told(now, known.get(&allocation.id).copied().unwrap_or_default(), allocation)?;
            let granted = stage(allocation) == Stage::Granted;
            for part in allocation.parts.iter().filter(|_| granted) {
                let of_agent = given.entry(&part.agent).or_default();
                *of_agent = plus(*of_agent, amounts(part.amounts.as_ref()));
            }
        }
        if let Some((agent, given)) = given.into_iter().find(|(_, given)| !covers([CPU, MEMORY], *given)) {
            return Err((Check::Share, format!("{given:?} of {agent} is granted, of {CPU} and {MEMORY}: {listed:?}")));
        }
        let mut expected = known.keys().filter(|_| all);
        match expected.find(|id| listed.iter().all(|allocation| allocation.id != **id)) {
            Some(missing) => Err((Check::Granted, format!("allocation {missing} was asked for, but is not listed"))),
            None => Ok(()),
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

#[cfg(test)]
mod tests {
    use robeing_proto::v1::{AgentResources, ResourceSums, allocation::Part};

    use super::*;

    const LEASE: Duration = Duration::from_secs(10);
    const SOON: Duration = Duration::from_secs(1);
    const LATE: Duration = Duration::from_secs(20);

    fn of(cpu_millis: u64) -> ResourceAmounts {
        ResourceAmounts { cpu_millis, ..ResourceAmounts::default() }
    }

    fn draft(wait: Duration) -> Draft {
        let holder = "agent:c".to_owned();
        Draft { holder, parts: vec![of(3_000), of(1_000)], spread: true, lease: LEASE, wait }
    }

    fn ledger(ids: &[&str]) -> AllocationLedger {
        let mut ledger = AllocationLedger::default();
        ids.iter().for_each(|id| ledger.asks(Duration::ZERO, id, draft(Duration::ZERO)));
        ledger
    }

    /// Returns an allocation of that ledger, whose parts these agents give.
    fn told(id: &str, state: AllocationState, token: u64, agents: [&str; 2]) -> v1::Allocation {
        let part = |(cpu, agent): (u64, &str)| Part { amounts: Some(of(cpu)), agent: agent.to_owned() };
        v1::Allocation {
            id: id.to_owned(),
            holder: "agent:c".to_owned(),
            queue: "default".to_owned(),
            parts: [3_000, 1_000].into_iter().zip(agents).map(part).collect(),
            spread: true,
            lease_ms: LEASE.as_millis() as u64,
            state: state.into(),
            token,
            ..v1::Allocation::default()
        }
    }

    fn granted(id: &str, token: u64) -> v1::Allocation {
        told(id, AllocationState::Granted, token, ["a", "b"])
    }

    fn ended(state: AllocationState) -> v1::Allocation {
        told("1", state, 0, ["a", "b"])
    }

    fn check(ledger: &mut AllocationLedger, now: Duration, told: &v1::Allocation) -> Option<Check> {
        ledger.told(now, Since::default(), told).err().map(|(check, _)| check)
    }

    #[test]
    fn an_allocation_is_what_was_asked_for_and_is_granted_once() {
        let first = |told: &v1::Allocation| check(&mut ledger(&["1"]), SOON, told);
        assert_eq!(first(&granted("1", 1)), None);
        assert_eq!(first(&granted("2", 1)), Some(Check::Granted), "nobody asked for it");
        assert_eq!(first(&v1::Allocation { spread: false, ..granted("1", 1) }), Some(Check::Granted));
        assert_eq!(first(&told("1", AllocationState::Granted, 1, ["a", "a"])), Some(Check::Granted), "not spread");
        assert_eq!(first(&told("1", AllocationState::Granted, 1, ["a", ""])), Some(Check::Granted), "of nobody");
        let mut ledger = ledger(&["1"]);
        assert_eq!(check(&mut ledger, SOON, &granted("1", 1)), None);
        assert_eq!(check(&mut ledger, SOON, &granted("1", 2)), Some(Check::Granted), "with another token");
        let moved = told("1", AllocationState::Granted, 1, ["a", "c"]);
        assert_eq!(check(&mut ledger, SOON, &moved), Some(Check::Granted));
        let since = ledger.since("1");
        let waits = ended(AllocationState::Waiting);
        assert_eq!(ledger.told(SOON, since, &waits).err().map(|(check, _)| check), Some(Check::Leased));
    }

    #[test]
    fn later_grants_have_higher_tokens_and_each_its_own() {
        let mut ledger = ledger(&["1", "2"]);
        assert_eq!(check(&mut ledger, SOON, &granted("1", 0)), Some(Check::Fenced));
        assert_eq!(check(&mut ledger, SOON, &granted("1", 5)), None);
        assert_eq!(check(&mut ledger, SOON, &granted("2", 5)), Some(Check::Fenced));
        ledger.asks(SOON, "3", draft(Duration::ZERO));
        assert_eq!(check(&mut ledger, SOON, &granted("3", 4)), Some(Check::Fenced));
        assert_eq!(check(&mut ledger, SOON, &granted("3", 6)), None);
    }

    #[test]
    fn an_allocation_ends_for_a_reason_and_not_before_its_lease() {
        use AllocationState::{AgentLost, Expired, HolderGone, NotGranted, Released};
        let of = |state, now, prepare: fn(&mut AllocationLedger)| {
            let mut ledger = ledger(&["1"]);
            prepare(&mut ledger);
            check(&mut ledger, now, &ended(state))
        };
        let nothing = |_: &mut AllocationLedger| {};
        assert_eq!(of(Released, SOON, nothing), Some(Check::Leased));
        assert_eq!(of(Released, SOON, |ledger| ledger.releases("1")), None);
        assert_eq!(of(Expired, SOON, nothing), Some(Check::Leased));
        assert_eq!(of(Expired, LATE, nothing), None);
        assert_eq!(of(Expired, LATE, |ledger| ledger.renews("1", LATE - SOON)), Some(Check::Leased));
        assert_eq!(of(AgentLost, SOON, |ledger| ledger.leaves("c", SOON)), Some(Check::Leased), "it gives nothing");
        assert_eq!(of(AgentLost, SOON, |ledger| ledger.leaves("b", SOON)), None);
        assert_eq!(of(HolderGone, SOON, |ledger| ledger.leaves("b", SOON)), Some(Check::Leased), "it holds nothing");
        assert_eq!(of(HolderGone, SOON, |ledger| ledger.leaves("c", SOON)), None);
        assert_eq!(of(NotGranted, LATE, nothing), Some(Check::Leased), "it does not wait");
        let waits = |ledger: &mut AllocationLedger| ledger.asks(Duration::ZERO, "1", draft(LEASE));
        assert_eq!([of(NotGranted, SOON, waits), of(NotGranted, LATE, waits)], [Some(Check::Leased), None]);
        let mut ledger = ledger(&["1"]);
        assert_eq!(check(&mut ledger, LATE, &ended(Expired)), None);
        ledger.releases("1");
        assert_eq!(check(&mut ledger, LATE, &ended(Released)), Some(Check::Leased), "it had expired");
    }

    #[test]
    fn a_lease_is_renewed_while_it_lasts() {
        let refused = |now, prepare: fn(&mut AllocationLedger)| {
            let mut ledger = ledger(&["1"]);
            assert_eq!(check(&mut ledger, Duration::ZERO, &granted("1", 1)), None);
            prepare(&mut ledger);
            ledger.is_over(now, "1").is_ok()
        };
        assert!(!refused(SOON, |_| {}) && refused(LATE, |_| {}));
        assert!(!refused(LATE, |ledger| ledger.renews("1", LATE - SOON)));
        assert!(refused(SOON, |ledger| ledger.releases("1")) && refused(SOON, |ledger| ledger.leaves("a", SOON)));
    }

    #[test]
    fn no_agent_gives_more_than_it_contributes_and_every_allocation_is_listed() {
        let listed = |allocations: &[v1::Allocation], known: &[&str]| {
            let known = known.iter().map(|id| ((*id).to_owned(), Since::default())).collect();
            ledger(&["1", "2"]).listed(SOON, &known, true, allocations).err().map(|(check, _)| check)
        };
        let other = |agents| told("2", AllocationState::Granted, 2, agents);
        assert_eq!(listed(&[granted("1", 1), other(["b", "a"])], &["1", "2"]), None);
        assert_eq!(listed(&[granted("1", 1), other(["a", "b"])], &[]), Some(Check::Share));
        assert_eq!(listed(&[granted("1", 1)], &["2"]), Some(Check::Granted));
        let ended = BTreeMap::from([("2".to_owned(), Since(Stage::Ended))]);
        let live = |allocation| ledger(&["1", "2"]).listed(SOON, &ended, false, &[allocation]).is_ok();
        assert!(live(granted("1", 1)) && !live(other(["b", "a"])), "the second one has ended");
    }

    #[test]
    fn what_is_used_or_not_free_is_noticed() {
        let of = |cpu_millis| Some(ResourceAmounts { cpu_millis, memory_bytes: MEMORY, ..ResourceAmounts::default() });
        let agent = |contributed, used| AgentResources { agent: "a".to_owned(), contributed, used, live: true };
        let pool = |contributed, used, free| ListResourcesResponse {
            agents: vec![agent(of(contributed), used)],
            sums: Some(ResourceSums { used, free: of(free), ..ResourceSums::default() }),
            ..ListResourcesResponse::default()
        };
        assert_eq!(overused(&pool(CPU, None, CPU)), None);
        assert_eq!(overused(&pool(CPU, of(CPU), 0)), None);
        assert!(overused(&pool(CPU, of(CPU + 1), 0)).is_some() && overused(&pool(CPU - 1, None, 0)).is_some());
        assert_eq!(unfreed(&pool(CPU, None, CPU)), None);
        assert!(unfreed(&ListResourcesResponse::default()).is_some(), "nobody contributes anything");
        assert!(unfreed(&pool(CPU, of(1), CPU)).is_some() && unfreed(&pool(CPU, None, CPU - 1)).is_some());
    }
}
