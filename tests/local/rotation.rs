//! Certificates, the authority and the join secret are replaced while messages are exchanged and tasks run: none is lost
//! or done twice, and no session breaks.
//!
//! Certificates last no longer than their authority, and one that is due is renewed every five seconds. So with an
//! authority that lasts for five minutes, every agent renews its certificate all the time.
//!
//! `ROBEING_TEST_ROTATION_MESSAGES=100000 ROBEING_TEST_ROTATION_TASKS=10000` runs it for minutes, with several rotations.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use robeing_client::{FleetClient, Security, Settings};
use robeing_identity::{
    Authority, JoinSecret, PeerRole, TrustBundle,
    files::{CERTIFICATE, KEY, TRUST},
};
use robeing_proto::{
    internal::v1::{EnrolRequest, enrol_request::Proof, enrolment_client::EnrolmentClient},
    v1::{Agent, AgentState, Consistency, Role, TaskSpec},
    worker::v1::{SendCode, SendMessage},
};
use robeing_tests::{
    attached::Attached,
    fleet::{Fleet, FleetSpec, PoolSpec},
    history::History,
    load::{recorded, submit_recorded},
    processes::Process,
    program::{AGENT, program},
    raw_call,
    script::{executions, shell_executor},
    thief::{CLUSTER, FOLDER, Stolen, Thief, now, realm},
    wait::{check, eventually, in_time},
};
use serde_json::json;
use tokio::{sync::watch, time::MissedTickBehavior};
use tonic::Code;

/// The variables with the least numbers of messages and of tasks, and these numbers without them.
const MESSAGES: (&str, u64) = ("ROBEING_TEST_ROTATION_MESSAGES", 10_000);
const TASKS: (&str, u64) = ("ROBEING_TEST_ROTATION_TASKS", 1_000);
/// How long an authority is valid.
const LIFETIME: Duration = Duration::from_secs(300);
/// How often messages and tasks are sent, and how many of them: a steady load, of which some is always under way.
const EVERY: Duration = Duration::from_millis(500);
const MESSAGES_AT_ONCE: u64 = 250;
/// Number of messages that may wait for their outcomes: as many as a process may have.
const MESSAGES_UNDER_WAY: u64 = 64;
const TASKS_AT_ONCE: u64 = 25;
/// The specialization of the agents that run the tasks.
const SKILL: &str = "rotation";
/// The file with the join secret, in the join directory.
const SECRET: &str = "join.secret";

/// Returns a number from the environment, or the usual one.
fn number((variable, usual): (&str, u64)) -> u64 {
    let given = env::var(variable).ok();
    given.map_or(usual, |given| given.parse().unwrap_or_else(|_| panic!("{variable}={given} is not a number")))
}

fn made() -> Authority {
    Authority::create_for(&realm(CLUSTER), now(), LIFETIME).expect("an authority can be made")
}

fn copy(authority: &Authority) -> Authority {
    Authority::from_pem(authority.certificate_pem(), authority.key_pem()).expect("it is one")
}

/// Writes a file, whole or not at all.
fn write(dir: &Path, name: &str, content: &str) {
    let aside = dir.join(format!("{name}.new"));
    fs::write(&aside, content).expect("the test's directory can be written to");
    fs::rename(&aside, dir.join(name)).expect("the test's directory can be written to");
}

/// Who replaces authorities and secrets, as an administrator does.
struct Administrator {
    /// The directory of the authority, and the join directory.
    dir: PathBuf,
    join: PathBuf,
    /// The addresses of the coordinators, and the names and addresses of agents.
    coordinators: Vec<String>,
    agents: Vec<(String, String)>,
    issuing: Authority,
    /// How the clients of the test connect.
    security: Security,
}

impl Administrator {
    /// Returns whether every process accepts this identity, or why not.
    async fn all_accept(&self, identity: &Stolen) -> Result<(), String> {
        for address in &self.coordinators {
            is_healthy(identity, None, address).await?;
        }
        for (agent, address) in &self.agents {
            is_healthy(identity, Some(agent), address).await?;
        }
        Ok(())
    }

