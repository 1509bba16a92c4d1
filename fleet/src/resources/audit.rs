//! Invariants of the resource pool in any state.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Allocation, AllocationState, Holder, Part,
    amounts::Amounts,
    command::{QueueShape, RequestResources},
};
use crate::{
    AgentId, AgentState, Feature, Fleet, TaskId, TeamId,
    audit::{COUNTER_ROOM, Check, ensure},
    fleet::State,
    limits::*,
};

/// Checks that what is granted adds up: of each agent no more than it contributes, and of none that is gone.
pub(crate) fn check_resources(state: &State) -> Check {
    let resources = &state.resources;
    ensure(state.version >= Feature::Resources.since() || *resources == Default::default(), || {
        "resources before their version".to_owned()
    })?;
    resources.contributions.check(MAX_AGENTS as usize)?;
    resources.allocations.check(MAX_ALLOCATIONS)?;
    ensure(resources.tokens < COUNTER_ROOM, || "the tokens of allocations".to_owned())?;
    check_turns(state)?;
    check_queues(state)?;
    let contributed = check_contributions(state)?;
    let (mut ids, mut tokens) = (BTreeSet::new(), BTreeSet::new());
    let (mut used, mut held) = (BTreeMap::new(), BTreeMap::new());
    let (mut queues, mut askers, mut parts) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
    let (mut live, mut holders) = (0, BTreeSet::new());
    for allocation in resources.allocations.iter() {
        let token = allocation.token().is_none_or(|token| token <= resources.tokens && tokens.insert(token));
        ensure(token && is_sound(state, allocation) && ids.insert(allocation.id), || {
            format!("allocation {}", allocation.id)
        })?;
        if allocation.is_ended() {
            continue;
        }
        queues.insert(&allocation.queue);
        live += 1;
        holders.insert(&allocation.holder);
        if allocation.attempt.is_none() {
            *askers.entry(&allocation.requested_by).or_insert(0_usize) += 1;
            *held.entry(&allocation.holder).or_insert(0_usize) += 1;
            *parts.entry(&allocation.holder).or_insert(0_usize) += allocation.parts.len();
        }
        if allocation.token().is_some() {
            for part in &allocation.parts {
                let of_agent: &mut Amounts = used.entry(part.agent).or_default();
                *of_agent = of_agent.plus(part.amounts);
            }
        }
    }
    let most = held.values().max().copied().unwrap_or(0);
    ensure(live <= MAX_LIVE_ALLOCATIONS && most <= MAX_HELD_BY_ONE && queues.len() <= MAX_USED_QUEUES, || {
        format!("{live} allocations, {most} of one holder, {} queues", queues.len())
    })?;
    ensure(askers.values().all(|asked| *asked <= MAX_ASKED_BY_ONE), || "too many of one caller".to_owned())?;
    ensure(parts.values().all(|parts| *parts <= MAX_PARTS_OF_ONE), || "too many parts of one holder".to_owned())?;
    check_holders(state, &holders)?;
    check_claims(state)?;
    for (agent, used) in used {
        let given = agent.and_then(|agent| contributed.get(&agent)).copied().unwrap_or_default();
        ensure(given.covers(used), || format!("of {agent:?} {used:?} is granted, and it contributes {given:?}"))?;
    }
    Ok(())
}

/// Checks that no request waits that could be granted, unless it is about to be found out.
pub(crate) fn check_grants(fleet: &Fleet) -> Check {
    ensure(fleet.state.resources.sweep.is_some() || !fleet.could_grant(), || {
        "a request for resources waits that could be granted".to_owned()
    })
}

/// Checks that each attempt at a task that needs resources has an allocation of them at its agent, and that no other
/// attempt has one.
fn check_claims(state: &State) -> Check {
    let mut granted = 0;
    for task in state.tasks.kept.values() {
        let Some(claim) = &task.resources else { continue };
        ensure(state.version >= Feature::Resources.since() && claim.asked.check().is_ok(), || {
            format!("task {}: resources", task.id)
        })?;
        let allocation = claim.allocation.and_then(|seq| state.resources.allocations.get(seq));
        let fits = match (task.current(), allocation) {
            (None, None) => claim.allocation.is_none(),
            (Some(current), Some(allocation)) => {
                granted += 1;
                let part = Part { amounts: claim.asked.amounts, agent: Some(current.agent) };
                let is_own = allocation.attempt == Some(current.number) && allocation.parts == [part];
                is_own && allocation.token().is_some()
            }
            _ => false,
        };
        ensure(fits, || format!("task {}: its allocation", task.id))?;
    }
    let found = state.resources.allocations.iter().filter(|allocation| allocation.is_of_attempt()).count();
    ensure(found == granted, || format!("{found} allocations of {granted} attempts"))
}

