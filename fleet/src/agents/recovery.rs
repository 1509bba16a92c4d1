//! The recovery from failing agents: what happens to their tasks, what replaces them, and how they come back. Each step
//! is kept with the agent and, for a while, with the fleet, so that every coordinator can report what happened and how
//! long it took.
//!
//! A recovery begins when an agent is found unhealthy or lost. The tasks that the agent then loses or hands back are
//! *displaced* until they are given to an agent or end; when none is displaced any more, they count as redistributed.

use std::{collections::VecDeque, sync::Arc};

use bilrost::{Message, Oneof};

use crate::{
    Agent, AgentId, AgentState, Effect, Fleet, FleetMillis, LossReason, Reply, SessionId, Stamp,
    limits::{MAX_FLEET_RECOVERY_STEPS, MAX_REASON_BYTES, MAX_RECOVERY_STEPS},
    steps::{Job, Jobs},
    tasks::attempts::cut,
};

/// What happened in a step of a recovery.
#[derive(Clone, PartialEq, Eq, Debug, Oneof)]
#[bilrost(distinguished)]
pub enum RecoveryEvent {
    /// The agent is unhealthy: it gets no new tasks and hands back what it has. Begins a recovery.
    #[bilrost(tag(3), message)]
    Unhealthy {
        /// The reason as text; at most [`MAX_REASON_BYTES`].
        #[bilrost(1)]
        reason: String,
    },
    /// The agent is lost. Begins a recovery.
    #[bilrost(tag(4), message)]
    Lost {
        /// How the loss was noticed.
        #[bilrost(1)]
        reason: LossReason,
    },
    /// The agent's tasks were given to agents again, or ended.
    #[bilrost(tag(5), message)]
    Redistributed {
        /// The number of tasks.
        #[bilrost(1)]
        tasks: u32,
    },
    /// A standby agent of the same pool became live in the agent's place.
    #[bilrost(tag(6), message)]
    StandbyActivated {
        /// The standby agent's name.
        #[bilrost(1)]
        agent: Arc<str>,
    },
    /// The agent's session is over: it is not part of the fleet, and a completion from it is stale.
    #[bilrost(empty)]
    Removed,
    /// The agent passed a health check again, or a process with its name joined.
    #[bilrost(tag(7), message)]
    RecoveryAttempted,
    /// The agent is readmitted: it is live again or on standby.
    #[bilrost(tag(8), message)]
    Readmitted {
        /// The agent is on standby, because its pool has enough live agents.
        #[bilrost(1)]
        standby: bool,
    },
}

impl RecoveryEvent {
    fn begins(&self) -> bool {
        matches!(self, RecoveryEvent::Unhealthy { .. } | RecoveryEvent::Lost { .. })
    }
}

/// One step of a recovery.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct RecoveryStep {
    /// When the step was recorded.
    #[bilrost(1)]
    pub at: Stamp,
    /// Time since the beginning of the recovery, ms of fleet time.
    #[bilrost(2)]
    pub took: u64,
    /// What happened.
    #[bilrost(oneof(3-8))]
    pub event: RecoveryEvent,
}

/// The recovery of one agent.
#[derive(Clone, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct Recovery {
    /// When the newest recovery began.
    #[bilrost(1)]
    pub(crate) began: Stamp,
    /// Tasks that the agent lost or handed back and that are not recorded as redistributed yet.
    #[bilrost(2)]
    pub(crate) taken: u32,
    /// Displaced tasks of this agent; no more than `taken`.
    #[bilrost(3)]
    pub(crate) displaced: u32,
    #[bilrost(4)]
    pub(crate) steps: Vec<RecoveryStep>,
}

impl Recovery {
    /// Returns when the agent's newest recovery began; the default if there was none.
    pub fn began(&self) -> Stamp {
        self.began
    }

    /// Returns the newest steps, oldest first; at most [`MAX_RECOVERY_STEPS`].
    pub fn steps(&self) -> &[RecoveryStep] {
        &self.steps
    }

    /// Records a step that happens now.
    fn record(&mut self, now: Stamp, event: RecoveryEvent) -> RecoveryStep {
        if event.begins() {
            self.began = now;
        }
        let step = RecoveryStep { at: now, took: now.fleet.saturating_sub(self.began.fleet), event };
        if self.steps.len() >= MAX_RECOVERY_STEPS {
            self.steps.remove(0);
        }
        self.steps.push(step.clone());
        step
    }

