//! Guardians: agents that behave unlike themselves are flagged, quarantined, kept out, and let in again. All processes
//! are real, with TLS.

use robeing_identity::PeerRole;
use robeing_proto::{
    internal::v1::{
        Completion, EnrolRequest, Hello, completion::Outcome, enrol_request::Proof, enrolment_client::EnrolmentClient,
    },
    v1::{
        AgentState, Failure, FailureKind, ListTasksRequest, RetryPolicy, Role, SendMessageRequest, Task, TaskSpec,
        TaskState, fleet_client::FleetClient, messages_client::MessagesClient,
    },
};
use robeing_tests::{
    counter::Counter,
    fleet::{Fleet, FleetSpec, PoolSpec},
    ports::Ports,
    scripted_agent::{HandAgent, completion, hello},
    terminal::{Ended, Terminal},
    thief::{CLUSTER, Stolen, Thief, now},
    wait::{check, eventually, in_time},
};
use serde_json::{Value, json};
use tonic::Code;

/// How long an agent has to be active before it is judged: the shortest that is accepted.
const WARM_UP: &str = "10s";
/// Number of tasks that run at once while agents become active.
const AT_ONCE: usize = 12;
/// Number of calls that are refused at a time: many more than what is usual, also after the first times.
const REFUSED: usize = 60;

/// A fleet with a guardian.
struct Scene {
    fleet: Fleet,
    terminal: Terminal,
    /// Number of agents that the guardian judges.
    judged: Counter,
    _ports: Ports,
}

impl Scene {
    /// Starts two workers, and a guardian with these flags.
    async fn start(flags: &[(&str, &str)]) -> Self {
        let ports = Ports::take(1);
        let metrics = format!("127.0.0.1:{}", ports.numbers()[0]);
        let guardian = PoolSpec::new("watch", 1).role("Guardian").executor(json!({"echo": {}}));
        let guardian = guardian.flag("metrics-listen", &metrics).flag("anomaly-warm-up", WARM_UP);
        let guardian = flags.iter().fold(guardian, |pool, (name, value)| pool.flag(name, value));
        let workers = PoolSpec::new("work", 2).executor(json!({"echo": {}}));
        // Long, because scripted agents send no heartbeats.
        let spec = FleetSpec::new(1).pool(workers).pool(guardian).session_timeout("120s").with_tls();
        let fleet = Fleet::start(spec).await;
        let judged = Counter::of(&metrics, "robeing_agent_guardian_judged").await;
        Self { fleet, terminal: Terminal::default(), judged, _ports: ports }
    }

    /// Runs a command as an administrator.
    async fn run(&self, line: &[&str]) -> Ended {
        let authority = self.fleet.dir().join("identity").display().to_string();
        let endpoint = self.fleet.address("coordinator-0");
        self.terminal.run(&[line, &["--endpoint", &endpoint, "--ca", &authority]].concat()).await
    }

    /// Returns the audit log as the command line exports it: a JSON object on each line.
    async fn audit(&self) -> Vec<Value> {
        let ended = self.run(&["audit", "-o", "json"]).await;
        let parse = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {ended:?}"));
        ended.success().lines().map(parse).collect()
    }

    /// Waits for a record, and returns it.
    async fn recorded(&self, action: &str, actor: &str, subject: &str) -> Value {
        eventually(&format!("a record {action} of {subject} by {actor}"), async || {
            let records = self.audit().await;
            let is_it = |record: &&Value| {
                (&record["action"], &record["actor"], &record["subject"])
                    == (&json!(action), &json!(actor), &json!(subject))
            };
            records.iter().find(is_it).cloned().ok_or(records)
        })
        .await
    }

    /// Runs tasks until the guardian judges so many agents.
    async fn active(&self, judged: u64) {
        while self.judged.now().await < judged {
            self.run_tasks().await;
        }
    }

    /// Runs some tasks at once, and returns which agents have run them.
    async fn run_tasks(&self) -> Vec<String> {
        let tasks = (0..AT_ONCE).map(|_| work()).collect();
        let mut agents = Vec::new();
        for id in self.fleet.submit(tasks).await {
            let task = self.fleet.finished(&id, TaskState::Succeeded).await;
            agents.extend(task.attempts.iter().map(|attempt| attempt.agent.clone()));
        }
        agents
    }
}

fn work() -> TaskSpec {
    TaskSpec { id: robeing_client::new_task_id(), kind: "work".into(), ..TaskSpec::default() }
}

/// Tries to read tasks, which no worker may, so often.
async fn pry(identity: &Stolen, address: &str) {
    let mut client = FleetClient::new(identity.channel(address));
    for _ in 0..REFUSED {
        let refused = client.list_tasks(ListTasksRequest::default()).await;
        assert_eq!(refused.map(drop).map_err(|status| status.code()), Err(Code::PermissionDenied));
    }
}

/// Sends a message through a coordinator.
async fn send(identity: &Stolen, address: &str, to: &str) -> Result<(), Code> {
    let request = SendMessageRequest {
        id: robeing_client::new_task_id(),
        to: to.into(),
        r#type: "test".into(),
        payload: "hello".into(),
        durable: true,
        ..SendMessageRequest::default()
    };
    let sent = MessagesClient::new(identity.channel(address)).send_message(request).await;
    sent.map(drop).map_err(|status| status.code())
}

