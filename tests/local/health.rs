//! Health checks of agents: unhealthy agents get no new tasks and hand back theirs, failed ones count as lost, and all
//! of them return once they are healthy again. All processes are real.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use robeing_proto::{
    internal::v1::{
        HealthReport, HealthState, Heartbeat, Hello, agent_message::Message as Said,
        coordinator_message::Message as Told,
    },
    v1::{Agent, AgentState, AttemptState, Consistency, RecoveryAction, RetryPolicy, Task, TaskSpec, TaskState},
};
use robeing_tests::{
    fleet::{Fleet, FleetSpec, PoolSpec},
    processes::{Process, group_members},
    program::program,
    script::{answer, overlaps, script_runner, task},
    scripted_agent::{HandAgent, hello},
    terminal::Terminal,
    wait::{check, eventually, in_time},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::task::AbortOnDropHandle;

const INTERVAL: &str = "200ms";

fn fleet_of(coordinators: u32, pool: PoolSpec) -> FleetSpec {
    FleetSpec::new(coordinators).pool(pool).flag("health-check-interval", INTERVAL)
}

/// Returns what was done about an agent, according to its most recent recovery steps.
async fn recovery(fleet: &Fleet, agent: &str) -> Vec<RecoveryAction> {
    let found = fleet.client().agent(agent, Consistency::Linearizable).await.expect("the fleet responds");
    found.expect("it is known").recovery.iter().map(robeing_proto::v1::RecoveryStep::action).collect()
}

async fn recovered(fleet: &Fleet, agent: &str, expected: &[RecoveryAction]) {
    eventually(&format!("the recovery of {agent}: {expected:?}"), async || {
        let done = recovery(fleet, agent).await;
        // Earlier steps may precede these: an agent that joined before its process had attached has already joined
        // again.
        check(done.ends_with(expected), (), done)
    })
    .await;
}

fn named(agents: &[Agent], state: AgentState) -> Option<String> {
    agents.iter().find(|agent| agent.state() == state).map(|agent| agent.name.clone())
}

/// Attaches a process that answers health checks: it is unhealthy while the file `health` exists.
fn attach(fleet: &Fleet, agent: &str, health: &Path) -> Process {
    let mut line = vec![
        format!("ROBEING_WORKER_ADDRESS={}", fleet.attach_address(agent)),
        format!("ROBEING_TEST_WORKER_HEALTH={}", health.display()),
        program("robeing-test-worker").display().to_string(),
    ];
    line.extend(script_runner(&fleet.executions_file()));
    let log = fleet.dir().join(format!("{agent}-worker.log"));
    Process::start(&format!("{agent}'s worker"), Path::new("/usr/bin/env"), &line, &log)
}

#[tokio::test]
async fn an_unhealthy_process_hands_its_tasks_to_a_standby_and_waits_when_it_is_well_again() {
    use RecoveryAction::{ActivateStandby, AttemptRecovery, Readmit, Redistribute, Unhealthy};
    let pool = PoolSpec::new("own", 1).standby(1).slots(2).executor(json!({"worker": {}}));
    let mut fleet = Fleet::prepare(fleet_of(3, pool));
    fleet.start_all();
    fleet.leader().await;
    let health = |agent: &str| fleet.dir().join(format!("{agent}-unhealthy"));
    let files = ["own-0", "own-1"].map(health);
    let _workers = [attach(&fleet, "own-0", &files[0]), attach(&fleet, "own-1", &files[1])];
    fleet.ready().await;
    // Until its process has attached, an agent is a member without slots; then it joins again.
    let (unwell, standby) = eventually("a live agent and its standby, their processes attached", async || {
        let agents = fleet.agents().await;
        let attached = agents.iter().all(|agent| agent.slots == 2);
        match (named(&agents, AgentState::Live), named(&agents, AgentState::Standby)) {
            (Some(live), Some(standby)) if attached => Ok((live, standby)),
            _ => Err(agents),
        }
    })
    .await;
    let file = &files[usize::from(unwell == "own-1")];
    let gate = fleet.gate("all");
    let id = fleet.submit_one(task(&format!("{}\n{}", gate.wait(), answer("through")))).await;
    let group = fleet.executing(&id, 1).await;

    fs::write(file, "no GPU").expect("the test's directory can be written to");
    let agent = fleet.agent_is(&unwell, AgentState::Unhealthy).await;
    assert!(agent.unhealthy_reason.contains("is unhealthy: no GPU"), "{agent:#?}");
    fleet.agent_is(&standby, AgentState::Live).await;
    fleet.executing(&id, 2).await;
    assert!(group_members(group).is_empty(), "the first attempt was stopped before the second began");
    let handed_back = fleet.task(&id).await;
    assert_eq!(handed_back.attempts[0].state(), AttemptState::HandedBack, "{handed_back:#?}");
    assert_eq!((handed_back.attempts[1].agent.as_str(), handed_back.attempts_used), (standby.as_str(), 1));
    recovered(&fleet, &unwell, &[Unhealthy, ActivateStandby, Redistribute]).await;

    // Another leader has the same information, and continues the health checks.
    let leader = fleet.leader().await;
    fleet.kill(&leader);
    fleet.leader_other_than(&leader).await;
    recovered(&fleet, &unwell, &[Unhealthy, ActivateStandby, Redistribute]).await;
    fleet.agent_is(&unwell, AgentState::Unhealthy).await;
    fs::remove_file(file).expect("it is there");
    fleet.agent_is(&unwell, AgentState::Standby).await;
    recovered(&fleet, &unwell, &[Unhealthy, ActivateStandby, Redistribute, AttemptRecovery, Readmit]).await;
    gate.open();
    fleet.finished(&id, TaskState::Succeeded).await;
    assert_eq!(overlaps(&fleet.executions_file()), Vec::<String>::new());
}

/// A server that responds `ok` to tasks, and whose health the test controls.
struct Server {
    port: u16,
    how: Arc<How>,
    _serving: AbortOnDropHandle<()>,
}

struct How {
    /// The status code of its responses to health checks.
    status: AtomicU16,
    /// The time until it responds to a health check, in milliseconds.
    takes: AtomicU64,
    /// The number of health checks so far.
    asked: AtomicU32,
    /// Whether it responds to tasks; until then, they wait.
    answers_tasks: watch::Sender<bool>,
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let how = Arc::new(How {
            status: AtomicU16::new(200),
            takes: AtomicU64::new(0),
            asked: AtomicU32::new(0),
            answers_tasks: watch::Sender::new(true),
        });
        let serving = tokio::spawn({
            let how = Arc::clone(&how);
            async move {
                while let Ok((connection, _)) = listener.accept().await {
                    tokio::spawn(answer_one(connection, Arc::clone(&how)));
                }
            }
        });
        Self { port, how, _serving: AbortOnDropHandle::new(serving) }
    }

    fn pool(&self, name: &str) -> PoolSpec {
        let url = format!("http://127.0.0.1:{}/run", self.port);
        PoolSpec::new(name, 1).executor(json!({"http": {"url": url, "healthPath": "/healthz"}}))
    }

    fn says(&self, status: u16) {
        self.how.status.store(status, Ordering::Relaxed);
    }

    fn takes(&self, time: Duration) {
        self.how.takes.store(time.as_millis() as u64, Ordering::Relaxed);
    }

    fn answers_tasks(&self, answers: bool) {
        self.how.answers_tasks.send_replace(answers);
    }
}

