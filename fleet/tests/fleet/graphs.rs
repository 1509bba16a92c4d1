//! Generated histories of tasks that depend on others, are split, or wait for subtasks, compared with a twin after each
//! step.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;
use robeing_fleet::{
    AgentCommand, AgentId, AgentJoin, AskedLinks, Command, Completion, ControlCommand, Dependency, Fleet, FleetConfig,
    HeldState, Join, LossReason, OnFailure, Outcome, PartOf, Progress, RetryDead, RetryPolicy, SessionId, Split, Stamp,
    SubmitTask, Suspension, TaskCommand, TaskId, known_version,
};

use crate::{
    dead,
    fixture::{failure, task, worker},
    graph_twin::Twin,
    life,
};

const JOINS: [Join; 5] = [Join::All, Join::Settled, Join::Any, Join::Quorum, Join::Reduce];
const FAILURES: [OnFailure; 3] = [OnFailure::Fail, OnFailure::Skip, OnFailure::Run];
/// Workers that may join.
const WORKERS: u8 = 3;

/// One step. Numbers are taken modulo the number of candidates.
#[derive(Clone, Debug)]
enum Op {
    Submit {
        dependencies: Vec<(u16, usize)>,
        role: Place,
        ttl: u64,
        deadline: Option<u64>,
        attempts: u32,
    },
    /// Ends a running attempt.
    Complete(u16, End),
    /// Ends a running attempt, whose task waits for subtasks. Each may depend on another task.
    Suspend(u16, Vec<Option<(u16, usize)>>),
    Cancel(u16),
    RetryDead(u16),
    Lose(u16),
    Join(u8),
    Tick,
}

/// What a submitted task is besides what it depends on.
#[derive(Clone, Copy, Debug)]
enum Place {
    Alone,
    Split(u32, usize),
    /// A part of one that is split, with this number.
    Part(u16, u32),
}

#[derive(Clone, Copy, Debug)]
enum End {
    Success,
    Failure { retryable: bool },
    HandedBack,
}

fn dependencies() -> impl Strategy<Value = Vec<(u16, usize)>> {
    prop::collection::vec((any::<u16>(), 0..FAILURES.len()), 0..4)
}

fn op() -> impl Strategy<Value = Op> {
    let place = prop_oneof![
        4 => Just(Place::Alone),
        2 => (1..4u32, 0..JOINS.len()).prop_map(|(parts, join)| Place::Split(parts, join)),
        5 => (any::<u16>(), 0..4u32).prop_map(|(of, index)| Place::Part(of, index)),
    ];
    let deadline = prop::option::weighted(0.1, 1..20_000u64);
    let submit = (dependencies(), place, 0..5_000u64, deadline, 1..3u32).prop_map(
        |(dependencies, role, ttl, deadline, attempts)| Op::Submit { dependencies, role, ttl, deadline, attempts },
    );
    let end = prop_oneof![
        6 => Just(End::Success),
        2 => any::<bool>().prop_map(|retryable| End::Failure { retryable }),
        1 => Just(End::HandedBack),
    ];
    let subtask = prop::option::weighted(0.3, (any::<u16>(), 0..FAILURES.len()));
    prop_oneof![
        12 => submit,
        12 => (any::<u16>(), end).prop_map(|(n, end)| Op::Complete(n, end)),
        3 => (any::<u16>(), prop::collection::vec(subtask, 1..4)).prop_map(|(n, subtasks)| Op::Suspend(n, subtasks)),
        1 => any::<u16>().prop_map(Op::Cancel),
        2 => any::<u16>().prop_map(Op::RetryDead),
        1 => any::<u16>().prop_map(Op::Lose),
        3 => (0..WORKERS).prop_map(Op::Join),
        2 => Just(Op::Tick),
    ]
}

/// Steps, each with the milliseconds that pass before it.
fn steps() -> impl Strategy<Value = Vec<(u64, Op)>> {
    let passing = prop_oneof![12 => Just(0u64), 8 => 1..300u64, 2 => 300..8_000u64, 1 => 300_000..700_000u64];
    prop::collection::vec((passing, op()), 1..80)
}

/// The logs of histories.
pub fn logs() -> impl Strategy<Value = Vec<(Stamp, Command)>> {
    steps().prop_map(|steps| History::of(&steps).log)
}

/// A fleet whose queue is sometimes full.
fn config() -> FleetConfig {
    FleetConfig { max_queued: 60, ..FleetConfig::default() }
}

/// A history of a fleet.
struct History {
    fleet: Fleet,
    now: u64,
    log: Vec<(Stamp, Command)>,
    before: life::Before,
    twin: Twin,
    submitted: u128,
}

impl History {
    fn new() -> Self {
        let mut history = Self {
            fleet: Fleet::new(config()),
            now: 1_000_000,
            log: Vec::new(),
            before: life::Before::default(),
            twin: Twin::default(),
            submitted: 0,
        };
        history.apply(Command::Control(ControlCommand::RaiseVersion(known_version())));
        history.apply(join(0));
        history
    }

