//! An agent that only holds a session.

use std::{sync::Arc, time::Duration};

use robeing_fleet::AgentState;
use robeing_net::{Transport, limited};
use robeing_platform::simulated::HostNetwork;
use robeing_proto::{
    internal::v1::{
        self as internal, AgentMessage, CoordinatorMessage, agent_message::Message as FromAgent, completion::Outcome,
        coordinator_message::Message as ToAgent, session_client::SessionClient,
    },
    v1,
};
use tokio::{sync::mpsc, time::interval};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::Streaming;

use crate::tests::fleet::{CLUSTER, TestFleet, address};

const HEARTBEAT: Duration = Duration::from_millis(500);

fn message(message: FromAgent) -> AgentMessage {
    AgentMessage { message: Some(message) }
}

/// Returns how an attempt ends; `None` if it does not.
pub type Work = fn(&internal::Assignment) -> Option<Outcome>;

fn completion(assignment: &internal::Assignment, work: Work) -> Option<internal::Completion> {
    let (task_id, attempt) = (assignment.task_id.clone(), assignment.attempt);
    Some(internal::Completion { task_id, attempt, ran_us: 1, outcome: Some(work(assignment)?) })
}

/// Returns what an agent says when it starts an attempt that has a progress timeout.
fn start(assignment: &internal::Assignment) -> internal::AttemptProgressed {
    let (task_id, attempt) = (assignment.task_id.clone(), assignment.attempt);
    internal::AttemptProgressed { task_id, attempt, ago_ms: 0 }
}

/// An agent with a session.
pub struct TestAgent {
    name: &'static str,
    silent: CancellationToken,
    stuck: CancellationToken,
    session: AbortOnDropHandle<()>,
    listening: AbortOnDropHandle<()>,
    transport: Transport,
    own: String,
}

fn hello(name: &str, own: &str) -> internal::Hello {
    internal::Hello {
        cluster_id: CLUSTER.into(),
        name: name.into(),
        incarnation: 1,
        role: v1::Role::Worker.into(),
        slots: 1,
        address: own.into(),
        ..internal::Hello::default()
    }
}

/// Opens a session, and keeps it.
async fn connect(
    transport: &Transport,
    leader: usize,
    hello: internal::Hello,
    (silent, stuck): (CancellationToken, CancellationToken),
    work: Work,
) -> AbortOnDropHandle<()> {
    let channel = transport.channel(&address(leader)).expect("it is an address");
    let (sender, messages) = mpsc::channel(1);
    sender.send(message(FromAgent::Hello(hello))).await.expect("there is room");
    let opened = limited!(SessionClient::new(channel)).open(ReceiverStream::new(messages)).await;
    let mut told = opened.expect("the leader accepts agents").into_inner();
    while !matches!(next(&mut told).await, Some(ToAgent::Welcome(_))) {}
    AbortOnDropHandle::new(tokio::spawn(beat(sender, told, (silent, stuck), work)))
}

impl TestAgent {
    /// Opens a session with the coordinator `leader`, which leads. The agent ends no attempt.
    pub async fn join(fleet: &TestFleet, leader: usize, name: &'static str) -> Self {
        Self::start(fleet, leader, name, 1, |_| None).await
    }

    /// Same as [`TestAgent::join`]. The agent contributes this many thousandths of a processor.
    pub async fn join_contributing(fleet: &TestFleet, leader: usize, name: &'static str, cpu_millis: u64) -> Self {
        let contributed = Some(v1::ResourceAmounts { cpu_millis, ..v1::ResourceAmounts::default() });
        let says = |hello: internal::Hello| internal::Hello { contributed, ..hello };
        Self::start_saying(fleet, leader, (name, 1), |_| None, says).await
    }

    /// Same as [`TestAgent::join`], from the machine with this number.
    pub async fn join_from(fleet: &TestFleet, leader: usize, name: &'static str, machine: u8) -> Self {
        Self::start(fleet, leader, name, machine, |_| None).await
    }

    /// Comes back over a new connection, in the same session, and says its key, which it did not say before.
    pub async fn resume_with_key(&mut self, fleet: &TestFleet, leader: usize, key: [u8; 32]) {
        self.session.abort();
        let session =
            fleet.tested(leader).state.look(|fleet| fleet.agent_by_name(self.name).map(|agent| agent.session.0));
        let hello = internal::Hello {
            session: session.expect("it has a session"),
            sealing_key: key.to_vec().into(),
            ..hello(self.name, &self.own)
        };
        self.session = connect(&self.transport, leader, hello, self.marks(), |_| None).await;
    }

    /// Same as [`TestAgent::join`]. `work` returns how each attempt ends.
    pub async fn join_to_work(fleet: &TestFleet, leader: usize, name: &'static str, work: Work) -> Self {
        Self::start(fleet, leader, name, 1, work).await
    }

