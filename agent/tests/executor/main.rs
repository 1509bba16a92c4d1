//! Executors with real processes and real HTTP servers on loopback.
#![allow(missing_docs)]

mod batches;
mod cgroups;
mod command;
mod fixture;
mod guard;
mod health;
mod http;
mod late_output;
mod lines;
mod orphans;
mod python;
mod shortage;
mod stopping;
mod suspending;
mod terminal;
mod worker;
