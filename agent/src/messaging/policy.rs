//! The fleet's policies on messages: evaluated on each message that arrives, once its payload is readable and before it
//! is handled.

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use robeing_identity::PeerRole;
use robeing_platform::{compute, sync::Mutex};
use robeing_policy::{Checked, Event, Input, Message, Object, StoredPolicies, rights_of_role};
use robeing_proto::v1;
use robeing_telemetry::Metrics;
use tracing::{info, warn};

use super::packet::Packet;

/// The roles of senders that are no agents, of messages that come through the coordinators. Their names begin with the role
/// and a colon.
const NO_AGENTS: [PeerRole; 3] = [PeerRole::Client, PeerRole::Operator, PeerRole::Coordinator];
/// The role of clients.
const CLIENT: &str = "client";
/// What stands for the role of an agent that the directory does not know, in its name.
const UNKNOWN: &str = "agent";

/// What policies decide about a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is handled.
    Allowed,
    /// It is handled with this payload instead of its own.
    Redacted(Bytes),
    /// It is refused for this reason.
    Refused(String),
    /// The agent does not know the policies yet, so it can't handle messages: they are to be sent again.
    NotKnown,
}

/// Decides about the messages that an agent receives.
pub trait MessagePolicy: Send + Sync + 'static {
    /// Decides about a message, whose payload is readable if this agent can read it. `role` is that of its sender; empty
    /// if it is not known.
    fn check(&self, packet: &Packet, role: &str) -> Verdict;
}

/// Allows every message: for agents without a fleet, such as those of tests.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoPolicies;

impl MessagePolicy for NoPolicies {
    fn check(&self, _: &Packet, _: &str) -> Verdict {
        Verdict::Allowed
    }
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    policy: String,
    outcome: &'static str,
}

/// The policies of a revision.
struct Known {
    revision: u64,
    policies: StoredPolicies,
}

/// Holds the policies that the coordinators have sent last. Until they have, no message is handled, because it may be
/// one that a policy refuses.
pub struct PolicyHolder {
    known: Mutex<Option<Arc<Known>>>,
    counter: Family<Labels, Counter>,
}

impl PolicyHolder {
    /// Creates a holder that does not know the policies yet.
    pub fn new(metrics: &Metrics) -> Self {
        let help = "What policies did to received messages, by policy and outcome";
        Self { known: Mutex::default(), counter: metrics.counters("agent_policy_verdicts", help) }
    }

    /// Takes over what the coordinators have sent. Call it with an empty set, too: then all messages are allowed.
    /// Policies of an earlier revision than those that are known change nothing: a coordinator that has fallen behind
    /// may send them.
    pub fn update(&self, policies: &v1::Policies) {
        let last = self.known().map(|known| known.revision);
        if last.is_some_and(|last| policies.revision <= last) {
            return;
        }
        let read = compute(|| StoredPolicies::read(policies.policies.iter().map(String::as_str)));
        for (policy, problem) in read.problems() {
            warn!(policy, problem, "a policy can't be used by this version; messages are refused");
        }
        let (revision, count) = (policies.revision, policies.policies.len());
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.as_ref().is_some_and(|known| revision <= known.revision) {
            return;
        }
        *known = Some(Arc::new(Known { revision, policies: read }));
        drop(known);
        self.counter.clear();
        if count > 0 || last.is_some_and(|last| last > 0) {
            info!(revision, count, "policies on messages are in force");
        }
    }

    /// Returns the revision of the policies that are in force; `None` if they are not known yet.
    pub fn revision(&self) -> Option<u64> {
        self.known().map(|known| known.revision)
    }

    fn known(&self) -> Option<Arc<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Returns the name of a sender without what its role puts before it, and the role as policies see it, which for agents is
/// this one. Coordinators see both the same.
fn sender_and_role<'a>(sender: &'a str, role: &'a str) -> (&'a str, &'a str) {
    let Some((prefix, name)) = sender.split_once(':') else { return (sender, role) };
    match NO_AGENTS.into_iter().find(|other| other.as_str() == prefix) {
        Some(other) => (name, other.as_str()),
        None => (sender, ""),
    }
}

impl MessagePolicy for PolicyHolder {
    fn check(&self, packet: &Packet, role: &str) -> Verdict {
        let Some(known) = self.known() else { return Verdict::NotKnown };
        if !known.policies.concerns(Event::Message) {
            return Verdict::Allowed;
        }
        let (sender, role) = sender_and_role(&packet.sender, role);
        let user = match role {
            // A certificate's name has no slash, but the user of a token may: it must not be taken for another member.
            CLIENT if !sender.contains('/') => sender.to_owned(),
            // Its role is not known, but it is no client, and must not be taken for one.
            "" => format!("{UNKNOWN}/{sender}"),
            role => format!("{role}/{sender}"),
        };
        let id = packet.id.to_string();
        let object = Object::Message(Message {
            message_id: &id,
            sender,
            sender_role: role,
            receiver: &packet.receiver,
            message_type: &packet.kind,
            priority: packet.priority.get(),
            payload: &packet.payload,
        });
        let input = Input { user: &user, rights: rights_of_role(role), object };
        let (checked, deeds) = compute(|| known.policies.check(&input, &packet.payload));
        for deed in deeds {
            self.counter.get_or_create(&Labels { policy: deed.policy, outcome: deed.outcome }).inc();
        }
        match checked {
            Checked::Allowed => Verdict::Allowed,
            Checked::Redacted(payload) => Verdict::Redacted(payload),
            Checked::Refused(refused) => Verdict::Refused(refused.message),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::messaging::tests::fixture::packet;

    fn set(revision: u64, policies: &[&str]) -> v1::Policies {
        v1::Policies { revision, policies: policies.iter().map(|policy| (*policy).to_owned()).collect() }
    }

    const QUIET: &str = r#"{"name": "quiet", "events": ["Message"], "rule": "object.senderRole != 'guardian'",
        "action": "deny", "message": "not now"}"#;
    const HIDE: &str = r#"{"name": "hide", "events": ["Message"], "rule": "json.token != ''", "match": "json != null",
        "action": "redact", "fields": ["/token"]}"#;