    /// Returns whether everything is within bounds, which is checked for everything read from a snapshot.
    pub(crate) fn is_sound(&self, now: FleetMillis) -> bool {
        let reason_fits = |step: &RecoveryStep| match &step.event {
            RecoveryEvent::Unhealthy { reason } => reason.len() <= MAX_REASON_BYTES,
            _ => true,
        };
        self.steps.len() <= MAX_RECOVERY_STEPS
            && self.displaced <= self.taken
            && self.began.fleet <= now
            && self.steps.is_sorted_by_key(|step| step.at.fleet)
            && self.steps.last().is_none_or(|step| step.at.fleet <= now)
            && self.steps.iter().all(reason_fits)
    }
}

/// A recovery step as the fleet keeps it, for reporting it elsewhere.
#[derive(Clone, PartialEq, Eq, Debug, Message)]
#[bilrost(distinguished)]
pub struct FleetRecoveryStep {
    /// The step's number, counting up by one from 1.
    #[bilrost(1)]
    pub number: u64,
    /// The agent's name.
    #[bilrost(2)]
    pub agent: Arc<str>,
    /// The agent's pool.
    #[bilrost(3)]
    pub pool: Option<String>,
    /// The step.
    #[bilrost(4)]
    pub step: RecoveryStep,
}

/// The newest recovery steps of all agents. Readers may hold clones of the `Arc`s.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct RecoveryLog {
    steps: VecDeque<Arc<FleetRecoveryStep>>,
}

impl RecoveryLog {
    /// Returns a log of these steps, given oldest first.
    pub(crate) fn of(steps: Vec<FleetRecoveryStep>) -> Self {
        Self { steps: steps.into_iter().map(Arc::new).collect() }
    }

    fn record(&mut self, agent: Arc<str>, pool: Option<String>, step: RecoveryStep) {
        let number = self.steps.back().map_or(0, |last| last.number) + 1;
        if self.steps.len() >= MAX_FLEET_RECOVERY_STEPS {
            self.steps.pop_front();
        }
        self.steps.push_back(Arc::new(FleetRecoveryStep { number, agent, pool, step }));
    }

    pub(crate) fn steps(&self) -> impl Iterator<Item = &Arc<FleetRecoveryStep>> {
        self.steps.iter()
    }

    /// Returns whether everything is within bounds, which is checked for everything read from a snapshot. Numbers must
    /// be below `room`, so that incrementing them can't overflow.
    pub(crate) fn is_sound(&self, room: u64) -> bool {
        let numbers = || self.steps.iter().map(|step| step.number);
        self.steps.len() <= MAX_FLEET_RECOVERY_STEPS
            && numbers().zip(numbers().skip(1)).all(|(one, next)| one < next && next - one == 1)
            && self.steps.back().is_none_or(|last| last.number < room)
            && self.steps.front().is_none_or(|first| first.number > 0)
    }
}

impl Fleet {
    /// Returns the newest recovery steps of this fleet, oldest first; at most [`MAX_FLEET_RECOVERY_STEPS`].
    pub fn recovery_steps(&self) -> impl Iterator<Item = &Arc<FleetRecoveryStep>> {
        self.state.agents.recoveries.steps()
    }

    /// Records a step in the recovery of an agent.
    pub(crate) fn record_step(&mut self, id: AgentId, event: RecoveryEvent, effects: &mut Vec<Effect>) {
        let now = self.state.now;
        let recorded = self.change_work(id, |agent| {
            let step = agent.recovery.record(now, event);
            (agent.name.clone(), agent.pool.clone(), step)
        });
        let Some((name, pool, step)) = recorded else { return };
        self.state.agents.recoveries.record(name, pool, step.clone());
        effects.push(Effect::Recovery { agent: id, step });
    }

    /// Adds to the agent's count of displaced tasks: tasks that it lost or handed back and that need another agent.
    pub(crate) fn displace(&mut self, from: AgentId, tasks: u32) {
        if tasks > 0 {
            self.change_work(from, |agent| {
                agent.recovery.taken = agent.recovery.taken.saturating_add(tasks);
                agent.recovery.displaced = agent.recovery.displaced.saturating_add(tasks);
            });
        }
    }

