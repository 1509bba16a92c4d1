//! Converts between the consensus library's types and the protobuf messages that carry them.

use openraft::{
    EntryPayload,
    entry::RaftEntry,
    vote::{RaftLeaderId, leader_id_adv::LeaderId},
};
use robeing_fleet::Stamp;
use robeing_proto::internal::v1 as internal;
use serde::{Serialize, de::DeserializeOwned};

use super::{Batch, Entry, LogId, TypeConfig};
use crate::clock::Leadership;

/// A message that does not follow this protocol.
#[derive(Debug, thiserror::Error)]
#[error("malformed {what}: {problem}")]
pub struct Malformed {
    what: &'static str,
    problem: String,
}

/// Encodes one of the library's messages as JSON.
pub fn json(value: &impl Serialize) -> bytes::Bytes {
    serde_json::to_vec(value).expect("the library's messages are made to be serialized").into()
}

/// Decodes one of the library's messages from JSON. `what` names it in errors.
pub fn from_json<T: DeserializeOwned>(what: &'static str, json: &[u8]) -> Result<T, Malformed> {
    serde_json::from_slice(json).map_err(|e| Malformed { what, problem: e.to_string() })
}

/// Encodes a log id.
pub fn log_id_to_wire(id: LogId) -> internal::LogId {
    let leader = id.committed_leader_id();
    internal::LogId { term: leader.term, node_id: leader.node_id, index: id.index() }
}

/// Decodes a log id.
pub fn log_id_from_wire(id: &internal::LogId) -> LogId {
    LogId::new(LeaderId::new(id.term, id.node_id).to_committed(), id.index)
}

/// Encodes an entry. Its batch is shared, not copied.
fn entry_to_wire(entry: Entry) -> internal::LogEntry {
    use internal::log_entry::Payload;
    let log_id = Some(log_id_to_wire(entry.log_id()));
    let payload = match entry.payload {
        EntryPayload::Blank => Payload::Blank(true),
        EntryPayload::Normal(batch) => Payload::Batch(batch.0),
        EntryPayload::Membership(membership) => Payload::MembershipJson(json(&membership)),
    };
    internal::LogEntry { log_id, payload: Some(payload) }
}

fn entry_from_wire(entry: internal::LogEntry) -> Result<Entry, Malformed> {
    use internal::log_entry::Payload;
    let missing = |problem: &str| Malformed { what: "log entry", problem: problem.to_owned() };
    let id = entry.log_id.ok_or_else(|| missing("it has no log id"))?;
    let payload = match entry.payload.ok_or_else(|| missing("it has no payload"))? {
        Payload::Blank(_) => EntryPayload::Blank,
        Payload::Batch(batch) => EntryPayload::Normal(Batch(batch)),
        Payload::MembershipJson(bytes) => EntryPayload::Membership(from_json("membership", &bytes)?),
    };
    Ok(Entry::new(log_id_from_wire(&id), payload))
}

/// The library's replication request.
pub type AppendRequest = openraft::raft::AppendEntriesRequest<TypeConfig>;
/// The library's response to a replication request.
pub type AppendResult = openraft::raft::StreamAppendResult<TypeConfig>;

/// Returns the leadership that a request is sent under.
pub fn leadership(request: &AppendRequest) -> Leadership {
    (request.vote.leader_id.term, request.vote.leader_id.node_id)
}

/// Returns the approximate bytes of a request's entries.
pub fn append_bytes(request: &AppendRequest) -> usize {
    let bytes = |entry: &Entry| match &entry.payload {
        EntryPayload::Normal(batch) => batch.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    };
    request.entries.iter().map(bytes).sum()
}

/// Encodes a replication request; `now` is the leader's clock report, if its clock runs.
pub fn append_to_wire(target: u64, request: AppendRequest, now: Option<Stamp>) -> internal::AppendRequest {
    let now = now.unwrap_or_default();
    internal::AppendRequest {
        fleet_ms: now.fleet,
        wall_ms: now.wall,
        target,
        vote_json: json(&request.vote),
        prev: request.prev_log_id.map(log_id_to_wire),
        entries: request.entries.into_iter().map(entry_to_wire).collect(),
        commit: request.leader_commit.map(log_id_to_wire),
    }
}

/// Returns the leader's clock report; `None` while its clock stands still.
pub fn word_from_wire(request: &internal::AppendRequest) -> Option<Stamp> {
    (request.fleet_ms > 0).then_some(Stamp { fleet: request.fleet_ms, wall: request.wall_ms })
}

