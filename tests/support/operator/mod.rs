//! The operator as a process with a real API server that fails on demand: a control plane without nodes, a proxy to it
//! that records every request and can fail at any of them, and objects reduced to what must be equal. This code knows
//! nothing of the operator but its program and its requests to the API server. Also measures what the operator costs
//! with many fleets.

pub mod bench;
mod control_plane;
mod essence;
mod requests;

pub use control_plane::{ControlPlane, Operator, OperatorSettings, until};
pub use essence::{Essence, essence, status_essence};
pub use requests::{Call, Failure, Requests, Sort, When};
