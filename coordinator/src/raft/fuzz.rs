//! What fuzz targets run of the protocol between coordinators.

use openraft::raft::{TransferLeaderRequest, VoteRequest, VoteResponse};
use prost::Message;
use robeing_proto::internal::v1 as internal;
use serde::{Serialize, de::DeserializeOwned};

use super::{SnapshotMeta, StoredMembership, TypeConfig, Vote, wire};

/// A message of another coordinator; the first byte selects its type. What is read is written, and read the same again.
pub fn rpc(bytes: &[u8]) {
    let Some((kind, message)) = bytes.split_first() else { return };
    match kind {
        b'a' => append(message),
        b'r' => answer(message),
        b'v' => json::<Vote>(message),
        b'q' => json::<VoteRequest<TypeConfig>>(message),
        b'p' => json::<VoteResponse<TypeConfig>>(message),
        b't' => json::<TransferLeaderRequest<TypeConfig>>(message),
        b's' => json::<SnapshotMeta>(message),
        b'm' => json::<StoredMembership>(message),
        _ => {}
    }
}

fn check_sentence(malformed: &wire::Malformed) {
    assert!(malformed.to_string().starts_with("malformed "));
}

fn json<T: Serialize + DeserializeOwned>(message: &[u8]) {
    match wire::from_json::<T>("message", message) {
        Ok(value) => {
            let written = wire::json(&value);
            let again = wire::from_json::<T>("message", &written).expect("it was read");
            assert_eq!(wire::json(&again), written);
        }
        Err(malformed) => check_sentence(&malformed),
    }
}

fn append(message: &[u8]) {
    let Ok(message) = internal::AppendRequest::decode(message) else { return };
    let (target, word) = (message.target, wire::word_from_wire(&message));
    let request = match wire::append_from_wire(message) {
        Ok(request) => request,
        Err(malformed) => return check_sentence(&malformed),
    };
    let previous = request.prev_log_id.map(|id| id.index());
    let mut expected = previous.map_or(Some(0), |index| index.checked_add(1));
    for entry in &request.entries {
        assert_eq!(Some(entry.log_id.index()), expected, "entries have no gap");
        expected = expected.and_then(|index| index.checked_add(1));
    }
    let _ = (wire::leadership(&request), wire::append_bytes(&request));
    let written = wire::append_to_wire(target, request, word);
    let again = wire::append_from_wire(written.clone()).expect("it was read");
    assert_eq!(wire::append_to_wire(target, again, word), written);
}

fn answer(message: &[u8]) {
    let Ok(message) = internal::AppendResponse::decode(message) else { return };
    let time = message.unix_ms;
    match wire::result_from_wire(message) {
        Ok(result) => {
            let written = wire::result_to_wire(result, time);
            let again = wire::result_from_wire(written.clone()).expect("it was read");
            assert_eq!(wire::result_to_wire(again, time), written);
        }
        Err(malformed) => check_sentence(&malformed),
    }
}
