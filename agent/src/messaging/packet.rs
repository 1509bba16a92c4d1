//! A validated packet, and its form on the wire.

use std::{fmt, str::FromStr, sync::Arc};

use bytes::Bytes;
use robeing_proto::message::v1 as proto;
use uuid::Uuid;

/// The version of the protocol that this build speaks.
pub const PROTOCOL_VERSION: &str = "1.0";
/// The major version; packets of every minor version of it are accepted.
const MAJOR: &str = "1.";
/// Maximum size of a payload, in bytes: 1 MiB.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// How much larger than [`MAX_PAYLOAD`] the payload of a packet may be that carries another one to a messenger, or that
/// is sealed, in bytes.
pub const MAX_ENVELOPE: usize = 64 << 10;
/// Maximum length of a type, in bytes.
pub const MAX_TYPE: usize = 128;
/// Maximum length of an agent's name, in bytes.
pub const MAX_NAME: usize = 253;
/// Maximum length of an address, in bytes: a prefix and a name.
pub const MAX_ADDRESS: usize = MAX_NAME + 16;
/// Maximum length of the id of a key, in bytes.
pub const MAX_KEY_ID: usize = 64;
/// The longest deadline, in milliseconds from sending: 10 minutes.
pub const MAX_DEADLINE_MS: u64 = 600_000;
/// The deadline of a message that has none of its own, in milliseconds.
pub const DEFAULT_DEADLINE_MS: u64 = 30_000;
/// What a packet costs besides the bytes of its payload and texts.
pub const PACKET_COST: u64 = 256;
/// The highest cost of a packet.
pub const MAX_COST: u64 =
    PACKET_COST + (MAX_PAYLOAD + MAX_ENVELOPE + MAX_TYPE + 2 * MAX_NAME + MAX_ADDRESS + MAX_KEY_ID) as u64;
/// The number of priorities, each of which is a lane.
pub const LANES: usize = 10;
/// The type of a packet that a messenger passes on. Only messengers handle it, and users can't send it.
pub const RELAY_TYPE: &str = "robeing.relay.v1";

/// Why a packet is malformed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PacketError {
    /// The id is not a UUID.
    #[error(
        "{0} of the message is not a UUID: give one, as 16 bytes or as text such as 0190163d-8694-739b-aea5-966c26f8ad91"
    )]
    Id(&'static str),
    /// A field is empty or too long.
    #[error("{field} of the message has {len} bytes; it must have {least} to {most}")]
    Length {
        /// The name of the field.
        field: &'static str,
        /// Its length, in bytes.
        len: usize,
        /// The minimum length.
        least: usize,
        /// The maximum length.
        most: usize,
    },
    /// A text contains a control character, which neither a log nor a header can carry.
    #[error("{0} of the message contains a control character, such as a line break; remove it")]
    Control(&'static str),
    /// The priority is out of range.
    #[error("the message has priority {0}; give 1 (lowest) to {LANES} (highest)")]
    Priority(u32),
    /// The deadline is out of range.
    #[error("the message has a deadline in {0} ms; give 1 to {MAX_DEADLINE_MS}")]
    Deadline(u64),
    /// The protocol version is not supported.
    #[error(
        "the message has protocol version {0:?}, but this agent speaks {PROTOCOL_VERSION}; upgrade the older agent"
    )]
    Version(String),
    /// The type is reserved.
    #[error("the type {RELAY_TYPE} is reserved for messengers; choose another")]
    Reserved,
}

/// The id of a packet: a UUID, shown in its usual form.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PacketId(pub u128);

impl PacketId {
    /// Returns a number by which messages are spread over agents that fit equally well: the same for the same id.
    pub fn spread(self) -> u64 {
        (self.0 ^ (self.0 >> 64)) as u64
    }

    /// Returns when an id was created, in Unix milliseconds, if it is a version-7 UUID.
    pub(super) fn created_ms(self) -> u64 {
        (self.0 >> 80) as u64
    }

    /// Returns the id as it is on the wire.
    pub fn to_bytes(self) -> Bytes {
        Bytes::copy_from_slice(&self.0.to_be_bytes())
    }

