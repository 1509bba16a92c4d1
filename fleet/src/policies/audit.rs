//! Invariants of policies in any state.

use super::StoredPolicy;
use crate::{
    Feature,
    audit::{Check, ensure},
    fleet::State,
};

/// Checks that the policies are within their bounds and of a revision that there was.
pub(crate) fn check_policies(state: &State) -> Check {
    let Some(list) = &state.policies else { return Ok(()) };
    ensure(state.version >= Feature::Policies.since(), || "policies before their version".to_owned())?;
    StoredPolicy::check_all(&list.policies).map_err(|refusal| format!("policies: {refusal}"))?;
    ensure((1..=state.revision).contains(&list.revision), || "policies of a revision that never was".to_owned())
}
