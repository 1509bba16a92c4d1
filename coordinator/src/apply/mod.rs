//! What follows from what was applied.

pub mod observer;
