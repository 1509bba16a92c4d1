//! Checks of the invariants of a whole state. The cost is linear in its size: for snapshots, tests and the simulator.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    AgentId, AgentState, Fleet, HeldState, TaskId,
    agents::audit::{check_agents, check_standby},
    archive::audit::check_archive,
    audit_log::audit::check_audit_log,
    ballots::audit::check_ballots,
    fleet::State,
    identity::audit::check_identity,
    indexes::Indexes,
    kinds::audit::check_kinds,
    limits::*,
    mail::audit::check_mail,
    policies::audit::check_policies,
    queues::audit::{check_queues, check_turns},
    resources::audit::{check_grants, check_resources},
    schedule::audit::check_work_conserving,
    schedules::audit::check_schedules,
    tasks::{audit::check_tasks, keys::check_keys},
    teams::audit::{check_staffed, check_teams},
    version::{FIRST_VERSION, known_version},
};

/// Counters of a valid state are below this, so that incrementing them can't overflow.
pub(crate) const COUNTER_ROOM: u64 = u64::MAX / 2;

pub(crate) type Check = Result<(), String>;

pub(crate) fn ensure(holds: bool, problem: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(problem()) }
}

impl Fleet {
    /// Checks every invariant: slots are conserved, each assigned task has one current attempt, indexes equal those
    /// rebuilt from the state, no pool lacks live agents while some are on standby, no team lacks a member while an agent
    /// that fits it is in none, no request for resources waits that could be granted, no turn is later than it should be,
    /// and no ready task that no limit holds back waits while an agent that fits it has a free slot. The error names the
    /// violated invariant.
    pub fn audit(&self) -> Result<(), String> {
        check_state(&self.state)?;
        ensure(self.indexes == Indexes::rebuild(&self.state), || "an index differs from the rebuilt one".to_owned())?;
        check_standby(self)?;
        check_staffed(self)?;
        check_grants(self)?;
        check_turns(self)?;
        check_work_conserving(self)
    }
}

/// Checks what must hold in any state, so that `apply` can rely on it.
pub(crate) fn check_state(state: &State) -> Check {
    ensure((FIRST_VERSION..=known_version()).contains(&state.version), || format!("version {}", state.version))?;
    state.config.check().map_err(|e| e.to_string())?;
    ensure(state.now.fleet <= MAX_TIME_MS && state.now.wall <= MAX_TIME_MS, || "time".to_owned())?;
    let counters = [state.revision, state.tasks.next_seq, state.agents.next_session];
    ensure(counters.iter().all(|c| *c < COUNTER_ROOM), || "a counter is out of range".to_owned())?;
    ensure(state.kinds.is_sound(), || "kinds".to_owned())?;
    ensure(state.agents.known.len() <= MAX_AGENTS as usize, || format!("{} agents", state.agents.known.len()))?;
    let mut revisions = BTreeSet::new();
    check_tasks(state, &mut revisions)?;
    check_agents(state, &mut revisions)?;
    check_archive(state, &revisions)?;
    check_displaced(state)?;
    check_slots(state)?;
    check_identity(state)?;
    check_audit_log(state)?;
    check_mail(state)?;
    check_policies(state)?;
    check_kinds(state)?;
    check_ballots(state)?;
    check_teams(state)?;
    check_resources(state)?;
    check_queues(state)?;
    check_schedules(state)?;
    check_keys(state)
}

/// Checks that each agent's count of displaced tasks is right, and that the redistribution of an agent's tasks is
/// recorded once it is complete.
fn check_displaced(state: &State) -> Check {
    let mut displaced: BTreeMap<AgentId, u32> = BTreeMap::new();
    for from in state.tasks.kept.values().filter_map(|task| task.displaced_from) {
        *displaced.entry(from).or_default() += 1;
    }
    for agent in state.agents.known.values() {
        let (recovery, found) = (&agent.recovery, displaced.get(&agent.id).copied().unwrap_or(0));
        ensure(recovery.displaced == found, || format!("agent {}: {found} displaced tasks", agent.name))?;
        let active = || agent.held().any(|held| held.state == HeldState::Active);
        let settled = recovery.taken == 0 || found > 0 || agent.state == AgentState::Unhealthy && active();
        ensure(settled, || format!("agent {}: redistribution is done but not recorded", agent.name))?;
    }
    Ok(())
}

/// Checks that each active slot holds the current attempt of one assigned task and vice versa, and that no stopping
/// slot holds a current attempt.
fn check_slots(state: &State) -> Check {
    let mut current = BTreeSet::new();
    for task in state.tasks.kept.values() {
        if let Some(attempt) = task.current() {
            current.insert((attempt.agent, attempt.session, (task.id, attempt.number)));
        }
    }
    let mut active = BTreeSet::new();
    for agent in state.agents.known.values() {
        for (key, held) in &agent.held {
            let slot: (_, _, (TaskId, u32)) = (agent.id, agent.session, *key);
            match held {
                HeldState::Active => {
                    active.insert(slot);
                }
                HeldState::Stopping => {
                    ensure(!current.contains(&slot), || format!("agent {} is to stop a current attempt", agent.name))?
                }
            }
        }
    }
    ensure(active == current, || "taken slots and current attempts differ".to_owned())?;
    check_slots_of_attempts(state)
}

/// Checks that each current attempt takes as many slots of its agent as its task asks for.
fn check_slots_of_attempts(state: &State) -> Check {
    for task in state.tasks.kept.values() {
        let Some(attempt) = task.current() else { continue };
        let agent = state.agents.known.get(&attempt.agent);
        let taken = agent.map_or(0, |agent| agent.slots_of(task.id, attempt.number));
        ensure(taken == task.slots(), || format!("task {} has {taken} slots of {}", task.id, task.slots()))?;
    }
    Ok(())
}
