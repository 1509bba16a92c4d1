//! Invariants of kinds in any state.

use super::TaskKind;
use crate::{
    Feature,
    audit::{Check, ensure},
    fleet::State,
};

/// Checks that the kinds are within their bounds, in order, and of a revision that there was.
pub(crate) fn check_kinds(state: &State) -> Check {
    let Some(list) = &state.task_kinds else { return Ok(()) };
    ensure(state.version >= Feature::Kinds.since(), || "kinds before their version".to_owned())?;
    TaskKind::check_all(&list.kinds).map_err(|refusal| format!("kinds: {refusal}"))?;
    ensure(list.kinds.is_sorted_by(|one, next| one.name < next.name), || "kinds are not in order".to_owned())?;
    ensure((1..=state.revision).contains(&list.revision), || "kinds of a revision that never was".to_owned())
}
