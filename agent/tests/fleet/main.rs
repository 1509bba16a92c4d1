//! Three coordinators in one process, on paused time, with disks that are slow or hang.

mod fleet;
mod gaps;
mod host_network;
mod leader_loss;
mod slow_disks;