    fn of(steps: &[(u64, Op)]) -> Self {
        let mut history = Self::new();
        for (passing, op) in steps {
            history.now += passing;
            history.apply(Command::Control(ControlCommand::Tick));
            if let Some(command) = history.resolve(op) {
                history.apply(command);
            }
        }
        history
    }

    fn apply(&mut self, command: Command) {
        let now = Stamp::at(self.now);
        self.log.push((now, command.clone()));
        life::look(&self.fleet, &mut self.before);
        let ended: BTreeSet<TaskId> = self.twin.ended.keys().copied().collect();
        let mut effects = Vec::new();
        let reply = self.fleet.apply(now, command.clone(), &mut effects);
        if let Err(problem) = self.fleet.audit() {
            panic!("{problem}\nlog: {:#?}", self.log.iter().rev().take(5).collect::<Vec<_>>());
        }
        self.twin.note(&self.fleet, &command, &reply, &effects);
        self.twin.check_assigned(&ended, &effects);
        self.twin.check(&self.fleet, &self.before, &command);
        life::check(&self.before, &self.fleet, &command, &reply, &effects);
        dead::check(&self.fleet, &self.before, (&command, &reply));
    }

    /// Returns one of the tasks that were ever accepted.
    fn pick(&self, n: u16) -> Option<TaskId> {
        let known = &self.twin.asked;
        known.keys().nth(usize::from(n) % known.len().max(1)).copied()
    }

    fn depends_on(&self, named: &[(u16, usize)]) -> Vec<Dependency> {
        let mut dependencies: BTreeMap<TaskId, OnFailure> = BTreeMap::new();
        for (n, on_failure) in named {
            dependencies.extend(self.pick(*n).map(|id| (id, FAILURES[*on_failure])));
        }
        dependencies.into_iter().map(|(task, on_failure)| Dependency { task, on_failure }).collect()
    }

    /// Returns a running attempt.
    fn running(&self, n: u16) -> Option<(AgentId, SessionId, TaskId, u32)> {
        self.held(n, |state| state == HeldState::Active)
    }

    /// Returns an attempt that agents hold in such a state.
    fn held(&self, n: u16, such: impl Fn(HeldState) -> bool) -> Option<(AgentId, SessionId, TaskId, u32)> {
        let held = self.fleet.agents().flat_map(|agent| {
            let active = agent.held().filter(|held| such(held.state));
            active.map(|held| (agent.id, agent.session, held.task, held.attempt)).collect::<Vec<_>>()
        });
        let held: Vec<_> = held.collect();
        held.get(usize::from(n) % held.len().max(1)).copied()
    }

    fn resolve(&mut self, op: &Op) -> Option<Command> {
        let complete = |(agent, session, task, attempt): (AgentId, SessionId, TaskId, u32), outcome: Outcome| {
            Command::Task(TaskCommand::Complete(Completion { agent, session, task, attempt, ran_us: 1, outcome }))
        };
        Some(match op {
            Op::Submit { dependencies, role, ttl, deadline, attempts } => {
                self.submitted += 1;
                let links = self.links(dependencies, *role);
                let retry = RetryPolicy { max_attempts: *attempts, initial_backoff: 100, ..RetryPolicy::default() };
                let submission = SubmitTask {
                    result_ttl: Some(*ttl),
                    deadline_in: *deadline,
                    retry: Some(retry),
                    links: (links != AskedLinks::default()).then(|| Box::new(links)),
                    ..task(self.submitted)
                };
                Command::Task(TaskCommand::Submit(submission))
            }
            Op::Complete(n, end) => complete(self.running(*n)?, outcome(*end)),
            Op::Suspend(n, subtasks) => {
                let subtask = |dependency: &Option<(u16, usize)>| {
                    let depends_on = self.depends_on(dependency.as_slice());
                    let links = AskedLinks { depends_on, ..AskedLinks::default() };
                    SubmitTask { links: Some(Box::new(links)), retry: None, ..task(0) }
                };
                let subtasks = subtasks.iter().map(subtask).collect();
                let suspension = Suspension { subtasks, carried: Bytes::from_static(b"state") };
                complete(self.running(*n)?, Outcome::Suspended(suspension))
            }
            Op::Cancel(n) => Command::Task(TaskCommand::Cancel { task: self.pick(*n)?, reason: "history".to_owned() }),
            Op::RetryDead(n) => {
                let (task, by) = (dead::pick(&self.fleet, *n), "history".to_owned());
                Command::Task(TaskCommand::RetryDead(RetryDead { task, epoch: None, seed: 0, by }))
            }
            Op::Lose(n) => {
                let agents: Vec<_> = self.fleet.agents().map(|agent| (agent.id, agent.session)).collect();
                let (agent, session) = agents.get(usize::from(*n) % agents.len().max(1)).copied()?;
                Command::Agent(AgentCommand::Lost { agent, session, reason: LossReason::Silent })
            }
            Op::Join(n) => join(*n),
            Op::Tick => Command::Control(ControlCommand::Tick),
        })
    }

