//! The operator as a process before a real API server that is made to fail: a control plane without nodes, a way to it that
//! records every request and can be cut at any of them, and objects reduced to what must be equal. It knows no part of the
//! operator itself, only its program and what it asks of the API server. And what the operator costs, with many fleets.

pub mod bench;
mod control_plane;
mod essence;
mod requests;

pub use control_plane::{ControlPlane, Operator, OperatorSettings, until};
pub use essence::{Essence, essence, status_essence};
pub use requests::{Call, Failure, Requests, Sort, When};
