//! Decides about every call to the agent's own listener.

use http::HeaderMap;
use robeing_net::{
    ConnectInfo,
    gate::{Caller, Gate},
};
use tonic::{Status, async_trait};

/// Methods that anyone may call: their answers reveal nothing.
const FOR_ANYONE: &[&str] =
    &["/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/List", "/grpc.health.v1.Health/Watch"];
/// Methods that every member of the fleet may call.
const FOR_MEMBERS: &[&str] = &["/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"];

/// The gate of an agent.
pub struct AgentGate;

#[async_trait]
impl Gate for AgentGate {
    async fn admit(&self, method: &str, connection: &ConnectInfo, _: &HeaderMap) -> Result<Caller, Status> {
        match &connection.identity {
            _ if FOR_ANYONE.contains(&method) => Ok(Caller::Anonymous),
            Some(peer) if FOR_MEMBERS.contains(&method) => Ok(Caller::Member(peer.clone())),
            None if FOR_MEMBERS.contains(&method) => {
                Err(Status::unauthenticated("connect with a certificate of this fleet"))
            }
            _ => Err(Status::unimplemented(format!("this agent does not serve {method}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use robeing_identity::{PeerRole, Realm};
    use robeing_net::security::PeerIdentity;
    use tonic::Code;

    use super::*;

    #[tokio::test]
    async fn what_is_not_listed_is_refused() {
        let id = Realm::new("a", "b", "c").unwrap().member(PeerRole::Worker, "w").unwrap();
        let identity = Some(Arc::new(PeerIdentity { id, key: [0; 32] }));
        let member = ConnectInfo { identity, encrypted: true, ..ConnectInfo::default() };
        let stranger = ConnectInfo { encrypted: true, ..ConnectInfo::default() };
        let code = async |method, connection: &ConnectInfo| {
            AgentGate.admit(method, connection, &HeaderMap::new()).await.err().map(|status| status.code())
        };
        assert_eq!(code(FOR_ANYONE[0], &stranger).await, None);
        assert_eq!(code(FOR_MEMBERS[0], &stranger).await, Some(Code::Unauthenticated));
        assert_eq!(code(FOR_MEMBERS[0], &member).await, None);
        assert_eq!(code("/robeing.v1.Fleet/Submit", &member).await, Some(Code::Unimplemented));
    }
}
