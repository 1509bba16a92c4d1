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
/// How long a coordinator that says that it is opening the session has for it.
pub const OPENING_WITHIN: Duration = Duration::from_secs(30);
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
    Refused(Box<Status>),
    #[error("the coordinator can't open a session: {0}")]
    Earlier(&'static str),
    #[error("the coordinator ended the stream without an answer")]
    NoAnswer,
    #[error("the coordinator answered Hello with something else than Welcome or Redirect")]
    Unexpected,
    #[error("no answer within {} ms", HELLO_WITHIN.as_millis())]
    TooLate,
    #[error("the session was not open after {} s", OPENING_WITHIN.as_secs())]
    OpeningTooLong,
}

impl From<Status> for LinkError {
    fn from(status: Status) -> Self {
        earlier_version(&status).map_or_else(|| Self::Refused(Box::new(status)), Self::Earlier)
    }
}

/// Says hello to the coordinator at `address`.
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
    // The receiving end is alive and the channel empty.
    outgoing.try_send(hello).map_err(|_| LinkError::Unexpected)?;
    let incoming = client.open(ReceiverStream::new(messages)).await?.into_inner();
    Ok(Opened { client, outgoing, incoming, hello_sent })
}

impl Opened {
    /// The answer to Hello, and when that was sent which the lease of a new session counts from. A coordinator that is opening
    /// the session says so from time to time; each time it hears that the agent still waits.
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
                    // Without room for it the next one counts.
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
