//! Conversion of the failures of attempts.

use robeing_fleet::{Failure, FailureKind, FailureMatch};
use robeing_proto::v1;

use super::{
    fields::{BadField, bad, some},
    same_variants,
};

same_variants! {
    /// Converts a kind of failure to its API form.
    failure_kind,
    /// Converts a kind of failure from its API form; `None` for an unknown one.
    known_failure_kind,
    FailureKind {
        Exit,
        Signal,
        Spawn,
        TimedOut,
        OutputTooLarge,
        Http,
        Unreachable,
        Reported,
        Denied,
        NotApproved,
        Disagreement,
        Expired,
        Stalled,
        Dependency,
        Subtask,
        ResultsTooLarge,
        AgentLost,
        Deadline,
        Internal,
    }
}

/// Returns the name of a kind of failure, as policies see it: `exit`, `timed_out`, …
pub fn failure_kind_name(kind: FailureKind) -> String {
    let name = failure_kind(kind).as_str_name();
    name.trim_start_matches("FAILURE_KIND_").to_ascii_lowercase()
}

/// Returns whether only the fleet itself can tell that something failed in this way, so that no agent reports it.
fn is_of_fleet(kind: FailureKind) -> bool {
    use FailureKind::{Denied, Dependency, Disagreement, Expired, NotApproved, ResultsTooLarge, Stalled, Subtask};
    matches!(kind, Denied | NotApproved | Disagreement | Expired | Stalled | Dependency | Subtask | ResultsTooLarge)
}

/// Converts a failure from an agent's report.
pub fn failure_from_wire(failure: v1::Failure) -> Failure {
    let kind = v1::FailureKind::try_from(failure.kind).ok().and_then(known_failure_kind);
    let kind = kind.filter(|kind| !is_of_fleet(*kind));
    Failure {
        kind: kind.unwrap_or(FailureKind::Internal),
        message: failure.message,
        code: failure.code,
        stderr_tail: failure.stderr_tail,
        retryable: failure.retryable,
        retry_after_ms: failure.retry_after_ms,
        name: failure.name,
    }
}

/// Converts failures that are meant by their kind, code or name.
///
/// # Errors
/// A kind is not known.
pub fn failure_match(of: v1::FailureMatch) -> Result<FailureMatch, BadField> {
    let v1::FailureMatch { kind, code, name } = of;
    let kind = match v1::FailureKind::try_from(kind) {
        Ok(v1::FailureKind::Unspecified) => None,
        Ok(kind) => known_failure_kind(kind),
        Err(_) => return Err(bad("retry.non_retryable", format!("unknown kind of failure {kind}"))),
    };
    Ok(FailureMatch { kind, code, name: some(name) })
}

/// Converts failures that are meant by their kind, code or name to their API form.
pub fn told_failure_match(of: &FailureMatch) -> v1::FailureMatch {
    let kind = of.kind.map_or(v1::FailureKind::Unspecified, failure_kind);
    v1::FailureMatch { kind: kind.into(), code: of.code, name: of.name.clone().unwrap_or_default() }
}

/// Converts a failure to its API form.
pub fn failure(failure: &Failure) -> v1::Failure {
    v1::Failure {
        kind: failure_kind(failure.kind).into(),
        message: failure.message.clone(),
        code: failure.code,
        stderr_tail: failure.stderr_tail.clone(),
        retryable: failure.retryable,
        retry_after_ms: failure.retry_after_ms,
        name: failure.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_FLEET: [v1::FailureKind; 8] = [
        v1::FailureKind::Denied,
        v1::FailureKind::NotApproved,
        v1::FailureKind::Disagreement,
        v1::FailureKind::Expired,
        v1::FailureKind::Stalled,
        v1::FailureKind::Dependency,
        v1::FailureKind::Subtask,
        v1::FailureKind::ResultsTooLarge,
    ];

    #[test]
    fn every_kind_of_failure_of_the_api_comes_back_as_it_was() {
        let kinds = (0..100).filter_map(|kind| v1::FailureKind::try_from(kind).ok());
        let reported = |kind: &v1::FailureKind| *kind != v1::FailureKind::Unspecified && !OF_FLEET.contains(kind);
        for kind in kinds.filter(reported) {
            let (message, name) = ("m".into(), "n".into());
            let told = v1::Failure { kind: kind.into(), message, code: Some(3), name, ..Default::default() };
            assert_eq!(failure(&failure_from_wire(told.clone())), told);
        }
    }

    #[test]
    fn a_kind_that_is_not_known_or_no_agents_is_an_internal_failure() {
        for kind in OF_FLEET.map(i32::from).into_iter().chain([v1::FailureKind::Unspecified.into(), i32::MAX, -1]) {
            let heard = failure_from_wire(v1::Failure { kind, ..Default::default() });
            assert_eq!(heard.kind, FailureKind::Internal, "{kind}");
        }
    }

    #[test]
    fn every_failure_that_a_task_can_name_comes_back_as_it_was() {
        let kinds = (0..100).filter_map(|kind| v1::FailureKind::try_from(kind).ok());
        for kind in kinds {
            let told = v1::FailureMatch { kind: kind.into(), code: Some(3), name: "n".into() };
            assert_eq!(failure_match(told.clone()).map(|of| told_failure_match(&of)), Ok(told));
        }
        assert!(failure_match(v1::FailureMatch { kind: 99, ..Default::default() }).is_err());
    }

    #[test]
    fn kinds_have_names_for_policies() {
        assert_eq!(failure_kind_name(FailureKind::Exit), "exit");
        assert_eq!(failure_kind_name(FailureKind::OutputTooLarge), "output_too_large");
    }
}
