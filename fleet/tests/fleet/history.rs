//! A history of a fleet: applies generated steps, with the checks after every one.

use std::{collections::BTreeMap, sync::Arc};

use robeing_fleet::{
    AgentCommand, AgentId, AgentState, Command, Completion, ControlCommand, Counts, DropDead, Effect, Feature, Fleet,
    FleetConfig, LossReason, Outcome, PoolCommand, PoolShape, RecoveryEvent, RecoveryStep, Reply, ResourceCommand,
    RetryDead, SessionId, Stamp, Task, TaskCommand, TaskId, TaskState,
    limits::{MAX_FLEET_RECOVERY_STEPS, MAX_RECOVERY_STEPS, SPENT_PROOF_GRACE_MS},
};

use crate::{
    approvals, comparisons, crews, dead, directory, fair, leases, letters, life,
    naive::{self, Wanted},
    ops::{Lie, Op},
    trust, verification, votes,
};

fn changes_state(event: &RecoveryEvent) -> bool {
    use RecoveryEvent::{Lost, Readmitted, Unhealthy};
    matches!(event, Unhealthy { .. } | Lost { .. } | Readmitted { .. })
}

/// A fleet, its log, and what the checks must remember about it.
pub struct History {
    pub fleet: Fleet,
    pub log: Vec<(Stamp, Command)>,
    now: Stamp,
    /// The state before the newest command.
    before: life::Before,
    /// The tasks by acceptance number, as last seen.
    known: BTreeMap<u64, Task>,
    /// All assignments so far.
    assigned: Vec<(AgentId, SessionId, TaskId, u32)>,
    /// The newest fencing number by acceptance number.
    fencing: BTreeMap<Option<u64>, u32>,
    finished: u64,
    accepted_results: u64,
    /// The pools in the newest accepted `SetPools`.
    set: Vec<PoolShape>,
    /// All recovery steps so far.
    recovered: Vec<(AgentId, RecoveryStep)>,
    /// What the other domains should contain.
    trust: trust::Twin,
    letters: letters::Twin,
    votes: votes::Twin,
    crews: crews::Twin,
    leases: leases::Twin,
    directory: directory::Twin,
    fair: fair::Twin,
}

impl History {
    pub fn new() -> History {
        History {
            fleet: Fleet::new(FleetConfig::default()),
            log: Vec::new(),
            // Some of the generated proofs expired so long ago that they are forgotten soon.
            now: Stamp { fleet: 1_000_000, wall: 1_000_000 + SPENT_PROOF_GRACE_MS },
            before: life::Before::default(),
            known: BTreeMap::new(),
            assigned: Vec::new(),
            fencing: BTreeMap::new(),
            finished: 0,
            accepted_results: 0,
            set: Vec::new(),
            recovered: Vec::new(),
            trust: trust::Twin::default(),
            letters: letters::Twin::default(),
            votes: votes::Twin::default(),
            crews: crews::Twin::default(),
            leases: leases::Twin::default(),
            directory: directory::Twin::default(),
            fair: fair::Twin::default(),
        }
    }

    /// Lets time pass, which may go back, then applies `op`, and checks after both.
    pub fn step(&mut self, passing: i64, op: &Op) {
        let Stamp { fleet, wall } = self.now;
        self.now = Stamp { fleet: fleet.saturating_add_signed(passing), wall: wall.saturating_add_signed(passing) };
        self.apply(Command::Control(ControlCommand::Tick));
        let command = self.resolve(op);
        match &command {
            Command::Task(TaskCommand::Submit(submission)) => {
                let submission = naive::filled(&self.fleet, submission);
                let is_held = self.fair.holds(submission.queue(), submission.limit_key(), None);
                let chosen = naive::best(&self.fleet, &Wanted::by_submission(&submission)).filter(|_| !is_held);
                let ready = submission.delay.is_none_or(|d| d == 0) && submission.approval.is_none();
                let is_one = submission.verify.is_none();
                // It may have to come after those that wait for resources.
                let in_turn = submission.resources.is_none() || self.fleet.pool_sums().waiting == 0;
                let (reply, effects) = self.apply(command.clone());
                let Reply::Submitted { task, existing: false } = reply else {
                    return;
                };
                let current = self.fleet.task(task).and_then(|task| task.current());
                let current = current.map(|a| (a.agent, a.score, a.candidates));
                let chosen = chosen.filter(|_| ready && is_one && (in_turn || current.is_some()));
                assert_eq!(current, chosen, "the naive scheduler's choice");
                let of_ballot = |effect: &&Effect| matches!(effect, Effect::BallotOpened { .. } | Effect::Mail { .. });
                let of_ballots = effects.iter().filter(of_ballot).count();
                assert!(!is_one || effects.len() - of_ballots == usize::from(current.is_some()), "{effects:?}");
            }
            Command::Task(TaskCommand::Complete(completion)) => self.complete(completion.clone()),
            Command::Pool(PoolCommand::Set(shapes)) => self.set_pools(shapes.clone()),
            _ => {
                self.apply(command);
            }
        }
    }

