//! What happens to commands when their agent is killed.
//!
//! An agent that is killed must be a process: this test binary runs itself with only the test that acts as the agent.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use nix::sys::signal::Signal;
use robeing_agent::executor::{CommandConfig, CommandExecutor, Executor, Guard, Outcome, SessionInfo, guard};
use robeing_net::Transport;
use robeing_platform::Platform;
use robeing_proto::internal::v1::{
    GuardReport, GuardReportReply,
    guards_server::{Guards, GuardsServer},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, service::Routes};

use crate::fixture::{SOON, alive, attempt, eventually, kill, kill_group, limits, numbers, output, shell};

/// The role this process plays; unset in an ordinary run of the tests.
const PART: &str = "ROBEING_TEST_PART";
/// The directory where the agent's commands write their pids.
const DIRECTORY: &str = "ROBEING_TEST_DIRECTORY";

/// The coordinator that the guard reports to.
const COORDINATOR: &str = "ROBEING_TEST_COORDINATOR";

/// The lease of the agent that is stopped.
const LEASE: std::time::Duration = std::time::Duration::from_secs(3);

/// Ignores the signals that can be ignored, has children, and writes all pids to `$0`.
const STUBBORN: &str = "trap '' TERM HUP INT; sleep 600 & a=$!; (sleep 600 & echo $! >$0.sub; wait) & b=$!; \
     while [ ! -s $0.sub ]; do sleep 0.01; done; { echo $$; echo $a; echo $b; cat $0.sub; } >$0.tmp; \
     mv $0.tmp $0; while :; do sleep 600; done";

