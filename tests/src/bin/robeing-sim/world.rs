//! One run: a fleet on simulated hosts, the faults that happen to it, and its end.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use clap::ValueEnum;
use robeing_agent::{
    config::{AgentConfig, AgentRole, CoordinatorConfig, FleetLimits, Weights},
    coordinator,
    platform::{
        Platform, Random,
        simulated::{Latency, SeededRandom, SimulatedDisk},
    },
    session,
    telemetry::Metrics,
};
use tokio_util::sync::CancellationToken;
use turmoil::Sim;

use crate::{
    checks,
    clients::{Submitter, below},
    executor::SimulatedExecutor,
    faults::{self, Action, Host, Size},
    network::{Down, SimulatedClock, SimulatedHost, SimulatedNetwork},
    record::Record,
    time,
    watcher::Watcher,
};

const SIZE: Size = Size { coordinators: 3, agents: 5 };
const SUBMITTERS: usize = 3;
const TASKS_EACH: usize = 25;
const WATCHER: &str = "watcher";
const PORT: u16 = 7000;
/// Simulated time at which faults begin.
const FAULTS_FROM: Duration = Duration::from_secs(2);
/// Simulated time at which disks begin to lie, where they are to: when the fleet is at work.
const LIES_FROM: Duration = Duration::from_millis(1_800);
/// Simulated time at which faults stop.
const FAULTS_TO: Duration = Duration::from_secs(12);
/// By when everything is finished. Hanging tasks and their retries are the slowest.
const ALL_DONE: Duration = Duration::from_secs(120);
/// Entries between two snapshots: few, so that logs are cut and newcomers and stragglers get snapshots.
const SNAPSHOT_AFTER: u32 = 30;
/// How long a process that ended by itself stays away.
const RESTART_AFTER: Duration = Duration::from_millis(500);
/// Start of simulated time: any fixed moment will do.
const EPOCH: Duration = Duration::from_secs(1_800_000_000);

/// Ways to break the fleet on purpose.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Sabotage {
    /// Disks say "synced" and are not, and all coordinators lose power.
    LyingDisks,
    /// Agents answer with the output of another attempt.
    WrongOutput,
}

impl Sabotage {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::LyingDisks => "lying-disks",
            Self::WrongOutput => "wrong-output",
        }
    }
}

/// What the simulation and its hosts share.
#[derive(Clone)]
struct Shared {
    seed: u64,
    record: Record,
    down: Down,
    /// How to ask each process to stop.
    stops: Rc<RefCell<BTreeMap<String, CancellationToken>>>,
    /// How often each process was started.
    starts: Rc<RefCell<BTreeMap<String, u64>>>,
    sabotage: Option<Sabotage>,
}

impl Shared {
    /// The world as one process has it; each start has random numbers of its own.
    fn platform(&self, name: &str, disk: SimulatedDisk) -> Platform {
        let start = *self.starts.borrow_mut().entry(name.to_owned()).and_modify(|n| *n += 1).or_insert(1);
        let host = u64::from(crc32c::crc32c(name.as_bytes()));
        let random = SeededRandom::new(self.seed ^ (host << 32) ^ start);
        Platform {
            network: Arc::new(SimulatedNetwork::new(self.down.clone())),
            clock: Arc::new(SimulatedClock { ahead: host % 400 }),
            random: Arc::new(random),
            disk: Arc::new(disk),
            host: Arc::new(SimulatedHost),
        }
    }

    /// A token by which the process is asked to stop.
    fn started(&self, name: &str) -> CancellationToken {
        let stop = CancellationToken::new();
        self.stops.borrow_mut().insert(name.to_owned(), stop.clone());
        self.down.set(name, false);
        stop
    }
}

fn address(host: Host) -> String {
    format!("{}:{PORT}", host.name())
}

fn coordinators() -> Vec<(String, String)> {
    (0..SIZE.coordinators).map(Host::Coordinator).map(|host| (host.name(), address(host))).collect()
}