    /// Checks that only a completion of the current attempt, by its agent and in its session, changes the task.
    fn complete(&mut self, mut completion: Completion) {
        // As coordinators do: one that is refused would leave its attempt where it is.
        if let Outcome::Failed(failure) = &mut completion.outcome
            && !self.fleet.has(Feature::Timing)
        {
            failure.name.clear();
        }
        let before = self.fleet.task(completion.task).cloned();
        let current = before.as_ref().and_then(|task| task.current());
        let counts = current.is_some_and(|a| {
            (a.agent, a.session, a.number) == (completion.agent, completion.session, completion.attempt)
        });
        let agent = self.fleet.agent(completion.agent).cloned();
        let ends = before.as_deref().filter(|_| counts);
        let is_held = |task: &Task| self.fair.holds(task.queue(), task.limit_key(), ends);
        let freed = agent.as_ref().map_or(0, |a| a.slots_of(completion.task, completion.attempt));
        let live = agent.filter(|a| a.state == AgentState::Live);
        let next = live.and_then(|a| naive::next(&self.fleet, &a, freed, is_held));
        let succeeded = matches!(completion.outcome, Outcome::Succeeded(_) | Outcome::Answered { .. })
            && comparisons::says_something(&self.fleet, &completion);
        let refused = self.fleet.totals().stale_refused;
        let (task, by) = (completion.task, completion.agent);
        let (reply, effects) = self.apply(Command::Task(TaskCommand::Complete(completion)));
        let assigned = effects.iter().find_map(|e| match e {
            Effect::Assign { task, agent, .. } if *agent == by => Some(*task),
            _ => None,
        });
        assert_eq!(reply == Reply::Completed, counts, "{reply:?}");
        if counts {
            self.accepted_results += u64::from(succeeded);
        } else if assigned != Some(task) {
            assert_eq!(self.fleet.task(task), before.as_ref(), "a stale completion");
        }
        if let Reply::Stale(_) = reply {
            assert_eq!(self.fleet.totals().stale_refused, refused + 1);
        }
        if counts && succeeded {
            // A task that needs resources may come first.
            let needs = |id: &TaskId| self.fleet.task(*id).is_some_and(|task| task.resources.is_some());
            // Or the next comparison, if there is nothing else; and what was next may have ended by this.
            let is_new = |id: &TaskId| self.before.tasks.values().all(|task| task.id != *id);
            let has_ended = next.is_some_and(|next| self.fleet.task(next).is_none());
            let other = assigned.as_ref().is_some_and(|id| needs(id) || next.is_none() && is_new(id));
            // Or one of those that the end of other runs of the same task has let start.
            let is_run = before.as_ref().is_some_and(|task| task.member_of.is_some()) && self.fair.has_limits();
            // Or what was next compares what the agent has said by this.
            let name = self.fleet.agent(by).map(|agent| Arc::clone(&agent.name));
            let compared = next.and_then(|next| self.fleet.task(next));
            let is_own = compared.zip(name).is_some_and(|(of, name)| naive::had_turns(&self.fleet, of).contains(&name));
            let is_right = assigned == next || other || has_ended || is_run || is_own;
            assert!(is_right, "the choice is {assigned:?}, that of the naive queue {next:?}");
        }
    }

