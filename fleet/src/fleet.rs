//! The fleet: its state, and `apply`, the only way to change it. The modules of `tasks`, `agents` and `timers`
//! implement the commands.

use std::sync::Arc;

use bilrost::Message;

use crate::{
    Agent, AgentId, AgentState, Command, ControlCommand, Effect, Feature, FleetConfig, PoolCommand, Refusal, Reply,
    Stamp, Task, TaskState,
    agents::{
        directory::{DirectoryChanges, Shown},
        state::Agents,
    },
    archive::Archive,
    audit_log::state::AuditLog,
    ballots::state::Ballots,
    identity::state::Identity,
    indexes::Indexes,
    kinds::TaskKinds,
    limits::{DEFAULT_QUEUE, MAX_FIRINGS, MAX_TIME_MS},
    mail::state::Mail,
    policies::Policies,
    queues::state::Queues,
    resources::state::Resources,
    schedule::speed::KindTimes,
    schedules::state::Schedules,
    snapshot::Snapshots,
    steps::Jobs,
    tasks::{keys::SpentKeys, links::settling::Unsettled, state::Tasks},
    teams::{members::ChangedAgents, state::Teams},
    version::{FIRST_VERSION, known_version},
};

/// Totals since the fleet was created.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Message)]
#[bilrost(distinguished)]
pub struct Totals {
    /// Tasks accepted.
    #[bilrost(1)]
    pub submitted: u64,
    /// Tasks that succeeded.
    #[bilrost(2)]
    pub succeeded: u64,
    /// Tasks that failed.
    #[bilrost(3)]
    pub failed: u64,
    /// Tasks that were cancelled.
    #[bilrost(4)]
    pub cancelled: u64,
    /// Tasks that were dead-lettered.
    #[bilrost(5)]
    pub dead_lettered: u64,
    /// Tasks of lost agents that were queued again.
    #[bilrost(6)]
    pub redistributed: u64,
    /// Completions that were refused because their attempt was not current.
    #[bilrost(7)]
    pub stale_refused: u64,
}

/// The content of a snapshot; everything else is computed from it. Tasks and agents are shared with the readers and
/// snapshots that hold them, and are copied before a change if they are shared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct State {
    pub version: u32,
    pub config: FleetConfig,
    /// The latest fleet time seen, and the wall time of the newest command.
    pub now: Stamp,
    pub revision: u64,
    pub totals: Totals,
    pub tasks: Tasks,
    pub agents: Agents,
    pub kinds: KindTimes,
    pub identity: Identity,
    pub audit_log: AuditLog,
    pub mail: Mail,
    pub policies: Policies,
    pub ballots: Ballots,
    pub teams: Teams,
    pub resources: Resources,
    pub task_kinds: TaskKinds,
    pub queues: Queues,
    pub schedules: Schedules,
    pub keys: SpentKeys,
    pub archive: Archive,
}

/// How far a command has been applied.
#[derive(Debug)]
pub enum Progress {
    /// The command was applied completely, with this reply.
    Done(Reply),
    /// The command was applied partly; [`Fleet::advance`] continues.
    Halfway(Unfinished),
}

/// The rest of a command that is being applied. Boxed, because most commands finish immediately and would otherwise
/// move a large value for nothing.
#[derive(Debug)]
pub struct Unfinished(Box<Rest>);

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it is boxed whole, and the commands that need steps are of the large kind"
)]
enum Rest {
    /// Fires at most `left_to_fire` due timers, then runs the command.
    Fire { left_to_fire: usize, command: Command },
    /// Does the work of the command after its first step.
    Work { reply: Reply, jobs: Jobs },
}

/// The replicated state of a fleet.
#[derive(Clone, Debug)]
pub struct Fleet {
    pub(crate) state: State,
    pub(crate) indexes: Indexes,
    /// The snapshots that are being taken.
    pub(crate) snapshots: Snapshots,
    /// What the running step has changed in the directory.
    pub(crate) directory: DirectoryChanges,
    /// The agents that the running step has changed, which may matter to teams.
    pub(crate) changed_agents: ChangedAgents,
    /// What the ends of tasks still mean for others; nothing between two commands.
    pub(crate) unsettled: Unsettled,
    /// The agents that take their next tasks in further steps of the running command; none between two commands.
    pub(crate) pulls: Vec<AgentId>,
}