    /// Reads an id from the wire.
    ///
    /// # Errors
    /// [`PacketError::Id`] if it does not have 16 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, PacketError> {
        bytes.try_into().map(|bytes| Self(u128::from_be_bytes(bytes))).map_err(|_| PacketError::Id("the id"))
    }
}

impl fmt::Display for PacketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_u128(self.0).hyphenated().fmt(f)
    }
}

impl fmt::Debug for PacketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PacketId {
    type Err = PacketError;

    fn from_str(text: &str) -> Result<Self, PacketError> {
        Uuid::try_parse(text).map(|id| Self(id.as_u128())).map_err(|_| PacketError::Id("the id"))
    }
}

/// The priority of a packet, 1 (lowest) to 10 (highest); 5 by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Priority(u8);

const _: () = assert!(Priority::HIGHEST.0 as usize == LANES);

impl Default for Priority {
    fn default() -> Self {
        Self(5)
    }
}

impl Priority {
    /// The highest priority.
    pub const HIGHEST: Self = Self(10);

    /// Returns the priority for a number on the wire, where 0 is the default.
    ///
    /// # Errors
    /// [`PacketError::Priority`] if it is above 10.
    pub fn new(number: u32) -> Result<Self, PacketError> {
        match u8::try_from(number) {
            Ok(0) => Ok(Self::default()),
            Ok(number) if usize::from(number) <= LANES => Ok(Self(number)),
            _ => Err(PacketError::Priority(number)),
        }
    }

    /// Returns the number, 1 to 10.
    pub fn get(self) -> u32 {
        self.0.into()
    }

    /// Returns the index of its lane, 0 to 9.
    pub(super) fn lane(self) -> usize {
        usize::from(self.0) - 1
    }

    /// Returns the priority of a lane, 0 to 9.
    pub(super) fn of_lane(lane: usize) -> Self {
        Self(u8::try_from(lane.min(LANES - 1)).unwrap_or_default() + 1)
    }
}

/// A message from one agent to another, within all limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The id, by which the receiver recognizes a repetition.
    pub id: PacketId,
    /// The time of creation by the sender's clock, in Unix milliseconds.
    pub timestamp_ms: u64,
    /// The name of the agent that the message is from.
    pub sender: Arc<str>,
    /// The address as the sender wrote it.
    pub receiver: Arc<str>,
    /// The name of the agent that the address stood for.
    pub agent: Arc<str>,
    /// What kind of message it is.
    pub kind: Arc<str>,
    /// The payload, sealed if `key_id` is set.
    pub payload: Bytes,
    /// The priority, which is the packet's lane.
    pub priority: Priority,
    /// Whether the sender waits for the outcome.
    pub requires_ack: bool,
    /// The time left until the deadline when the packet was created or received, in milliseconds.
    pub deadline_in_ms: u64,
    /// The packet that this one replies to.
    pub reply_to: Option<PacketId>,
    /// The id of the key that the payload is sealed for; `None`: it is not sealed.
    pub key_id: Option<Arc<str>>,
    /// The sequence number in the lane, set by the outbox.
    pub seq: u64,
    /// Whether the packet may have arrived before.
    pub resent: bool,
}

impl Packet {
    /// Returns the packet's cost, which credits are counted in.
    pub fn cost(&self) -> u64 {
        let texts = self.sender.len() + self.receiver.len() + self.agent.len() + self.kind.len();
        PACKET_COST + (self.payload.len() + texts + self.key_id.as_ref().map_or(0, |id| id.len())) as u64
    }

    /// Checks the limits of all fields.
    ///
    /// # Errors
    /// [`PacketError`] for the first field that violates one.
    pub fn validate(&self) -> Result<(), PacketError> {
        text("sender", &self.sender, 1, MAX_NAME)?;
        text("agent", &self.agent, 1, MAX_NAME)?;
        text("receiver", &self.receiver, 1, MAX_ADDRESS)?;
        text("type", &self.kind, 1, MAX_TYPE)?;
        if let Some(id) = &self.key_id {
            text("key id", id, 1, MAX_KEY_ID)?;
        }
        self.validate_numbers()
    }