    /// Checks that the named pools exist with the desired number of agents, and that no live agent is stopped.
    fn set_pools(&mut self, shapes: Vec<PoolShape>) {
        let idle = |fleet: &Fleet| -> Vec<AgentId> {
            fleet.agents().filter(|a| a.state != AgentState::Live).map(|a| a.id).collect()
        };
        let before = idle(&self.fleet);
        if PoolShape::check_all(&shapes).is_ok() {
            self.set.clone_from(&shapes);
        }
        let (reply, _) = self.apply(Command::Pool(PoolCommand::Set(shapes.clone())));
        if let Reply::Refused(_) = reply {
            return;
        }
        assert_eq!(reply, Reply::PoolsSet { revision: self.fleet.revision() });
        assert!(idle(&self.fleet).iter().all(|id| before.contains(id)), "a live agent was stopped");
        let pools = self.fleet.pools();
        for shape in &shapes {
            let found = pools.iter().find(|pool| pool.name == shape.name);
            let desired = found.map(|pool| pool.desired);
            assert!(desired.is_some() && shape.replicas.is_none_or(|n| desired == Some(n)), "{shape:?}: {found:?}");
        }
    }

    #[expect(clippy::too_many_lines, reason = "a table")]
    fn resolve(&self, op: &Op) -> Command {
        let agents: Vec<_> = self.fleet.agents().map(|a| (a.id, a.session)).collect();
        let nobody = |n: u16| (AgentId(u32::from(n)), SessionId(u64::from(n)));
        let pick = |n: u16| agents.get(usize::from(n) % agents.len().max(1)).copied().unwrap_or(nobody(n));
        match op {
            Op::Submit(submission) => Command::Task(TaskCommand::Submit(submission.clone())),
            Op::Cancel(n) => {
                let (task, reason) = (TaskId(u128::from(*n) % 40), "history".to_owned());
                Command::Task(TaskCommand::Cancel { task, reason })
            }
            Op::Join(join) => Command::Agent(AgentCommand::Joined(join.clone())),
            Op::Lose(n, right) => {
                let (agent, session) = pick(*n);
                let session = SessionId(session.0 - u64::from(!*right && session.0 > 0));
                Command::Agent(AgentCommand::Lost { agent, session, reason: LossReason::Silent })
            }
            Op::Drain(n) => {
                let (agent, session) = pick(*n);
                Command::Agent(AgentCommand::Draining { agent, session })
            }
            Op::Leave(n) => {
                let (agent, session) = pick(*n);
                Command::Agent(AgentCommand::Left { agent, session })
            }
            Op::Unhealthy(n, right) => {
                let (agent, session) = pick(*n);
                let session = SessionId(session.0 - u64::from(!*right && session.0 > 0));
                Command::Agent(AgentCommand::Unhealthy { agent, session, reason: format!("because of {n}") })
            }
            Op::Stalled(n, right) => {
                let is_watched = |task: &&Arc<Task>| task.current().is_some() && task.progress_timeout().is_some();
                let watched: Vec<_> = self.fleet.changed_tasks_since(0).filter(is_watched).collect();
                let found = watched.get(usize::from(*n) % watched.len().max(1));
                let (task, attempt) = found.map_or((TaskId(u128::from(*n) % 40), 1), |task| (task.id, task.attempt));
                Command::Task(TaskCommand::Stalled { task, attempt: attempt + u32::from(!*right) })
            }
            Op::RetryDead(n, epoch) => {
                let (task, by) = (dead::pick(&self.fleet, *n), "history".to_owned());
                Command::Task(TaskCommand::RetryDead(RetryDead { task, epoch: *epoch, seed: u64::from(*n), by }))
            }
            Op::DropDead(n, epoch) => {
                let (task, by) = (dead::pick(&self.fleet, *n), "history".to_owned());
                Command::Task(TaskCommand::DropDead(DropDead { task, epoch: *epoch, by }))
            }
            Op::Describe(n, right) => {
                let (agent, session) = pick(*n);
                let session = SessionId(session.0 - u64::from(!*right && session.0 > 0));
                Command::Agent(AgentCommand::Describe { agent, session, sealing_key: [*n as u8; 32] })
            }
            Op::Contribute(n, amounts, right) => {
                let (agent, session) = pick(*n);
                let session = SessionId(session.0 - u64::from(!*right && session.0 > 0));
                Command::Resource(ResourceCommand::Contribute { agent, session, amounts: *amounts })
            }
            Op::Healthy(n, readmit) => {
                let (agent, session) = pick(*n);
                Command::Agent(AgentCommand::Healthy { agent, session, readmit: *readmit })
            }
            Op::Complete(n, outcome, lie) => self.completion(*n, outcome.clone(), *lie),
            Op::Tick => Command::Control(ControlCommand::Tick),
            Op::Configure(config) => Command::Control(ControlCommand::Configure(config.clone())),
            Op::Raise(version) => Command::Control(ControlCommand::RaiseVersion(*version)),
            Op::SetPools(shapes) => Command::Pool(PoolCommand::Set(shapes.clone())),
            Op::Other(command) => command.clone(),
        }
    }

