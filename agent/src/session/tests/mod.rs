//! The session against a coordinator that follows a script, over a network within the process and on paused time.

mod attempts;
mod draining;
mod health;
mod lease;
mod presence;
mod resume;
mod script;
mod search;
