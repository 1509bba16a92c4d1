//! Bytes: stable for what was written before, and harmless whatever they are.

use std::fmt::Write;

use proptest::prelude::*;
use robeing_fleet::{
    AgentId, AgentJoin, CodecError, Command, Completion, FLEET_VERSION, Failure, FailureKind, Fleet, FleetConfig,
    LossReason, Outcome, PoolShape, Refusal, Reply, Role, SessionId, StaleReason, Stamp, SubmitTask, TaskId, TaskState,
    decode_command, decode_reply, encode_command, encode_reply, take_command,
};

use crate::fixture::{Trial, pooled, retry, specialist, success, task, worker};

fn commands() -> Vec<Command> {
    let agent = AgentId(7);
    let session = SessionId(300);
    let failure = Failure {
        kind: FailureKind::Exit,
        message: "exit code 2".to_owned(),
        code: Some(2),
        stderr_tail: "no such file".to_owned(),
        retryable: true,
        retry_after_ms: 0,
    };
    let complete = |outcome| {
        Command::Complete(Completion {
            agent,
            session,
            task: TaskId(0x1234_5678_9abc),
            attempt: 3,
            ran_us: 1_500,
            outcome,
        })
    };
    vec![
        Command::Submit(task(1)),
        Command::Submit(SubmitTask {
            deadline_in: Some(60_000),
            delay: Some(5),
            attempt_timeout: Some(1_000),
            retry: retry(3),
            required_role: Some(Role::Guardian),
            required_specialization: Some("parse".to_owned()),
            idempotency_key: Some("key".to_owned()),
            result_ttl: Some(0),
            ..task(u128::MAX)
        }),
        Command::Cancel { task: TaskId(2), reason: "why not".to_owned() },
        Command::AgentJoined(worker("a")),
        Command::AgentJoined(pooled("b", Some(3), 1)),
        Command::AgentJoined(specialist("c", "parse")),
        Command::AgentLost { agent, session, reason: LossReason::Replaced },
        Command::AgentDraining { agent, session },
        Command::AgentLeft { agent, session },
        complete(success()),
        complete(Outcome::Failed(failure)),
        complete(Outcome::Stopped),
        complete(Outcome::HandedBack),
        Command::Tick,
        Command::Configure(FleetConfig::default()),
        Command::RaiseVersion(2),
        Command::AgentLost { agent, session, reason: LossReason::Failed },
        Command::AgentUnhealthy { agent, session, reason: "503".to_owned() },
        Command::AgentHealthy { agent, session, readmit: true },
        Command::SetPools(vec![shape(Some(3), 1), PoolShape { name: "mail".to_owned(), ..shape(None, 0) }]),
    ]
}

fn shape(replicas: Option<u32>, standby: u32) -> PoolShape {
    PoolShape { name: "data".to_owned(), replicas, standby }
}

fn replies() -> Vec<Reply> {
    let task = TaskId(5);
    vec![
        Reply::Submitted { task, existing: true },
        Reply::Cancelled(TaskState::DeadLettered),
        Reply::Joined { agent: AgentId(1), session: SessionId(2) },
        Reply::Completed,
        Reply::Stale(StaleReason::SessionEnded),
        Reply::Done,
        Reply::Refused(Refusal::QueueFull { limit: 9 }),
        Reply::Refused(Refusal::TooManyTasks { limit: 9 }),
        Reply::Refused(Refusal::StorageFull { limit: 9 }),
        Reply::Refused(Refusal::InputTooLarge { bytes: 10, limit: 9 }),
        Reply::Refused(Refusal::Invalid { field: "kind".to_owned(), problem: "empty".to_owned() }),
        Reply::Refused(Refusal::Conflict { what: "the id".to_owned(), task }),
        Reply::Refused(Refusal::UnknownTask { task }),
        Reply::Refused(Refusal::TooManyAgents { limit: 9 }),
        Reply::Refused(Refusal::StaleSession),
        Reply::Refused(Refusal::Version { asked: 3, current: 1, known: 2 }),
        Reply::PoolsSet { revision: 300 },
    ]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes it");
        text
    })
}

fn encoded(command: &Command) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_command(command, &mut bytes);
    bytes
}

/// A fleet with something of everything.
fn busy() -> Trial {
    let mut trial = Trial::new();
    let stay = trial.join(pooled("a", Some(1), 1));
    trial.join(pooled("b", Some(1), 1));
    let lost = trial.join(specialist("c", "parse"));
    let first = trial.submit(task(1));
    for n in 2..6 {
        trial.submit(SubmitTask { deadline_in: Some(60_000), idempotency_key: Some(format!("key-{n}")), ..task(n) });
    }
    trial.complete(stay, first, 1, success());
    trial.cancel(TaskId(3));
    trial.lose(lost);
    let unwell = trial.join(AgentJoin { slots: 2, ..worker("d") });
    trial.unhealthy(unwell, "503");
    trial.set_pools(vec![shape(Some(1), 1)]);
    trial
}

/// A failure here means that logs and replies written before can no longer be read: make it a new variant or format.
#[test]
fn the_bytes_of_commands_and_replies_are_what_they_always_were() {
    let mut table = String::new();
    for command in commands() {
        let bytes = encoded(&command);
        assert_eq!(decode_command(&bytes), Ok(command.clone()));
        writeln!(table, "{command:?}\n    {}", hex(&bytes)).expect("a string takes it");
    }
    for reply in replies() {
        let mut bytes = Vec::new();
        encode_reply(&reply, &mut bytes);
        assert_eq!(decode_reply(&bytes), Ok(reply.clone()));
        writeln!(table, "{reply:?}\n    {}", hex(&bytes)).expect("a string takes it");
    }
    insta::assert_snapshot!(table);
}