#[tokio::test]
async fn an_agent_whose_calls_begin_to_be_refused_is_flagged_quarantined_kept_out_and_released() {
    let scene = Scene::start(&[]).await;
    let (fleet, at) = (&scene.fleet, scene.fleet.address("coordinator-0"));
    // Someone has had the name of an agent certified.
    let accused = "work-0";
    let thief = Thief::in_dir(fleet.dir()).certified(PeerRole::Worker, accused);
    assert_eq!(send(&thief, &at, "work-1").await, Err(Code::PermissionDenied), "it has enrolled with another key");
    scene.active(2).await;
    eventually("the agent is quarantined", async || {
        // Coordinators record what they refuse every few seconds, and only what is repeated is an attack.
        pry(&thief, &at).await;
        let records = scene.audit().await;
        let is_barred = records.iter().any(|record| record["action"] == "agent.quarantine");
        check(is_barred, (), records)
    })
    .await;
    let flagged = scene.recorded("agent.flag", "guardian/watch-0", accused).await;
    let barred = scene.recorded("agent.quarantine", "guardian/watch-0", accused).await;
    for (record, words) in [(&flagged, "failed authentications of "), (&barred, "severe anomalies in several seconds")]
    {
        assert_eq!(record["outcome"], "done", "{record}");
        assert!(record["detail"].as_str().is_some_and(|detail| detail.contains(words)), "{record}");
        assert!(record["at"].is_string() && record["seq"].is_string(), "{record}");
    }

    fleet.agent_is(accused, AgentState::Lost).await;
    assert!(scene.run_tasks().await.iter().all(|agent| agent == "work-1"), "it gets no task any more");
    let to_it = scene.run(&["send", accused, "hello"]).await;
    assert_ne!(to_it.code, Some(0), "{to_it:?}");

    scene.run(&["release", accused]).await.success();
    fleet.agent_is(accused, AgentState::Live).await;
    scene.recorded("agent.release", "client/cli", accused).await;
    eventually("the agent gets tasks again", async || {
        let agents = scene.run_tasks().await;
        check(agents.iter().any(|agent| agent == accused), (), agents)
    })
    .await;
}

/// An agent that the test plays, which is the worker of a pool of its own.
async fn played(scene: &Scene, name: &str) -> HandAgent {
    let address = scene.fleet.address("coordinator-0");
    let thief = Thief::in_dir(scene.fleet.dir());
    let identity = thief.nobody();
    let request = EnrolRequest {
        cluster_id: CLUSTER.into(),
        name: name.into(),
        role: Role::Worker.into(),
        pool: "played".into(),
        signing_request: identity.signing_request().into(),
        proof: Some(Proof::JoinToken(thief.token(PeerRole::Worker, "played", Some(name), now()))),
    };
    let enrolled = EnrolmentClient::new(identity.channel(&address)).enrol(request).await.expect("it has a token");
    let identity = identity.certified_by(&enrolled.into_inner().certificate);
    let hello = Hello { pool: "played".into(), slots: 1, specializations: vec!["played".into()], ..hello(name) };
    HandAgent::open_over(identity.channel(&address), hello).await.expect("the session is its own")
}

/// Has a played agent run a task.
async fn play(scene: &Scene, agent: &mut HandAgent, fails: bool) -> Task {
    let retry = Some(RetryPolicy { max_attempts: 1, ..RetryPolicy::default() });
    let task = TaskSpec { required_specialization: "played".into(), retry, ..work() };
    let id = scene.fleet.submit_one(task).await;
    let given = agent.assignment().await;
    let failure = Failure { kind: FailureKind::Exit.into(), message: "broken".into(), ..Failure::default() };
    let done = match fails {
        true => Completion { outcome: Some(Outcome::Failure(failure)), ..completion(&given, given.attempt, "") },
        false => completion(&given, given.attempt, "fine"),
    };
    assert!(agent.complete(done).await.accepted);
    scene.fleet.finished(&id, if fails { TaskState::Failed } else { TaskState::Succeeded }).await
}

#[tokio::test]
async fn an_agent_that_begins_to_fail_is_flagged_and_not_quarantined_where_guardians_only_report() {
    let scene = Scene::start(&[("on-anomaly", "report")]).await;
    let mut agent = played(&scene, "played-0").await;
    while scene.judged.now().await == 0 {
        play(&scene, &mut agent, false).await;
    }
    let flagged = in_time("the agent is flagged", async {
        loop {
            for _ in 0..AT_ONCE {
                play(&scene, &mut agent, true).await;
            }
            let records = scene.audit().await;
            if let Some(flagged) = records.into_iter().find(|record| record["action"] == "agent.flag") {
                return flagged;
            }
        }
    })
    .await;
    assert_eq!((&flagged["subject"], &flagged["actor"]), (&json!("played-0"), &json!("guardian/watch-0")));
    assert!(flagged["detail"].as_str().is_some_and(|detail| detail.starts_with("failures of ")), "{flagged}");
    for _ in 0..AT_ONCE {
        play(&scene, &mut agent, true).await;
    }
    assert!(scene.audit().await.iter().all(|record| record["action"] != "agent.quarantine"));
    assert_eq!(play(&scene, &mut agent, false).await.state(), TaskState::Succeeded, "it still gets tasks");
}
