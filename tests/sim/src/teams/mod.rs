//! The teams of a run: a client forms them at any coordinator, reads them while faults replace members and leaders, and
//! disbands some.

mod draft;
mod former;
mod ledger;

use self::ledger::Wrong;
pub use self::{former::Former, ledger::TeamLedger};
use crate::record::Record;

impl Record {
    /// Records what happens to a team, and the violation if there is one.
    fn team(&self, happens: impl FnOnce(&mut TeamLedger) -> Result<(), Wrong>) {
        let wrong = happens(&mut self.notes().teams).err();
        if let Some((check, what)) = wrong {
            self.violation(check, what);
        }
    }
}
