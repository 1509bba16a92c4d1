//! Frames: what one side of a stream sends at once. Everything that a peer sends passes through here first; a frame
//! within the limits becomes its [`Content`], and any other one ends the stream.

use robeing_proto::message::v1::{self as proto, CloseCode};

use super::{
    inbox::LANE_WINDOW,
    outbox::{BATCH_BYTES, BATCH_PACKETS},
    outcome::{Outcome, reason_of},
    packet::{
        LANES, MAX_COST, MAX_NAME, PACKET_COST, PROTOCOL_VERSION, Packet, PacketError, PacketId, Priority, Texts,
        check_version,
    },
};

/// Maximum number of packets, outcomes and credits of a frame together.
pub const MAX_ITEMS: usize = 4_096;
/// Maximum cost of the packets of a frame, in bytes: 2 MiB.
pub const MAX_FRAME_COST: u64 = 2 << 20;
/// Maximum size of an encoded frame, in bytes: packets and replies of their limits, with what encodes them.
pub const MAX_FRAME_BYTES: usize = 4 << 20;
/// Maximum size of what belongs to no field that this build knows, in bytes, in a frame without packets, outcomes and
/// credits. A later version of the protocol may have more fields.
pub const MAX_UNKNOWN: usize = 4 << 10;
/// How much more of it a frame may have for each packet, outcome and credit, in bytes.
pub const MAX_UNKNOWN_OF_ITEM: usize = 64;
/// Maximum number of outcomes that are put into a frame.
pub const BATCH_OUTCOMES: usize = 1_024;
/// A frame gets no further outcome once the replies in it have this size, in bytes.
pub const BATCH_REPLIES: usize = 512 << 10;

/// Why a frame is not accepted. The stream is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// It has too many items.
    #[error("a frame has {0} items; the most is {MAX_ITEMS}")]
    TooMany(usize),
    /// Its packets are too large.
    #[error("the packets of a frame cost {0} bytes; the most is {MAX_FRAME_COST}")]
    TooLarge(u64),
    /// Much of it belongs to no known field.
    #[error(
        "{0} bytes of a frame belong to no field that this agent knows; the most is {MAX_UNKNOWN}, and \
         {MAX_UNKNOWN_OF_ITEM} for each item; upgrade the older agent"
    )]
    Unknown(usize),
    /// Hello is missing, or comes where it must not.
    #[error("the first frame of each side, and no other, has Hello")]
    Hello,
    /// A field of Hello is missing or too long.
    #[error("Hello is malformed: {0}")]
    BadHello(&'static str),
    /// The version is not supported.
    #[error(transparent)]
    Version(PacketError),
    /// It is no frame.
    #[error("it sent a frame that can't be read: {0}")]
    Unreadable(String),
    /// An item can't be read.
    #[error("a frame is malformed: {0}")]
    Malformed(#[from] PacketError),
}

/// The first thing that each side sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The name of the agent that sends it.
    pub agent: String,
    /// The agent that it means to talk to.
    pub to: String,
    /// Its link to the other agent, in one run of its process: the packets of another one are numbered from 1 again.
    pub incarnation: u64,
    /// Whether that is so. An agent of an earlier version has one incarnation for all links of a run.
    pub is_of_link: bool,
    /// Its memory of handled packets.
    pub journal: u64,
    /// The stream.
    pub stream: u64,
    /// The latest stream that it knows to have ended; 0 if none.
    pub lost: u64,
    /// What it grants to each lane, in bytes of cost.
    pub limits: [u64; LANES],
}

impl Hello {
    /// Returns the frame that carries it.
    pub fn to_frame(&self) -> proto::Frame {
        let limited = self.limits.iter().enumerate().filter(|(_, limit)| **limit != LANE_WINDOW);
        let credits = limited.map(|(lane, limit)| credit(Priority::of_lane(lane), *limit)).collect();
        let hello = proto::Hello {
            agent: self.agent.clone(),
            to: self.to.clone(),
            incarnation: self.incarnation,
            incarnation_of_link: self.is_of_link,
            journal: self.journal,
            stream: self.stream,
            lost: self.lost,
            window: LANE_WINDOW,
            credits,
            protocol_version: PROTOCOL_VERSION.into(),
        };
        proto::Frame { hello: Some(hello), ..proto::Frame::default() }
    }