    /// Counts a displaced task as settled, because it was given to an agent or ended.
    pub(crate) fn settle_displaced(&mut self, from: AgentId, effects: &mut Vec<Effect>) {
        self.change_work(from, |agent| agent.recovery.displaced = agent.recovery.displaced.saturating_sub(1));
        self.settle_recovery(from, effects);
    }

    /// Records that the agent's tasks were redistributed, once all of them were.
    pub(crate) fn settle_recovery(&mut self, id: AgentId, effects: &mut Vec<Effect>) {
        let Some(agent) = self.state.agents.known.get(&id) else { return };
        let recovery = &agent.recovery;
        if recovery.taken == 0 || recovery.displaced > 0 || self.hands_back(agent) {
            return;
        }
        let tasks = recovery.taken;
        self.change_work(id, |agent| agent.recovery.taken = 0);
        self.record_step(id, RecoveryEvent::Redistributed { tasks }, effects);
    }

    /// Marks a live or standby agent as unhealthy. It keeps its attempts until it hands them back, which it does only
    /// after stopping them.
    pub(crate) fn unhealthy(
        &mut self,
        id: AgentId,
        session: SessionId,
        mut reason: String,
        jobs: &mut Jobs,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        cut(&mut reason, MAX_REASON_BYTES, false);
        let agent = self.state.agents.known.get(&id).filter(|agent| agent.session == session);
        if !agent.is_some_and(|agent| matches!(agent.state, AgentState::Live | AgentState::Standby)) {
            return Reply::Done;
        }
        let kept = reason.clone();
        self.change_agent(id, |agent| {
            agent.state = AgentState::Unhealthy;
            agent.unhealthy = Some(kept);
        });
        self.record_step(id, RecoveryEvent::Unhealthy { reason }, effects);
        self.fill_afterwards(id, true, jobs);
        Reply::Done
    }

    /// Handles a passed health check of an unhealthy agent: recovery is attempted, or, with `readmit`, has succeeded.
    /// Like an agent that returns after a loss, a readmitted agent becomes live if its pool lacks a live agent, and
    /// standby otherwise.
    pub(crate) fn healthy(
        &mut self,
        id: AgentId,
        session: SessionId,
        readmit: bool,
        jobs: &mut Jobs,
        effects: &mut Vec<Effect>,
    ) -> Reply {
        let agent = self.state.agents.known.get(&id).filter(|agent| agent.session == session);
        let Some(agent) = agent.filter(|agent| agent.state == AgentState::Unhealthy) else {
            return Reply::Done;
        };
        let of_this_recovery = agent.recovery.steps.iter().rev().take_while(|step| !step.event.begins());
        let attempted =
            of_this_recovery.map(|step| &step.event).any(|event| *event == RecoveryEvent::RecoveryAttempted);
        if readmit {
            self.admit(id, true, jobs, effects);
        } else if !attempted {
            self.record_step(id, RecoveryEvent::RecoveryAttempted, effects);
        }
        Reply::Done
    }

    /// Admits an agent to its pool: it becomes live if the pool lacks a live agent, and standby otherwise.
    pub(crate) fn admit(&mut self, id: AgentId, recovered: bool, jobs: &mut Jobs, effects: &mut Vec<Effect>) {
        // Set it to standby first, so that `lacking` counts only the other agents.
        let pool = self.change_agent(id, |agent| {
            agent.state = AgentState::Standby;
            agent.unhealthy = None;
            agent.pool.clone()
        });
        let works = self.lacking(pool.flatten().as_deref()) > 0;
        if works {
            self.change_agent(id, |agent| agent.state = AgentState::Live);
        }
        if recovered {
            self.record_step(id, RecoveryEvent::Readmitted { standby: !works }, effects);
            self.settle_recovery(id, effects);
        }
        if works {
            jobs.push(Job::Pull(id));
        }
    }

    /// Returns how many attempts of an agent are active; attempts that it is stopping don't count.
    pub fn active_attempts(&self, id: AgentId) -> u32 {
        let held = self.state.agents.known.get(&id).map_or(0, |agent| agent.held_attempts());
        held.saturating_sub(self.indexes.agents.stopping.of(id))
    }

    /// Returns whether an agent is unhealthy and still has attempts to hand back.
    pub(crate) fn hands_back(&self, agent: &Agent) -> bool {
        agent.state == AgentState::Unhealthy && self.active_attempts(agent.id) > 0
    }
}
