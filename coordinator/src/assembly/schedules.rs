//! The service for schedules, and what fires them.

use super::Parts;
use crate::{
    api::schedules::SchedulesService,
    schedules::{Schedules, firing::ScheduleFirer},
};

impl Parts {
    /// Returns the Schedules service.
    pub(super) fn schedules_service(&self) -> SchedulesService {
        let Self { state, proposer, rooms, policies, rights, clock, outside, .. } = self.clone();
        let schedules = Schedules { state, proposer, rooms, policies, rights, clock, platform: outside.platform };
        SchedulesService { schedules }
    }

    pub(super) fn schedule_firer(&self) -> ScheduleFirer {
        let Self { standing, state, proposer, policies, observer, clock, .. } = self.clone();
        ScheduleFirer { standing, state, proposer, policies, observer, clock }
    }
}
