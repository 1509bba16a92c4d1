//! The policies of a revision, ready to be evaluated.

use std::sync::Arc;

use robeing_fleet::{PolicyList, StoredPolicy};
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
