//! Frames as bytes. What agents mostly send to each other is written and read here without a copy of each text and id;
//! everything else is left to the generated code, which decides what a frame means.

use std::borrow::Borrow;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::{
    Message,
    encoding::{
        DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint, key_len,
        skip_field,
    },
};
use robeing_proto::{codec, message::v1 as proto};

use super::{
    frame::{
        Content, FrameError, MAX_FRAME_COST, MAX_ITEMS, MAX_UNKNOWN, MAX_UNKNOWN_OF_ITEM, credit, items, read_credit,
    },
    outcome::Outcome,
    packet::{MAX_DEADLINE_MS, PROTOCOL_VERSION, Packet, PacketId, Priority, TextField, Texts, check_version},
};

/// The numbers of the fields of a frame.
mod field {
    pub const PACKETS: u32 = 2;
    pub const OUTCOMES: u32 = 3;
    pub const CREDITS: u32 = 4;
}

/// An outcome on the wire up to its id, of 16 bytes, and after it: an acceptance without a reply.
const BEFORE_ID: [u8; 2] = [0x0a, 16];
const ACCEPTED: [u8; 2] = [0x12, 0];
const ACCEPTED_LEN: usize = BEFORE_ID.len() + 16 + ACCEPTED.len();
/// What encodes a packet besides its texts and payload takes fewer bytes than it costs; so do other items.
const ITEM_BYTES: usize = 64;

/// Returns the frame with these packets, each with the time left until its deadline, in milliseconds, and with these
/// outcomes and credits. It is written to a buffer, whose memory is used again once the frame is gone.
pub fn encode<P: Borrow<Packet>>(
    buffer: &mut BytesMut,
    packets: &[(P, u64)],
    outcomes: &[(PacketId, Outcome)],
    credits: &[(Priority, u64)],
) -> Bytes {
    let cost: u64 = packets.iter().map(|(packet, _)| packet.borrow().cost()).sum();
    buffer.reserve(cost as usize + (outcomes.len() + credits.len()) * ITEM_BYTES);
    for (packet, left) in packets {
        let packet = packet.borrow();
        let mut len = Length(0);
        put_packet(&mut len, packet, *left);
        encode_key(field::PACKETS, WireType::LengthDelimited, buffer);
        encode_varint(len.0 as u64, buffer);
        put_packet(buffer, packet, *left);
    }
    for (id, outcome) in outcomes {
        match outcome {
            Outcome::Accepted { reply: None, reply_forgotten: false, reply_is_sealed: false } => {
                encode_key(field::OUTCOMES, WireType::LengthDelimited, buffer);
                encode_varint(ACCEPTED_LEN as u64, buffer);
                buffer.put_slice(&BEFORE_ID);
                buffer.put_u128(id.0);
                buffer.put_slice(&ACCEPTED);
            }
            outcome => prost::encoding::message::encode(field::OUTCOMES, &outcome.to_wire(*id), buffer),
        }
    }
    for (lane, limit) in credits {
        prost::encoding::message::encode(field::CREDITS, &credit(*lane, *limit), buffer);
    }
    buffer.split().freeze()
}

/// Takes the fields of a message in their order.
trait Fields {
    fn bytes(&mut self, tag: u32, bytes: &[u8]);
    fn number(&mut self, tag: u32, number: u64);

    /// A field that is left out if it is empty.
    fn text(&mut self, tag: u32, text: &str) {
        if !text.is_empty() {
            self.bytes(tag, text.as_bytes());
        }
    }
}

impl Fields for BytesMut {
    fn bytes(&mut self, tag: u32, bytes: &[u8]) {
        encode_key(tag, WireType::LengthDelimited, self);
        encode_varint(bytes.len() as u64, self);
        self.put_slice(bytes);
    }

    fn number(&mut self, tag: u32, number: u64) {
        if number != 0 {
            encode_key(tag, WireType::Varint, self);
            encode_varint(number, self);
        }
    }
}

/// Adds up the length of fields.
struct Length(usize);

impl Fields for Length {
    fn bytes(&mut self, tag: u32, bytes: &[u8]) {
        self.0 += key_len(tag) + encoded_len_varint(bytes.len() as u64) + bytes.len();
    }

