//! Generated histories: what may happen to a fleet, and the checks after every step.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use robeing_fleet::{
    AgentCommand, AgentId, AgentJoin, AgentState, Command, Completion, ControlCommand, Counts, Effect, Failure,
    FailureKind, Fleet, FleetConfig, LossReason, Outcome, PoolCommand, PoolShape, RecoveryEvent, RecoveryStep, Reply,
    RetryPolicy, Role, SessionId, Stamp, SubmitTask, Task, TaskCommand, TaskId, TaskState, Weights,
    limits::{MAX_FLEET_RECOVERY_STEPS, MAX_RECOVERY_STEPS},
};

use crate::{
    life,
    naive::{self, Wanted},
};

pub const KINDS: [&str; 4] = ["sum", "parse", "scan", "mail"];
const ROLES: [Role; 4] = [Role::Worker, Role::Specialist, Role::Messenger, Role::Guardian];

/// How a completion is falsified.
#[derive(Clone, Copy, Debug)]
pub enum Lie {
    None,
    Session,
    Attempt,
    Agent,
    /// It is for an attempt that was assigned earlier.
    Old,
}

/// One step. Numbers are taken modulo the number of candidates.
#[derive(Clone, Debug)]
pub enum Op {
    Submit(SubmitTask),
    Cancel(u16),
    Join(AgentJoin),
    Lose(u16, bool),
    Drain(u16),
    Leave(u16),
    Unhealthy(u16, bool),
    Healthy(u16, bool),
    Complete(u16, Outcome, Lie),
    Tick,
    Configure(FleetConfig),
    Raise(u32),
    SetPools(Vec<PoolShape>),
}

fn changes_state(event: &RecoveryEvent) -> bool {
    use RecoveryEvent::{Lost, Readmitted, Unhealthy};
    matches!(event, Unhealthy { .. } | Lost { .. } | Readmitted { .. })
}

fn name_of(n: u8) -> String {
    format!("agent-{n}")
}

prop_compose! {
    fn submission()(
        id in 0..40u128, kind in 0..4usize, size in 0..64usize, priority in 0..12u8,
        deadline_in in prop::option::weighted(0.2, 0..20_000u64),
        delay in prop::option::weighted(0.2, 0..5_000u64),
        attempt_timeout in prop::option::weighted(0.3, 0..3_000u64),
        attempts in 0..4u32, backoff in 0..500u64,
        (role, skill, key, ttl) in (
            prop::option::weighted(0.2, 0..4usize),
            prop::option::weighted(0.2, 0..4usize),
            prop::option::weighted(0.2, 0..6u8),
            prop::option::weighted(0.5, 0..5_000u64),
        ),
    ) -> SubmitTask {
        SubmitTask {
            priority,
            deadline_in,
            delay,
            attempt_timeout,
            retry: Some(RetryPolicy {
                max_attempts: attempts,
                initial_backoff: backoff,
                max_backoff: 2_000,
                multiplier_percent: 150,
            }),
            required_role: role.map(|r| ROLES[r]),
            required_specialization: skill.map(|s| KINDS[s].to_owned()),
            idempotency_key: key.map(|k| format!("key-{k}")),
            result_ttl: ttl,
            submitter: "history".to_owned(),
            ..SubmitTask::new(TaskId(id), KINDS[kind], Bytes::from(vec![id as u8; size / 32]))
        }
    }
}

prop_compose! {
    fn joining()(
        name in 0..9u8, incarnation in 0..3u64, role in 0..6usize, skills in prop::collection::vec(0..4usize, 0..3),
        slots in 0..4u32, pool in prop::option::of((0..2u8, prop::option::of(0..4u32), 0..3u32)),
    ) -> AgentJoin {
        AgentJoin {
            name: name_of(name),
            incarnation,
            role: *ROLES.get(role).unwrap_or(&Role::Worker),
            pool: pool.map(|(n, replicas, standby)| PoolShape { name: format!("pool-{n}"), replicas, standby }),
            specializations: skills.into_iter().map(|s| KINDS[s].to_owned()).collect(),
            slots,
            address: "127.0.0.1:1".to_owned(),
        process: Some(std::net::SocketAddr::from(([127, 0, 0, 1], 1))),
            pid: 1,
            version: "1".to_owned(),
        }
    }
}

fn outcome() -> impl Strategy<Value = Outcome> {
    let kinds =
        prop::sample::select(vec![FailureKind::Exit, FailureKind::TimedOut, FailureKind::Deadline, FailureKind::Http]);
    let asked = prop_oneof![3 => Just(0), 1 => 1..3_000u64, 1 => Just(u64::MAX)];
    let failed = (kinds, prop::bool::weighted(0.8), asked).prop_map(|(kind, retryable, retry_after_ms)| {
        Outcome::Failed(Failure {
            kind,
            message: "no".to_owned(),
            code: Some(1),
            stderr_tail: String::new(),
            retryable,
            retry_after_ms,
        })
    });
    prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 0..4).prop_map(|v| Outcome::Succeeded(v.into())),
        3 => failed,
        1 => Just(Outcome::Stopped),
        1 => Just(Outcome::HandedBack),
    ]
}

prop_compose! {
    fn configuration()(
        specialization in -1..60i32, load in -20..5i32, performance in -5..30i32,
        max_queued in 0..30u32, max_tasks in 5..40u32, max_bytes in 0..200u64, lost_agent_ttl in 0..20_000u64,
    ) -> FleetConfig {
        FleetConfig {
            weights: Weights { specialization, load, performance },
            result_ttl: 3_000,
            max_queued, max_tasks, max_bytes, lost_agent_ttl,
            ..FleetConfig::default()
        }
    }
}

