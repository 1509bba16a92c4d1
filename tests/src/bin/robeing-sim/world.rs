//! One run: a fleet on simulated machines, the faults that happen to it, and its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use robeing_agent::platform::{
    Random,
    simulated::{Latency, SeededRandom, SimulatedDisk},
};

use crate::{
    checks::{self, Check},
    clients::{Submitter, below},
    damage,
    faults::{self, Action, Faults, Host},
    hosts::{
        POOL, POOL_REPLICAS, SIZE, SPARE, Shared, address, addresses, coordinators, hosts, run_agent, run_coordinator,
    },
    listener,
    operator::{Changes, Operator},
    process::{Process, Program},
    record::Record,
    sabotage::Sabotage,
    tasks::Mix,
    time,
    watcher::Watcher,
    wire::Wire,
};

const SUBMITTERS: usize = 3;
const TASKS_EACH: usize = 25;
const WATCHER: &str = "watcher";
const OPERATOR: &str = "operator";
/// Time from one step to the next.
const TICK: Duration = Duration::from_millis(1);
/// Simulated time at which faults begin.
const FAULTS_FROM: Duration = Duration::from_secs(2);
/// Simulated time at which disks begin to lie, where they are to: when the fleet is at work.
const LIES_FROM: Duration = Duration::from_millis(1_800);
/// Simulated time at which faults stop.
const FAULTS_TO: Duration = Duration::from_secs(12);
/// By when everything is finished. Hanging tasks and their retries are the slowest.
const ALL_DONE: Duration = Duration::from_secs(120);
/// How often it is looked after what ended by itself, and at what agents run.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a coordinator may take to find that its data is damaged.
const NOTICED_WITHIN: Duration = Duration::from_secs(1);
/// How long a process that ended by itself stays away.
const RESTART_AFTER: Duration = Duration::from_millis(500);
/// Start of simulated time: any fixed moment will do.
const EPOCH: Duration = Duration::from_secs(1_800_000_000);

struct World {
    shared: Shared,
    wire: Wire,
    processes: BTreeMap<Host, Process>,
    /// Processes that faults do not happen to; the run is over when all have ended.
    clients: BTreeMap<String, Process>,
    disks: Vec<SimulatedDisk>,
    /// What syncs take while nothing is wrong.
    latency: Latency,
    random: SeededRandom,
    now: Duration,
    /// What is still to happen; in the order in which it was added, where it is to happen at once.
    actions: BTreeMap<(Duration, usize), Action>,
    next_action: usize,
    /// When coordinators with damaged data must have noticed.
    notice_by: BTreeMap<Host, Duration>,
    /// Processes that ended by themselves, and when they are started again.
    restarts: BTreeMap<Host, Duration>,
    /// Processes that are down on purpose.
    held_down: BTreeSet<Host>,
    /// Processes that are gone for good.
    retired: BTreeSet<Host>,
}

fn submitter(n: usize) -> String {
    format!("submitter-{n}")
}

/// Everybody on the network.
fn everybody() -> Vec<String> {
    let clients = (0..SUBMITTERS).map(submitter).chain([WATCHER.to_owned(), OPERATOR.to_owned()]);
    hosts().into_iter().map(Host::name).chain(clients).collect()
}

/// The largest latency of this seed's network.
fn max_latency(seed: u64) -> Duration {
    Duration::from_millis(1 + below(&SeededRandom::new(seed), 15))
}

/// The changes that are made on purpose in this seed's run.
fn changes(seed: u64) -> Changes {
    let random = SeededRandom::new(seed ^ 4);
    let one_of = |n| below(&random, n) == 0;
    Changes { members: one_of(3), leader: one_of(2), pools: one_of(2) }
}

fn program(run: impl AsyncFn() + 'static) -> Program {
    let run = Rc::new(run);
    Box::new(move || {
        let run = Rc::clone(&run);
        Box::pin(async move { run().await })
    })
}

