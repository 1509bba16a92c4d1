//! The service for teams.

use super::Parts;
use crate::{api::teams::TeamsService, teams::Teams};

impl Parts {
    /// Returns the Teams service.
    pub(super) fn teams_service(&self) -> TeamsService {
        let Self { state, proposer, rooms, rights, outside, .. } = self.clone();
        TeamsService { teams: Teams { state, proposer, rooms, rights, platform: outside.platform } }
    }
}
