//! Messages through the coordinators.

mod broadcasts;
mod inboxes;
mod letters;
mod mailbox;
mod resolving;
mod security;
