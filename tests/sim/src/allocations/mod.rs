//! The resource pool of a run: every agent contributes, and a client asks for parts of it at any coordinator, renews
//! some leases, and releases what it has or forgets it.

mod borrower;
mod draft;
mod ledger;

use std::time::Duration;

pub use self::{borrower::Borrower, ledger::AllocationLedger};
use crate::{checks::Wrong, record::Record};

impl Record {
    /// Records what happens to an allocation, and the violation if there is one.
    fn allocation(&self, happens: impl FnOnce(&mut AllocationLedger, Duration) -> Result<(), Wrong>) {
        self.check(|notes| happens(&mut notes.allocations, notes.now));
    }
}