/// Decodes a replication request.
pub fn append_from_wire(request: internal::AppendRequest) -> Result<AppendRequest, Malformed> {
    let prev_log_id = request.prev.as_ref().map(log_id_from_wire);
    let entries: Vec<Entry> = request.entries.into_iter().map(entry_from_wire).collect::<Result<_, _>>()?;
    // The library does not check this, and a gap in the log would be a gap in the state.
    let mut expected = prev_log_id.map_or(Some(0), |id| id.index().checked_add(1));
    for entry in &entries {
        if Some(entry.index()) != expected {
            let instead = expected.map_or("none, since the log is full".to_owned(), |index| format!("entry {index}"));
            let problem = format!("entry {} instead of {instead}", entry.index());
            return Err(Malformed { what: "append request", problem });
        }
        expected = entry.index().checked_add(1);
    }
    Ok(AppendRequest {
        vote: from_json("vote", &request.vote_json)?,
        prev_log_id,
        entries,
        leader_commit: request.commit.as_ref().map(log_id_from_wire),
    })
}

/// Encodes a replication response with this machine's wall clock, Unix milliseconds.
pub fn result_to_wire(result: AppendResult, unix_ms: u64) -> internal::AppendResponse {
    use internal::append_response::Result as Wire;
    use openraft::raft::StreamAppendError;
    let matched = |id: Option<LogId>| internal::Matched { log_id: id.map(log_id_to_wire) };
    let result = match result {
        Ok(id) => Wire::Matched(matched(id)),
        Err(StreamAppendError::Conflict(id)) => Wire::Conflict(matched(Some(id))),
        Err(StreamAppendError::HigherVote(vote)) => Wire::HigherVoteJson(json(&vote)),
    };
    internal::AppendResponse { result: Some(result), unix_ms }
}

/// Decodes a replication response.
pub fn result_from_wire(response: internal::AppendResponse) -> Result<AppendResult, Malformed> {
    use internal::append_response::Result as Wire;
    use openraft::raft::StreamAppendError;
    let bad = |problem: &str| Malformed { what: "append response", problem: problem.to_owned() };
    Ok(match response.result.ok_or_else(|| bad("it is empty"))? {
        Wire::Matched(m) => Ok(m.log_id.as_ref().map(log_id_from_wire)),
        Wire::Conflict(m) => {
            let id = m.log_id.as_ref().ok_or_else(|| bad("a conflict without log id"))?;
            Err(StreamAppendError::Conflict(log_id_from_wire(id)))
        }
        Wire::HigherVoteJson(vote) => Err(StreamAppendError::HigherVote(from_json("vote", &vote)?)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::Vote;

    fn request(prev: Option<u64>, indexes: &[u64]) -> internal::AppendRequest {
        let id = |index| internal::LogId { term: 1, node_id: 7, index };
        let entry = |index: &u64| internal::LogEntry {
            log_id: Some(id(*index)),
            payload: Some(internal::log_entry::Payload::Blank(true)),
        };
        internal::AppendRequest {
            target: 1,
            vote_json: json(&Vote::new(1, 7)),
            prev: prev.map(id),
            entries: indexes.iter().map(entry).collect(),
            commit: None,
            fleet_ms: 0,
            wall_ms: 0,
        }
    }

    #[test]
    fn entries_that_follow_each_other_are_taken() {
        for (prev, indexes) in [(None, &[0, 1][..]), (Some(51), &[52, 53]), (Some(51), &[])] {
            assert!(append_from_wire(request(prev, indexes)).is_ok(), "{prev:?} {indexes:?}");
        }
    }

    #[test]
    fn a_gap_is_refused_wherever_it_is() {
        for (prev, indexes) in [(None, &[1][..]), (Some(51), &[106]), (Some(51), &[52, 54]), (Some(51), &[52, 52])] {
            let refused = append_from_wire(request(prev, indexes)).expect_err("there is a gap").to_string();
            assert!(refused.contains("instead of entry"), "{refused}");
        }
    }

    #[test]
    fn nothing_follows_the_last_index_that_there_is() {
        let last = u64::MAX;
        assert!(append_from_wire(request(Some(last - 1), &[last])).is_ok());
        for (prev, indexes) in [(last, &[last][..]), (last, &[0]), (last - 1, &[last, last]), (last - 1, &[last, 0])] {
            let refused = append_from_wire(request(Some(prev), indexes)).expect_err("the log is full").to_string();
            assert!(refused.contains("the log is full"), "{refused}");
        }
        assert!(append_from_wire(request(Some(last), &[])).is_ok());
    }
}
