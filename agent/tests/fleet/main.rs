//! Coordinators and agents as they are shipped, in one process: on paused time, with disks that are slow or hang, and in real
//! time, with wall clocks that are wrong.

mod clocks;
mod fleet;
mod gaps;
mod leader_loss;
mod slow_disks;
