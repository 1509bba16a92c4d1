//! The schedules of a run: a client sets them at any coordinator, suspends and removes some, and starts a run by hand,
//! while faults replace the leader that fires them and wall clocks jump. A minute of the wall clocks begins while there are
//! faults, so each schedule is due then, if the clocks are right.

mod draft;
mod ledger;
mod report;
mod timekeeper;

pub use self::{ledger::ScheduleLedger, report::Report, timekeeper::Timekeeper};
use crate::{checks::Wrong, record::Record};

/// The time between two moments at which a schedule is due, in milliseconds.
const MINUTE: u64 = 60_000;

impl Record {
    /// Records what happens to a schedule, and the violation if there is one.
    fn schedule(&self, happens: impl FnOnce(&mut ScheduleLedger) -> Result<(), Wrong>) {
        self.check(|notes| happens(&mut notes.schedules));
    }
}
