//! The life of a fleet's certificate authority: made once, rotated by adding the next one to what members trust,
//! issuing by it when everybody can have learned that, and dropping the old one when nothing that it issued is valid
//! any more. Pure: the state is in a Secret, the time is passed in, and keys are made by the caller. So the operator
//! may be away, restarted or late at any step.

mod secret;
#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use robeing_identity::{AUTHORITY_LIFETIME, Authority, IdentityError, MAX_AUTHORITIES, TrustBundle};
pub use secret::{Found, KEYS_OF_COORDINATORS, TRUST_KEY, from_secret, to_secret};

/// The share of an authority's lifetime that is left when it is rotated: a third.
const REST: u32 = 3;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// An authority's certificate and private key, PEM. Its `Debug` form does not reveal the key.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// The private key.
    pub key: String,
    /// Time until which the certificate is valid, Unix milliseconds.
    pub not_after: u64,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pair").field("not_after", &self.not_after).finish_non_exhaustive()
    }
}

impl Pair {
    /// Reads a pair. Of several certificates, the first one is the authority's.
    ///
    /// # Errors
    /// If the certificate or the key can't be read, or they do not belong together.
    pub fn read(certificate: &str, key: &str) -> Result<Self, IdentityError> {
        let first = certificates(certificate).into_iter().next().unwrap_or_default();
        let authority = Authority::from_pem(&first, key)?;
        Ok(Self { certificate: first, key: key.to_owned(), not_after: authority.not_after() })
    }

    /// Returns the pair of an authority.
    pub fn of(authority: &Authority) -> Self {
        let certificate = certificates(authority.certificate_pem()).into_iter().next().unwrap_or_default();
        Self { certificate, key: authority.key_pem().to_owned(), not_after: authority.not_after() }
    }
}

/// Returns the readable certificates in a text, each once and in one form.
pub fn certificates(text: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for part in text.split(BEGIN).skip(1) {
        let Some((body, _)) = part.split_once(END) else { continue };
        let lines: Vec<&str> = body.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let certificate = format!("{BEGIN}\n{}\n{END}\n", lines.join("\n"));
        if !found.contains(&certificate) && TrustBundle::from_pem(&certificate).is_ok() {
            found.push(certificate);
        }
    }
    found
}

/// The phase of a rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No rotation is in progress.
    Steady,
    /// The next authority is trusted and does not issue yet.
    Adding {
        /// Since when everybody can learn that it is trusted, Unix milliseconds; `None` if they can't yet.
        since: Option<u64>,
    },
    /// The next authority issues, and the old one is still trusted.
    Retiring {
        /// Since when, Unix milliseconds; `None` until the fleet's time is known.
        since: Option<u64>,
    },
}

/// The authority of a fleet and those that it trusts. Its `Debug` form reveals no secret.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthorityState {
    /// The authority that issues.
    pub issuing: Pair,
    /// The authority that issues after this one; set in [`Phase::Adding`] alone.
    pub next: Option<Pair>,
    /// The certificates of all trusted authorities, PEM; they include `issuing` and `next`.
    pub trust: Vec<String>,
    /// The phase of the rotation.
    pub phase: Phase,
    /// The Secret that the newest authority comes from; empty if the operator made it.
    pub source: String,
    /// The value of the annotation that the last rotation was begun for.
    pub rotated_for: Option<String>,
    /// The secret with which coordinators sign join tokens.
    pub join_key: String,
    /// The last known issuer of service-account tokens, and its keys.
    pub issuer: Option<super::issuers::Issuer>,
    /// The pools that have a Secret with a join secret.
    pub join_pools: Vec<String>,
}

impl fmt::Debug for AuthorityState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("AuthorityState");
        shown.field("issuing", &self.issuing).field("next", &self.next).field("trusted", &self.trust.len());
        shown.field("phase", &self.phase).field("source", &self.source).finish_non_exhaustive()
    }
}

