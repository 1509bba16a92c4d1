//! A payload that is encrypted once, for any number of receivers, and replies to it.

use std::fmt;

use bytes::Bytes;
use hpke::{OpModeR, OpModeS, Serializable, setup_receiver, setup_sender_with_rng};
use ring::{
    aead::{self, Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    digest::{SHA256, digest},
    hkdf::{HKDF_SHA256, Salt},
};
use robeing_platform::Random;
use zeroize::Zeroizing;

use super::{
    About, Aead, KEY_BYTES, Kdf, MAX_PAYLOAD, OVERHEAD, OpeningKey, SealingError, SealingKey, Source, TAG_BYTES,
    X25519, encapsulated_key,
    source::{random_bytes, random_secret},
};

/// The length of a wrapped key: the encapsulated key, and the ciphertext of the key with its tag.
pub const WRAP_BYTES: usize = 2 * KEY_BYTES + TAG_BYTES;
/// How much longer a content with its wrap is than the payload, in bytes.
pub const CONTENT_OVERHEAD: usize = WRAP_BYTES + TAG_BYTES;
/// Stands for the id of a key where a content travels beside the wraps of several receivers. No agent has such a key,
/// so an agent that gets the content without its wrap refuses it.
pub const CARRIER: &str = "w";
/// Begins the id of a key of which a content is wrapped for.
const PREFIX: &str = "w.";
/// The length of the salt of a sealed reply, in bytes.
const SALT_BYTES: usize = OVERHEAD - TAG_BYTES;
/// Separates wrapped keys from other uses of the same keys.
const WRAP: &[u8] = b"robeing.message.v1 content key";
/// Authenticated with the ciphertext of a content.
const CONTENT: &[u8] = b"robeing.message.v1 content";
/// Separates the secret for replies from other secrets of the same exchange of keys.
const REPLY: &[u8] = b"robeing.message.v1 reply";

/// Returns whether the id of a key says that the payload is a wrap and a content.
pub fn is_content(key_id: &str) -> bool {
    key_id.starts_with(PREFIX)
}

/// Returns whether replies through the coordinators, or a messenger, to a message with this key id are sealed.
pub fn seals_replies(key_id: &str) -> bool {
    is_content(key_id)
}

/// Returns the id of the key alone, without what says in which form the payload is.
pub(crate) fn bare_id(key_id: &str) -> &str {
    key_id.strip_prefix(PREFIX).unwrap_or(key_id)
}

/// The key of a content. It is used for one content, so its nonce is always the same.
fn content_key(key: &[u8; KEY_BYTES]) -> Result<LessSafeKey, SealingError> {
    UnboundKey::new(&CHACHA20_POLY1305, key).map(LessSafeKey::new).map_err(|_| SealingError::NotSealed)
}

fn only_nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; aead::NONCE_LEN])
}

/// A payload, encrypted for any number of receivers. Its key is erased when dropped.
pub struct Content {
    key: Zeroizing<[u8; KEY_BYTES]>,
    digest: [u8; 32],
    ciphertext: Bytes,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Content({} bytes)", self.ciphertext.len())
    }
}

impl Content {
    /// Encrypts a payload with a fresh key.
    ///
    /// # Errors
    /// [`SealingError::TooLarge`] if the payload is too large.
    pub fn new(payload: &[u8], random: &dyn Random) -> Result<Self, SealingError> {
        if payload.len() > MAX_PAYLOAD {
            return Err(SealingError::TooLarge(payload.len()));
        }
        let key = random_secret(random);
        let mut ciphertext = Vec::with_capacity(payload.len() + TAG_BYTES);
        ciphertext.extend_from_slice(payload);
        let sealed = content_key(&key)?.seal_in_place_append_tag(only_nonce(), Aad::from(CONTENT), &mut ciphertext);
        sealed.map_err(|_| SealingError::NotSealed)?;
        Ok(Self { key, digest: digest_of(&ciphertext), ciphertext: ciphertext.into() })
    }

    /// Returns the ciphertext, which is the same for all receivers.
    pub fn ciphertext(&self) -> &Bytes {
        &self.ciphertext
    }

    /// Wraps the key for a receiver of the content, as that of this message. Returns the wrap and what opens replies.
    ///
    /// # Errors
    /// [`SealingError`] if the receiver's key can't be used.
    pub fn wrap(
        &self,
        about: &About<'_>,
        key: &SealingKey,
        random: &dyn Random,
    ) -> Result<(Bytes, ReplyKey), SealingError> {
        let (public, mut source) = (key.public()?, Source(random));
        let context = setup_sender_with_rng::<Aead, Kdf, X25519>(&OpModeS::Base, &public, WRAP, &mut source);
        let (encapsulated, mut context) = context.map_err(|_| SealingError::NotSealed)?;
        let sealed = context.seal(&self.key[..], &with_digest(about, &self.digest));
        let sealed = sealed.map_err(|_| SealingError::NotSealed)?;
        let mut secret = Zeroizing::new([0_u8; KEY_BYTES]);
        context.export(REPLY, &mut secret[..]).map_err(|_| SealingError::NotSealed)?;
        Ok(([&encapsulated.to_bytes()[..], &sealed].concat().into(), ReplyKey(secret)))
    }

    /// Returns the id of a receiver's key, as it is given with a content that is wrapped for it.
    pub fn key_id(key: &SealingKey) -> String {
        format!("{PREFIX}{}", key.id())
    }

