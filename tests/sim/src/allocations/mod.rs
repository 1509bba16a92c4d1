//! The resource pool of a run: every agent contributes. A client asks for parts of it at any coordinator, renews some
//! leases, and releases what it has or forgets it; another one submits tasks that need resources. Some of both are from
//! a queue with a quota.

mod borrower;
mod draft;
mod ledger;
mod needs;
mod tenant;

use std::time::Duration;

pub use self::{borrower::Borrower, ledger::AllocationLedger, needs::NeedsLedger, tenant::Tenant};
use crate::{checks::Wrong, record::Record};

impl Record {
    /// Records what happens to an allocation, and the violation if there is one.
    fn allocation(&self, happens: impl FnOnce(&mut AllocationLedger, Duration) -> Result<(), Wrong>) {
        self.check(|notes| happens(&mut notes.allocations, notes.now));
    }
}
