//! A run: a fleet on simulated machines, the faults that happen to it, and the verdict.

mod actions;

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use robeing_platform::{
    Random,
    simulated::{Latency, SeededRandom, SimulatedDisk},
};

use crate::{
    ballots::Opener,
    calls::Calls,
    checks::{self, Check},
    clients::{Submitter, below},
    clocks::{Times, WallClocks},
    customers::Customers,
    faults::{Action, Hard, Host},
    hosts::{
        POOL, POOL_REPLICAS, SIZE, SPARE, Shared, address, addresses, coordinators, hosts, run_agent, run_coordinator,
    },
    listener,
    mail::Correspondent,
    operator::Operator,
    plan::{self, Pulse},
    process::{Process, Program},
    profile::{CORRESPONDENTS, Profile, SUBMITTERS},
    record::Record,
    sabotage::Sabotage,
    time,
    watcher::Watcher,
    wire::Wire,
};

const WATCHER: &str = "watcher";
const OPERATOR: &str = "operator";
const OPENER: &str = "opener";
const CUSTOMERS: &str = "customers";
/// The time from one step to the next.
const TICK: Duration = Duration::from_millis(2);
/// The simulated time at which faults begin.
const FAULTS_FROM: Duration = Duration::from_secs(2);
/// The simulated time at which disks begin to lie, if they should: when the fleet has tasks.
const LIES_FROM: Duration = Duration::from_millis(1_800);
/// The simulated time at which faults stop.
const FAULTS_TO: Duration = Duration::from_secs(12);
/// The simulated time from which nothing but clocks is wrong with the fleet.
const CALM_FROM: Duration = Duration::from_secs(17);
/// The simulated time by which everything must be finished. Hanging tasks and their retries are the slowest.
const ALL_DONE: Duration = Duration::from_secs(90);
/// The interval at which ended processes, and the attempts that agents run, are checked.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The time within which a coordinator must detect that its data is damaged: a few syncs, on a slow disk.
const NOTICED_WITHIN: Duration = Duration::from_secs(6);
/// The time after its end, and after the last fault, for which an agent may still have a session.
const MISSED_WITHIN: Duration = Duration::from_secs(8);
/// The time for which a process that ended on its own stays down.
const RESTART_AFTER: Duration = Duration::from_millis(500);
/// Distinguishes the seeds of the agents' disks.
const AGENT_DISKS: u64 = 0x6167_656e_7400;
/// The start of simulated time: any fixed moment would do, shortly before a minute begins, so that schedules are due while
/// there are faults.
const EPOCH: Duration = Duration::from_secs(1_800_000_000 - 6);

struct World {
    shared: Shared,
    wire: Wire,
    processes: BTreeMap<Host, Process>,
    /// Processes to which faults do not happen; the run is over when all have ended.
    clients: BTreeMap<String, Process>,
    disks: Vec<SimulatedDisk>,
    agent_disks: Vec<SimulatedDisk>,
    /// The latency of syncs while nothing is wrong.
    latency: Latency,
    random: SeededRandom,
    now: Duration,
    /// Future actions; those with the same time are in the order in which they were added.
    actions: BTreeMap<(Duration, usize), Action>,
    next_action: usize,
    /// When coordinators with damaged data must have detected it.
    notice_by: BTreeMap<Host, Duration>,
    /// Processes that ended on their own, and when they are restarted.
    restarts: BTreeMap<Host, Duration>,
    /// Processes that are down because of a fault.
    held_down: BTreeSet<Host>,
    /// Processes that are gone for good.
    retired: BTreeSet<Host>,
    /// When all submitters submit additional tasks.
    pulses: Rc<[Pulse]>,
}

fn submitter(n: usize) -> String {
    format!("submitter-{n}")
}

fn correspondent(n: usize) -> String {
    format!("correspondent-{n}")
}

/// Returns what the client of this name needs to make calls.
fn calls(shared: &Shared, name: &str) -> Calls {
    Calls {
        name: name.to_owned(),
        platform: shared.platform(name, SimulatedDisk::new(0)),
        coordinators: addresses(),
        during: FAULTS_TO,
        record: shared.record.clone(),
    }
}

/// Returns the names of all hosts and clients on the network.
fn everybody() -> Vec<String> {
    let clients = (0..SUBMITTERS).map(submitter).chain([WATCHER.to_owned(), OPERATOR.to_owned()]);
    let clients = clients.chain((0..CORRESPONDENTS).map(correspondent)).chain([OPENER, CUSTOMERS].map(str::to_owned));
    hosts().into_iter().map(Host::name).chain(clients).collect()
}

