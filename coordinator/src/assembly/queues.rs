//! The service for the queues of tasks.

use super::Parts;
use crate::api::queues::QueuesService;

impl Parts {
    /// Returns the Queues service.
    pub(super) fn queues_service(&self) -> QueuesService {
        let Self { state, proposer, .. } = self.clone();
        QueuesService { state, proposer }
    }
}