    /// Checks the limits of all fields but texts.
    fn validate_numbers(&self) -> Result<(), PacketError> {
        let is_envelope = self.key_id.is_some() || &*self.kind == RELAY_TYPE;
        length("payload", self.payload.len(), 0, MAX_PAYLOAD + if is_envelope { MAX_ENVELOPE } else { 0 })?;
        if !(1..=MAX_DEADLINE_MS).contains(&self.deadline_in_ms) {
            return Err(PacketError::Deadline(self.deadline_in_ms));
        }
        Ok(())
    }

    /// Returns the packet's form on the wire, with the time left until its deadline, in milliseconds.
    pub fn to_wire(&self, left_ms: u64) -> proto::Packet {
        proto::Packet {
            id: self.id.to_bytes(),
            timestamp_ms: self.timestamp_ms,
            sender: (*self.sender).into(),
            receiver: (*self.receiver).into(),
            agent: (*self.agent).into(),
            r#type: (*self.kind).into(),
            payload: self.payload.clone(),
            priority: self.priority.get(),
            requires_ack: self.requires_ack,
            protocol_version: PROTOCOL_VERSION.into(),
            deadline_in_ms: left_ms.clamp(1, MAX_DEADLINE_MS),
            reply_to: self.reply_to.map(PacketId::to_bytes),
            sealed: self.key_id.as_ref().map(|id| proto::Sealed { key_id: (**id).into() }),
            seq: self.seq,
            resent: self.resent,
        }
    }

    /// Reads a packet from the wire.
    ///
    /// # Errors
    /// [`PacketError`] if its version is not supported, or a field violates a limit.
    pub fn from_wire(wire: proto::Packet) -> Result<Self, PacketError> {
        Self::from_wire_after(wire, &mut Texts::default())
    }

    /// Reads a packet from the wire that arrived after others, and shares their texts.
    ///
    /// # Errors
    /// [`PacketError`] if its version is not supported, or a field violates a limit.
    pub fn from_wire_after(wire: proto::Packet, texts: &mut Texts) -> Result<Self, PacketError> {
        check_version(&wire.protocol_version)?;
        texts.are_valid = false;
        let reply_to = match wire.reply_to.as_deref() {
            None | Some([]) => None,
            Some(id) => Some(PacketId::from_bytes(id).map_err(|_| PacketError::Id("reply_to"))?),
        };
        let packet = Self {
            id: PacketId::from_bytes(&wire.id)?,
            timestamp_ms: wire.timestamp_ms,
            sender: shared(&mut texts.sender, wire.sender),
            receiver: shared(&mut texts.receiver, wire.receiver),
            agent: shared(&mut texts.agent, wire.agent),
            kind: shared(&mut texts.kind, wire.r#type),
            payload: wire.payload,
            priority: Priority::new(wire.priority)?,
            requires_ack: wire.requires_ack,
            deadline_in_ms: wire.deadline_in_ms,
            reply_to,
            key_id: wire.sealed.map(|sealed| sealed.key_id.into()),
            seq: wire.seq,
            resent: wire.resent,
        };
        packet.validate()?;
        Ok(packet)
    }
}

/// The texts of the packet before, which the packets of a stream mostly have in common.
#[derive(Debug, Default)]
pub struct Texts {
    /// Whether they are known to be within the limits.
    are_valid: bool,
    sender: Arc<str>,
    receiver: Arc<str>,
    agent: Arc<str>,
    kind: Arc<str>,
}

impl Texts {
    /// Reads the text of a field: it is that of the packet before, or replaces it. `None`: it is no text, or too long, and
    /// not kept.
    pub(super) fn read(&mut self, field: TextField, text: &[u8]) -> Option<()> {
        let (before, most) = match field {
            TextField::Sender => (&mut self.sender, MAX_NAME),
            TextField::Receiver => (&mut self.receiver, MAX_ADDRESS),
            TextField::Agent => (&mut self.agent, MAX_NAME),
            TextField::Kind => (&mut self.kind, MAX_TYPE),
        };
        if before.as_bytes() != text {
            if text.len() > most {
                return None;
            }
            *before = std::str::from_utf8(text).ok()?.into();
            self.are_valid = false;
        }
        Some(())
    }

