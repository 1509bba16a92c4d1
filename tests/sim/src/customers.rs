//! The other clients of a run, in one process: each makes use of another part of the fleet.

use robeing_settings::AgentRole;

use crate::{
    allocations::{Borrower, Tenant},
    ballots::Applicant,
    calls::Calls,
    graphs::Organizer,
    queued::Crowd,
    schedules::Timekeeper,
    teams::{Delegator, Former},
    timed::Planner,
    verified::Requester,
};

/// The customers.
pub struct Customers {
    /// Makes their calls.
    pub calls: Calls,
    /// The role of the last agent.
    pub odd_role: AgentRole,
}

impl Customers {
    /// Runs all customers; returns when each has done what it does.
    pub async fn run(self) {
        let Self { calls, odd_role } = self;
        let applicant = Applicant { calls: calls.clone(), odd_role };
        let requester = Requester { calls: calls.clone() };
        let former = Former { calls: calls.clone() };
        let delegator = Delegator { calls: calls.clone() };
        let planner = Planner { calls: calls.clone() };
        let tenant = Tenant { calls: calls.clone() };
        let organizer = Organizer { calls: calls.clone() };
        let crowd = Crowd { calls: calls.clone() };
        let timekeeper = Timekeeper { calls: calls.clone() };
        let borrower = Borrower { calls };
        tokio::join!(
            applicant.run(),
            requester.run(),
            former.run(),
            delegator.run(),
            planner.run(),
            tenant.run(),
            organizer.run(),
            crowd.run(),
            borrower.run(),
            timekeeper.run()
        );
    }
}