    fn number(&mut self, tag: u32, number: u64) {
        if number != 0 {
            self.0 += key_len(tag) + encoded_len_varint(number);
        }
    }
}

/// Writes the fields of a packet.
fn put_packet(fields: &mut impl Fields, packet: &Packet, left_ms: u64) {
    fields.bytes(1, &packet.id.0.to_be_bytes());
    fields.number(2, packet.timestamp_ms);
    fields.text(3, &packet.sender);
    fields.text(4, &packet.receiver);
    fields.text(5, &packet.agent);
    fields.text(6, &packet.kind);
    if !packet.payload.is_empty() {
        fields.bytes(7, &packet.payload);
    }
    fields.number(8, packet.priority.get().into());
    fields.number(9, packet.requires_ack.into());
    fields.text(10, PROTOCOL_VERSION);
    fields.number(11, left_ms.clamp(1, MAX_DEADLINE_MS));
    if let Some(id) = packet.reply_to {
        fields.bytes(12, &id.0.to_be_bytes());
    }
    if let Some(id) = &packet.key_id {
        fields.bytes(13, &proto::Sealed { key_id: (**id).into() }.encode_to_vec());
    }
    fields.number(14, packet.seq);
    fields.number(15, packet.resent.into());
}

/// Reads a frame other than the first one. `texts` are those of the frames before.
///
/// # Errors
/// [`FrameError`] if it is no frame, exceeds a limit, or an item can't be attributed to a message.
pub fn read(frame: &Bytes, texts: &mut Texts) -> Result<Content, FrameError> {
    match read_usual(frame, texts) {
        Some(content) => Ok(content),
        None => Content::from_frame(decode(frame)?),
    }
}

/// Decodes a frame.
///
/// # Errors
/// [`FrameError::Unreadable`] if it is none, and [`FrameError::Unknown`] if too much of it belongs to no known field.
pub fn decode(frame: &Bytes) -> Result<proto::Frame, FrameError> {
    let decoded: proto::Frame = codec::decode(frame.clone()).map_err(FrameError::Unreadable)?;
    // What is not known, or is said again, is not in what was decoded.
    let unknown = frame.len().saturating_sub(decoded.encoded_len());
    if unknown > MAX_UNKNOWN + items(&decoded) * MAX_UNKNOWN_OF_ITEM {
        return Err(FrameError::Unknown(unknown));
    }
    Ok(decoded)
}

/// Reads a frame that has nothing but packets, outcomes and credits, all within their limits, and none with unknown or
/// repeated fields. `None`: it is another one.
fn read_usual(frame: &Bytes, texts: &mut Texts) -> Option<Content> {
    let (mut content, mut items, mut cost) = (Content::default(), 0, 0_u64);
    let mut rest = Rest(frame);
    while let Some((tag, value)) = rest.next()? {
        let Value::Bytes(item) = value else { return None };
        items += 1;
        if items > MAX_ITEMS {
            return None;
        }
        match tag {
            field::PACKETS => {
                let packet = read_packet(frame, item, texts)?;
                cost = cost.saturating_add(packet.cost());
                if cost > MAX_FRAME_COST {
                    return None;
                }
                content.packets.push(Ok(packet));
            }
            field::OUTCOMES => content.outcomes.push(read_outcome(frame, item)?),
            field::CREDITS => content.credits.push(read_credit(&whole::<proto::Credit>(item, item.len())?).ok()?),
            _ => return None,
        }
    }
    Some(content)
}

fn read_outcome(frame: &Bytes, item: &[u8]) -> Option<(PacketId, Outcome)> {
    if item.len() == ACCEPTED_LEN && item.starts_with(&BEFORE_ID) && item.ends_with(&ACCEPTED) {
        let id = PacketId::from_bytes(&item[BEFORE_ID.len()..BEFORE_ID.len() + 16]).ok()?;
        return Some((id, Outcome::accepted(None)));
    }
    Outcome::from_wire(whole(frame.slice_ref(item), item.len())?).ok()
}

/// Decodes an item of this length. `None`: it can't be decoded, or has unknown or repeated fields.
fn whole<M: Message + Default>(item: impl Buf, len: usize) -> Option<M> {
    M::decode(item).ok().filter(|decoded| decoded.encoded_len() == len)
}

