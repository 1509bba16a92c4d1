//! The claims of a service-account token, and whether they may be believed.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

use super::{TokenError, TokenIssuer, shown, take_apart};
use crate::digest;

/// How far the clock of the API server may deviate, milliseconds: a token is valid for so long before and after its
/// times. The API server itself allows as much.
pub const LEEWAY_MS: u64 = 60_000;
/// Maximum size of a token's `jti`, bytes; a token with a longer one gets a digest as its id.
pub const MAX_TOKEN_ID_BYTES: usize = 128;
/// What the subject of every service account begins with.
const SUBJECT_PREFIX: &str = "system:serviceaccount:";
/// Maximum length of a namespace (a DNS label, RFC 1123), bytes.
const MAX_NAMESPACE_BYTES: usize = 63;
/// Maximum length of the name of a service account or pod (a DNS subdomain, RFC 1123), bytes.
const MAX_NAME_BYTES: usize = 253;
/// Maximum length of a pod's uid, bytes. It is a UUID, though no rule says so.
const MAX_UID_BYTES: usize = 128;

/// The claims of a verified token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccountClaims {
    /// The issuer.
    pub issuer: String,
    /// The namespace of the service account.
    pub namespace: String,
    /// The name of the service account.
    pub service_account: String,
    /// The name and the uid of the pod that the token is bound to, if it is bound to one.
    pub pod: Option<(String, String)>,
    /// What identifies the token among all of this issuer: its `jti`, or a digest of it if it has none.
    pub token_id: String,
    /// Time until which the token is valid, Unix milliseconds, without leeway.
    pub expires: u64,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audiences {
    One(String),
    Many(Vec<String>),
}

impl Audiences {
    fn contain(&self, wanted: &str) -> bool {
        match self {
            Self::One(one) => one == wanted,
            Self::Many(many) => many.iter().any(|one| one == wanted),
        }
    }
}

#[derive(Deserialize)]
struct ObjectReference {
    name: String,
    uid: Option<String>,
}

#[derive(Deserialize)]
struct Kubernetes {
    namespace: String,
    serviceaccount: ObjectReference,
    pod: Option<ObjectReference>,
}

/// The claims of a token, unverified.
#[derive(Deserialize)]
pub(super) struct Claims {
    iss: Option<String>,
    sub: Option<String>,
    aud: Option<Audiences>,
    /// Unix seconds, as the other times; fractions are permitted (RFC 7519, 2).
    exp: Option<f64>,
    nbf: Option<f64>,
    iat: Option<f64>,
    jti: Option<String>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Kubernetes>,
}

/// Converts Unix seconds to milliseconds. Times before 1970 count as 1970, and times out of range as the last one.
fn millis(seconds: f64) -> u64 {
    // A float is cut off at the bounds of the integer.
    (seconds * 1_000.0) as u64
}

/// Returns whether a text is a DNS label or a DNS subdomain (RFC 1123), which have no capital letters on Kubernetes.
fn is_dns(text: &str, with_dots: bool, max: usize) -> bool {
    let is_label = |label: &str| {
        let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && !label.starts_with('-') && !label.ends_with('-') && label.bytes().all(is_inner)
    };
    text.len() <= max && (with_dots || !text.contains('.')) && text.split('.').all(is_label)
}

/// Returns the namespace and the name in the subject of a service account.
fn service_account(subject: &str) -> Option<(&str, &str)> {
    let (namespace, name) = subject.strip_prefix(SUBJECT_PREFIX)?.split_once(':')?;
    (is_dns(namespace, false, MAX_NAMESPACE_BYTES) && is_dns(name, true, MAX_NAME_BYTES)).then_some((namespace, name))
}

impl Claims {
    pub(super) fn issuer(&self) -> Option<&str> {
        self.iss.as_deref()
    }

    /// Checks the claims of a token whose signature is right. `signed` is what was signed.
    pub(super) fn check(
        self,
        issuer: &TokenIssuer,
        signed: &str,
        now: u64,
    ) -> Result<ServiceAccountClaims, TokenError> {
        let missing = |claim| TokenError::Missing { claim };
        if !self.aud.as_ref().ok_or(missing("aud"))?.contain(&issuer.audience) {
            return Err(TokenError::Audience { expected: issuer.audience.clone() });
        }
        let expires = self.check_times(now)?;
        let subject = self.sub.ok_or(missing("sub"))?;
        let Some((namespace, name)) = service_account(&subject) else {
            return Err(TokenError::Subject { subject: shown(&subject) });
        };
        let kubernetes = self.kubernetes.ok_or(missing("kubernetes.io"))?;
        if kubernetes.namespace != namespace || kubernetes.serviceaccount.name != name {
            return Err(TokenError::Disagreement);
        }
        // The digest is not of the signature: for an ES256 signature, everybody can make another one that is right.
        let by_digest = || URL_SAFE_NO_PAD.encode(digest(signed.as_bytes()));
        let is_id = |id: &String| !id.is_empty() && id.len() <= MAX_TOKEN_ID_BYTES;
        Ok(ServiceAccountClaims {
            issuer: issuer.issuer.clone(),
            namespace: namespace.to_owned(),
            service_account: name.to_owned(),
            pod: kubernetes.pod.map(pod).transpose()?,
            token_id: self.jti.filter(is_id).unwrap_or_else(by_digest),
            expires,
        })
    }

    /// Returns when the token expires, if it is valid now.
    fn check_times(&self, now: u64) -> Result<u64, TokenError> {
        let expires = millis(self.exp.ok_or(TokenError::Missing { claim: "exp" })?);
        if now >= expires.saturating_add(LEEWAY_MS) {
            return Err(TokenError::Expired { ms_ago: now - expires });
        }
        for (claim, time) in [("nbf", self.nbf), ("iat", self.iat)] {
            let time = time.map_or(0, millis);
            if time > now.saturating_add(LEEWAY_MS) {
                return Err(TokenError::NotYet { claim, ms_ahead: time - now });
            }
        }
        Ok(expires)
    }
}

fn pod(pod: ObjectReference) -> Result<(String, String), TokenError> {
    let uid = pod.uid.filter(|uid| !uid.is_empty()).ok_or(TokenError::Missing { claim: "kubernetes.io/pod/uid" })?;
    if !is_dns(&pod.name, true, MAX_NAME_BYTES) || uid.len() > MAX_UID_BYTES {
        return Err(TokenError::Malformed { part: "claim about the pod" });
    }
    Ok((pod.name, uid))
}

/// Returns when a token expires by its own claim, Unix milliseconds; `None` if it is no JWT or has no such claim.
/// Nothing of the token is verified: only for tokens that others verify.
pub fn claimed_expiry(token: &str) -> Option<u64> {
    take_apart(token.trim()).ok()?.claims.exp.map(millis)
}