    fn links(&self, dependencies: &[(u16, usize)], role: Place) -> AskedLinks {
        let depends_on = self.depends_on(dependencies);
        let split = match role {
            Place::Split(parts, join) => {
                let join = JOINS[join];
                let quorum = if join == Join::Quorum { parts.div_ceil(2) } else { 0 };
                Some(Split { parts, join, quorum, spread: parts.is_multiple_of(2) })
            }
            _ => None,
        };
        let parents: Vec<TaskId> =
            self.twin.asked.iter().filter(|(_, of)| of.join.is_some()).map(|(id, _)| *id).collect();
        let part_of = match role {
            Place::Part(of, index) if !parents.is_empty() => {
                Some(PartOf { task: parents[usize::from(of) % parents.len()], index })
            }
            _ => None,
        };
        AskedLinks { depends_on, split, part_of, ..AskedLinks::default() }
    }
}

fn join(n: u8) -> Command {
    Command::Agent(AgentCommand::Joined(AgentJoin { slots: 2, ..worker(&format!("w{n}")) }))
}

fn outcome(end: End) -> Outcome {
    match end {
        End::Success => Outcome::Succeeded(Bytes::from_static(b"out")),
        End::Failure { retryable } => failure(retryable),
        End::HandedBack => Outcome::HandedBack,
    }
}

/// Lets agents join and run whatever they are given, until nothing is left to do.
fn finish_all(history: &mut History) {
    history.apply(join(0));
    for _ in 0..10_000 {
        if let Some((agent, session, task, attempt)) = history.running(0) {
            let outcome = outcome(End::Success);
            let completion = Completion { agent, session, task, attempt, ran_us: 1, outcome };
            history.apply(Command::Task(TaskCommand::Complete(completion)));
        } else if let Some((agent, session, task, attempt)) = history.held(0, |state| state != HeldState::Active) {
            // Its slot is taken until the agent says that it has stopped.
            let completion = Completion { agent, session, task, attempt, ran_us: 1, outcome: Outcome::Stopped };
            history.apply(Command::Task(TaskCommand::Complete(completion)));
        } else if history.fleet.counts().queued > 0 {
            // The end of a backoff, or of the wait for parts.
            history.now += 60_000;
            history.apply(Command::Control(ControlCommand::Tick));
        } else {
            return;
        }
    }
    panic!("it never ends: {:#?}", history.fleet.changed_tasks_since(0).find(|task| !task.state.is_final()));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_graph_holds_the_rules_and_comes_to_its_end(steps in steps()) {
        let mut history = History::of(&steps);
        finish_all(&mut history);
        prop_assert_eq!(history.twin.ended.len(), history.twin.asked.len(), "each has ended, and once");
    }

    #[test]
    fn a_graph_that_is_replayed_restored_or_applied_in_steps_is_the_same(
        steps in steps(), cut in any::<prop::sample::Index>(), budget in 1..4usize,
    ) {
        let history = History::of(&steps);
        let cut = cut.index(history.log.len());
        let (mut again, mut slow) = (Fleet::new(config()), Fleet::new(config()));
        for (n, (now, command)) in history.log.iter().enumerate() {
            if n == cut {
                again = Fleet::decode(&again.encode()).expect("a fleet's own snapshot");
            }
            let (mut expected, mut effects) = (Vec::new(), Vec::new());
            let reply = again.apply(*now, command.clone(), &mut expected);
            let mut progress = slow.begin(*now, command.clone(), budget, &mut effects);
            let replied = loop {
                match progress {
                    Progress::Done(reply) => break reply,
                    Progress::Halfway(rest) => progress = slow.advance(rest, budget, &mut effects),
                }
            };
            prop_assert_eq!((replied, effects), (reply, expected));
        }
        prop_assert_eq!(again.encode(), history.fleet.encode());
        prop_assert_eq!(slow.encode(), history.fleet.encode());
    }

    #[test]
    fn a_cancellation_of_everything_leaves_nothing_that_waits_or_runs(steps in steps()) {
        let mut history = History::of(&steps);
        let known: Vec<TaskId> = history.twin.asked.keys().copied().collect();
        for task in known {
            history.apply(Command::Task(TaskCommand::Cancel { task, reason: "the end".to_owned() }));
        }
        let counts = history.fleet.counts();
        prop_assert_eq!((counts.queued, counts.assigned), (0, 0));
        history.now += 1_000_000_000;
        history.apply(Command::Control(ControlCommand::Tick));
        prop_assert_eq!(history.fleet.changed_tasks_since(0).count(), 0, "nothing is kept for nobody");
    }
}
