//! Queries about the fleet itself.

use crate::{Fleet, FleetConfig, FleetMillis, Stamp, Totals};

impl Fleet {
    /// Returns the revision, which every change of a task or an agent raises, and so do setting pools, configuring
    /// identities, barring or releasing an agent, and changing the identity of a known agent. Equal revisions of one log mean equal tasks and agents.
    pub fn revision(&self) -> u64 {
        self.state.revision
    }

    /// Returns the latest fleet time seen and the wall time of the newest command.
    pub fn now(&self) -> Stamp {
        self.state.now
    }

    /// Returns the fleet version in force.
    pub fn version(&self) -> u32 {
        self.state.version
    }

    /// Returns the configuration in force.
    pub fn config(&self) -> &FleetConfig {
        &self.state.config
    }

    /// Returns the totals since the fleet was created.
    pub fn totals(&self) -> &Totals {
        &self.state.totals
    }

    /// Returns when the next timer is due. This is in the past if the last command could not fire all due timers.
    pub fn next_due(&self) -> Option<FleetMillis> {
        self.indexes.timers.next_due()
    }
}
