//! Invariants of identities in any state.

use std::collections::BTreeSet;

use super::{Bar, BarKind, Enrolment};
use crate::{
    Feature, Stamp,
    audit::{Check, ensure},
    config::check_name,
    fleet::State,
    limits::*,
};

/// Checks the configuration and each enrolment, bar and used proof.
pub(crate) fn check_identity(state: &State) -> Check {
    let identity = &state.identity;
    ensure(state.version >= Feature::Identity.since() || *identity == Default::default(), || {
        "identities before their version".to_owned()
    })?;
    let config = identity.config.as_ref().map_or(Ok(()), |config| config.check());
    config.map_err(|refusal| format!("identity configuration: {refusal}"))?;
    identity.enrolments.check(MAX_ENROLMENTS)?;
    identity.bars.check(MAX_BARS)?;
    identity.spent.check(MAX_SPENT_PROOFS)?;
    let mut enrolled = BTreeSet::new();
    for enrolment in identity.enrolments.iter() {
        let sound = is_sound(enrolment, state.now) && enrolled.insert(&enrolment.agent);
        ensure(sound, || format!("the enrolment of {}", enrolment.agent))?;
    }
    let mut barred = BTreeSet::new();
    for bar in identity.bars.iter() {
        let is_forgotten = bar.kind == BarKind::Quarantined || !enrolled.contains(&bar.agent);
        let sound = is_sound_bar(bar, state.now) && barred.insert(&bar.agent) && is_forgotten;
        ensure(sound, || format!("the bar of {}", bar.agent))?;
    }
    check_absence(state, &barred)?;
    let mut ids = BTreeSet::new();
    ensure(identity.spent.iter().all(|spent| ids.insert(spent.proof.id)), || "a proof was used twice".to_owned())
}

fn is_sound(enrolment: &Enrolment, now: Stamp) -> bool {
    check_name("agent", &enrolment.agent).is_ok()
        && enrolment.pool.as_ref().is_none_or(|pool| check_name("pool", pool).is_ok())
        && enrolment.at.fleet <= now.fleet
}

fn is_sound_bar(bar: &Bar, now: Stamp) -> bool {
    check_name("agent", &bar.agent).is_ok()
        && bar.reason.len() <= MAX_REASON_BYTES
        && bar.by.len() <= MAX_ACTOR_BYTES
        && bar.at.fleet <= now.fleet
}

/// Checks that no barred agent has a session.
fn check_absence(state: &State, barred: &BTreeSet<&std::sync::Arc<str>>) -> Check {
    let present = state.agents.known.values().find(|agent| agent.lost.is_none() && barred.contains(&agent.name));
    ensure(present.is_none(), || "a barred agent has a session".to_owned())
}