fn coordinator_config(name: String) -> CoordinatorConfig {
    CoordinatorConfig {
        listen: format!("{name}:{PORT}"),
        name,
        cluster_id: "simulated".to_owned(),
        advertise: None,
        data: PathBuf::from("/data"),
        initial_coordinators: coordinators(),
        heartbeat_interval: Duration::from_millis(500),
        session_timeout: Duration::from_secs(2),
        max_attempts: 5,
        weights: Weights::default(),
        election_timeout_min: Duration::from_millis(150),
        election_timeout_max: Duration::from_millis(300),
        disconnect_grace: Duration::from_millis(50),
        limits: FleetLimits::default(),
        snapshot_after: SNAPSHOT_AFTER,
        expected_agents: None,
        metrics_listen: None,
    }
}

fn agent_config(name: String) -> AgentConfig {
    AgentConfig {
        worker_listen: robeing_agent::config::DEFAULT_WORKER_LISTEN.into(),
        listen: format!("{name}:{PORT}"),
        name,
        cluster_id: "simulated".to_owned(),
        role: AgentRole::Worker,
        coordinators: coordinators().into_iter().map(|(_, address)| address).collect(),
        advertise: None,
        pool: "work".to_owned(),
        pool_replicas: SIZE.agents as u32 - 1,
        pool_standby: 1,
        specializations: Vec::new(),
        slots: 2,
        drain_timeout: Duration::from_secs(1),
        metrics_listen: None,
    }
}

async fn run_coordinator(shared: Shared, host: Host, disk: SimulatedDisk) {
    let name = host.name();
    let failures = disk.failures();
    let platform = shared.platform(&name, disk.clone());
    let stop = shared.started(&name);
    let ended = coordinator::run(coordinator_config(name.clone()), platform, Metrics::default(), stop).await;
    shared.down.set(&name, true);
    match ended {
        Ok(()) => {}
        // A failed disk must stop it; the next start finds what the disk has.
        Err(error) if disk.failures() > failures => {
            tracing::warn!(target: "robeing_sim", name, %error, "stopped, as it must");
        }
        Err(error) => shared.record.violation(format!("{name} stopped: {error}")),
    }
}

async fn run_agent(shared: Shared, host: Host) {
    let name = host.name();
    let platform = shared.platform(&name, SimulatedDisk::new(0));
    let stop = shared.started(&name);
    let lies = shared.sabotage == Some(Sabotage::WrongOutput);
    let executor = SimulatedExecutor {
        agent: if lies { "somebody else".to_owned() } else { name.clone() },
        record: shared.record.clone(),
    };
    // An agent that can't hand back what it holds says so; the coordinators find out by themselves.
    let config = agent_config(name.clone());
    if let Err(error) = session::run(config, platform, Arc::new(executor), Metrics::default(), stop).await {
        tracing::warn!(target: "robeing_sim", name, %error, "agent ended");
    }
    shared.down.set(&name, true);
}

struct World<'a> {
    sim: Sim<'a>,
    shared: Shared,
    disks: Vec<SimulatedDisk>,
    random: SeededRandom,
    /// Processes that ended by themselves, and when they are started again.
    restarts: BTreeMap<Host, Duration>,
    /// Processes that are down on purpose.
    held_down: BTreeSet<Host>,
}

fn hosts() -> Vec<Host> {
    (0..SIZE.coordinators).map(Host::Coordinator).chain((0..SIZE.agents).map(Host::Agent)).collect()
}

/// Everybody on the network.
fn everybody() -> Vec<String> {
    let submitters = (0..SUBMITTERS).map(|n| format!("submitter-{n}"));
    hosts().into_iter().map(Host::name).chain(submitters).chain([WATCHER.to_owned()]).collect()
}

