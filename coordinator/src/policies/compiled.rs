//! The policies of a revision, ready to be evaluated.

use std::sync::Arc;

use robeing_fleet::{Feature, Fleet, PolicyList, Refusal, StoredPolicy};
use robeing_policy::{PolicyError, PolicySet, PolicySpec, StoredPolicies};
use tracing::warn;

use crate::ballots::approving::check_approval;

/// Maximum number of errors in a sentence.
const MAX_ERRORS: usize = 8;

/// Policies that were compiled.
#[derive(Default)]
pub struct Compiled {
    list: Option<Arc<PolicyList>>,
    pub policies: StoredPolicies,
}

/// Reads and compiles policies, and returns them as the fleet keeps them.
///
/// # Errors
/// A sentence with everything that is wrong.
pub fn stored(policies: &[String]) -> Result<Vec<StoredPolicy>, String> {
    let read = |(n, json): (usize, &String)| {
        let spec = PolicySpec::from_json(json);
        spec.map_err(|problem| format!("policy {} of the list can't be read: {problem}", n + 1))
    };
    let specs: Vec<PolicySpec> = policies.iter().enumerate().map(read).collect::<Result<_, _>>()?;
    PolicySet::compile(&specs).map_err(|errors| sentence(&errors))?;
    for spec in &specs {
        let checked = spec.approval.as_ref().map_or(Ok(()), check_approval);
        checked.map_err(|problem| format!("policy {:?}, approval: {problem}", spec.name))?;
    }
    Ok(specs.iter().map(|spec| StoredPolicy { name: spec.name.clone(), json: spec.to_json() }).collect())
}

/// Refuses policies, in the form in which the fleet keeps them, that a program of the fleet's version may not be able to
/// read: it would refuse everything that they concern.
///
/// # Errors
/// The refusal.
pub fn check_in_force(fleet: &Fleet, policies: &[StoredPolicy]) -> Result<(), Refusal> {
    let asks = |policy: &StoredPolicy| PolicySpec::from_json(&policy.json).is_ok_and(|spec| spec.approval.is_some());
    match policies.iter().any(asks) {
        true => fleet.check_has(Feature::Approvals),
        false => Ok(()),
    }
}

fn sentence(errors: &[PolicyError]) -> String {
    let mut words: Vec<String> = errors.iter().take(MAX_ERRORS).map(ToString::to_string).collect();
    if errors.len() > MAX_ERRORS {
        words.push(format!("and {} more errors", errors.len() - MAX_ERRORS));
    }
    words.join("; ")
}

impl Compiled {
    /// Compiles the policies of the state.
    pub fn new(list: Option<Arc<PolicyList>>) -> Self {
        let texts = list.iter().flat_map(|list| &list.policies).map(|policy| &*policy.json);
        let policies = StoredPolicies::read(texts);
        for (policy, problem) in policies.problems() {
            warn!(policy, problem, "a policy can't be used by this version; what it concerns is refused");
        }
        Self { list, policies }
    }

    /// Returns whether these are compiled from this list.
    pub fn is_of(&self, list: Option<&Arc<PolicyList>>) -> bool {
        match (&self.list, list) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        }
    }
}
