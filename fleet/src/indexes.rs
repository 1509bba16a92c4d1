//! The indexes: everything that is computed from the state and kept, so that no operation has to search the state. Each
//! change of a task or an agent is bracketed by `leave` and `enter`. Rebuilding from the state gives equal indexes,
//! which the audit checks.

use crate::{
    Agent, HeldState, Task, Weights,
    agents::indexes::AgentIndexes,
    archive::indexes::ArchiveIndexes,
    ballots::{Ballot, indexes::BallotIndexes},
    fleet::State,
    identity::indexes::IdentityIndexes,
    mail::{Letter, indexes::MailIndexes},
    resources::{Allocation, indexes::ResourceIndexes},
    schedule::Schedule,
    schedules::indexes::ScheduleIndexes,
    tasks::{indexes::TaskIndexes, keys::KeyIndexes, links::indexes::LinkIndexes},
    teams::{Team, indexes::TeamIndexes},
    timers::Timers,
};

/// The indexes of all domains.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Indexes {
    pub tasks: TaskIndexes,
    pub archive: ArchiveIndexes,
    pub links: LinkIndexes,
    pub agents: AgentIndexes,
    pub identity: IdentityIndexes,
    pub mail: MailIndexes,
    pub ballots: BallotIndexes,
    pub teams: TeamIndexes,
    pub resources: ResourceIndexes,
    pub schedules: ScheduleIndexes,
    pub keys: KeyIndexes,
    pub schedule: Schedule,
    pub timers: Timers,
}

impl Indexes {
    /// Computes the indexes from the state.
    pub(crate) fn rebuild(state: &State) -> Indexes {
        let mut indexes = Indexes { schedule: Schedule::of(state), ..Indexes::default() };
        for task in state.tasks.kept.values() {
            indexes.add_task(task);
        }
        indexes.enter_archive(state);
        for task in state.tasks.kept.values() {
            indexes.link(task, state);
        }
        if let Some(at) = indexes.schedule.set_bucket_timer() {
            indexes.timers.set_buckets(at);
        }
        for letter in state.mail.letters.iter() {
            indexes.enter_letter(letter);
        }
        for authority in state.ballots.authorities.iter() {
            indexes.ballots.enter_authority(authority);
        }
        for ballot in state.ballots.kept.iter() {
            indexes.enter_ballot(ballot);
        }
        for team in state.teams.kept.iter() {
            indexes.enter_team(team);
        }
        for contribution in state.resources.contributions.iter() {
            indexes.resources.enter_contribution(contribution);
        }
        for allocation in state.resources.allocations.iter() {
            indexes.enter_allocation(allocation);
        }
        if let Some(at) = state.resources.sweep {
            indexes.timers.set_sweep(at);
        }
        for schedule in state.schedules.kept.iter() {
            indexes.schedules.enter(schedule);
        }
        for key in state.keys.kept.iter() {
            indexes.keys.enter(key);
        }
        if let Some(at) = indexes.keys.due() {
            indexes.timers.set_keys(at);
        }
        // As if no agent had a session; entering the agents corrects that.
        indexes.identity = IdentityIndexes::rebuild(&state.identity);
        for agent in state.agents.known.values() {
            indexes.enter_agent(agent, &state.config.weights);
            let stopping = agent.held.iter().filter(|(_, held)| **held == HeldState::Stopping);
            stopping.for_each(|((task, attempt), _)| indexes.agents.stopping.insert((*task, *attempt, agent.id)));
        }
        indexes
    }

    /// Indexes a new task.
    pub(crate) fn add_task(&mut self, task: &Task) {
        self.tasks.add(task);
        self.enter_task(task);
    }

    /// Removes a task that is forgotten.
    pub(crate) fn drop_task(&mut self, task: &Task) {
        self.leave_task(task);
        self.tasks.drop(task);
        self.links.drop(task);
    }

    /// Indexes a task after a change.
    pub(crate) fn enter_task(&mut self, task: &Task) {
        self.tasks.enter(task);
        self.links.enter(task);
        self.timers.set_task(task);
        self.enter_recent(task);
        self.schedule.enter_task(task);
        self.teams.enter_task(task);
    }

    /// Removes a task before a change.
    pub(crate) fn leave_task(&mut self, task: &Task) {
        self.tasks.leave(task);
        self.links.leave(task);
        self.timers.clear_task(task);
        self.leave_recent(task);
        self.schedule.leave_task(task);
        self.teams.leave_task(task);
    }

    /// Indexes a letter, or its new state after a change.
    pub(crate) fn enter_letter(&mut self, letter: &Letter) {
        self.mail.enter(letter);
        self.timers.set_letter(letter);
    }

    /// Removes a letter, or its old state before a change.
    pub(crate) fn leave_letter(&mut self, letter: &Letter) {
        self.mail.leave(letter);
        self.timers.clear_letter(letter);
    }

    /// Indexes a ballot, or its new state after a change.
    pub(crate) fn enter_ballot(&mut self, ballot: &Ballot) {
        self.ballots.enter(ballot);
        self.timers.set_ballot(ballot);
    }

    /// Removes a ballot, or its old state before a change.
    pub(crate) fn leave_ballot(&mut self, ballot: &Ballot) {
        self.ballots.leave(ballot);
        self.timers.clear_ballot(ballot);
    }

    /// Indexes a team, or its new state after a change.
    pub(crate) fn enter_team(&mut self, team: &Team) {
        self.teams.enter(team);
        self.timers.set_team(team);
    }

    /// Removes a team, or its old state before a change.
    pub(crate) fn leave_team(&mut self, team: &Team) {
        self.teams.leave(team);
        self.timers.clear_team(team);
    }

    /// Indexes an allocation, or its new state after a change.
    pub(crate) fn enter_allocation(&mut self, allocation: &Allocation) {
        self.resources.enter(allocation);
        self.timers.set_allocation(allocation);
    }

    /// Removes an allocation, or its old state before a change.
    pub(crate) fn leave_allocation(&mut self, allocation: &Allocation) {
        self.resources.leave(allocation);
        self.timers.clear_allocation(allocation);
    }

    /// Indexes an agent after a change.
    pub(crate) fn enter_agent(&mut self, agent: &Agent, weights: &Weights) {
        self.agents.enter(agent);
        self.resources.enter_agent(agent);
        self.identity.enter_agent(agent);
        self.teams.enter_agent(agent);
        self.enter_work(agent, weights);
        self.timers.set_agent(agent);
    }

    /// Removes an agent before a change.
    pub(crate) fn leave_agent(&mut self, agent: &Agent, weights: &Weights) {
        self.agents.leave(agent);
        self.identity.leave_agent(agent);
        self.teams.leave_agent(agent);
        self.leave_work(agent, weights);
        self.timers.clear_agent(agent);
    }

    /// Indexes an agent after a change of only its held attempts, its record or its recovery.
    pub(crate) fn enter_work(&mut self, agent: &Agent, weights: &Weights) {
        self.agents.enter_work(agent);
        self.schedule.free.insert(agent, weights);
    }

    /// Removes an agent before a change of only its held attempts, its record or its recovery.
    pub(crate) fn leave_work(&mut self, agent: &Agent, weights: &Weights) {
        self.agents.leave_work(agent);
        self.schedule.free.remove(agent, weights);
    }
}