/// Reads a packet that is within all limits. `None`: it is not, or has unusual fields.
fn read_packet(frame: &Bytes, item: &[u8], texts: &mut Texts) -> Option<Packet> {
    let (mut id, mut version, mut payload): (&[u8], &[u8], &[u8]) = (&[], &[], &[]);
    let (mut timestamp_ms, mut priority, mut requires_ack, mut deadline_in_ms) = (0, 0, false, 0);
    let (mut reply_to, mut seq, mut resent, mut seen) = (None, 0, false, 0_u32);
    let mut rest = Rest(item);
    while let Some((tag, value)) = rest.next()? {
        // A text that is left out is empty, and not that of the packet before.
        let field = 1_u32.checked_shl(tag)?;
        if seen & field != 0 {
            return None;
        }
        seen |= field;
        match (tag, value) {
            (1, Value::Bytes(bytes)) => id = bytes,
            (2, Value::Number(number)) => timestamp_ms = number,
            (3, Value::Bytes(text)) => texts.read(TextField::Sender, text)?,
            (4, Value::Bytes(text)) => texts.read(TextField::Receiver, text)?,
            (5, Value::Bytes(text)) => texts.read(TextField::Agent, text)?,
            (6, Value::Bytes(text)) => texts.read(TextField::Kind, text)?,
            (7, Value::Bytes(bytes)) => payload = bytes,
            (8, Value::Number(number)) => priority = number as u32,
            (9, Value::Number(number)) => requires_ack = number != 0,
            (10, Value::Bytes(text)) => version = text,
            (11, Value::Number(number)) => deadline_in_ms = number,
            (12, Value::Bytes(id)) => reply_to = Some(PacketId::from_bytes(id).ok()?),
            (14, Value::Number(number)) => seq = number,
            (15, Value::Number(number)) => resent = number != 0,
            _ => return None,
        }
    }
    if seen & TEXTS != TEXTS {
        return None;
    }
    if version != PROTOCOL_VERSION.as_bytes() {
        check_version(std::str::from_utf8(version).ok()?).ok()?;
    }
    let [sender, receiver, agent, kind] = texts.get();
    let packet = Packet {
        id: PacketId::from_bytes(id).ok()?,
        timestamp_ms,
        sender,
        receiver,
        agent,
        kind,
        payload: frame.slice_ref(payload),
        priority: Priority::new(priority).ok()?,
        requires_ack,
        deadline_in_ms,
        reply_to,
        key_id: None,
        seq,
        resent,
    };
    texts.validate(&packet).is_ok().then_some(packet)
}

/// The fields of a packet that hold texts which it has in common with others.
const TEXTS: u32 = 1 << 3 | 1 << 4 | 1 << 5 | 1 << 6;

/// The value of a field.
enum Value<'a> {
    Bytes(&'a [u8]),
    Number(u64),
    Other,
}

