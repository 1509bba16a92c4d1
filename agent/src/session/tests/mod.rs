//! The session against a scripted coordinator, over an in-process network and on paused time.

mod attempts;
mod draining;
mod health;
mod lease;
mod logs;
mod presence;
mod progress;
mod resume;
mod script;
mod search;