impl<'a> World<'a> {
    fn new(shared: Shared) -> Self {
        let seed = shared.seed;
        let random = SeededRandom::new(seed);
        let mut builder = turmoil::Builder::new();
        builder
            .rng_seed(seed)
            .epoch(UNIX_EPOCH + EPOCH)
            .simulation_duration(ALL_DONE)
            .tick_duration(Duration::from_millis(1))
            .min_message_latency(Duration::from_micros(200))
            .max_message_latency(Duration::from_millis(1 + below(&random, 15)))
            .repair_rate(0.2)
            .tcp_capacity(1 << 16)
            .enable_random_order();
        let mut sim = builder.build();
        let latency = Latency { min: Duration::ZERO, max: Duration::from_millis(below(&random, 6)) };
        let disks: Vec<_> =
            (0..SIZE.coordinators as u64).map(|n| SimulatedDisk::with_latency(seed ^ n, latency)).collect();
        for (n, disk) in disks.iter().enumerate() {
            let (host, shared, disk) = (Host::Coordinator(n), shared.clone(), disk.clone());
            sim.host(host.name(), move || {
                let (shared, disk) = (shared.clone(), disk.clone());
                async move {
                    run_coordinator(shared, host, disk).await;
                    Ok(())
                }
            });
        }
        for host in (0..SIZE.agents).map(Host::Agent) {
            let shared = shared.clone();
            sim.host(host.name(), move || {
                let shared = shared.clone();
                async move {
                    run_agent(shared, host).await;
                    Ok(())
                }
            });
        }
        for n in 0..SUBMITTERS {
            let name = format!("submitter-{n}");
            let submitter = Submitter {
                platform: shared.platform(&name, SimulatedDisk::new(0)),
                coordinators: coordinators().into_iter().map(|(_, address)| address).collect(),
                tasks: TASKS_EACH,
                during: FAULTS_TO,
                record: shared.record.clone(),
                name: name.clone(),
            };
            sim.client(name, async move {
                submitter.run().await;
                Ok(())
            });
        }
        let watcher = Watcher {
            platform: shared.platform(WATCHER, SimulatedDisk::new(0)),
            coordinators: coordinators().into_iter().map(|(_, address)| address).collect(),
            tasks: SUBMITTERS * TASKS_EACH,
            record: shared.record.clone(),
        };
        sim.client(WATCHER, async move {
            watcher.run().await;
            Ok(())
        });
        Self { sim, shared, disks, random, restarts: BTreeMap::new(), held_down: BTreeSet::new() }
    }

    fn crash(&mut self, host: Host) {
        self.sim.crash(host.name());
        self.shared.down.set(&host.name(), true);
        self.held_down.insert(host);
    }

    fn power_loss(&mut self, host: Host) {
        self.crash(host);
        if let Host::Coordinator(n) = host {
            self.disks[n].crash(self.random.next_u64());
        }
    }

    fn start(&mut self, host: Host) {
        self.held_down.remove(&host);
        self.restarts.remove(&host);
        if !self.sim.is_host_running(host.name()) {
            self.sim.bounce(host.name());
        }
    }

