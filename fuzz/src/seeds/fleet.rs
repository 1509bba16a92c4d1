//! Commands, replies, snapshots, and what coordinators send each other.

use prost::Message;
use robeing_coordinator::raft::{Batch, Vote, wire};
use robeing_fleet::{Stamp, decode_command, decode_reply};
use robeing_proto::internal::v1::{
    AppendRequest, AppendResponse, LogEntry, LogId, Matched, append_response, log_entry,
};

use super::Seed;

/// The bytes of commands and replies, as the tests of the state machine have them.
const TABLE: &str = include_str!(
    "../../../fleet/tests/fleet/snapshots/fleet__codec__the_bytes_of_commands_and_replies_are_what_they_always_were.snap"
);
/// The bytes of snapshots.
const SNAPSHOTS: [(&str, &str); 3] = [
    (
        "busy",
        include_str!(
            "../../../fleet/tests/fleet/snapshots/fleet__codec__the_bytes_of_a_snapshot_are_what_they_always_were.snap"
        ),
    ),
    (
        "letters",
        include_str!(
            "../../../fleet/tests/fleet/snapshots/fleet__codec__the_bytes_of_a_snapshot_with_letters_are_what_they_always_were.snap"
        ),
    ),
    (
        "policies",
        include_str!(
            "../../../fleet/tests/fleet/snapshots/fleet__codec__the_bytes_of_a_snapshot_with_policies_are_what_they_always_were.snap"
        ),
    ),
];

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
    digits.map(|pair| u8::from_str_radix(pair.filter(|pair| pair.len() == 2)?, 16).ok()).collect()
}

/// Returns the lines of a table that are bytes.
fn lines(table: &str) -> impl Iterator<Item = Vec<u8>> {
    table.lines().filter_map(|line| unhex(line.trim())).filter(|bytes| bytes.len() > 2)
}

fn id(index: u64) -> LogId {
    LogId { term: 3, node_id: 7, index }
}

fn entry(index: u64, payload: log_entry::Payload) -> LogEntry {
    LogEntry { log_id: Some(id(index)), payload: Some(payload) }
}

/// Members of a group, as the consensus library writes them.
const MEMBERSHIP: &[u8] =
    br#"{"configs":[[7,8]],"nodes":{"7":{"name":"c-0","address":"h:1"},"8":{"name":"c-1","address":"h:2"}}}"#;

fn append(entries: Vec<LogEntry>, prev: Option<u64>) -> AppendRequest {
    AppendRequest {
        target: 1,
        vote_json: wire::json(&Vote::new_committed(3, 7)),
        prev: prev.map(id),
        entries,
        commit: Some(id(51)),
        fleet_ms: 1_000,
        wall_ms: 1_800_000_000_000,
    }
}

fn append_response(result: append_response::Result) -> Vec<u8> {
    AppendResponse { result: Some(result), unix_ms: 1_800_000_000_000 }.encode_to_vec()
}

fn rpcs(batch: &Batch) -> Vec<Seed> {
    let seed = |name: &str, kind: u8, message: &[u8]| Seed::new("raft_rpc", name, [&[kind], message].concat());
    let entries = vec![
        entry(52, log_entry::Payload::Blank(true)),
        entry(53, log_entry::Payload::Batch(batch.0.clone())),
        entry(54, log_entry::Payload::MembershipJson(MEMBERSHIP.into())),
    ];
    let last = vec![entry(u64::MAX, log_entry::Payload::Blank(true))];
    let vote = wire::json(&Vote::new(3, 7));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let log_id = r#"{"leader_id":{"term":3,"node_id":7},"index":51}"#;
    let membership = format!(r#"{{"log_id":{log_id},"membership":{}}}"#, text(MEMBERSHIP));
    let meta = format!(r#"{{"last_log_id":{log_id},"last_membership":{membership},"snapshot_id":"3-7-51"}}"#);
    let request = format!(r#"{{"vote":{},"last_log_id":{log_id}}}"#, text(&vote));
    let granted = format!(r#"{{"vote":{},"vote_granted":true,"last_log_id":{log_id}}}"#, text(&vote));
    let transfer = format!(
        r#"{{"from_leader":{},"to_node_id":8,"last_log_id":{log_id}}}"#,
        text(&wire::json(&Vote::new_committed(3, 7)))
    );
    let conflict = append_response::Result::Conflict(Matched { log_id: Some(id(51)) });
    vec![
        seed("append", b'a', &append(entries, Some(51)).encode_to_vec()),
        seed("heartbeat", b'a', &append(Vec::new(), None).encode_to_vec()),
        seed("last-index", b'a', &append(last, Some(u64::MAX - 1)).encode_to_vec()),
        seed("matched", b'r', &append_response(append_response::Result::Matched(Matched { log_id: Some(id(51)) }))),
        seed("conflict", b'r', &append_response(conflict)),
        seed("higher-vote", b'r', &append_response(append_response::Result::HigherVoteJson(vote.clone()))),
        seed("vote", b'v', &vote),
        seed("vote-request", b'q', request.as_bytes()),
        seed("vote-response", b'p', granted.as_bytes()),
        seed("transfer", b't', transfer.as_bytes()),
        seed("snapshot-meta", b's', meta.as_bytes()),
        seed("membership", b'm', membership.as_bytes()),
    ]
}

/// Returns a record of the log.
fn record(kind: u8, content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(content.len()).expect("it is short").to_le_bytes();
    [&[kind], &len[..], content].concat()
}

fn logs(batch: &Batch) -> Vec<Seed> {
    let id: Vec<u8> = [3_u64, 7, 51].into_iter().flat_map(u64::to_le_bytes).collect();
    let of_entry = |content: &[u8]| [&id, content].concat();
    let records = [
        record(1, &9_u64.to_le_bytes()),
        record(2, &wire::json(&Vote::new(3, 7))),
        record(3, &id),
        record(4, &id),
        record(5, &[]),
        record(6, &id),
        record(7, &of_entry(&batch.0)),
        record(8, &of_entry(MEMBERSHIP)),
    ];
    let mut seeds: Vec<Seed> = records
        .iter()
        .enumerate()
        .map(|(n, record)| Seed::new("log", format!("record-{}", n + 1), &record[..]))
        .collect();
    seeds.push(Seed::new("log", "records", records.concat()));
    seeds
}

pub(super) fn seeds() -> Vec<Seed> {
    let mut seeds = Vec::new();
    let (mut commands, mut replies) = (Vec::new(), Vec::new());
    for bytes in lines(TABLE) {
        if decode_command(&bytes).is_ok() {
            commands.push(bytes);
        } else if decode_reply(&bytes).is_ok() {
            replies.push(bytes);
        }
    }
    let batch = Batch::new(Stamp::at(1_000), commands.iter().take(3).map(|command| &command[..]));
    let numbered = |target: &'static str, all: Vec<Vec<u8>>| {
        let few = all.into_iter().enumerate().filter(|(n, _)| n % 2 == 0);
        few.map(move |(n, bytes)| Seed::new(target, format!("sample-{n:02}"), bytes)).collect::<Vec<_>>()
    };
    seeds.extend(numbered("command", commands));
    seeds.extend(numbered("reply", replies));
    for (name, table) in SNAPSHOTS {
        seeds.extend(lines(table).take(1).map(|bytes| Seed::new("snapshot", name, bytes)));
    }
    seeds.push(Seed::new("batch", "commands", batch.0.to_vec()));
    seeds.push(Seed::new("batch", "empty", Batch::new(Stamp::at(0), []).0.to_vec()));
    seeds.extend(rpcs(&batch));
    seeds.extend(logs(&batch));
    seeds
}