    #[test]
    fn no_message_is_handled_before_the_policies_are_known() {
        let holder = PolicyHolder::new(&Metrics::default());
        assert_eq!((holder.check(&packet(1), "worker"), holder.revision()), (Verdict::NotKnown, None));
        holder.update(&v1::Policies::default());
        assert_eq!((holder.check(&packet(1), "worker"), holder.revision()), (Verdict::Allowed, Some(0)));
    }

    #[test]
    fn the_newest_policies_count() {
        let holder = PolicyHolder::new(&Metrics::default());
        holder.update(&set(7, &[QUIET]));
        let refused = Verdict::Refused("policy quiet denies this: not now".to_owned());
        assert_eq!(holder.check(&packet(1), "worker"), refused);
        assert_eq!(holder.check(&packet(1), "guardian"), Verdict::Allowed);
        holder.update(&set(6, &[]));
        assert_eq!(holder.check(&packet(1), "worker"), refused, "these are older");
        holder.update(&set(9, &[]));
        assert_eq!(holder.check(&packet(1), "worker"), Verdict::Allowed);
    }

    #[test]
    fn a_payload_is_redacted_and_what_policies_did_is_counted() {
        let metrics = Metrics::default();
        let holder = PolicyHolder::new(&metrics);
        holder.update(&set(1, &[HIDE]));
        let token = Packet { payload: Bytes::from_static(br#"{"token": "t"}"#), ..packet(1) };
        assert_eq!(holder.check(&token, "worker"), Verdict::Redacted(r#"{"token": "[redacted]"}"#.into()));
        assert_eq!(holder.check(&packet(1), "worker"), Verdict::Allowed, "it is no JSON");
        let counted = r#"robeing_agent_policy_verdicts_total{policy="hide",outcome="redacted"} 1"#;
        assert!(metrics.encode().contains(counted), "{}", metrics.encode());
    }

    #[test]
    fn senders_are_known_by_their_roles_and_clients_by_their_names() {
        let holder = PolicyHolder::new(&Metrics::default());
        let of = |user: &str| {
            format!(r#"{{"name": "p", "events": ["Message"], "rule": "request.user == '{user}'", "action": "deny"}}"#)
        };
        holder.update(&set(1, &[&of("worker/a")]));
        assert!(matches!(holder.check(&packet(1), "worker"), Verdict::Refused(_)));
        assert_eq!(holder.check(&packet(1), "messenger"), Verdict::Allowed);
        let client = Packet { sender: "client:ann".into(), ..packet(1) };
        holder.update(&set(2, &[&of("ann")]));
        assert!(matches!(holder.check(&client, ""), Verdict::Refused(_)));
        let ann = Packet { sender: "ann".into(), ..packet(1) };
        assert_eq!(holder.check(&ann, "worker"), Verdict::Allowed);
        assert_eq!(holder.check(&ann, ""), Verdict::Allowed, "an agent that is gone is not taken for the client");
        holder.update(&set(3, &[&of("worker/a")]));
        let user = Packet { sender: "client:worker/a".into(), ..packet(1) };
        assert_eq!(holder.check(&user, ""), Verdict::Allowed, "the user of a token is not taken for an agent");
    }

    #[test]
    fn a_sender_is_the_same_one_here_and_at_coordinators() {
        for (sender, role, expected) in [
            ("client:system:serviceaccount:a:b", "", ("system:serviceaccount:a:b", "client")),
            ("operator:o", "", ("o", "operator")),
            ("coordinator:c-0", "", ("c-0", "coordinator")),
            ("g", "guardian", ("g", "guardian")),
            ("gone", "", ("gone", "")),
            ("worker:a", "", ("worker:a", "")),
        ] {
            assert_eq!(sender_and_role(sender, role), expected);
        }
        let holder = PolicyHolder::new(&Metrics::default());
        let rule = "request.user == 'operator/o' && object.senderRole == 'operator' && object.sender == 'o'";
        let policy = format!(r#"{{"name": "p", "events": ["Message"], "rule": "{rule}", "action": "deny"}}"#);
        holder.update(&set(1, &[&policy]));
        let operator = Packet { sender: "operator:o".into(), ..packet(1) };
        assert!(matches!(holder.check(&operator, ""), Verdict::Refused(_)));
    }

    #[test]
    fn a_policy_that_can_not_be_used_refuses_every_message() {
        let holder = PolicyHolder::new(&Metrics::default());
        holder.update(&set(1, &["{}"]));
        assert!(matches!(holder.check(&packet(1), "worker"), Verdict::Refused(_)));
    }
}
