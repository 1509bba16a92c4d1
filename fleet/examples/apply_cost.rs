//! Prints the cost of commands: `cargo run --release -p robeing-fleet --example apply_cost`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use robeing_fleet::{
    AgentCommand, AgentJoin, AllocationId, Amounts, Command, Completion, ControlCommand, Effect, Fleet, FleetConfig,
    FormTeam, Holder, Outcome, Reply, RequestResources, ResourceCommand, Role, Stamp, SubmitTask, TaskCommand, TaskId,
    TeamCommand, TeamId, TeamNeeds, decode_command, encode_command, known_version,
    limits::{DEFAULT_QUEUE, MAX_PARTS},
};

const TASKS: u128 = 200_000;

fn join(n: u32, slots: u32) -> Command {
    Command::Agent(AgentCommand::Joined(AgentJoin {
        name: format!("worker-{n}"),
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
    let submitter = "bench".to_owned();
    Command::Task(TaskCommand::Submit(SubmitTask {
        submitter,
        ..SubmitTask::new(id, "sum", Bytes::from_static(&[7; 64]))
    }))
}

#[inline(never)]
fn per_command(name: &str, commands: u128, run: impl FnOnce()) {
    let start = Instant::now();
    run();
    let ns = start.elapsed().as_nanos() / commands;
    println!("{name:<58} {:>7.2} µs", ns as f64 / 1000.0);
}

/// Prints within which time half of the commands were applied, and 99 of 100.
fn spread(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let within = |hundredths: usize| {
        let last = (times.len() * hundredths / 100).min(times.len().saturating_sub(1));
        times.get(last).map_or(0.0, |time| time.as_secs_f64() * 1e3)
    };
    println!("{name:<58} p50 {:.4} ms, p99 {:.4} ms", within(50), within(99));
}

/// Completes what `effects` assign until nothing more is assigned.
fn complete_all(fleet: &mut Fleet, effects: &mut Vec<Effect>) -> u128 {
    let mut done = 0;
    let mut next = Vec::new();
    while !effects.is_empty() {
        for effect in effects.drain(..) {
            let Effect::Assign { agent, session, task, attempt } = effect else {
                continue;
            };
            let completion = Completion {
                agent,
                session,
                task,
                attempt,
                ran_us: 10 + done as u64 % 7,
                outcome: Outcome::Succeeded(Bytes::from_static(&[1; 16])),
            };
            let reply = fleet.apply(Stamp::at(2_000), Command::Task(TaskCommand::Complete(completion)), &mut next);
            assert_eq!(reply, Reply::Completed);
            done += 1;
        }
        std::mem::swap(effects, &mut next);
    }
    done
}

fn run(agents: u32, slots: u32) {
    println!("{agents} agents with {slots} slots, {TASKS} tasks");
    let config = FleetConfig { max_queued: u32::MAX, ..FleetConfig::default() };
    let mut fleet = Fleet::new(config);
    let mut effects = Vec::new();
    for n in 0..agents {
        fleet.apply(Stamp::at(1_000), join(n, slots), &mut effects);
    }
    let commands: Vec<Command> = (1..=TASKS).map(submit).collect();
    per_command("  submit (assigned while there are slots, then queued)", TASKS, || {
        for command in commands {
            fleet.apply(Stamp::at(1_000), command, &mut effects);
        }
    });
    per_command("  complete (and assign the next)", TASKS, || {
        assert_eq!(complete_all(&mut fleet, &mut effects), TASKS);
    });
    let mut snapshot = Vec::new();
    per_command("  encode, per task", TASKS, || snapshot = fleet.encode());
    per_command("  decode, per task", TASKS, || {
        Fleet::decode(&snapshot).expect("own snapshot");
    });
    let mut one_by_one = Fleet::new(FleetConfig::default());
    for n in 0..agents {
        one_by_one.apply(Stamp::at(1_000), join(n, slots), &mut effects);
    }
    let commands: Vec<Command> = (1..=TASKS).map(submit).collect();
    per_command("  submit, assign and complete, nothing queued", TASKS, || {
        for command in commands {
            one_by_one.apply(Stamp::at(1_000), command, &mut effects);
            complete_all(&mut one_by_one, &mut effects);
        }
    });
    per_command("  expire", TASKS, || {
        while one_by_one.next_due().is_some() {
            one_by_one.apply(Stamp::at(u64::MAX), Command::Control(ControlCommand::Tick), &mut effects);
        }
    });
}

/// Forms teams of 5 among 10,000 agents, and disbands them.
fn teams() {
    const TEAMS: u128 = 1_000;
    let (mut fleet, mut effects) = (Fleet::new(FleetConfig::default()), Vec::new());
    let raise = Command::Control(ControlCommand::RaiseVersion(known_version()));
    fleet.apply(Stamp::at(1_000), raise, &mut effects);
    for n in 0..10_000 {
        fleet.apply(Stamp::at(1_000), join(n, 4), &mut effects);
    }
    let form = |n| FormTeam {
        id: TeamId(n),
        // One may form only a part of them.
        formed_by: format!("bench-{}", n % 10),
        purpose: "bench".to_owned(),
        size: 5,
        partial: false,
        needs: TeamNeeds { role: None, skills: vec!["sum".to_owned()] },
    };
    let commands: Vec<Command> = (0..TEAMS).map(|n| Command::Team(TeamCommand::Form(form(n)))).collect();
    let mut times = Vec::with_capacity(commands.len());
    for command in commands {
        effects.clear();
        let begun = Instant::now();
        let reply = fleet.apply(Stamp::at(1_000), command, &mut effects);
        times.push(begun.elapsed());
        assert_eq!(reply, Reply::TeamFormed { existing: false, members: 5 });
    }
    spread("form a team of 5 of 10,000 agents", times);
    per_command("disband it", TEAMS, || {
        for n in 0..TEAMS {
            let disband = TeamCommand::Disband { team: TeamId(n), term: None, by: "bench".to_owned() };
            fleet.apply(Stamp::at(1_000), Command::Team(disband), &mut effects);
        }
    });
}

/// Asks 10,000 agents that have processors, and as many that have memory, for gangs that need both, which are found by
/// chance or not at all: the search for room at its longest.
fn resources() {
    const REQUESTS: u128 = 1_000;
    let (mut fleet, mut effects) = (Fleet::new(FleetConfig::default()), Vec::new());
    let raise = Command::Control(ControlCommand::RaiseVersion(known_version()));
    fleet.apply(Stamp::at(1_000), raise, &mut effects);
    for n in 0..20_000 {
        let Reply::Joined { agent, session } = fleet.apply(Stamp::at(1_000), join(n, 1), &mut effects) else {
            panic!("it joins");
        };
        let (cpu, memory) = if n < 10_000 { (8, 1) } else { (1, 8) };
        let amounts = Amounts { cpu, memory, ..Amounts::NONE };
        let contribute = ResourceCommand::Contribute { agent, session, amounts };
        fleet.apply(Stamp::at(1_000), Command::Resource(contribute), &mut effects);
    }
    let request = |n: u128, wait| RequestResources {
        id: AllocationId(n),
        holder: Holder::Client(format!("client-{}", n / 8)),
        queue: DEFAULT_QUEUE.to_owned(),
        parts: vec![Amounts { cpu: 2, memory: 2, ..Amounts::NONE }; MAX_PARTS],
        spread: true,
        ttl: 60_000,
        wait,
        requested_by: "bench".to_owned(),
    };
    per_command("refuse a request for which no room is found at 20,000", REQUESTS, || {
        for n in 0..REQUESTS {
            assert!(fleet.refusal_of_request(&request(n, 0)).is_some());
        }
    });
    let commands: Vec<RequestResources> = (0..REQUESTS).map(|n| request(n, 60_000)).collect();
    per_command("let it wait, with up to 1,000 others (8 are looked at)", REQUESTS, || {
        for command in commands {
            let command = Command::Resource(ResourceCommand::Request(command));
            fleet.apply(Stamp::at(1_000), command, &mut effects);
        }
    });
}

fn main() {
    teams();
    resources();
    run(5, 4);
    run(10_000, 4);
    let commands: Vec<Command> = (1..=TASKS).map(submit).collect();
    let mut bytes = Vec::new();
    per_command("encode a submission", TASKS, || {
        for command in &commands {
            bytes.clear();
            encode_command(command, &mut bytes);
        }
    });
    per_command("decode a submission", TASKS, || {
        for _ in 0..TASKS {
            decode_command(&bytes).expect("own command");
        }
    });
}
