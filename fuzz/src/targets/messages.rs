//! Messages between agents.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use robeing_agent::messaging::{
    Address, Outcome,
    frame::{Content, Hello, MAX_ITEMS},
    inbox::{Inbox, MAX_HANDLING},
    journal::format,
    memory::Memory,
    outbox::Outbox,
    packet::{LANES, Texts},
    wire,
};
use robeing_proto::{
    codec::{self, MAX_PARTS},
    v1::SubmitRequest,
};

use super::check_sentence;

/// Any text is either an address, which is read back from its text form, or refused with a sentence. Agents and coordinators
/// agree about it.
pub fn address(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let address = text.parse::<Address>();
    assert_eq!(address.is_ok(), robeing_coordinator::fuzz::is_address(text));
    match address {
        Ok(address) => assert_eq!(address.to_string().parse(), Ok(address)),
        Err(refused) => check_sentence(refused),
    }
}

/// A frame of messages is either read or refused with a sentence. What is read is within the limits, and does no harm to
/// an inbox and an outbox.
pub fn frame(bytes: &[u8]) {
    let bytes = Bytes::copy_from_slice(bytes);
    let read = wire::read(&bytes, &mut Texts::default());
    let Ok(frame) = wire::decode(&bytes) else { return assert!(read.is_err()) };
    match Hello::from_frame(frame.clone()) {
        Ok(hello) => assert_eq!(Hello::from_frame(hello.to_frame()), Ok(hello)),
        Err(refused) => check_sentence(refused),
    }
    assert_eq!(read, Content::from_frame(frame), "the generated code reads it otherwise");
    let content = match read {
        Ok(content) => content,
        Err(refused) => return check_sentence(refused),
    };
    assert!(content.packets.len() + content.outcomes.len() + content.credits.len() <= MAX_ITEMS);
    let peer: Arc<str> = "peer".into();
    let mut inbox = Inbox::new(Memory::default(), MAX_HANDLING);
    inbox.connect(&peer);
    for packet in content.packets.into_iter().flatten() {
        assert_eq!(packet.validate(), Ok(()));
        if inbox.receive(0, &peer, packet).is_err() {
            break;
        }
    }
    while let Some(handed) = inbox.hand_out() {
        inbox.finish(&handed.peer, handed.packet.priority);
        inbox.conclude(0, &handed.packet.sender, handed.packet.id, &Outcome::accepted(None));
    }
    let mut outbox = Outbox::<()>::default();
    outbox.connected([0; LANES]);
    for (priority, limit) in content.credits {
        let _ = outbox.credit(priority, limit);
    }
    for (id, outcome) in content.outcomes {
        assert!(!outbox.outcome(id, outcome), "nothing was sent");
    }
}

/// A journal of messages is either read up to its first damage or refused; what is read is written the same again.
pub fn journal(bytes: &[u8]) {
    let mut file = format::header(7).to_vec();
    file.extend(bytes);
    for file in [Bytes::copy_from_slice(bytes), file.into()] {
        let Some(content) = format::read(&file) else { continue };
        assert!(content.end <= file.len());
        let mut again = format::header(content.journal).to_vec();
        again.extend(format::frame(content.journal, 1, &content.records));
        let again = format::read(&again.into()).expect("a journal");
        assert_eq!(again.records, content.records);
    }
}

/// A message that did not come by gRPC is decoded only if it has no more parts than permitted.
pub fn protocol(bytes: &[u8]) {
    let has_few = codec::check_parts(bytes);
    match codec::decode::<SubmitRequest>(Bytes::copy_from_slice(bytes)) {
        Ok(request) => {
            assert!(has_few.is_ok() && request.tasks.len() <= MAX_PARTS);
            assert_eq!(codec::decode(request.encode_to_vec().into()), Ok(request));
        }
        Err(refused) => check_sentence(refused),
    }
}
