//! The resource pool of a run: every agent contributes, and a client asks for parts of it at any coordinator, renews
//! some leases, and releases what it has or forgets it.

mod borrower;
mod draft;
mod ledger;

use std::time::Duration;

use self::ledger::Wrong;
pub use self::{borrower::Borrower, ledger::AllocationLedger};
use crate::record::Record;

impl Record {
    /// Records what happens to an allocation, and the violation if there is one.
    fn allocation(&self, happens: impl FnOnce(&mut AllocationLedger, Duration) -> Result<(), Wrong>) {
        let wrong = {
            let mut notes = self.notes();
            let now = notes.now;
            happens(&mut notes.allocations, now).err()
        };
        if let Some((check, what)) = wrong {
            self.violation(check, what);
        }
    }
}
