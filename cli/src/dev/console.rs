//! `robeing dev` as a command: reads the manifest, runs and shows the fleet until a signal arrives, and stops it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use robeing_client::{FleetClient, Settings};
use robeing_proto::v1::{Agent, AgentState, Consistency, FleetStatus};
use robeing_settings::{TlsMode, settings::WORKER_ADDRESS};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::broadcast::{Receiver, error::RecvError},
    task::JoinHandle,
    time::{MissedTickBehavior, interval, timeout},
};

use super::{
    DRAIN_TIMEOUT, DevError, DevEvent, DevFleet, DevOptions, STOP_GRACE, logs, manifest,
    plan::{Plan, ProcessKind, object_store},
    registry,
    screen::Screen,
    stale_dirs,
};
use crate::{
    args::DevArgs,
    commands::credentials::CredentialError,
    error::CliError,
    exit::Exit,
    render::{live_view, plural},
};

/// `WARNING` is in every warning of a log; a warning that explains why no task can be started also contains `REASON`.
const WARNING: &str = " WARN ";
const REASON: &str = " why=";
/// How often the fleet is polled.
const POLL: Duration = Duration::from_millis(500);
/// Timeout of a poll.
const POLL_TIMEOUT: Duration = Duration::from_secs(2);
/// The fleet version of a new fleet, until its coordinators have found out that all of them support a newer one.
const FIRST_FLEET_VERSION: u32 = 1;
/// Printed when the reader of standard output is gone.
const UNREAD: &str = "nobody reads the output any more, so the fleet is stopped; redirect it to a file or /dev/null to run without a reader";

/// Runs `robeing dev` until a signal arrives or nobody reads its output, and prints the error if it fails.
///
/// # Errors
/// If signals can't be received, or the thread that prints can't be started.
pub async fn run(args: DevArgs) -> Result<Exit, CliError> {
    // From here on a signal stops the fleet gracefully, even while it starts.
    let mut signals = Signals::new().map_err(DevError::Signals)?;
    let mut screen = Screen::new(args.plain)?;
    let exit = run_on(&mut screen, args, &mut signals).await.unwrap_or_else(|error| {
        screen.note(format!("error: {error}"));
        error.exit()
    });
    screen.end().await;
    Ok(exit)
}