fn program(run: impl AsyncFn() + 'static) -> Program {
    let run = Rc::new(run);
    Box::new(move || {
        let run = Rc::clone(&run);
        Box::pin(async move { run().await })
    })
}

impl World {
    fn new(shared: Shared, planned: Vec<(Duration, Action)>) -> Self {
        let seed = shared.seed;
        let random = SeededRandom::new(seed ^ 1);
        let latency = Latency { min: Duration::ZERO, max: shared.profile.disk };
        let disks: Vec<_> =
            (0..=SIZE.coordinators as u64).map(|n| SimulatedDisk::with_latency(seed ^ n, latency)).collect();
        let of_agent = |n| SimulatedDisk::with_latency(seed ^ AGENT_DISKS ^ n, latency);
        let agent_disks = (0..SIZE.agents as u64).map(of_agent).collect();
        let mut world = Self {
            wire: shared.wire.clone(),
            shared,
            processes: BTreeMap::new(),
            clients: BTreeMap::new(),
            disks,
            agent_disks,
            latency,
            random,
            now: Duration::ZERO,
            actions: BTreeMap::new(),
            next_action: 0,
            notice_by: BTreeMap::new(),
            restarts: BTreeMap::new(),
            held_down: BTreeSet::new(),
            retired: BTreeSet::new(),
            pulses: plan::pulses(&planned).into(),
        };
        for (at, action) in planned {
            world.add_action(at, action);
        }
        world.add_hosts();
        world.add_clients();
        for process in world.processes.values_mut().chain(world.clients.values_mut()) {
            process.start();
        }
        world
    }

    fn add_hosts(&mut self) {
        for host in hosts() {
            let shared = self.shared.clone();
            let program = match host {
                Host::Coordinator(n) => {
                    let disk = self.disks[n].clone();
                    program(async move || run_coordinator(shared.clone(), host, disk.clone()).await)
                }
                Host::Agent(n) => {
                    let disk = self.agent_disks[n].clone();
                    program(async move || run_agent(shared.clone(), n, disk.clone(), FAULTS_TO).await)
                }
            };
            self.processes.insert(host, Process::new(self.random.next_u64(), program));
        }
    }

    fn add_clients(&mut self) {
        for n in 0..SUBMITTERS {
            let shared = self.shared.clone();
            let name = submitter(n);
            let pulses = Rc::clone(&self.pulses);
            let run = async move || {
                let submitter = Submitter {
                    platform: shared.platform(&submitter(n), SimulatedDisk::new(0)),
                    coordinators: addresses(),
                    tasks: shared.profile.tasks,
                    pulses: Rc::clone(&pulses),
                    pulse: shared.profile.pulse(),
                    mix: shared.profile.mix,
                    odd_role: shared.profile.odd_role,
                    during: FAULTS_TO,
                    record: shared.record.clone(),
                    name: submitter(n),
                };
                submitter.run().await;
            };
            self.clients.insert(name, Process::new(self.random.next_u64(), program(run)));
        }
        let shared = self.shared.clone();
        let tasks = SUBMITTERS * (shared.profile.tasks + self.pulses.len() * shared.profile.pulse());
        let run = async move || {
            let watcher = Watcher {
                platform: shared.platform(WATCHER, SimulatedDisk::new(0)),
                coordinators: addresses(),
                tasks,
                record: shared.record.clone(),
            };
            watcher.run().await;
        };
        self.clients.insert(WATCHER.to_owned(), Process::new(self.random.next_u64(), program(run)));
        let shared = self.shared.clone();
        let run = async move || {
            let operator = Operator {
                platform: shared.platform(OPERATOR, SimulatedDisk::new(0)),
                coordinators: coordinators(),
                spare: (SPARE.name(), address(SPARE)),
                pool: (POOL.to_owned(), POOL_REPLICAS),
                changes: shared.profile.changes,
                during: FAULTS_TO,
                record: shared.record.clone(),
            };
            operator.run().await;
        };
        self.clients.insert(OPERATOR.to_owned(), Process::new(self.random.next_u64(), program(run)));
        self.add_correspondents();
        self.add_opener();
        self.add_customers();
    }

    fn add_customers(&mut self) {
        let shared = self.shared.clone();
        let run = async move || {
            Customers { calls: calls(&shared, CUSTOMERS), odd_role: shared.profile.odd_role }.run().await;
        };
        self.clients.insert(CUSTOMERS.to_owned(), Process::new(self.random.next_u64(), program(run)));
    }