impl Fleet {
    /// Returns an empty fleet. A configuration that [`FleetConfig::check`] refuses is replaced by the default.
    pub fn new(config: FleetConfig) -> Fleet {
        let config = match config.check() {
            Ok(()) => config,
            Err(_) => FleetConfig::default(),
        };
        let state = State {
            version: FIRST_VERSION,
            config,
            now: Stamp::default(),
            revision: 0,
            totals: Totals::default(),
            tasks: Tasks::default(),
            agents: Agents::default(),
            kinds: KindTimes::default(),
            identity: Identity::default(),
            audit_log: AuditLog::default(),
            mail: Mail::default(),
            policies: Policies::default(),
            ballots: Ballots::default(),
            teams: Teams::default(),
            resources: Resources::default(),
            task_kinds: None,
            queues: Queues::default(),
            schedules: Schedules::default(),
            keys: SpentKeys::default(),
            archive: Archive::default(),
        };
        Fleet::from_state(state)
    }

    pub(crate) fn from_state(state: State) -> Fleet {
        let indexes = Indexes::rebuild(&state);
        Fleet {
            state,
            indexes,
            snapshots: Snapshots::default(),
            directory: DirectoryChanges::default(),
            changed_agents: ChangedAgents::default(),
            unsettled: Unsettled::default(),
            pulls: Vec::new(),
        }
    }

    /// Fires what is due by `now` (at most [`MAX_FIRINGS`] timers), then applies `command` and appends the effects. A
    /// fleet time lower than the latest seen is replaced by the latest seen. Any wall time is accepted, because no
    /// timer depends on it. A refused command itself changes nothing but the audit log; one about
    /// identities also forgets used proofs that have expired, as each does.
    pub fn apply(&mut self, now: Stamp, command: Command, effects: &mut Vec<Effect>) -> Reply {
        let mut progress = self.begin(now, command, usize::MAX, effects);
        loop {
            match progress {
                Progress::Done(reply) => return reply,
                Progress::Halfway(unfinished) => progress = self.advance(unfinished, usize::MAX, effects),
            }
        }
    }

    /// Begins to apply a command and takes at most about `steps` steps, each of a small cost that does not grow with
    /// the fleet. If steps are left, [`Fleet::advance`] takes them, and nothing else may be applied until they are
    /// done. The result is that of [`Fleet::apply`], however the steps are divided.
    pub fn begin(&mut self, now: Stamp, command: Command, steps: usize, effects: &mut Vec<Effect>) -> Progress {
        let fleet = now.fleet.min(MAX_TIME_MS).max(self.state.now.fleet);
        self.state.now = Stamp { fleet, wall: now.wall.min(MAX_TIME_MS) };
        self.fire_due(MAX_FIRINGS, command, steps, effects)
    }

    /// Takes at most about `steps` more steps.
    pub fn advance(&mut self, unfinished: Unfinished, steps: usize, effects: &mut Vec<Effect>) -> Progress {
        match *unfinished.0 {
            Rest::Fire { left_to_fire, command } => self.fire_due(left_to_fire, command, steps, effects),
            Rest::Work { reply, jobs } => self.work_off(reply, jobs, steps, effects),
        }
    }

    fn fire_due(
        &mut self,
        mut left_to_fire: usize,
        command: Command,
        mut steps: usize,
        effects: &mut Vec<Effect>,
    ) -> Progress {
        while left_to_fire > 0 || self.has_opened() {
            if steps == 0 {
                return Progress::Halfway(Unfinished(Box::new(Rest::Fire { left_to_fire, command })));
            }
            let due = if left_to_fire > 0 { self.indexes.timers.pop_due(self.state.now.fleet) } else { None };
            match due {
                Some(timer) => {
                    self.fire(timer, effects);
                    left_to_fire -= 1;
                }
                // Those that were held back come before what the command submits.
                None if self.has_opened() => self.admit_one(effects),
                None => break,
            }
            self.report_directory(effects);
            steps -= 1;
        }
        let mut jobs = Jobs::default();
        let reply = self.run(command, &mut jobs, effects);
        self.end_step(&mut jobs, effects);
        if jobs.is_empty() {
            return Progress::Done(reply);
        }
        self.work_off(reply, jobs, steps, effects)
    }