    /// Reads the first frame of a stream.
    ///
    /// # Errors
    /// [`FrameError`] if it has no Hello, or more than Hello, or Hello is malformed.
    pub fn from_frame(frame: proto::Frame) -> Result<Self, FrameError> {
        let is_alone = items(&frame) == 0 && frame.close.is_none();
        let hello = frame.hello.filter(|_| is_alone).ok_or(FrameError::Hello)?;
        check_version(&hello.protocol_version).map_err(FrameError::Version)?;
        if hello.credits.len() > LANES {
            return Err(FrameError::TooMany(hello.credits.len()));
        }
        for (name, problem) in [(&hello.agent, "agent"), (&hello.to, "to")] {
            if name.is_empty() || name.len() > MAX_NAME {
                return Err(FrameError::BadHello(problem));
            }
        }
        if hello.stream == 0 {
            return Err(FrameError::BadHello("stream"));
        }
        let mut limits = [hello.window; LANES];
        for granted in hello.credits {
            limits[Priority::new(granted.priority)?.lane()] = granted.limit;
        }
        let proto::Hello { agent, to, incarnation, incarnation_of_link, journal, stream, lost, .. } = hello;
        Ok(Self { agent, to, incarnation, is_of_link: incarnation_of_link, journal, stream, lost, limits })
    }
}

/// What a packet that is refused counts for, and who is to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// Its id.
    pub id: PacketId,
    /// Its lane.
    pub priority: Priority,
    /// Its number in the lane.
    pub seq: u64,
    /// Its cost.
    pub cost: u64,
    /// Whether the sender waits for the outcome.
    pub requires_ack: bool,
}

impl Charge {
    /// Returns what a packet counts for.
    pub fn of(packet: &Packet) -> Self {
        let (id, priority, seq, requires_ack) = (packet.id, packet.priority, packet.seq, packet.requires_ack);
        Self { id, priority, seq, cost: packet.cost(), requires_ack }
    }
}

/// A packet that can't be delivered, although its frame is accepted. Its sender gets a refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// What it counts for.
    pub charge: Charge,
    /// What is wrong with it.
    pub error: PacketError,
}

/// What a frame contains.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// The packets, in the order in which they were sent; within each lane, so is what is malformed.
    pub packets: Vec<Result<Packet, Malformed>>,
    /// Outcomes of packets that this side sent.
    pub outcomes: Vec<(PacketId, Outcome)>,
    /// New limits of lanes.
    pub credits: Vec<(Priority, u64)>,
    /// Why the other side closes the stream.
    pub close: Option<(CloseCode, String)>,
}

impl Content {
    /// Reads a frame other than the first one.
    ///
    /// # Errors
    /// [`FrameError`] if it exceeds a limit, or an item can't be attributed to a message.
    pub fn from_frame(frame: proto::Frame) -> Result<Self, FrameError> {
        if frame.hello.is_some() {
            return Err(FrameError::Hello);
        }
        let items = items(&frame);
        if items > MAX_ITEMS {
            return Err(FrameError::TooMany(items));
        }
        let cost = frame.packets.iter().map(wire_cost).fold(0, u64::saturating_add);
        if cost > MAX_FRAME_COST {
            return Err(FrameError::TooLarge(cost));
        }
        let mut texts = Texts::default();
        let close = frame.close.map(|close| (close.code(), reason_of(close.reason)));
        Ok(Self {
            packets: frame.packets.into_iter().map(|wire| read_packet(wire, &mut texts)).collect::<Result<_, _>>()?,
            outcomes: frame.outcomes.into_iter().map(Outcome::from_wire).collect::<Result<_, _>>()?,
            credits: frame.credits.iter().map(read_credit).collect::<Result<_, _>>()?,
            close,
        })
    }
}

/// Returns the frame that closes a stream.
pub fn close(code: CloseCode, reason: impl std::fmt::Display) -> proto::Frame {
    let close = proto::Close { code: code.into(), reason: reason_of(reason) };
    proto::Frame { close: Some(close), ..proto::Frame::default() }
}

/// Returns a credit on the wire.
pub fn credit(priority: Priority, limit: u64) -> proto::Credit {
    proto::Credit { priority: priority.get(), limit }
}

pub(super) fn items(frame: &proto::Frame) -> usize {
    frame.packets.len() + frame.outcomes.len() + frame.credits.len()
}

/// Returns the cost of a packet as its sender counts it.
fn wire_cost(packet: &proto::Packet) -> u64 {
    let texts = packet.sender.len() + packet.receiver.len() + packet.agent.len() + packet.r#type.len();
    let key = packet.sealed.as_ref().map_or(0, |sealed| sealed.key_id.len());
    PACKET_COST + (packet.payload.len() + texts + key) as u64
}

