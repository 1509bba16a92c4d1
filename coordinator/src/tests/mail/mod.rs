//! Messages through the coordinators.

mod broadcasts;
mod inboxes;
mod letters;
pub mod mailbox;
mod resolving;
mod security;