/// Where the authority should come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// The operator makes it.
    Own,
    /// A Secret of the user contains it.
    Given {
        /// The Secret's name.
        secret: &'a str,
        /// Its content; `None` while it can't be read.
        pair: Option<&'a Pair>,
    },
}

/// What the next step of the life is decided by.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The operator's wall clock, Unix milliseconds.
    pub now: u64,
    /// The fleet's wall time, Unix milliseconds; `None` while no leader responds. Phases are timed by it alone, so that
    /// a wrong clock of the operator shortens none.
    pub fleet: Option<u64>,
    /// How long two authorities are trusted before the next issues, and after.
    pub overlap: Duration,
    /// The value of the annotation that asks for a rotation.
    pub asked: Option<&'a str>,
    /// Where the authority should come from.
    pub wanted: Wanted<'a>,
    /// Whether agents can read all trusted authorities in the ConfigMap, and the coordinators have them.
    pub published: bool,
}

/// The next step of the life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing is to do.
    Rest,
    /// Trust another authority. If it is not given, it is to be made.
    Begin(Option<Pair>),
    /// The phase lasts since now.
    Stamp(u64),
    /// Issue by the next authority.
    Switch,
    /// Trust the issuing authority alone.
    Finish,
}

/// Returns the next step.
pub fn step(state: &AuthorityState, view: &View<'_>) -> Step {
    match state.phase {
        Phase::Steady => begin(state, view),
        Phase::Adding { since } => adding(state, since, view),
        Phase::Retiring { since } => match (since, view.fleet) {
            (_, None) => Step::Rest,
            (Some(since), Some(fleet)) if since <= fleet => {
                if is_over(since, fleet, view.overlap) {
                    Step::Finish
                } else {
                    Step::Rest
                }
            }
            (_, Some(fleet)) => Step::Stamp(fleet),
        },
    }
}

fn begin(state: &AuthorityState, view: &View<'_>) -> Step {
    match view.wanted {
        Wanted::Given { pair: None, .. } => Step::Rest,
        Wanted::Given { pair: Some(pair), .. } if pair.certificate == state.issuing.certificate => Step::Rest,
        Wanted::Given { pair: Some(pair), .. } => Step::Begin(Some(pair.clone())),
        Wanted::Own => {
            let is_asked = view.asked.is_some() && view.asked != state.rotated_for.as_deref();
            let is_due = view.fleet.unwrap_or(view.now) >= due_at(state);
            if is_asked || is_due || !state.source.is_empty() { Step::Begin(None) } else { Step::Rest }
        }
    }
}

fn adding(state: &AuthorityState, since: Option<u64>, view: &View<'_>) -> Step {
    let next = state.next.as_ref().map(|next| &next.certificate);
    match view.wanted {
        Wanted::Given { pair: Some(pair), .. } if next != Some(&pair.certificate) => {
            return Step::Begin(Some(pair.clone()));
        }
        Wanted::Own if !state.source.is_empty() => return Step::Begin(None),
        _ => {}
    }
    if !view.published {
        return Step::Rest;
    }
    // Nothing that it has issued is valid any more, so nobody could be cut off; and without valid certificates the
    // coordinators may find no leader, whose time could be waited for.
    if view.fleet.unwrap_or(view.now) >= state.issuing.not_after {
        return Step::Switch;
    }
    match (since, view.fleet) {
        (_, None) => Step::Rest,
        (Some(since), Some(fleet)) if since <= fleet => {
            if is_over(since, fleet, view.overlap) {
                Step::Switch
            } else {
                Step::Rest
            }
        }
        (_, Some(fleet)) => Step::Stamp(fleet),
    }
}

fn is_over(since: u64, now: u64, overlap: Duration) -> bool {
    u128::from(now.saturating_sub(since)) >= overlap.as_millis()
}

/// Returns when an authority of the operator's is rotated, Unix milliseconds.
fn due_at(state: &AuthorityState) -> u64 {
    let rest = (AUTHORITY_LIFETIME / REST).as_millis();
    state.issuing.not_after.saturating_sub(u64::try_from(rest).unwrap_or(u64::MAX))
}

