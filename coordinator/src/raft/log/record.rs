//! Records, which make up a frame's body. Each is `kind u8 | length u32 | content`. Kinds are never reused.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use openraft::{
    EntryPayload,
    entry::RaftEntry,
    vote::{RaftLeaderId, leader_id_adv::LeaderId},
};

use crate::raft::{Batch, Entry, LogId, Vote};

const START: u8 = 1;
const VOTE: u8 = 2;
const COMMITTED: u8 = 3;
const PURGED: u8 = 4;
const TRUNCATED: u8 = 5;
const BLANK: u8 = 6;
const BATCH: u8 = 7;
const MEMBERSHIP: u8 = 8;

/// One change to the log.
#[derive(Clone, Debug)]
pub enum Record {
    /// The first record of a segment, with its number.
    Start(u64),
    /// The current vote.
    Vote(Vote),
    /// Entries up to here are known to be committed.
    Committed(Option<LogId>),
    /// Entries up to here are purged and covered by a snapshot.
    Purged(LogId),
    /// Entries after here are removed; `None` removes all.
    TruncatedAfter(Option<LogId>),
    /// The next entry.
    Entry(Entry),
}

/// A record that can't be decoded although its frame is whole: a newer version wrote it, or there is a bug.
#[derive(Debug, thiserror::Error)]
#[error("record kind {kind}: {problem}")]
pub struct BadRecord {
    kind: u8,
    problem: String,
}

fn put_log_id(buf: &mut BytesMut, id: &LogId) {
    buf.put_u64_le(id.committed_leader_id().term);
    buf.put_u64_le(id.committed_leader_id().node_id);
    buf.put_u64_le(id.index());
}

fn put(buf: &mut BytesMut, kind: u8, content: impl FnOnce(&mut BytesMut)) {
    buf.put_u8(kind);
    let at = buf.len();
    buf.put_u32_le(0);
    content(buf);
    let len = (buf.len() - at - 4) as u32;
    buf[at..at + 4].copy_from_slice(&len.to_le_bytes());
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("votes and memberships are numbers, strings and maps of them, which JSON can hold")
}

/// Appends an entry's record.
pub fn put_entry(buf: &mut BytesMut, entry: &Entry) {
    let id = entry.log_id();
    match &entry.payload {
        EntryPayload::Blank => put(buf, BLANK, |b| put_log_id(b, &id)),
        EntryPayload::Normal(batch) => put(buf, BATCH, |b| {
            put_log_id(b, &id);
            b.put_slice(&batch.0);
        }),
        EntryPayload::Membership(membership) => put(buf, MEMBERSHIP, |b| {
            put_log_id(b, &id);
            b.put_slice(&json(membership));
        }),
    }
}

/// Returns an upper bound of the bytes that [`put_entry`] appends.
pub fn entry_len(entry: &Entry) -> usize {
    const FIXED: usize = 5 + 24;
    FIXED
        + match &entry.payload {
            EntryPayload::Blank => 0,
            EntryPayload::Normal(batch) => batch.0.len(),
            EntryPayload::Membership(m) => json(m).len(),
        }
}

/// Appends a record.
pub fn put_record(buf: &mut BytesMut, record: &Record) {
    match record {
        Record::Start(number) => put(buf, START, |b| b.put_u64_le(*number)),
        Record::Vote(vote) => put(buf, VOTE, |b| b.put_slice(&json(vote))),
        Record::Committed(id) => put(buf, COMMITTED, |b| id.iter().for_each(|id| put_log_id(b, id))),
        Record::Purged(id) => put(buf, PURGED, |b| put_log_id(b, id)),
        Record::TruncatedAfter(id) => put(buf, TRUNCATED, |b| id.iter().for_each(|id| put_log_id(b, id))),
        Record::Entry(entry) => put_entry(buf, entry),
    }
}

fn get_log_id(buf: &mut Bytes) -> Option<LogId> {
    let term = buf.try_get_u64_le().ok()?;
    let node = buf.try_get_u64_le().ok()?;
    let index = buf.try_get_u64_le().ok()?;
    Some(LogId::new(LeaderId::new(term, node).to_committed(), index))
}

fn decode_one(kind: u8, mut content: Bytes) -> Result<Record, String> {
    let cut = || "its content is cut short".to_owned();
    let optional = |mut content: Bytes| match content.is_empty() {
        true => Ok(None),
        false => get_log_id(&mut content).map(Some).ok_or_else(cut),
    };
    let entry = |id, payload| Record::Entry(Entry::new(id, payload));
    match kind {
        START => content.try_get_u64_le().map(Record::Start).map_err(|_| cut()),
        VOTE => serde_json::from_slice(&content).map(Record::Vote).map_err(|e| e.to_string()),
        COMMITTED => optional(content).map(Record::Committed),
        PURGED => get_log_id(&mut content).map(Record::Purged).ok_or_else(cut),
        TRUNCATED => optional(content).map(Record::TruncatedAfter),
        BLANK => Ok(entry(get_log_id(&mut content).ok_or_else(cut)?, EntryPayload::Blank)),
        BATCH => {
            let id = get_log_id(&mut content).ok_or_else(cut)?;
            Ok(entry(id, EntryPayload::Normal(Batch(content))))
        }
        MEMBERSHIP => {
            let id = get_log_id(&mut content).ok_or_else(cut)?;
            let membership = serde_json::from_slice(&content).map_err(|e| e.to_string())?;
            Ok(entry(id, EntryPayload::Membership(membership)))
        }
        _ => Err("unknown; a newer version wrote it".to_owned()),
    }
}

/// Decodes all records of a frame's body. Batches share the body's memory.
pub fn decode(mut body: Bytes) -> Result<Vec<Record>, BadRecord> {
    let mut records = Vec::new();
    while body.has_remaining() {
        let kind = body.get_u8();
        let bad = |problem: String| BadRecord { kind, problem };
        let len = body.try_get_u32_le().map_err(|_| bad("its length is cut short".into()))? as usize;
        if body.remaining() < len {
            return Err(bad(format!("its length is {len} bytes, but only {} are left", body.remaining())));
        }
        records.push(decode_one(kind, body.split_to(len)).map_err(bad)?);
    }
    Ok(records)
}
