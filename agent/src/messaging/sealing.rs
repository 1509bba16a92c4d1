//! Sealed payloads: what passes a messenger, or waits in the fleet's log, is read by its receiver alone.
//!
//! HPKE (RFC 9180) in base mode, with X25519-HKDF-SHA256, HKDF-SHA256 and ChaCha20Poly1305. The implementation, the
//! crate `hpke`, is unaudited, as its authors state. A sealed payload is the encapsulated key (32 bytes), and the
//! ciphertext with its tag. The packet's id, sender, receiving agent and type are authenticated with it, so a relay can
//! neither change them nor pass the payload off as that of another message. Base mode does not prove who sealed it: the
//! name of the sender rests on the streams, and for a relayed message on the messenger.
//!
//! A key's id is the first 16 hexadecimal digits of the public key. It only tells the keys of one agent apart, for
//! example after a rotation; nothing is trusted because of it.

use std::{convert::Infallible, fmt, sync::Arc};

use bytes::Bytes;
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable,
    aead::ChaCha20Poly1305,
    kdf::HkdfSha256,
    kem::X25519HkdfSha256,
    rand_core::{TryCryptoRng, TryRng},
    single_shot_open, single_shot_seal_with_rng,
};
use robeing_platform::Random;

use super::packet::{MAX_ENVELOPE, MAX_PAYLOAD, Packet, PacketId};

/// The length of a public key, of a private key, and of an encapsulated key, in bytes.
pub const KEY_BYTES: usize = 32;
/// How much longer a sealed payload is than the payload, in bytes.
pub const OVERHEAD: usize = KEY_BYTES + 16;
const _: () = assert!(OVERHEAD <= MAX_ENVELOPE);
/// Number of hexadecimal digits of the id of a key.
const ID_DIGITS: usize = 16;
/// Separates these payloads from other uses of the same keys.
const INFO: &[u8] = b"robeing.message.v1 sealed payload";

type X25519 = X25519HkdfSha256;

/// Why a payload can't be sealed or opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealingError {
    /// The bytes are no key.
    #[error("the key is not a valid X25519 key of {KEY_BYTES} bytes; ask the agent for its key again")]
    BadKey,
    /// The payload is too large.
    #[error("the payload has {0} bytes; the most is {MAX_PAYLOAD}")]
    TooLarge(usize),
    /// Sealing failed.
    #[error("the payload can't be sealed for this key; ask the agent for its key again")]
    NotSealed,
    /// The payload was sealed for another key or another message, or it was changed.
    #[error("the sealed payload can't be opened: it is for another key or message, or was changed on its way")]
    NotOpened,
}

/// The public key of a receiver.
#[derive(Clone, PartialEq, Eq)]
pub struct SealingKey([u8; KEY_BYTES]);

impl fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealingKey({})", self.id())
    }
}

impl SealingKey {
    /// Reads a public key.
    ///
    /// # Errors
    /// [`SealingError::BadKey`] if it is none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealingError> {
        let key = bytes.try_into().map_err(|_| SealingError::BadKey)?;
        <X25519 as Kem>::PublicKey::from_bytes(bytes).map_err(|_| SealingError::BadKey)?;
        Ok(Self(key))
    }

    /// Returns the key's bytes.
    pub fn to_bytes(&self) -> [u8; KEY_BYTES] {
        self.0
    }

    /// Returns the key's id, for [`Packet::key_id`].
    pub fn id(&self) -> String {
        let digits = self.0.iter().map(|byte| format!("{byte:02x}"));
        digits.collect::<String>()[..ID_DIGITS].to_owned()
    }

    /// Seals a payload for the owner of this key, as the payload of this message.
    ///
    /// # Errors
    /// [`SealingError`] if the payload is too large, or the key can't be used.
    pub fn seal(&self, about: &About<'_>, payload: &[u8], random: &dyn Random) -> Result<Bytes, SealingError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(SealingError::TooLarge(payload.len()));
        }
        let key = <X25519 as Kem>::PublicKey::from_bytes(&self.0).map_err(|_| SealingError::BadKey)?;
        let (mode, aad) = (OpModeS::Base, about.encode());
        let sealed = single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519>(
            &mode,
            &key,
            INFO,
            payload,
            &aad,
            &mut Source(random),
        );
        let (encapsulated, ciphertext) = sealed.map_err(|_| SealingError::NotSealed)?;
        Ok([&encapsulated.to_bytes()[..], &ciphertext].concat().into())
    }
}

