//! Prints how long coordinators hold the fleet's lock for each kind of work, in a large fleet: `cargo run --release -p
//! robeing-fleet --example lock_times`. The work of each line is divided into stretches under the lock, as in
//! coordinators.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use robeing_fleet::{
    AgentCommand, AgentId, AgentJoin, Command, ControlCommand, Effect, Fleet, FleetConfig, LossReason, Progress, Reply,
    Role, SessionId, Stamp, SubmitTask, TaskCommand, TaskFilter, TaskId, Weights,
};

const TASKS: u128 = 100_000;
/// Agents with many slots, all of them busy.
const LARGE_AGENTS: u32 = 3;
const LARGE_SLOTS: u32 = 4_096;
/// Agents with few slots, all of them busy.
const SMALL_AGENTS: u32 = 5_000;

/// Steps of a command in one stretch, as in coordinators.
const STEPS: usize = 128;
/// The work is repeated to separate it from other load on the machine: only the shortest time of each stretch counts.
const ROUNDS: usize = 5;

/// The time of each stretch, by the kind of work, in the order of the first round.
#[derive(Default)]
struct Times {
    lines: Vec<(String, Vec<Duration>)>,
    /// The current line and the stretch within it, in this round.
    at: (usize, usize),
}

impl Times {
    fn next_round(&mut self) {
        self.at = (0, 0);
    }

    fn begin(&mut self, what: &str) {
        if self.at.0 == self.lines.len() {
            self.lines.push((what.to_owned(), Vec::new()));
        }
    }

    fn end(&mut self) {
        self.at = (self.at.0 + 1, 0);
    }

    fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        let took = start.elapsed();
        let (line, stretch) = self.at;
        let known = &mut self.lines[line].1;
        match known.get_mut(stretch) {
            Some(shortest) => *shortest = took.min(*shortest),
            None => known.push(took),
        }
        self.at.1 += 1;
        result
    }

    fn once<T>(&mut self, what: &str, work: impl FnOnce() -> T) -> T {
        self.begin(what);
        let result = self.time(work);
        self.end();
        result
    }

    fn print(&self) {
        let micros = |time: Duration| time.as_nanos() as f64 / 1_000.0;
        for (what, times) in &self.lines {
            let (longest, sum) = (times.iter().max().copied().unwrap_or_default(), times.iter().sum());
            let (longest, sum) = (micros(longest), micros(sum));
            println!("{what:<56} {longest:>9.1} µs, longest of {:>4}; {sum:>10.1} µs in all", times.len());
        }
    }
}

/// Applies a command in stretches, as coordinators do.
fn apply(times: &mut Times, what: &str, fleet: &mut Fleet, now: u64, command: Command) {
    let mut effects = Vec::<Effect>::new();
    times.begin(what);
    let mut progress = times.time(|| fleet.begin(Stamp::at(now), command, STEPS, &mut effects));
    while let Progress::Halfway(rest) = progress {
        progress = times.time(|| fleet.advance(rest, STEPS, &mut effects));
    }
    times.end();
}

fn join(name: String, slots: u32) -> Command {
    Command::Agent(AgentCommand::Joined(AgentJoin {
        name,
        incarnation: 1,
        role: Role::Worker,
        pool: None,
        specializations: vec!["sum".to_owned()],
        slots,
        address: "127.0.0.1:1".to_owned(),
        process: None,
        pid: 1,
        version: "1".to_owned(),
        sealing_key: None,
        contributed: None,
        lacks_store: false,
    }))
}

fn submit(n: u128) -> Command {
    // Spread the ids as random ones would be.
    let id = TaskId(n.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835));
    Command::Task(TaskCommand::Submit(SubmitTask::new(id, "sum", Bytes::from(vec![7; 1_024]))))
}

fn full_fleet() -> (Fleet, Vec<(AgentId, SessionId)>) {
    let mut fleet = Fleet::new(FleetConfig { max_queued: u32::MAX, ..FleetConfig::default() });
    let mut effects = Vec::new();
    let mut large = Vec::new();
    for n in 0..LARGE_AGENTS {
        match fleet.apply(Stamp::at(1_000), join(format!("large-{n}"), LARGE_SLOTS), &mut effects) {
            Reply::Joined { agent, session } => large.push((agent, session)),
            other => panic!("{other:?}"),
        }
    }
    for n in 0..SMALL_AGENTS {
        fleet.apply(Stamp::at(1_000), join(format!("small-{n}"), 4), &mut effects);
    }
    for n in 1..=TASKS {
        fleet.apply(Stamp::at(1_000), submit(n), &mut effects);
    }
    (fleet, large)
}

