//! The gRPC services, and the conversion of the state to API messages.

pub mod activity;
pub mod admin;
pub mod answers;
pub mod ballots;
pub mod cancels;
pub mod convert;
pub mod directory;
pub mod errors;
pub mod flags;
pub mod fleet;
pub mod guards;
pub mod logs;
pub mod mailbox;
pub mod messages;
pub mod preparing;
pub mod raft;
pub mod resources;
pub mod session;
pub mod submissions;
pub mod teams;
pub mod trust;
pub mod waiting;
pub mod watches;