async fn run_on(screen: &mut Screen, args: DevArgs, signals: &mut Signals) -> Result<Exit, CliError> {
    let (cluster, secrets) = tokio::select! {
        read = manifest::read(args.filename, screen) => read?,
        () = signals.next() => return Ok(Exit::Interrupted),
    };
    for left in stale_dirs::remove() {
        screen.note(format!("note: removed {}, which a killed `robeing dev` left behind", left.display()));
    }
    let DevArgs { data, name, port, agent_bin, plaintext, .. } = args;
    let options = DevOptions { data, name, port, agent_bin, secrets, plaintext, ..DevOptions::default() };
    let is_kept = options.data.is_some();
    tell_namesakes(screen, options.name.as_deref().or(cluster.metadata.name.as_deref()));
    // Nothing has been started before this returns.
    let (mut fleet, mut events) = tokio::select! {
        started = DevFleet::start(&cluster, &options) => started?,
        () = signals.next() => return Ok(Exit::Interrupted),
    };
    greet(screen, &fleet, is_kept);
    let mut poll = interval(POLL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut observer = Observer::new(&fleet)?;
    let mut failure = None;
    loop {
        tokio::select! {
            () = signals.next() => break,
            error = screen.failed() => {
                if error.kind() == ErrorKind::BrokenPipe {
                    screen.note(UNREAD);
                }
                failure = Some(error.into());
                break;
            }
            event = events.recv() => match event {
                Ok(event) => {
                    observer.heard(&event);
                    screen.line(event.to_string());
                    failure = event.refusal().map(CliError::from);
                    if failure.is_some() {
                        break;
                    }
                }
                Err(RecvError::Lagged(missed)) => screen.line(format!("({missed} events were missed)")),
                Err(RecvError::Closed) => break,
            },
            _ = poll.tick(), if observer.is_idle() => observer.ask(),
            seen = observer.seen(), if !observer.is_idle() => show(screen, &mut observer, seen),
        }
    }
    observer.end();
    screen.clear();
    let was_stopped = stop(&mut fleet, &mut events, signals, screen, is_kept).await;
    while let Ok(event) = events.try_recv() {
        screen.line(event.to_string());
    }
    screen.line("stopped");
    match failure {
        Some(error) if !error.is_broken_pipe() => Err(error),
        _ if was_stopped => Ok(Exit::Success),
        _ => Ok(Exit::Interrupted),
    }
}

/// Stops the fleet gracefully, or kills it when another signal arrives. Returns whether it stopped gracefully.
async fn stop(
    fleet: &mut DevFleet,
    events: &mut Receiver<DevEvent>,
    signals: &mut Signals,
    screen: &mut Screen,
    is_kept: bool,
) -> bool {
    // Other commands submit nothing to a fleet that ends.
    fleet.withdraw();
    screen.line(format!(
        "stopping: agents have up to {}s to finish their tasks, hand back the rest, and are killed after {}s; then the \
         coordinators stop, within {}s; {}; Ctrl-C again kills everything at once",
        DRAIN_TIMEOUT.as_secs(),
        STOP_GRACE.as_secs(),
        STOP_GRACE.as_secs(),
        match is_kept {
            true => "tasks that have not ended by then continue when the fleet is started again",
            false => "tasks that have not ended by then are removed with the fleet's data",
        }
    ));
    let was_stopped = {
        let mut stopping = std::pin::pin!(fleet.stop());
        loop {
            tokio::select! {
                () = &mut stopping => break true,
                () = signals.next() => break false,
                Ok(event) = events.recv() => { screen.line(event.to_string()); }
            }
        }
    };
    if !was_stopped {
        screen.line("killing everything at once");
        fleet.kill().await;
    }
    was_stopped
}

/// Prints which running fleets already have this name, because the name does not distinguish them.
fn tell_namesakes(screen: &mut Screen, name: Option<&str>) {
    for other in registry::running().iter().filter(|other| Some(other.name.as_str()) == name) {
        screen.note(format!(
            "note: another fleet named {} is already running at {}; other commands use the newest, and --name gives \
             this one another name",
            other.name,
            other.endpoints.join(",")
        ));
    }
}

/// Prints what was started and how to use it.
fn greet(screen: &mut Screen, fleet: &DevFleet, is_kept: bool) {
    let plan = fleet.plan();
    let (working, standby) = plan.agents;
    let agents = match (plan.suspended, standby) {
        (true, _) => "no agents (the manifest sets suspend: true)".to_owned(),
        (false, 0) => plural(working as usize, "agent"),
        (false, _) => format!("{} and {standby} standby", plural(working as usize, "agent")),
    };
    let data = fleet.data_dir().display();
    screen.line(format!("fleet {}: {}, {agents}", plan.name, plural(plan.coordinators.len(), "coordinator")));
    screen
        .line(format!("data:      {data}{}", if is_kept { "" } else { " (removed at the end; --data DIR keeps it)" }));
    screen.line(format!("logs:      {data}/logs"));
    screen.line(format!("endpoints: {}", fleet.endpoints().join(",")));
    if !plan.attachable.is_empty() {
        let agents: Vec<String> = plan.attachable.iter().map(|(agent, at)| format!("{at} ({agent})")).collect();
        screen.line(format!(
            "attach:    an agent takes tasks once a process of yours is attached to it; start one for each, with \
             {WORKER_ADDRESS}={}",
            agents.join(", ")
        ));
    }
    if !plan.gateways.is_empty() {
        screen.line(gateways_line(plan));
    }
    let store = object_store(fleet.data_dir());
    let elsewhere = from_elsewhere(&fleet.endpoints(), fleet.identity_dir().as_deref(), store.as_deref());
    screen.line(match fleet.found_by() {
        Ok(condition) => format!(
            "try:       robeing status            (other commands find this fleet {condition}; from elsewhere: \
             {elsewhere})"
        ),
        Err(why) => format!(
            "try:       {elsewhere} robeing status   (other commands do not find this fleet automatically: {why})"
        ),
    });
    screen.frame("waiting for the coordinators");
}

/// Returns where the gateways are, and with TLS how to get a certificate for them.
fn gateways_line(plan: &Plan) -> String {
    let gateways: Vec<String> = plan.gateways.iter().map(|(agent, url)| format!("{url} ({agent})")).collect();
    let how = match plan.tls {
        TlsMode::Off => "",
        _ => "; robeing client create NAME --out DIR makes a certificate for them",
    };
    format!("gateway:   {}{how}", gateways.join(", "))
}

/// Returns the variables with which commands reach the fleet that do not find it: where it is, and with TLS, the folder
/// of its authority, with which they certify themselves; and where large inputs and outputs are.
fn from_elsewhere(endpoints: &[String], identity: Option<&Path>, store: Option<&str>) -> String {
    let authority = identity.map(|dir| format!(" ROBEING_CA={}", dir.display())).unwrap_or_default();
    let store = store.map(|url| format!(" ROBEING_OBJECT_STORE={url}")).unwrap_or_default();
    format!("ROBEING_ENDPOINT={}{authority}{store}", endpoints.join(","))
}

fn show(screen: &mut Screen, observer: &mut Observer, seen: Option<Seen>) {
    screen.catch_up();
    let Some(seen) = seen else { return };
    for news in observer.news(&seen) {
        screen.line(news);
    }
    screen.frame(&live_view(&seen.status, &seen.agents, Timestamp::now()));
}

/// SIGINT, SIGTERM and, unless it was ignored at the start as under nohup(1), SIGHUP.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

/// Returns whether the parent process made this process ignore a signal.
fn is_ignored(kind: SignalKind) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    ignored & (1 << (kind.as_raw_value() - 1)) != 0
}