#[test]
fn the_bytes_of_a_snapshot_are_what_they_always_were() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(task(1));
    trial.submit(task(2));
    trial.complete(stay, id, 1, success());
    insta::assert_snapshot!(hex(&trial.fleet.encode()));
}

/// Set pools are in a format of their own, and the plain one holds without them, so that what was written before they were
/// known can be read, and a program that does not know them says so.
#[test]
fn a_snapshot_with_set_pools_has_a_format_of_its_own() {
    let mut trial = Trial::new();
    assert_eq!(trial.fleet.encode()[0], 7);
    trial.join(pooled("a", Some(1), 0));
    let plain = trial.fleet.encode();
    trial.set_pools(vec![shape(Some(2), 0), PoolShape { name: "mail".to_owned(), ..shape(Some(1), 0) }]);
    let set = trial.fleet.encode();
    assert_eq!(set[0], 8);
    let mut restored = Fleet::decode(&set).expect("a fleet's own snapshot");
    assert_eq!(restored.encode(), set);
    assert_eq!(restored.pools(), trial.fleet.pools());
    let join = Command::AgentJoined(pooled("b", Some(7), 0));
    restored.apply(trial.stamp(), join, &mut Vec::new());
    assert_eq!(restored.pools()[0].desired, 2, "what was set still counts");

    let mut without_names = plain.clone();
    without_names[0] = 8;
    without_names.push(0);
    assert!(
        matches!(Fleet::decode(&without_names), Err(CodecError::Inconsistent(_))),
        "a second form of the same state"
    );
    let mut of_nobody = plain;
    of_nobody[0] = 8;
    of_nobody.extend([1, 1, b'x']);
    assert!(matches!(Fleet::decode(&of_nobody), Err(CodecError::Inconsistent(_))));
}

#[test]
fn commands_follow_each_other_without_anything_between() {
    let mut bytes = Vec::new();
    for command in commands() {
        encode_command(&command, &mut bytes);
    }
    let mut rest = &bytes[..];
    for command in commands() {
        let (taken, after) = take_command(rest).expect("it was written so");
        assert_eq!(taken, command);
        rest = after;
    }
    assert!(rest.is_empty());
}

#[test]
fn a_format_from_the_future_is_named_and_so_is_what_follows() {
    let mut bytes = encoded(&Command::Tick);
    bytes.push(0);
    assert_eq!(decode_command(&bytes), Err(CodecError::Trailing(1, "command")));
    bytes[0] = 9;
    assert_eq!(decode_command(&bytes), Err(CodecError::Format(9, "command")));
    assert!(decode_command(&[]).is_err());
    assert!(Fleet::decode(&[]).is_err());
}

#[test]
fn a_snapshot_of_an_earlier_format_is_refused() {
    for format in 1..7 {
        let mut bytes = busy().fleet.encode();
        bytes[0] = format;
        assert_eq!(Fleet::decode(&bytes).err(), Some(CodecError::Format(format, "snapshot")));
    }
}

#[test]
fn a_snapshot_of_a_newer_fleet_version_is_refused() {
    let mut bytes = busy().fleet.encode();
    assert_eq!(u32::from(bytes[1]), FLEET_VERSION);
    bytes[1] += 1;
    let refused = Fleet::decode(&bytes).err();
    let version = CodecError::Version { found: FLEET_VERSION + 1, known: FLEET_VERSION };
    assert_eq!(refused, Some(version));
}

#[test]
fn versions_are_raised_only_to_what_is_known() {
    let mut trial = Trial::new();
    let asked = FLEET_VERSION + 1;
    let refused = Reply::Refused(Refusal::Version { asked, current: FLEET_VERSION, known: FLEET_VERSION });
    assert_eq!(trial.apply(Command::RaiseVersion(asked)), refused);
    let lower = trial.apply(Command::RaiseVersion(0));
    assert!(matches!(lower, Reply::Refused(_)));
    assert_eq!(trial.apply(Command::RaiseVersion(FLEET_VERSION)), Reply::Done);
    assert_eq!(trial.fleet.version(), FLEET_VERSION);
}

#[test]
fn a_snapshot_that_breaks_off_anywhere_is_refused() {
    let bytes = busy().fleet.encode();
    for end in 0..bytes.len() {
        assert!(Fleet::decode(&bytes[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn a_snapshot_with_any_byte_changed_is_refused_or_the_state_of_a_sound_fleet() {
    let bytes = busy().fleet.encode();
    for at in 0..bytes.len() {
        for change in [1, 0x80, 0xff] {
            let mut bytes = bytes.clone();
            bytes[at] ^= change;
            survive(&bytes);
        }
    }
}

/// Whatever can be read can be used, by any command, without a panic.
fn survive(bytes: &[u8]) {
    let Ok(mut fleet) = Fleet::decode(bytes) else {
        return;
    };
    let mut effects = Vec::new();
    for (n, command) in commands().into_iter().enumerate() {
        fleet.apply(Stamp::at(2_000_000 + n as u64 * 100_000), command, &mut effects);
    }
    fleet.apply(Stamp::at(u64::MAX), Command::Tick, &mut effects);
    fleet.checksum();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Some(first) = bytes.first_mut() {
            *first = 2;
        }
        if let Ok(command) = decode_command(&bytes) {
            Trial::new().apply(command);
        }
        let _ = decode_reply(&bytes);
        if let Some(first) = bytes.first_mut() {
            *first = 7;
        }
        survive(&bytes);
    }
}
