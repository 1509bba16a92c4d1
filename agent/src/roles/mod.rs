//! What agents of certain roles do besides tasks.

pub mod messenger;