/// The private key of a receiver, which opens what is sealed for it. It is never shown, and erased when dropped.
pub struct OpeningKey {
    private: <X25519 as Kem>::PrivateKey,
    public: SealingKey,
}

impl fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OpeningKey({})", self.public.id())
    }
}

impl OpeningKey {
    /// Generates a key.
    pub fn generate(random: &dyn Random) -> Self {
        let (private, public) = X25519::gen_keypair_with_rng(&mut Source(random));
        Self { private, public: public_key(&public) }
    }

    /// Reads a private key.
    ///
    /// # Errors
    /// [`SealingError::BadKey`] if it is none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SealingError> {
        let private = <X25519 as Kem>::PrivateKey::from_bytes(bytes).map_err(|_| SealingError::BadKey)?;
        let public = public_key(&X25519::sk_to_pk(&private));
        Ok(Self { private, public })
    }

    /// Returns the private key's bytes, to be kept where only the agent can read them.
    pub fn to_secret_bytes(&self) -> [u8; KEY_BYTES] {
        let mut bytes = [0; KEY_BYTES];
        bytes.copy_from_slice(&self.private.to_bytes());
        bytes
    }

    /// Returns the public key.
    pub fn public(&self) -> &SealingKey {
        &self.public
    }

    /// Opens a sealed payload of this message.
    ///
    /// # Errors
    /// [`SealingError::NotOpened`] if it was sealed for another key or message, or was changed.
    pub fn open(&self, about: &About<'_>, sealed: &[u8]) -> Result<Bytes, SealingError> {
        let (encapsulated, ciphertext) = sealed.split_at_checked(KEY_BYTES).ok_or(SealingError::NotOpened)?;
        let encapsulated =
            <X25519 as Kem>::EncappedKey::from_bytes(encapsulated).map_err(|_| SealingError::NotOpened)?;
        let (mode, aad) = (OpModeR::Base, about.encode());
        let opened = single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519>(
            &mode,
            &self.private,
            &encapsulated,
            INFO,
            ciphertext,
            &aad,
        );
        opened.map(Bytes::from).map_err(|_| SealingError::NotOpened)
    }
}

fn public_key(key: &<X25519 as Kem>::PublicKey) -> SealingKey {
    let mut bytes = [0; KEY_BYTES];
    bytes.copy_from_slice(&key.to_bytes());
    SealingKey(bytes)
}

/// What is authenticated with a sealed payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About<'a> {
    /// The packet's id.
    pub id: PacketId,
    /// The agent that it is from.
    pub sender: &'a str,
    /// The agent that it is for.
    pub agent: &'a str,
    /// Its type.
    pub kind: &'a str,
}

impl<'a> About<'a> {
    /// Returns what is authenticated with the payload of a packet.
    pub fn packet(packet: &'a Packet) -> Self {
        Self { id: packet.id, sender: &packet.sender, agent: &packet.agent, kind: &packet.kind }
    }

    /// Returns its encoding, in which every text is preceded by its length, so that no two messages have the same.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.id.0.to_be_bytes().to_vec();
        for text in [self.sender, self.agent, self.kind] {
            bytes.extend((text.len() as u32).to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes
    }
}

/// Seals the payload of a packet in place.
///
/// # Errors
/// [`SealingError`] if the payload is too large, or the key can't be used.
pub fn seal(packet: &mut Packet, key: &SealingKey, random: &dyn Random) -> Result<(), SealingError> {
    packet.payload = key.seal(&About::packet(packet), &packet.payload, random)?;
    packet.key_id = Some(Arc::from(key.id()));
    Ok(())
}

/// Opens the payload of a packet in place. A packet that is not sealed is left as it is.
///
/// # Errors
/// [`SealingError::NotOpened`] if it was sealed for another key or message, or was changed.
pub fn open(packet: &mut Packet, key: &OpeningKey) -> Result<(), SealingError> {
    if packet.key_id.is_some() {
        packet.payload = key.open(&About::packet(packet), &packet.payload)?;
        packet.key_id = None;
    }
    Ok(())
}

/// The agent's source of random numbers, for HPKE. In an agent it is the operating system's generator.
struct Source<'a>(&'a dyn Random);

