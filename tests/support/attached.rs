//! A process that is attached to an agent, whose messages a test sends one by one.

use robeing_proto::worker::v1::{
    FromProcess, Hello, Message, MessageAccepted, MessageOutcome, MessageRefused, SendMessage, SendOutcome, ToProcess,
    from_process, message_outcome::Outcome, to_process, worker_client::WorkerClient,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::wait::{eventually, in_time};

/// An attached process that handles messages.
#[derive(Debug)]
pub struct Attached {
    outgoing: mpsc::Sender<FromProcess>,
    incoming: Streaming<ToProcess>,
}

impl Attached {
    /// Attaches to the agent that listens for processes here, once it does.
    pub async fn to(address: &str) -> Self {
        eventually(&format!("an agent takes processes at {address}"), async || {
            Self::try_to(address).await.map_err(|status| status.to_string())
        })
        .await
    }

    async fn try_to(address: &str) -> Result<Self, Status> {
        let (outgoing, said) = mpsc::channel(1_000);
        let hello = from_process::Message::Hello(Hello { handles_messages: true, ..Hello::default() });
        let _ = outgoing.try_send(FromProcess { message: Some(hello) });
        let client = WorkerClient::connect(format!("http://{address}")).await;
        let mut client = client.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut incoming = client.attach(ReceiverStream::new(said)).await?.into_inner();
        match incoming.message().await?.and_then(|first| first.message) {
            Some(to_process::Message::Welcome(_)) => Ok(Self { outgoing, incoming }),
            other => Err(Status::internal(format!("expected a welcome, got {other:?}"))),
        }
    }

    /// Returns what the agent sends next; an error if the agent is gone.
    ///
    /// # Errors
    /// If the stream has ended.
    pub async fn next(&mut self) -> Result<to_process::Message, Status> {
        let next = in_time("a message of the agent", self.incoming.message()).await?;
        next.and_then(|next| next.message).ok_or_else(|| Status::unavailable("the stream has ended"))
    }

    /// Returns the next message of another agent.
    ///
    /// # Errors
    /// If the stream has ended.
    pub async fn message(&mut self) -> Result<Message, Status> {
        loop {
            if let to_process::Message::Incoming(message) = self.next().await? {
                return Ok(message);
            }
        }
    }

    /// Accepts a message, with a reply.
    pub async fn accept(&self, message: &Message, reply: &str) {
        let reply = Some(reply.to_owned().into());
        self.answer(message, Outcome::Accepted(MessageAccepted { reply })).await;
    }

    /// Refuses a message.
    pub async fn refuse(&self, message: &Message, reason: &str) {
        self.answer(message, Outcome::Refused(MessageRefused { reason: reason.to_owned() })).await;
    }

    async fn answer(&self, message: &Message, outcome: Outcome) {
        let outcome = MessageOutcome { id: message.id.clone(), outcome: Some(outcome) };
        self.say(from_process::Message::MessageOutcome(outcome)).await;
    }

    /// Sends a message, without waiting for what becomes of it.
    pub async fn post(&self, message: SendMessage) {
        self.say(from_process::Message::SendMessage(message)).await;
    }

    /// Sends a message, and returns what became of it.
    ///
    /// # Panics
    /// If the agent is gone.
    pub async fn send(&mut self, message: SendMessage) -> SendOutcome {
        self.post(message).await;
        self.outcome().await.expect("the agent is there")
    }

    /// Returns what became of the next message that has an outcome.
    ///
    /// # Errors
    /// If the stream has ended.
    pub async fn outcome(&mut self) -> Result<SendOutcome, Status> {
        loop {
            if let to_process::Message::SendOutcome(outcome) = self.next().await? {
                return Ok(outcome);
            }
        }
    }

    async fn say(&self, message: from_process::Message) {
        // An agent that is gone is noticed by who waits for it.
        let _ = self.outgoing.send(FromProcess { message: Some(message) }).await;
    }
}
