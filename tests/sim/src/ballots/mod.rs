//! The ballots of a run: a client opens them at any coordinator and votes for people, agents vote as their handlers
//! decide, and some votes are cast that must not count. Some tasks wait for ballots.

mod agent;
mod applicant;
mod draft;
mod gate;
mod ledger;
mod opener;
mod recount;
mod rule;

use std::time::Duration;

pub use self::{agent::answer, applicant::Applicant, ledger::BallotLedger, opener::Opener};
use crate::{checks::Wrong, record::Record};

impl Record {
    /// Records what happens to a ballot, and the violation if there is one.
    fn ballot(&self, happens: impl FnOnce(&mut BallotLedger, Duration) -> Result<(), Wrong>) {
        self.check(|notes| happens(&mut notes.ballots, notes.now));
    }
}