fn read(times: &mut Times, fleet: &Fleet, large: AgentId) {
    times.once("slots of an agent that comes back", || fleet.held(large).collect::<Vec<_>>());
    let keys: Vec<(TaskId, u32)> = fleet.held(large).map(|held| (held.task, held.attempt)).collect();
    times.begin("its attempts, 256 at a time");
    for keys in keys.chunks(256) {
        times.time(|| keys.iter().filter_map(|(id, _)| fleet.task(*id).cloned()).collect::<Vec<_>>());
    }
    times.end();
    times.begin("a listing that matches nothing, 1,000 at a time");
    let mut after = None;
    loop {
        let filter = TaskFilter { kind: Some("none".to_owned()), ..TaskFilter::default() };
        after = times.time(|| fleet.tasks(&filter, after, 1_000).next);
        if after.is_none() {
            break;
        }
    }
    times.end();
    times.begin("a watch of everything, 500 at a time");
    let mut cursor = 0;
    loop {
        let slice: Vec<_> = times.time(|| fleet.changed_tasks_since(cursor).take(500).map(Arc::clone).collect());
        let Some(last) = slice.last() else { break };
        cursor = last.revision;
    }
    times.end();
    times.begin("all agents, 256 at a time");
    let mut after = None;
    loop {
        let slice: Vec<_> = times.time(|| fleet.agents_after(after).take(256).map(Arc::clone).collect());
        let Some(last) = slice.last() else { break };
        after = Some(last.id);
    }
    times.end();
    times.once("counts for metrics and status", || (fleet.counts(), fleet.agent_counts(), *fleet.totals()));
}

fn snapshot(times: &mut Times, fleet: &mut Fleet) {
    let expected = times.once("(a whole snapshot at once, as formerly done)", || fleet.encode());
    let mut snapshot = times.once("a snapshot's beginning", || fleet.begin_snapshot());
    times.begin("a snapshot's parts, 512 at a time, commands in between");
    let (mut n, mut effects) = (0, Vec::<Effect>::new());
    while let Some(part) = times.time(|| snapshot.take(fleet, 512)) {
        snapshot.encode(&part);
        drop(part);
        for _ in 0..128 {
            n += 1;
            let Command::Task(TaskCommand::Submit(SubmitTask { id: task, .. })) = submit(n) else { continue };
            fleet.apply(
                Stamp::at(2_000),
                Command::Task(TaskCommand::Cancel { task, reason: String::new() }),
                &mut effects,
            );
        }
    }
    times.end();
    assert!(snapshot.finish().expect("all is taken") == expected, "the snapshot is the state at its beginning");
}

fn round(times: &mut Times) {
    let (mut fleet, large) = full_fleet();
    read(times, &fleet, large[0].0);
    snapshot(times, &mut fleet);
    let config = FleetConfig { result_ttl: 1, ..fleet.config().clone() };
    apply(
        times,
        "a change of the configuration",
        &mut fleet,
        3_000,
        Command::Control(ControlCommand::Configure(config.clone())),
    );
    let (agent, session) = large[0];
    let lost = Command::Agent(AgentCommand::Lost { agent, session, reason: LossReason::Silent });
    apply(times, "the loss of an agent with 4,096 busy slots", &mut fleet, 4_000, lost);
    apply(times, "its return, while work waits", &mut fleet, 5_000, join("large-0".to_owned(), LARGE_SLOTS));
    let due = fleet.next_due().unwrap_or(0).saturating_add(7_200_000);
    apply(times, "a tick with many due timers", &mut fleet, due, Command::Control(ControlCommand::Tick));
    let mut idle = Fleet::new(FleetConfig::default());
    for n in 0..20_000 {
        idle.apply(Stamp::at(1_000), join(format!("idle-{n}"), 4), &mut Vec::new());
    }
    let weights = Weights { load: -20, ..config.weights };
    let config = FleetConfig { weights, ..config };
    apply(
        times,
        "a change of the weights for 20,000 agents",
        &mut idle,
        3_000,
        Command::Control(ControlCommand::Configure(config)),
    );
}

fn main() {
    println!("{TASKS} tasks, {LARGE_AGENTS} agents with {LARGE_SLOTS} slots, {SMALL_AGENTS} with 4, all busy");
    let mut times = Times::default();
    for _ in 0..ROUNDS {
        times.next_round();
        round(&mut times);
    }
    times.print();
}
