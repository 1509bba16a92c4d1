//! Robeing on a real Kubernetes, as a user has it: charts installed by helm, manifests applied by kubectl, tasks submitted
//! through a forwarded port. Knows how to wait and to look; what is to be seen is the test's affair.

mod deployed;
mod forwards;
mod image;
mod rules;
mod work;

pub use deployed::{CLUSTER, Deployed, Mark, NAMESPACE, PATIENCE, POOL, SYSTEM, settled, states};
pub use forwards::Forwards;
pub use image::{FIRST, IMAGE_VARIABLE, MISSING, SECOND, USERLAND};
pub use rules::{Refused, later_changes, refused};
pub use work::{Running, exercises};