    fn completion(&self, n: u16, outcome: Outcome, lie: Lie) -> Command {
        let held = self
            .fleet
            .agents()
            .flat_map(|a| a.held().map(|h| (a.id, a.session, h.task, h.attempt)).collect::<Vec<_>>());
        let mut choice: Vec<_> = held.collect();
        if choice.is_empty() || matches!(lie, Lie::Old) {
            choice.clone_from(&self.assigned);
        }
        let nobody = (AgentId(0), SessionId(0), TaskId(0), 0);
        let (mut agent, mut session, task, mut attempt) = match choice.is_empty() {
            true => nobody,
            false => choice[usize::from(n) % choice.len()],
        };
        match lie {
            Lie::None | Lie::Old => {}
            Lie::Session => session.0 = session.0.wrapping_add(1),
            Lie::Attempt => attempt = attempt.wrapping_add(1),
            Lie::Agent => agent.0 = agent.0.wrapping_add(1),
        }
        let outcome = verification::compared(&self.fleet, task, outcome);
        Command::Task(TaskCommand::Complete(Completion {
            agent,
            session,
            task,
            attempt,
            ran_us: u64::from(n),
            outcome,
        }))
    }

    fn apply(&mut self, command: Command) -> (Reply, Vec<Effect>) {
        self.log.push((self.now, command.clone()));
        let revision = self.fleet.revision();
        life::look(&self.fleet, &mut self.before);
        let mut effects = Vec::new();
        let reply = self.fleet.apply(self.now, command.clone(), &mut effects);
        self.check(revision, &effects);
        life::check(&self.before, &self.fleet, &command, &reply, &effects);
        self.trust.check(&self.before, &self.fleet, (&command, &reply), &effects);
        self.votes.check(&self.fleet, (&command, &reply), &effects, &self.letters);
        self.letters.check(&self.fleet, (&command, &reply), &effects);
        self.crews.check(&self.fleet, (&command, &reply), &effects);
        self.leases.check(&self.fleet, &command, &reply);
        self.directory.check(&self.fleet, &command, &effects);
        self.fair.check(&self.before, &self.fleet, (&command, &reply), &effects);
        dead::check(&self.fleet, &self.before, (&command, &reply));
        approvals::check(&self.fleet, &self.before);
        verification::check(&self.fleet, &self.before);
        (reply, effects)
    }

    fn check(&mut self, revision: u64, effects: &[Effect]) {
        if let Err(problem) = self.fleet.audit() {
            panic!("{problem}\nlog: {:#?}", self.log.iter().rev().take(5).collect::<Vec<_>>());
        }
        self.check_effects(effects);
        self.check_tasks(revision);
        self.check_pools();
        self.check_recoveries();
        let totals = self.fleet.totals();
        let finals = totals.succeeded + totals.failed + totals.cancelled + totals.dead_lettered;
        assert_eq!(finals, self.finished, "each final state is reported once");
        assert!(totals.succeeded <= self.accepted_results + 1);
        let agents: Vec<u64> = self.fleet.changed_agents_since(0).map(|a| a.revision).collect();
        assert!(agents.is_sorted_by(|a, b| a < b));
        assert_eq!(agents.len(), self.fleet.agents().count());
    }