    /// Returns whether no process accepts this identity any more, or which one does.
    async fn none_accepts(&self, identity: &Stolen) -> Result<(), String> {
        for address in &self.coordinators {
            let accepted = is_healthy(identity, None, address).await.is_ok();
            check(!accepted, (), format!("{address} accepts it"))?;
        }
        for (agent, address) in &self.agents {
            let accepted = is_healthy(identity, Some(agent), address).await.is_ok();
            check(!accepted, (), format!("{agent} accepts it"))?;
        }
        Ok(())
    }

    /// Replaces the authority, in the order in which the documentation says.
    async fn replace_authority(&mut self) {
        let next = made();
        let both = format!("{}{}", self.issuing.certificate_pem(), next.certificate_pem());
        let client = |authority: &Authority, trust: &str| {
            Thief::with(copy(authority), trust).certified(PeerRole::Client, "rotation")
        };
        write(&self.dir, TRUST, &both);
        self.security.replace(&client(&self.issuing, &both).client()).expect("they fit");
        let new = client(&next, &both);
        eventually("all trust the next authority", async || self.all_accept(&new).await).await;

        write(&self.dir, KEY, next.key_pem());
        write(&self.dir, CERTIFICATE, next.certificate_pem());
        self.security.replace(&new.client()).expect("they fit");
        let new = client(&next, next.certificate_pem());
        eventually("all are certified by the next authority", async || self.all_accept(&new).await).await;

        write(&self.dir, TRUST, next.certificate_pem());
        self.security.replace(&new.client()).expect("they fit");
        let old = client(&self.issuing, next.certificate_pem());
        eventually("none trusts the former authority", async || self.none_accepts(&old).await).await;
        eventually("all are still certified by the new one", async || self.all_accept(&new).await).await;
        self.issuing = next;
        eventually("newcomers are told the new authority", async || {
            let told = fs::read_to_string(self.join.join(TRUST)).map_err(|error| error.to_string())?;
            let told = TrustBundle::from_pem(&told).map_err(|error| error.to_string())?;
            check(told.authorities() == std::slice::from_ref(self.issuing.certificate()), (), "others".to_owned())
        })
        .await;
    }

    fn secret(&self) -> Result<JoinSecret, String> {
        let text = fs::read_to_string(self.join.join(SECRET)).map_err(|error| error.to_string())?;
        JoinSecret::from_text(&text).map_err(|error| error.to_string())
    }

    /// Enrols a newcomer by this secret at a coordinator; returns the code of the answer.
    async fn enrol(&self, name: &str, secret: &JoinSecret, address: &str) -> Code {
        let newcomer = Thief::with(copy(&self.issuing), self.issuing.certificate_pem()).nobody();
        let request = EnrolRequest {
            cluster_id: CLUSTER.into(),
            name: name.into(),
            role: Role::Worker.into(),
            signing_request: newcomer.signing_request().into(),
            proof: Some(Proof::JoinSecret(secret.bytes().to_vec().into())),
            ..EnrolRequest::default()
        };
        let enrolled = EnrolmentClient::new(newcomer.channel(address)).enrol(request).await;
        enrolled.map_or_else(|status| status.code(), |_| Code::Ok)
    }

    /// Replaces the join secret.
    async fn replace_secret(&self) {
        let old = eventually("there is a join secret", async || self.secret()).await;
        assert_eq!(self.enrol("before", &old, &self.coordinators[0]).await, Code::Ok);
        fs::remove_file(self.join.join(SECRET)).expect("it can be removed");
        let new = eventually("there is another join secret", async || {
            let secret = self.secret()?;
            check(secret != old, secret, "the same".to_owned())
        })
        .await;
        for address in &self.coordinators {
            eventually("the removed secret is refused", async || {
                let code = self.enrol("late", &old, address).await;
                check(code == Code::Unauthenticated, (), code)
            })
            .await;
            eventually("the new secret is accepted", async || {
                let code = self.enrol("after", &new, address).await;
                check(code == Code::Ok, (), code)
            })
            .await;
        }
    }
}