    /// Returns the texts: sender, receiver, agent and kind.
    pub(super) fn get(&self) -> [Arc<str>; 4] {
        [&self.sender, &self.receiver, &self.agent, &self.kind].map(Arc::clone)
    }

    /// Validates a packet that has these texts. If they were valid before, they are not checked again.
    pub(super) fn validate(&mut self, packet: &Packet) -> Result<(), PacketError> {
        if self.are_valid && packet.key_id.is_none() {
            return packet.validate_numbers();
        }
        packet.validate()?;
        self.are_valid = true;
        Ok(())
    }
}

/// A text that most packets of a stream have in common.
#[derive(Clone, Copy, Debug)]
pub(super) enum TextField {
    Sender,
    Receiver,
    Agent,
    Kind,
}

/// Returns a text, without a copy of its own if it is the same as before.
fn shared(before: &mut Arc<str>, text: String) -> Arc<str> {
    if **before != *text {
        *before = text.into();
    }
    Arc::clone(before)
}

/// Checks that a protocol version is one that this build speaks.
///
/// # Errors
/// [`PacketError::Version`] if its major version differs.
pub fn check_version(version: &str) -> Result<(), PacketError> {
    let minor = version.strip_prefix(MAJOR).filter(|minor| minor.len() <= 4 && minor.parse::<u16>().is_ok());
    let shown = || version.chars().take(MAX_KEY_ID).collect();
    minor.map(drop).ok_or_else(|| PacketError::Version(shown()))
}

fn length(field: &'static str, len: usize, least: usize, most: usize) -> Result<(), PacketError> {
    if (least..=most).contains(&len) { Ok(()) } else { Err(PacketError::Length { field, len, least, most }) }
}

fn text(field: &'static str, text: &str, least: usize, most: usize) -> Result<(), PacketError> {
    length(field, text.len(), least, most)?;
    // Most texts are printable ASCII, which is seen without decoding them.
    let is_plain = text.bytes().all(|byte| (b' '..0x7f).contains(&byte));
    if !is_plain && text.chars().any(char::is_control) { Err(PacketError::Control(field)) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::messaging::tests::fixture::packet;

    /// Checks that a packet with its field set so is accepted, both as it is and from the wire, or refused.
    fn expect(accepted: bool, change: impl Fn(&mut Packet)) {
        let mut packet = packet(1);
        change(&mut packet);
        assert_eq!(packet.validate().is_ok(), accepted, "{:?}", packet.validate());
        let read = Packet::from_wire(packet.to_wire(packet.deadline_in_ms));
        assert!(read.is_ok() == accepted || packet.deadline_in_ms == 0 || packet.deadline_in_ms > MAX_DEADLINE_MS);
    }

    #[test]
    fn every_field_has_its_limit() {
        let of = |len: usize| -> Arc<str> { "x".repeat(len).into() };
        expect(true, |packet| packet.payload = vec![0; MAX_PAYLOAD].into());
        expect(false, |packet| packet.payload = vec![0; MAX_PAYLOAD + 1].into());
        let sealed = |packet: &mut Packet, len| {
            packet.key_id = Some("k".into());
            packet.payload = vec![0; len].into();
        };
        expect(true, |packet| sealed(packet, MAX_PAYLOAD + MAX_ENVELOPE));
        expect(false, |packet| sealed(packet, MAX_PAYLOAD + MAX_ENVELOPE + 1));
        for (len, accepted) in [(0, false), (1, true), (MAX_TYPE, true), (MAX_TYPE + 1, false)] {
            expect(accepted, |packet| packet.kind = of(len));
        }
        for (len, accepted) in [(0, false), (1, true), (MAX_NAME, true), (MAX_NAME + 1, false)] {
            expect(accepted, |packet| packet.sender = of(len));
            expect(accepted, |packet| packet.agent = of(len));
        }
        for (len, accepted) in [(0, false), (MAX_ADDRESS, true), (MAX_ADDRESS + 1, false)] {
            expect(accepted, |packet| packet.receiver = of(len));
        }
        for (len, accepted) in [(0, false), (MAX_KEY_ID, true), (MAX_KEY_ID + 1, false)] {
            expect(accepted, |packet| packet.key_id = Some(of(len)));
        }
        for (ms, accepted) in [(0, false), (1, true), (MAX_DEADLINE_MS, true), (MAX_DEADLINE_MS + 1, false)] {
            expect(accepted, |packet| packet.deadline_in_ms = ms);
        }
        expect(false, |packet| packet.kind = "line\nbreak".into());
        let mut largest = packet(1);
        sealed(&mut largest, MAX_PAYLOAD + MAX_ENVELOPE);
        (largest.sender, largest.agent, largest.kind) = (of(MAX_NAME), of(MAX_NAME), of(MAX_TYPE));
        (largest.receiver, largest.key_id) = (of(MAX_ADDRESS), Some(of(MAX_KEY_ID)));
        assert_eq!((largest.validate(), largest.cost()), (Ok(()), MAX_COST));
    }

    #[test]
    fn a_text_that_is_too_long_is_not_kept() {
        let (name, address) = (MAX_NAME, MAX_ADDRESS);
        let fields = [TextField::Sender, TextField::Receiver, TextField::Agent, TextField::Kind];
        for (index, (field, most)) in fields.into_iter().zip([name, address, name, MAX_TYPE]).enumerate() {
            let (mut texts, long) = (Texts::default(), "x".repeat(most + 1));
            assert_eq!(texts.read(field, &long.as_bytes()[1..]), Some(()));
            assert_eq!(texts.read(field, long.as_bytes()), None);
            assert_eq!(texts.get()[index].len(), most);
        }
    }

    #[test]
    fn priorities_are_one_to_ten_and_five_by_default() {
        assert_eq!(Priority::new(0), Ok(Priority::default()));
        assert_eq!(Priority::default().get(), 5);
        assert_eq!(Priority::new(10).map(Priority::get), Ok(10));
        assert_eq!(Priority::new(11), Err(PacketError::Priority(11)));
        for lane in 0..LANES {
            assert_eq!(Priority::of_lane(lane).lane(), lane);
        }
    }

    #[test]
    fn another_protocol_version_is_refused_with_a_sentence() {
        for (version, accepted) in
            [("1.0", true), ("1.7", true), ("2.0", false), ("", false), ("1", false), ("1.", false), ("1.x", false)]
        {
            assert_eq!(check_version(version).is_ok(), accepted, "{version}");
        }
        let refused = check_version("2.0").unwrap_err().to_string();
        assert_eq!(
            refused,
            "the message has protocol version \"2.0\", but this agent speaks 1.0; upgrade the older agent"
        );
    }

    #[test]
    fn an_id_is_shown_as_a_uuid_and_read_back() {
        let id = PacketId(0x0190_163d_8694_739b_aea5_966c_26f8_ad91);
        assert_eq!(id.to_string(), "0190163d-8694-739b-aea5-966c26f8ad91");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(PacketId::from_bytes(&id.to_bytes()), Ok(id));
        assert!(PacketId::from_bytes(&[0; 15]).is_err() && "x".parse::<PacketId>().is_err());
    }

    proptest! {
        #[test]
        fn a_packet_is_read_back_from_the_wire(
            id: u128, seq: u64, priority in 1_u32..=10, deadline in 1..=MAX_DEADLINE_MS, payload: Vec<u8>,
            reply_to: Option<u128>, is_sealed: bool, resent: bool, requires_ack: bool,
        ) {
            let packet = Packet {
                seq, resent, requires_ack,
                priority: Priority::new(priority).unwrap(),
                payload: payload.into(),
                deadline_in_ms: deadline,
                reply_to: reply_to.map(PacketId),
                key_id: is_sealed.then(|| "k".into()),
                ..packet(id)
            };
            prop_assert_eq!(Packet::from_wire(packet.to_wire(deadline)), Ok(packet));
        }
    }
}
