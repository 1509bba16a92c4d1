//! Messages between agents, coordinators and attached processes.

use std::sync::Arc;

use prost::Message;
use robeing_agent::messaging::{
    Outcome, Packet, PacketId, Priority,
    frame::Hello,
    journal::format::{self, Record},
    packet::RELAY_TYPE,
    sealing::{OpeningKey, seal},
};
use robeing_platform::simulated::SeededRandom;
use robeing_proto::{
    internal::v1 as internal,
    message::v1::{self as wire, Frame},
    v1,
    worker::v1 as worker,
};

use super::Seed;

const TASK: &str = "018f4e3a-0000-7000-8000-000000000001";

fn packet() -> Packet {
    Packet {
        id: PacketId(7),
        timestamp_ms: 1_800_000_000_000,
        sender: "a".into(),
        receiver: "role:worker".into(),
        agent: "w-0".into(),
        kind: "note".into(),
        payload: "hello".into(),
        priority: Priority::new(7).expect("it is one"),
        requires_ack: true,
        deadline_in_ms: 30_000,
        reply_to: Some(PacketId(6)),
        key_id: None,
        seq: 1,
        resent: false,
    }
}

fn sealed() -> Packet {
    let mut packet = packet();
    let key = OpeningKey::from_bytes(&[7; 32]).expect("it is a key");
    seal(&mut packet, key.public(), &SeededRandom::new(7)).expect("it is sealed");
    packet
}

fn outcomes() -> Vec<(PacketId, Outcome)> {
    let outcomes = [
        Outcome::accepted(Some("yes".into())),
        Outcome::reply_forgotten(),
        Outcome::refused("no room"),
        Outcome::DeadlinePassed { maybe_handled: true },
        Outcome::overloaded("too many messages"),
        Outcome::no_such_agent("there is none"),
        Outcome::away("it is gone"),
    ];
    outcomes.into_iter().zip(1..).map(|(outcome, id)| (PacketId(id), outcome)).collect()
}

fn frames() -> Vec<Seed> {
    let seed = |name: &str, frame: &Frame| Seed::new("message_frame", name, frame.encode_to_vec());
    let hello = Hello {
        agent: "a".into(),
        to: "b".into(),
        incarnation: 1,
        is_of_link: false,
        journal: 2,
        stream: 3,
        lost: 0,
        limits: [1 << 20, 5, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20, 1 << 20],
    };
    let packets = vec![packet().to_wire(30_000), sealed().to_wire(5)];
    let content = Frame {
        packets: packets.clone(),
        outcomes: outcomes().iter().map(|(id, outcome)| outcome.to_wire(*id)).collect(),
        credits: vec![wire::Credit { priority: 1, limit: 9 }, wire::Credit { priority: 10, limit: u64::MAX }],
        ..Frame::default()
    };
    let close = wire::Close { code: 1, reason: "the agent is shutting down".into() };
    let version = wire::Packet { protocol_version: "2.0".into(), ..packet().to_wire(1) };
    vec![
        seed("hello", &hello.to_frame()),
        seed("content", &content),
        seed("close", &Frame { close: Some(close), ..Frame::default() }),
        seed("version", &Frame { packets: vec![version], ..Frame::default() }),
        seed(
            "wrong-id",
            &Frame {
                packets: vec![wire::Packet { id: vec![1; 15].into(), ..packet().to_wire(1) }],
                ..Frame::default()
            },
        ),
        seed("empty", &Frame { packets: vec![wire::Packet::default(); 30], ..Frame::default() }),
    ]
}

fn journals() -> Vec<Seed> {
    let record = |(id, outcome)| Record { sender: Arc::from("a"), id, outcome };
    let records: Vec<Record> = outcomes().into_iter().map(record).collect();
    let frames = [format::frame(7, 1, &records[..3]), format::frame(7, 2, &records[3..])].concat();
    let mut torn = frames.clone();
    torn.truncate(frames.len() - 5);
    vec![
        Seed::new("message_journal", "file", [&format::header(7)[..], &frames].concat()),
        Seed::new("message_journal", "frames", frames),
        Seed::new("message_journal", "torn", torn),
    ]
}

