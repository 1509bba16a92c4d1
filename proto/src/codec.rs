//! The codec of all services: protobuf that refuses a message with very many parts before decoding it. A part is one
//! occurrence of a field at the top level of the message, such as one item of a repeated field, or a subtask that an attempt
//! asks for. An empty part takes two bytes in a message and hundreds in memory, so a message within its limit in bytes could
//! take a hundred times that in memory.

use std::{
    any::{Any, TypeId},
    marker::PhantomData,
};

use bytes::{Buf, BufMut, Bytes};
use prost::{Message, encoding::WireType};
use tonic::{
    Status,
    codec::{BufferSettings, Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::{internal::v1 as internal, v1, worker::v1 as worker};

/// The maximum number of parts of a message: more than any valid message has.
pub const MAX_PARTS: usize = 20_000;
/// A message of at most this many bytes cannot have too many parts, so its parts are not counted.
const UNCOUNTED_BYTES: usize = 4 * 1024;

/// A codec for protobuf messages of at most [`MAX_PARTS`] parts.
#[derive(Debug, Clone)]
pub struct BoundedCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for BoundedCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for BoundedCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = BoundedEncoder<T>;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        BoundedEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(PhantomData)
    }
}

/// A codec for a server whose responses are encoded already, such as one that is sent to many. Requests are read as by
/// [`BoundedCodec`].
#[derive(Debug, Clone)]
pub struct EncodedCodec<U>(PhantomData<U>);

impl<U> Default for EncodedCodec<U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<U> Codec for EncodedCodec<U>
where
    U: Message + Default + Send + 'static,
{
    type Encode = Bytes;
    type Decode = U;
    type Encoder = EncodedEncoder;
    type Decoder = BoundedDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        EncodedEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        BoundedDecoder(PhantomData)
    }
}

/// The encoder of [`EncodedCodec`] and [`RawCodec`].
#[derive(Debug, Clone)]
pub struct EncodedEncoder;

impl Encoder for EncodedEncoder {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// A codec for messages that both sides encode and read themselves.
#[derive(Debug, Clone, Default)]
pub struct RawCodec;

impl Codec for RawCodec {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = EncodedEncoder;
    type Decoder = RawDecoder;

    fn encoder(&mut self) -> Self::Encoder {
        EncodedEncoder
    }

    fn decoder(&mut self) -> Self::Decoder {
        RawDecoder
    }
}

/// The decoder of [`RawCodec`], which returns messages as they arrive, without a copy.
#[derive(Debug, Clone)]
pub struct RawDecoder;

impl Decoder for RawDecoder {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// The encoder of [`BoundedCodec`].
#[derive(Debug, Clone)]
pub struct BoundedEncoder<T>(PhantomData<T>);

impl<T: Message> Encoder for BoundedEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // The buffer grows as needed, so the size of the message is not computed first.
        item.encode_raw(buffer);
        Ok(())
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// The decoder of [`BoundedCodec`].
#[derive(Debug, Clone)]
pub struct BoundedDecoder<U>(PhantomData<U>);

impl<U: Message + Default + 'static> Decoder for BoundedDecoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        let mut count = 0;
        if buffer.remaining() > UNCOUNTED_BYTES {
            let encoded = buffer.chunk();
            count = parts(encoded, is_envelope::<U>());
            if count > MAX_PARTS || parts_in(encoded, deep_in::<U>()) > MAX_PARTS {
                return Err(Status::invalid_argument(format!("a message of more than {MAX_PARTS} parts; split it")));
            }
        }
        let mut message = with_room::<U>(count);
        message.merge(buffer).map_err(|error| Status::internal(error.to_string()))?;
        Ok(Some(message))
    }

    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::default()
    }
}

/// Decodes a message that came by other ways than gRPC, by the same rules.
///
/// # Errors
/// What is wrong with it, as a sentence.
pub fn decode<M: Message + Default + 'static>(message: Bytes) -> Result<M, String> {
    check_parts(&message)?;
    M::decode(message).map_err(|error| error.to_string())
}

