//! The invariants, checked against a whole state. Linear in its size: for snapshots, tests and the simulator.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    Agent, AgentId, AgentState, Fleet, HeldState, Task, TaskId, TaskState, TrackRecord,
    fleet::State,
    indexes::Indexes,
    limits::*,
    version::{FIRST_VERSION, known_version},
};

/// Counters of a state that is not made up leave this much room to count on.
const COUNTER_ROOM: u64 = u64::MAX / 2;

type Check = Result<(), String>;

fn ensure(holds: bool, problem: impl FnOnce() -> String) -> Check {
    if holds { Ok(()) } else { Err(problem()) }
}

impl Fleet {
    /// Checks every invariant: slots are conserved, one current attempt per assigned task, indexes as computed afresh, no
    /// pool lacks live agents while some are on standby, no ready task waits while an agent that fits it has a free slot.
    /// The error says what does not hold.
    pub fn audit(&self) -> Result<(), String> {
        check_state(&self.state)?;
        ensure(self.indexes == Indexes::rebuild(&self.state), || "an index is not what the state gives".to_owned())?;
        self.check_pools()?;
        self.check_work_conserving()
    }

    fn check_pools(&self) -> Check {
        for pool in self.pools() {
            ensure(pool.live >= pool.desired || pool.standby == 0, || {
                format!("pool {} lacks live agents though some are on standby", pool.name)
            })?;
        }
        Ok(())
    }

    fn check_work_conserving(&self) -> Check {
        let free: Vec<&Arc<Agent>> = self.agents().filter(|a| a.free_slots() > 0).collect();
        for task in self.state.tasks.values().filter(|t| t.is_ready()) {
            let needs = task.needs();
            for agent in &free {
                let fits = needs.fit(agent.role, agent.has_specialization(needs.domain));
                ensure(!fits, || format!("task {} waits though agent {} is free", task.id, agent.name))?;
            }
        }
        Ok(())
    }
}

/// Checks what must hold of any state, so that nothing that apply does with it can go wrong.
pub(crate) fn check_state(state: &State) -> Check {
    ensure((FIRST_VERSION..=known_version()).contains(&state.version), || format!("version {}", state.version))?;
    state.config.check().map_err(|e| e.to_string())?;
    ensure(state.now.fleet <= MAX_TIME_MS && state.now.wall <= MAX_TIME_MS, || "time".to_owned())?;
    let counters = [state.revision, state.next_seq, state.next_session];
    ensure(counters.iter().all(|c| *c < COUNTER_ROOM), || "a counter is out of range".to_owned())?;
    ensure(state.kinds.is_sound(), || "kinds".to_owned())?;
    ensure(state.agents.len() <= MAX_AGENTS as usize, || format!("{} agents", state.agents.len()))?;
    let mut revisions = BTreeSet::new();
    check_tasks(state, &mut revisions)?;
    check_agents(state, &mut revisions)?;
    check_kept_pools(state)?;
    check_displaced(state)?;
    ensure(state.recoveries.is_sound(COUNTER_ROOM), || "recoveries".to_owned())?;
    check_slots(state)
}

/// What is counted of displaced tasks is what there is, and an agent's tasks count as redistributed once all of them are.
fn check_displaced(state: &State) -> Check {
    let mut displaced: BTreeMap<AgentId, u32> = BTreeMap::new();
    for from in state.tasks.values().filter_map(|task| task.displaced_from) {
        *displaced.entry(from).or_default() += 1;
    }
    for agent in state.agents.values() {
        let (recovery, found) = (&agent.recovery, displaced.get(&agent.id).copied().unwrap_or(0));
        ensure(recovery.displaced == found, || format!("agent {}: {found} displaced tasks", agent.name))?;
        let active = || agent.held().any(|held| held.state == HeldState::Active);
        let settled = recovery.taken == 0 || found > 0 || agent.state == AgentState::Unhealthy && active();
        ensure(settled, || format!("agent {}: redistribution is done and not told", agent.name))?;
    }
    Ok(())
}

/// A pool has a member, or its size was set.
fn check_kept_pools(state: &State) -> Check {
    let members: BTreeSet<&String> = state.agents.values().filter_map(|agent| agent.pool.as_ref()).collect();
    for (name, pool) in &state.pools {
        ensure(pool.set || members.contains(name), || format!("pool {name} has no member"))?;
    }
    let set = state.pools.values().filter(|pool| pool.set);
    ensure(set.count() <= MAX_POOLS, || "too many pools are set".to_owned())?;
    ensure(state.pools.len() <= MAX_KEPT_POOLS + MAX_POOLS, || format!("{} pools", state.pools.len()))
}