fn relayed() -> Vec<Seed> {
    let targets = (1..4).map(|n: u128| wire::RelayTarget {
        agent: format!("w-{n}"),
        id: n.to_be_bytes().to_vec().into(),
        ..wire::RelayTarget::default()
    });
    let relay = wire::Relay { message: Some(sealed().to_wire(30_000)), targets: targets.collect() };
    let with =
        |payload: Vec<u8>| Packet { kind: RELAY_TYPE.into(), payload: payload.into(), reply_to: None, ..packet() };
    let stolen = Packet { sender: "b".into(), ..packet() };
    let stolen = wire::Relay { message: Some(stolen.to_wire(1)), targets: Vec::new() };
    let seed = |name: &str, packet: &Packet| Seed::new("message_relayed", name, packet.to_wire(30_000).encode_to_vec());
    vec![
        seed("relay", &with(relay.encode_to_vec())),
        seed("other-sender", &with(stolen.encode_to_vec())),
        seed("sealed", &sealed()),
        seed("plain", &packet()),
        seed("sealed-short", &Packet { payload: "short".into(), ..sealed() }),
    ]
}

fn letters() -> Vec<Seed> {
    let letter = |packet: Packet| internal::Letter {
        id: packet.id.to_bytes(),
        sender: (*packet.sender).into(),
        receiver: (*packet.receiver).into(),
        r#type: (*packet.kind).into(),
        payload: packet.payload,
        priority: packet.priority.get(),
        timestamp_ms: packet.timestamp_ms,
        expires_in_ms: u64::MAX,
        key_id: packet.key_id.as_deref().unwrap_or_default().into(),
        resent: true,
    };
    let seed = |name: &str, letter: internal::Letter| Seed::new("letter", name, letter.encode_to_vec());
    let answer = |id: u8, answer: internal::LetterAnswer| internal::LetterAnswer { id: vec![id; 16].into(), ..answer };
    let none = internal::LetterAnswer::default;
    let answers = vec![
        answer(1, none()),
        answer(2, internal::LetterAnswer { refused: Some("no".into()), ..none() }),
        answer(3, internal::LetterAnswer { reply: Some("yes".into()), ..none() }),
        answer(4, internal::LetterAnswer { reply_dropped: true, ..none() }),
    ];
    let mailbox = |name: &str, message: internal::from_mailbox::Message| {
        Seed::new("mailbox", name, internal::FromMailbox { message: Some(message) }.encode_to_vec())
    };
    let wrong = internal::LetterAnswer { id: vec![1; 15].into(), ..none() };
    vec![
        seed("plain", letter(packet())),
        seed("sealed", letter(Packet { id: PacketId(7), agent: "me".into(), ..sealed() })),
        seed("empty", internal::Letter::default()),
        seed("priority", internal::Letter { priority: 11, ..letter(packet()) }),
        mailbox("answers", internal::from_mailbox::Message::Answers(internal::LetterAnswers { answers })),
        mailbox("wrong-id", internal::from_mailbox::Message::Answers(internal::LetterAnswers { answers: vec![wrong] })),
    ]
}

fn sessions() -> Vec<Seed> {
    use internal::{agent_message::Message as Said, completion::Outcome as Ended};
    let seed = |name: &str, message: Said| {
        Seed::new("session", name, internal::AgentMessage { message: Some(message) }.encode_to_vec())
    };
    let attempt = |n: u32| internal::AttemptRef { task_id: TASK.into(), attempt: n };
    let hello = internal::Hello {
        cluster_id: "test".into(),
        name: "w-1".into(),
        incarnation: 7,
        role: v1::Role::Specialist.into(),
        pool: "data".into(),
        pool_replicas: 3,
        pool_standby: 1,
        specializations: vec!["ocr".into()],
        slots: 4,
        address: "10.0.0.1:7".into(),
        pid: 1,
        version: "0.1.0".into(),
        session: 9,
        held: vec![attempt(2), attempt(1), attempt(2)],
        guarded: true,
        answers_health_checks: true,
        sealing_key: vec![7; 32].into(),
        contributed: Some(v1::ResourceAmounts { cpu_millis: 2_000, memory_bytes: 1 << 30, ..Default::default() }),
        has_store: false,
    };
    let failure =
        v1::Failure { kind: 1, message: "exit code 1".into(), code: Some(1), retryable: true, ..Default::default() };
    let ended = |outcome| internal::Completion { task_id: TASK.into(), attempt: 1, ran_us: 5, outcome };
    let completions = vec![
        ended(Some(Ended::Output("3".into()))),
        ended(Some(Ended::Failure(failure))),
        ended(Some(Ended::Stopped(internal::Stopped {}))),
        ended(Some(Ended::HandedBack(internal::HandedBack {}))),
        ended(None),
    ];
    vec![
        seed("hello", Said::Hello(hello.clone())),
        seed("hello-coordinator", Said::Hello(internal::Hello { role: 1, ..hello.clone() })),
        seed("hello-key", Said::Hello(internal::Hello { sealing_key: vec![7; 31].into(), slots: u32::MAX, ..hello })),
        seed("completions", Said::Completions(internal::Completions { completions })),
    ]
}

