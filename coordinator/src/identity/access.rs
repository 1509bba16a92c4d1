//! Decides about every call to this coordinator, by the certificate or token of its caller.

use std::sync::Arc;

use http::HeaderMap;
use robeing_identity::{PeerRole, SpiffeId};
use robeing_net::{
    ConnectInfo,
    gate::{Caller, Gate},
    security::{PeerIdentity, TrustClock},
};
use tonic::{Status, async_trait};

use super::{
    client_rights::{ClientRights, Proven, TokenReviewer},
    kubernetes::User,
    refusals::{ANONYMOUS, Refusals, done_to},
    table::{Allowed, allowed},
    trust::{FleetTrust, Trusted},
};
use crate::{api::convert::excerpt, read::StateReader};

/// The gate of a coordinator.
pub struct Access {
    pub state: StateReader,
    pub clock: Arc<TrustClock>,
    pub trust: FleetTrust,
    /// What clients may do.
    pub rights: ClientRights,
    /// Finds out whose the tokens are whose keys are not known here.
    pub reviewer: TokenReviewer,
    /// Whether connections without a certificate are trusted, while a fleet moves to TLS: anyone could connect without
    /// TLS as well, and agents can't enrol before all coordinators can enrol them.
    pub trusts_plaintext: bool,
    pub refusals: Refusals,
}

#[async_trait]
impl Gate for Access {
    async fn admit(&self, method: &str, connection: &ConnectInfo, headers: &HeaderMap) -> Result<Caller, Status> {
        let admitted = self.decide(method, connection, headers).await;
        if let Err((status, name)) = &admitted {
            // A method that is not served could be any text.
            let counted = if allowed(method).is_some() { method.trim_start_matches('/') } else { "unknown" };
            self.refusals.count(counted, status.code(), connection.peer, name);
        }
        admitted.map_err(|(status, _)| status)
    }
}

impl Access {
    async fn decide(
        &self,
        method: &str,
        connection: &ConnectInfo,
        headers: &HeaderMap,
    ) -> Result<Caller, (Status, String)> {
        let Some(allowed) = allowed(method) else {
            let method = excerpt(method);
            let status = Status::unimplemented(format!("this coordinator does not serve {method}"));
            return Err((status, ANONYMOUS.to_owned()));
        };
        if self.trusts_plaintext && connection.identity.is_none() {
            return Ok(Caller::Plaintext);
        }
        if let Some(peer) = &connection.identity {
            return self.decide_member(allowed, peer).await.map_err(|status| (status, name_of(&peer.id)));
        }
        if allowed == Allowed::Anyone {
            // Whatever the call brings along, it changes nothing.
            return Ok(Caller::Anonymous);
        }
        let anonymous = |status: Status| (status, ANONYMOUS.to_owned());
        if let Some(user) = self.user(headers).await.map_err(anonymous)? {
            let name: Arc<str> = user.name.as_str().into();
            return match self.decide_user(allowed, user, &name).await {
                Ok(()) => Ok(Caller::User(name)),
                Err(status) => Err((status, name.to_string())),
            };
        }
        match allowed {
            Allowed::With(right, _)
                if right.is_for_anonymous() && (self.trusted().is_open() || self.rights.anonymous_has(right)) =>
            {
                Ok(Caller::Anonymous)
            }
            Allowed::Agents => Err(anonymous(Status::unauthenticated(
                "this connection has no certificate: enrol, and connect with the certificate",
            ))),
            Allowed::Anyone | Allowed::Coordinators | Allowed::With(..) => Err(anonymous(Status::unauthenticated(
                "this fleet wants to know who calls: connect with a client certificate, or send a token of the audience \
                 robeing",
            ))),
        }
    }

    async fn decide_member(&self, allowed: Allowed, peer: &Arc<PeerIdentity>) -> Result<Caller, Status> {
        let id = &peer.id;
        if id.role().is_agent() {
            self.check_not_barred(id)?;
        }
        if allowed.is_for(id.role()) {
            return Ok(Caller::Member(Arc::clone(peer)));
        }
        if let (PeerRole::Client, Allowed::With(right, _)) = (id.role(), allowed)
            && self.rights.has(&Proven::Certificate(id.name().to_owned()), right).await?
        {
            return Ok(Caller::Member(Arc::clone(peer)));
        }
        Err(denied(&name_of(id), allowed))
    }

    fn check_not_barred(&self, id: &SpiffeId) -> Result<(), Status> {
        let bar = self.state.look(|fleet| fleet.bar_of(id.name()).cloned());
        let Some(bar) = bar else { return Ok(()) };
        let (what, reason) = (done_to(bar.kind), &bar.reason);
        Err(Status::permission_denied(format!(
            "the agent {} was {what} ({reason}); its certificate is refused",
            id.name()
        )))
    }

    async fn decide_user(&self, allowed: Allowed, user: Arc<User>, name: &str) -> Result<(), Status> {
        let is_allowed = match allowed {
            Allowed::Anyone => true,
            Allowed::With(right, _) => self.rights.has(&Proven::Token(user), right).await?,
            Allowed::Coordinators | Allowed::Agents => false,
        };
        if is_allowed { Ok(()) } else { Err(denied(name, allowed)) }
    }

    /// Returns the user whose token comes with a call. The token is verified with the keys in the fleet's state, or
    /// else by the API server, where it can be asked.
    async fn user(&self, headers: &HeaderMap) -> Result<Option<Arc<User>>, Status> {
        let Some(header) = headers.get("authorization") else { return Ok(None) };
        let token = header.to_str().ok().and_then(|header| header.strip_prefix("Bearer "));
        let token =
            token.ok_or_else(|| Status::unauthenticated("the header authorization is not of the form Bearer TOKEN"))?;
        match self.trusted().verifier(self.clock.now()).verify_service_account(token) {
            Ok(claims) => Ok(Some(Arc::new(User::service_account(&claims)))),
            Err(error) if error.may_be_known_to_its_issuer() => match self.reviewer.review(token).await? {
                Some(user) => Ok(Some(user)),
                None => Err(Status::unauthenticated(error.to_string())),
            },
            Err(error) => Err(Status::unauthenticated(error.to_string())),
        }
    }

    fn trusted(&self) -> Arc<Trusted> {
        self.trust.with(self.state.look(|fleet| fleet.identity_config().cloned()))
    }
}

/// Returns a member's name, for records and messages.
fn name_of(id: &SpiffeId) -> String {
    format!("{}/{}", id.role(), id.name())
}

fn denied(who: &str, allowed: Allowed) -> Status {
    Status::permission_denied(format!("{who} may not call this; {} may", allowed.words()))
}