impl Signals {
    fn new() -> io::Result<Self> {
        let hangup = SignalKind::hangup();
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: if is_ignored(hangup) { None } else { Some(signal(hangup)?) },
        })
    }

    async fn next(&mut self) {
        let hung_up = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hung_up => {}
        }
    }
}

/// The result of one poll of the fleet.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    status: FleetStatus,
    /// The agents that are in the fleet.
    agents: Vec<Agent>,
    /// Those that it has lost, with the reason.
    lost: BTreeMap<String, String>,
}

impl Seen {
    fn of(status: FleetStatus, agents: Vec<Agent>) -> Self {
        let (lost, agents): (Vec<Agent>, _) = agents.into_iter().partition(|agent| agent.state() == AgentState::Lost);
        let lost = lost.into_iter().map(|agent| (agent.name, agent.lost_reason)).collect();
        Self { status, agents, lost }
    }
}

/// Polls the fleet, one request at a time, and reports changes.
struct Observer {
    client: FleetClient,
    plan: Plan,
    /// The log file of each agent.
    logs: BTreeMap<String, PathBuf>,
    /// The agents that were in the fleet at the last poll.
    present: BTreeSet<String>,
    /// The lengths of the agents' logs when the current poll began.
    asked: BTreeMap<String, u64>,
    /// The same of the last two polls that were answered, the earlier one first; of an agent that drains, from before.
    lengths: BTreeMap<String, [u64; 2]>,
    asking: Option<JoinHandle<Option<Seen>>>,
    leader: String,
    agents: (u32, u32, u32),
    was_ready: bool,
}

