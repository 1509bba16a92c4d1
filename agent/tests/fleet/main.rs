//! The shipped coordinators and agents in one process: on paused time, with disks that are slow or hang, and in real
//! time, with wrong wall clocks.

mod clocks;
mod fleet;
mod gaps;
mod leader_loss;
mod slow_disks;
