//! Graphs of tasks, which depend on others, are split into parts, or ask for subtasks. What an attempt does is in its
//! input, so that the checks know what it gives, and what the attempts at other tasks are given.

mod draft;
mod ledger;
mod organizer;
mod work;

pub use self::{ledger::GraphLedger, organizer::Organizer, work::Piece};