impl Observer {
    fn new(fleet: &DevFleet) -> Result<Self, CliError> {
        let plan = fleet.plan().clone();
        let security = fleet.security().map_err(CredentialError::from)?;
        let settings = Settings { connect_timeout: POLL_TIMEOUT, request_timeout: POLL_TIMEOUT, security };
        let client = FleetClient::new(&plan.endpoints(), settings)?;
        let agents = fleet.processes().into_iter().filter(|process| process.kind != ProcessKind::Coordinator);
        let logs = agents.map(|agent| (agent.name, agent.log)).collect();
        let lengths = lengths_of(&logs).into_iter().map(|(agent, length)| (agent, [length; 2])).collect();
        Ok(Self {
            client,
            plan,
            logs,
            present: BTreeSet::new(),
            asked: BTreeMap::new(),
            lengths,
            asking: None,
            leader: String::new(),
            agents: (0, 0, 0),
            was_ready: false,
        })
    }

    /// Forgets an agent whose process has died: the reason has already been reported.
    fn heard(&mut self, event: &DevEvent) {
        if let DevEvent::Died { name, .. } = event {
            self.present.remove(name);
        }
    }

    fn is_idle(&self) -> bool {
        self.asking.is_none()
    }

    fn ask(&mut self) {
        self.asked = lengths_of(&self.logs);
        let client = self.client.clone();
        self.asking = Some(tokio::spawn(async move {
            let look = async {
                let status = client.status(Consistency::Local).await.ok()?;
                let agents = client.list_agents(true, Consistency::Local).await.ok()?;
                Some(Seen::of(status, agents))
            };
            timeout(POLL_TIMEOUT, look).await.ok().flatten()
        }));
    }

    /// Waits for the result of the current poll.
    async fn seen(&mut self) -> Option<Seen> {
        let asking = self.asking.as_mut()?;
        let seen = asking.await.ok().flatten();
        self.asking = None;
        seen
    }

    fn end(&mut self) {
        if let Some(asking) = self.asking.take() {
            asking.abort();
        }
    }

    /// Returns what changed since the last poll, as lines.
    fn news(&mut self, seen: &Seen) -> Vec<String> {
        let mut news = Vec::new();
        let counts = seen.status.agents.unwrap_or_default();
        if seen.status.leader != self.leader {
            news.push(match seen.status.leader.as_str() {
                "" => "leader  none at present".to_owned(),
                leader => format!("leader  {leader} (term {})", seen.status.term),
            });
            self.leader.clone_from(&seen.status.leader);
        }
        let agents = (counts.live, counts.standby, counts.draining);
        if agents != self.agents {
            news.push(format!("agents  {} live, {} standby, {} draining", agents.0, agents.1, agents.2));
            self.agents = agents;
        }
        let present: BTreeSet<String> = seen.agents.iter().map(|agent| agent.name.clone()).collect();
        for absent in self.present.difference(&present) {
            let Some(log) = self.logs.get(absent) else { continue };
            // It was still there at the last poll, and may have said why it leaves a moment before.
            let before = self.lengths.get(absent).map_or(0, |lengths| lengths[0]);
            let lost = seen.lost.get(absent).map_or("", String::as_str);
            news.extend(why_absent(log, before, lost).map(|why| format!("absent  {absent} is not in the fleet{why}")));
        }
        self.present = present;
        self.keep_lengths(seen);
        if !self.was_ready && self.is_ready(&seen.status) {
            news.push(format!("ready   fleet {}: submit tasks with robeing submit", self.plan.name));
            self.was_ready = true;
        }
        news
    }

    /// Returns whether the fleet can do whatever its users ask for: it has a leader and all agents, and its features are
    /// in force.
    fn is_ready(&self, status: &FleetStatus) -> bool {
        let (working, standby) = self.plan.agents;
        let present = status.agents.map_or(0, |counts| counts.live + counts.standby);
        let is_complete = !status.leader.is_empty() && present >= working + standby;
        is_complete && status.fleet_version > FIRST_FLEET_VERSION
    }

