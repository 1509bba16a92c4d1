//! Generated histories of schedules, beside a twin that knows which moments were decided.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use robeing_fleet::{
    Agent, AgentCommand, Command, Completion, Concurrency, ControlCommand, FireSchedule, Fleet, FleetConfig,
    MissedRuns, Reply, ScheduleCommand, ScheduleSpec, SetSchedule, Stamp, TaskCommand, TaskId, known_version,
};

use crate::{
    fixture::{failure, success, worker},
    schedules::{APART, DUE, schedule, spec},
};

/// A step. Numbers are taken modulo the number of candidates.
#[derive(Clone, Debug)]
enum Step {
    /// Sets a schedule, changed in this way, to be due so much later than it was decided about.
    Set(u8, u8, u64),
    Remove(u8),
    Suspend(u8, bool),
    Run(u8, u8),
    /// Fires a schedule, skipping so many moments before the one whose run starts, if one does.
    Fire(u8, u64, bool),
    /// Proposes an earlier firing again, as a leader does that does not know what became of it.
    Again(u16),
    /// Completes a task that runs, with success or without.
    Complete(u16, bool),
    /// A leader with another clock: how far its wall time is from the one before.
    Clock(i64),
}

const NAMES: [&str; 3] = ["a", "b", "c"];

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (any::<u8>(), any::<u8>(), 1..3 * APART).prop_map(|(name, how, later)| Step::Set(name, how, later)),
        1 => any::<u8>().prop_map(Step::Remove),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(name, suspended)| Step::Suspend(name, suspended)),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(name, id)| Step::Run(name, id)),
        10 => (any::<u8>(), 0..4_u64, prop::bool::weighted(0.8)).prop_map(|(name, skip, runs)| Step::Fire(name, skip, runs)),
        5 => any::<u16>().prop_map(Step::Again),
        4 => (any::<u16>(), any::<bool>()).prop_map(|(n, succeeds)| Step::Complete(n, succeeds)),
        1 => (-5_i64..5).prop_map(|minutes| Step::Clock(minutes * APART as i64 / 2)),
    ]
}

struct History {
    fleet: Fleet,
    log: Vec<(Stamp, Command)>,
    now: Stamp,
    /// All firings that were proposed.
    fired: Vec<FireSchedule>,
    /// The moments whose runs have started, by schedule number.
    started: BTreeMap<u64, BTreeSet<u64>>,
}

impl History {
    fn new() -> Self {
        let mut history = Self {
            fleet: Fleet::new(FleetConfig { max_queued: 12, ..FleetConfig::default() }),
            log: Vec::new(),
            now: Stamp::at(DUE - APART),
            fired: Vec::new(),
            started: BTreeMap::new(),
        };
        history.apply(Command::Control(ControlCommand::RaiseVersion(known_version())));
        history.apply(Command::Agent(AgentCommand::Joined(worker("w"))));
        history
    }

    fn apply(&mut self, command: Command) -> Reply {
        self.log.push((self.now, command.clone()));
        let reply = self.fleet.apply(self.now, command, &mut Vec::new());
        if let Err(problem) = self.fleet.audit() {
            panic!("after {reply:?}: {problem}");
        }
        reply
    }

    fn set(&mut self, name: &str, how: u8, later: u64) {
        let decided = self.fleet.schedule(name).map_or(0, |known| known.decided);
        let spec = ScheduleSpec {
            cron: if how & 1 == 0 { "* * * * *".to_owned() } else { "*/2 * * * *".to_owned() },
            missed: if how & 2 == 0 { MissedRuns::Latest } else { MissedRuns::All },
            concurrency: [Concurrency::Allow, Concurrency::Forbid, Concurrency::Replace][usize::from(how >> 2) % 3],
            suspended: how > 250,
            ..spec()
        };
        let next = Some(decided.max(self.now.wall) + later);
        self.command(ScheduleCommand::Set(Box::new(SetSchedule { spec, next, ..schedule(name) })));
    }

    fn command(&mut self, command: ScheduleCommand) -> Reply {
        self.apply(Command::Schedule(command))
    }

    /// Fires a schedule as a leader does that knows the state.
    fn fire(&mut self, name: &str, skip: u64, runs: bool) {
        let Some(known) = self.fleet.schedule(name) else { return };
        let Some(due) = known.next else { return };
        let at = due + skip * APART;
        let fire = FireSchedule {
            schedule: known.seq,
            generation: known.generation,
            due,
            run_at: runs.then_some(at),
            next: Some(at + APART),
            missed: skip,
            input: None,
            problem: None,
        };
        // It waits until it is due by its clock.
        let passes = at.saturating_sub(self.now.wall);
        self.now = Stamp { fleet: self.now.fleet + passes + 1, wall: self.now.wall.max(at) };
        self.propose(fire);
    }

