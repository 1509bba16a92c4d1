//! Encoding of a command: a message with one field, whose number identifies the command and its domain. An empty
//! message is a tick. The domains share the numbers, so that the bytes don't depend on how commands are divided into
//! domains.

use bilrost::{
    Canonicity, DecodeError, DecodeErrorKind,
    encoding::{
        Capped, DistinguishedOneofDecoder, NonEmptyDistinguishedOneofDecoder, NonEmptyOneof, Oneof,
        RestrictedDecodeContext, TagReader, TagWriter, WireType,
    },
};

use crate::{
    AgentCommand, AuditCommand, BallotCommand, Command, ControlCommand, IdentityCommand, KindCommand, MailCommand,
    PolicyCommand, PoolCommand, QueueCommand, ResourceCommand, ScheduleCommand, TaskCommand, TeamCommand,
};

/// Appends a command's message.
pub(super) fn write(command: &Command, out: &mut Vec<u8>) {
    let mut tags = TagWriter::new();
    match command {
        Command::Task(command) => command.oneof_encode(out, &mut tags),
        Command::Agent(command) => command.oneof_encode(out, &mut tags),
        Command::Pool(command) => command.oneof_encode(out, &mut tags),
        Command::Control(command) => command.oneof_encode(out, &mut tags),
        Command::Identity(command) => command.oneof_encode(out, &mut tags),
        Command::Audit(command) => command.oneof_encode(out, &mut tags),
        Command::Mail(command) => command.oneof_encode(out, &mut tags),
        Command::Policy(command) => command.oneof_encode(out, &mut tags),
        Command::Ballot(command) => command.oneof_encode(out, &mut tags),
        Command::Team(command) => command.oneof_encode(out, &mut tags),
        Command::Resource(command) => command.oneof_encode(out, &mut tags),
        Command::Kind(command) => command.oneof_encode(out, &mut tags),
        Command::Queue(command) => command.oneof_encode(out, &mut tags),
        Command::Schedule(command) => command.oneof_encode(out, &mut tags),
    }
}

/// Reads a command from a message, which must contain nothing else.
pub(super) fn read(mut message: &[u8]) -> Result<Command, DecodeError> {
    if message.is_empty() {
        return Ok(Command::Control(ControlCommand::Tick));
    }
    let mut numbers = TagReader::new();
    let (number, wire_type) = numbers.decode_key(Capped::new(&mut message))?;
    let command = read_field(number, wire_type, &mut message)?;
    if message.is_empty() {
        return Ok(command);
    }
    let (number, wire_type) = numbers.decode_key(Capped::new(&mut message))?;
    // An unknown field is reported as such, because a later version may have added it.
    read_field(number, wire_type, &mut message)?;
    Err(DecodeError::new(DecodeErrorKind::ConflictingFields))
}

fn read_field(number: u32, wire_type: WireType, message: &mut &[u8]) -> Result<Command, DecodeError> {
    let message = Capped::new(message);
    let context = RestrictedDecodeContext::new(Canonicity::Canonical);
    if TaskCommand::FIELD_TAGS.contains(&number) {
        let read = TaskCommand::oneof_decode_field_distinguished(number, wire_type, message, context);
        return read.map(|(command, _)| Command::Task(command));
    }
    if AgentCommand::FIELD_TAGS.contains(&number) {
        let read = AgentCommand::oneof_decode_field_distinguished(number, wire_type, message, context);
        return read.map(|(command, _)| Command::Agent(command));
    }
    if PoolCommand::FIELD_TAGS.contains(&number) {
        let read = PoolCommand::oneof_decode_field_distinguished(number, wire_type, message, context);
        return read.map(|(command, _)| Command::Pool(command));
    }
    if IdentityCommand::FIELD_TAGS.contains(&number) {
        let read = IdentityCommand::oneof_decode_field_distinguished(number, wire_type, message, context);
        return read.map(|(command, _)| Command::Identity(command));
    }
    if AuditCommand::FIELD_TAGS.contains(&number) {
        let read = AuditCommand::oneof_decode_field_distinguished(number, wire_type, message, context);
        return read.map(|(command, _)| Command::Audit(command));
    }
    if MailCommand::FIELD_TAGS.contains(&number) {
        let read = MailCommand::oneof_decode_field_distinguished(number, wire_type, message, context);
        return read.map(|(command, _)| Command::Mail(command));
    }
    if PolicyCommand::FIELD_TAGS.contains(&number) {
        let read = PolicyCommand::oneof_decode_field_distinguished(number, wire_type, message, context);
        return read.map(|(command, _)| Command::Policy(command));
    }
    if BallotCommand::FIELD_TAGS.contains(&number) {
        let read = BallotCommand::oneof_decode_field_distinguished(number, wire_type, message, context);
        return read.map(|(command, _)| Command::Ballot(command));
    }
    if TeamCommand::FIELD_TAGS.contains(&number) {
        let read = TeamCommand::oneof_decode_field_distinguished(number, wire_type, message, context);
        return read.map(|(command, _)| Command::Team(command));
    }
    if ResourceCommand::FIELD_TAGS.contains(&number) {
        let read = ResourceCommand::oneof_decode_field_distinguished(number, wire_type, message, context);
        return read.map(|(command, _)| Command::Resource(command));
    }
    if KindCommand::FIELD_TAGS.contains(&number) {
        let read = KindCommand::oneof_decode_field_distinguished(number, wire_type, message, context);
        return read.map(|(command, _)| Command::Kind(command));
    }
    if QueueCommand::FIELD_TAGS.contains(&number) {
        let read = QueueCommand::oneof_decode_field_distinguished(number, wire_type, message, context);
        return read.map(|(command, _)| Command::Queue(command));
    }
    if ScheduleCommand::FIELD_TAGS.contains(&number) {
        let read = ScheduleCommand::oneof_decode_field_distinguished(number, wire_type, message, context);
        return read.map(|(command, _)| Command::Schedule(command));
    }
    if ControlCommand::FIELD_TAGS.contains(&number) {
        let mut command = ControlCommand::Tick;
        let read = ControlCommand::oneof_decode_field_distinguished(&mut command, number, wire_type, message, context);
        return read.map(|_| Command::Control(command));
    }
    Err(DecodeError::new(DecodeErrorKind::UnknownField))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_is_of_two_domains() {
        let mut numbers = [
            TaskCommand::FIELD_TAGS,
            AgentCommand::FIELD_TAGS,
            PoolCommand::FIELD_TAGS,
            ControlCommand::FIELD_TAGS,
            IdentityCommand::FIELD_TAGS,
            AuditCommand::FIELD_TAGS,
            MailCommand::FIELD_TAGS,
            PolicyCommand::FIELD_TAGS,
            BallotCommand::FIELD_TAGS,
            TeamCommand::FIELD_TAGS,
            ResourceCommand::FIELD_TAGS,
            KindCommand::FIELD_TAGS,
            QueueCommand::FIELD_TAGS,
            ScheduleCommand::FIELD_TAGS,
        ]
        .concat();
        numbers.sort_unstable();
        let before = numbers.len();
        numbers.dedup();
        assert_eq!((numbers.len(), before), (42, 42), "{numbers:?}");
    }
}