    /// Does what every step of a command ends with. Timers change nothing that matters to the members of teams. What
    /// they mean for tasks with links is done with the command that follows.
    pub(crate) fn end_step(&mut self, jobs: &mut Jobs, effects: &mut Vec<Effect>) {
        self.settle_teams(jobs, effects);
        for agent in std::mem::take(&mut self.pulls) {
            jobs.pull_afterwards(agent);
        }
        self.schedule_settling(jobs);
        if self.has_opened() {
            jobs.admit_next();
        }
        self.archive_excess(effects);
        self.report_directory(effects);
    }

    #[cold]
    fn work_off(&mut self, reply: Reply, mut jobs: Jobs, steps: usize, effects: &mut Vec<Effect>) -> Progress {
        if !self.work(&mut jobs, steps, effects) {
            return Progress::Halfway(Unfinished(Box::new(Rest::Work { reply, jobs })));
        }
        Progress::Done(match reply {
            Reply::PoolsSet { .. } => Reply::PoolsSet { revision: self.state.revision },
            reply => reply,
        })
    }

    fn run(&mut self, command: Command, jobs: &mut Jobs, effects: &mut Vec<Effect>) -> Reply {
        if let Err(refusal) = self.check_feature(&command) {
            return Reply::Refused(refusal);
        }
        match command {
            Command::Task(command) => self.run_task(command, jobs, effects),
            Command::Agent(command) => self.run_agent(command, jobs, effects),
            Command::Pool(PoolCommand::Set(shapes)) => self.set_pools(shapes, jobs),
            Command::Control(ControlCommand::Tick) => Reply::Done,
            Command::Control(ControlCommand::Configure(config)) => self.configure(config, jobs),
            Command::Control(ControlCommand::RaiseVersion(version)) => self.raise_version(version),
            Command::Identity(command) => self.run_identity(command, jobs, effects),
            Command::Audit(command) => self.run_audit(command),
            Command::Mail(command) => self.run_mail(command, effects),
            Command::Policy(command) => self.run_policies(command, effects),
            Command::Ballot(command) => self.run_ballots(command, jobs, effects),
            Command::Team(command) => self.run_teams(command, jobs, effects),
            Command::Resource(command) => self.run_resources(command, effects),
            Command::Kind(command) => self.run_kinds(command),
            Command::Queue(command) => self.run_queues(command, jobs),
            Command::Schedule(command) => self.run_schedules(command, jobs, effects),
        }
    }

    fn raise_version(&mut self, asked: u32) -> Reply {
        let current = self.state.version;
        if asked < current || asked > known_version() {
            return Reply::Refused(Refusal::Version { asked, current, known: known_version() });
        }
        if !self.has(Feature::Queues) && asked >= Feature::Queues.since() {
            self.begin_sharing();
        }
        self.state.version = asked;
        Reply::Done
    }

    /// Has the submitters of the tasks count that are accepted from now on.
    fn begin_sharing(&mut self) {
        let waits = self.indexes.schedule.gate.has_tasks();
        self.state.queues.shared_from = if waits { self.state.tasks.next_seq } else { 0 };
        self.indexes.schedule.shared_from = self.state.queues.shared_from;
    }

    pub(crate) fn next_revision(&mut self) -> u64 {
        self.state.revision += 1;
        self.state.revision
    }

