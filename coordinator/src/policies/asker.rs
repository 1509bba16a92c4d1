//! Who asks for something that policies decide about, as expressions see it.

use std::sync::Arc;

use robeing_identity::PeerRole;
use robeing_net::gate::Caller;
use robeing_policy::rights_of_role;
use tonic::Status;

use crate::{
    identity::{
        client_rights::{ClientRights, Proven},
        kubernetes::User,
        rights::Right,
        trust::FleetTrust,
    },
    read::StateReader,
};

/// Finds out what callers may do; without TLS, nobody is known and everybody may do everything.
#[derive(Clone, Default)]
pub struct CallerRights(pub Option<(ClientRights, FleetTrust)>);

/// A caller as expressions see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asker {
    /// `request.user`.
    pub user: String,
    /// `request.rights`.
    pub rights: Vec<&'static str>,
}

/// Returns the name of a caller (`request.user`): a client's own name; of other members, the role and the name, so that
/// no agent can be named like a client; nothing for those who are not known.
pub fn user(caller: &Caller) -> String {
    match caller {
        Caller::Plaintext | Caller::Anonymous => String::new(),
        Caller::Member(peer) if peer.id.role() == PeerRole::Client => peer.id.name().to_owned(),
        Caller::Member(peer) => member(&peer.id.role().to_string(), peer.id.name()),
        Caller::User(user) => client(&user.name),
    }
}

/// Returns the name of a client that may be the user of a token. A certificate's name has no slash, but an issuer's user
/// may: it must not be taken for another member.
pub fn client(name: &str) -> String {
    if name.contains('/') { member(PeerRole::Client.as_str(), name) } else { name.to_owned() }
}

/// Returns the name of a member that is no client.
pub fn member(role: &str, name: &str) -> String {
    format!("{role}/{name}")
}

impl Asker {
    /// Returns an agent as the one who asks.
    pub fn agent(role: &str, name: &str) -> Self {
        Self { user: member(role, name), rights: rights_of_role(role).to_vec() }
    }
}

impl CallerRights {
    /// Returns the caller as expressions see it. Its rights are left out if no expression asks for them.
    ///
    /// # Errors
    /// If it can't be found out now what the caller may do.
    pub async fn asker(&self, caller: &Caller, with_rights: bool, state: &StateReader) -> Result<Asker, Status> {
        let user = user(caller);
        let rights = if with_rights { self.rights(caller, state).await? } else { Vec::new() };
        Ok(Asker { user, rights })
    }

    /// Returns whether the caller has a right; a member that is no client has those of its role.
    ///
    /// # Errors
    /// If it can't be found out now.
    pub async fn has(&self, caller: &Caller, right: Right, state: &StateReader) -> Result<bool, Status> {
        Ok(self.rights(caller, state).await?.contains(&right.as_str()))
    }

    async fn rights(&self, caller: &Caller, state: &StateReader) -> Result<Vec<&'static str>, Status> {
        let all = || Right::ALL.map(Right::as_str).to_vec();
        let Some((rights, trust)) = &self.0 else { return Ok(all()) };
        let client = match caller {
            // Whoever could connect without TLS is trusted, while a fleet moves to it.
            Caller::Plaintext => return Ok(all()),
            Caller::Anonymous => {
                let is_open = trust.with(state.look(|fleet| fleet.identity_config().cloned())).is_open();
                let has = |right: &Right| right.is_for_anonymous() && (is_open || rights.anonymous_has(*right));
                return Ok(Right::ALL.into_iter().filter(has).map(Right::as_str).collect());
            }
            Caller::Member(peer) if peer.id.role() != PeerRole::Client => {
                return Ok(rights_of_role(&peer.id.role().to_string()).to_vec());
            }
            Caller::Member(peer) => Proven::Certificate(peer.id.name().to_owned()),
            // With its groups, to which rights may be granted.
            Caller::User(user) => Proven::Token(Arc::new(User::from(&**user))),
        };
        let mut had = Vec::with_capacity(Right::ALL.len());
        for right in Right::ALL {
            if rights.has(&client, right).await? {
                had.push(right.as_str());
            }
        }
        Ok(had)
    }
}