/// Returns how long the current phase still lasts at least; `None` if no time ends it.
pub fn remaining(state: &AuthorityState, view: &View<'_>) -> Option<Duration> {
    let (Phase::Adding { since: Some(since) } | Phase::Retiring { since: Some(since) }) = state.phase else {
        return None;
    };
    Some(view.overlap.saturating_sub(Duration::from_millis(view.fleet?.saturating_sub(since))))
}

impl AuthorityState {
    /// Returns the state of a fleet that is certified by this authority, the first, or one that replaces a lost one.
    /// `trusted` are the certificates that members trust already: they are dropped when nothing that they issued is
    /// valid any more.
    pub fn first(issuing: Pair, source: &str, trusted: Vec<String>, join_key: String) -> Self {
        let mut trust = vec![issuing.certificate.clone()];
        trust.extend(trusted.into_iter().filter(|known| *known != issuing.certificate));
        trust.truncate(MAX_AUTHORITIES);
        let phase = if trust.len() == 1 { Phase::Steady } else { Phase::Retiring { since: None } };
        Self {
            issuing,
            next: None,
            trust,
            phase,
            source: source.to_owned(),
            rotated_for: None,
            join_key,
            issuer: None,
            join_pools: Vec::new(),
        }
    }

    /// Returns the state in which these authorities, which members trust already, are trusted, too. The phase starts
    /// over, so that they are dropped only when nothing that they issued is valid any more.
    #[must_use]
    pub fn trusting(mut self, published: Vec<String>) -> Self {
        let before = self.trust.len();
        for certificate in published {
            if self.trust.len() < MAX_AUTHORITIES && !self.trust.contains(&certificate) {
                self.trust.push(certificate);
            }
        }
        if self.trust.len() > before {
            self.phase = match self.phase {
                Phase::Adding { .. } => Phase::Adding { since: None },
                Phase::Steady | Phase::Retiring { .. } => Phase::Retiring { since: None },
            };
        }
        self
    }

    /// Returns the state after a rotation has begun: `next` is trusted. An earlier next one, which has issued nothing,
    /// is trusted no more.
    #[must_use]
    pub fn begun(mut self, next: Pair, source: &str, asked: Option<&str>) -> Self {
        if let Some(abandoned) = self.next.take().filter(|pair| pair.certificate != self.issuing.certificate) {
            self.trust.retain(|known| *known != abandoned.certificate);
        }
        if !self.trust.contains(&next.certificate) {
            self.trust.truncate(MAX_AUTHORITIES - 1);
            self.trust.push(next.certificate.clone());
        }
        self.source = source.to_owned();
        self.rotated_for = asked.map(str::to_owned).or(self.rotated_for);
        self.next = Some(next);
        self.phase = Phase::Adding { since: None };
        self
    }

    /// Returns the state with the phase lasting since this time, Unix milliseconds.
    #[must_use]
    pub fn stamped(mut self, at: u64) -> Self {
        match &mut self.phase {
            Phase::Steady => {}
            Phase::Adding { since } | Phase::Retiring { since } => *since = Some(at),
        }
        self
    }

    /// Returns the state after the next authority has begun to issue, at this time of the fleet.
    #[must_use]
    pub fn switched(mut self, at: Option<u64>) -> Self {
        if let Some(next) = self.next.take() {
            // The certificates that matter are the first, so that a bounded list never loses them.
            self.trust.retain(|known| *known != next.certificate);
            self.trust.insert(0, next.certificate.clone());
            self.issuing = next;
        }
        self.phase = Phase::Retiring { since: at };
        self
    }

    /// Returns the state in which the issuing authority alone is trusted.
    #[must_use]
    pub fn finished(mut self) -> Self {
        self.trust = vec![self.issuing.certificate.clone()];
        self.phase = Phase::Steady;
        self
    }

    /// Returns all trusted authorities, PEM.
    pub fn bundle(&self) -> String {
        self.trust.concat()
    }
}
