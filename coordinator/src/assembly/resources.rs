//! The service for the resource pool.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::Parts;
use crate::{
    api::resources::ResourcesService,
    resources::{MAX_WAITING, ResourcePool},
};

impl Parts {
    /// Returns the Resources service.
    pub(super) fn resources_service(&self) -> ResourcesService {
        let Self { state, proposer, observer, rooms, rights, outside, .. } = self.clone();
        let waiting = Arc::new(Semaphore::new(MAX_WAITING));
        let pool = ResourcePool { state, proposer, observer, rooms, rights, platform: outside.platform, waiting };
        ResourcesService { pool }
    }
}
