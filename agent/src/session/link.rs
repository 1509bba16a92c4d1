//! One connection to a coordinator: the greeting that opens a session over it, and its two directions.

use std::time::Duration;

use robeing_proto::v1::{
    AgentMessage, CoordinatorMessage, Hello, Redirect, Welcome, agent_message, coordinator_message,
    session_client::SessionClient,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Streaming, transport::Channel};

use crate::{
    limited,
    transport::{ConnectError, Transport},
};

/// How long connecting to a coordinator may take.
pub const CONNECT_WITHIN: Duration = Duration::from_millis(300);
/// How long a coordinator has for answering a Hello, connecting included.
pub const HELLO_WITHIN: Duration = Duration::from_millis(500);
/// Messages on their way to the connection; completions are gathered meanwhile.
const OUTGOING: usize = 4;

/// A connection over which a session is open.
pub(super) struct Link {
    /// Where it leads.
    pub address: String,
    /// Since when.
    pub opened: Instant,
    /// To the coordinator. `None` once nothing more is said.
    pub outgoing: Option<mpsc::Sender<AgentMessage>>,
    /// From the coordinator.
    pub incoming: Streaming<CoordinatorMessage>,
    /// Keeps the connection.
    _client: SessionClient<Channel>,
}

/// What a coordinator answers to a Hello.
pub(super) enum Greeting {
    /// It leads. With when the Hello was sent.
    Welcome(Box<Link>, Welcome, Instant),
    /// It does not.
    Redirect(Redirect),
}

/// Why there was no greeting.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the coordinator refused the session: {}", .0.message())]
    Refused(#[from] Box<tonic::Status>),
    #[error("the coordinator ended the stream without an answer")]
    NoAnswer,
    #[error("the coordinator answered Hello with something else than Welcome or Redirect")]
    Unexpected,
    #[error("no answer within {} ms", HELLO_WITHIN.as_millis())]
    TooLate,
}

/// Says hello to the coordinator at `address`.
pub(super) async fn greet(transport: Transport, address: String, hello: Hello) -> Result<Greeting, LinkError> {
    timeout(HELLO_WITHIN, exchange(transport, address, hello)).await.unwrap_or(Err(LinkError::TooLate))
}

async fn exchange(transport: Transport, address: String, hello: Hello) -> Result<Greeting, LinkError> {
    let channel = transport.connect(&address, CONNECT_WITHIN).await?;
    let mut client = limited!(SessionClient::new(channel));
    let (outgoing, messages) = mpsc::channel(OUTGOING);
    let sent = Instant::now();
    let hello = AgentMessage { message: Some(agent_message::Message::Hello(hello)) };
    // The receiving end is alive and the channel empty.
    outgoing.try_send(hello).map_err(|_| LinkError::Unexpected)?;
    let mut incoming = client.open(ReceiverStream::new(messages)).await.map_err(Box::new)?.into_inner();
    let answer = incoming.message().await.map_err(Box::new)?.ok_or(LinkError::NoAnswer)?;
    match answer.message {
        Some(coordinator_message::Message::Welcome(welcome)) => {
            let link = Link { address, opened: Instant::now(), outgoing: Some(outgoing), incoming, _client: client };
            Ok(Greeting::Welcome(Box::new(link), welcome, sent))
        }
        Some(coordinator_message::Message::Redirect(redirect)) => Ok(Greeting::Redirect(redirect)),
        _ => Err(LinkError::Unexpected),
    }
}
