//! What coordinators send each other for the state machine.

use bytes::Bytes;
use robeing_coordinator::raft::Batch;
use robeing_fleet::{
    Command, ControlCommand, Fleet, FleetConfig, Stamp, archived_in, decode_command, decode_reply, decode_task,
    encode_command, encode_reply, encode_task, known_version,
};

use super::check_sentence;

/// The payload of a log entry is either decoded or refused; one that is decoded encodes to the same bytes.
pub fn batch(bytes: &[u8]) {
    match Batch(Bytes::copy_from_slice(bytes)).open() {
        Ok((now, commands)) => {
            let again = Batch::new(now, commands.iter().map(|command| &command[..]));
            assert_eq!(&again.0[..], bytes);
        }
        Err(refused) => check_sentence(refused),
    }
}

/// A command is either decoded or refused; one that is decoded encodes to the same bytes, and violates no invariant when it
/// is applied.
pub fn command(bytes: &[u8]) {
    let command = match decode_command(bytes) {
        Ok(command) => command,
        Err(refused) => return check_sentence(refused),
    };
    let mut again = Vec::new();
    encode_command(&command, &mut again);
    assert_eq!(again, bytes, "the encoding is canonical");
    let mut fleet = Fleet::new(FleetConfig::default());
    let newest = Command::Control(ControlCommand::RaiseVersion(known_version()));
    for command in [newest, command] {
        fleet.apply(Stamp::at(1), command, &mut Vec::new());
    }
    fleet.audit().expect("the invariants hold");
}

/// A reply to a forwarded command is either decoded or refused; one that is decoded encodes to the same bytes.
pub fn reply(bytes: &[u8]) {
    match decode_reply(bytes) {
        Ok(reply) => {
            let mut again = Vec::new();
            encode_reply(&reply, &mut again);
            assert_eq!(again, bytes, "the encoding is canonical");
        }
        Err(refused) => check_sentence(refused),
    }
}

/// A snapshot is either decoded or refused; one that is decoded encodes to the same bytes. The rows that are read of it
/// alone are those that it has. The same holds for a record of the archive.
pub fn snapshot(bytes: &[u8]) {
    let rows = archived_in(bytes);
    match Fleet::decode(bytes) {
        Ok(fleet) => {
            let again = fleet.encode();
            assert_eq!(again, bytes, "the encoding is canonical");
            assert_eq!(rows, Ok((fleet.archived_tasks().collect(), fleet.records())));
        }
        Err(refused) => {
            check_sentence(refused);
            rows.err().into_iter().for_each(check_sentence);
        }
    }
    match decode_task(bytes) {
        Ok(task) => {
            let mut again = Vec::new();
            encode_task(&task, &mut again);
            assert_eq!(again, bytes, "the encoding is canonical");
        }
        Err(refused) => check_sentence(refused),
    }
}