/// Returns messages with their lengths.
fn delimited(messages: &[impl Message]) -> Vec<u8> {
    messages.iter().flat_map(Message::encode_length_delimited_to_vec).collect()
}

fn coordinators() -> Vec<Seed> {
    use internal::coordinator_message::Message as Told;
    let assignment = |n: u32| internal::Assignment {
        task_id: TASK.into(),
        attempt: n,
        kind: "k".into(),
        input: "i".into(),
        deadline_in_ms: u64::MAX,
        time_limit_ms: u64::from(n),
        resources: Some(v1::ResourceAmounts { cpu_millis: 500, ..Default::default() }),
        progress_timeout_ms: u64::from(n % 2) * 1_000,
        ..Default::default()
    };
    let refs =
        |all: std::ops::Range<u32>| all.map(|n| internal::AttemptRef { task_id: TASK.into(), attempt: n }).collect();
    let acks =
        (1..9).map(|n| internal::CompletionAck { task_id: TASK.into(), attempt: n, ..Default::default() }).collect();
    let assignments = Told::Assignments(internal::Assignments { assignments: (1..12).map(assignment).collect() });
    let cancels = Told::Cancels(internal::Cancels { attempts: refs(5..20) });
    let acked = Told::CompletionAcks(internal::CompletionAcks { acks });
    let ended = Told::SessionEnded(internal::SessionEnded { reason: "gone".into() });
    let told = |all: Vec<Told>| {
        let all: Vec<_> =
            all.into_iter().map(|message| internal::CoordinatorMessage { message: Some(message) }).collect();
        delimited(&all)
    };
    let work = vec![assignments.clone(), cancels.clone(), acked.clone(), assignments.clone()];
    let stops = vec![assignments.clone(), Told::HandBack(internal::HandBack {}), acked, cancels, assignments, ended];
    vec![Seed::new("coordinator_messages", "work", told(work)), Seed::new("coordinator_messages", "stops", told(stops))]
}

fn workers() -> Vec<Seed> {
    use worker::{from_process::Message as Said, task_result::Outcome as Ended};
    let result = |outcome| Said::Result(worker::TaskResult { task_id: "t".into(), attempt: 1, outcome });
    let (message, details) = ("é".repeat(20), "ü".repeat(20));
    let failure = worker::Failure { message, code: Some(-1), details, permanent: true, ..Default::default() };
    let handled = worker::message_outcome::Outcome::Accepted(worker::MessageAccepted { reply: Some("yes".into()) });
    let send = worker::SendMessage {
        seq: 1,
        to: "skill:ocr".into(),
        r#type: "note".into(),
        payload: "x".into(),
        priority: 10,
        deadline_in_ms: u64::MAX,
        reply_to: TASK.into(),
        ask: true,
        ..worker::SendMessage::default()
    };
    let health = worker::Health { seq: 1, unhealthy: "é".repeat(200) };
    let (task_id, attempt) = ("t".to_owned(), 1);
    let log = worker::TaskLog { task_id: task_id.clone(), attempt, lines: vec!["a".into(), "b".into()] };
    let progress = Some(worker::Progress { fraction: 0.5, text: "half".into() });
    let batch = worker::FromProcessBatch {
        progress: vec![worker::TaskProgress { task_id: task_id.clone(), attempt, progress }],
        logs: vec![log],
        results: vec![worker::TaskResult { task_id, attempt, outcome: Some(Ended::Output("3".into())) }],
    };
    let said = |name: &str, all: Vec<Said>| {
        let all: Vec<_> = all.into_iter().map(|message| worker::FromProcess { message: Some(message) }).collect();
        Seed::new("worker_process", name, delimited(&all))
    };
    vec![
        said("output", vec![Said::Health(health), result(Some(Ended::Output("3".into()))), result(None)]),
        said("too-large", vec![result(Some(Ended::Output(vec![7; 65].into())))]),
        said("failure", vec![result(Some(Ended::Failure(failure)))]),
        said("stopped", vec![result(Some(Ended::Stopped(worker::Stopped {})))]),
        said("batch", vec![Said::Batch(batch)]),
        said(
            "message",
            vec![
                Said::MessageOutcome(worker::MessageOutcome { id: "m".into(), outcome: Some(handled) }),
                Said::SendMessage(send),
            ],
        ),
    ]
}

pub(super) fn seeds() -> Vec<Seed> {
    [frames(), journals(), relayed(), letters(), sessions(), coordinators(), workers()].concat()
}
