//! The mailbox of an agent whose handler is the test, and a fleet in which messages are in force.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use robeing_fleet::known_version;
use robeing_net::{Transport, limited};
use robeing_platform::simulated::HostNetwork;
use robeing_proto::{
    internal::v1::{
        FromMailbox, InboxPage, InboxQuery, Letter, LetterAnswer, LetterAnswers, MailboxOpen, ToMailbox,
        from_mailbox::Message as FromAgent, mailbox_client::MailboxClient, to_mailbox::Message as ToAgent,
    },
    v1::{MessageCode, MessageStatus, ReadInboxResponse, SendMessageRequest},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming, transport::Channel};

use crate::{
    mail::MailError,
    tests::fleet::{CLUSTER, TestFleet, address},
};

/// Who sends, unless a test says otherwise.
pub const SENDER: &str = "client:test";
/// How long a test waits for a message that must come.
pub const WITHIN: Duration = Duration::from_secs(120);

/// Starts a fleet in which messages are in force everywhere, and returns its leader.
pub async fn start() -> (TestFleet, usize) {
    let fleet = TestFleet::start();
    let leader = fleet.led().await;
    in_force(&fleet).await;
    (fleet, leader)
}

/// Waits until messages are in force everywhere.
pub async fn in_force(fleet: &TestFleet) {
    let everywhere = |fleet: &TestFleet| {
        let is_new = |n: usize| fleet.tested(n).state.look(|state| state.version()) == known_version();
        fleet.running().into_iter().all(is_new)
    };
    fleet.until("messages in force", everywhere).await;
}

/// A message to an address.
pub fn message(to: &str) -> SendMessageRequest {
    SendMessageRequest {
        to: to.into(),
        r#type: "note".into(),
        payload: Bytes::from_static(b"hello"),
        ..SendMessageRequest::default()
    }
}

/// A message that is kept, with an id.
pub fn durable(to: &str, id: u128) -> SendMessageRequest {
    SendMessageRequest { durable: true, id: robeing_fleet::LetterId(id).to_string(), ..message(to) }
}

/// Sends a message at a coordinator.
pub async fn send(fleet: &TestFleet, at: usize, message: SendMessageRequest) -> Result<Vec<MessageStatus>, MailError> {
    fleet.tested(at).messages.sending.send(SENDER, message).await
}

/// Sends a message at a coordinator to one agent, and returns what became of it.
pub async fn send_one(fleet: &TestFleet, at: usize, message: SendMessageRequest) -> MessageStatus {
    let mut outcomes = send(fleet, at, message).await.expect("it is taken");
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
    outcomes.remove(0)
}

/// The mailbox of an agent, which the test answers.
pub struct TestMailbox {
    pub sender: mpsc::Sender<FromMailbox>,
    told: Streaming<ToMailbox>,
    waiting: Vec<Letter>,
}

impl TestMailbox {
    /// Opens the mailbox of an agent at a coordinator.
    pub async fn open(fleet: &TestFleet, at: usize, agent: &str) -> Self {
        let network = HostNetwork::new(fleet.network.clone(), CancellationToken::new());
        let transport = Transport::new(Arc::new(network));
        let channel = transport.channel(&address(at)).expect("it is an address");
        Self::open_over(channel, agent).await.expect("it is served")
    }

    /// Same as [`TestMailbox::open`], over this channel.
    pub async fn open_over(channel: Channel, agent: &str) -> Result<Self, Status> {
        let (sender, messages) = mpsc::channel(8);
        let open = MailboxOpen { cluster_id: CLUSTER.into(), agent: agent.into() };
        let first = FromMailbox { message: Some(FromAgent::Open(open)) };
        sender.send(first).await.expect("there is room");
        let opened = limited!(MailboxClient::new(channel)).attend(ReceiverStream::new(messages)).await?;
        Ok(Self { sender, told: opened.into_inner(), waiting: Vec::new() })
    }

    /// Returns what the coordinator sends next, or why it has ended the stream.
    pub async fn next(&mut self) -> Result<ToAgent, Status> {
        let next = timeout(WITHIN, self.told.message()).await.expect("something comes");
        let ended = || Status::unavailable("the stream has ended");
        next?.and_then(|message| message.message).ok_or_else(ended)
    }

    /// Returns the next letter.
    pub async fn letter(&mut self) -> Letter {
        while self.waiting.is_empty() {
            match self.next().await.expect("the stream continues") {
                ToAgent::Letters(letters) => self.waiting = letters.letters,
                ToAgent::InboxQuery(query) => panic!("{query:?}"),
            }
        }
        self.waiting.remove(0)
    }

    /// Returns the ids of the next letters.
    pub async fn ids(&mut self, count: usize) -> Vec<u128> {
        let mut ids = Vec::new();
        while ids.len() < count {
            ids.push(id(&self.letter().await));
        }
        ids
    }

    /// Returns whether a letter comes before everything that happens in this time.
    pub async fn is_silent_for(&mut self, time: Duration) -> bool {
        self.waiting.is_empty() && timeout(time, self.told.message()).await.is_err()
    }

    /// Returns the next query of the inbox.
    pub async fn query(&mut self) -> InboxQuery {
        match self.next().await.expect("the stream continues") {
            ToAgent::InboxQuery(query) => query,
            ToAgent::Letters(letters) => panic!("{letters:?}"),
        }
    }

    pub async fn say(&self, message: FromAgent) {
        self.sender.send(FromMailbox { message: Some(message) }).await.expect("the stream continues");
    }

    /// Answers a letter.
    pub async fn answer(&self, answer: LetterAnswer) {
        self.say(FromAgent::Answers(LetterAnswers { answers: vec![answer] })).await;
    }

    /// Accepts a letter.
    pub async fn accept(&self, letter: u128) {
        self.answer(LetterAnswer { id: wire(letter), ..LetterAnswer::default() }).await;
    }

    /// Answers a query.
    pub async fn page(&self, seq: u64, page: Result<ReadInboxResponse, &str>) {
        let (page, refused) = match page {
            Ok(page) => (Some(page), String::new()),
            Err(reason) => (None, reason.to_owned()),
        };
        self.say(FromAgent::InboxPage(InboxPage { seq, page, refused })).await;
    }
}

/// The id of a letter, as a number.
pub fn id(letter: &Letter) -> u128 {
    u128::from_be_bytes((*letter.id).try_into().expect("an id"))
}

/// An id as it is on the wire.
pub fn wire(id: u128) -> Bytes {
    id.to_be_bytes().to_vec().into()
}

/// The code of an outcome.
pub fn code(status: &MessageStatus) -> MessageCode {
    status.code()
}
