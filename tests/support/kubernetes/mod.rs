//! Robeing on a real Kubernetes, as a user has it: charts installed by helm, manifests applied by kubectl, tasks submitted
//! through a forwarded port. Knows how to wait and to look; what is to be seen is the test's affair.

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