    fn add_opener(&mut self) {
        let shared = self.shared.clone();
        let run = async move || {
            let opener = Opener {
                calls: calls(&shared, OPENER),
                ballots: shared.profile.ballots,
                odd_role: shared.profile.odd_role,
            };
            opener.run().await;
        };
        self.clients.insert(OPENER.to_owned(), Process::new(self.random.next_u64(), program(run)));
    }

    fn add_correspondents(&mut self) {
        for n in 0..CORRESPONDENTS {
            let shared = self.shared.clone();
            let run = async move || {
                let correspondent = Correspondent {
                    platform: shared.platform(&correspondent(n), SimulatedDisk::new(0)),
                    coordinators: addresses(),
                    traffic: shared.profile.traffic,
                    during: FAULTS_TO,
                    record: shared.record.clone(),
                    name: correspondent(n),
                };
                correspondent.run().await;
            };
            self.clients.insert(correspondent(n), Process::new(self.random.next_u64(), program(run)));
        }
    }

    fn process(&mut self, host: Host) -> &mut Process {
        self.processes.get_mut(&host).expect("every host has a process from the beginning")
    }

    fn number(&self, name: &str) -> usize {
        self.wire.host(name).expect("the network has every host from the beginning")
    }

    /// Restarts processes that ended on their own, as a supervisor does.
    fn supervise(&mut self) {
        for host in hosts() {
            self.replace_damaged(host);
            if self.held_down.contains(&host) || self.retired.contains(&host) || self.process(host).is_running() {
                continue;
            }
            let due = *self.restarts.entry(host).or_insert(self.now + RESTART_AFTER);
            if due <= self.now {
                self.start(host);
            }
        }
    }

    /// Returns whether it remains to be checked that the absence of retired agents is detected.
    fn has_to_miss(&self) -> bool {
        !self.retired.is_empty() && self.now <= FAULTS_TO + MISSED_WITHIN + LOOK_EVERY
    }

    /// Checks that agents that are gone have no session, once nothing is wrong any more.
    fn check_missed(&self) {
        let mut notes = self.shared.record.notes();
        let kept = |host: &Host| notes.sessions.values().any(|agent| *agent == host.name());
        let missed: Vec<String> = self.retired.iter().filter(|host| kept(host)).map(|host| host.name()).collect();
        for name in missed {
            notes.violation(Check::Missed, format!("{name} is gone but still has its session"));
        }
    }

    /// Gives a coordinator that has refused its damaged data an empty disk. The others are a majority with intact
    /// disks.
    fn replace_damaged(&mut self, host: Host) {
        let Some(notice_by) = self.notice_by.get(&host).copied() else { return };
        if self.process(host).is_running() {
            if notice_by <= self.now {
                let what = format!("{} runs with damaged data", host.name());
                self.shared.record.violation(Check::Damage, what);
            }
            return;
        }
        if !self.held_down.contains(&host) {
            self.notice_by.remove(&host);
            self.shared.damaged.borrow_mut().remove(&host);
            self.disk(host).into_iter().for_each(SimulatedDisk::wipe);
        }
    }

    /// Repairs everything.
    fn heal(&mut self) {
        tracing::info!(target: "robeing_sim", "no more faults");
        self.actions.clear();
        self.wire.set_lossy(false);
        for host in hosts() {
            self.hurt_disk(host, Action::MendDisk(host));
            self.disk(host).into_iter().for_each(SimulatedDisk::fail_no_sync);
            self.free(host);
            self.shared.record.notes().cure(&host.name());
        }
        self.held_down.clear();
    }

    /// Records that this process runs from now on.
    fn enter(&self, name: &str) {
        let mut notes = self.shared.record.notes();
        notes.running.clear();
        notes.running.push_str(name);
    }

    /// Runs every process for one step, in random order.
    fn tick(&mut self) {
        let mut order: Vec<Result<Host, String>> =
            self.processes.keys().map(|host| Ok(*host)).chain(self.clients.keys().cloned().map(Err)).collect();
        for n in (1..order.len()).rev() {
            order.swap(n, below(&self.random, n as u64 + 1) as usize);
        }
        for who in order {
            match who {
                Ok(host) => {
                    self.enter(&host.name());
                    self.process(host).tick(TICK);
                }
                Err(name) => {
                    self.enter(&name);
                    if let Some(client) = self.clients.get_mut(&name) {
                        client.tick(TICK);
                    }
                }
            }
        }
        self.enter("");
    }