    fn propose(&mut self, fire: FireSchedule) {
        let before = self.fleet.due_schedules().find(|(_, known)| known.seq == fire.schedule);
        let before = before.map(|(due, known)| (due, known.generation));
        let reply = self.command(ScheduleCommand::Fire(Box::new(fire.clone())));
        if let Reply::ScheduleFired { task, .. } = reply {
            assert_eq!(before, Some((fire.due, fire.generation)), "only the moment that is stored is decided");
            if task.is_some() {
                let at = fire.run_at.expect("it has a run");
                let is_new = self.started.entry(fire.schedule).or_default().insert(at);
                assert!(is_new, "the run of {at} has started twice");
                assert!(at <= self.now.wall, "it is early");
            }
        }
        self.fired.push(fire);
    }

    fn complete(&mut self, n: u16, succeeds: bool) {
        let of = |agent: &Agent| {
            let (id, session) = (agent.id, agent.session);
            agent.held().map(move |held| (id, session, held.task, held.attempt)).collect::<Vec<_>>()
        };
        let held: Vec<_> = self.fleet.agents().flat_map(|agent| of(agent)).collect();
        let Some((agent, session, task, attempt)) = held.get(usize::from(n) % held.len().max(1)).copied() else {
            return;
        };
        let outcome = if succeeds { success() } else { failure(false) };
        let completion = Completion { agent, session, task, attempt, ran_us: 1, outcome };
        self.apply(Command::Task(TaskCommand::Complete(completion)));
    }

    fn step(&mut self, step: &Step) {
        let name = |n: u8| NAMES[usize::from(n) % NAMES.len()];
        match *step {
            Step::Set(n, how, later) => self.set(name(n), how, later),
            Step::Remove(n) => {
                let (name, by) = (name(n).to_owned(), "client:ann".to_owned());
                self.command(ScheduleCommand::Remove { name, managed: false, by });
            }
            Step::Suspend(n, suspended) => {
                let decided = self.fleet.schedule(name(n)).map_or(0, |known| known.decided);
                let next = Some(decided.max(self.now.wall) + 1);
                let (name, by) = (name(n).to_owned(), "client:ann".to_owned());
                self.command(ScheduleCommand::Suspend { name, suspended, next, by });
            }
            Step::Run(n, id) => {
                self.command(ScheduleCommand::Run {
                    name: name(n).to_owned(),
                    task: TaskId(u128::from(id) + 1),
                    input: None,
                });
            }
            Step::Fire(n, skip, runs) => self.fire(name(n), skip, runs),
            Step::Again(n) => {
                let again = self.fired.get(usize::from(n) % self.fired.len().max(1)).cloned();
                again.into_iter().for_each(|fire| self.propose(fire));
            }
            Step::Complete(n, succeeds) => self.complete(n, succeeds),
            Step::Clock(by) => self.now.wall = self.now.wall.saturating_add_signed(by).max(1),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_moment_is_decided_twice_and_the_same_log_gives_the_same_bytes(
        steps in prop::collection::vec(step(), 1..80), cut in any::<prop::sample::Index>(), limit in 1..5_usize,
    ) {
        let mut history = History::new();
        let cut = cut.index(steps.len());
        let mut taking = None;
        for (n, step) in steps.iter().enumerate() {
            if n == cut {
                taking = Some((history.fleet.encode(), history.log.len(), history.fleet.begin_snapshot()));
            }
            history.step(step);
            if let Some((_, _, snapshot)) = &mut taking
                && let Some(part) = snapshot.take(&history.fleet, limit)
            {
                snapshot.encode(&part);
            }
        }
        let Some((expected, at, mut snapshot)) = taking else { return Ok(()) };
        while let Some(part) = snapshot.take(&history.fleet, limit) {
            snapshot.encode(&part);
        }
        let taken = snapshot.finish().expect("all is taken");
        prop_assert_eq!(&taken, &expected);
        let mut restored = Fleet::decode(&taken).expect("a fleet's own snapshot");
        for (now, command) in &history.log[at..] {
            restored.apply(*now, command.clone(), &mut Vec::new());
        }
        prop_assert_eq!(restored.encode(), history.fleet.encode());
        prop_assert_eq!(restored.audit(), Ok(()));
    }
}
