//! An agent of the fleet whose frames a test makes.

use prost::Message;
use robeing_identity::PeerRole;
use robeing_proto::{
    internal::v1 as session,
    message::v1::{
        CloseCode, Frame, Hello, Packet, PacketOutcome, messages_client::MessagesClient, packet_outcome::Outcome,
    },
    v1::Role,
};
use robeing_tests::{
    raw_call,
    scripted_agent::{HandAgent, hello as session_hello},
    thief::Stolen,
    wait::{eventually, in_time},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming, transport::Channel};

use super::{Scene, VICTIM};

/// The name of the agent.
pub const LIAR: &str = "liar";
/// The version of the protocol.
const VERSION: &str = "1.0";
/// What it grants to its peers in each lane, in bytes of cost.
const WINDOW: u64 = 1 << 20;

/// An agent that is in the fleet, because it has a session, and opens streams to the victim.
pub struct Liar {
    identity: Stolen,
    _session: HandAgent,
}

impl Liar {
    /// Joins the fleet as a guardian, which gets no tasks, and waits until the victim knows it.
    pub async fn join(scene: &Scene) -> Self {
        Self::join_as(scene, PeerRole::Guardian, Role::Guardian).await
    }

    /// Joins the fleet as a messenger, which may pass on what other agents have sent.
    pub async fn join_as_messenger(scene: &Scene) -> Self {
        Self::join_as(scene, PeerRole::Messenger, Role::Messenger).await
    }

    async fn join_as(scene: &Scene, certified: PeerRole, role: Role) -> Self {
        let identity = scene.enrolled((certified, role), LIAR, "").await;
        let said = session::Hello { role: role.into(), ..session_hello(LIAR) };
        let session = HandAgent::open_over(identity.channel(&scene.coordinator), said).await;
        Self { identity, _session: session.expect("a valid Hello") }.again(scene).await
    }

    /// Waits until the victim, which has restarted, knows the liar again.
    pub async fn again(self, scene: &Scene) -> Self {
        eventually("the victim knows the liar", async || {
            LiarStream::open(self.channel(scene), hello(1)).await.map(drop)
        })
        .await;
        self
    }

    /// Returns a channel to the victim.
    pub fn channel(&self, scene: &Scene) -> Channel {
        self.identity.channel_to(VICTIM, &scene.agent)
    }

    /// Opens a stream to the victim, and waits for its Hello. Each stream has a number of its own, above 1.
    pub async fn stream(&self, scene: &Scene, number: u64) -> LiarStream {
        let mut stream = LiarStream::open(self.channel(scene), hello(number)).await.expect("a stream");
        let first = in_time("the victim's Hello", stream.frames.message()).await.expect("a frame").expect("a frame");
        assert_eq!(first.hello.map(|hello| (hello.to, hello.stream)), Some((LIAR.to_owned(), number)));
        stream
    }
}

/// Returns the first frame of a stream, which says that the one before has ended.
pub fn hello(stream: u64) -> Frame {
    let hello = Hello {
        agent: LIAR.into(),
        to: VICTIM.into(),
        incarnation: 1,
        incarnation_of_link: false,
        journal: 2,
        stream,
        lost: stream - 1,
        window: WINDOW,
        credits: Vec::new(),
        protocol_version: VERSION.into(),
    };
    Frame { hello: Some(hello), ..Frame::default() }
}

/// Returns a packet with this id, for the victim.
pub fn packet(id: u8, seq: u64, payload: &str) -> Packet {
    Packet {
        id: vec![id; 16].into(),
        sender: LIAR.into(),
        receiver: VICTIM.into(),
        agent: VICTIM.into(),
        r#type: "test".into(),
        payload: payload.to_owned().into(),
        priority: 5,
        requires_ack: true,
        protocol_version: VERSION.into(),
        deadline_in_ms: 30_000,
        seq,
        ..Packet::default()
    }
}

/// Returns a frame with these packets.
pub fn frame(packets: Vec<Packet>) -> Frame {
    Frame { packets, ..Frame::default() }
}

/// Returns a frame as it is in the body of a call.
pub fn encoded(frame: &Frame) -> bytes::Bytes {
    raw_call::framed(&frame.encode_to_vec())
}

/// A stream of the liar to the victim.
pub struct LiarStream {
    outgoing: mpsc::Sender<Frame>,
    frames: Streaming<Frame>,
}

impl LiarStream {
    /// Opens a stream with this first frame.
    pub async fn open(channel: Channel, first: Frame) -> Result<Self, Status> {
        let (outgoing, said) = mpsc::channel(64);
        outgoing.send(first).await.expect("there is room");
        let frames = in_time("an answer", MessagesClient::new(channel).exchange(ReceiverStream::new(said))).await?;
        Ok(Self { outgoing, frames: frames.into_inner() })
    }

    /// Sends a frame. The victim may have closed the stream.
    pub async fn say(&self, frame: Frame) {
        let _ = self.outgoing.send(frame).await;
    }

    /// Sends a packet, and returns what became of it.
    pub async fn send(&mut self, packet: Packet) -> Outcome {
        let id = packet.id.clone();
        self.say(frame(vec![packet])).await;
        loop {
            let frame = in_time("an outcome", self.frames.message()).await.expect("the stream is open");
            let outcomes = frame.expect("the stream is open").outcomes;
            let of_packet = |outcome: PacketOutcome| (outcome.id == id).then_some(outcome.outcome);
            if let Some(outcome) = outcomes.into_iter().find_map(of_packet) {
                return outcome.expect("an outcome");
            }
        }
    }

    /// Waits for the end of the stream. Returns the code with which the victim has closed it, if it told one.
    pub async fn end(mut self) -> Option<CloseCode> {
        loop {
            match in_time("the end of the stream", self.frames.message()).await {
                Ok(Some(Frame { close: Some(close), .. })) => return Some(close.code()),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return None,
            }
        }
    }
}