    /// Same as [`TestAgent::join_to_work`], from the machine with this number.
    pub async fn join_to_work_from(
        fleet: &TestFleet,
        leader: usize,
        name: &'static str,
        machine: u8,
        work: Work,
    ) -> Self {
        Self::start(fleet, leader, name, machine, work).await
    }

    /// Same as [`TestAgent::join_to_work_from`], with a specialization.
    pub async fn join_with_skill(
        fleet: &TestFleet,
        leader: usize,
        (name, skill): (&'static str, &str),
        machine: u8,
        work: Work,
    ) -> Self {
        let specializations = vec![skill.to_owned()];
        let says = |hello: internal::Hello| internal::Hello { specializations, ..hello };
        Self::start_saying(fleet, leader, (name, machine), work, says).await
    }

    /// Same as [`TestAgent::join_to_work_from`]. The agent says that it has an object store.
    pub async fn join_with_store(
        fleet: &TestFleet,
        leader: usize,
        name: &'static str,
        machine: u8,
        work: Work,
    ) -> Self {
        let says = |hello: internal::Hello| internal::Hello { has_store: true, ..hello };
        Self::start_saying(fleet, leader, (name, machine), work, says).await
    }

    async fn start(fleet: &TestFleet, leader: usize, name: &'static str, machine: u8, work: Work) -> Self {
        Self::start_saying(fleet, leader, (name, machine), work, |hello| hello).await
    }

    async fn start_saying(
        fleet: &TestFleet,
        leader: usize,
        (name, machine): (&'static str, u8),
        work: Work,
        says: impl FnOnce(internal::Hello) -> internal::Hello,
    ) -> Self {
        let network = HostNetwork::new(fleet.network.clone(), CancellationToken::new()).at([10, 0, 2, machine]);
        let (transport, own) = (Transport::new(Arc::new(network)), format!("10.0.2.{machine}:7000"));
        let mut listener = transport.bind(&own).await.expect("its address is free").into_listener();
        let listening = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        let (silent, stuck) = (CancellationToken::new(), CancellationToken::new());
        let marks = (silent.clone(), stuck.clone());
        let session = connect(&transport, leader, says(hello(name, &own)), marks, work).await;
        let listening = AbortOnDropHandle::new(listening);
        Self { name, silent, stuck, session, listening, transport, own }
    }

    fn marks(&self) -> (CancellationToken, CancellationToken) {
        (self.silent.clone(), self.stuck.clone())
    }

    /// Stops sending heartbeats, over a connection that stays open.
    pub fn fall_silent(&self) {
        self.silent.cancel();
    }

    /// Makes no progress any more with the attempts that have a progress timeout. Before, it makes some with every
    /// heartbeat.
    pub fn get_stuck(&self) {
        self.stuck.cancel();
    }

    /// Closes the connection. The process keeps running.
    pub fn disconnect(&self) {
        self.session.abort();
    }

    /// Ends the process.
    pub fn end(&self) {
        self.session.abort();
        self.listening.abort();
    }

    /// Returns the agent's state according to a coordinator.
    pub fn state(&self, fleet: &TestFleet, at: usize) -> Option<AgentState> {
        fleet.tested(at).state.look(|fleet| fleet.agent_by_name(self.name).map(|agent| agent.state))
    }
}

async fn next(told: &mut Streaming<CoordinatorMessage>) -> Option<ToAgent> {
    told.message().await.expect("the session continues").expect("the session continues").message
}

async fn beat(
    sender: mpsc::Sender<AgentMessage>,
    mut told: Streaming<CoordinatorMessage>,
    (silent, stuck): (CancellationToken, CancellationToken),
    work: Work,
) {
    let (mut beats, mut seq) = (interval(HEARTBEAT), 0);
    let mut progressed = internal::Progressed::default();
    loop {
        tokio::select! {
            _ = beats.tick(), if !silent.is_cancelled() => {
                seq += 1;
                let beat = FromAgent::Heartbeat(internal::Heartbeat { seq, ..internal::Heartbeat::default() });
                if sender.send(message(beat)).await.is_err() {
                    return;
                }
                let made = !stuck.is_cancelled() && !progressed.attempts.is_empty();
                if made && sender.send(message(FromAgent::Progressed(progressed.clone()))).await.is_err() {
                    return;
                }
            }
            said = told.message() => match said {
                Ok(Some(CoordinatorMessage { message: Some(ToAgent::Assignments(told)) })) => {
                    let completions = told.assignments.iter().filter_map(|assignment| completion(assignment, work));
                    let completions = internal::Completions { completions: completions.collect() };
                    let watched = told.assignments.iter().filter(|of| of.progress_timeout_ms > 0);
                    progressed.attempts.extend(watched.map(start));
                    if sender.send(message(FromAgent::Completions(completions))).await.is_err() {
                        return;
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return,
            },
        }
    }
}
