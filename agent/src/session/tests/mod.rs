//! The session against a coordinator that follows a script, over a network within the process and on paused time.

mod attempts;
mod draining;
mod lease;
mod network;
mod presence;
mod resume;
mod script;
mod search;
