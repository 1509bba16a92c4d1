//! The service for teams.

use super::Parts;
use crate::{api::teams::TeamsService, identity::security::Security, policies::CallerRights, teams::Teams};

impl Parts {
    /// Returns the Teams service.
    pub(super) fn teams_service(&self, security: Option<&Security>) -> TeamsService {
        let Self { state, proposer, rooms, outside, .. } = self.clone();
        let rights = CallerRights(security.map(|security| (security.rights.clone(), security.trust.clone())));
        TeamsService { teams: Teams { state, proposer, rooms, rights, platform: outside.platform } }
    }
}
