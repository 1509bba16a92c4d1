//! Fleets of real processes on this machine, without Kubernetes: what users, operators of fleets, faults and strangers do to
//! them. A module for each theme.

mod admin;
mod cli;
mod commands;
mod compose;
mod coordinators;
mod damage;
mod dev;
mod disturbed;
mod docs;
mod drain;
mod edges;
mod firewall;
mod formats;
mod health;
mod hostile;
mod many_slots;
mod observability;
mod overload;
mod preference;
mod takeover;
mod tasks;
mod traces;
mod upgrade;
mod workers;
