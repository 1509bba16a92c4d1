//! Values that several tests use.

use std::sync::Arc;

use bytes::Bytes;

use crate::messaging::{
    Entry, Outcome, Packet, PacketId, Presence, Priority, Role,
    frame::Hello,
    inbox::LANE_WINDOW,
    journal::Record,
    packet::{DEFAULT_DEADLINE_MS, LANES},
};

/// Returns a packet with this id, of priority 5.
pub fn packet(id: u128) -> Packet {
    Packet {
        id: PacketId(id),
        timestamp_ms: 7,
        sender: "a".into(),
        receiver: "agent:b".into(),
        agent: "b".into(),
        kind: "test".into(),
        payload: Bytes::from_static(b"hello"),
        priority: Priority::default(),
        requires_ack: true,
        deadline_in_ms: DEFAULT_DEADLINE_MS,
        reply_to: None,
        key_id: None,
        seq: 0,
        resent: false,
    }
}

/// Returns the Hello of `agent` to `to` for a stream.
pub fn hello(agent: &str, to: &str, stream: u64) -> Hello {
    let (agent, to, limits) = (agent.into(), to.into(), [LANE_WINDOW; LANES]);
    Hello { agent, to, incarnation: 1, is_of_link: true, journal: 2, stream, lost: 0, limits }
}

/// Returns a record of this packet's acceptance.
pub fn record(id: u128) -> Record {
    Record { sender: "a".into(), id: PacketId(id), outcome: Outcome::accepted(Some(Bytes::from_static(b"yes"))) }
}

/// Returns an active worker of pool `data` with the skill `ocr`.
pub fn entry(name: &str, score: f64) -> Entry {
    Entry {
        name: name.into(),
        role: Role::Worker,
        pool: "data".into(),
        skills: [Arc::from("ocr")].into(),
        address: format!("{name}:8080").into(),
        presence: Presence::Active,
        score,
        spiffe_id: "".into(),
        sealing_key: None,
        team: "".into(),
    }
}