/// The fields of a message that are not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    /// Returns the number and the value of the next field, if there is one. `None`: it can't be read, or a number in it is
    /// longer than it has to be.
    #[allow(clippy::option_option, reason = "the end is no error")]
    fn next(&mut self) -> Option<Option<(u32, Value<'a>)>> {
        if self.0.is_empty() {
            return Some(None);
        }
        let before = self.0.len();
        let (tag, wire) = decode_key(&mut self.0).ok()?;
        let (value, len) = match wire {
            WireType::Varint => {
                let number = decode_varint(&mut self.0).ok()?;
                (Value::Number(number), encoded_len_varint(number))
            }
            WireType::LengthDelimited => {
                let len = usize::try_from(decode_varint(&mut self.0).ok()?).ok()?;
                let (bytes, rest) = self.0.split_at_checked(len)?;
                self.0 = rest;
                (Value::Bytes(bytes), encoded_len_varint(len as u64) + len)
            }
            other => {
                skip_field(other, tag, &mut self.0, DecodeContext::default()).ok()?;
                return Some(Some((tag, Value::Other)));
            }
        };
        (before - self.0.len() == key_len(tag) + len).then_some(Some((tag, value)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::messaging::{
        packet::{DEFAULT_DEADLINE_MS, MAX_PAYLOAD},
        tests::fixture::packet,
    };

    fn any_packet() -> impl Strategy<Value = Packet> {
        let texts = ("[a-c]{1,2}", "[a-zä]{1,9}", "[a-c]{1,2}", "[a-c]{1,2}");
        let numbers = (any::<u64>(), 1_u32..=10, 1..=MAX_DEADLINE_MS, any::<u64>());
        let options = (any::<bool>(), any::<bool>(), any::<Option<u128>>(), proptest::option::of("[a-z]{1,9}"));
        let payload = proptest::collection::vec(any::<u8>(), 0..300);
        (any::<u128>(), texts, numbers, options, payload).prop_map(|(id, texts, numbers, options, payload)| Packet {
            id: PacketId(id),
            timestamp_ms: numbers.0,
            sender: texts.0.into(),
            receiver: texts.1.into(),
            agent: texts.2.into(),
            kind: texts.3.into(),
            payload: payload.into(),
            priority: Priority::new(numbers.1).unwrap(),
            requires_ack: options.0,
            deadline_in_ms: numbers.2,
            reply_to: options.2.map(PacketId),
            key_id: options.3.map(Into::into),
            seq: numbers.3,
            resent: options.1,
        })
    }

    fn any_outcome() -> impl Strategy<Value = (PacketId, Outcome)> {
        let reply = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..50));
        let outcome = prop_oneof![
            Just(Outcome::accepted(None)),
            (reply, any::<bool>(), any::<bool>()).prop_map(|(reply, reply_forgotten, reply_is_sealed)| {
                Outcome::Accepted { reply: reply.map(Into::into), reply_forgotten, reply_is_sealed }
            }),
            "[a-z]{0,20}".prop_map(Outcome::refused),
            any::<bool>().prop_map(|maybe_handled| Outcome::DeadlinePassed { maybe_handled }),
            "[a-z]{0,20}".prop_map(Outcome::away),
        ];
        (any::<u128>().prop_map(PacketId), outcome)
    }

    fn any_credit() -> impl Strategy<Value = (Priority, u64)> {
        (1_u32..=10, any::<u64>()).prop_map(|(lane, limit)| (Priority::new(lane).unwrap(), limit))
    }

    fn encoded<P: Borrow<Packet>>(
        packets: &[(P, u64)],
        outcomes: &[(PacketId, Outcome)],
        credits: &[(Priority, u64)],
    ) -> Bytes {
        encode(&mut BytesMut::new(), packets, outcomes, credits)
    }

    /// Returns what the generated code reads in a frame.
    fn generated(frame: &Bytes) -> Result<Content, FrameError> {
        Content::from_frame(decode(frame)?)
    }

    proptest! {
        #[test]
        fn the_generated_code_writes_and_reads_the_same(
            packets in proptest::collection::vec(any_packet(), 0..6),
            outcomes in proptest::collection::vec(any_outcome(), 0..6),
            credits in proptest::collection::vec(any_credit(), 0..4),
            changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        ) {
            let sent: Vec<_> = packets.iter().map(|packet| (packet.clone(), packet.deadline_in_ms)).collect();
            let frame = encoded(&sent, &outcomes, &credits);
            let wire = proto::Frame {
                packets: packets.iter().map(|packet| packet.to_wire(packet.deadline_in_ms)).collect(),
                outcomes: outcomes.iter().map(|(id, outcome)| outcome.to_wire(*id)).collect(),
                credits: credits.iter().map(|(lane, limit)| credit(*lane, *limit)).collect(),
                ..proto::Frame::default()
            };
            prop_assert_eq!(&frame, &wire.encode_to_vec());
            let mut texts = Texts::default();
            for _ in 0..2 {
                prop_assert_eq!(read(&frame, &mut texts), generated(&frame));
            }
            // Also what is cut off or changed is read as the generated code reads it, whatever came before.
            let mut changed = frame.to_vec();
            for (at, byte) in changes.iter().filter(|_| !frame.is_empty()) {
                changed[at.index(frame.len())] = *byte;
                let cut = Bytes::copy_from_slice(&changed[..at.index(frame.len())]);
                prop_assert_eq!(read(&cut, &mut texts), generated(&cut));
            }
            let changed = Bytes::from(changed);
            prop_assert_eq!(read(&changed, &mut texts), generated(&changed));
            prop_assert_eq!(read(&frame, &mut texts), generated(&frame));
        }
    }

    #[test]
    fn what_is_usual_is_read_without_the_generated_code() {
        let packets: Vec<_> = (1..=3).map(|id| (packet(id), DEFAULT_DEADLINE_MS)).collect();
        let outcomes = [(PacketId(7), Outcome::accepted(None)), (PacketId(8), Outcome::refused("no"))];
        let frame = encoded(&packets, &outcomes, &[(Priority::default(), 9)]);
        let content = read_usual(&frame, &mut Texts::default()).unwrap();
        assert_eq!((content.packets.len(), content.outcomes.len(), content.credits.len()), (3, 2, 1));
        assert_eq!(content.packets[2], Ok(packet(3)));
    }

    #[test]
    fn a_frame_at_the_limits_is_read_and_one_beyond_is_refused() {
        let frame =
            |outcomes: usize| encoded::<Packet>(&[], &vec![(PacketId(1), Outcome::accepted(None)); outcomes], &[]);
        let read = |frame: &Bytes| read(frame, &mut Texts::default());
        assert_eq!(read(&frame(MAX_ITEMS)).map(|content| content.outcomes.len()), Ok(MAX_ITEMS));
        assert_eq!(read(&frame(MAX_ITEMS + 1)), Err(FrameError::TooMany(MAX_ITEMS + 1)));
        let large = Packet { payload: vec![0; MAX_PAYLOAD].into(), ..packet(1) };
        let frame = |packets: usize| encoded(&vec![(large.clone(), 1); packets], &[], &[]);
        assert!(read(&frame(1)).is_ok());
        assert!(matches!(read(&frame(2)), Err(FrameError::TooLarge(_))));
        let mut noise = frame(1).to_vec();
        noise.truncate(100);
        assert!(matches!(read(&noise.into()), Err(FrameError::Unreadable(_))));
    }

    #[test]
    fn a_frame_with_much_that_is_not_known_is_refused() {
        let field = |tag: u32, len: usize| {
            let mut field = BytesMut::new();
            field.bytes(tag, &vec![0; len]);
            field
        };
        let read = |frame: &[u8]| read(&Bytes::copy_from_slice(frame), &mut Texts::default());
        for item in [encoded(&[(packet(1), 5)], &[], &[]), encoded::<Packet>(&[], &[], &[(Priority::default(), 9)])] {
            let most = MAX_UNKNOWN + MAX_UNKNOWN_OF_ITEM;
            // Its number takes two bytes, and so does its length.
            let unknown = |len: usize| [&item[..], &field(100, len - 4)].concat();
            assert!(read(&unknown(most)).is_ok());
            assert_eq!(read(&unknown(most + 1)), Err(FrameError::Unknown(most + 1)));
        }
        let credit = [&credit(Priority::default(), 9).encode_to_vec()[..], &field(100, 9_000)].concat();
        let outcome = [&Outcome::refused("no").to_wire(PacketId(1)).encode_to_vec()[..], &field(100, 9_000)].concat();
        let packet = [&packet(1).to_wire(5).encode_to_vec()[..], &field(7, 9_000), &field(7, 1)].concat();
        for (tag, item) in [(field::CREDITS, credit), (field::OUTCOMES, outcome), (field::PACKETS, packet)] {
            let mut frame = BytesMut::new();
            frame.bytes(tag, &item);
            assert!(matches!(read(&frame), Err(FrameError::Unknown(_))), "{tag}");
        }
    }

    #[test]
    fn texts_of_one_packet_are_not_taken_for_those_of_the_next() {
        let mut texts = Texts::default();
        let wrong = Packet { kind: "line\nbreak".into(), ..packet(1) };
        let without = Packet { sender: "".into(), ..packet(1) };
        for malformed in [wrong, without] {
            let frame = encoded(&[(malformed, 5)], &[], &[]);
            for _ in 0..2 {
                assert!(read(&frame, &mut texts).unwrap().packets[0].is_err());
            }
            assert_eq!(read(&encoded(&[(packet(1), 5)], &[], &[]), &mut texts).unwrap().packets.len(), 1);
        }
    }
}
