//! How a stream to another agent is opened, and who is at its other end.

use std::{error::Error, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use robeing_net::{CONNECT_TIMEOUT, Transport, gate::Caller, security::Expected};
use robeing_proto::message::{raw::messages_client::MessagesClient, v1::CloseCode};
use tokio::time::timeout;
use tonic::{Code, Extensions, Status, Streaming, transport::Channel};

use super::written::{Outlet, Written};
use crate::messaging::{
    frame::{FrameError, Hello, MAX_FRAME_BYTES},
    routing::{Entry, Role},
    wire,
};

/// How long the other side may take to send Hello.
pub const HELLO_WITHIN: Duration = Duration::from_secs(5);

/// Opens connections to agents.
#[async_trait]
pub trait Connect: Send + Sync + 'static {
    /// Connects to an agent. The channel must lead to a process that has proven to be `to`, by its certificate; over
    /// plaintext nothing is proven.
    ///
    /// # Errors
    /// Why there is no connection, as a human-readable sentence.
    async fn connect(&self, to: &Entry) -> Result<Channel, String>;

    /// Returns whether nothing but TLS is spoken. Then no payload goes unsealed by way of a messenger.
    fn must_seal(&self) -> bool {
        false
    }
}

/// Connects over plaintext. Nothing proves who is at the other end: for loopback and tests alone.
pub struct Plaintext(pub Transport);

#[async_trait]
impl Connect for Plaintext {
    async fn connect(&self, to: &Entry) -> Result<Channel, String> {
        self.0.connect(&to.address, CONNECT_TIMEOUT).await.map_err(|error| error.to_string())
    }
}

/// Connects to agents that prove by a certificate of the fleet that they are who is meant. Over a transport without TLS
/// nothing is proven.
pub struct Certified(pub Transport);

#[async_trait]
impl Connect for Certified {
    async fn connect(&self, to: &Entry) -> Result<Channel, String> {
        let expected = Expected::Agent((*to.name).to_owned());
        self.0.connect_to(&to.address, expected, CONNECT_TIMEOUT).await.map_err(|error| error.to_string())
    }

    fn must_seal(&self) -> bool {
        self.0.tls().is_some_and(|tls| !tls.is_permissive())
    }
}

/// Who is at the other end of a connection, as its certificate proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The agent's name.
    pub name: Arc<str>,
    /// Its role.
    pub role: Role,
}

impl Peer {
    /// Returns the agent that the gate of the listener has admitted, from the extensions of a request; `None`: the
    /// caller is not known to be an agent.
    pub(super) fn proven(extensions: &Extensions) -> Option<Self> {
        let Caller::Member(member) = extensions.get::<Caller>()? else { return None };
        let role = Role::of(member.id.role())?;
        Some(Self { name: member.id.name().into(), role })
    }
}

/// A stream whose Hello has arrived.
pub(super) struct Stream {
    pub hello: Hello,
    pub peer: Peer,
    pub frames: Streaming<Bytes>,
    pub outlet: Outlet,
}

/// Returns whether a stream has failed because the peer sent what is no frame: too large, malformed or cut off. A status
/// that was made from an error of the connection has a source.
pub(super) fn is_unreadable(status: &Status) -> bool {
    match status.code() {
        Code::OutOfRange | Code::InvalidArgument => true,
        Code::Internal => status.source().is_none(),
        _ => false,
    }
}

/// Why a stream could not be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error("{agent:?} can't be reached: {reason}")]
    Unreachable { agent: Arc<str>, reason: String },
    #[error("{agent:?} closed the stream: {reason}")]
    Closed { agent: Arc<str>, code: CloseCode, reason: String },
    #[error("{agent:?} is of an earlier version, which has no messages: upgrade it")]
    Unimplemented { agent: Arc<str> },
    #[error("the stream to {agent:?} did not begin as it must: {source}")]
    Frame { agent: Arc<str>, source: FrameError },
    #[error("at the address of {agent:?} is {found:?} instead; its address may be out of date")]
    WrongAgent { agent: Arc<str>, found: String },
}

/// Opens a stream to an agent and exchanges Hello.
pub(super) async fn open(
    connect: Arc<dyn Connect>,
    to: Arc<Entry>,
    hello: Hello,
    (outlet, written): (Outlet, Written),
) -> Result<Stream, OpenError> {
    let agent = || Arc::clone(&to.name);
    let unreachable = |reason: String| OpenError::Unreachable { agent: agent(), reason };
    let late = |what: &str| unreachable(format!("{what} took more than {} s", HELLO_WITHIN.as_secs()));
    let connected = timeout(HELLO_WITHIN, connect.connect(&to)).await;
    let channel = connected.map_err(|_| late("connecting"))?.map_err(&unreachable)?;
    // Nothing else was said, so there is room.
    outlet.say(&hello.to_frame());
    let greeting = async {
        let client = MessagesClient::new(channel).max_decoding_message_size(MAX_FRAME_BYTES);
        let mut client = client.max_encoding_message_size(MAX_FRAME_BYTES);
        let mut frames = client.exchange(written).await?.into_inner();
        let first = frames.message().await?;
        Ok::<_, Status>((frames, first))
    };
    let greeted = timeout(HELLO_WITHIN, greeting).await.map_err(|_| late("its Hello"))?;
    let (frames, first) = greeted.map_err(|status| match status.code() {
        Code::Unimplemented => OpenError::Unimplemented { agent: agent() },
        _ => unreachable(status.message().to_owned()),
    })?;
    let first = first.ok_or_else(|| unreachable("it ended the stream".to_owned()))?;
    let malformed = |source| OpenError::Frame { agent: agent(), source };
    let first = wire::decode(&first).map_err(malformed)?;
    if let Some(close) = &first.close {
        return Err(OpenError::Closed { agent: agent(), code: close.code(), reason: close.reason.clone() });
    }
    let answer = Hello::from_frame(first).map_err(malformed)?;
    if *answer.agent != *to.name || answer.to != hello.agent || answer.stream != hello.stream {
        return Err(OpenError::WrongAgent { agent: agent(), found: answer.agent });
    }
    let peer = Peer { name: agent(), role: to.role };
    Ok(Stream { hello: answer, peer, frames, outlet })
}