/// Shapes that sometimes repeat a name, which is refused, or name a pool that no agent joins.
fn pools() -> impl Strategy<Value = Vec<PoolShape>> {
    let shape = (0..3u8, prop::option::weighted(0.8, 0..5u32), 0..3u32);
    let shape = shape.prop_map(|(n, replicas, standby)| PoolShape { name: format!("pool-{n}"), replicas, standby });
    prop::collection::vec(shape, 0..3)
}

fn op() -> impl Strategy<Value = Op> {
    let lie = prop::sample::select(vec![
        Lie::None,
        Lie::None,
        Lie::None,
        Lie::None,
        Lie::None,
        Lie::Session,
        Lie::Attempt,
        Lie::Agent,
        Lie::Old,
        Lie::Old,
    ]);
    prop_oneof![
        30 => submission().prop_map(Op::Submit),
        4 => any::<u16>().prop_map(Op::Cancel),
        12 => joining().prop_map(Op::Join),
        4 => (any::<u16>(), prop::bool::weighted(0.8)).prop_map(|(n, right)| Op::Lose(n, right)),
        2 => any::<u16>().prop_map(Op::Drain),
        2 => any::<u16>().prop_map(Op::Leave),
        4 => (any::<u16>(), prop::bool::weighted(0.8)).prop_map(|(n, right)| Op::Unhealthy(n, right)),
        4 => (any::<u16>(), any::<bool>()).prop_map(|(n, readmit)| Op::Healthy(n, readmit)),
        30 => (any::<u16>(), outcome(), lie).prop_map(|(n, o, l)| Op::Complete(n, o, l)),
        8 => Just(Op::Tick),
        1 => configuration().prop_map(Op::Configure),
        1 => (0..3u32).prop_map(Op::Raise),
        3 => pools().prop_map(Op::SetPools),
    ]
}

/// Steps, each with the milliseconds that pass before it (negative: a new leader's clock is behind).
pub fn steps() -> impl Strategy<Value = Vec<(i64, Op)>> {
    let passing = prop_oneof![
        6 => Just(0i64),
        6 => 1..200i64,
        2 => 200..6_000i64,
        1 => -500..0i64,
        1 => 6_000..40_000i64,
    ];
    prop::collection::vec((passing, op()), 1..120)
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
}

impl History {
    pub fn new() -> History {
        History {
            fleet: Fleet::new(FleetConfig::default()),
            log: Vec::new(),
            now: Stamp::at(1_000_000),
            before: life::Before::default(),
            known: BTreeMap::new(),
            assigned: Vec::new(),
            fencing: BTreeMap::new(),
            finished: 0,
            accepted_results: 0,
            set: Vec::new(),
            recovered: Vec::new(),
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
                let chosen = naive::best(&self.fleet, &Wanted::by_submission(submission));
                let ready = submission.delay.is_none_or(|d| d == 0);
                let (reply, effects) = self.apply(command.clone());
                let Reply::Submitted { task, existing: false } = reply else {
                    return;
                };
                let current = self.fleet.task(task).and_then(|task| task.current());
                let current = current.map(|a| (a.agent, a.score, a.candidates));
                assert_eq!(current, chosen.filter(|_| ready), "the naive scheduler's choice");
                assert_eq!(effects.len(), usize::from(current.is_some()));
            }
            Command::Task(TaskCommand::Complete(completion)) => self.complete(completion.clone()),
            Command::Pool(PoolCommand::Set(shapes)) => self.set_pools(shapes.clone()),
            _ => {
                self.apply(command);
            }
        }
    }

    /// Checks that only a completion of the current attempt, by its agent and in its session, changes the task.
    fn complete(&mut self, completion: Completion) {
        let before = self.fleet.task(completion.task).cloned();
        let current = before.as_ref().and_then(|task| task.current());
        let counts = current.is_some_and(|a| {
            (a.agent, a.session, a.number) == (completion.agent, completion.session, completion.attempt)
        });
        let agent = self.fleet.agent(completion.agent).cloned();
        let next = agent.filter(|a| a.state == AgentState::Live).and_then(|a| naive::next(&self.fleet, &a));
        let succeeded = matches!(completion.outcome, Outcome::Succeeded(_));
        let refused = self.fleet.totals().stale_refused;
        let task = completion.task;
        let (reply, effects) = self.apply(Command::Task(TaskCommand::Complete(completion)));
        let assigned = effects.iter().find_map(|e| match e {
            Effect::Assign { task, .. } => Some(*task),
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
            assert_eq!(assigned, next, "the naive queue's choice");
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
            Op::Healthy(n, readmit) => {
                let (agent, session) = pick(*n);
                Command::Agent(AgentCommand::Healthy { agent, session, readmit: *readmit })
            }
            Op::Complete(n, outcome, lie) => self.completion(*n, outcome.clone(), *lie),
            Op::Tick => Command::Control(ControlCommand::Tick),
            Op::Configure(config) => Command::Control(ControlCommand::Configure(config.clone())),
            Op::Raise(version) => Command::Control(ControlCommand::RaiseVersion(*version)),
            Op::SetPools(shapes) => Command::Pool(PoolCommand::Set(shapes.clone())),
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
                    assert!(*attempt > last, "fencing number {attempt} after {last}");
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
                assert!(expired, "{} disappeared: {before:?}", before.id);
                continue;
            };
            if before.state.is_final() {
                assert_eq!(before, task, "a finished task changed");
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
