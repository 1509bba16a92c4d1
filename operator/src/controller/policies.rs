//! Sends the policies of the spec to the coordinators, once they compile.

use robeing_policy::{PolicyError, PolicySet, PolicySpec};
use tonic::Code;

use super::{ClusterCache, Context, identity::trust::Sent, observe::Observation};

/// Maximum number of errors in a message.
const MOST_NAMED: usize = 3;

/// Returns the policies as the coordinators take them.
///
/// # Errors
/// What is wrong with them, and what to do, as sentences.
pub fn request(policies: &[PolicySpec]) -> Result<Vec<String>, String> {
    match PolicySet::compile(policies) {
        Ok(_) => Ok(policies.iter().map(PolicySpec::to_json).collect()),
        Err(errors) => Err(format!(
            "The policies in spec.policies are not set, and those that were set before stay in force: {}. `robeing \
             policies check FILE` shows everything that is wrong.",
            named(&errors)
        )),
    }
}

fn named(errors: &[PolicyError]) -> String {
    let mut named: Vec<String> = errors.iter().take(MOST_NAMED).map(ToString::to_string).collect();
    if errors.len() > MOST_NAMED {
        named.push(format!("and {} more", errors.len() - MOST_NAMED));
    }
    named.join("; ")
}

/// Sends the policies to the coordinators, if they don't have them. Returns why they are not in force.
pub(crate) async fn set(observation: &Observation, context: &Context, cache: &mut ClusterCache) -> Option<String> {
    let policies = match request(&observation.cluster.spec.policies) {
        Ok(policies) => policies,
        Err(problem) => return Some(problem),
    };
    let Ok(answer) = &observation.fleet else { return None };
    if cache.policies.as_ref().is_some_and(|sent| sent.covers(&policies, &answer.status)) {
        return None;
    }
    let (sent, is_empty) = (Sent::new(&policies, &answer.status), policies.is_empty());
    match context.coordinators.set_policies(&answer.from, &cache.identity.security(), policies).await {
        Ok(()) => {
            cache.policies = Some(sent);
            None
        }
        // A fleet that has coordinators of a version without policies has none.
        Err(error) if is_empty && matches!(error.code(), Some(Code::Unimplemented | Code::FailedPrecondition)) => None,
        Err(error) => Some(format!("The policies in spec.policies are not in force yet: {error}.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str, rule: &str) -> PolicySpec {
        let json = format!(r#"{{"name": "{name}", "events": ["Submission"], "rule": {rule:?}, "action": "deny"}}"#);
        PolicySpec::from_json(&json).expect("a policy")
    }

    #[test]
    fn policies_that_compile_are_sent_as_canonical_json() {
        assert_eq!(request(&[]), Ok(Vec::new()));
        let sent = request(&[policy("a", "true")]).expect("it is right");
        let json = r#"{"name":"a","events":["Submission"],"rule":"true","action":"deny","failurePolicy":"Closed"}"#;
        assert_eq!(sent, [json]);
    }

    #[test]
    fn what_is_wrong_is_told_and_nothing_is_sent() {
        let wrong = |count: usize| {
            let policies: Vec<PolicySpec> = (0..count).map(|n| policy(&format!("p{n}"), "oops")).collect();
            request(&policies).expect_err("they are wrong")
        };
        let one = wrong(1);
        assert!(one.contains("stay in force: policy \"p0\", rule: there is no variable \"oops\""), "{one}");
        assert!(!wrong(MOST_NAMED).contains("more"));
        assert!(wrong(MOST_NAMED + 2).contains("and 2 more"), "{}", wrong(MOST_NAMED + 2));
    }
}
