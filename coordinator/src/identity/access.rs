//! Decides about every call to this coordinator, by the certificate or token of its caller.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, header::GetAll};
use robeing_identity::{PeerRole, SpiffeId};
use robeing_net::{
    ConnectInfo,
    gate::{Caller, Gate, ON_BEHALF_OF, Ongoing},
    security::{PeerIdentity, TrustClock},
};
use tonic::{Code, Status, async_trait};
use tracing::debug;

use super::{
    client_rights::{ClientRights, Proven, TokenReviewer},
    enrolled,
    kubernetes::User,
    ongoing::OngoingCalls,
    refusals::{ANONYMOUS, Refusals, done_to},
    rights::{MAX_NAME_BYTES, Right},
    table::{Allowed, allowed, is_for_gateways},
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
    /// The calls that go on.
    pub calls: OngoingCalls,
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

    fn follow(&self, method: &str, connection: &ConnectInfo, caller: &Caller) -> Option<Ongoing> {
        self.begin(method, connection, caller)
    }

    fn failed(&self, method: &str, code: Code) {
        self.refusals.count_failed(method.trim_start_matches('/'), code);
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
        let behalf = headers.get_all(ON_BEHALF_OF);
        if let Some(peer) = &connection.identity {
            return match behalf.iter().next() {
                None => self.decide_member(allowed, peer).await.map_err(|status| (status, name_of(&peer.id))),
                Some(_) => self.decide_on_behalf(method, allowed, peer, behalf).await,
            };
        }
        if allowed == Allowed::Anyone {
            // Whatever the call brings along, it changes nothing.
            return Ok(Caller::Anonymous);
        }
        if behalf.iter().next().is_some() {
            return Err((only_messengers(ANONYMOUS), ANONYMOUS.to_owned()));
        }
        let anonymous = |status: Status| (status, ANONYMOUS.to_owned());
        if let Some(user) = self.user(headers).await.map_err(anonymous)? {
            let caller = Caller::User(Arc::new(user.told()));
            return match self.decide_user(allowed, user).await {
                Ok(()) => Ok(caller),
                // With its role, since a user's name could be that of an agent.
                Err(status) => Err((status, caller.name())),
            };
        }
        match allowed {
            Allowed::With(right, _) if self.anyone_has(right) => Ok(Caller::Anonymous),
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
            self.check_not_barred(id.name())?;
        }
        if allowed.is_for(id.role()) {
            self.check_enrolled(allowed, peer).await?;
            return Ok(Caller::Member(Arc::clone(peer)));
        }
        if let (PeerRole::Client, Allowed::With(right, _)) = (id.role(), allowed)
            && self.rights.has(&Proven::Certificate(id.name().to_owned()), right).await?
        {
            return Ok(Caller::Member(Arc::clone(peer)));
        }
        Err(denied(&name_of(id), allowed))
    }

    /// Decides about a call that a member makes on behalf of a client, whose certificate it has seen: only the client's
    /// rights count, and only for the calls that a gateway makes. What the client may not do is refused to the client: it
    /// says nothing about the messenger, which would be quarantined for what its clients try.
    async fn decide_on_behalf(
        &self,
        method: &str,
        allowed: Allowed,
        peer: &Arc<PeerIdentity>,
        named: GetAll<'_, HeaderValue>,
    ) -> Result<Caller, (Status, String)> {
        let id = &peer.id;
        let client = self.client_of(id, named).map_err(|status| (status, name_of(id)))?;
        self.check_enrolled(allowed, peer).await.map_err(|status| (status, name_of(id)))?;
        let through = format!("{} through {}", name_of(&client), name_of(id));
        let has_right = match allowed {
            Allowed::With(right, _) if is_for_gateways(method) => {
                let has = self.rights.has(&Proven::Certificate(client.name().to_owned()), right).await;
                has.map_err(|status| (status, through.clone()))?
            }
            // No gateway makes such a call.
            _ => return Err((denied(&through, allowed), name_of(id))),
        };
        if !has_right {
            return Err((denied(&through, allowed), through));
        }
        debug!(client = client.name(), messenger = id.name(), "a call on behalf of a client");
        Ok(Caller::Member(Arc::new(PeerIdentity { id: client, key: peer.key })))
    }

    /// Returns the client that a messenger names.
    fn client_of(&self, id: &SpiffeId, named: GetAll<'_, HeaderValue>) -> Result<SpiffeId, Status> {
        if id.role() != PeerRole::Messenger {
            return Err(only_messengers(&name_of(id)));
        }
        self.check_not_barred(id.name())?;
        let mut names = named.iter();
        let (name, is_one) = (names.next().and_then(|name| name.to_str().ok()), names.next().is_none());
        let client = name.filter(|name| is_one && name.len() <= MAX_NAME_BYTES);
        let client = client.and_then(|name| id.realm().member(PeerRole::Client, name).ok());
        client.ok_or_else(|| {
            Status::invalid_argument(format!(
                "the header {ON_BEHALF_OF} must be the name of one client: up to {MAX_NAME_BYTES} letters, digits, '-', \
                 '.' and '_'"
            ))
        })
    }

    /// Refuses an agent that is barred.
    pub(super) fn check_not_barred(&self, agent: &str) -> Result<(), Status> {
        let bar = self.state.look(|fleet| fleet.bar_of(agent).cloned());
        let Some(bar) = bar else { return Ok(()) };
        let (what, reason) = (done_to(bar.kind), &bar.reason);
        Err(Status::permission_denied(format!("the agent {agent} was {what} ({reason}); its certificate is refused")))
    }

    /// Refuses an agent that was removed since it enrolled, or whose name another process has: its certificate is valid
    /// for a while. Sessions and mailboxes look for themselves, and nobody needs a certificate to enrol or to be asked
    /// for its health.
    async fn check_enrolled(&self, allowed: Allowed, peer: &PeerIdentity) -> Result<(), Status> {
        match allowed {
            Allowed::With(..) if peer.id.role().is_agent() => enrolled::check_call(&self.state, peer).await,
            Allowed::With(..) | Allowed::Anyone | Allowed::Coordinators | Allowed::Agents => Ok(()),
        }
    }

    /// Returns whether clients without a certificate or token have a right now.
    pub(super) fn anyone_has(&self, right: Right) -> bool {
        right.is_for_anonymous() && (self.trusted().is_open() || self.rights.anonymous_has(right))
    }

    async fn decide_user(&self, allowed: Allowed, user: Arc<User>) -> Result<(), Status> {
        let is_allowed = match allowed {
            Allowed::Anyone => true,
            Allowed::With(right, _) => self.rights.has(&Proven::Token(Arc::clone(&user)), right).await?,
            Allowed::Coordinators | Allowed::Agents => false,
        };
        if is_allowed { Ok(()) } else { Err(denied(&user.name, allowed)) }
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
pub(super) fn name_of(id: &SpiffeId) -> String {
    format!("{}/{}", id.role(), id.name())
}

fn only_messengers(who: &str) -> Status {
    Status::permission_denied(format!("{who} may not call on behalf of others; messengers may"))
}

fn denied(who: &str, allowed: Allowed) -> Status {
    Status::permission_denied(format!("{who} may not call this; {} may", allowed.words()))
}
