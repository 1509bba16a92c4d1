//! One connection to a coordinator: the greeting that opens a session over it, and its two directions.

use std::{collections::VecDeque, time::Duration};

use robeing_net::{ConnectError, Transport, earlier::earlier_version, limited};
use robeing_proto::internal::v1::{
    AgentMessage, CoordinatorMessage, Hello, Redirect, Waiting, Welcome, agent_message, coordinator_message,
    session_client::SessionClient,
};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::lease::MAX_UNACKNOWLEDGED_HEARTBEATS;

/// How long connecting to a coordinator may take.
pub const CONNECT_WITHIN: Duration = Duration::from_millis(300);
/// How long a coordinator may be silent before it has answered a Hello, connecting included.
pub const HELLO_WITHIN: Duration = Duration::from_millis(500);
/// How long a coordinator that reports that it is opening the session may take to open it.
pub const OPENING_WITHIN: Duration = Duration::from_secs(30);
/// The capacity of the queue to the connection, in messages; completions are batched meanwhile.
const OUTGOING: usize = 4;

/// A connection over which a session is open.
pub(super) struct Link {
    /// The coordinator's address.
    pub address: String,
    /// When the session was opened over it.
    pub opened: Instant,
    /// Messages to the coordinator. `None` once nothing more is sent.
    pub outgoing: Option<mpsc::Sender<AgentMessage>>,
    /// Messages from the coordinator.
    pub incoming: Streaming<CoordinatorMessage>,
    /// Keeps the connection open.
    _client: SessionClient<Channel>,
}

/// A coordinator's answer to a Hello.
pub(super) enum Greeting {
    /// The coordinator leads. Includes the send time that the lease counts from.
    Welcome(Box<Link>, Welcome, Instant),
    /// The coordinator does not lead.
    Redirect(Redirect),
}

/// Why there was no greeting.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error("the coordinator refused the session: {}", .0.message())]
    Refused(Box<Status>),
    #[error("the coordinator can't open a session: {0}")]
    Earlier(&'static str),
    #[error("the coordinator ended the stream without answering Hello")]
    NoAnswer,
    #[error("the coordinator answered Hello with neither Welcome nor Redirect")]
    Unexpected,
    #[error("no answer within {} ms", HELLO_WITHIN.as_millis())]
    TooLate,
    #[error("the coordinator did not open the session within {} s", OPENING_WITHIN.as_secs())]
    OpeningTooLong,
}

impl From<Status> for LinkError {
    fn from(status: Status) -> Self {
        earlier_version(&status).map_or_else(|| Self::Refused(Box::new(status)), Self::Earlier)
    }
}

/// Sends a Hello to the coordinator at `address` and waits for its answer.
pub(super) async fn greet(transport: Transport, address: String, hello: Hello) -> Result<Greeting, LinkError> {
    let greeting = async {
        let mut opened =
            timeout(HELLO_WITHIN, open(&transport, &address, hello)).await.map_err(|_| LinkError::TooLate)??;
        let (answer, sent) = opened.answer().await?;
        match answer {
            coordinator_message::Message::Welcome(welcome) => {
                let Opened { client, outgoing, incoming, .. } = opened;
                let link =
                    Link { address, opened: Instant::now(), outgoing: Some(outgoing), incoming, _client: client };
                Ok(Greeting::Welcome(Box::new(link), welcome, sent))
            }
            coordinator_message::Message::Redirect(redirect) => Ok(Greeting::Redirect(redirect)),
            _ => Err(LinkError::Unexpected),
        }
    };
    timeout(OPENING_WITHIN, greeting).await.unwrap_or(Err(LinkError::OpeningTooLong))
}

/// A stream on which Hello was sent.
struct Opened {
    client: SessionClient<Channel>,
    outgoing: mpsc::Sender<AgentMessage>,
    incoming: Streaming<CoordinatorMessage>,
    hello_sent: Instant,
}

async fn open(transport: &Transport, address: &str, hello: Hello) -> Result<Opened, LinkError> {
    let channel = transport.connect(address, CONNECT_WITHIN).await?;
    let mut client = limited!(SessionClient::new(channel));
    let (outgoing, messages) = mpsc::channel(OUTGOING);
    let hello_sent = Instant::now();
    let hello = AgentMessage { message: Some(agent_message::Message::Hello(hello)) };
    // This can't fail: the receiver is alive and the channel is empty.
    outgoing.try_send(hello).map_err(|_| LinkError::Unexpected)?;
    let incoming = client.open(ReceiverStream::new(messages)).await?.into_inner();
    Ok(Opened { client, outgoing, incoming, hello_sent })
}

impl Opened {
    /// Returns the answer to Hello, and the send time that the lease of a new session counts from. While a coordinator
    /// is opening the session, it reports so periodically; each time the agent answers that it still waits.
    async fn answer(&mut self) -> Result<(coordinator_message::Message, Instant), LinkError> {
        let mut waited: VecDeque<(u64, Instant)> = VecDeque::new();
        let mut silent_from = self.hello_sent + HELLO_WITHIN;
        loop {
            let answer = timeout_at(silent_from, self.incoming.message()).await.map_err(|_| LinkError::TooLate)?;
            let answer = answer?.ok_or(LinkError::NoAnswer)?;
            match answer.message {
                Some(coordinator_message::Message::Opening(opening)) => {
                    let now = Instant::now();
                    silent_from = now + HELLO_WITHIN;
                    let waiting = agent_message::Message::Waiting(Waiting { seq: opening.seq });
                    // If the queue is full, the next Waiting counts instead.
                    if self.outgoing.try_send(AgentMessage { message: Some(waiting) }).is_ok() {
                        if waited.len() == MAX_UNACKNOWLEDGED_HEARTBEATS {
                            waited.pop_front();
                        }
                        waited.push_back((opening.seq, now));
                    }
                }
                Some(answer) => {
                    let seq = match &answer {
                        coordinator_message::Message::Welcome(welcome) => welcome.waited_seq,
                        _ => 0,
                    };
                    let acknowledged = waited.iter().find(|(sent, _)| *sent == seq);
                    return Ok((answer, acknowledged.map_or(self.hello_sent, |(_, sent)| *sent)));
                }
                None => return Err(LinkError::Unexpected),
            }
        }
    }
}