fn this_test(part: &str, test: &str) -> Command {
    let mut command = Command::new(env::current_exe().expect("this binary"));
    command.args(["--exact", test, "--nocapture"]).env(PART, part).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

struct Agent {
    process: Child,
    directory: tempfile::TempDir,
}

impl Agent {
    fn start(part: &str) -> Self {
        Self::start_with(part, "")
    }

    fn start_with(part: &str, coordinator: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let process = this_test(part, "guard::plays_the_agent")
            .env(DIRECTORY, directory.path())
            .env(COORDINATOR, coordinator)
            .spawn()
            .expect("the agent starts");
        Self { process, directory }
    }

    /// Waits until the command `name` has written its pids, and returns them.
    async fn pids(&self, name: &str) -> Vec<i32> {
        let file = self.directory.path().join(name);
        eventually(&format!("{name} has reported"), || file.exists()).await;
        numbers(&fs::read_to_string(file).expect("pids"))
    }

    fn signal(&self, signal: Signal) {
        let pid = nix::unistd::Pid::from_raw(self.process.id().cast_signed());
        nix::sys::signal::kill(pid, signal).expect("the agent is there");
    }

    fn kill(&mut self) {
        self.process.kill().expect("to kill the agent");
        self.process.wait().expect("the agent's end");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        for file in fs::read_dir(self.directory.path()).into_iter().flatten().flatten() {
            for pid in fs::read_to_string(file.path()).unwrap_or_default().lines().filter_map(|l| l.parse().ok()) {
                kill_group(pid);
            }
        }
    }
}

#[tokio::test]
async fn a_killed_agent_takes_its_commands_and_its_guard_along() {
    let mut agent = Agent::start("agent");
    let pids = [agent.pids("first").await, agent.pids("guard").await].concat();
    assert!(pids.iter().all(|pid| alive(*pid)), "all of {pids:?} should be running");
    agent.kill();
    eventually(&format!("all of {pids:?} are gone"), || !pids.iter().any(|pid| alive(*pid))).await;
}

#[tokio::test]
async fn a_guard_that_died_is_replaced_and_its_successor_knows_every_group() {
    let mut agent = Agent::start("agent-that-lost-its-guard");
    let first = agent.pids("first").await;
    let second = agent.pids("second").await;
    let guards = agent.pids("guard").await;
    assert_ne!(guards[0], guards[1], "a new guard was expected");
    let pids = [first, second, vec![guards[1]]].concat();
    assert!(pids.iter().all(|pid| alive(*pid)), "all of {pids:?} should be running");
    agent.kill();
    eventually(&format!("all of {pids:?} are gone"), || !pids.iter().any(|pid| alive(*pid))).await;
}

#[tokio::test]
async fn a_guard_that_died_is_replaced_with_the_next_renewal_of_the_lease() {
    let mut agent = Agent::start("agent-that-renews-its-lease");
    let first = agent.pids("first").await;
    let guards = agent.pids("guard").await;
    assert_ne!(guards[0], guards[1], "a new guard was expected");
    // Only the new guard can kill all of these: the command is the agent's child, but its descendants are not.
    let pids = [first, vec![guards[1]]].concat();
    assert!(pids.iter().all(|pid| alive(*pid)), "all of {pids:?} should be running");
    agent.kill();
    eventually(&format!("all of {pids:?} are gone"), || !pids.iter().any(|pid| alive(*pid))).await;
}

#[tokio::test]
async fn a_stopped_agents_commands_end_with_its_lease() {
    let mut agent = Agent::start("agent-that-is-stopped");
    let pids = agent.pids("first").await;
    agent.pids("guard").await;
    agent.signal(Signal::SIGSTOP);
    eventually(&format!("all of {pids:?} are gone"), || !pids.iter().any(|pid| alive(*pid))).await;
    agent.kill();
}

/// Receives the reports of guards.
struct Coordinator {
    address: String,
    reports: mpsc::Receiver<(GuardReport, Vec<i32>)>,
    /// The processes that must be gone when a report arrives.
    watched: Arc<Mutex<Vec<i32>>>,
}

struct Reports(mpsc::Sender<(GuardReport, Vec<i32>)>, Arc<Mutex<Vec<i32>>>);

#[tonic::async_trait]
impl Guards for Reports {
    async fn report(&self, request: Request<GuardReport>) -> Result<Response<GuardReportReply>, Status> {
        let running = self.1.lock().expect("no panic").iter().copied().filter(|pid| alive(*pid)).collect();
        self.0.send((request.into_inner(), running)).await.expect("the test listens");
        Ok(Response::new(GuardReportReply { settled: true, ..GuardReportReply::default() }))
    }
}

impl Coordinator {
    async fn start() -> Self {
        let (sender, reports) = mpsc::channel(8);
        let watched: Arc<Mutex<Vec<i32>>> = Arc::default();
        let bound = Transport::new(Platform::real().network).bind("127.0.0.1:0").await.expect("a free port");
        let address = bound.local_addr().expect("it is bound").to_string();
        let routes = Routes::new(GuardsServer::new(Reports(sender, Arc::clone(&watched))));
        tokio::spawn(bound.serve(routes, CancellationToken::new()));
        Self { address, reports, watched }
    }

    /// Returns the next report; everything watched must be gone by then.
    async fn report(&mut self) -> GuardReport {
        let next = tokio::time::timeout(SOON, self.reports.recv()).await;
        let (report, running) = next.expect("a report").expect("the service lives");
        assert_eq!(running, [0; 0], "something still runs of a session whose end is reported");
        assert_eq!((report.cluster_id.as_str(), report.agent.as_str(), report.session), ("cluster", "agent", 7));
        assert_eq!(report.secret, vec![3; 16]);
        report
    }
}

fn info(coordinator: String) -> SessionInfo {
    SessionInfo {
        cluster_id: "cluster".into(),
        agent: "agent".into(),
        session: 7,
        secret: vec![3; 16],
        // The first coordinator is down.
        coordinators: vec!["127.0.0.1:1".into(), coordinator],
        within_ms: u32::MAX,
        trust: None,
    }
}

#[tokio::test]
async fn a_guard_takes_the_session_of_a_stopped_agent_and_reports_it_when_its_commands_are_gone() {
    let mut coordinator = Coordinator::start().await;
    let agent = Agent::start_with("agent-in-a-session", &coordinator.address);
    let pids = agent.pids("first").await;
    agent.pids("guard").await;
    // A short stop revokes nothing.
    for _ in 0..3 {
        agent.signal(Signal::SIGSTOP);
        tokio::time::sleep(LEASE / 16).await;
        agent.signal(Signal::SIGCONT);
    }
    assert!(pids.iter().all(|pid| alive(*pid)), "all of {pids:?} should be running");
    coordinator.watched.lock().expect("no panic").clone_from(&pids);
    agent.signal(Signal::SIGSTOP);
    assert!(coordinator.report().await.stopped);
    // The agent resumes, and finds the revocation before it can do anything else.
    agent.signal(Signal::SIGCONT);
    agent.pids("revoked").await;
}

#[tokio::test]
async fn a_guard_reports_the_end_of_its_agent_when_the_commands_are_gone() {
    let mut coordinator = Coordinator::start().await;
    let mut agent = Agent::start_with("agent-in-a-session", &coordinator.address);
    let pids = agent.pids("first").await;
    agent.pids("guard").await;
    coordinator.watched.lock().expect("no panic").clone_from(&pids);
    agent.kill();
    assert!(!coordinator.report().await.stopped);
}

#[tokio::test]
async fn without_a_guard_the_commands_own_process_still_dies_with_the_agent() {
    let mut agent = Agent::start("agent-without-a-guard");
    let pids = agent.pids("first").await;
    agent.kill();
    eventually("the command is gone", || !alive(pids[0])).await;
}

#[tokio::test]
async fn a_group_is_registered_before_its_command_runs_and_forgotten_after() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    // In the guard's place, a program that records its input.
    let recorder = format!("exec cat > {}", log.display());
    let guard = Arc::new(Guard::spawn_with(Path::new("/bin/sh"), ["-c", &recorder]).expect("the recorder starts"));
    let argv = ["/bin/sh", "-c", "echo $$"].map(String::from).to_vec();
    let executor = CommandExecutor::new(CommandConfig { argv, limits: limits(), guard: Some(guard) })
        .expect("a good configuration");
    let pid = numbers(&output(&executor, attempt("")).await)[0];
    let expected = [pid.to_le_bytes(), (-pid).to_le_bytes()].concat();
    eventually("both records are there", || fs::read(&log).is_ok_and(|log| log.len() >= 8)).await;
    assert_eq!(fs::read(&log).expect("the log"), expected);
}

