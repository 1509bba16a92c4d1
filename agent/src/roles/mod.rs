//! What agents do besides running tasks, by their roles.

pub mod guardian;
pub mod messenger;