    /// Changes a task and updates all indexes. Does nothing if there is no such task.
    pub(crate) fn change_task<R>(&mut self, seq: u64, change: impl FnOnce(&mut Task) -> R) -> Option<R> {
        let task = self.state.tasks.kept.get_mut(&seq)?;
        self.snapshots.save_task(task);
        let task = Arc::make_mut(task);
        self.indexes.leave_task(task);
        let ran_on = task.spread_on();
        let result = change(task);
        self.state.revision += 1;
        task.revision = self.state.revision;
        let freed = task.take_freed();
        let left = ran_on.filter(|on| task.spread_on() != Some(*on));
        self.indexes.enter_task(task);
        if let Some(allocation) = freed {
            self.free_attempt(allocation);
        }
        if let Some((parent, _)) = left {
            self.note_left(parent);
        }
        Some(result)
    }

    /// Changes anything of an agent but its name, and updates all indexes. Does nothing if there is no such agent.
    pub(crate) fn change_agent<R>(&mut self, id: AgentId, change: impl FnOnce(&mut Agent) -> R) -> Option<R> {
        let agent = self.state.agents.known.get_mut(&id)?;
        self.snapshots.save_agent(agent);
        let agent = Arc::make_mut(agent);
        let weights = &self.state.config.weights;
        self.indexes.leave_agent(agent, weights);
        let (before, was_live) = (Shown::of(agent), agent.state == AgentState::Live);
        let result = change(agent);
        self.state.revision += 1;
        agent.revision = self.state.revision;
        self.indexes.enter_agent(agent, weights);
        if before != Shown::of(agent) {
            self.directory.note(&agent.name);
            if !self.indexes.teams.open.is_empty() {
                self.changed_agents.note(id);
            }
        }
        if was_live != (agent.state == AgentState::Live) {
            // More may be free, or what waits for this agent no longer keeps others waiting.
            self.wake_allocations();
        }
        Some(result)
    }

    /// As [`Fleet::change_agent`], at a lower cost, for changes of only the held attempts, the record or the recovery.
    pub(crate) fn change_work<R>(&mut self, id: AgentId, change: impl FnOnce(&mut Agent) -> R) -> Option<R> {
        let agent = self.state.agents.known.get_mut(&id)?;
        self.snapshots.save_agent(agent);
        let agent = Arc::make_mut(agent);
        let weights = &self.state.config.weights;
        self.indexes.leave_work(agent, weights);
        let before = agent.record.twentieths();
        let result = change(agent);
        self.state.revision += 1;
        agent.revision = self.state.revision;
        self.indexes.enter_work(agent, weights);
        if before != agent.record.twentieths() {
            self.indexes.teams.rerank(agent, before);
            self.directory.note(&agent.name);
        }
        Some(result)
    }

    /// Moves a task to its final state and reports that as an effect.
    pub(crate) fn finish(
        &mut self,
        seq: u64,
        state: TaskState,
        effects: &mut Vec<Effect>,
        change: impl FnOnce(&mut Task, Stamp),
    ) {
        let now = self.state.now;
        self.disband(seq, effects);
        let keeps_dead = self.has(Feature::DeadLetters);
        let finished = self.change_task(seq, |task| {
            change(task, now);
            if keeps_dead {
                task.note_death(now);
            }
            let is_of_queue = *task.queue() != *DEFAULT_QUEUE;
            (task.id, task.displaced_from.take(), task.team.is_some(), task.links.is_some(), is_of_queue)
        });
        let Some((task, displaced_from, is_of_team, is_linked, is_of_queue)) = finished else { return };
        if is_of_queue {
            self.forget_left_share(seq);
        }
        if is_of_team {
            self.count_team_end(seq);
        }
        let totals = &mut self.state.totals;
        let total = match state {
            TaskState::Succeeded => &mut totals.succeeded,
            TaskState::Cancelled => &mut totals.cancelled,
            TaskState::DeadLettered => &mut totals.dead_lettered,
            _ => &mut totals.failed,
        };
        *total = total.saturating_add(1);
        self.bound_dead_letters();
        effects.push(Effect::Finished { task });
        if let Some(from) = displaced_from {
            self.settle_displaced(from, effects);
        }
        self.run_ended(task, state);
        self.task_is_gone(task, effects);
        self.note_end(seq, is_linked);
    }
}