#[tokio::test]
async fn a_guard_that_can_not_be_started_is_an_error() {
    let missing = Path::new("/no/such/agent");
    assert_eq!(Guard::spawn(missing).expect_err("no such program").kind(), std::io::ErrorKind::NotFound);
    // The executor still works: nothing here depends on the failed start.
    assert_eq!(output(&shell("echo on"), attempt("")).await, "on\n");
}

/// Not a test, but the guard's process, when a test requests it.
#[test]
fn plays_the_guard() {
    if env::var_os(PART).is_some() {
        guard::main();
    }
}

/// Not a test, but the agent's process, when a test requests it.
#[tokio::test]
async fn plays_the_agent() {
    let Ok(part) = env::var(PART) else { return };
    let directory = PathBuf::from(env::var_os(DIRECTORY).expect("a directory"));
    let this_binary = env::current_exe().expect("this binary");
    let guard = (part != "agent-without-a-guard").then(|| {
        let guard = Guard::spawn_with(&this_binary, ["--exact", "guard::plays_the_guard", "--nocapture"]);
        Arc::new(guard.expect("the guard starts"))
    });
    let start = |name: &str| {
        let report = directory.join(name);
        let argv = ["/bin/sh", "-c", STUBBORN, report.to_str().expect("UTF-8")].map(String::from).to_vec();
        let config = CommandConfig { argv, limits: limits(), guard: guard.clone() };
        let executor = CommandExecutor::new(config).expect("a good configuration");
        let ran = tokio::spawn(async move { executor.run(attempt(""), CancellationToken::new()).await });
        (ran, report)
    };
    let (first, report) = start("first");
    eventually("the first command has reported", || report.exists()).await;
    if let (Some(guard), "agent-that-is-stopped") = (&guard, part.as_str()) {
        guard.lease(Some(LEASE));
    }
    let mut looking = None;
    if let (Some(guard), "agent-in-a-session") = (&guard, part.as_str()) {
        guard.set_session(Some(info(env::var(COORDINATOR).expect("a coordinator"))));
        let (guard, directory) = (Arc::clone(guard), directory.clone());
        // As the agent does: it renews the lease, and checks for a revocation before it does anything.
        looking = Some(tokio::spawn(async move {
            while !guard.is_revoked() {
                guard.lease(Some(LEASE));
                tokio::time::sleep(LEASE / 8).await;
            }
            fs::write(directory.join("revoked"), "").expect("to report");
        }));
    }
    let mut guards = guard.iter().map(|guard| guard.pid()).collect::<Vec<_>>();
    if let (Some(guard), "agent-that-lost-its-guard" | "agent-that-renews-its-lease") = (&guard, part.as_str()) {
        kill(guards[0].cast_signed());
        // The guard here is a test process, whose first thread may end before the thread of the guard.
        let threads = || fs::read_dir(format!("/proc/{}/task", guards[0])).map_or(0, Iterator::count);
        let dead = || !alive(guards[0].cast_signed()) && threads() <= 1;
        eventually("the guard is dead", dead).await;
        if part == "agent-that-renews-its-lease" {
            guard.lease(Some(LEASE * 100));
        } else {
            let (second, report) = start("second");
            eventually("the second command has reported", || report.exists() || second.is_finished()).await;
        }
        guards.push(guard.pid());
    }
    if let Some(guard) = guards.last() {
        // A test process writes to its output before it acts as the guard, and would die there if its reader, the
        // agent, were gone.
        let threads = || fs::read_dir(format!("/proc/{guard}/task")).into_iter().flatten().flatten();
        let is_named =
            |thread: fs::DirEntry| fs::read(thread.path().join("comm")).is_ok_and(|name| name == b"robeing-guard\n");
        eventually("the guard is at work", || threads().any(is_named)).await;
    }
    let text: String = guards.iter().map(|pid| format!("{pid}\n")).collect();
    fs::write(directory.join("guard.tmp"), text).expect("to report");
    fs::rename(directory.join("guard.tmp"), directory.join("guard")).expect("to report");
    if let Some(looking) = looking {
        looking.await.expect("no panic");
    }
    // Runs until the test kills this process.
    assert!(matches!(first.await, Ok(Outcome::Cancelled)), "nobody cancels the command");
}