async fn answer_one(mut connection: TcpStream, how: Arc<How>) {
    let mut request = vec![0; 4096];
    let read = connection.read(&mut request).await.unwrap_or(0);
    let status = if request[..read].starts_with(b"POST ") {
        how.answers_tasks.subscribe().wait_for(|answers| *answers).await.expect("the sender exists");
        200
    } else {
        how.asked.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(how.takes.load(Ordering::Relaxed))).await;
        how.status.load(Ordering::Relaxed)
    };
    let answer = format!("HTTP/1.1 {status} x\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok");
    // The agent may have closed the connection.
    let _ = connection.write_all(answer.as_bytes()).await;
}

/// Creates a task that fails if its only attempt fails.
fn once() -> TaskSpec {
    TaskSpec { retry: Some(RetryPolicy { max_attempts: 1, ..RetryPolicy::default() }), ..task("") }
}

#[tokio::test]
async fn a_server_that_is_not_ready_gets_no_tasks_until_it_is() {
    let server = Server::start().await;
    let fleet = Fleet::start(fleet_of(1, server.pool("web"))).await;
    let done = fleet.finished(&fleet.submit_one(task("")).await, TaskState::Succeeded).await;
    assert_eq!(done.output, "ok");

    server.says(503);
    let agent = fleet.agent_is("web-0", AgentState::Unhealthy).await;
    assert!(agent.unhealthy_reason.contains("/healthz answered 503"), "{agent:#?}");
    let id = fleet.submit_one(task("")).await;
    fleet.task_such(&id, "a task that waits", |task| task.waiting_for.contains("1 unhealthy")).await;
    assert_eq!(fleet.status().await.agents.map(|agents| agents.unhealthy), Some(1));

    server.says(200);
    fleet.agent_is("web-0", AgentState::Live).await;
    assert_eq!(fleet.finished(&id, TaskState::Succeeded).await.attempts.len(), 1);
}