/// Checks that an encoded message of the public API has at most [`MAX_PARTS`] parts.
///
/// # Errors
/// A sentence, if it has more.
pub fn check_parts(message: &[u8]) -> Result<(), String> {
    match parts(message, false) > MAX_PARTS {
        true => Err(format!("a message of more than {MAX_PARTS} parts; split it")),
        false => Ok(()),
    }
}

/// Returns whether this message type only wraps other messages, whose parts are counted too.
fn is_envelope<U: 'static>() -> bool {
    [TypeId::of::<internal::AgentMessage>(), TypeId::of::<internal::CoordinatorMessage>()].contains(&TypeId::of::<U>())
}

/// Returns where this message type has parts that count although they are far below its top level, such as the subtasks that
/// an attempt asks for: the numbers of the fields that lead to each message with such, from the outermost on.
fn deep_in<U: 'static>() -> &'static [&'static [u64]] {
    if TypeId::of::<U>() == TypeId::of::<internal::AgentMessage>() {
        // AgentMessage.completions, Completions.completions, Completion.suspended
        &[&[3, 1, 60]]
    } else if TypeId::of::<U>() == TypeId::of::<worker::FromProcess>() {
        // FromProcess.result, TaskResult.suspend; FromProcess.batch; and in it FromProcessBatch.results, TaskResult.suspend
        &[&[2, 60], &[82], &[82, 3, 60]]
    } else {
        &[]
    }
}

/// Returns an empty message to read one of so many parts into. Tasks are large, so there is room for all of them at once.
fn with_room<U: Default + 'static>(parts: usize) -> U {
    let mut message = U::default();
    let any: &mut dyn Any = &mut message;
    if let Some(request) = any.downcast_mut::<v1::SubmitStreamRequest>() {
        request.tasks.reserve_exact(parts);
    } else if let Some(request) = any.downcast_mut::<v1::SubmitRequest>() {
        request.tasks.reserve_exact(parts);
    }
    message
}

/// Takes the next field off an encoded message. Returns its key, and its content if that has a length. `None` if it is
/// malformed.
fn take_field<'a>(message: &mut &'a [u8]) -> Option<(u64, &'a [u8])> {
    let key = prost::encoding::decode_varint(message).ok()?;
    let length = match WireType::try_from(key & 7).ok()? {
        WireType::Varint => prost::encoding::decode_varint(message).map(|_| 0).ok()?,
        WireType::SixtyFourBit => 8,
        WireType::ThirtyTwoBit => 4,
        WireType::LengthDelimited => prost::encoding::decode_varint(message).ok()?,
        WireType::StartGroup | WireType::EndGroup => 0,
    };
    let (content, rest) = message.split_at_checked(usize::try_from(length).ok()?)?;
    *message = rest;
    Some((key, content))
}

/// Counts the parts of an encoded message, and the parts of those if it is an `envelope`; stops at one more than
/// [`MAX_PARTS`]. Malformed input ends the count, because decoding fails at the same place.
fn parts(mut message: &[u8], envelope: bool) -> usize {
    let mut count = 0;
    while !message.is_empty() && count <= MAX_PARTS {
        count += 1;
        let Some((key, part)) = take_field(&mut message) else { break };
        if envelope && key & 7 == WireType::LengthDelimited as u64 {
            count = (count + parts(part, false)).min(MAX_PARTS + 1);
        }
    }
    count
}

/// Counts the parts of the messages that each of these paths leads to, to one more than [`MAX_PARTS`].
fn parts_in(message: &[u8], paths: &[&[u64]]) -> usize {
    let may_lead = |path: &&&[u64]| path.iter().all(|field| may_have(message, *field));
    paths.iter().filter(may_lead).map(|path| parts_within(message, path)).sum::<usize>().min(MAX_PARTS + 1)
}