/// Checks that the sweep is soon enough, and that what keeps others waiting waits itself.
fn check_turns(state: &State) -> Check {
    let (resources, now) = (&state.resources, state.now.fleet);
    let holder = resources.held_by.map(|seq| resources.allocations.get(seq));
    let holds = holder.is_none_or(|holder| {
        resources.sweep.is_some() && holder.is_some_and(|holder| matches!(holder.state, AllocationState::Waiting))
    });
    let soon = resources.sweep.is_none_or(|at| at <= now.saturating_add(MAX_HOLD_MS));
    let begun = resources.hold_since.is_none_or(|since| since <= now);
    let in_turn = resources.tasks_after.is_some() || !resources.tasks_again;
    let looks = in_turn && (resources.tasks_after.is_none() || resources.sweep.is_some());
    ensure(holds && soon && begun && looks && resources.round < COUNTER_ROOM, || "the turns of allocations".to_owned())
}

fn check_queues(state: &State) -> Check {
    let queues = state.resources.queues.iter();
    let shapes: Vec<QueueShape> = queues
        .map(|(name, queue)| QueueShape { name: name.clone(), weight: queue.weight, quota: queue.quota })
        .collect();
    QueueShape::check_all(&shapes).map_err(|refusal| refusal.to_string())
}

/// Returns what each agent contributes.
fn check_contributions(state: &State) -> Result<BTreeMap<AgentId, Amounts>, String> {
    let mut contributed = BTreeMap::new();
    for contribution in state.resources.contributions.iter() {
        let agent = state.agents.known.get(&contribution.agent);
        let in_session = agent.is_some_and(|agent| agent.state != AgentState::Lost);
        let amounts = contribution.amounts;
        let in_bounds = amounts != Amounts::NONE && amounts.check("contributed").is_ok();
        let is_first = contributed.insert(contribution.agent, amounts).is_none();
        ensure(in_session && in_bounds && is_first, || format!("contribution {}", contribution.number))?;
    }
    Ok(contributed)
}

fn is_sound(state: &State, allocation: &Allocation) -> bool {
    let now = state.now.fleet;
    let request = RequestResources {
        id: allocation.id,
        holder: allocation.holder.clone(),
        queue: allocation.queue.clone(),
        parts: allocation.parts.iter().map(|part| part.amounts).collect(),
        spread: allocation.spread,
        ttl: allocation.ttl,
        wait: allocation.wait,
        requested_by: allocation.requested_by.clone(),
    };
    let agents: Vec<AgentId> = allocation.parts.iter().filter_map(|part| part.agent).collect();
    let all = agents.len() == allocation.parts.len();
    let different: BTreeSet<&AgentId> = agents.iter().collect();
    let placed = all && (!allocation.spread || different.len() == agents.len());
    let fits = match &allocation.state {
        AllocationState::Waiting => agents.is_empty() && allocation.wait > 0,
        AllocationState::Granted { token, at, .. } => placed && *token > 0 && at.fleet <= now,
        AllocationState::Ended { at, token, .. } => at.fleet <= now && (*token > 0) != agents.is_empty(),
    };
    let in_round = allocation.round <= state.resources.round;
    request.check().is_ok() && allocation.requested.fleet <= now && in_round && fits
}

/// Checks that no task, agent or team that is gone holds or waits for anything.
fn check_holders(state: &State, holders: &BTreeSet<&Holder>) -> Check {
    if holders.is_empty() {
        return Ok(());
    }
    let agents = state.agents.known.values().filter(|agent| agent.state != AgentState::Lost);
    let agents: BTreeSet<&str> = agents.map(|agent| agent.name.as_ref()).collect();
    let tasks = state.tasks.kept.values().filter(|task| !task.state.is_final());
    let tasks: BTreeSet<TaskId> = tasks.map(|task| task.id).collect();
    let teams = state.teams.kept.iter().filter(|team| team.is_open());
    let teams: BTreeSet<TeamId> = teams.map(|team| team.id).collect();
    for holder in holders {
        let is_there = match holder {
            Holder::Nobody => false,
            Holder::Task(id) => tasks.contains(id),
            Holder::Agent(name) => agents.contains(name.as_str()),
            Holder::Team(id) => teams.contains(id),
            Holder::Client(_) => true,
        };
        ensure(is_there, || format!("{holder} holds an allocation and is gone"))?;
    }
    Ok(())
}
