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

use self::ledger::Wrong;
pub use self::{agent::answer, applicant::Applicant, ledger::BallotLedger, opener::Opener};
use crate::record::Record;

impl Record {
    /// Records what happens to a ballot, and the violation if there is one.
    fn ballot(&self, happens: impl FnOnce(&mut BallotLedger, Duration) -> Result<(), Wrong>) {
        let wrong = {
            let mut notes = self.notes();
            let now = notes.now;
            happens(&mut notes.ballots, now).err()
        };
        if let Some((check, what)) = wrong {
            self.violation(check, what);
        }
    }
}
