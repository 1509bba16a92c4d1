//! Invariants of the agents and pools in any state.

use std::collections::BTreeSet;

use crate::{
    AgentState, Feature, Fleet, TrackRecord,
    audit::{COUNTER_ROOM, Check, ensure},
    fleet::State,
    limits::*,
};

/// Checks each agent and each pool on its own. `revisions` collects the revisions of everything checked.
pub(crate) fn check_agents(state: &State, revisions: &mut BTreeSet<u64>) -> Check {
    check_each(state, revisions)?;
    check_kept_pools(state)?;
    ensure(state.agents.recoveries.is_sound(COUNTER_ROOM), || "recoveries".to_owned())
}

/// Checks that no pool lacks live agents while some of its agents are on standby.
pub(crate) fn check_standby(fleet: &Fleet) -> Check {
    for pool in fleet.pools() {
        ensure(pool.live >= pool.desired || pool.standby == 0, || {
            format!("pool {} lacks live agents though some are on standby", pool.name)
        })?;
    }
    Ok(())
}

fn check_each(state: &State, revisions: &mut BTreeSet<u64>) -> Check {
    let mut names = BTreeSet::new();
    let are_kinds_kept = state.version >= Feature::Kinds.since();
    for (id, agent) in &state.agents.known {
        let record = agent.record;
        let skills = &agent.specializations;
        let rules = [
            (
                "identity",
                *id == agent.id
                    && id.0 < state.agents.next
                    && agent.session.0 < state.agents.next_session
                    && names.insert(&agent.name),
            ),
            ("revision", agent.revision <= state.revision && revisions.insert(agent.revision)),
            ("record", record.success <= TrackRecord::ONE && record.speed <= TrackRecord::ONE),
            ("attempt numbers", agent.held.keys().all(|(_, n)| u64::from(*n) < COUNTER_ROOM >> 32)),
            ("slots", agent.slots <= MAX_SLOTS && agent.are_slots_sound()),
            ("wide attempts", agent.wide.is_empty() || are_kinds_kept),
            ("object store", !agent.lacks_store || state.version >= Feature::Blobs.since()),
            ("records by kind", agent.are_kinds_sound(are_kinds_kept, state.revision)),
            ("specializations", skills.len() <= MAX_SPECIALIZATIONS && skills.is_sorted_by(|a, b| a < b)),
            (
                "loss",
                (agent.state == AgentState::Lost) == agent.lost.is_some()
                    && (agent.lost.is_none() || agent.held.is_empty()),
            ),
            (
                "health",
                (agent.state == AgentState::Unhealthy) == agent.unhealthy.is_some()
                    && agent.unhealthy.as_ref().is_none_or(|reason| reason.len() <= MAX_REASON_BYTES),
            ),
            ("recovery", agent.recovery.is_sound(state.now.fleet)),
            ("pool", agent.pool.as_ref().is_none_or(|p| state.agents.pools.contains_key(p))),
            ("sealing key", agent.sealing_key.is_none() || state.version >= Feature::Mail.since()),
            ("standby", agent.pool.is_some() || agent.state != AgentState::Standby),
        ];
        if let Some((what, _)) = rules.into_iter().find(|(_, holds)| !holds) {
            return Err(format!("agent {}: {what}", agent.name));
        }
    }
    Ok(())
}

/// Checks that each pool has a member or a set size.
fn check_kept_pools(state: &State) -> Check {
    let members: BTreeSet<&String> = state.agents.known.values().filter_map(|agent| agent.pool.as_ref()).collect();
    for (name, pool) in &state.agents.pools {
        ensure(pool.set || members.contains(name), || format!("pool {name} has no member"))?;
    }
    // So there are at most as many as agents, and the set ones.
    let set = state.agents.pools.values().filter(|pool| pool.set);
    ensure(set.count() <= MAX_POOLS, || "too many pools are set".to_owned())
}