fn read_packet(wire: proto::Packet, texts: &mut Texts) -> Result<Result<Packet, Malformed>, FrameError> {
    let (id, priority) = (PacketId::from_bytes(&wire.id)?, Priority::new(wire.priority)?);
    let charge = Charge { id, priority, seq: wire.seq, cost: wire_cost(&wire), requires_ack: wire.requires_ack };
    Ok(Packet::from_wire_after(wire, texts).map_err(|error| Malformed { charge, error }))
}

pub(super) fn read_credit(credit: &proto::Credit) -> Result<(Priority, u64), FrameError> {
    match credit.priority {
        0 => Err(PacketError::Priority(0).into()),
        priority => Ok((Priority::new(priority)?, credit.limit)),
    }
}

// What an outbox puts into a frame is within the limits.
const _: () = assert!(BATCH_BYTES + MAX_COST <= MAX_FRAME_COST);
const _: () = assert!(BATCH_PACKETS + BATCH_OUTCOMES + LANES <= MAX_ITEMS);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messaging::{
        packet::DEFAULT_DEADLINE_MS,
        tests::fixture::{hello, packet},
    };

    #[test]
    fn hello_is_read_back() {
        let mut said = hello("a", "b", 7);
        assert_eq!(Hello::from_frame(said.to_frame()), Ok(said.clone()));
        said.limits[3] = 5;
        (said.lost, said.is_of_link) = (6, false);
        assert_eq!(Hello::from_frame(said.to_frame()), Ok(said));
    }

    #[test]
    fn a_stream_begins_with_hello_alone() {
        let said = || hello("a", "b", 7).to_frame();
        assert_eq!(Hello::from_frame(proto::Frame::default()), Err(FrameError::Hello));
        let more = proto::Frame { packets: vec![packet(1).to_wire(1)], ..said() };
        assert_eq!(Hello::from_frame(more), Err(FrameError::Hello));
        assert_eq!(Content::from_frame(said()), Err(FrameError::Hello), "a second one");
        let with = |change: fn(&mut proto::Hello)| {
            let mut frame = said();
            frame.hello.as_mut().map(change);
            Hello::from_frame(frame)
        };
        assert_eq!(with(|hello| hello.agent.clear()), Err(FrameError::BadHello("agent")));
        assert_eq!(with(|hello| hello.to = "x".repeat(MAX_NAME + 1)), Err(FrameError::BadHello("to")));
        assert_eq!(with(|hello| hello.stream = 0), Err(FrameError::BadHello("stream")));
        assert!(matches!(with(|hello| hello.protocol_version = "2.0".into()), Err(FrameError::Version(_))));
        assert!(matches!(
            with(|hello| hello.credits = vec![credit(Priority::default(), 1); LANES + 1]),
            Err(FrameError::TooMany(_))
        ));
    }

    #[test]
    fn a_frame_has_limits() {
        let many =
            |count| proto::Frame { credits: vec![credit(Priority::default(), 1); count], ..proto::Frame::default() };
        assert!(Content::from_frame(many(MAX_ITEMS)).is_ok());
        assert_eq!(Content::from_frame(many(MAX_ITEMS + 1)), Err(FrameError::TooMany(MAX_ITEMS + 1)));
        let mut large = packet(1).to_wire(1);
        large.payload = vec![0; 1 << 20].into();
        let large = |count| proto::Frame { packets: vec![large.clone(); count], ..proto::Frame::default() };
        assert!(Content::from_frame(large(1)).is_ok());
        assert!(matches!(Content::from_frame(large(2)), Err(FrameError::TooLarge(_))));
    }

    #[test]
    fn a_packet_that_only_its_sender_got_wrong_is_refused_alone() {
        let mut old = packet(9).to_wire(DEFAULT_DEADLINE_MS);
        old.protocol_version = "2.0".into();
        let good = packet(8).to_wire(DEFAULT_DEADLINE_MS);
        let frame = proto::Frame { packets: vec![old, good], ..proto::Frame::default() };
        let content = Content::from_frame(frame).unwrap();
        let malformed = content.packets[0].as_ref().unwrap_err();
        assert_eq!((malformed.charge.id, malformed.charge.cost), (PacketId(9), packet(9).cost()));
        assert!(malformed.error.to_string().contains("upgrade the older agent"));
        assert_eq!(content.packets[1], Ok(packet(8)));
        for (id, priority) in [(vec![1], 5), (vec![0; 16], 11)] {
            let wrong = proto::Packet { id: id.into(), priority, ..packet(1).to_wire(1) };
            let frame = proto::Frame { packets: vec![wrong], ..proto::Frame::default() };
            assert!(matches!(Content::from_frame(frame), Err(FrameError::Malformed(_))));
        }
    }
}
