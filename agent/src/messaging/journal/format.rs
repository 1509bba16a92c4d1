//! The file of a journal: a header, and frames of records. Pure.
//!
//! ```text
//! file:   header | frame … | zero …
//! header: magic u64 | journal id u64 | crc32c of both u32 | zero u32
//! frame:  magic u32 | body length u32 | number u64 | crc32c u32 | zero u32 | body …
//! record: sender length u16 | sender | packet id u128 | outcome u8 | text length u32 | text or reply …
//! ```
//!
//! A frame's checksum covers the journal's id, the frame's number and its body, so neither a torn write nor what an
//! earlier journal left passes for a frame. All integers are little-endian.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::messaging::{
    memory::KEPT_REPLY,
    outcome::{MAX_REASON, Outcome},
    packet::{MAX_NAME, PacketId},
};

/// Bytes of the header of a file.
pub const FILE_HEADER: usize = 24;
/// Bytes of the header of a frame.
pub const FRAME_HEADER: usize = 24;
/// Maximum length of the body of a frame, in bytes.
pub const MAX_BODY: usize = 16 << 20;
const FILE_MAGIC: u64 = u64::from_le_bytes(*b"RBMSGJ01");
const FRAME_MAGIC: u32 = u32::from_le_bytes(*b"RBM1");

/// The outcome of one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The packet's sender.
    pub sender: Arc<str>,
    /// The packet.
    pub id: PacketId,
    /// What became of it.
    pub outcome: Outcome,
}

/// What a file contains.
#[derive(Debug, PartialEq, Eq)]
pub struct Content {
    /// The journal's id.
    pub journal: u64,
    /// The records, oldest first.
    pub records: Vec<Record>,
    /// The number of the next frame.
    pub next: u64,
    /// Where the whole frames end.
    pub end: usize,
    /// Whether only zeros follow, with which a file is extended before more is written. Anything else was torn by a
    /// crash, or is damaged.
    pub is_whole: bool,
}

/// Returns the header of the file of a journal with this id.
pub fn header(journal: u64) -> Bytes {
    let mut header = BytesMut::with_capacity(FILE_HEADER);
    header.put_u64_le(FILE_MAGIC);
    header.put_u64_le(journal);
    header.put_u32_le(crc32c::crc32c(&header[..16]));
    header.put_u32_le(0);
    header.freeze()
}

/// Returns a frame of these records.
pub fn frame<'a>(journal: u64, number: u64, records: impl IntoIterator<Item = &'a Record>) -> Bytes {
    let mut frame = BytesMut::zeroed(FRAME_HEADER);
    for record in records {
        put(&mut frame, record);
    }
    let checksum = checksum(journal, number, &frame[FRAME_HEADER..]);
    let len = (frame.len() - FRAME_HEADER) as u32;
    let mut head = &mut frame[..FRAME_HEADER];
    head.put_u32_le(FRAME_MAGIC);
    head.put_u32_le(len);
    head.put_u64_le(number);
    head.put_u32_le(checksum);
    frame.freeze()
}

/// Returns the bytes that a record takes in a frame.
pub fn len(record: &Record) -> usize {
    2 + record.sender.len() + 16 + 1 + 4 + detail(&record.outcome).1.len()
}

/// Reads a file. `None`: its header is not that of a journal.
pub fn read(file: &Bytes) -> Option<Content> {
    let head = file.get(..FILE_HEADER)?;
    let (mut fields, sum) = (&head[..16], &head[16..]);
    if fields.get_u64_le() != FILE_MAGIC || sum[..4] != crc32c::crc32c(&head[..16]).to_le_bytes() {
        return None;
    }
    let mut content =
        Content { journal: fields.get_u64_le(), records: Vec::new(), next: 1, end: FILE_HEADER, is_whole: false };
    while let Some(body) = body_at(content.journal, content.next, file, content.end) {
        let end = content.end + FRAME_HEADER + body.len();
        let Some(records) = read_records(body) else { break };
        content.records.extend(records);
        (content.next, content.end) = (content.next + 1, end);
    }
    content.is_whole = file[content.end..].iter().all(|byte| *byte == 0);
    Some(content)
}

fn checksum(journal: u64, number: u64, body: &[u8]) -> u32 {
    let mut place = [0; 16];
    place[..8].copy_from_slice(&journal.to_le_bytes());
    place[8..].copy_from_slice(&number.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&place), body)
}

fn body_at(journal: u64, number: u64, file: &Bytes, at: usize) -> Option<Bytes> {
    let mut head = file.get(at..at + FRAME_HEADER)?;
    let (magic, len) = (head.get_u32_le(), head.get_u32_le() as usize);
    let (found, sum, zero) = (head.get_u64_le(), head.get_u32_le(), head.get_u32_le());
    if magic != FRAME_MAGIC || found != number || zero != 0 || len > MAX_BODY {
        return None;
    }
    let start = at + FRAME_HEADER;
    let body = file.get(start..start + len)?;
    (checksum(journal, number, body) == sum).then(|| file.slice(start..start + len))
}

/// Returns the code of an outcome, and the text or reply that goes with it. An outcome with which nothing was handled
/// is never recorded; it is written as a refusal all the same.
fn detail(outcome: &Outcome) -> (u8, &[u8]) {
    match outcome {
        Outcome::Accepted { reply: Some(reply), .. } if reply.len() <= KEPT_REPLY => (1, reply),
        Outcome::Accepted { reply: None, reply_forgotten: false, .. } => (0, &[]),
        Outcome::Accepted { .. } => (2, &[]),
        Outcome::Sent => (4, &[]),
        Outcome::DeadlinePassed { .. } => (5, &[]),
        Outcome::Refused { reason }
        | Outcome::NoSuchAgent { reason }
        | Outcome::Away { reason }
        | Outcome::Overloaded { reason } => (3, reason.as_bytes()),
    }
}