#[tokio::test]
async fn a_server_that_hangs_when_it_is_asked_hands_back_what_it_has_at_no_cost() {
    let servers = [Server::start().await, Server::start().await];
    let spec = FleetSpec::new(1).pool(servers[0].pool("web-a")).pool(servers[1].pool("web-b"));
    let fleet = Fleet::start(spec.flag("health-check-interval", "1s")).await;
    servers.iter().for_each(|server| server.answers_tasks(false));
    let id = fleet.submit_one(once()).await;
    let holder = fleet.task(&id).await.attempts[0].agent.clone();
    let (hangs, other) = if holder == "web-a-0" { (0, "web-b-0") } else { (1, "web-a-0") };
    servers[hangs].takes(Duration::from_secs(3_600));
    let agent = fleet.agent_is(&holder, AgentState::Unhealthy).await;
    assert!(agent.unhealthy_reason.contains("did not answer within"), "{agent:#?}");
    servers[1 - hangs].answers_tasks(true);
    let done = fleet.finished(&id, TaskState::Succeeded).await;
    assert_eq!(done.attempts[0].state(), AttemptState::HandedBack, "{done:#?}");
    assert_eq!((done.attempts[1].agent.as_str(), done.attempts_used), (other, 1), "{done:#?}");
    servers[hangs].takes(Duration::ZERO);
    fleet.agent_is(&holder, AgentState::Live).await;
}

#[tokio::test]
async fn a_server_that_is_well_only_now_and_then_costs_its_tasks_nothing() {
    let server = Server::start().await;
    let fleet = Fleet::start(fleet_of(1, server.pool("web"))).await;
    server.answers_tasks(false);
    let id = fleet.submit_one(once()).await;
    for _ in 0..3 {
        let is_tried = |task: &Task| task.attempts.iter().any(|attempt| attempt.ended_at.is_none());
        fleet.task_such(&id, "an attempt that runs", is_tried).await;
        server.says(503);
        fleet.agent_is("web-0", AgentState::Unhealthy).await;
        server.says(200);
        fleet.agent_is("web-0", AgentState::Live).await;
    }
    server.answers_tasks(true);
    let done = fleet.finished(&id, TaskState::Succeeded).await;
    assert_eq!(done.attempts_used, 1, "{done:#?}");
    let (_, before) = done.attempts.split_last().expect("it was tried");
    assert!(before.len() >= 3 && before.iter().all(|of| of.state() == AttemptState::HandedBack), "{done:#?}");
}

#[tokio::test]
async fn a_server_that_is_slow_and_well_keeps_its_tasks() {
    let server = Server::start().await;
    let spec = FleetSpec::new(1).pool(server.pool("web")).flag("health-check-interval", "2s");
    let fleet = Fleet::start(spec).await;
    server.answers_tasks(false);
    server.takes(Duration::from_millis(300));
    let id = fleet.submit_one(once()).await;
    let asked = || server.how.asked.load(Ordering::Relaxed);
    let before = asked();
    eventually("four health checks", async || check(asked() >= before + 4, (), asked())).await;
    server.answers_tasks(true);
    assert_eq!(fleet.finished(&id, TaskState::Succeeded).await.attempts.len(), 1);
    assert_eq!(recovery(&fleet, "web-0").await, []);
}

#[tokio::test]
async fn why_an_agent_without_its_program_gets_nothing_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let program = directory.path().join("program");
    fs::write(&program, "#!/bin/sh\ncat\n").expect("to write it");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("it is our file");
    let pool = PoolSpec::new("work", 1).executor(json!({"command": {"argv": [program]}}));
    let fleet = Fleet::start(fleet_of(1, pool)).await;
    let aside = directory.path().join("aside");
    fs::rename(&program, &aside).expect("it is there");
    fleet.agent_is("work-0", AgentState::Unhealthy).await;

    let (terminal, endpoint) = (Terminal::default(), fleet.address("coordinator-0"));
    let why = async |name: &str| terminal.run(&["agents", "--why", name, "--endpoint", &endpoint]).await;
    let told = why("work-0").await;
    let text = told.success();
    assert!(text.contains("State:          Unhealthy (the command ") && text.contains("does not exist"), "{text}");
    assert!(text.contains("unhealthy: the command "), "{text}");
    fs::rename(&aside, &program).expect("it is there");
    fleet.agent_is("work-0", AgentState::Live).await;
    let told = why("work-0").await;
    let text = told.success();
    assert!(text.contains("recovery attempted") && text.contains("readmitted"), "{text}");
    let nobody = why("nobody").await;
    assert_eq!(nobody.code, Some(4), "{nobody:?}");
    let id = fleet.submit_one(TaskSpec { input: "in".into(), ..task("") }).await;
    assert_eq!(fleet.finished(&id, TaskState::Succeeded).await.output, "in");
}

