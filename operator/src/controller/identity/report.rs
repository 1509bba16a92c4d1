//! What the status and the events of a fleet report of its identity. Pure.

use robeing_crds::{Enrolment, RobeingCluster, Transport as Wanted};

use super::authority::Phase;
use crate::controller::validate::Proof;

/// An event of a rotation: its reason and its note.
pub type RotationEvent = (&'static str, &'static str);

/// The next authority has been made.
pub const STARTED: RotationEvent = (
    "AuthorityRotationStarted",
    "Another certificate authority is trusted, and will certify the members when all can know that.",
);
/// The next authority certifies.
pub const SWITCHED: RotationEvent =
    ("AuthoritySwitched", "Members are certified by the new authority. The old one is trusted until they all are.");
/// The old authority is trusted no more.
pub const FINISHED: RotationEvent = ("AuthorityRotationCompleted", "The old certificate authority is trusted no more.");

/// The warning of open enrolment.
pub const OPEN_WARNING: &str = "Anyone who can reach a coordinator may join as a worker or specialist, submit tasks and \
     read results. Set spec.identity.enrolment to Proof if no agents or clients from outside the pools need that.";
/// The warning of a permissive transport.
pub const PERMISSIVE_WARNING: &str = "Connections without TLS are accepted, from anyone. Set spec.identity.transport to \
     Strict when every process speaks TLS.";

/// A problem, with the reason for a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The reason.
    pub reason: &'static str,
    /// The cause and the remedy, as sentences.
    pub message: String,
}

/// What was found of a fleet's identity.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// What is wrong, the most severe first.
    pub problems: Vec<Problem>,
    /// Why the issuer of service-account tokens can't be read.
    pub no_issuer: Option<String>,
    /// What pods prove themselves with.
    pub proof: Proof,
    /// What a fleet that moves to TLS waits for, as a clause of a sentence.
    pub moving: Option<String>,
    /// The phase of the authority; `None` if there is none.
    pub phase: Option<Phase>,
    /// Why the coordinators did not accept whom to trust.
    pub declined: Option<String>,
    /// The events of this reconciliation.
    pub events: Vec<RotationEvent>,
}

/// Maximum number of workloads that a message names.
const MOST_NAMED: usize = 3;

/// Returns what a fleet that moves to TLS waits for, as a clause: that the pods of these workloads are replaced.
pub fn waits_for(workloads: &[String]) -> String {
    let named = workloads.iter().take(MOST_NAMED).map(String::as_str).collect::<Vec<_>>().join(", ");
    match workloads.len() {
        0 => "all pods are being replaced".into(),
        count if count <= MOST_NAMED => format!("the pods of {named} are not all replaced yet"),
        count => format!("the pods of {named} and {} more are not all replaced yet", count - MOST_NAMED),
    }
}

impl Report {
    /// Adds a problem.
    pub fn problem(&mut self, reason: &'static str, message: String) {
        self.problems.push(Problem { reason, message });
    }

    /// Returns the status, the reason and the message of the condition.
    pub fn condition(&self, cluster: &RobeingCluster) -> (&'static str, &'static str, String) {
        if let Some(first) = self.problems.first() {
            let messages: Vec<&str> = self.problems.iter().map(|problem| problem.message.as_str()).collect();
            return ("False", first.reason, messages.join(" Also: "));
        }
        if let Some(waits) = &self.moving {
            let message = format!("The fleet moves to TLS; connections without it are still accepted: {waits}.");
            return ("False", MOVING, message);
        }
        let warnings = self.warnings(cluster);
        if let Some((reason, _)) = warnings.first() {
            let messages: Vec<&str> = warnings.iter().map(|(_, message)| message.as_str()).collect();
            return ("True", reason, messages.join(" Also: "));
        }
        match self.phase {
            Some(Phase::Adding { .. }) => ("True", "Rotating", STARTED.1.to_owned()),
            Some(Phase::Retiring { .. }) => ("True", "Rotating", SWITCHED.1.to_owned()),
            _ => ("True", "Certified", "Every member proves who it is, and all connections are encrypted.".to_owned()),
        }
    }

    /// Returns what weakens the identity although nothing is wrong: reasons and messages, the most severe first.
    fn warnings(&self, cluster: &RobeingCluster) -> Vec<(&'static str, String)> {
        let identity = &cluster.spec.identity;
        let mut warnings = Vec::new();
        if identity.transport == Wanted::Permissive {
            warnings.push(("Permissive", PERMISSIVE_WARNING.to_owned()));
        }
        if identity.enrolment == Enrolment::Open {
            warnings.push(("OpenEnrolment", OPEN_WARNING.to_owned()));
        }
        if let Some(why) = &self.no_issuer {
            let instead = match self.proof {
                Proof::JoinSecret => "agents enrol with the join secrets of their pools instead of their tokens",
                Proof::Token => "tokens are verified by the keys that were known last",
            };
            let message = format!(
                "The issuer of service-account tokens is not known, so {instead}: {why}. Bind the ClusterRole \
                 system:service-account-issuer-discovery to the operator's ServiceAccount."
            );
            warnings.push(("NoTokenIssuer", message));
        }
        warnings
    }
}

/// The reason of the condition while a fleet moves to TLS.
pub const MOVING: &str = "MovingToTls";
/// The reasons of the condition that are warned of by an event.
pub const WARNED: [&str; 3] = ["Permissive", "OpenEnrolment", "NoTokenIssuer"];

#[cfg(test)]
mod tests {
    use robeing_crds::parse_manifest;

    use super::*;

    fn cluster(identity: &str) -> RobeingCluster {
        let manifest = format!(
            "{{apiVersion: robeing.io/v1alpha1, kind: RobeingCluster, metadata: {{name: a, namespace: b}}, \
             spec: {{identity: {identity}}}}}"
        );
        parse_manifest(&manifest).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn what_is_wrong_comes_before_what_is_weak_and_that_before_a_rotation() {
        let weak = cluster("{enrolment: Open, transport: Permissive}");
        let mut report = Report { phase: Some(Phase::Adding { since: None }), ..Report::default() };
        let strict = cluster("{}");
        assert_eq!(report.condition(&strict).1, "Rotating");
        report.no_issuer = Some("it is forbidden".into());
        let (state, reason, message) = report.condition(&weak);
        assert_eq!((state, reason), ("True", "Permissive"));
        assert!(message.contains(OPEN_WARNING) && message.contains("it is forbidden"), "{message}");
        assert_eq!(report.condition(&strict).1, "NoTokenIssuer");
        report.moving = Some(waits_for(&["a".into()]));
        assert_eq!((report.condition(&strict).0, report.condition(&strict).1), ("False", MOVING));
        report.problem("AuthorityMissing", "There is none.".into());
        report.problem("JoinSecretUnavailable", "It is refused.".into());
        let (state, reason, message) = report.condition(&strict);
        assert_eq!(
            (state, reason, message.as_str()),
            ("False", "AuthorityMissing", "There is none. Also: It is refused.")
        );
    }

    #[test]
    fn a_message_names_a_few_of_many_workloads() {
        let names: Vec<String> = (0..MOST_NAMED + 2).map(|number| number.to_string()).collect();
        assert!(waits_for(&names).contains("0, 1, 2 and 2 more"));
        assert!(waits_for(&names[..MOST_NAMED]).contains("0, 1, 2 are"));
    }
}
