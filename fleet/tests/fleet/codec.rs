//! The encoding: stable for everything written before, and harmless for any bytes.

use std::fmt::Write;

use bytes::Bytes;
use proptest::prelude::*;
use robeing_fleet::{
    AgentCommand, AgentId, AgentJoin, BarKind, Choice, CodecError, Command, ControlCommand, Elector, FIRST_VERSION,
    Feature, Fleet, IdentityCommand, LetterAnswer, LossReason, OpenBallot, Refusal, Reply, SessionId, Stamp,
    SubmitTask, TaskCommand, TaskId, command_version, decode_command, decode_reply, encode_command, encode_reply,
    known_version,
};

use crate::{
    blobs::blob_commands,
    fixture::{
        Trial, amounts, answered, ballot, elector, enrolment, letter, patient, pooled, request, specialist, success,
        task, team, to_approve, to_verify, vote, with_key, worker,
    },
    kind_samples::kind_commands,
    queue_samples::queue_commands,
    samples::{
        approval_commands, ballot_commands, commands, graph_commands, identity_commands, mail_commands, policy,
        policy_commands, recorded, replies, resource_commands, shape, team_commands, trusted, verification_commands,
    },
    schedule_samples::schedule_commands,
    time_samples::{dead_letter_commands, timing_commands},
};

