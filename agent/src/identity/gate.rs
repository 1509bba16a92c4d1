//! Decides about every call to the agent's own listener.

use std::sync::Arc;

use http::HeaderMap;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
};
use robeing_net::{
    ConnectInfo,
    gate::{Caller, Gate},
};
use robeing_telemetry::Metrics;
use tonic::{Code, Status, async_trait};

use crate::messaging::{Directory, Presence};

/// Methods that anyone may call: their answers reveal nothing.
const FOR_ANYONE: &[&str] =
    &["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List", "/grpc.health.v1.Health/Watch"];
/// Methods that every member of the fleet may call.
const FOR_MEMBERS: &[&str] = &["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"];

/// Methods that agents of the fleet may call that are in it now.
const FOR_AGENTS: &[&str] = &["/robeing.message.v1.Messages/Exchange"];

/// How refused calls of methods that are not served are counted, which could have any name.
const UNKNOWN: &str = "unknown";

/// The labels of the counter of refused calls.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Labels {
    method: &'static str,
    code: String,
}

/// Counts the calls that the gate has refused. Cheap to clone.
#[derive(Clone)]
pub struct RefusedCalls(Family<Labels, Counter>);

impl RefusedCalls {
    /// Registers the counter.
    pub fn new(metrics: &Metrics) -> Self {
        Self(
            metrics
                .counters("calls_refused", "Calls that were refused because of who made them, by method and gRPC code"),
        )
    }

    fn count(&self, method: &str, code: Code) {
        let known = FOR_ANYONE.iter().chain(FOR_MEMBERS).chain(FOR_AGENTS).find(|known| **known == method);
        let method = known.map_or(UNKNOWN, |known| known.trim_start_matches('/'));
        self.0.get_or_create(&Labels { method, code: format!("{code:?}") }).inc();
    }
}

/// The gate of an agent.
pub struct AgentGate {
    /// Knows which agents are in the fleet now. One that was barred is not, whatever its certificate says.
    pub directory: Arc<dyn Directory>,
    /// Whether agents without a certificate are admitted: while the fleet moves to TLS.
    pub permissive: bool,
    /// Counts what is refused.
    pub refused: RefusedCalls,
}

impl AgentGate {
    /// Admits an agent that the directory knows.
    fn admit_agent(&self, connection: &ConnectInfo) -> Result<Caller, Status> {
        let peer = match &connection.identity {
            Some(peer) => peer,
            None if self.permissive && !connection.encrypted => return Ok(Caller::Plaintext),
            None => return Err(Status::unauthenticated("connect with a certificate of this fleet")),
        };
        if !peer.id.role().is_agent() {
            let status = format!("agents of the fleet call this, and not a {}", peer.id.role());
            return Err(Status::permission_denied(status));
        }
        let snapshot = self.directory.snapshot();
        match snapshot.get(peer.id.name()) {
            Some(known) if known.presence != Presence::Away => Ok(Caller::Member(peer.clone())),
            // It may have joined a moment ago.
            _ => Err(Status::unavailable(format!(
                "the agent {:?} is not in the fleet, as far as this one knows",
                peer.id.name()
            ))),
        }
    }
}

impl AgentGate {
    fn decide(&self, method: &str, connection: &ConnectInfo) -> Result<Caller, Status> {
        match &connection.identity {
            _ if FOR_ANYONE.contains(&method) => Ok(Caller::Anonymous),
            _ if FOR_AGENTS.contains(&method) => self.admit_agent(connection),
            Some(peer) if FOR_MEMBERS.contains(&method) => Ok(Caller::Member(peer.clone())),
            None if FOR_MEMBERS.contains(&method) => {
                Err(Status::unauthenticated("connect with a certificate of this fleet"))
            }
            _ => Err(Status::unimplemented(format!("this agent does not serve {method}"))),
        }
    }
}

