//! Sealed payloads of packets: what passes a messenger, or waits in the fleet's log, is read by its receiver alone. The
//! cryptography is in the crate `robeing-sealing`.

use std::sync::Arc;

use robeing_platform::Random;
pub use robeing_sealing::{
    About, CARRIER, CONTENT_OVERHEAD, Content, KEY_ID_DIGITS, OVERHEAD, OpeningKey, ReplyKey, SealingError, SealingKey,
    WRAP_BYTES, is_content, seals_replies,
};

use super::packet::{MAX_ENVELOPE, MAX_PAYLOAD, Packet};

/// Begins a sealed reply that passes a messenger, so that it is not taken for one in the clear.
pub const REPLY_MARK: &[u8; 16] = b"robeing\0sealed.1";
/// How much longer a sealed reply that passes a messenger is than the reply, in bytes.
pub const PASSED_OVERHEAD: usize = OVERHEAD + REPLY_MARK.len();

const _: () = assert!(OVERHEAD <= MAX_ENVELOPE && CONTENT_OVERHEAD <= MAX_ENVELOPE);
const _: () = assert!(MAX_PAYLOAD == robeing_sealing::MAX_PAYLOAD);

/// Returns what is authenticated with the payload of a packet.
pub fn about(packet: &Packet) -> About<'_> {
    About { id: packet.id.0, sender: &packet.sender, agent: &packet.agent, kind: &packet.kind }
}

/// Seals the payload of a packet in place.
///
/// # Errors
/// [`SealingError`] if the payload is too large, or the key can't be used.
pub fn seal(packet: &mut Packet, key: &SealingKey, random: &dyn Random) -> Result<(), SealingError> {
    packet.payload = key.seal(&about(packet), &packet.payload, random)?;
    packet.key_id = Some(Arc::from(key.id()));
    Ok(())
}

/// Seals the payload of a packet in place so that what its receiver replies is sealed as well. Returns what opens that.
///
/// # Errors
/// [`SealingError`] if the payload is too large, or the key can't be used.
pub fn seal_with_reply(packet: &mut Packet, key: &SealingKey, random: &dyn Random) -> Result<ReplyKey, SealingError> {
    let content = Content::new(&packet.payload, random)?;
    let (wrap, reply) = content.wrap(&about(packet), key, random)?;
    packet.payload = Content::payload(&wrap, content.ciphertext());
    packet.key_id = Some(Arc::from(Content::key_id(key)));
    Ok(reply)
}

/// Seals the payload of a packet in place as a letter: what its receiver replies is sealed as well, and nobody keeps what
/// would open it.
///
/// # Errors
/// [`SealingError`] if the payload is too large, or the key can't be used.
pub fn seal_letter(packet: &mut Packet, key: &SealingKey, random: &dyn Random) -> Result<(), SealingError> {
    seal_with_reply(packet, key, random).map(drop)
}

/// Opens the payload of a packet in place. A packet that is not sealed is left as it is.
///
/// # Errors
/// [`SealingError::NotOpened`] if it was sealed for another key or message, or was changed.
pub fn open(packet: &mut Packet, key: &OpeningKey) -> Result<(), SealingError> {
    if let Some(id) = &packet.key_id {
        packet.payload = key.open(id, &about(packet), &packet.payload)?;
        packet.key_id = None;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use robeing_platform::OsRandom;

    use super::*;
    use crate::messaging::{packet::PacketId, tests::fixture::packet};

    #[test]
    fn the_receiver_reads_what_was_sealed_for_it_and_a_changed_packet_is_refused() {
        let key = OpeningKey::generate(&OsRandom);
        for (seal, id) in [
            (seal as fn(&mut Packet, &SealingKey, &dyn Random) -> _, key.public().id()),
            (seal_letter, Content::key_id(key.public())),
        ] {
            let mut sealed = packet(1);
            seal(&mut sealed, key.public(), &OsRandom).unwrap();
            assert_eq!((sealed.key_id.as_deref(), sealed.validate()), (Some(&*id), Ok(())));
            for change in [
                |packet: &mut Packet| packet.id = PacketId(2),
                |packet: &mut Packet| packet.sender = "c".into(),
                |packet: &mut Packet| packet.agent = "c".into(),
                |packet: &mut Packet| packet.kind = "other".into(),
            ] {
                let mut changed = sealed.clone();
                change(&mut changed);
                assert_eq!(open(&mut changed, &key), Err(SealingError::NotOpened));
            }
            open(&mut sealed, &key).unwrap();
            assert_eq!(sealed, packet(1));
            open(&mut sealed, &key).unwrap();
            assert_eq!(sealed, packet(1), "it is not sealed any more");
        }
    }
}
