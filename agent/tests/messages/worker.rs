//! The `worker` handler: attached processes that receive messages and send some.

use std::sync::Arc;

use robeing_agent::{
    executor::{Executor as _, Limits, WorkerConfig, WorkerExecutor},
    mailbox::DurableSender,
    messaging::{
        Messenger, Outcome,
        handlers::{InboxHandler, MessengerPost, WorkerHandler},
    },
    upstream::Upstream,
};
use robeing_net::Transport;
use robeing_platform::{Platform, TcpNetwork};
use robeing_proto::worker::v1::{
    FromProcess, Hello, Message, MessageAccepted, MessageOutcome, MessageRefused, SendCode, SendMessage, SendOutcome,
    ToProcess, from_process, message_outcome, to_process, worker_client::WorkerClient,
};
use robeing_telemetry::Metrics;
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::fixture::{Agent, Known, SOON, accepted};

/// An attached process.
struct Process {
    outgoing: mpsc::Sender<FromProcess>,
    incoming: Streaming<ToProcess>,
}

impl Process {
    async fn attach(executor: &WorkerExecutor, handles_messages: bool) -> Self {
        let url = format!("http://{}", executor.local_addr());
        let (outgoing, said) = mpsc::channel(100);
        let hello = Hello { handles_messages, ..Hello::default() };
        let hello = FromProcess { message: Some(from_process::Message::Hello(hello)) };
        outgoing.send(hello).await.expect("there is room");
        let mut client = WorkerClient::connect(url).await.expect("it listens");
        let incoming = client.attach(ReceiverStream::new(said)).await.expect("it is attached").into_inner();
        let mut process = Self { outgoing, incoming };
        assert!(matches!(process.next().await, to_process::Message::Welcome(_)));
        process
    }

    async fn next(&mut self) -> to_process::Message {
        let next = timeout(SOON, self.incoming.message()).await.expect("a message in time");
        next.expect("the stream is open").expect("a message").message.expect("one that is known")
    }

    async fn message(&mut self) -> Message {
        match self.next().await {
            to_process::Message::Incoming(message) => message,
            other => panic!("expected a message, got {other:?}"),
        }
    }

    async fn say(&self, message: from_process::Message) {
        self.outgoing.send(FromProcess { message: Some(message) }).await.expect("the stream is open");
    }

    async fn answer(&self, id: String, outcome: message_outcome::Outcome) {
        self.say(from_process::Message::MessageOutcome(MessageOutcome { id, outcome: Some(outcome) })).await;
    }

    async fn send(&mut self, message: SendMessage) -> SendOutcome {
        self.say(from_process::Message::SendMessage(message)).await;
        match self.next().await {
            to_process::Message::SendOutcome(outcome) => outcome,
            other => panic!("expected an outcome, got {other:?}"),
        }
    }
}

/// Returns what sends the messages of processes. It knows no coordinator.
fn post(messenger: Messenger) -> MessengerPost {
    let platform = Platform::real();
    let transport = Transport::new(Arc::clone(&platform.network));
    let upstream = Arc::new(Upstream::new(transport, Vec::new(), &*platform.random));
    MessengerPost { messenger, durable: DurableSender::new(upstream, platform) }
}

async fn fleet() -> (WorkerExecutor, Agent, Agent) {
    let transport = Transport::new(Arc::new(TcpNetwork));
    let config =
        WorkerConfig { listen: "127.0.0.1:0".into(), agent: "receiver".into(), slots: 1, limits: Limits::default() };
    let executor = WorkerExecutor::listen(config, &transport, &Metrics::default()).await.expect("a free port");
    let known = Arc::new(Known::default());
    let sender = Agent::new(&known, "sender", Arc::new(InboxHandler::default())).await;
    let receiver =
        Agent::new(&known, "receiver", Arc::new(WorkerHandler(executor.mail().expect("processes attach")))).await;
    executor.mail().expect("processes attach").set_post(Arc::new(post(receiver.messenger.clone())));
    (executor, sender, receiver)
}

#[tokio::test]
async fn a_process_that_says_so_gets_messages_and_decides_about_them() {
    let (executor, sender, _receiver) = fleet().await;
    let mut deaf = Process::attach(&executor, false).await;
    let mut process = Process::attach(&executor, true).await;
    let handling = async {
        let message = process.message().await;
        assert_eq!((&*message.sender, &*message.r#type, &*message.payload), ("sender", "greeting", &b"hello"[..]));
        let reply = MessageAccepted { reply: Some("welcome".into()) };
        process.answer(message.id, message_outcome::Outcome::Accepted(reply)).await;
    };
    let (outcome, ()) = tokio::join!(sender.send("receiver", "greeting", "hello"), handling);
    assert_eq!(outcome, accepted("welcome"));
    let handling = async {
        let message = process.message().await;
        let refused = MessageRefused { reason: "enough".into() };
        process.answer(message.id, message_outcome::Outcome::Refused(refused)).await;
    };
    let (outcome, ()) = tokio::join!(sender.send("receiver", "greeting", "again"), handling);
    assert_eq!(outcome, Outcome::refused("enough"));
    assert!(futures::poll!(std::pin::pin!(deaf.incoming.message())).is_pending(), "it got none");
}

#[tokio::test]
async fn a_message_whose_process_is_gone_goes_to_the_next_one() {
    let (executor, sender, _receiver) = fleet().await;
    let mut first = Process::attach(&executor, true).await;
    let handling = async {
        let message = first.message().await;
        drop(first);
        let mut second = Process::attach(&executor, true).await;
        let again = second.message().await;
        assert_eq!((&again.id, message.resent, again.resent), (&message.id, false, true));
        second.answer(again.id, message_outcome::Outcome::Accepted(MessageAccepted::default())).await;
        // It stays attached until its answer has arrived.
        second
    };
    let (outcome, _second) = tokio::join!(sender.send("receiver", "t", ""), handling);
    assert_eq!(outcome, Outcome::accepted(None));
}

#[tokio::test]
async fn a_process_sends_messages_too() {
    let (executor, _sender, _receiver) = fleet().await;
    let mut process = Process::attach(&executor, true).await;
    let message = |seq, to: &str| SendMessage { seq, to: to.into(), r#type: "t".into(), ..SendMessage::default() };
    let sent = process.send(message(1, "sender")).await;
    assert_eq!((sent.seq, sent.code()), (1, SendCode::Accepted), "{}", sent.reason);
    let sent = process.send(message(2, "nobody")).await;
    assert_eq!((sent.seq, sent.code()), (2, SendCode::NoSuchAgent));
    let sent = process.send(SendMessage { ask: true, deadline_in_ms: 200, ..message(3, "sender") }).await;
    assert_eq!((sent.seq, sent.code()), (3, SendCode::DeadlinePassed), "the inbox does not reply");
    let sent = process.send(SendMessage { without_ack: true, ..message(4, "sender") }).await;
    assert_eq!((sent.seq, sent.code()), (4, SendCode::Sent));
    let sent = process.send(message(5, "not an address")).await;
    assert_eq!((sent.seq, sent.code()), (5, SendCode::Refused));
}
