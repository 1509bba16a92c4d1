//! The code that the test suites share: fleets of real processes that can be killed and frozen, tasks that are shell
//! scripts, a recorded history with its checks, what surrounds a fleet (a proxy that partitions agents, a scripted
//! agent, a thief of its authority), Robeing on Kubernetes, the operator against an API server that fails, an example,
//! the demo and the benchmarks. See the modules.

pub mod attached;
pub mod bench;
pub mod counter;
pub mod demo;
pub mod documented;
pub mod fleet;
pub mod history;
pub mod kubernetes;
pub mod load;
pub mod local_fleet;
pub mod operator;
pub mod ports;
pub mod processes;
pub mod program;
pub mod proxy;
pub mod raw_call;
pub mod review;
pub mod script;
pub mod scripted_agent;
pub mod terminal;
pub mod thief;
pub mod wait;
