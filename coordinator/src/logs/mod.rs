//! The lines and the progress of attempts, for those who follow them. Agents keep both, and send the leader what is new of
//! an attempt while somebody follows it; nothing of it is in the log of the coordinators.
//!
//! - [`kept`]: what the leader keeps of the attempts that are followed, or were lately.
//! - [`here`]: follows an attempt at the leader, and asks its agent.
//! - [`source`]: follows an attempt at whichever coordinator leads.
//! - [`task`]: follows a task, from attempt to attempt, at any coordinator.
//! - [`progress`]: adds the progress of tasks to a watch.

pub mod here;
pub mod kept;
pub mod progress;
pub mod source;
pub mod task;

pub use self::{here::LeaderLogs, kept::KeptLogs, task::TaskLogs};