    fn run(&mut self) -> Result<(), String> {
        let mut healed = false;
        let mut honest = self.shared.sabotage != Some(Sabotage::LyingDisks);
        let mut looked = Duration::ZERO;
        while self.clients.values().any(Process::is_running) || self.has_to_miss() {
            let now = self.now;
            self.shared.record.notes().now = now;
            self.shared.times.set(now);
            if self.shared.clocks.step(now) {
                *self.shared.record.notes().faults.entry("wrong-clock").or_default() += 1;
            }
            time::set(EPOCH + now);
            while let Some(next) = self.actions.first_entry().filter(|next| next.key().0 <= now) {
                let action = next.remove();
                self.act(action);
            }
            if !honest && now >= LIES_FROM {
                honest = true;
                self.disks.iter().for_each(SimulatedDisk::lie);
            }
            if !healed && now >= FAULTS_TO {
                healed = true;
                self.heal();
            }
            if now >= looked {
                looked = now + LOOK_EVERY;
                self.supervise();
                self.shared.record.notes().check_all_alone();
                if now >= FAULTS_TO + MISSED_WITHIN {
                    self.check_missed();
                }
            }
            if !self.shared.record.notes().violations.is_empty() {
                return Err("stopped at the first violation".to_owned());
            }
            if now > ALL_DONE {
                let waiting = self.clients.iter().filter(|(_, client)| client.is_running());
                let waiting: Vec<&str> = waiting.map(|(name, _)| name.as_str()).collect();
                return Err(format!("not everything was done after {ALL_DONE:?}; running: {}", waiting.join(", ")));
            }
            self.wire.step(now);
            self.tick();
            self.now += TICK;
        }
        Ok(())
    }
}

/// Runs one seed and prints the result; returns whether everything held.
pub fn run(seed: u64, verbose: bool, sabotage: Option<Sabotage>, only: Option<Hard>) -> bool {
    time::set(EPOCH);
    let record = Record::default();
    let times = Times::default();
    listener::listen(&record, &times, verbose);
    sabotage.into_iter().for_each(Sabotage::begin);
    let mut profile = Profile::of(seed);
    let planned = match only.or_else(|| plan::focus(seed)) {
        None => plan::plan(seed, SIZE, &profile.swarm, FAULTS_FROM, FAULTS_TO),
        Some(hard) => {
            profile.swarm.wrong_clocks = false;
            plan::only(hard, FAULTS_FROM, FAULTS_TO)
        }
    };
    let profile = Rc::new(profile);
    tracing::info!(target: "robeing_sim", ?profile);
    let shared = Shared {
        seed,
        record: record.clone(),
        wire: Wire::new(seed, everybody(), profile.network),
        stops: Rc::default(),
        starts: Rc::default(),
        damaged: Rc::default(),
        sabotage,
        clocks: WallClocks::new(seed, profile.swarm.wrong_clocks),
        times: times.clone(),
        profile,
    };
    record.notes().health_checks = shared.profile.health_checks;
    record.notes().calm_from = CALM_FROM;
    record.notes().times = times.clone();
    let mut world = World::new(shared, planned);
    if sabotage == Some(Sabotage::LyingDisks) {
        world.add_action(FAULTS_FROM, Action::PowerLossOfAll);
        (0..SIZE.coordinators).for_each(|n| world.add_action(FAULTS_FROM, Action::Start(Host::Coordinator(n))));
    }
    let ended = world.run();
    let disks = world
        .disks
        .iter()
        .chain(&world.agent_disks)
        .fold(0, |trace, disk| crc32c::crc32c_append(trace, &disk.trace().to_le_bytes()));
    let (wire, simulated) = (world.wire.trace(), world.now);
    // Processes record their ends when they are dropped.
    drop(world);
    let mut notes = record.notes();
    let trace = crc32c::crc32c_append(notes.trace, &wire.to_le_bytes());
    let mut violations = checks::violations(&mut notes);
    violations.extend(ended.err());
    violations.extend(times.violations(CALM_FROM).into_iter().map(|what| format!("{}: {what}", Check::Time.name())));
    let verdict = if violations.is_empty() { "ok" } else { "FAILED" };
    println!(
        "seed {seed}: {verdict}, {:.1} s, {}, trace {trace:08x}{disks:08x}",
        simulated.as_secs_f64(),
        checks::summary(&notes)
    );
    for violation in violations.iter().take(20) {
        println!("  {violation}");
    }
    violations.is_empty()
}