    /// Checks that set sizes stay, whatever joining agents report and however few agents there are.
    fn check_pools(&self) {
        let pools = self.fleet.pools();
        for shape in self.set.iter().filter(|shape| shape.replicas.is_some()) {
            let found = pools.iter().find(|pool| pool.name == shape.name);
            assert_eq!(found.map(|pool| pool.desired), shape.replicas, "{shape:?}");
        }
    }

    /// Checks that the reported recovery steps are those that are kept: the newest of each agent, and the newest of
    /// all. The last step must match the agent's state.
    fn check_recoveries(&self) {
        for agent in self.fleet.agents() {
            let told: Vec<_> = self.recovered.iter().filter(|(of, _)| *of == agent.id).map(|(_, step)| step).collect();
            let kept: Vec<_> = agent.recovery.steps().iter().collect();
            assert_eq!(kept, told[told.len().saturating_sub(MAX_RECOVERY_STEPS)..], "{}", agent.name);
            let down = matches!(agent.state, AgentState::Unhealthy | AgentState::Lost);
            let last = told.iter().rev().find(|step| changes_state(&step.event));
            let told_down = last.is_some_and(|step| !matches!(step.event, RecoveryEvent::Readmitted { .. }));
            assert!(down == told_down || agent.state == AgentState::Draining, "{:?}: {told:#?}", agent.state);
        }
        let kept: Vec<_> = self.fleet.recovery_steps().map(|kept| (kept.number, &kept.step)).collect();
        let told = (1..).zip(self.recovered.iter().map(|(_, step)| step));
        let told: Vec<_> = told.skip(self.recovered.len().saturating_sub(MAX_FLEET_RECOVERY_STEPS)).collect();
        assert_eq!(kept, told);
    }

    fn check_effects(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::Assign { agent, session, task, attempt } => {
                    self.assigned.push((*agent, *session, *task, *attempt));
                    // A submission with the id of a forgotten task is a new task.
                    let seq = self.fleet.task(*task).map(|t| t.seq);
                    let last = self.fencing.insert(seq, *attempt).unwrap_or(0);
                    // A member may be gone again.
                    assert!(seq.is_none() || *attempt > last, "fencing number {attempt} after {last}");
                    let state = self.fleet.agent(*agent).map(|a| a.state);
                    assert_eq!(state, Some(AgentState::Live), "{task} was given to an agent that must get nothing");
                }
                Effect::Recovery { agent, step } => self.recovered.push((*agent, step.clone())),
                Effect::Finished { .. } => self.finished += 1,
                _ => {}
            }
        }
    }

    /// Checks that no accepted task disappears before its TTL, finished tasks never change, fencing numbers grow, and
    /// the changes since a revision are exactly what changed.
    fn check_tasks(&mut self, revision: u64) {
        let changed: BTreeMap<u64, u64> =
            self.fleet.changed_tasks_since(revision).map(|t| (t.seq, t.revision)).collect();
        let now: BTreeMap<u64, Task> = self.fleet.changed_tasks_since(0).map(|t| (t.seq, Task::clone(t))).collect();
        for (seq, before) in &self.known {
            let Some(task) = now.get(seq) else {
                let expired = before.expires_at.is_some_and(|t| t <= self.fleet.now().fleet);
                assert!(expired || before.member_of.is_some(), "{} disappeared: {before:?}", before.id);
                continue;
            };
            if before.state.is_final() {
                dead::check_final(before, task, self.fleet.now().fleet);
            }
            assert!(before.attempt <= task.attempt);
            assert!(changed.contains_key(seq) || before == task, "a change was not reported");
        }
        for seq in changed.keys() {
            assert!(self.known.get(seq) != now.get(seq), "reported as changed, but nothing changed");
        }
        let count = |state| now.values().filter(|t| t.state == state).count() as u32;
        let recount = Counts {
            queued: count(TaskState::Queued),
            assigned: count(TaskState::Assigned),
            succeeded: count(TaskState::Succeeded),
            failed: count(TaskState::Failed),
            cancelled: count(TaskState::Cancelled),
            dead_lettered: count(TaskState::DeadLettered),
        };
        assert_eq!(self.fleet.counts(), recount);
        let bytes: u64 = now.values().map(Task::stored_bytes).sum();
        assert_eq!(self.fleet.stored_bytes(), bytes);
        self.known = now;
    }
}
