//! Reads agents from the state, and encodes what the directory shows of them.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use robeing_fleet::{Agent, Fleet, Role, TeamId};
use robeing_identity::Realm;

use crate::api::convert;

/// An agent as it is in the state, the role that it has enrolled for, and its team. Nothing is copied.
pub(super) struct Found {
    agent: Arc<Agent>,
    enrolled: Option<Role>,
    team: Option<TeamId>,
}

impl Found {
    /// Returns an agent of the state.
    pub(super) fn of(fleet: &Fleet, agent: &Arc<Agent>) -> Self {
        let enrolled = fleet.enrolment_of(&agent.name).map(|enrolment| enrolment.role);
        let team = fleet.team_of(agent.id).map(|team| team.id);
        Self { agent: Arc::clone(agent), enrolled, team }
    }

    /// Returns the agent of this name, if the fleet knows one.
    pub(super) fn named(fleet: &Fleet, name: &str) -> Option<Self> {
        fleet.agent_by_name(name).map(|agent| Self::of(fleet, agent))
    }

    /// Returns the agent's name.
    pub(super) fn name(&self) -> &Arc<str> {
        &self.agent.name
    }

    /// Encodes what the directory shows of the agent. `realm` is that of the fleet's certificates, if it has any.
    pub(super) fn encoded(&self, realm: Option<&Realm>) -> Bytes {
        let id = realm.zip(self.enrolled).and_then(|(realm, role)| {
            // A name that no certificate can have is of an agent that has none.
            realm.member(convert::peer_role(role), &self.agent.name).ok()
        });
        let spiffe_id = id.map(|id| id.to_string()).unwrap_or_default();
        convert::directory_entry(&self.agent, spiffe_id, self.team).encode_to_vec().into()
    }
}