impl World {
    fn new(shared: Shared) -> Self {
        let seed = shared.seed;
        let random = SeededRandom::new(seed ^ 1);
        let latency = Latency { min: Duration::ZERO, max: Duration::from_millis(below(&random, 6)) };
        let disks: Vec<_> =
            (0..=SIZE.coordinators as u64).map(|n| SimulatedDisk::with_latency(seed ^ n, latency)).collect();
        let mut world = Self {
            wire: shared.wire.clone(),
            shared,
            processes: BTreeMap::new(),
            clients: BTreeMap::new(),
            disks,
            latency,
            random,
            now: Duration::ZERO,
            actions: BTreeMap::new(),
            next_action: 0,
            notice_by: BTreeMap::new(),
            restarts: BTreeMap::new(),
            held_down: BTreeSet::new(),
            retired: BTreeSet::new(),
        };
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
                Host::Agent(n) => program(async move || run_agent(shared.clone(), n).await),
            };
            self.processes.insert(host, Process::new(self.random.next_u64(), program));
        }
    }

    fn add_clients(&mut self) {
        for n in 0..SUBMITTERS {
            let shared = self.shared.clone();
            let name = submitter(n);
            let run = async move || {
                let submitter = Submitter {
                    platform: shared.platform(&submitter(n), SimulatedDisk::new(0)),
                    coordinators: addresses(),
                    tasks: TASKS_EACH,
                    mix: Mix::of(shared.seed),
                    during: FAULTS_TO,
                    record: shared.record.clone(),
                    name: submitter(n),
                };
                submitter.run().await;
            };
            self.clients.insert(name, Process::new(self.random.next_u64(), program(run)));
        }
        let shared = self.shared.clone();
        let run = async move || {
            let watcher = Watcher {
                platform: shared.platform(WATCHER, SimulatedDisk::new(0)),
                coordinators: addresses(),
                tasks: SUBMITTERS * TASKS_EACH,
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
                changes: changes(shared.seed),
                during: FAULTS_TO,
                record: shared.record.clone(),
            };
            operator.run().await;
        };
        self.clients.insert(OPERATOR.to_owned(), Process::new(self.random.next_u64(), program(run)));
    }

    fn process(&mut self, host: Host) -> &mut Process {
        self.processes.get_mut(&host).expect("every host has a process from the beginning")
    }

    fn number(&self, name: &str) -> usize {
        self.wire.host(name).expect("the network has every host from the beginning")
    }

    fn kill(&mut self, host: Host) {
        self.process(host).kill();
        self.held_down.insert(host);
        let mut notes = self.shared.record.notes();
        notes.paused.remove(&host.name());
        notes.leading.remove(&host.name());
    }

    fn disk(&self, host: Host) -> Option<&SimulatedDisk> {
        match host {
            Host::Coordinator(n) => self.disks.get(n),
            Host::Agent(_) => None,
        }
    }

    fn power_loss(&mut self, host: Host) {
        // Before the process ends: nobody is told.
        self.wire.set_off(self.number(&host.name()), true);
        self.kill(host);
        let seed = self.random.next_u64();
        if let Some(disk) = self.disk(host) {
            disk.crash(seed);
        }
    }

    fn start(&mut self, host: Host) {
        if self.retired.contains(&host) {
            return;
        }
        if self.shared.damaged.borrow().contains(&host) {
            self.notice_by.entry(host).or_insert(self.now + NOTICED_WITHIN);
        }
        self.held_down.remove(&host);
        self.restarts.remove(&host);
        self.wire.set_off(self.number(&host.name()), false);
        if !self.process(host).is_running() {
            self.process(host).start();
        }
    }

    /// Does something to each link of a host, in each direction.
    fn each_link(&self, host: Host, change: impl Fn(&Wire, usize, usize)) {
        for other in everybody().into_iter().filter(|other| *other != host.name()) {
            let (a, b) = (self.number(&host.name()), self.number(&other));
            change(&self.wire, a, b);
            change(&self.wire, b, a);
        }
    }

    fn act(&mut self, action: Action) {
        tracing::info!(target: "robeing_sim", ?action);
        if let Some(kind) = action.kind() {
            *self.shared.record.notes().faults.entry(kind).or_default() += 1;
        }
        match action {
            Action::Kill(host) => self.kill(host),
            Action::PowerLoss(host) => self.power_loss(host),
            Action::PowerLossOfAll => (0..SIZE.coordinators).for_each(|n| self.power_loss(Host::Coordinator(n))),
            Action::Stop(host) => {
                self.held_down.insert(host);
                if let Some(stop) = self.shared.stops.borrow().get(&host.name()) {
                    stop.cancel();
                }
            }
            Action::Retire(host) => {
                self.kill(host);
                self.retired.insert(host);
            }
            Action::Start(host) => self.start(host),
            Action::Pause(host) => {
                let now = self.now;
                self.process(host).pause(now);
                self.shared.record.notes().paused.insert(host.name());
                self.disturb(host);
            }
            Action::Free(host) => self.free(host),
            Action::EmptyDisk(host) | Action::FlipBit(host) => self.lose_disk(host, action),
            Action::FailSync(host)
            | Action::SlowDisk(host, _)
            | Action::HangDisk(host)
            | Action::FillDisk(host, _)
            | Action::MendDisk(host) => self.hurt_disk(host, action),
            Action::Hard(hard) => self.begin_hard(hard),
            Action::Cut(..)
            | Action::CutOneWay(..)
            | Action::SlowLink(..)
            | Action::Mend(..)
            | Action::Break(..)
            | Action::Isolate(_)
            | Action::Lossy
            | Action::Lossless => self.change_network(action),
        }
    }

    fn change_network(&self, action: Action) {
        let number = |host: Host| self.number(&host.name());
        let both = |a: Host, b: Host| [(number(a), number(b)), (number(b), number(a))];
        match action {
            Action::Cut(a, b) => both(a, b).into_iter().for_each(|(a, b)| self.wire.cut(a, b)),
            Action::CutOneWay(a, b) => self.wire.cut(number(a), number(b)),
            Action::SlowLink(a, b, ms) => self.wire.slow(number(a), number(b), Duration::from_millis(ms)),
            Action::Mend(a, b) => both(a, b).into_iter().for_each(|(a, b)| self.wire.mend(a, b)),
            Action::Break(a, b) => self.wire.break_all(number(a), number(b)),
            Action::Isolate(host) => self.each_link(host, Wire::cut),
            Action::Lossy => self.wire.set_lossy(true),
            Action::Lossless => self.wire.set_lossy(false),
            _ => {}
        }
    }

    fn hurt_disk(&self, host: Host, action: Action) {
        let Some(disk) = self.disk(host) else { return };
        match action {
            Action::FailSync(_) if self.processes.get(&host).is_some_and(Process::is_running) => {
                disk.fail_sync_after(below(&self.random, 4));
            }
            Action::SlowDisk(_, ms) => {
                let max = Duration::from_millis(ms);
                disk.set_latency(Some(Latency { min: max / 2, max }));
            }
            Action::HangDisk(_) => disk.set_hung(true),
            Action::FillDisk(_, room) => disk.set_capacity(Some(disk.used() + room)),
            Action::MendDisk(_) => {
                disk.set_latency(Some(self.latency));
                disk.set_hung(false);
                disk.set_capacity(None);
            }
            _ => {}
        }
    }

    /// A coordinator's process ends, and what it had on its disk is lost.
    fn lose_disk(&mut self, host: Host, action: Action) {
        self.kill(host);
        self.hurt_disk(host, Action::MendDisk(host));
        let Some(disk) = self.disk(host) else { return };
        if matches!(action, Action::EmptyDisk(_)) {
            disk.wipe();
        } else if damage::flip_bit(disk, &self.random, !Mix::of(self.shared.seed).is_large) {
            self.shared.damaged.borrow_mut().insert(host);
        }
    }

    /// Looks who leads, and has everything happen in its time.
    fn begin_hard(&mut self, hard: faults::Hard) {
        let leader = self.shared.record.notes().leader().map(str::to_owned);
        let leader = (0..SIZE.coordinators).find(|n| Some(Host::Coordinator(*n).name()) == leader);
        let leader = leader.unwrap_or(below(&self.random, SIZE.coordinators as u64) as usize);
        for (after, action) in faults::unfold(hard, leader, SIZE, &self.random) {
            self.add_action(self.now + after, action);
        }
    }

    fn add_action(&mut self, at: Duration, action: Action) {
        let number = self.next_action;
        self.next_action += 1;
        self.actions.insert((at, number), action);
    }

    /// Notes that an agent has not had its time for itself.
    fn disturb(&self, host: Host) {
        let mut notes = self.shared.record.notes();
        let now = notes.now;
        notes.agents.entry(host.name()).or_default().disturbed.push(now);
    }

    fn free(&mut self, host: Host) {
        self.each_link(host, Wire::mend);
        if self.process(host).is_paused() {
            self.disturb(host);
        }
        self.shared.record.notes().paused.remove(&host.name());
        let now = self.now;
        self.enter(&host.name());
        self.process(host).go_on(now);
    }

    /// Starts what ended by itself, as a supervisor does.
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

    /// Gives a coordinator that has refused its damaged data an empty disk. The others are a majority, and theirs are whole.
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

    /// Everything works again.
    fn heal(&mut self) {
        tracing::info!(target: "robeing_sim", "no more faults");
        self.actions.clear();
        self.wire.set_lossy(false);
        for host in hosts() {
            self.hurt_disk(host, Action::MendDisk(host));
            self.free(host);
        }
        self.held_down.clear();
    }

    /// From now on this process runs, as far as the record goes.
    fn enter(&self, name: &str) {
        let mut notes = self.shared.record.notes();
        notes.running.clear();
        notes.running.push_str(name);
    }

    /// Runs every process for one step, in any order.
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
        while self.clients.values().any(Process::is_running) {
            let now = self.now;
            self.shared.record.notes().now = now;
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
            }
            if !self.shared.record.notes().violations.is_empty() {
                return Err("stopped at the first violation".to_owned());
            }
            if now > ALL_DONE {
                return Err(format!("not everything was done after {ALL_DONE:?}"));
            }
            self.wire.step(now);
            self.tick();
            self.now += TICK;
        }
        Ok(())
    }
}