impl TryRng for Source<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.next_u64() as u32)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        for chunk in bytes.chunks_mut(8) {
            chunk.copy_from_slice(&self.0.next_u64().to_le_bytes()[..chunk.len()]);
        }
        Ok(())
    }
}

impl TryCryptoRng for Source<'_> {}

#[cfg(test)]
mod tests {
    use robeing_platform::OsRandom;

    use super::*;
    use crate::messaging::tests::fixture::packet;

    fn sealed() -> (OpeningKey, Packet) {
        let key = OpeningKey::generate(&OsRandom);
        let mut sealed = packet(1);
        seal(&mut sealed, key.public(), &OsRandom).unwrap();
        (key, sealed)
    }

    #[test]
    fn the_receiver_reads_what_was_sealed_for_it() {
        let (key, mut sealed) = sealed();
        assert_eq!(sealed.key_id.as_deref(), Some(&*key.public().id()));
        assert_eq!(sealed.payload.len(), packet(1).payload.len() + OVERHEAD);
        assert_eq!(sealed.validate(), Ok(()));
        open(&mut sealed, &key).unwrap();
        assert_eq!(sealed, packet(1));
        open(&mut sealed, &key).unwrap();
        assert_eq!(sealed, packet(1), "it is not sealed any more");
    }

    #[test]
    fn nobody_else_reads_it_and_no_change_goes_unseen() {
        let (key, sealed) = sealed();
        assert_eq!(open(&mut sealed.clone(), &OpeningKey::generate(&OsRandom)), Err(SealingError::NotOpened));
        for change in [
            |packet: &mut Packet| packet.id = PacketId(2),
            |packet: &mut Packet| packet.sender = "c".into(),
            |packet: &mut Packet| packet.agent = "c".into(),
            |packet: &mut Packet| packet.kind = "other".into(),
            |packet: &mut Packet| (packet.sender, packet.agent) = ("ab".into(), "".into()),
        ] {
            let mut changed = sealed.clone();
            change(&mut changed);
            assert_eq!(open(&mut changed, &key), Err(SealingError::NotOpened));
        }
        for byte in 0..sealed.payload.len() {
            let mut payload = sealed.payload.to_vec();
            payload[byte] ^= 1;
            let mut changed = Packet { payload: payload.into(), ..sealed.clone() };
            assert_eq!(open(&mut changed, &key), Err(SealingError::NotOpened), "byte {byte}");
        }
        for len in 0..sealed.payload.len() {
            let mut cut = Packet { payload: sealed.payload.slice(..len), ..sealed.clone() };
            assert_eq!(open(&mut cut, &key), Err(SealingError::NotOpened), "{len} bytes");
        }
    }

    #[test]
    fn two_seals_of_one_payload_differ() {
        let key = OpeningKey::generate(&OsRandom);
        let seal = || key.public().seal(&About::packet(&packet(1)), b"x", &OsRandom).unwrap();
        assert_ne!(seal(), seal());
    }

    #[test]
    fn keys_are_read_back_and_others_refused() {
        let key = OpeningKey::generate(&OsRandom);
        let again = OpeningKey::from_bytes(&key.to_secret_bytes()).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(SealingKey::from_bytes(&key.public().to_bytes()).as_ref(), Ok(key.public()));
        assert_eq!(SealingKey::from_bytes(&[1; KEY_BYTES - 1]), Err(SealingError::BadKey));
        assert!(OpeningKey::from_bytes(&[1; KEY_BYTES + 1]).is_err());
        assert!(!format!("{key:?}").contains(&format!("{:?}", key.to_secret_bytes())));
        // All of its Diffie-Hellman results would be zero.
        let zero = SealingKey([0; KEY_BYTES]);
        assert!(zero.seal(&About::packet(&packet(1)), b"x", &OsRandom).is_err());
    }

    #[test]
    fn a_sealed_payload_has_the_limit_of_others() {
        let key = OpeningKey::generate(&OsRandom);
        let about = packet(1);
        let seal = |len| key.public().seal(&About::packet(&about), &vec![0; len], &OsRandom);
        assert_eq!(seal(MAX_PAYLOAD).map(|sealed| sealed.len()), Ok(MAX_PAYLOAD + OVERHEAD));
        assert_eq!(seal(MAX_PAYLOAD + 1), Err(SealingError::TooLarge(MAX_PAYLOAD + 1)));
    }
}