    /// Does something to each link of a host.
    fn each_link(&self, host: Host, change: impl Fn(&Sim<'a>, String, String)) {
        for other in everybody().into_iter().filter(|other| *other != host.name()) {
            change(&self.sim, host.name(), other);
        }
    }

    fn mend(sim: &Sim<'a>, a: String, b: String) {
        sim.release(a.as_str(), b.as_str());
        sim.repair(a.as_str(), b.as_str());
    }

    fn act(&mut self, action: Action) {
        tracing::info!(target: "robeing_sim", ?action);
        if let Some(kind) = action.kind() {
            *self.shared.record.notes().faults.entry(kind).or_default() += 1;
        }
        match action {
            Action::Kill(host) => self.crash(host),
            Action::PowerLoss(host) => self.power_loss(host),
            Action::PowerLossOfAll => (0..SIZE.coordinators).for_each(|n| self.power_loss(Host::Coordinator(n))),
            Action::Stop(host) => {
                self.held_down.insert(host);
                if let Some(stop) = self.shared.stops.borrow().get(&host.name()) {
                    stop.cancel();
                }
            }
            Action::EmptyDisk(host) => {
                self.crash(host);
                if let Host::Coordinator(n) = host {
                    self.disks[n].wipe();
                }
            }
            Action::Start(host) => self.start(host),
            Action::FailSync(host) => {
                if let Host::Coordinator(n) = host
                    && self.sim.is_host_running(host.name())
                {
                    self.disks[n].fail_sync_after(below(&self.random, 4));
                }
            }
            Action::Cut(a, b) => self.sim.partition(a.name(), b.name()),
            Action::CutOneWay(a, b) => self.sim.partition_oneway(a.name(), b.name()),
            Action::Mend(a, b) => Self::mend(&self.sim, a.name(), b.name()),
            Action::Isolate(host) => self.each_link(host, |sim, a, b| sim.partition(a, b)),
            Action::Freeze(host) => self.each_link(host, |sim, a, b| sim.hold(a, b)),
            Action::Free(host) => self.each_link(host, Self::mend),
            Action::Lossy => self.sim.set_fail_rate(0.0005),
            Action::Lossless => self.sim.set_fail_rate(0.0),
        }
    }

    /// Starts what ended by itself, as a supervisor does.
    fn supervise(&mut self) {
        let now = self.sim.elapsed();
        for host in hosts() {
            if self.held_down.contains(&host) || self.sim.is_host_running(host.name()) {
                continue;
            }
            let due = *self.restarts.entry(host).or_insert(now + RESTART_AFTER);
            if due <= now {
                self.start(host);
            }
        }
    }

    /// Everything works again.
    fn heal(&mut self) {
        tracing::info!(target: "robeing_sim", "no more faults");
        self.sim.set_fail_rate(0.0);
        for host in hosts() {
            self.each_link(host, Self::mend);
        }
        self.held_down.clear();
    }

    fn run(&mut self, mut actions: Vec<(Duration, Action)>) -> Result<(), String> {
        actions.reverse();
        let mut healed = false;
        let mut honest = self.shared.sabotage != Some(Sabotage::LyingDisks);
        let mut supervised = Duration::ZERO;
        loop {
            let now = self.sim.elapsed();
            self.shared.record.notes().now = now;
            time::set(EPOCH + now);
            while actions.last().is_some_and(|(at, _)| *at <= now && *at < FAULTS_TO) {
                if let Some((_, action)) = actions.pop() {
                    self.act(action);
                }
            }
            if !honest && now >= LIES_FROM {
                honest = true;
                self.disks.iter().for_each(SimulatedDisk::lie);
            }
            if !healed && now >= FAULTS_TO {
                healed = true;
                self.heal();
            }
            if now >= supervised {
                supervised = now + Duration::from_millis(100);
                self.supervise();
            }
            if !self.shared.record.notes().violations.is_empty() {
                return Err("stopped at the first violation".to_owned());
            }
            if self.sim.step().map_err(|e| e.to_string())? {
                return Ok(());
            }
        }
    }
}

/// Runs one seed and tells of it: whether everything held.
pub fn run(seed: u64, verbose: bool, sabotage: Option<Sabotage>) -> bool {
    time::set(EPOCH);
    let record = Record::default();
    record.listen(verbose);
    let shared = Shared {
        seed,
        record: record.clone(),
        down: Down::default(),
        stops: Rc::default(),
        starts: Rc::default(),
        sabotage,
    };
    let mut actions = faults::plan(seed, SIZE, FAULTS_FROM, FAULTS_TO);
    if sabotage == Some(Sabotage::LyingDisks) {
        actions.insert(0, (FAULTS_FROM, Action::PowerLossOfAll));
        actions.extend((0..SIZE.coordinators).map(|n| (FAULTS_FROM, Action::Start(Host::Coordinator(n)))));
        actions.sort_by_key(|(at, _)| *at);
    }
    let mut world = World::new(shared);
    let ended = world.run(actions);
    let disks = world.disks.iter().fold(0, |trace, disk| crc32c::crc32c_append(trace, &disk.trace().to_le_bytes()));
    let simulated = world.sim.elapsed();
    let trace = record.trace();
    let notes = record.notes();
    let mut violations = checks::violations(&notes);
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
