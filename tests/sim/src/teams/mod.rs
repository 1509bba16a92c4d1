//! The teams of a run: a client forms them at any coordinator, reads them while faults replace members and leaders, and
//! disbands some. Another one addresses tasks to them.

mod delegator;
mod draft;
mod former;
mod ledger;
mod orders;

pub use self::{delegator::Delegator, former::Former, ledger::TeamLedger};
use crate::{checks::Wrong, record::Record};

impl Record {
    /// Records what happens to a team, and the violation if there is one.
    fn team(&self, happens: impl FnOnce(&mut TeamLedger) -> Result<(), Wrong>) {
        self.check(|notes| happens(&mut notes.teams));
    }
}