/// Runs one seed and tells of it: whether everything held.
pub fn run(seed: u64, verbose: bool, sabotage: Option<Sabotage>, with: &[String]) -> bool {
    time::set(EPOCH);
    let record = Record::default();
    listener::listen(&record, verbose);
    sabotage.into_iter().for_each(Sabotage::begin);
    let shared = Shared {
        seed,
        record: record.clone(),
        wire: Wire::new(seed, everybody(), max_latency(seed)),
        stops: Rc::default(),
        starts: Rc::default(),
        damaged: Rc::default(),
        sabotage,
    };
    let mut world = World::new(shared);
    for (at, action) in faults::plan(seed, SIZE, &Faults::new(with), FAULTS_FROM, FAULTS_TO) {
        world.add_action(at, action);
    }
    if sabotage == Some(Sabotage::LyingDisks) {
        world.add_action(FAULTS_FROM, Action::PowerLossOfAll);
        (0..SIZE.coordinators).for_each(|n| world.add_action(FAULTS_FROM, Action::Start(Host::Coordinator(n))));
    }
    let ended = world.run();
    let disks = world.disks.iter().fold(0, |trace, disk| crc32c::crc32c_append(trace, &disk.trace().to_le_bytes()));
    let (wire, simulated) = (world.wire.trace(), world.now);
    // Processes note their ends.
    drop(world);
    let mut notes = record.notes();
    let trace = crc32c::crc32c_append(notes.trace, &wire.to_le_bytes());
    let mut violations = checks::violations(&mut notes);
    violations.extend(ended.err());
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
