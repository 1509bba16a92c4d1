//! The state of an authority in a Secret. Coordinators read some of its keys as files.

use std::collections::BTreeMap;

use k8s_openapi::{ByteString, api::core::v1::Secret};

use super::{AuthorityState, Pair, Phase, certificates};
use crate::{
    controller::{
        build::SecretContent,
        identity::{self, issuers::Issuer},
    },
    names,
};

const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";
const JOIN_KEY: &str = "join.key";
const NEXT_CERTIFICATE: &str = "next.crt";
const NEXT_KEY: &str = "next.key";
const ISSUER: &str = "issuer.json";

/// The key with the trusted authorities, also in the ConfigMap.
pub const TRUST_KEY: &str = "trust.crt";
/// The keys that coordinators have as files.
pub const KEYS_OF_COORDINATORS: [&str; 4] = [CERTIFICATE, KEY, JOIN_KEY, TRUST_KEY];

const ADDING: &str = "adding";
const RETIRING: &str = "retiring";
const STEADY: &str = "steady";

/// What a Secret contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// The state, complete.
    Whole(Box<AuthorityState>),
    /// The state, of which a part was missing or wrong and has been derived from the rest: it is to be written again.
    Mended(Box<AuthorityState>),
    /// No authority whose key is known.
    Lost {
        /// The certificates that it lists as trusted.
        trusted: Vec<String>,
        /// The secret with which join tokens are signed, if it is there.
        join_key: Option<String>,
    },
}

/// Reads the state from a Secret.
pub fn from_secret(secret: &Secret) -> Found {
    let text = |key: &str| identity::text(secret, key);
    let note = |key: &str| secret.metadata.annotations.as_ref()?.get(key).cloned();
    let pair = |certificate: &str, key: &str| Pair::read(&text(certificate)?, &text(key)?).ok();
    let said = text(TRUST_KEY).unwrap_or_default();
    let mut trust = certificates(&said);
    let join_key = text(JOIN_KEY).filter(|key| !key.trim().is_empty());
    let (issuing, next) = (pair(CERTIFICATE, KEY), pair(NEXT_CERTIFICATE, NEXT_KEY));
    let is_promoted = issuing.is_none();
    // Where the issuing authority is lost and the next one is not, members trust that already.
    let (issuing, mut next) = match (issuing, next) {
        (Some(issuing), next) => (issuing, next),
        (None, Some(next)) => (next, None),
        (None, None) => return Found::Lost { trusted: trust, join_key },
    };
    let mut mended = is_promoted;
    for certificate in [Some(&issuing.certificate), next.as_ref().map(|next| &next.certificate)].into_iter().flatten() {
        if !trust.contains(certificate) {
            mended = true;
            trust.insert(0, certificate.clone());
        }
    }
    let since = note(names::ANNOTATION_PHASE_SINCE).and_then(|since| since.parse().ok());
    let phase = match note(names::ANNOTATION_PHASE).as_deref() {
        Some(ADDING) if next.is_some() => Phase::Adding { since },
        Some(RETIRING) if next.is_none() && !is_promoted => Phase::Retiring { since },
        Some(STEADY) if next.is_none() && trust.len() == 1 => Phase::Steady,
        _ => {
            mended = true;
            match &next {
                Some(_) => Phase::Adding { since: None },
                None if trust.len() > 1 => Phase::Retiring { since: None },
                None => Phase::Steady,
            }
        }
    };
    if next.as_ref().is_some_and(|next| next.certificate == issuing.certificate) {
        (next, mended) = (None, true);
    }
    let phase = match (phase, &next) {
        (Phase::Adding { .. }, None) => Phase::Retiring { since: None },
        // What was just added may be unknown to members: the time is counted again.
        (Phase::Adding { .. }, Some(_)) if mended => Phase::Adding { since: None },
        (phase, _) => phase,
    };
    let has_join_key = join_key.is_some();
    let state = Box::new(AuthorityState {
        issuing,
        next,
        trust,
        phase,
        source: note(names::ANNOTATION_SOURCE).unwrap_or_default(),
        rotated_for: note(names::ANNOTATION_ROTATED_FOR),
        join_key: join_key.unwrap_or_default(),
        issuer: text(ISSUER).and_then(|text| serde_json::from_str(&text).ok()),
        join_pools: note(names::ANNOTATION_JOIN_POOLS).map(|pools| list(&pools)).unwrap_or_default(),
    });
    if mended || !has_join_key { Found::Mended(state) } else { Found::Whole(state) }
}

fn list(text: &str) -> Vec<String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Returns the data and the annotations of the Secret with this state. All keys and annotations of the operator's are
/// there; one without a value is to be removed.
pub fn to_secret(state: &AuthorityState) -> SecretContent {
    let bytes = |text: &str| Some(ByteString(text.as_bytes().to_vec()));
    let next = state.next.as_ref();
    let issuer = state.issuer.as_ref().map(Issuer::to_json);
    let data = BTreeMap::from([
        (CERTIFICATE, bytes(&state.issuing.certificate)),
        (KEY, bytes(&state.issuing.key)),
        (JOIN_KEY, bytes(&state.join_key)),
        (TRUST_KEY, bytes(&state.bundle())),
        (NEXT_CERTIFICATE, next.and_then(|next| bytes(&next.certificate))),
        (NEXT_KEY, next.and_then(|next| bytes(&next.key))),
        (ISSUER, issuer.as_deref().and_then(bytes)),
    ]);
    let (phase, since) = match state.phase {
        Phase::Steady => (STEADY, None),
        Phase::Adding { since } => (ADDING, since),
        Phase::Retiring { since } => (RETIRING, since),
    };
    let join_pools = Some(state.join_pools.join(",")).filter(|pools| !pools.is_empty());
    let annotations = BTreeMap::from([
        (names::ANNOTATION_PHASE, Some(phase.to_owned())),
        (names::ANNOTATION_PHASE_SINCE, since.map(|since| since.to_string())),
        (names::ANNOTATION_SOURCE, Some(state.source.clone()).filter(|source| !source.is_empty())),
        (names::ANNOTATION_ROTATED_FOR, state.rotated_for.clone()),
        (names::ANNOTATION_JOIN_POOLS, join_pools),
    ]);
    (data, annotations)
}