/// Calls the health service of a coordinator or an agent, over a new connection.
async fn is_healthy(identity: &Stolen, agent: Option<&str>, address: &str) -> Result<(), String> {
    let channel = match agent {
        Some(agent) => identity.channel_to(agent, address),
        None => identity.channel(address),
    };
    let status = raw_call::call(&channel, "/grpc.health.v1.Health/Check", raw_call::framed(&[])).await;
    check(status.code() == Code::Ok, (), format!("{address}: {status:?}"))
}

/// Sends this many messages, which are numbered from `first`, and waits until all are accepted.
async fn send(sender: &mut Attached, first: u64, count: u64) {
    let message = |seq: u64| SendMessage {
        seq,
        to: "own-1".into(),
        r#type: "test".into(),
        payload: Bytes::from(seq.to_string()),
        deadline_in_ms: 60_000,
        ..SendMessage::default()
    };
    let (mut next, end, mut waiting) = (first, first + count, 0);
    while next < end || waiting > 0 {
        while next < end && waiting < MESSAGES_UNDER_WAY {
            sender.post(message(next)).await;
            (next, waiting) = (next + 1, waiting + 1);
        }
        let outcome = sender.outcome().await.expect("the sender's agent lives");
        match outcome.code() {
            SendCode::Accepted => waiting -= 1,
            // At first, the sender's agent does not know the others yet.
            SendCode::NoSuchAgent => sender.post(message(outcome.seq)).await,
            _ => panic!("{outcome:?}"),
        }
    }
}