#[async_trait]
impl Gate for AgentGate {
    async fn admit(&self, method: &str, connection: &ConnectInfo, _: &HeaderMap) -> Result<Caller, Status> {
        let admitted = self.decide(method, connection);
        if let Err(status) = &admitted {
            self.refused.count(method, status.code());
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::messaging::{Entry, Snapshot, tests::fixture::entry};
    use robeing_identity::{PeerRole, Realm};
    use robeing_net::security::PeerIdentity;

    struct Known(Arc<Snapshot>);

    impl Directory for Known {
        fn snapshot(&self) -> Arc<Snapshot> {
            Arc::clone(&self.0)
        }
    }

    fn gate(permissive: bool) -> AgentGate {
        let away = Entry { presence: Presence::Away, ..entry("gone", 1.0) };
        let known = Known(Arc::new([entry("w", 1.0), away].into_iter().collect()));
        AgentGate { directory: Arc::new(known), permissive, refused: RefusedCalls::new(&Metrics::default()) }
    }

    fn member(role: PeerRole, name: &str) -> ConnectInfo {
        let id = Realm::new("a", "b", "c").unwrap().member(role, name).unwrap();
        let identity = Some(Arc::new(PeerIdentity { id, key: [0; 32] }));
        ConnectInfo { identity, encrypted: true, ..ConnectInfo::default() }
    }

    async fn code(gate: &AgentGate, method: &str, connection: &ConnectInfo) -> Option<Code> {
        gate.admit(method, connection, &HeaderMap::new()).await.err().map(|status| status.code())
    }

    #[tokio::test]
    async fn what_is_not_listed_is_refused() {
        let (gate, worker) = (gate(false), member(PeerRole::Worker, "w"));
        let stranger = ConnectInfo { encrypted: true, ..ConnectInfo::default() };
        assert_eq!(code(&gate, FOR_ANYONE[0], &stranger).await, None);
        assert_eq!(code(&gate, FOR_MEMBERS[0], &stranger).await, Some(Code::Unauthenticated));
        assert_eq!(code(&gate, FOR_MEMBERS[0], &worker).await, None);
        assert_eq!(code(&gate, "/robeing.v1.Fleet/Submit", &worker).await, Some(Code::Unimplemented));
    }

    #[tokio::test]
    async fn what_is_refused_is_counted_under_few_names() {
        let metrics = Metrics::default();
        let gate = AgentGate { refused: RefusedCalls::new(&metrics), ..gate(false) };
        let stranger = ConnectInfo { encrypted: true, ..ConnectInfo::default() };
        for method in [FOR_AGENTS[0], FOR_ANYONE[0], "/any.Thing/AtAll", "/any.Thing/More"] {
            code(&gate, method, &stranger).await;
        }
        let text = metrics.encode();
        for line in [
            r#"robeing_calls_refused_total{method="robeing.message.v1.Messages/Exchange",code="Unauthenticated"} 1"#,
            r#"robeing_calls_refused_total{method="unknown",code="Unimplemented"} 2"#,
        ] {
            assert!(text.contains(line), "{line} is not in {text}");
        }
        assert!(!text.contains("AtAll") && !text.contains("Health"), "{text}");
    }

    #[tokio::test]
    async fn only_agents_that_are_in_the_fleet_exchange_messages() {
        let (strict, permissive) = (gate(false), gate(true));
        let stranger = ConnectInfo { encrypted: true, ..ConnectInfo::default() };
        for (connection, expected) in [
            (member(PeerRole::Worker, "w"), None),
            (member(PeerRole::Guardian, "gone"), Some(Code::Unavailable)),
            (member(PeerRole::Worker, "unknown"), Some(Code::Unavailable)),
            (member(PeerRole::Client, "w"), Some(Code::PermissionDenied)),
            (member(PeerRole::Coordinator, "w"), Some(Code::PermissionDenied)),
            (stranger, Some(Code::Unauthenticated)),
        ] {
            for gate in [&strict, &permissive] {
                assert_eq!(code(gate, FOR_AGENTS[0], &connection).await, expected, "{connection:?}");
            }
        }
        let plaintext = ConnectInfo::default();
        assert_eq!(code(&strict, FOR_AGENTS[0], &plaintext).await, Some(Code::Unauthenticated));
        assert_eq!(code(&permissive, FOR_AGENTS[0], &plaintext).await, None);
    }
}