fn put(buffer: &mut BytesMut, record: &Record) {
    let (code, detail) = detail(&record.outcome);
    buffer.put_u16_le(record.sender.len() as u16);
    buffer.put_slice(record.sender.as_bytes());
    buffer.put_u128_le(record.id.0);
    buffer.put_u8(code);
    buffer.put_u32_le(detail.len() as u32);
    buffer.put_slice(detail);
}

fn read_records(mut body: Bytes) -> Option<Vec<Record>> {
    let mut records = Vec::new();
    while body.has_remaining() {
        records.push(read_record(&mut body)?);
    }
    Some(records)
}

fn take(body: &mut Bytes, len: usize, most: usize) -> Option<Bytes> {
    (len <= most && len <= body.len()).then(|| body.split_to(len))
}

fn text(body: &mut Bytes, len: usize, most: usize) -> Option<String> {
    String::from_utf8(take(body, len, most)?.into()).ok()
}

fn read_record(body: &mut Bytes) -> Option<Record> {
    let len = body.try_get_u16_le().ok()?.into();
    let sender = text(body, len, MAX_NAME)?.into();
    let id = PacketId(body.try_get_u128_le().ok()?);
    let (code, len) = (body.try_get_u8().ok()?, body.try_get_u32_le().ok()? as usize);
    let outcome = match code {
        0 => Outcome::accepted(None),
        // A copy, so that a small reply does not keep the whole file in memory.
        1 => Outcome::accepted(Some(Bytes::copy_from_slice(&take(body, len, KEPT_REPLY)?))),
        2 => Outcome::reply_forgotten(),
        3 => Outcome::Refused { reason: text(body, len, MAX_REASON)? },
        4 => Outcome::Sent,
        5 => Outcome::DeadlinePassed { maybe_handled: true },
        _ => return None,
    };
    Some(Record { sender, id, outcome })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::messaging::tests::fixture::record;

    fn any_record() -> impl Strategy<Value = Record> {
        let outcome = prop_oneof![
            Just(Outcome::accepted(None)),
            proptest::collection::vec(any::<u8>(), 0..50).prop_map(|reply| Outcome::accepted(Some(reply.into()))),
            Just(Outcome::reply_forgotten()),
            "[a-z]{0,50}".prop_map(|reason| Outcome::Refused { reason }),
            Just(Outcome::Sent),
        ];
        ("[a-z]{1,20}", any::<u128>(), outcome).prop_map(|(sender, id, outcome)| Record {
            sender: sender.into(),
            id: PacketId(id),
            outcome,
        })
    }

    fn file(frames: &[Vec<Record>]) -> Bytes {
        let mut file = header(7).to_vec();
        for (index, records) in frames.iter().enumerate() {
            file.extend(frame(7, index as u64 + 1, records));
        }
        file.into()
    }

    #[test]
    fn a_file_cut_or_changed_anywhere_keeps_the_frames_before() {
        let frames = [vec![record(1)], vec![record(2), record(3)]];
        let whole = file(&frames);
        let second = FILE_HEADER + FRAME_HEADER + len(&record(1));
        let kept = |at: usize| if at < second { 0 } else { 1 };
        for cut in FILE_HEADER..whole.len() {
            let read = read(&whole.slice(..cut)).unwrap();
            assert_eq!(read.records.len(), kept(cut), "cut at {cut}");
        }
        for byte in FILE_HEADER..whole.len() {
            let mut changed = whole.to_vec();
            changed[byte] ^= 1;
            assert_eq!(read(&changed.into()).unwrap().records.len(), kept(byte), "changed at {byte}");
        }
        for byte in 0..20 {
            let mut changed = whole.to_vec();
            changed[byte] ^= 1;
            assert_eq!(read(&changed.into()), None, "a changed header");
        }
    }

    #[test]
    fn a_frame_of_another_journal_or_place_is_none() {
        for (journal, number) in [(8, 1), (7, 2)] {
            let mut file = header(7).to_vec();
            file.extend(frame(journal, number, &[record(1)]));
            assert_eq!(read(&file.into()).unwrap().end, FILE_HEADER);
        }
    }

    #[test]
    fn a_reply_that_is_too_large_to_keep_is_forgotten() {
        for (len, kept) in [(KEPT_REPLY, true), (KEPT_REPLY + 1, false)] {
            let record = Record { outcome: Outcome::accepted(Some(vec![0; len].into())), ..record(1) };
            let read = read(&file(&[vec![record]])).unwrap();
            let Outcome::Accepted { reply, reply_forgotten, .. } = &read.records[0].outcome else { panic!("accepted") };
            assert_eq!((reply.is_some(), *reply_forgotten), (kept, !kept));
        }
    }

    proptest! {
        #[test]
        fn a_file_is_read_back(frames in proptest::collection::vec(proptest::collection::vec(any_record(), 0..5), 0..5)) {
            let file = file(&frames);
            let read = read(&file).unwrap();
            prop_assert_eq!((read.journal, read.next, read.end), (7, frames.len() as u64 + 1, file.len()));
            for record in &read.records {
                let one = frame(7, 1, [record]);
                prop_assert_eq!(one.len(), FRAME_HEADER + len(record));
            }
            prop_assert_eq!(read.records, frames.concat());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let mut file = header(7).to_vec();
            file.extend(&bytes);
            read(&bytes.into());
            read(&file.into());
        }
    }
}
