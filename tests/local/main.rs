//! Fleets of real processes on this machine, without Kubernetes: users, administrators, faults and hostile clients act
//! on them. There is a module for each topic.

mod admin;
mod batches;
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
mod gateway;
mod guardian;
mod health;
mod hostile;
mod identity;
mod many_slots;
mod messages;
mod observability;
mod overload;
mod pbft;
mod preference;
mod refusals;
mod roles;
mod rotation;
mod starved;
mod takeover;
mod tasks;
mod traces;
mod upgrade;
mod votes;
mod workers;