    /// Keeps the lengths of the logs when the poll began that was just answered.
    fn keep_lengths(&mut self, seen: &Seen) {
        let drains = |agent: &&Agent| agent.state() == AgentState::Draining;
        let draining: BTreeSet<&str> = seen.agents.iter().filter(drains).map(|agent| agent.name.as_str()).collect();
        for (agent, length) in std::mem::take(&mut self.asked) {
            // One that drains said before why it leaves.
            if !draining.contains(agent.as_str()) {
                let kept = self.lengths.entry(agent).or_insert([length; 2]);
                *kept = [kept[1], length];
            }
        }
    }
}

/// Returns the length of the log of each agent.
fn lengths_of(logs: &BTreeMap<String, PathBuf>) -> BTreeMap<String, u64> {
    logs.iter().map(|(agent, log)| (agent.clone(), logs::length(log))).collect()
}

/// Returns why an agent is not in the fleet any more, as the end of a sentence: a warning that its log has after the
/// first `before` bytes, or else the reason for which the fleet has lost it.
fn why_absent(log: &Path, before: u64, lost: &str) -> Option<String> {
    // An agent that can't take tasks reports that only in its log.
    let last_with = |words: &[&str]| logs::last_line_with(log, before, words);
    match last_with(&[WARNING, REASON]).or_else(|| last_with(&[WARNING])) {
        Some(line) => Some(format!("; its log says: {line}")),
        None if lost.is_empty() => None,
        None => Some(format!(": {lost}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_absent_agent_what_its_log_said_long_before_is_not_quoted() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let log = dir.path().join("a.log");
        std::fs::write(&log, "1 WARN it starts\n").expect("written");
        let before = logs::length(&log);
        assert_eq!(why_absent(&log, before, ""), None);
        assert_eq!(why_absent(&log, before, "its connection dropped").as_deref(), Some(": its connection dropped"));
        std::fs::write(&log, "1 WARN it starts\n2 WARN no task can start why=full\n3 WARN bye\n").expect("written");
        let said = why_absent(&log, before, "its connection dropped");
        assert_eq!(said.as_deref(), Some("; its log says: 2 WARN no task can start why=full"));
        assert_eq!(why_absent(&dir.path().join("none"), 0, ""), None);
    }

    #[test]
    fn the_agents_that_are_lost_are_told_from_those_in_the_fleet() {
        let agent = |name: &str, state: AgentState, why: &str| Agent {
            name: name.into(),
            state: state.into(),
            lost_reason: why.into(),
            ..Agent::default()
        };
        let agents = vec![agent("a", AgentState::Lost, "it was silent"), agent("b", AgentState::Standby, "")];
        let seen = Seen::of(FleetStatus::default(), agents);
        assert_eq!(seen.agents.iter().map(|agent| agent.name.as_str()).collect::<Vec<_>>(), ["b"]);
        assert_eq!(seen.lost, BTreeMap::from([("a".to_owned(), "it was silent".to_owned())]));
    }

    #[test]
    fn from_elsewhere_a_fleet_is_called_with_its_authority_and_its_store() {
        let endpoints = ["http://127.0.0.1:1".to_owned(), "http://127.0.0.1:2".to_owned()];
        let plain = "ROBEING_ENDPOINT=http://127.0.0.1:1,http://127.0.0.1:2";
        assert_eq!(from_elsewhere(&endpoints, None, None), plain);
        let store = object_store(Path::new("/data"));
        let stored = from_elsewhere(&endpoints, None, store.as_deref());
        assert_eq!(stored, format!("{plain} ROBEING_OBJECT_STORE=file:///data/objects"));
        let secured = from_elsewhere(&endpoints, Some(Path::new("/data/identity")), store.as_deref());
        assert_eq!(secured, format!("{plain} ROBEING_CA=/data/identity ROBEING_OBJECT_STORE=file:///data/objects"));
    }
}