fn check_tasks(state: &State, revisions: &mut BTreeSet<u64>) -> Check {
    let mut ids = BTreeSet::new();
    let mut keys = BTreeSet::new();
    for (seq, task) in &state.tasks {
        let fresh_key = task.idempotency_key.as_ref().is_none_or(|k| keys.insert(k));
        ensure(
            *seq == task.seq
                && *seq < state.next_seq
                && ids.insert(task.id)
                && fresh_key
                && task.revision <= state.revision
                && revisions.insert(task.revision),
            || format!("task {}: identity", task.id),
        )?;
        check_task(task, state.now.fleet).map_err(|what| format!("task {}: {what}", task.id))?;
    }
    Ok(())
}

fn check_task(task: &Task, now: u64) -> Check {
    let last = MAX_TIME_MS + MAX_DURATION_MS;
    let past = [Some(task.submitted_at), task.finished_at].into_iter().flatten();
    let times = [task.deadline, task.not_before, task.expires_at];
    let kept = &task.attempts;
    let (latest, earlier) = match kept.split_last() {
        Some((latest, earlier)) => (Some(latest), earlier),
        None => (None, &kept[..]),
    };
    let rules = [
        (
            "limits",
            !task.kind.is_empty()
                && (1..=MAX_PRIORITY).contains(&task.priority)
                && task.retry.check("retry").is_ok()
                && task.input.len() <= MAX_INPUT_BYTES
                && task.output.as_ref().is_none_or(|o| o.len() <= MAX_INPUT_BYTES)
                && task.result_ttl <= MAX_DURATION_MS
                && task.attempt_timeout.is_none_or(|t| t <= MAX_DURATION_MS),
        ),
        ("times", times.into_iter().flatten().all(|t| t <= last) && past.into_iter().all(|at| at.fleet <= now)),
        (
            "final state",
            task.state.is_final() == task.finished_at.is_some()
                && task.finished_at.is_some() == task.expires_at.is_some(),
        ),
        ("output", task.output.is_some() == (task.state == TaskState::Succeeded)),
        ("backoff", task.not_before.is_none() || task.state == TaskState::Queued),
        ("displaced", task.displaced_from.is_none() || task.is_ready()),
        ("kept attempts", kept.len() <= MAX_KEPT_ATTEMPTS),
        (
            "fencing",
            kept.windows(2).all(|w| w[0].number < w[1].number) && latest.is_none_or(|a| a.number == task.attempt),
        ),
        (
            "one current attempt",
            earlier.iter().all(|a| a.end.is_some()) && task.current().is_some() == (task.state == TaskState::Assigned),
        ),
        ("attempt number", u64::from(task.attempt) < COUNTER_ROOM >> 32),
        ("attempts used", task.attempts_used <= task.retry.max_attempts),
    ];
    match rules.into_iter().find(|(_, holds)| !holds) {
        Some((what, _)) => Err(what.to_owned()),
        None => Ok(()),
    }
}

fn check_agents(state: &State, revisions: &mut BTreeSet<u64>) -> Check {
    let mut names = BTreeSet::new();
    for (id, agent) in &state.agents {
        let record = agent.record;
        let skills = &agent.specializations;
        let rules = [
            (
                "identity",
                *id == agent.id
                    && id.0 < state.next_agent
                    && agent.session.0 < state.next_session
                    && names.insert(&agent.name),
            ),
            ("revision", agent.revision <= state.revision && revisions.insert(agent.revision)),
            ("record", record.success <= TrackRecord::ONE && record.speed <= TrackRecord::ONE),
            ("attempt numbers", agent.held.keys().all(|(_, n)| u64::from(*n) < COUNTER_ROOM >> 32)),
            ("slots", agent.slots <= MAX_SLOTS && agent.held.len() <= agent.slots as usize),
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
            ("pool", agent.pool.as_ref().is_none_or(|p| state.pools.contains_key(p))),
            ("standby", agent.pool.is_some() || agent.state != AgentState::Standby),
        ];
        if let Some((what, _)) = rules.into_iter().find(|(_, holds)| !holds) {
            return Err(format!("agent {}: {what}", agent.name));
        }
    }
    Ok(())
}

/// Each active slot is one assigned task's current attempt, and the other way round; no stopping slot is.
fn check_slots(state: &State) -> Check {
    let mut current = BTreeSet::new();
    for task in state.tasks.values() {
        if let Some(attempt) = task.current() {
            current.insert((attempt.agent, attempt.session, (task.id, attempt.number)));
        }
    }
    let mut active = BTreeSet::new();
    for agent in state.agents.values() {
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
    ensure(active == current, || "taken slots and current attempts differ".to_owned())
}