/// Sends messages until there were enough and `ended` is set; returns their number.
async fn messages(mut sender: Attached, ended: watch::Receiver<bool>) -> u64 {
    let (least, mut sent) = (number(MESSAGES), 0);
    let mut pace = tokio::time::interval(EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while sent < least || !*ended.borrow() {
        pace.tick().await;
        send(&mut sender, sent + 1, MESSAGES_AT_ONCE).await;
        sent += MESSAGES_AT_ONCE;
    }
    sent
}

/// Accepts messages until this is aborted, and notes their numbers.
async fn receive(mut receiver: Attached, handled: watch::Sender<Vec<u64>>) {
    loop {
        let message = receiver.message().await.expect("the receiver's agent lives");
        let number = String::from_utf8_lossy(&message.payload).parse().expect("a number");
        handled.send_modify(|handled| handled.push(number));
        receiver.accept(&message, "").await;
    }
}

/// Runs tasks until there were enough and `ended` is set. Each group comes over a new connection.
async fn tasks(connect: impl Fn() -> FleetClient, history: Arc<History>, ended: watch::Receiver<bool>) -> u64 {
    let (least, mut submitted) = (number(TASKS), 0);
    let mut pace = tokio::time::interval(EVERY);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while submitted < least || !*ended.borrow() {
        pace.tick().await;
        let group = (0..TASKS_AT_ONCE).map(|at| recorded(&history, "", &format!("number {}", submitted + at)));
        // The other agents are workers, whose processes take messages alone.
        let group = group.map(|task| TaskSpec { required_role: Role::Specialist.into(), ..task }).collect();
        let client = connect();
        let running = submit_recorded(&client, &history, group, TASKS_AT_ONCE as usize);
        in_time("a group of tasks", running).await;
        submitted += TASKS_AT_ONCE;
    }
    submitted
}

async fn agents(client: &FleetClient) -> Result<Vec<Agent>, String> {
    client.list_agents(false, Consistency::Linearizable).await.map_err(|error| error.to_string())
}

/// Waits until agents are live, and returns them by their names.
async fn live(client: &FleetClient, names: &[String]) -> BTreeMap<String, Agent> {
    eventually(&format!("{names:?} are live"), async || {
        let live = agents(client).await?.into_iter().filter(|agent| agent.state() == AgentState::Live);
        let live: BTreeMap<String, Agent> = live.map(|agent| (agent.name.clone(), agent)).collect();
        check(names.iter().all(|name| live.contains_key(name)), live, "others".to_owned())
    })
    .await
}

/// Starts an agent by hand, which enrols by the join secret. It runs tasks like the others.
fn start_agent(fleet: &Fleet, join: &Path, name: &str) -> Process {
    let coordinators: Vec<String> = fleet.coordinators().iter().map(|name| fleet.address(name)).collect();
    let line = [
        "--role=specialist".into(),
        format!("--specializations={SKILL}"),
        format!("--name={name}"),
        format!("--cluster-id={CLUSTER}"),
        format!("--coordinators={}", coordinators.join(",")),
        "--listen=127.0.0.1:0".into(),
        format!("--executor={}", shell_executor(&fleet.executions_file())),
        format!("--join-secret={}", join.join(SECRET).display()),
        format!("--trust={}", join.join(TRUST).display()),
        "--exit-with-parent".into(),
    ];
    Process::start(name, &program(AGENT), &line, &fleet.dir().join(format!("{name}.log")))
}

/// Starts a fleet whose authority lasts for minutes, and whose coordinators keep a join secret. The authority is that of
/// the returned administrator; the fleet's own clients don't know it.
fn start(agents: &[String]) -> (Fleet, Administrator) {
    let own = PoolSpec::new("own", 2).executor(json!({"worker": {}}));
    let work = PoolSpec::new("work", 2).slots(8).specialists(SKILL);
    let mut fleet = Fleet::prepare(FleetSpec::new(3).pool(own).pool(work).session_timeout("10s").with_tls());
    assert_eq!(fleet.agent_names(), agents);
    let (dir, join) = (fleet.dir().join(FOLDER), fleet.dir().join("join"));
    for name in fleet.coordinators() {
        fleet.set_flag(&name, "join", &join.display().to_string());
    }
    let issuing = made();
    write(&dir, KEY, issuing.key_pem());
    write(&dir, CERTIFICATE, issuing.certificate_pem());
    fleet.start_all();
    let coordinators = fleet.coordinators().iter().map(|name| fleet.address(name)).collect();
    let user = Thief::with(copy(&issuing), issuing.certificate_pem()).certified(PeerRole::Client, "rotation");
    let security = user.security();
    (fleet, Administrator { dir, join, coordinators, agents: Vec::new(), issuing, security })
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_while_certificates_authority_and_join_secret_are_replaced() {
    let names = ["own-0", "own-1", "work-0", "work-1"].map(str::to_owned);
    let (fleet, mut admin) = start(&names);
    let (endpoints, security) = (fleet.endpoints(), admin.security.clone());
    let connect = move || {
        let settings = Settings { security: security.clone(), ..Settings::default() };
        FleetClient::new(&endpoints, settings).expect("the addresses are well formed")
    };
    let sender = Attached::to(&fleet.attach_address("own-0")).await;
    let receiver = Attached::to(&fleet.attach_address("own-1")).await;
    let before = live(&connect(), &names).await;
    admin.agents = before.values().map(|agent| (agent.name.clone(), agent.address.clone())).collect();

    let (end, ended) = watch::channel(false);
    let (handled, numbers) = watch::channel(Vec::new());
    let receiving = tokio::spawn(receive(receiver, handled));
    let sending = tokio::spawn(messages(sender, ended.clone()));
    let history = Arc::new(History::default());
    let submitting = tokio::spawn(tasks(connect.clone(), Arc::clone(&history), ended));
    let mut newcomers = Vec::new();
    while newcomers.is_empty() || !(sending.is_finished() && submitting.is_finished()) {
        admin.replace_authority().await;
        admin.replace_secret().await;
        if newcomers.is_empty() {
            newcomers.push(start_agent(&fleet, &admin.join, "new-0"));
            live(&connect(), &["new-0".to_owned()]).await;
        }
        // Whoever has sent enough by now stops.
        end.send_replace(true);
    }
    let sent = sending.await.expect("every message is accepted");
    let submitted = submitting.await.expect("every task is accepted");

    assert_eq!(*numbers.borrow(), (1..=sent).collect::<Vec<_>>(), "each message is handled once, and in order");
    receiving.abort();
    history.assert_sound(&fleet.executions_file());
    assert_eq!(history.accepted_count() as u64, submitted);
    assert_eq!(executions(&fleet.executions_file()).len() as u64, submitted, "no task ran twice");
    let after = live(&connect(), &names).await;
    // An agent whose process attaches begins another session, for which the test does not wait.
    for name in names.iter().filter(|name| name.starts_with("work")) {
        assert_eq!(after[name].session, before[name].session, "the session of {name} went on");
    }
}