    /// Returns what a receiver gets as the payload: its wrap, then the ciphertext.
    pub fn payload(wrap: &[u8], ciphertext: &[u8]) -> Bytes {
        [wrap, ciphertext].concat().into()
    }
}

fn digest_of(ciphertext: &[u8]) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, ciphertext).as_ref());
    bytes
}

/// Returns what is authenticated with a wrapped key: the message and its content.
fn with_digest(about: &About<'_>, digest: &[u8; 32]) -> Vec<u8> {
    [&about.encode()[..], digest].concat()
}

impl OpeningKey {
    /// Opens a payload that is a wrap and a content.
    pub(crate) fn open_content(&self, about: &About<'_>, payload: &[u8]) -> Result<Bytes, SealingError> {
        let (wrap, ciphertext) = payload.split_at_checked(WRAP_BYTES).ok_or(SealingError::NotOpened)?;
        let (encapsulated, sealed) = wrap.split_at(KEY_BYTES);
        let encapsulated = encapsulated_key(encapsulated)?;
        let context = setup_receiver::<Aead, Kdf, X25519>(&OpModeR::Base, &self.private, &encapsulated, WRAP);
        let mut context = context.map_err(|_| SealingError::NotOpened)?;
        let key = context.open(sealed, &with_digest(about, &digest_of(ciphertext)));
        let key = Zeroizing::new(key.map_err(|_| SealingError::NotOpened)?);
        let key = key.as_slice().try_into().map_err(|_| SealingError::NotOpened)?;
        let mut opened = ciphertext.to_vec();
        let len = content_key(key)?
            .open_in_place(only_nonce(), Aad::from(CONTENT), &mut opened)
            .map_err(|_| SealingError::NotOpened)?
            .len();
        opened.truncate(len);
        Ok(opened.into())
    }

    /// Returns what seals replies to a payload that is a wrap and a content.
    ///
    /// # Errors
    /// [`SealingError::NotOpened`] if it is none.
    pub fn reply_key(&self, payload: &[u8]) -> Result<ReplyKey, SealingError> {
        let encapsulated = payload.get(..KEY_BYTES).ok_or(SealingError::NotOpened)?;
        let encapsulated = encapsulated_key(encapsulated)?;
        let context = setup_receiver::<Aead, Kdf, X25519>(&OpModeR::Base, &self.private, &encapsulated, WRAP);
        let context = context.map_err(|_| SealingError::NotOpened)?;
        let mut secret = Zeroizing::new([0_u8; KEY_BYTES]);
        context.export(REPLY, &mut secret[..]).map_err(|_| SealingError::NotOpened)?;
        Ok(ReplyKey(secret))
    }
}

/// A secret of a sender and one receiver of a content, which seals the receiver's replies. Each reply has a key of its
/// own, derived from the secret and a random salt, so that any number of them can be sealed. It is erased when dropped.
pub struct ReplyKey(Zeroizing<[u8; KEY_BYTES]>);

impl fmt::Debug for ReplyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ReplyKey")
    }
}

impl ReplyKey {
    fn key(&self, salt: &[u8]) -> Result<LessSafeKey, SealingError> {
        let derived = Salt::new(HKDF_SHA256, salt).extract(&self.0[..]);
        let key = derived.expand(&[REPLY], &CHACHA20_POLY1305).map_err(|_| SealingError::NotSealed)?;
        Ok(LessSafeKey::new(key.into()))
    }

    /// Seals a reply to this message: a salt, then the ciphertext with its tag.
    ///
    /// # Errors
    /// [`SealingError::NotSealed`] if it can't be encrypted.
    pub fn seal(&self, about: &About<'_>, reply: &[u8], random: &dyn Random) -> Result<Bytes, SealingError> {
        let salt = random_bytes(random);
        let mut ciphertext = reply.to_vec();
        let sealed =
            self.key(&salt)?.seal_in_place_append_tag(only_nonce(), Aad::from(about.encode()), &mut ciphertext);
        sealed.map_err(|_| SealingError::NotSealed)?;
        Ok([&salt[..], &ciphertext].concat().into())
    }

    /// Opens a reply to this message.
    ///
    /// # Errors
    /// [`SealingError::NotOpened`] if it is none, or was changed.
    pub fn open(&self, about: &About<'_>, sealed: &[u8]) -> Result<Bytes, SealingError> {
        let (salt, ciphertext) = sealed.split_at_checked(SALT_BYTES).ok_or(SealingError::NotOpened)?;
        let mut opened = ciphertext.to_vec();
        let len = self
            .key(salt)?
            .open_in_place(only_nonce(), Aad::from(about.encode()), &mut opened)
            .map_err(|_| SealingError::NotOpened)?
            .len();
        opened.truncate(len);
        Ok(opened.into())
    }
}

#[cfg(test)]
mod tests {
    use robeing_platform::OsRandom;
    use zeroize::ZeroizeOnDrop;

    use super::*;

    fn erased_when_dropped(secret: &(impl ZeroizeOnDrop + AsRef<[u8]>)) -> &[u8] {
        secret.as_ref()
    }

    #[test]
    fn the_key_of_a_content_and_that_of_its_replies_are_erased_when_dropped() {
        let content = Content::new(b"hello", &OsRandom).expect("it is encrypted");
        let about = About { id: 1, sender: "a", agent: "b", kind: "test" };
        let key = OpeningKey::generate(&OsRandom);
        let (_, reply) = content.wrap(&about, key.public(), &OsRandom).expect("it is wrapped");
        assert_ne!(erased_when_dropped(&content.key), erased_when_dropped(&reply.0));
    }
}
