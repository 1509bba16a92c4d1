//! Reads of the fleet itself.

use crate::{Fleet, FleetConfig, FleetMillis, Stamp, Totals};

impl Fleet {
    /// Raised by every change of a task or an agent; equal revisions of one log mean equal tasks and agents.
    pub fn revision(&self) -> u64 {
        self.state.revision
    }

    /// The latest fleet time seen, and the wall time that came with the newest command.
    pub fn now(&self) -> Stamp {
        self.state.now
    }

    /// Which version of its behaviour is in force.
    pub fn version(&self) -> u32 {
        self.state.version
    }

    /// The configuration in force.
    pub fn config(&self) -> &FleetConfig {
        &self.state.config
    }

    /// Sums since the fleet began.
    pub fn totals(&self) -> &Totals {
        &self.state.totals
    }

    /// When the next timer is due; in the past if one command could not fire all that was.
    pub fn next_due(&self) -> Option<FleetMillis> {
        self.indexes.timers.next_due()
    }
}
