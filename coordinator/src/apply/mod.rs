//! Handles the effects of applied commands.

pub mod observer;
pub mod result_stream;
pub mod waiters;
