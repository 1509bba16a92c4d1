//! The service for the resource pool.

use super::Parts;
use crate::{api::resources::ResourcesService, resources::ResourcePool};

impl Parts {
    /// Returns the Resources service.
    pub(super) fn resources_service(&self) -> ResourcesService {
        let Self { state, proposer, observer, rooms, rights, outside, .. } = self.clone();
        let pool = ResourcePool { state, proposer, observer, rooms, rights, platform: outside.platform };
        ResourcesService { pool }
    }
}
