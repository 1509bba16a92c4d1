//! What follows from what was applied.

pub mod observer;
pub mod result_stream;
