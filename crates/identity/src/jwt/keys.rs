//! The public keys of an issuer, a JSON Web Key Set (RFC 7517 and 7518).

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::Value;

/// Maximum size of a key set, bytes.
pub const MAX_KEY_SET_BYTES: usize = 64 * 1024;
/// Maximum number of keys in a set, with those that can't be used.
pub const MAX_KEYS: usize = 32;
/// Minimum and maximum size of the modulus of an RSA key, bits.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;
/// Maximum size of the exponent of an RSA key, bytes. Greater ones only cost time.
const MAX_EXPONENT_BYTES: usize = 4;
/// Size of a coordinate on the curve P-256, bytes.
const COORDINATE_BYTES: usize = 32;

/// Why a key set can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeySetError {
    /// It is too large.
    #[error("the key set has {bytes} bytes, the most is {MAX_KEY_SET_BYTES}")]
    TooLarge {
        /// Its size, bytes.
        bytes: usize,
    },
    /// It has too many keys.
    #[error("the key set has {keys} keys, the most is {MAX_KEYS}")]
    TooMany {
        /// How many.
        keys: usize,
    },
    /// It is no key set.
    #[error("this is no JSON Web Key Set, such as an API server has at /openid/v1/jwks: {0}")]
    Malformed(String),
    /// None of its keys can be used.
    #[error(
        "none of the {keys} keys of the set can verify RS256 (RSA, 2,048 to 8,192 bits) or ES256 (P-256) signatures"
    )]
    NoneUsable {
        /// How many keys it has.
        keys: usize,
    },
}

/// A signature algorithm that is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// ECDSA on the curve P-256 with SHA-256.
    Es256,
}

impl Algorithm {
    pub(super) fn parse(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "ES256" => Some(Self::Es256),
            _ => None,
        }
    }
}

/// The result of verifying a signature with a key set, from the worst match to the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Match {
    /// It does not have the key.
    NoKey,
    /// It has the key, for another algorithm.
    OtherAlgorithm,
    /// The signature is wrong.
    Wrong,
    /// The signature is right.
    Verified,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PublicKey {
    /// Modulus and exponent, big endian, without leading zeros.
    Rsa { n: Vec<u8>, e: Vec<u8> },
    /// An uncompressed point on P-256.
    Ec(Vec<u8>),
}

impl PublicKey {
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Rsa { .. } => Algorithm::Rs256,
            Self::Ec(_) => Algorithm::Es256,
        }
    }

    fn has_signed(&self, signed: &str, signature: &[u8]) -> bool {
        let verified = match self {
            Self::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), signature)
            }
            Self::Ec(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(signed.as_bytes(), signature)
            }
        };
        verified.is_ok()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    id: Option<String>,
    public: PublicKey,
}

/// The keys of an issuer that can verify signatures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeySet {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<Value>,
}

/// A key, as far as it matters.
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    n: Option<String>,
    e: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Jwk {
    /// Returns the key if it is made to verify signatures with an algorithm that is taken.
    fn usable(self) -> Option<Key> {
        let verifies = self.usage.as_deref().is_none_or(|usage| usage == "sig")
            && self.key_ops.as_ref().is_none_or(|ops| ops.iter().any(|op| op == "verify"));
        let public = match &*self.kty {
            "RSA" => rsa(&bytes(self.n)?, &bytes(self.e)?)?,
            "EC" if self.crv.as_deref() == Some("P-256") => ec(&bytes(self.x)?, &bytes(self.y)?)?,
            _ => return None,
        };
        let fits = self.alg.as_deref().is_none_or(|alg| Algorithm::parse(alg) == Some(public.algorithm()));
        (verifies && fits).then_some(Key { id: self.kid, public })
    }
}

fn bytes(text: Option<String>) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text?).ok()
}

/// Returns a number without its leading zeros, which some issuers write although they must not (RFC 7518, 2).
fn number(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

fn rsa(n: &[u8], e: &[u8]) -> Option<PublicKey> {
    let (n, e) = (number(n), number(e));
    let bits = n.len() * 8 - n.first()?.leading_zeros() as usize;
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last % 2 == 1);
    let usable = RSA_BITS.contains(&bits) && is_odd(n) && is_odd(e) && e.len() <= MAX_EXPONENT_BYTES && e != [1];
    usable.then(|| PublicKey::Rsa { n: n.to_vec(), e: e.to_vec() })
}

fn ec(x: &[u8], y: &[u8]) -> Option<PublicKey> {
    // That the point is on the curve is checked with each signature. 4 says that it is uncompressed (SEC 1, 2.3.3).
    let usable = x.len() == COORDINATE_BYTES && y.len() == COORDINATE_BYTES;
    usable.then(|| PublicKey::Ec([&[4], x, y].concat()))
}

impl KeySet {
    /// Reads a key set. Keys of other kinds, for other uses, or that are too weak are left out.
    ///
    /// # Errors
    /// If it is malformed, too large, or has no key that can be used.
    pub fn from_json(jwks: &[u8]) -> Result<Self, KeySetError> {
        if jwks.len() > MAX_KEY_SET_BYTES {
            return Err(KeySetError::TooLarge { bytes: jwks.len() });
        }
        let set: Jwks = serde_json::from_slice(jwks).map_err(|error| KeySetError::Malformed(error.to_string()))?;
        let keys = set.keys.len();
        if keys > MAX_KEYS {
            return Err(KeySetError::TooMany { keys });
        }
        // A key that can't be read is of a kind that is not known.
        let usable = set.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok()?.usable());
        let set = Self { keys: usable.collect() };
        if set.keys.is_empty() { Err(KeySetError::NoneUsable { keys }) } else { Ok(set) }
    }

    /// Returns how many keys of the set can be used.
    #[expect(clippy::len_without_is_empty, reason = "a set without keys can't be made")]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Verifies a signature with the keys of this id; with all, if the token names none.
    pub(super) fn verify(&self, algorithm: Algorithm, id: Option<&str>, signed: &str, signature: &[u8]) -> Match {
        let named = self.keys.iter().filter(|key| id.is_none() || key.id.as_deref() == id);
        let matches = named.map(|key| match key.public.algorithm() == algorithm {
            false => Match::OtherAlgorithm,
            true if key.public.has_signed(signed, signature) => Match::Verified,
            true => Match::Wrong,
        });
        matches.max().unwrap_or(Match::NoKey)
    }
}
