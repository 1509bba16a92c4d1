//! A frame of messages is either read or refused with a sentence. What is read is within the limits, and does no harm to
//! an inbox and an outbox.
#![no_main]

use std::sync::Arc;

use bytes::Bytes;
use robeing_agent::messaging::{
    Outcome,
    frame::{Content, Hello, MAX_ITEMS},
    inbox::{Inbox, MAX_HANDLING},
    memory::Memory,
    outbox::Outbox,
    packet::{LANES, Texts},
    wire,
};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let bytes = Bytes::copy_from_slice(bytes);
    let read = wire::read(&bytes, &mut Texts::default());
    let Ok(frame) = wire::decode(&bytes) else { return assert!(read.is_err()) };
    match Hello::from_frame(frame.clone()) {
        Ok(hello) => assert_eq!(Hello::from_frame(hello.to_frame()), Ok(hello)),
        Err(refused) => assert!(!refused.to_string().is_empty()),
    }
    assert_eq!(read, Content::from_frame(frame), "the generated code reads it otherwise");
    let content = match read {
        Ok(content) => content,
        Err(refused) => return assert!(!refused.to_string().is_empty()),
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
    let mut outbox = Outbox::default();
    outbox.connected([0; LANES]);
    for (priority, limit) in content.credits {
        let _ = outbox.credit(priority, limit);
    }
    for (id, outcome) in content.outcomes {
        assert!(!outbox.outcome(id, outcome), "nothing was sent");
    }
});
