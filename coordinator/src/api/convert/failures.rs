//! Conversion of the failures of attempts.

use robeing_fleet::{Failure, FailureKind};
use robeing_proto::v1;

use super::same_variants;

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
    matches!(kind, FailureKind::Denied | FailureKind::NotApproved | FailureKind::Disagreement)
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
    }
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
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OF_FLEET: [v1::FailureKind; 3] =
        [v1::FailureKind::Denied, v1::FailureKind::NotApproved, v1::FailureKind::Disagreement];

    #[test]
    fn every_kind_of_failure_of_the_api_comes_back_as_it_was() {
        let kinds = (0..).map_while(|kind| v1::FailureKind::try_from(kind).ok());
        let reported = |kind: &v1::FailureKind| *kind != v1::FailureKind::Unspecified && !OF_FLEET.contains(kind);
        for kind in kinds.filter(reported) {
            let told = v1::Failure { kind: kind.into(), message: "m".into(), code: Some(3), ..Default::default() };
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
    fn kinds_have_names_for_policies() {
        assert_eq!(failure_kind_name(FailureKind::Exit), "exit");
        assert_eq!(failure_kind_name(FailureKind::OutputTooLarge), "output_too_large");
    }
}
