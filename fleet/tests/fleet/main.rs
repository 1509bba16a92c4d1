//! Tests of the state machine through its public API, in one test binary.

mod attempts;
mod audit_log;
mod bars;
mod codec;
mod directory;
mod fixture;
mod histories;
mod history;
mod identity;
mod letters;
mod life;
mod limits;
mod mail;
mod naive;
mod ops;
mod policies;
mod pools;
mod queries;
mod recovery;
mod samples;
mod scheduling;
mod sessions;
mod standby;
mod submission;
mod timers;
mod trust;