async fn by_hand(fleet: &Fleet, name: &str) -> HandAgent {
    let hello = Hello { answers_health_checks: true, ..hello(name) };
    HandAgent::open(&fleet.address("coordinator-0"), hello).await.expect("it may join")
}

async fn asked(agent: &mut HandAgent) -> u64 {
    loop {
        match agent.next().await {
            Ok(Some(Told::HealthCheck(check))) => return check.seq,
            Ok(Some(_)) => {}
            ended => panic!("the session ended: {ended:?}"),
        }
    }
}

#[tokio::test]
async fn an_agent_that_lives_and_answers_no_health_check_is_given_up_once_it_has_had_time_to_stop() {
    use RecoveryAction::{AttemptRecovery, Lost, Readmit, Remove, Unhealthy};
    let fleet = Fleet::start(FleetSpec::new(1).flag("health-check-interval", INTERVAL).session_timeout("4s")).await;
    let mut agent = by_hand(&fleet, "stuck").await;
    let (mut sent, mut answered) = (0, 0);
    let heartbeats = async {
        while sent < answered + 5 {
            sent += 1;
            agent.say(Said::Heartbeat(Heartbeat { seq: sent, ..Heartbeat::default() })).await;
            while let Ok(next) = tokio::time::timeout(Duration::from_millis(100), agent.next()).await {
                match next {
                    Ok(Some(Told::HeartbeatAck(ack))) => answered = ack.seq,
                    Ok(Some(Told::SessionEnded(_)) | None) | Err(_) => panic!("ended before its lease: {next:?}"),
                    Ok(Some(_)) => {}
                }
            }
        }
    };
    in_time("heartbeats that are not acknowledged", heartbeats).await;
    // The agent looks for a leader that acknowledges its heartbeats: it finds the same leader, which accepts it only
    // once it counts as lost.
    let resuming = Hello { session: agent.welcome.session, answers_health_checks: true, ..hello("stuck") };
    let again = HandAgent::open(&fleet.address("coordinator-0"), resuming).await.expect("it may join");
    assert!(!again.welcome.resumed, "{:?}", again.welcome);
    while !matches!(agent.next().await, Ok(Some(Told::SessionEnded(_)))) {}
    recovered(&fleet, "stuck", &[Unhealthy, Lost, Remove, AttemptRecovery, Readmit]).await;
    let found = fleet.client().agent("stuck", Consistency::Linearizable).await.expect("the fleet responds");
    assert_eq!(found.expect("it is known").recovery[1].reason, "it failed its health checks");
}

#[tokio::test]
async fn an_agent_that_says_it_has_failed_is_lost_at_once() {
    let fleet = Fleet::start(FleetSpec::new(1).flag("health-check-interval", INTERVAL).session_timeout("60s")).await;
    let mut agent = by_hand(&fleet, "broken").await;
    let id = fleet.submit_one(task("")).await;
    let seq = asked(&mut agent).await;
    let report = HealthReport { seq, state: HealthState::Failed.into(), reason: "no thread".into() };
    agent.say(Said::HealthReport(report)).await;
    fleet.agent_is("broken", AgentState::Lost).await;
    let task = fleet.task(&id).await;
    assert_eq!(task.attempts[0].state(), AttemptState::Lost, "{task:#?}");
}

#[tokio::test]
async fn an_agent_that_does_not_say_that_it_answers_is_not_asked() {
    let fleet = Fleet::start(FleetSpec::new(1).flag("health-check-interval", "100ms").session_timeout("60s")).await;
    let mut old = HandAgent::open(&fleet.address("coordinator-0"), hello("old")).await.expect("it may join");
    let mut new = by_hand(&fleet, "new").await;
    for _ in 0..20 {
        let seq = asked(&mut new).await;
        let report = HealthReport { seq, state: HealthState::Healthy.into(), ..HealthReport::default() };
        new.say(Said::HealthReport(report)).await;
    }
    old.say(Said::Heartbeat(Heartbeat { seq: 1, ..Heartbeat::default() })).await;
    assert!(matches!(old.next().await, Ok(Some(Told::HeartbeatAck(_)))));
    fleet.agent_is("old", AgentState::Live).await;
}
