//! The agents that could take a task, for readers: the score that each has for it, and what keeps it from taking it. This
//! requires a scan of all agents, so the agents are looked at one by one and the caller can read them in slices.

use std::{cmp::Reverse, fmt, sync::Arc};

use super::score::{ScoreTerms, score};
use crate::{Agent, AgentState, Fleet, FleetMillis, Task, limits::MAX_CANDIDATES_TOLD, words::left};

/// An agent that has the role and the specializations that a task requires.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The agent's name.
    pub agent: Arc<str>,
    /// Its state.
    pub state: AgentState,
    /// Its score for the task now.
    pub score: ScoreTerms,
    /// The number of its slots that are free.
    pub free_slots: u32,
    /// Why it can't take the task now; `None` if it can.
    pub obstacle: Option<Obstacle>,
}

/// Why an agent can't take a task now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Obstacle {
    /// It is in this state, in which an agent gets no tasks.
    State(AgentState),
    /// It is not in the team to which the task is addressed.
    OutsideTeam,
    /// It has no object store, where the task's input is.
    NoStore,
    /// It has had its turn at the task, or has one, of which several agents are to give the result.
    HadTurn,
    /// It is still stopping an attempt at the task that made no progress.
    Stopping,
    /// It runs another part of the same task, and they are kept apart.
    RunsSibling,
    /// It never has as many slots.
    TooSmall {
        /// The number of its slots.
        slots: u32,
    },
    /// It has too few slots free.
    Busy {
        /// When it is expected to have enough, ms from now; `None` if that is not known.
        free_in: Option<u64>,
    },
    /// A limit of the task's queue or key holds it back, whichever agent would take it.
    Limited,
    /// It has not the resources free that the task needs.
    Resources,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Obstacle::State(AgentState::Live) => write!(f, "it is live"),
            Obstacle::State(AgentState::Standby) => write!(f, "it is on standby"),
            Obstacle::State(AgentState::Draining) => write!(f, "it is draining"),
            Obstacle::State(AgentState::Lost) => write!(f, "it is lost"),
            Obstacle::State(AgentState::Unhealthy) => write!(f, "it is unhealthy"),
            Obstacle::OutsideTeam => write!(f, "it is not in the task's team"),
            Obstacle::NoStore => write!(f, "it has no object store, where the task's input is"),
            Obstacle::HadTurn => write!(f, "it has had its turn at the task, or has it now"),
            Obstacle::Stopping => write!(f, "it is still stopping an attempt at the task that made no progress"),
            Obstacle::RunsSibling => write!(f, "it runs another part of the same task, which are kept apart"),
            Obstacle::TooSmall { slots } => write!(f, "it never has more than {slots} slots"),
            Obstacle::Busy { free_in: None } => write!(f, "it is busy"),
            Obstacle::Busy { free_in: Some(ms) } => write!(f, "it is busy, and expected to have room in {}", left(*ms)),
            Obstacle::Limited => write!(f, "a limit of the task's queue or key holds the task back"),
            Obstacle::Resources => write!(f, "it has too little free of the resources that the task needs"),
        }
    }
}

/// The agents that could take a task.
#[derive(Debug)]
pub struct Candidates<'a> {
    task: &'a Task,
    now: FleetMillis,
    best: Vec<Candidate>,
    /// The number of all of them.
    count: usize,
    /// The number of agents that lack a role or specialization.
    others: usize,
}

impl<'a> Candidates<'a> {
    /// Returns the candidates for a task at the time `now`, before any agent is looked at.
    pub fn of(task: &'a Task, now: FleetMillis) -> Self {
        Self { task, now, best: Vec::new(), count: 0, others: 0 }
    }

    /// Looks at an agent. One that is gone is none.
    pub fn look(&mut self, fleet: &Fleet, agent: &Agent) {
        if agent.state == AgentState::Lost {
            return;
        }
        if !self.task.needs().suit(agent) {
            self.others += 1;
            return;
        }
        self.count += 1;
        let candidate = self.candidate(fleet, agent);
        let place = |of: &Candidate| (of.obstacle.is_some(), Reverse(of.score.total), Arc::clone(&of.agent));
        let at = self.best.partition_point(|known| place(known) < place(&candidate));
        if at < MAX_CANDIDATES_TOLD {
            self.best.truncate(MAX_CANDIDATES_TOLD - 1);
            self.best.insert(at, candidate);
        }
    }

    /// Returns the best candidates, the number of those that are not among them, and the number of agents that are none.
    pub fn told(self) -> (Vec<Candidate>, usize, usize) {
        let left = self.count - self.best.len();
        (self.best, left, self.others)
    }

    fn candidate(&self, fleet: &Fleet, agent: &Agent) -> Candidate {
        let needs = self.task.needs();
        let matched = agent.has_specialization(needs.domain);
        Candidate {
            agent: Arc::clone(&agent.name),
            state: agent.state,
            score: score(&fleet.config().weights, agent, needs.kind, matched),
            free_slots: agent.free_slots(),
            obstacle: self.obstacle(fleet, agent, needs.slots),
        }
    }

    fn obstacle(&self, fleet: &Fleet, agent: &Agent, slots: u32) -> Option<Obstacle> {
        let task = self.task;
        if agent.state != AgentState::Live {
            return Some(Obstacle::State(agent.state));
        }
        let is_member = |team| fleet.team_of(agent.id).is_some_and(|of_agent| of_agent.id == team);
        if task.team.is_some_and(|team| !is_member(team)) {
            return Some(Obstacle::OutsideTeam);
        }
        if !task.needs().can_fetch(agent) {
            return Some(Obstacle::NoStore);
        }
        let had_turns = task.verification.as_ref().map(|verification| fleet.had_turns(task, verification));
        if had_turns.is_some_and(|agents| agents.contains(&agent.id)) {
            return Some(Obstacle::HadTurn);
        }
        if fleet.still_stopping(task).any(|of| of == agent.id) {
            return Some(Obstacle::Stopping);
        }
        if fleet.runs_sibling(task, agent.id) {
            return Some(Obstacle::RunsSibling);
        }
        if agent.slots < slots {
            return Some(Obstacle::TooSmall { slots: agent.slots });
        }
        if agent.free_slots() < slots {
            let free_at = fleet.expected_free(agent, slots, self.now);
            return Some(Obstacle::Busy { free_in: free_at.map(|at| at.saturating_sub(self.now)) });
        }
        if task.is_ready() && fleet.is_held_back(task) {
            return Some(Obstacle::Limited);
        }
        let free = fleet.contribution(agent.id).map(|found| found.contributed.minus(found.used)).unwrap_or_default();
        let lacks = task.resources.as_ref().is_some_and(|claim| !free.covers(claim.asked.amounts));
        lacks.then_some(Obstacle::Resources)
    }
}
