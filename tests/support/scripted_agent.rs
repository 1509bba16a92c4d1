//! An agent whose messages a test sends one by one, so that it can send what a correct agent never sends.

use robeing_proto::{
    internal::v1::{
        AgentMessage, Assignment, Completion, CompletionAck, Completions, CoordinatorMessage, Hello, Waiting, Welcome,
        agent_message::Message as Said, completion::Outcome, coordinator_message::Message as Told,
        session_client::SessionClient,
    },
    v1::Role,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use crate::wait::in_time;

/// A session that the test controls.
#[derive(Debug)]
pub struct HandAgent {
    say: mpsc::Sender<AgentMessage>,
    told: Streaming<CoordinatorMessage>,
    /// The leader's response to Hello.
    pub welcome: Welcome,
}

/// Returns the Hello of a worker of the test fleet. Nothing listens at its address.
pub fn hello(name: &str) -> Hello {
    Hello {
        cluster_id: "tested".into(),
        name: name.into(),
        incarnation: u64::from(std::process::id()) << 32 | 1,
        role: Role::Worker.into(),
        slots: 4,
        address: "127.0.0.1:9".into(),
        pid: std::process::id(),
        version: "by hand".into(),
        ..Hello::default()
    }
}

/// Creates a completion with an output.
pub fn completion(assignment: &Assignment, attempt: u32, output: &str) -> Completion {
    Completion {
        task_id: assignment.task_id.clone(),
        attempt,
        ran_us: 1,
        outcome: Some(Outcome::Output(output.to_owned().into())),
    }
}

impl HandAgent {
    /// Opens a session with a coordinator.
    ///
    /// # Errors
    /// The status that the coordinator sends instead of a welcome.
    ///
    /// # Panics
    /// If the coordinator sends nothing, or something else.
    pub async fn open(address: &str, hello: Hello) -> Result<Self, Status> {
        let endpoint = Channel::from_shared(format!("http://{address}")).expect("an address");
        Self::open_over(endpoint.connect().await.expect("a coordinator listens"), hello).await
    }

    /// Opens a session over a channel to a coordinator.
    ///
    /// # Errors
    /// The status that the coordinator sends instead of a welcome.
    ///
    /// # Panics
    /// If the coordinator sends nothing, or something else.
    pub async fn open_over(channel: Channel, hello: Hello) -> Result<Self, Status> {
        let mut client = SessionClient::new(channel);
        let (say, said) = mpsc::channel(16);
        say.send(AgentMessage { message: Some(Said::Hello(hello)) }).await.expect("the receiver exists");
        let mut told = in_time("an answer to Hello", client.open(ReceiverStream::new(said))).await?.into_inner();
        let welcome = async {
            loop {
                match told.message().await?.and_then(|message| message.message) {
                    Some(Told::Welcome(welcome)) => return Ok::<_, Status>(welcome),
                    Some(Told::Opening(opening)) => {
                        let waiting = Said::Waiting(Waiting { seq: opening.seq });
                        let waiting = AgentMessage { message: Some(waiting) };
                        // A coordinator that has refused the session in the meantime no longer reads; its next message
                        // states why.
                        let _ = say.send(waiting).await;
                    }
                    other => panic!("instead of a welcome: {other:?}"),
                }
            }
        };
        let welcome = in_time("a welcome", welcome).await?;
        Ok(Self { say, told, welcome })
    }

    /// Sends a message.
    ///
    /// # Panics
    /// If the session is over.
    pub async fn say(&self, said: Said) {
        let message = AgentMessage { message: Some(said) };
        self.say.send(message).await.expect("the coordinator keeps the session");
    }

    /// Returns the next message.
    ///
    /// # Errors
    /// The status with which the session ended.
    pub async fn next(&mut self) -> Result<Option<Told>, Status> {
        let message = in_time("a message", self.told.message()).await?;
        Ok(message.and_then(|message| message.message))
    }

    /// Returns the next assignment and skips other messages.
    ///
    /// # Panics
    /// If the session ends.
    pub async fn assignment(&mut self) -> Assignment {
        loop {
            match self.next().await {
                Ok(Some(Told::Assignments(mut given))) => {
                    assert_eq!(given.assignments.len(), 1, "assignments at once: {given:?}");
                    return given.assignments.remove(0);
                }
                Ok(Some(_)) => {}
                ended => panic!("the session ended: {ended:?}"),
            }
        }
    }

    /// Completes an attempt, and returns the coordinator's acknowledgement.
    ///
    /// # Panics
    /// If the session ends.
    pub async fn complete(&mut self, completion: Completion) -> CompletionAck {
        let (task_id, attempt) = (completion.task_id.clone(), completion.attempt);
        self.say(Said::Completions(Completions { completions: vec![completion] })).await;
        loop {
            match self.next().await {
                Ok(Some(Told::CompletionAcks(acks))) => {
                    let ack = acks.acks.into_iter().find(|ack| ack.task_id == task_id && ack.attempt == attempt);
                    if let Some(ack) = ack {
                        return ack;
                    }
                }
                Ok(Some(_)) => {}
                ended => panic!("the session ended: {ended:?}"),
            }
        }
    }
}
