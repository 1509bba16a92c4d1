//! Robeing on a real Kubernetes, used as a user does: helm installs the charts, kubectl applies the manifests, and
//! tasks are submitted through a forwarded port. These modules wait for and read the state; the tests decide what it
//! must be.

mod charts;
mod deployed;
mod events;
mod forwards;
mod image;
mod processes;
mod rules;
mod work;

pub use charts::{SYSTEM, install, reconfigure, uninstall};
pub use deployed::{CLUSTER, COUNT, Deployed, NAMESPACE, PATIENCE, POOL, settled, states, step, whole};
pub use events::Mark;
pub use forwards::Forwards;
pub use image::{FIRST, IMAGE_VARIABLE, MISSING, SECOND, USERLAND, WORKER, WORKERLAND, archive, write_userland};
pub use processes::{kill_program_of, pids_of};
pub use rules::{Refused, later_changes, refused};
pub use work::{Exercise, KIND, Running, exercises, exercises_of, under_load};
