//! Runs the shipped coordinator and agent code on a simulated network, clock and disk, under faults that a seed
//! determines, and checks the fleet's invariants in every run. Running a seed again does exactly the same, if each run
//! is a process of its own.

mod allocations;
mod ballots;
mod calls;
mod checks;
mod clients;
mod clocks;
mod customers;
mod damage;
mod executor;
mod faults;
mod graphs;
mod history;
mod hosts;
mod listener;
mod lives;
mod mail;
mod network;
mod operator;
mod plan;
mod process;
mod profile;
mod queued;
mod record;
mod results;
mod running;
mod sabotage;
mod schedules;
mod state;
mod tasks;
mod teams;
mod time;
mod timed;
mod verified;
mod watcher;
mod wire;
mod world;

pub use checks::PROMISES;
pub use faults::Hard;
pub use sabotage::{Sabotage, Selection};
pub use world::run;