/// Returns whether a message may have this field somewhere, of messages or texts. A key that takes several bytes has the same
/// first byte however long it is, and few plain messages have that byte: it is in no ASCII text.
fn may_have(message: &[u8], field: u64) -> bool {
    let key = field << 3 | WireType::LengthDelimited as u64;
    key < 0x80 || message.contains(&(key as u8 | 0x80))
}

/// Counts the parts of the messages that these fields lead to, from the outermost on, as [`parts`] does; none if there
/// are no fields.
fn parts_within(mut message: &[u8], fields: &[u64]) -> usize {
    let Some((field, inner)) = fields.split_first() else { return 0 };
    let mut count = 0;
    while !message.is_empty() && count <= MAX_PARTS {
        let Some((key, part)) = take_field(&mut message) else { break };
        if key == *field << 3 | WireType::LengthDelimited as u64 {
            count += if inner.is_empty() { parts(part, false) } else { parts_within(part, inner) };
        }
    }
    count.min(MAX_PARTS + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn submission(tasks: usize) -> Vec<u8> {
        v1::SubmitRequest { tasks: vec![v1::TaskSpec::default(); tasks] }.encode_to_vec()
    }

    #[test]
    fn the_parts_of_a_message_are_counted_to_the_limit() {
        assert_eq!(parts(&[], false), 0);
        assert_eq!(parts(&submission(1_000), false), 1_000);
        assert_eq!(parts(&submission(MAX_PARTS), false), MAX_PARTS);
        assert_eq!(parts(&submission(1_000_000), false), MAX_PARTS + 1);
        let spec =
            v1::TaskSpec { kind: "kind".into(), input: vec![7; 100_000].into(), priority: 3, ..Default::default() };
        assert_eq!(parts(&spec.encode_to_vec(), false), 3, "what is in a part does not count");
    }

    #[test]
    fn a_message_that_came_another_way_has_the_same_limit() {
        let decoded = |tasks| decode::<v1::SubmitRequest>(submission(tasks).into()).map(|request| request.tasks.len());
        assert_eq!(decoded(MAX_PARTS), Ok(MAX_PARTS));
        assert!(decoded(MAX_PARTS + 1).is_err());
        assert!(decode::<v1::SubmitRequest>(Bytes::from_static(&[0xff])).is_err());
    }

    #[test]
    fn in_an_envelope_the_parts_of_the_message_in_it_count() {
        let held = vec![internal::AttemptRef::default(); 30_000];
        let hello = internal::Hello { name: "a".into(), held, ..Default::default() };
        let message =
            internal::AgentMessage { message: Some(internal::agent_message::Message::Hello(hello)) }.encode_to_vec();
        assert_eq!(parts(&message, false), 1);
        assert_eq!(parts(&message, true), MAX_PARTS + 1);
        assert!(is_envelope::<internal::AgentMessage>() && !is_envelope::<v1::SubmitRequest>());
    }

    #[test]
    fn the_subtasks_that_attempts_ask_for_count_however_deep_they_are() {
        let agent = |subtasks: &[usize]| {
            let completion = |count: &usize| {
                let subtasks = vec![v1::TaskSpec::default(); *count];
                let asked = internal::Suspended { subtasks, ..internal::Suspended::default() };
                let outcome = Some(internal::completion::Outcome::Suspended(asked));
                internal::Completion { task_id: "t".into(), outcome, ..internal::Completion::default() }
            };
            let completions = internal::Completions { completions: subtasks.iter().map(completion).collect() };
            let message = Some(internal::agent_message::Message::Completions(completions));
            internal::AgentMessage { message }.encode_to_vec()
        };
        let in_agents = deep_in::<internal::AgentMessage>();
        assert_eq!(parts_in(&agent(&[3, 0, 4]), in_agents), 7);
        assert_eq!(parts_in(&agent(&[MAX_PARTS / 2, MAX_PARTS / 2]), in_agents), MAX_PARTS);
        assert_eq!(parts_in(&agent(&[MAX_PARTS, 1]), in_agents), MAX_PARTS + 1);
        let subtasks = vec![worker::Subtask::default(); MAX_PARTS + 1];
        let asked = worker::task_result::Outcome::Suspend(worker::Suspend { subtasks, ..worker::Suspend::default() });
        let result = worker::TaskResult { outcome: Some(asked), ..worker::TaskResult::default() };
        let message = Some(worker::from_process::Message::Result(result));
        let sent = worker::FromProcess { message }.encode_to_vec();
        assert_eq!(parts_in(&sent, deep_in::<worker::FromProcess>()), MAX_PARTS + 1);
        let output = internal::completion::Outcome::Output(vec![0; 100_000].into());
        let completion = internal::Completion { outcome: Some(output), ..internal::Completion::default() };
        let completions = internal::Completions { completions: vec![completion] };
        let message = Some(internal::agent_message::Message::Completions(completions));
        let plain = internal::AgentMessage { message }.encode_to_vec();
        assert_eq!(parts_in(&plain, in_agents), 0, "what an output has in it does not count");
        assert!(deep_in::<v1::SubmitRequest>().is_empty() && parts_within(&plain, &[]) == 0);
        for cut in 0..sent.len().min(1_000) {
            assert!(parts_in(&sent[..cut], deep_in::<worker::FromProcess>()) <= MAX_PARTS + 1);
        }
    }

    #[test]
    fn the_messages_of_a_batch_of_a_process_count_and_the_subtasks_in_them() {
        let counted = |results: Vec<worker::TaskResult>| {
            let batch = worker::FromProcessBatch { results, ..worker::FromProcessBatch::default() };
            let message = Some(worker::from_process::Message::Batch(batch));
            parts_in(&worker::FromProcess { message }.encode_to_vec(), deep_in::<worker::FromProcess>())
        };
        assert_eq!(counted(vec![worker::TaskResult::default(); MAX_PARTS]), MAX_PARTS);
        assert_eq!(counted(vec![worker::TaskResult::default(); MAX_PARTS + 1]), MAX_PARTS + 1);
        let asking = |subtasks| {
            let subtasks = vec![worker::Subtask::default(); subtasks];
            let asked = worker::Suspend { subtasks, ..worker::Suspend::default() };
            let outcome = Some(worker::task_result::Outcome::Suspend(asked));
            worker::TaskResult { outcome, ..worker::TaskResult::default() }
        };
        assert_eq!(counted(vec![asking(3), asking(4)]), 2 + 3 + 4);
        assert_eq!(counted(vec![asking(MAX_PARTS / 2), asking(MAX_PARTS / 2)]), MAX_PARTS + 1);
    }

    #[test]
    fn a_field_whose_key_is_longer_than_it_needs_to_be_is_counted_too() {
        // FromProcess.batch (82), in three bytes instead of two, with two empty parts.
        let message = [0x92, 0x85, 0x00, 4, 0x0a, 0, 0x0a, 0];
        assert_eq!(parts_in(&message, deep_in::<worker::FromProcess>()), 2);
        assert!(!may_have(&[0x0a, 1, b'a'], 82) && may_have(&[], 1) && may_have(&message, 82));
    }

    #[test]
    fn there_is_room_for_all_tasks_of_a_request_before_they_are_read() {
        assert_eq!(with_room::<v1::SubmitStreamRequest>(7).tasks.capacity(), 7);
        assert_eq!(with_room::<v1::SubmitRequest>(MAX_PARTS).tasks.capacity(), MAX_PARTS);
        assert_eq!(with_room::<v1::SubmitRequest>(0).tasks.capacity(), 0);
    }

    #[test]
    fn what_is_malformed_ends_the_count() {
        let whole = submission(10);
        for cut in 0..whole.len() {
            assert!(parts(&whole[..cut], true) <= 10);
        }
        assert_eq!(parts(&[0xff; 100], false), 1);
        assert_eq!(parts(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f], false), 1, "a part that is said to be longer than all");
    }
}
