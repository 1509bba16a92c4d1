//! Payloads of messages that only their receivers can read, for agents and clients. It draws random numbers, and does
//! no I/O and reads no clock.
//!
//! HPKE (RFC 9180) in base mode, with X25519-HKDF-SHA256, HKDF-SHA256 and ChaCha20Poly1305. The implementation, the
//! crate `hpke`, is unaudited, as its authors state. There are two forms, which the id of the key tells apart:
//!
//! - [`SealingKey::seal`] seals a payload for one receiver: the encapsulated key (32 bytes), then the ciphertext with its
//!   tag.
//! - [`Content`] is encrypted once, with a key of its own, for any number of receivers. That key is wrapped for each of
//!   them by HPKE ([`Content::wrap`]). A receiver gets its wrap followed by the content. Its replies through the
//!   coordinators, and through a messenger, are sealed by a secret that only it and the sender share ([`ReplyKey`]).
//!
//! The packet's id, sender, receiving agent and type are authenticated with the payload, or with the wrap and the digest
//! of the content, so that nobody on the way can change them, pass the payload off as that of another message, or give a
//! receiver the wrap of another one. Base mode does not prove who sealed it: the name of the sender rests on the streams,
//! for a message that a messenger passed on on the messenger, and for a letter on the coordinators.
//!
//! A key's id is the first 16 hexadecimal digits of the public key. It only tells the keys of one agent apart, for
//! example after a rotation; nothing is trusted because of it.

mod content;
pub mod letters;
mod source;

use std::fmt;

use bytes::Bytes;
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable, aead::ChaCha20Poly1305, kdf::HkdfSha256,
    kem::X25519HkdfSha256, single_shot_open, single_shot_seal_with_rng,
};
use robeing_platform::Random;

pub use self::content::{CARRIER, CONTENT_OVERHEAD, Content, ReplyKey, WRAP_BYTES, is_content, seals_replies};
use self::source::Source;

/// The length of a public key, of a private key, and of an encapsulated key, in bytes.
pub const KEY_BYTES: usize = 32;
/// The length of the tag that authenticates a ciphertext, in bytes.
const TAG_BYTES: usize = 16;
/// How much longer a sealed payload, or a sealed reply, is than the payload, in bytes.
pub const OVERHEAD: usize = KEY_BYTES + TAG_BYTES;
/// Maximum size of a payload that is sealed, in bytes: 1 MiB.
pub const MAX_PAYLOAD: usize = 1 << 20;
/// Number of hexadecimal digits of the id of a key.
pub const KEY_ID_DIGITS: usize = 16;
/// Separates these payloads from other uses of the same keys.
const INFO: &[u8] = b"robeing.message.v1 sealed payload";

type X25519 = X25519HkdfSha256;
type Aead = ChaCha20Poly1305;
type Kdf = HkdfSha256;

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

    /// Returns the key's id.
    pub fn id(&self) -> String {
        let digits = self.0.iter().map(|byte| format!("{byte:02x}"));
        digits.collect::<String>()[..KEY_ID_DIGITS].to_owned()
    }

    fn public(&self) -> Result<<X25519 as Kem>::PublicKey, SealingError> {
        <X25519 as Kem>::PublicKey::from_bytes(&self.0).map_err(|_| SealingError::BadKey)
    }

    /// Seals a payload for the owner of this key, as the payload of this message.
    ///
    /// # Errors
    /// [`SealingError`] if the payload is too large, or the key can't be used.
    pub fn seal(&self, about: &About<'_>, payload: &[u8], random: &dyn Random) -> Result<Bytes, SealingError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(SealingError::TooLarge(payload.len()));
        }
        let (mode, key, aad) = (OpModeS::Base, self.public()?, about.encode());
        let sealed =
            single_shot_seal_with_rng::<Aead, Kdf, X25519>(&mode, &key, INFO, payload, &aad, &mut Source(random));
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

    /// Returns whether what carries the id of a key is sealed for this one, in whichever form.
    pub fn is_of(&self, key_id: &str) -> bool {
        content::bare_id(key_id) == self.public.id()
    }

    /// Opens the sealed payload of this message, in the form that the id of the key says.
    ///
    /// # Errors
    /// [`SealingError::NotOpened`] if it was sealed for another key or message, or was changed.
    pub fn open(&self, key_id: &str, about: &About<'_>, sealed: &[u8]) -> Result<Bytes, SealingError> {
        if is_content(key_id) {
            return self.open_content(about, sealed);
        }
        let (encapsulated, ciphertext) = sealed.split_at_checked(KEY_BYTES).ok_or(SealingError::NotOpened)?;
        let encapsulated = encapsulated_key(encapsulated)?;
        let (mode, aad) = (OpModeR::Base, about.encode());
        let opened = single_shot_open::<Aead, Kdf, X25519>(&mode, &self.private, &encapsulated, INFO, ciphertext, &aad);
        opened.map(Bytes::from).map_err(|_| SealingError::NotOpened)
    }
}

fn encapsulated_key(bytes: &[u8]) -> Result<<X25519 as Kem>::EncappedKey, SealingError> {
    <X25519 as Kem>::EncappedKey::from_bytes(bytes).map_err(|_| SealingError::NotOpened)
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
    pub id: u128,
    /// Who sends it: an agent's name, or `client:NAME`.
    pub sender: &'a str,
    /// The agent that it is for.
    pub agent: &'a str,
    /// Its type.
    pub kind: &'a str,
}

impl About<'_> {
    /// Returns its encoding, in which every text is preceded by its length, so that no two messages have the same.
    fn encode(&self) -> Vec<u8> {
        let mut bytes = self.id.to_be_bytes().to_vec();
        for text in [self.sender, self.agent, self.kind] {
            bytes.extend((text.len() as u32).to_be_bytes());
            bytes.extend(text.as_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests;
