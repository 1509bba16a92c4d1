//! An agent whose every message a test scripts. Only its heartbeats come by themselves.

use std::{sync::Arc, time::Duration};

use robeing_net::{Transport, limited};
use robeing_platform::simulated::HostNetwork;
use robeing_proto::{
    internal::v1::{
        self as internal, AgentMessage, CoordinatorMessage, agent_message::Message as FromAgent, completion::Outcome,
        coordinator_message::Message as ToAgent, session_client::SessionClient,
    },
    v1,
};
use tokio::{
    sync::mpsc,
    time::{interval, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::Streaming;

use crate::tests::fleet::{CLUSTER, TestFleet, address};

const HEARTBEAT: Duration = Duration::from_millis(500);
/// How long a message may take, in the test's time.
const SOON: Duration = Duration::from_secs(60);
/// Its name.
pub const NAME: &str = "a";
const OWN: &str = "10.0.2.1:7000";

/// A scripted agent with a session.
pub struct Scripted {
    sender: mpsc::Sender<AgentMessage>,
    told: Streaming<CoordinatorMessage>,
    beats: AbortOnDropHandle<()>,
    transport: Transport,
    _listening: AbortOnDropHandle<()>,
}

fn message(message: FromAgent) -> AgentMessage {
    AgentMessage { message: Some(message) }
}

async fn beat(sender: mpsc::Sender<AgentMessage>) {
    let (mut beats, mut seq) = (interval(HEARTBEAT), 0);
    loop {
        beats.tick().await;
        seq += 1;
        let beat = FromAgent::Heartbeat(internal::Heartbeat { seq, ..internal::Heartbeat::default() });
        if sender.send(message(beat)).await.is_err() {
            return;
        }
    }
}

/// Opens a session with the coordinator `leader`, or resumes that with this id.
async fn connect(
    transport: &Transport,
    leader: usize,
    session: u64,
) -> (mpsc::Sender<AgentMessage>, Streaming<CoordinatorMessage>) {
    let hello = internal::Hello {
        cluster_id: CLUSTER.into(),
        name: NAME.into(),
        incarnation: 1,
        role: v1::Role::Worker.into(),
        slots: 2,
        address: OWN.into(),
        session,
        ..internal::Hello::default()
    };
    let channel = transport.channel(&address(leader)).expect("it is an address");
    let (sender, messages) = mpsc::channel(8);
    sender.send(message(FromAgent::Hello(hello))).await.expect("there is room");
    let opened = limited!(SessionClient::new(channel)).open(ReceiverStream::new(messages)).await;
    (sender, opened.expect("the leader accepts agents").into_inner())
}

/// Returns the next message of interest.
async fn next(told: &mut Streaming<CoordinatorMessage>) -> ToAgent {
    let next = async {
        loop {
            let told = told.message().await.expect("the session continues").expect("the session continues");
            match told.message {
                Some(
                    ToAgent::HeartbeatAck(_)
                    | ToAgent::HealthCheck(_)
                    | ToAgent::CompletionAcks(_)
                    | ToAgent::Opening(_),
                )
                | None => {}
                Some(told) => return told,
            }
        }
    };
    timeout(SOON, next).await.expect("a message")
}

impl Scripted {
    /// Opens a session with the coordinator `leader`, which leads.
    pub async fn join(fleet: &TestFleet, leader: usize) -> Self {
        let network = HostNetwork::new(fleet.network.clone(), CancellationToken::new()).at([10, 0, 2, 1]);
        let transport = Transport::new(Arc::new(network));
        let mut listener = transport.bind(OWN).await.expect("its address is free").into_listener();
        let listening = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
        let (sender, mut told) = connect(&transport, leader, 0).await;
        assert!(matches!(next(&mut told).await, ToAgent::Welcome(_)));
        // No heartbeat is allowed before it.
        let beats = AbortOnDropHandle::new(tokio::spawn(beat(sender.clone())));
        Self { sender, told, beats, transport, _listening: AbortOnDropHandle::new(listening) }
    }

    /// Comes back over a new connection, in the same session.
    pub async fn resume(&mut self, fleet: &TestFleet, leader: usize) {
        let session = fleet.tested(leader).state.look(|fleet| fleet.agent_by_name(NAME).map(|agent| agent.session.0));
        (self.sender, self.told) = connect(&self.transport, leader, session.expect("it has a session")).await;
        assert!(matches!(self.next().await, ToAgent::Welcome(internal::Welcome { resumed: true, .. })));
        self.beats = AbortOnDropHandle::new(tokio::spawn(beat(self.sender.clone())));
    }

    /// Stops sending heartbeats, over a connection that stays open.
    pub fn fall_silent(&self) {
        self.beats.abort();
    }

    pub async fn say(&self, said: FromAgent) {
        self.sender.send(message(said)).await.expect("the session continues");
    }

    /// Returns the next message of interest.
    pub async fn next(&mut self) -> ToAgent {
        next(&mut self.told).await
    }

    /// Returns the next assignment, which must be the only one.
    pub async fn assigned(&mut self) -> internal::AttemptRef {
        match self.next().await {
            ToAgent::Assignments(told) => {
                let [internal::Assignment { task_id, attempt, .. }] = &told.assignments[..] else { panic!("{told:?}") };
                internal::AttemptRef { task_id: task_id.clone(), attempt: *attempt }
            }
            other => panic!("expected an assignment, got {other:?}"),
        }
    }

    /// Returns the next order to follow an attempt, or to stop that.
    pub async fn followed(&mut self) -> internal::FollowAttempt {
        match self.next().await {
            ToAgent::FollowAttempt(order) => order,
            other => panic!("expected an order, got {other:?}"),
        }
    }

    /// Returns the attempts that are to be stopped.
    pub async fn stops(&mut self) -> Vec<internal::AttemptRef> {
        match self.next().await {
            ToAgent::Cancels(told) => told.attempts,
            other => panic!("expected a stop, got {other:?}"),
        }
    }

    /// Reports how an attempt has ended.
    pub async fn complete(&self, of: &internal::AttemptRef, outcome: Outcome) {
        let (task_id, attempt) = (of.task_id.clone(), of.attempt);
        let completion = internal::Completion { task_id, attempt, ran_us: 1, outcome: Some(outcome) };
        self.say(FromAgent::Completions(internal::Completions { completions: vec![completion] })).await;
    }

    /// Sends lines of an attempt.
    pub async fn write(&self, of: &internal::AttemptRef, first: u64, lines: &[&str], ended: bool) {
        let line = |text: &&str| v1::LogLine { text: (*text).to_owned(), ..v1::LogLine::default() };
        self.say(FromAgent::AttemptLog(internal::AttemptLog {
            task_id: of.task_id.clone(),
            attempt: of.attempt,
            first,
            lines: lines.iter().map(line).collect(),
            caught_up: true,
            ended,
            ..internal::AttemptLog::default()
        }))
        .await;
    }
}