pub fn hex(bytes: &[u8]) -> String {
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

/// Formats a command or a reply without the field of tests of upgrades, and without later ones that are not set.
fn shown(message: &impl std::fmt::Debug) -> String {
    let flags = [
        ", trial: false",
        ", team: None, team_term: None",
        ", contributed: false",
        ", lacks_store: false",
        ", store: false",
        r#", name: """#,
        ", idempotency_window: 0",
        ", recent_results: 0",
    ];
    let options =
        ["approval", "verify", "timing", "resources", "compare", "contributed", "links", "lane", "demand", "input_ref"];
    let unset = flags.map(str::to_owned).into_iter().chain(options.map(|name| format!(", {name}: None")));
    unset.fold(format!("{message:?}"), |text, field| text.replace(&field, ""))
}

/// A fleet that contains some of everything.
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

/// A fleet of the newest version that also contains some of everything that needs it.
fn newest() -> Trial {
    let mut trial = busy();
    trial.apply(Command::Control(ControlCommand::RaiseVersion(known_version())));
    trial.identity(IdentityCommand::Configure(trusted()));
    trial.enrol(enrolment("a", 1, 1));
    trial.enrol(enrolment("e", 2, 2));
    trial.bar("d", BarKind::Quarantined);
    trial.bar("b", BarKind::Removed);
    trial.record(recorded());
    for n in 1..4 {
        trial.post(letter(n));
    }
    trial.settle(1, "b", LetterAnswer::Accepted);
    trial.settle(2, "b", LetterAnswer::Refused { reason: "full".to_owned() });
    trial.post(letter(4));
    trial.settle(4, "b", LetterAnswer::Replied { reply: Bytes::from_static(b"yes") });
    trial.set_policies(vec![policy("a"), policy("b")]);
    for command in ballot_commands().into_iter().chain(approval_commands()).chain(verification_commands()) {
        trial.apply(command);
    }
    trial.join(worker("t"));
    for command in team_commands() {
        trial.apply(command);
    }
    for command in resource_commands().into_iter().take(9).chain(kind_commands()) {
        trial.apply(command);
    }
    trial.request(patient(5, amounts(1, 1)));
    for command in [timing_commands(), dead_letter_commands(), queue_commands()].concat() {
        trial.apply(command);
    }
    for command in schedule_commands().into_iter().take(6) {
        trial.apply(command);
    }
    let keyed = SubmitTask { idempotency_key: Some("key".to_owned()), result_ttl: Some(0), ..task(702) };
    let keyed = trial.submit(keyed);
    trial.cancel(keyed);
    trial.after(1);
    trial
}

/// If this fails, logs and replies written before can no longer be read: add a new variant or format instead.
#[test]
fn the_bytes_of_commands_and_replies_are_what_they_always_were() {
    let mut table = String::new();
    for command in commands() {
        let bytes = encoded(&command);
        assert_eq!(decode_command(&bytes), Ok(command.clone()));
        writeln!(table, "{}\n    {}", shown(&command), hex(&bytes)).expect("a string takes it");
    }
    for reply in replies() {
        let mut bytes = Vec::new();
        encode_reply(&reply, &mut bytes);
        assert_eq!(decode_reply(&bytes), Ok(reply.clone()));
        writeln!(table, "{}\n    {}", shown(&reply), hex(&bytes)).expect("a string takes it");
    }
    insta::assert_snapshot!(table);
}

/// Returns the bytes of a state, which are read as the same state.
pub fn stable(fleet: &Fleet) -> Vec<u8> {
    let bytes = fleet.encode();
    let restored = Fleet::decode(&bytes).expect("a fleet's own snapshot");
    assert_eq!((restored.encode(), restored.version()), (bytes.clone(), fleet.version()));
    bytes
}

#[test]
fn the_bytes_of_a_snapshot_are_what_they_always_were() {
    let mut trial = Trial::new();
    let stay = trial.join(worker("a"));
    let id = trial.submit(task(1));
    trial.submit(task(2));
    trial.complete(stay, id, 1, success());
    insta::assert_snapshot!(hex(&stable(&trial.fleet)));
}

#[test]
fn the_bytes_of_a_snapshot_of_a_newer_version_are_what_they_always_were() {
    // Without what exists only for tests of upgrades.
    let mut trial = Trial::new();
    trial.apply(Command::Control(ControlCommand::RaiseVersion(2)));
    trial.identity(IdentityCommand::Configure(trusted()));
    trial.enrol(enrolment("a", 1, 1));
    trial.bar("b", BarKind::Quarantined);
    trial.record(recorded());
    insta::assert_snapshot!(hex(&stable(&trial.fleet)));
}

#[test]
fn the_bytes_of_a_snapshot_with_letters_are_what_they_always_were() {
    let mut trial = Trial::new();
    trial.apply(Command::Control(ControlCommand::RaiseVersion(3)));
    for command in mail_commands() {
        trial.apply(command);
    }
    trial.post(letter(2));
    insta::assert_snapshot!(hex(&stable(&trial.fleet)));
}

#[test]
fn the_bytes_of_a_snapshot_with_a_sealing_key_are_what_they_always_were() {
    let mut trial = Trial::new();
    trial.apply(Command::Control(ControlCommand::RaiseVersion(3)));
    trial.join(with_key("a", 7));
    insta::assert_snapshot!(hex(&stable(&trial.fleet)));
}

#[test]
fn the_bytes_of_a_snapshot_with_policies_are_what_they_always_were() {
    let mut trial = Trial::new();
    trial.apply(Command::Control(ControlCommand::RaiseVersion(3)));
    trial.set_policies(vec![policy("a"), policy("b")]);
    insta::assert_snapshot!(hex(&stable(&trial.fleet)));
}

#[test]
fn the_bytes_of_a_snapshot_with_ballots_are_what_they_always_were() {
    let mut trial = Trial::new();
    trial.apply(Command::Control(ControlCommand::RaiseVersion(4)));
    trial.set_policies(vec![policy("a")]);
    for command in ballot_commands() {
        trial.apply(command);
    }
    trial.after(60_000);
    trial.open(ballot(4));
    trial.cast(vote(4, "a", Choice::Reject));
    insta::assert_snapshot!(hex(&stable(&trial.fleet)));
}

#[test]
fn the_bytes_of_a_snapshot_with_approvals_are_what_they_always_were() {
    let mut trial = Trial::new();
    trial.apply(Command::Control(ControlCommand::RaiseVersion(4)));
    for command in approval_commands() {
        trial.apply(command);
    }
    trial.submit(to_approve(102));
    trial.cast(vote(102, "a", Choice::Approve));
    trial.cast(vote(102, "b", Choice::Approve));
    insta::assert_snapshot!(hex(&stable(&trial.fleet)));
}

#[test]
fn the_bytes_of_a_snapshot_with_a_verified_result_are_what_they_always_were() {
    let mut trial = Trial::new();
    trial.apply(Command::Control(ControlCommand::RaiseVersion(4)));
    let stays = ["a", "b", "c"].map(|name| trial.join(worker(name)));
    for n in [201, 301] {
        trial.submit(to_verify(n));
        for (stay, output) in stays.into_iter().zip(["x", "y", "x"]).take(if n == 201 { 3 } else { 2 }) {
            let (member, attempt) = trial.held_by(stay);
            trial.complete(stay, member, attempt, answered(output));
        }
    }
    insta::assert_snapshot!(hex(&stable(&trial.fleet)));
}

#[test]
fn the_bytes_of_a_snapshot_with_teams_are_what_they_always_were() {
    let mut trial = Trial::new();
    trial.apply(Command::Control(ControlCommand::RaiseVersion(4)));
    trial.join(worker("a"));
    trial.join(worker("b"));
    for command in team_commands() {
        trial.apply(command);
    }
    insta::assert_snapshot!(hex(&stable(&trial.fleet)));
}

#[test]
fn the_bytes_of_a_snapshot_with_resources_are_what_they_always_were() {
    let mut trial = Trial::new();
    trial.apply(Command::Control(ControlCommand::RaiseVersion(4)));
    trial.join(worker("a"));
    for command in resource_commands().into_iter().take(7) {
        trial.apply(command);
    }
    trial.request(request(4, amounts(1, 1)));
    trial.free(4, None);
    insta::assert_snapshot!(hex(&stable(&trial.fleet)));
}

#[test]
fn what_a_later_version_brought_is_marked_with_it_and_what_did_not_use_it_is_not() {
    for command in commands() {
        let wanted = command.feature().map_or(FIRST_VERSION, |feature| feature.since());
        assert_eq!(command_version(&encoded(&command)), wanted, "{command:?}");
    }
    let brought = [
        (2, identity_commands()),
        (3, [mail_commands(), policy_commands()].concat()),
        (4, ballot_commands()),
        (4, approval_commands()),
        (4, verification_commands()),
        (4, team_commands()),
        (4, resource_commands()),
        (4, timing_commands()),
        (4, dead_letter_commands()),
        (4, graph_commands()),
        (4, [queue_commands(), kind_commands()].concat()),
        (4, [schedule_commands(), blob_commands()].concat()),
    ];
    for (version, commands) in brought {
        let mut trial = Trial::new();
        trial.apply(Command::Control(ControlCommand::RaiseVersion(version - 1)));
        for command in commands {
            assert_eq!(command_version(&encoded(&command)), version);
            let before = trial.fleet.encode();
            let reply = trial.apply(command);
            let is_refused = matches!(reply, Reply::Refused(Refusal::NotInForce { since, .. }) if since == version);
            assert!(is_refused, "{reply:?}");
            assert_eq!(trial.fleet.encode(), before, "nothing that an older program can't read");
        }
    }
}

#[test]
fn a_submission_with_the_term_of_a_team_alone_can_be_read_since_teams_only() {
    let command = Command::Task(TaskCommand::Submit(SubmitTask { team_term: Some(1), ..task(1) }));
    assert_eq!(command_version(&encoded(&command)), Feature::Teams.since());
}

/// Returns the bytes of a state in which every message of this version has the first one in its header.
pub fn as_of_the_first_version(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    // In the header; and the head's first field, after the head's key and length.
    bytes[2] = 1;
    let at = (5..bytes.len()).find(|at| bytes[*at] == 4 && bytes[at + 1] == known_version() as u8).expect("a version");
    bytes[at + 1] = 1;
    bytes
}

#[test]
fn a_state_with_what_its_version_does_not_have_is_refused() {
    let refused = |trial: Trial, problem: &str| {
        let refused = Fleet::decode(&as_of_the_first_version(&trial.fleet.encode()));
        assert_eq!(refused.err(), Some(CodecError::Inconsistent(problem.to_owned())));
    };
    let mut trial = Trial::newest();
    trial.record(recorded());
    refused(trial, "an audit log before its version");
    let mut trial = Trial::newest();
    trial.identity(IdentityCommand::Configure(trusted()));
    refused(trial, "identities before their version");
    let mut trial = Trial::newest();
    trial.post(letter(1));
    refused(trial, "letters before their version");
    let mut trial = Trial::newest();
    trial.set_policies(vec![policy("a")]);
    // Setting them is recorded, and the audit log is checked first.
    refused(trial, "an audit log before its version");
    let mut trial = Trial::newest();
    trial.open(OpenBallot { electorate: vec![Elector { letter: None, ..elector("a", 0) }], ..ballot(1) });
    refused(trial, "ballots before their version");
    let mut trial = Trial::newest();
    trial.join(worker("a"));
    trial.form(team(1, 1));
    refused(trial, "teams before their version");
    let mut trial = Trial::newest();
    let stay = trial.join(worker("a"));
    trial.contribute(stay, amounts(1, 1));
    refused(trial, "resources before their version");
}

#[test]
fn what_is_no_message_of_this_kind_is_refused_and_named() {
    let mut reply = Vec::new();
    encode_reply(&Reply::Done, &mut reply);
    assert_eq!(decode_command(&reply), Err(CodecError::Header("command")));
    assert_eq!(decode_command(&[]), Err(CodecError::Header("command")));
    assert_eq!(Fleet::decode(&[]).err(), Some(CodecError::Header("snapshot")));
    // Untagged messages began with these bytes.
    for first in 0..=8 {
        let mut bytes = busy().fleet.encode();
        bytes[0] = first;
        let refused = Fleet::decode(&bytes).expect_err("it is of an earlier format");
        assert!(refused.to_string().contains("a version before fleet version 1"), "{refused}");
    }
}

/// Later versions may add a variant, a field, a version or a codec.
#[test]
fn what_a_later_version_has_added_is_refused_and_named() {
    let newer = |bytes: &[u8], wanted: CodecError| {
        let refused = decode_command(bytes).expect_err("it is newer");
        assert_eq!(refused, wanted);
    };
    let tick = encoded(&Command::Control(ControlCommand::Tick));
    let mut variant = tick.clone();
    // Field 40, empty.
    variant.extend([0xa1, 0x00, 0x00]);
    newer(&variant, CodecError::Unknown { what: "command", number: 40 });
    let mut field = encoded(&Command::Task(TaskCommand::Cancel { task: TaskId(2), reason: "why".to_owned() }));
    // Field 9 of the cancellation, an integer.
    field[5] += 2;
    field.extend([7 << 2, 1]);
    newer(&field, CodecError::Unknown { what: "command", number: 2 });
    let mut version = tick.clone();
    version[2] = known_version() as u8 + 1;
    let found = known_version() + 1;
    newer(&version, CodecError::Version { what: "command", found, known: known_version() });
    let mut codec = tick;
    codec[1] = 2;
    newer(&codec, CodecError::Codec("command", 2));
}

#[test]
fn several_commands_in_one_are_none() {
    let cancel = encoded(&Command::Task(TaskCommand::Cancel { task: TaskId(2), reason: String::new() }));
    // Field 9 raises the version and field 7 completes an attempt; keys encode the difference to the previous number.
    for (of, further) in [("another domain", &[7 << 2, 2][..]), ("its own domain", &[5 << 2 | 1, 0])] {
        let bytes = [&cancel, further].concat();
        assert!(matches!(decode_command(&bytes), Err(CodecError::Malformed("command", _))), "with one of {of}");
    }
}

#[test]
fn a_header_with_another_version_than_is_needed_is_refused() {
    let mut command = encoded(&Command::Control(ControlCommand::Tick));
    command[2] = 0;
    let other = |what| CodecError::OtherVersion { what, found: 0, wanted: FIRST_VERSION };
    assert_eq!(decode_command(&command), Err(other("command")));
    let mut state = busy().fleet.encode();
    state[2] = 0;
    assert_eq!(Fleet::decode(&state).err(), Some(other("snapshot")));
    let mut reply = Vec::new();
    encode_reply(&Reply::Done, &mut reply);
    reply[2] = 0;
    assert_eq!(decode_reply(&reply), Err(other("reply")));
}

#[test]
fn a_value_that_a_later_version_has_added_is_told_as_newer() {
    let lost =
        Command::Agent(AgentCommand::Lost { agent: AgentId(7), session: SessionId(300), reason: LossReason::Failed });
    let mut bytes = encoded(&lost);
    assert_eq!(bytes.pop(), Some(LossReason::Failed as u8));
    bytes.push(99);
    assert_eq!(decode_command(&bytes), Err(CodecError::Unknown { what: "command", number: 4 }));
}

#[test]
fn a_snapshot_of_a_newer_fleet_version_is_refused() {
    let mut bytes = busy().fleet.encode();
    bytes[2] = known_version() as u8 + 1;
    let version = CodecError::Version { what: "snapshot", found: known_version() + 1, known: known_version() };
    assert_eq!(Fleet::decode(&bytes).err(), Some(version));
}

#[test]
fn versions_are_raised_only_to_what_is_known() {
    let mut trial = Trial::new();
    assert_eq!(trial.fleet.version(), FIRST_VERSION);
    let asked = known_version() + 1;
    let refused = Reply::Refused(Refusal::Version { asked, current: FIRST_VERSION, known: known_version() });
    assert_eq!(trial.apply(Command::Control(ControlCommand::RaiseVersion(asked))), refused);
    let lower = trial.apply(Command::Control(ControlCommand::RaiseVersion(0)));
    assert!(matches!(lower, Reply::Refused(_)));
    assert_eq!(trial.apply(Command::Control(ControlCommand::RaiseVersion(known_version()))), Reply::Done);
    assert_eq!(trial.fleet.version(), known_version());
}

#[test]
fn a_snapshot_that_breaks_off_anywhere_is_refused() {
    for fleet in [busy().fleet, newest().fleet] {
        let bytes = fleet.encode();
        for end in 0..bytes.len() {
            assert!(Fleet::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
    }
}

#[test]
fn a_snapshot_with_any_byte_changed_is_refused_or_the_state_of_a_sound_fleet() {
    for fleet in [busy().fleet, newest().fleet] {
        let bytes = fleet.encode();
        for at in 0..bytes.len() {
            for change in [1, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] ^= change;
                survive(&bytes);
            }
        }
    }
}

/// Whatever can be decoded can be used by any command without a panic.
fn survive(bytes: &[u8]) {
    let Ok(mut fleet) = Fleet::decode(bytes) else {
        return;
    };
    let mut effects = Vec::new();
    for (n, command) in commands().into_iter().enumerate() {
        fleet.apply(Stamp::at(2_000_000 + n as u64 * 100_000), command, &mut effects);
    }
    fleet.apply(Stamp::at(u64::MAX), Command::Control(ControlCommand::Tick), &mut effects);
    fleet.checksum();
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_or_refused(
        mut bytes in prop::collection::vec(any::<u8>(), 0..200), version in 1..=known_version() as u8,
    ) {
        bytes.splice(..0, [b'C', 1, version, 0]);
        if let Ok(command) = decode_command(&bytes) {
            prop_assert_eq!(encoded(&command), bytes.clone(), "there is only one encoding");
            Trial::new().apply(command);
        }
        bytes[0] = b'R';
        let _ = decode_reply(&bytes);
        bytes[0] = b'S';
        survive(&bytes);
    }
}
